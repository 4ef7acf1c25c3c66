"""``config.yaml``, the settings of a run in its directory: written, and read back as data.

YAML can do more than settings need. Tags, anchors and aliases are refused before anything is built from the file, and
``${...}`` stays text: nothing that a file says is ever resolved.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mpt.files import write_atomically
from mpt.run.settings import FinetuneSettings
from mpt.schema import MAX_DEPTH, misfits, read_text

FILE = "config.yaml"
MAX_CONFIG = 2**20  # bytes
_GROUPS = ("model", "data", "method", "optim", "trainer", "logger")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, if yaml was built with it


class _Plain(yaml.SafeDumper):  # type: ignore[misc]
    """Writes a value that occurs twice twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_config(directory: Path, config: Mapping[str, Any]) -> None:
    """Write the plain settings of the run in ``directory``."""
    write_atomically(directory / FILE, yaml.dump(dict(config), Dumper=_Plain, sort_keys=False))


def read_config(directory: Path) -> dict[str, Any]:
    """The plain settings of the run in ``directory``.

    Raises:
        OSError: there are none, or they cannot be read.
        ValueError: they are damaged, in one sentence.
    """
    try:
        return _parse(read_text(directory / FILE, most=MAX_CONFIG))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{directory / FILE} is damaged ({reason}): remove the directory to run it again, or choose another"
        ) from error


def _parse(text: str) -> dict[str, Any]:
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deep")
        if getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise ValueError("it has anchors or tags, which settings never have")
    content = yaml.load(text, Loader=_LOADER)
    if not isinstance(content, dict) or not all(isinstance(content.get(group), dict) for group in _GROUPS):
        raise ValueError(f"it is not the settings of a run, with {', '.join(_GROUPS)}")
    if wrong := misfits(content, FinetuneSettings):
        raise ValueError(f"its {wrong[0]}")
    if not isinstance(content["data"].get("name"), str):
        raise ValueError("its data have no name")
    return content
