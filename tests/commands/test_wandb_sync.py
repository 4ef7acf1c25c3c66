from __future__ import annotations

from mpt.commands.wandb_sync import recordings
from tests.console import command
from tests.run.test_status import made


def recorded(directory, *times, synced=False):
    for time in times:
        folder = directory / "wandb" / f"offline-run-{time}-abc"
        folder.mkdir(parents=True)
        (folder / "run-abc.wandb").write_bytes(b"")
        if synced:
            (folder / "run-abc.wandb.synced").write_bytes(b"")


def test_the_last_recording_of_each_finished_run_is_sent_once(tmp_path):
    recorded(made(tmp_path, "done", row={"status": "done"}, ticket=True), "20260101_1", "20260102_1")
    recorded(made(tmp_path, "sent", row={"status": "done"}, ticket=True), "20260101_1", synced=True)
    recorded(made(tmp_path, "failed", row={"status": "failed"}), "20260101_1")
    recorded(made(tmp_path, "cut"), "20260101_1")
    made(tmp_path, "local", row={"status": "done"}, ticket=True)
    assert recordings(tmp_path) == [tmp_path / "done" / "wandb" / "offline-run-20260102_1-abc"]
    offline = {"WANDB_API_KEY": "", "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    refused = command("wandb", "sync", str(tmp_path), cwd=tmp_path, check=False, environment=offline)
    assert "1 runs wait in" in refused.stderr
    assert "wandb login" in refused.stderr


def test_nothing_to_send_is_said(tmp_path):
    assert "holds no finished run" in command("wandb", "sync", str(tmp_path), cwd=tmp_path, check=False).stderr
    assert "usage: mpt-wandb sync DIR" in command("wandb", "push", cwd=tmp_path, check=False).stderr
