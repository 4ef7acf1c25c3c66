"""Misspelt options, said at once: Hydra composes the whole configuration twice before it says so. Imports no torch."""

from __future__ import annotations

import difflib
import re
from dataclasses import fields

from mpt.run.settings import CONF, Config, nested_schema

_PLAIN = re.compile(r"([A-Za-z_]\w*)(\.\w+)?[\w.]*")  # group 1: the option or its group; 2: of the group
_ELSEWHERE = ("--conf", "-cn", "-cp", "-cd", "--shell", "-sc")  # how such flags begin: configurations, completion


def check_spelling(flags: list[str], overrides: list[str], schema: type = Config) -> None:
    """Raise ValueError for an option that ``schema`` does not have, as ``prun=0.5`` or ``optim.lrr=1``.

    What it does not decide is left to Hydra: ``model.x``, ``hydra.x``, ``+x``, and all where a flag or
    ``hydra.searchpath`` names configuration files of one's own, or a shell is to learn completion.
    """
    if any(flag.startswith(_ELSEWHERE) for flag in flags) or any(o.startswith("hydra.searchpath=") for o in overrides):
        return
    groups = [path.name for path in CONF.iterdir() if path.is_dir()]
    options = {f.name: nested_schema(f) for f in fields(schema)}
    top = [*options, *groups, "sweeps"]
    for override in overrides:
        key, equals, _ = override.partition("=")
        plain = _PLAIN.fullmatch(key)
        if not equals or not plain:
            continue
        known, spelt = top, plain[1]
        if plain[1] in top and plain[2] and (nested := options.get(plain[1])):
            known, spelt = [f"{plain[1]}.{f.name}" for f in fields(nested)], plain[1] + plain[2]
        if spelt not in known:
            near = difflib.get_close_matches(spelt, known, n=1)
            raise ValueError(
                f"there is no option {key}: {f'did you mean {near[0]}? ' if near else ''}--help lists them"
            )
