"""BokehJS, which draws the charts, from the Python package of Bokeh; packed, it takes half a megabyte of a page."""

from __future__ import annotations

import base64
import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from mpt.files import DISTRIBUTION

NEEDED = ("bokeh", "jinja2", "pandas", "matplotlib", "pyarrow")
_SCRIPTS = ("bokeh.min.js", "bokeh-api.min.js")


def check_installed() -> None:
    """Raise ValueError, in one sentence, if a package is missing that pages need."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ValueError(f"a page needs {' and '.join(missing)}: pip install '{DISTRIBUTION}[pages]'")


@cache
def packed_library() -> str:
    """The scripts of BokehJS, as :func:`pack_text` packs them. Bokeh itself is not imported."""
    package = find_spec("bokeh")
    assert package, "check_installed comes first"
    folder = Path(str(package.origin)).parent / "server" / "static" / "js"
    return pack_text("\n".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS))


def pack_text(text: str) -> str:
    """``text``, compressed by gzip, in base64, for a browser's ``DecompressionStream``. Equal texts pack equally."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode("ascii")
