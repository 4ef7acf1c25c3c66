"""BokehJS in a page: whole, equal each time, and small enough."""

from __future__ import annotations

import base64
import gzip
import importlib.util

import pytest

from mpt.pages import library


def unpack(text):
    return gzip.decompress(base64.b64decode(text)).decode()


def test_the_library_is_whole_and_takes_half_a_megabyte():
    text = unpack(library.packed_library())
    assert "Copyright (c) Anaconda, Inc., and Bokeh Contributors" in text
    assert "</script" not in library.packed_library()
    assert 200_000 < len(library.packed_library()) < 600_000


def test_equal_texts_are_packed_equally():
    assert library.pack_text("x" * 100) == library.pack_text("x" * 100)
    assert unpack(library.pack_text("ä</script>")) == "ä</script>"


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(library, "find_spec", lambda name: None if name == "bokeh" else find(name))
    with pytest.raises(ValueError, match=r"a page needs bokeh: pip install 'multiprize\[pages\]'"):
        library.check_installed()
