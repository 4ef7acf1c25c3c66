"""Altered files are read without an import, a call or another open file, and end in one sentence: see tests/fuzz.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("headers", 2000),
        ("bytes", 2000),
        *(
            (f"runs/{name}", 500)
            for name in ("result.json", "config.yaml", "metrics.jsonl", "report.json", "sweep.json")
        ),
        ("cache", 500),
    ],
)
def test_altered_files_run_nothing_open_nothing_else_and_end_in_one_sentence(kind, count):
    command = [sys.executable, "-m", "tests.fuzz", kind, str(count), str(count)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert done.stdout.startswith(f"{kind}: 0 of {count} failed")
