from __future__ import annotations

import os
import platform
import subprocess
import sys
import time

import pytest

from mpt.files import read_object, replacing, write_atomically

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


@pytest.mark.parametrize("content", [None, "", "[1]", "{", "\xff"])
def test_a_file_without_a_json_object_is_read_as_an_empty_one(tmp_path, content):
    if content is not None:
        (tmp_path / "x").write_text(content)
    assert read_object(tmp_path / "x") == {}
    (tmp_path / "x").write_text('{"a": 1}')
    assert read_object(tmp_path / "x") == {"a": 1}
