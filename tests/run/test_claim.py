from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
import time

import pytest

from mpt.run.claim import ClaimedError, hold_claim, holder, is_claimed

HOLD = "import sys, time; from pathlib import Path; from mpt.run.claim import hold_claim\n"
HOLD += "with hold_claim(Path(sys.argv[1])): print('mine', flush=True); time.sleep(60)"


def test_one_process_at_a_time_and_nothing_is_left(tmp_path):
    directory = tmp_path / "runs" / "one"
    with hold_claim(directory):
        assert is_claimed(directory)
        with pytest.raises(ClaimedError, match="another command is running"), hold_claim(directory):
            pass
    assert not is_claimed(directory)
    assert not (tmp_path / "runs").exists()


def test_other_files_stay(tmp_path):
    (tmp_path / "row").write_text("kept")
    with hold_claim(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["row"]


def test_the_claim_of_a_killed_process_lapses(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"mine\n"
    assert holder(tmp_path / "run")["pid"] == other.pid
    with pytest.raises(ClaimedError, match=f"process {other.pid} on "), hold_claim(tmp_path / "run"):
        pass
    other.kill()
    other.wait()
    other.stdout.close()
    assert not is_claimed(tmp_path / "run")
    with hold_claim(tmp_path / "run"):
        pass


def test_looking_at_a_claim_does_not_stop_another_process_from_taking_it(tmp_path):
    code = "import sys; from pathlib import Path; from mpt.run.claim import is_claimed\n"
    code += "print('go', flush=True)\nwhile True: is_claimed(Path(sys.argv[1]))"
    (tmp_path / "claim").write_text("")
    looker = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
    assert looker.stdout is not None
    looker.stdout.readline()
    try:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            with hold_claim(tmp_path):
                pass
    finally:
        looker.kill()
        looker.wait()
        looker.stdout.close()


def test_a_file_system_without_locks_is_named_and_nothing_is_left(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(
            ValueError,
            match=r"run cannot be locked \(No locks available\): choose a folder on a file system with locks",
        ),
        hold_claim(tmp_path / "new" / "run"),
    ):
        pass
    assert not (tmp_path / "new").exists()


def test_a_lock_of_another_name_claims_no_run(tmp_path):
    with hold_claim(tmp_path, name=".listing"):
        assert not is_claimed(tmp_path)
        with hold_claim(tmp_path):
            assert is_claimed(tmp_path)
    assert not list(tmp_path.iterdir())
