"""How unrolled code asks for the code that follows it.

A processor fetches the code of large layers from its outer cache or memory a line at a time, each when it needs it.
Asked for as data, 8 KiB ahead, the lines arrive while the additions before them run. On AMD's each line has to be asked
for: code in memory then runs at 26 GB/s on one core of Zen 4, but at 6 GB/s if one line in three is left out.

Register rax is where the next fetches go, and rcx by how much it moves: with an offset of one byte, several fetches
need one move.
"""

from __future__ import annotations

import numpy as np

FETCH = 5  # bytes of a fetch, about: three without an offset, four with one, and a move of three
MOVE = b"\x48\x01\xc8"  # add rax, rcx
WINDOW = 256  # bytes that offsets of one byte reach
AHEAD = 8192  # bytes from a fetch to what it fetches, about
LEA = 7  # bytes


def fetches(lengths: np.ndarray, function: np.ndarray, around: np.ndarray, space: int) -> tuple[np.ndarray, np.ndarray]:
    """The fetch before each tap, of ``lengths`` bytes: its longest form, (n, bytes), and which bytes it has.

    A function has a fetch for each ``space`` bytes of its own, ``around`` and in its taps, evenly between these.
    """
    own = np.bincount(function, lengths, len(around)).astype(np.int64)
    many = -(-(own + around) // (space - FETCH))
    after = np.cumsum(lengths) - (np.cumsum(own) - own)[function]  # bytes of the function's taps up to this one's end
    before, behind = (within * many[function] // own[function] for within in (after - lengths, after))
    there = behind > before
    number = np.cumsum(there) - 1
    number -= (number + 1 - there)[np.searchsorted(function, function)]
    turn = number % (WINDOW // space)
    place = (turn - WINDOW // space // 2) * space
    made = np.empty((len(lengths), len(MOVE) + 4), np.uint8)
    made[:, :-4], made[:, -4:-2] = list(MOVE), [0x0F, 0x18]
    made[:, -2], made[:, -1] = np.where(place, 0x50, 0x10), place & 255
    kept = np.repeat(there[:, None], made.shape[1], axis=1)
    kept[:, :-4] &= ((turn == 0) & (number > 0))[:, None]
    kept[:, -1] &= place != 0
    return made, kept


def start(space: int) -> bytes:
    """``lea rax, [here + AHEAD]`` and ``mov ecx, step``, for fetches."""
    step = WINDOW // space * space
    place = AHEAD + WINDOW // space // 2 * space - LEA
    return b"\x48\x8d\x05" + place.to_bytes(4, "little") + b"\xb9" + step.to_bytes(4, "little")
