"""The cache of objects: used, checked, never fatal."""

from __future__ import annotations

import pytest
import torch

import mpt
from mpt.engine import objects, unrolled
from mpt.engine.code import Machine
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
    monkeypatch.setattr(unrolled, "PATIENCE", 0.001)
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
