"""Calls a compiled loop on the threads that torch computes with, without Python in any of them.

Such a loop takes the address of a table of int64 numbers. Every thread calls it with the same table, whose first number
is that of the next task, from 0, and whose second is how many there are: a thread takes tasks until none is left. The
other numbers are addresses, sizes and bits of floats. So no thread waits for Python's lock, which between two threads
takes longer than the loop itself over a layer.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from mpt.search.fast import loops

_FLOAT, _BITS = struct.Struct("f"), struct.Struct("i")


def call(loop: Callable[[int], None], tasks: int, *numbers: int) -> Any:
    """Run ``loop`` over a table of ``tasks`` tasks with these further ``numbers``; the table afterwards."""
    table = (ctypes.c_int64 * (2 + len(numbers)))(0, tasks, *numbers)
    address, function, parallel = ctypes.addressof(table), compiled(loop), loops.parallel()
    count = min(loops.threads(), tasks)
    if parallel and count > 1:
        parallel(function, address, count, 0)
    else:
        function(address)
    return table


def bits(x: np.float32 | float) -> int:
    """The 32 bits of a float32."""
    number: int = _BITS.unpack(_FLOAT.pack(x))[0]
    return number


def bfloat16_bits(x: np.float32 | float) -> int:
    """The 16 bits of a finite float32 rounded to bfloat16, to even where it lies halfway, as torch rounds."""
    wide = bits(x)
    return (wide + 0x7FFF + (wide >> 16 & 1)) >> 16


@cache
def compiled(loop: Callable[[int], None]) -> Any:
    """``loop`` as a C function of an address; ctypes gives up Python's lock while it runs."""
    from numba import types

    dispatcher: Any = loops.compiled(loop)
    dispatcher.compile((types.int64,))
    found = dispatcher.overloads[(types.int64,)]
    address = found.library.get_pointer_to_function(found.fndesc.llvm_cfunc_wrapper_name)
    return loops.WORK(address)
