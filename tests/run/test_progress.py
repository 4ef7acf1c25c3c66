from __future__ import annotations

import os

from mpt.run import status
from mpt.run.config import write_config
from mpt.run.progress import finished_epochs
from mpt.run.settings import plain
from tests.console import compose


def test_a_run_resumes_after_the_epoch_of_its_checkpoint(tmp_path):
    assert status.describe_interruption(tmp_path, 9).startswith(" before the end of epoch 1 of 9")
    for name, seconds in (("metrics.jsonl", 20), ("last.ckpt", 10)):
        (tmp_path / name).write_text("{}\n{}\n")
        os.utime(tmp_path / name, (seconds, seconds))
    assert status.describe_interruption(tmp_path, 9) == " after epoch 1 of 9: the same command continues"
    os.utime(tmp_path / "last.ckpt", (30, 30))
    assert finished_epochs(tmp_path) == 2


def test_a_run_with_fewer_checkpoints_resumes_after_the_last_of_them(tmp_path):
    write_config(tmp_path, plain(compose("data=digits", "trainer.checkpoint_every=3")))
    for name, seconds in (("metrics.jsonl", 20), ("last.ckpt", 10)):
        (tmp_path / name).write_text("{}\n" * 8)
        os.utime(tmp_path / name, (seconds, seconds))
    assert finished_epochs(tmp_path) == 6
