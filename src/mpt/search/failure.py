"""An error in the forward of a network: whether its inputs may be the cause, and the line of its own code that raised.

An error about shapes, types or arguments may come from the inputs. A ``KeyError`` of a network that is given tensors,
or an internal error of torch, does not.
"""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpt.causes import place_in_own_code

_WORDS = re.compile(
    r"argument|broadcast|channel|dimension|\bdims?\b|dtype|expected|index|input|length|not implemented for|operand"
    r"|scalar type|shape|size|Tensor\b"
)
_INTERNAL = re.compile(r"internal (error|assert)|(file an issue|report a bug)", re.IGNORECASE)

_TORCH, _SEARCH = Path(torch.__file__).parent, Path(__file__).parent


def advice(error: Exception, inputs: tuple[Any, ...]) -> str:
    """What to do about ``error``, which a network raised in its forward of ``inputs``: the end of a sentence."""
    line = place_in_own_code(error)
    correct = f"correct {line}" if line else ""
    if not blames_inputs(error, inputs):
        return correct or "find the cause by a forward of the backbone alone"
    give = "give example=<one batch as its forward takes it>, a tuple for several arguments"
    return f"{give}, or {correct}" if correct else give


def blames_inputs(error: Exception, inputs: tuple[Any, ...]) -> bool:
    """Whether other inputs may end ``error``."""
    if _INTERNAL.search(str(error)) or _is_of_a_formula(error):
        return False
    if not all(isinstance(x, Tensor) for x in inputs) or isinstance(error, (AssertionError, IndexError, ValueError)):
        return True
    return not isinstance(error, KeyError) and bool(_WORDS.search(str(error)))


def _is_of_a_formula(error: Exception) -> bool:
    """Whether a formula of a method raised ``error``, which is code that a ticket layer calls."""
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    layers = [i for i, file in enumerate(files) if file.is_relative_to(_SEARCH) and "layer" in file.stem]
    below = files[layers[-1] :] if layers else []
    return not all(file.is_relative_to(_TORCH) or file.is_relative_to(_SEARCH) for file in below)
