from __future__ import annotations

import pytest
import torch

from tests.console import SMALL, command


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU; tests/test_cuda.py records steps")
def test_what_a_recorded_step_needs_is_said_before_anything_is_written(tmp_path):
    done = command("train", *SMALL, "trainer.graph=true", "runs=runs", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "trainer.graph=true needs a CUDA GPU" in done.stderr
    assert not (tmp_path / "runs").exists()
