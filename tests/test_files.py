from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpt.errors import sentence
from mpt.files import DamagedError, check_seal, checksum, kind_of, read_sealed, replacing, write_atomically

KILLED = """
import os, sys
from mpt.files import replacing
with replacing(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), 9)
"""


def test_a_failed_write_keeps_the_old_file_and_leaves_no_part(tmp_path):
    path = tmp_path / "a"
    write_atomically(path, "old")
    with pytest.raises(TypeError), replacing(path) as file:
        file.write("not bytes")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "old")]


def test_the_next_write_removes_the_part_of_a_killed_one(tmp_path):
    path = tmp_path / "a[1].json"
    subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    assert len(list(tmp_path.glob("*.part"))) == 1
    write_atomically(path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a[1].json", "new")]


def test_parts_of_running_writers_other_machines_and_other_files_are_kept(tmp_path):
    here, running = platform.node(), os.getppid()
    kept = [f"a.{here}.{running}.part", "a.elsewhere.1.part", "b.elsewhere.1.part", f"ab.{here}.999999999.part"]
    for name in (*kept, "a.elsewhere.2.part"):
        (tmp_path / name).write_text("half")
    old = time.time() - 2 * 86_400
    os.utime(tmp_path / "a.elsewhere.2.part", (old, old))
    write_atomically(tmp_path / "a", "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, "a"])


def test_what_is_no_regular_file_is_written_to_and_a_link_keeps_its_place(tmp_path):
    write_atomically(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    (tmp_path / "null").symlink_to("/dev/null")
    for path in (tmp_path / "null", "/dev/null"):
        write_atomically(path, "nothing")
    assert Path("/dev/null").is_char_device()
    assert {p.name for p in tmp_path.iterdir()} == {"real", "link", "null"}


def test_a_link_to_a_file_that_is_not_there_yet_makes_that_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/x")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "folder" / "x").read_text() == "new"


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_keeps_what_is_printed_before_and_after(tmp_path, name):
    code = f"from mpt.files import write_atomically as w; print('a'); w({name!r}, 'b\\n'); print('c')"
    piped = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    with (tmp_path / "out").open("w") as file:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=file)
    assert piped.stdout == (tmp_path / "out").read_text() == "a\nb\nc\n"


def test_a_flipped_bit_anywhere_in_a_sealed_file_is_noticed_and_so_is_a_missing_end(tmp_path):
    path = tmp_path / "a"
    write_atomically(path, b"content" * 30, seal=True)
    assert read_sealed(path) == b"content" * 30
    whole = path.read_bytes()
    for at in range(8 * len(whole)):
        altered = bytearray(whole)
        altered[at // 8] ^= 1 << at % 8
        path.write_bytes(altered)
        with pytest.raises(DamagedError, match=r"does not match its digest|has no digest"):
            read_sealed(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedError):
            check_seal(path)


def test_a_sealed_file_of_many_parts_has_the_digest_of_its_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("mpt.files._PART", 10)
    with replacing(tmp_path / "a", seal=True) as file:
        file.write(b"0123456789" * 7)
        file.write(b"rest")
    assert read_sealed(tmp_path / "a") == b"0123456789" * 7 + b"rest"
    whole = bytearray((tmp_path / "a").read_bytes())
    whole[:10], whole[15] = b"0123456789", 0
    (tmp_path / "a").write_bytes(whole)
    with pytest.raises(DamagedError):
        check_seal(tmp_path / "a")


def test_a_missing_or_unreadable_file_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        check_seal(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError):
        check_seal(tmp_path)


def test_a_checksum_is_that_of_the_whole_file(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 100)
    before = checksum(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"x" * 99 + b"y")
    assert (len(before), checksum(tmp_path / "a") != before) == (32, True)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
        (b"PK\x03\x04rest", "a PyTorch checkpoint"),
        (b"\x80\x02}", "a pickle"),
        (b"\x89PNG\r\n", "a picture"),
        (b"\x10\x05\0\0\0\0\0\0{", "a safetensors file"),
        (b"<html>", "a web page"),
    ],
)
def test_the_first_bytes_say_what_a_file_is(tmp_path, start, words):
    (tmp_path / "x").write_bytes(start)
    assert words in str(kind_of(tmp_path / "x"))


def test_first_bytes_that_say_nothing_are_no_kind(tmp_path):
    (tmp_path / "x").write_bytes(b"anything")
    assert kind_of(tmp_path / "x") is None


def test_a_full_disk_is_said_with_the_file_and_what_to_do(tmp_path):
    with pytest.raises(OSError) as caught, replacing(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert sentence(caught.value).startswith(
        f"{tmp_path / 'x'}: No space left on device: free some space and repeat the command"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_has_no_seal_and_is_not_waited_for(tmp_path, make):
    make(tmp_path / "x")
    with pytest.raises(DamagedError, match="/x is not a regular file"):
        check_seal(tmp_path / "x")
