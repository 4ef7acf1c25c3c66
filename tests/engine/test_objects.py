"""The cache of objects: used, checked, never fatal."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

import mpt
from mpt.engine import objects, unrolled
from mpt.engine.code import Machine
from mpt.engine.encode import RETURN
from tests.engine.networks import ticket


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MPT_CACHE", str(tmp_path / "objects"))
    return tmp_path / "objects"


def small():
    return ticket(mpt.backbones.conv2(width=0.1, image_size=8))


def test_the_second_time_nothing_is_compiled(cache, monkeypatch):
    found, images = small(), torch.randn(2, 3, 8, 8)
    first = mpt.compile(found, unroll=True)(images)
    for name in ("optimised", "straight"):
        monkeypatch.setattr(objects, name, lambda *_: pytest.fail("compiled"))
    assert torch.equal(mpt.compile(found, unroll=True)(images), first)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", [lambda x: x[:-1], lambda x: x[:40] + b"!" + x[41:], lambda x: b"", lambda x: x[:33]]
)
def test_a_damaged_object_is_made_again(cache, damage):
    found, images = small(), torch.randn(2, 3, 8, 8)
    first = mpt.compile(found, unroll=True)(images)
    whole = {path: path.read_bytes() for path in cache.iterdir()}
    assert len(whole) >= 2
    for path, content in whole.items():
        path.write_bytes(damage(content))
    assert torch.equal(mpt.compile(found, unroll=True)(images), first)
    assert {path: path.read_bytes() for path in cache.iterdir()} == whole


def test_a_cache_that_cannot_be_written_to_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MPT_CACHE", str(tmp_path / "file" / "objects"))
    assert mpt.compile(small(), unroll=True)(torch.randn(1, 3, 8, 8)).shape == (1, 10)


def test_another_machine_or_content_has_another_object(cache):
    host, narrow = Machine.host(), Machine.host(lanes=4)
    objects.keep(b"key", host, b"content")
    assert objects.kept(b"key", host) == b"content"
    assert objects.kept(b"other", host) is None
    assert host == narrow or objects.kept(b"key", narrow) is None


def test_above_its_limit_the_cache_drops_what_was_not_used_for_the_longest_time(cache, monkeypatch):
    host = Machine.host()

    def keep(key, *, age, size=1000):
        before = {*cache.glob("*.o")}
        objects.keep(key, host, key * size)
        (path,) = {*cache.glob("*.o")} - before
        os.utime(path, (time.time() - age,) * 2)
        return path.stat().st_size

    def kept():
        return [key for key in (b"a", b"b", b"c", b"d", b"e") if objects._path(key, host).exists()]

    sizes = [keep(key, age=age) for key, age in ((b"a", 400), (b"b", 300), (b"c", 200))]
    (cache / "mine.o").write_bytes(b"x" * 5000)
    monkeypatch.setattr(objects, "LIMIT", sum(sizes))
    assert objects.kept(b"a", host) == b"a" * 1000  # used now
    keep(b"d", age=0)
    assert kept() == [b"a", b"c", b"d"]
    keep(b"e", age=0, size=5000)  # more than the limit
    assert kept() == [b"e"]
    assert (cache / "mine.o").exists()  # a file of the user's


def test_nothing_is_written_for_a_ticket_that_is_refused(cache):
    with pytest.raises(ValueError, match="image_size"):
        mpt.compile(ticket(mpt.backbones.cifar_resnet20(width=0.25)))
    assert not cache.exists()


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("MPT_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert objects.directory() == tmp_path / "mpt"


def test_a_long_build_is_announced_before_it_starts(cache, monkeypatch, capsys):
    monkeypatch.setattr(unrolled, "PATIENCE", 1e-9)
    found = small()
    mpt.compile(found, unroll=True)
    assert "unrolling" in capsys.readouterr().err
    mpt.compile(found, unroll=True)
    assert capsys.readouterr().err == ""


def test_a_damaged_object_is_named(cache, capsys):
    host = Machine.host()
    objects.keep(b"key", host, b"content" * 100)
    (path,) = cache.iterdir()
    path.write_bytes(path.read_bytes().replace(b"tent", b"temt", 1))
    assert objects.kept(b"key", host) is None
    assert capsys.readouterr().err.startswith(f"{path} does not match its digest")


def test_encoded_code_is_there_once_and_cannot_be_written_to():
    machine = Machine.host()
    if not machine.encoded:
        pytest.skip("LLVM makes unrolled code here")
    made = objects.encoded([("first", RETURN), ("second", 70 * b"\x90" + RETURN), ("third", RETURN)])
    library = objects.Library([made], machine)
    library.function("second")()
    assert [library.address(name) - library.address("first") for name in ("second", "third")] == [64, 192]
    maps = [line.split()[:2] for line in Path("/proc/self/maps").read_text().splitlines()]
    ranges = [(*(int(end, 16) for end in ends.split("-")), rights) for ends, rights in maps]
    [rights] = [rights for start, stop, rights in ranges if start <= library.address("first") < stop]
    assert rights == "r-xp"


@pytest.mark.parametrize("size", [0, 1, 5 << 20])
def test_memory_in_large_pages_is_nought_and_can_be_written_to(size, monkeypatch):
    for known in (True, False):
        if not known:
            monkeypatch.delattr(objects.mmap, "MADV_HUGEPAGE", raising=False)
        memory = objects.large_pages(size)
        assert len(memory) == max(size, 1)
        assert not any(memory[:: max(1, size // 97)])
        memory[-1] = 7
        assert memory[-1] == 7
