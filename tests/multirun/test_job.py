from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from mpt.multirun import job as jobs
from mpt.signals import Interrupted
from tests.console import compose


@pytest.fixture
def hydra():
    """What a job reads of Hydra's configuration."""
    return SimpleNamespace(
        sweeper={"started": 1.0}, overrides=SimpleNamespace(task=["seed=0"]), launcher={"_target_": "Submitit"}
    )


@pytest.mark.parametrize(
    ("signum", "status", "handled"), [(signal.SIGUSR2, -1, [signal.SIGUSR2]), (signal.SIGTERM, 143, [])]
)
def test_a_job_that_is_interrupted_ends_as_its_launcher_ends_it(
    tmp_path, monkeypatch, capsys, hydra, signum, status, handled
):
    def interrupt(*arguments):
        raise Interrupted(signum)

    seen = []

    def put_back(number, frame):  # as submitit, which puts the job into the queue again
        seen.append(number)
        raise SystemExit(-1)

    monkeypatch.setattr(jobs, "_attempt", interrupt)
    before = signal.signal(signal.SIGUSR2, put_back)
    try:
        with pytest.raises(SystemExit) as ended:
            jobs.job(compose("epochs=9"), Path(tmp_path / "run"), hydra)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert (ended.value.code, seen) == (status, handled)
    assert "run: interrupted before the end of epoch 1 of 9" in capsys.readouterr().err
