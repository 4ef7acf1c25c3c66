from __future__ import annotations

import pytest

from tests.experiment.conftest import SMALL, command, row_of


@pytest.mark.slow
def test_wandb_offline_records_one_finished_run_with_group_config_and_ticket(tmp_path):
    group = ["logger=wandb", "logger.group=curves", "logger.tags=[a,b]"]
    command("train", *SMALL, *group, "hydra.run.dir=run", cwd=tmp_path)
    recorded = list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(recorded) == 1
    content = recorded[0].read_bytes()
    for expected in (b"curves", b"test/acc", b"ticket/density", b"test_acc_max", b"score_grad", b"ticket"):
        assert expected in content
    assert not (tmp_path / "wandb").exists()
    assert row_of(tmp_path / "run")["status"] == "done"


@pytest.mark.slow
def test_tensorboard_writes_its_events_into_the_run(tmp_path):
    command("train", *SMALL, "logger=tensorboard", "hydra.run.dir=run", cwd=tmp_path)
    events = list((tmp_path / "run" / "tensorboard").glob("events.*"))
    assert len(events) == 1
    assert b"test/acc" in events[0].read_bytes()
