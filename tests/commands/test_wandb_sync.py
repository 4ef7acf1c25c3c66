from __future__ import annotations

from mpt.commands.wandb_sync import recordings
from tests.console import command
from tests.run.test_status import make_finished, make_run


def write_recording(directory, *times, synced=False):
    for time in times:
        folder = directory / "wandb" / f"offline-run-{time}-abc"
        folder.mkdir(parents=True)
        (folder / "run-abc.wandb").write_bytes(b"")
        if synced:
            (folder / "run-abc.wandb.synced").write_bytes(b"")


def test_the_last_recording_of_each_finished_run_is_sent_once(tmp_path):
    write_recording(make_finished(tmp_path, "done"), "20260101_1", "20260102_1")
    write_recording(make_finished(tmp_path, "sent"), "20260101_1", synced=True)
    write_recording(make_run(tmp_path, "failed", result={"status": "failed"}), "20260101_1")
    write_recording(make_run(tmp_path, "cut"), "20260101_1")
    make_finished(tmp_path, "local")
    assert recordings(tmp_path) == [tmp_path / "done" / "wandb" / "offline-run-20260102_1-abc"]
    offline = {"WANDB_API_KEY": "", "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    refused = command("wandb", "sync", str(tmp_path), cwd=tmp_path, check=False, environment=offline)
    assert "holds 1 run to send" in refused.stderr
    assert "wandb login" in refused.stderr


def test_a_folder_with_nothing_to_send_is_refused(tmp_path):
    assert "holds no finished run" in command("wandb", "sync", str(tmp_path), cwd=tmp_path, check=False).stderr
    assert "mpt-wandb sync DIR, got push" in command("wandb", "push", cwd=tmp_path, check=False).stderr
