"""Refuse misspelt options at once: Hydra composes the whole configuration twice before it refuses them."""

from __future__ import annotations

import difflib
import re
from dataclasses import fields

from mpt.files import CONF
from mpt.run.settings import Settings, group_class

_PLAIN = re.compile(r"([A-Za-z_]\w*)(\.\w+)?[\w.]*")  # 1: the option, or its group; 2: the option in the group
_ELSEWHERE = ("--conf", "-cn", "-cp", "-cd", "--shell", "-sc")  # prefixes of flags: other files, shell completion


def check_spelling(flags: list[str], overrides: list[str], schema: type = Settings) -> None:
    """Raise ValueError for an option that ``schema`` does not have, such as ``prun=0.5`` or ``optim.lrr=1``.

    Hydra checks the rest: ``model.x``, ``hydra.x``, ``+x``, and every option if a flag or ``hydra.searchpath`` names
    the user's configuration files or if a shell learns completion.
    """
    if any(flag.startswith(_ELSEWHERE) for flag in flags) or any(o.startswith("hydra.searchpath=") for o in overrides):
        return
    groups = [path.name for path in CONF.iterdir() if path.is_dir()]
    options = {f.name: group_class(f) for f in fields(schema) if f.metadata["of"] != "input"}
    top = [*options, *groups, "sweeps"]
    for override in overrides:
        key, equals, _ = override.partition("=")
        plain = _PLAIN.fullmatch(key)
        if not plain:
            continue
        if not equals:
            raise ValueError(f"{key} has no value: write {key}=VALUE")
        known, spelt = top, plain[1]
        if plain[1] in top and plain[2] and (nested := options.get(plain[1])):
            known, spelt = [f"{plain[1]}.{f.name}" for f in fields(nested)], plain[1] + plain[2]
        if spelt not in known:
            near = difflib.get_close_matches(spelt, known, n=1)
            raise ValueError(
                f"there is no option {key}: {f'did you mean {near[0]}? ' if near else ''}--help lists them"
            )
