"""Cross-references of Sphinx in docstrings, such as ``:func:`name```, as code: the site knows no roles."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":[a-z]+:(`[^`]+`)")


class Roles(griffe.Extension):
    """An extension of the parser of docstrings, named in mkdocs.yml."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Drop the roles of one docstring."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(r"\1", obj.docstring.value)
