"""Bits of masks and signs: packed eight to a byte, and range-coded to their entropy.

A mask of ``n`` weights that keeps ``k`` carries ``n H(k / n)`` bits, ``H(p) = -p log2 p - (1 - p) log2 (1 - p)``, if
nothing but its density is known of it; masks of real tickets hold no more structure than that. A range coder with one
Bernoulli model of ``p = k / n`` for the layer comes within .001 bits a weight of this number. The coder is
``constriction``'s. A mask takes the coded form only where that is shorter than its packed bits, and where the coder is
installed.

A coded mask has at least one byte for 1,024 weights, padded with zeros: the size of a file therefore bounds the memory
that reading it takes. Masks are processed in pieces, so the unpacked bits never exist at once.

Source of the coder: Bamler, "Understanding Entropy Coding With Asymmetric Numeral Systems", 2022 (constriction).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

CHUNK = 1 << 20  # weights processed at a time, a multiple of 8
WEIGHTS_PER_BYTE = 1024  # at most, in a coded mask


def pack_bits(bits: np.ndarray) -> np.ndarray:
    """Eight bits per byte, lowest bit first, zeros behind the last: bool (n,) -> uint8 (ceil(n / 8),)."""
    return np.packbits(bits.ravel(), bitorder="little")


def unpack_bits(packed: np.ndarray, *, n: int) -> np.ndarray:
    """The first ``n`` bits of :func:`pack_bits`: uint8 (ceil(n / 8),) -> bool (n,)."""
    return np.unpackbits(packed, count=n, bitorder="little").view(bool)


def select_bits(packed: np.ndarray, mask: np.ndarray, *, n: int) -> np.ndarray:
    """The bits of ``packed`` at the ones of ``mask``, in order; all packed, ``n`` bits each before the selection."""
    parts = [part[chosen] for part, chosen in zip(_chunks(packed, n), _chunks(mask, n), strict=True)]
    return pack_bits(np.concatenate(parts))


def encode_mask(mask: np.ndarray, *, n: int, kept: int) -> np.ndarray:
    """The shorter of the coded and the packed form of a mask.

    Args:
        mask: packed bits, uint8 (ceil(n / 8),).
        n: number of weights.
        kept: number of ones, at least 1.

    Returns:
        uint8: ``mask`` itself, or fewer bytes, a multiple of 4.
    """
    coder = _coder()
    if coder is None:
        return mask
    encoder = coder.queue.RangeEncoder()
    if kept < n:  # else there is nothing to code
        model = coder.model.Bernoulli(kept / n, perfect=False)
        for bits in _chunks(mask, n):
            encoder.encode(bits.astype(np.int32), model)
    coded = np.ascontiguousarray(encoder.get_compressed(), dtype="<u4").view(np.uint8)
    coded = np.pad(coded, (0, max(0, least_coded_bytes(n) - coded.size)))
    return coded if coded.size < mask.size else mask


def decode_mask(coded: np.ndarray, *, n: int, kept: int) -> np.ndarray:
    """The packed mask that :func:`encode_mask` was given.

    Raises:
        ValueError: ``coded`` is not what :func:`encode_mask` returns for any mask of ``kept`` ones among ``n``.
    """
    if coded.size == (n + 7) // 8:
        return coded
    if coded.size % 4 or not least_coded_bytes(n) <= coded.size < (n + 7) // 8:
        raise ValueError(f"{coded.size} bytes cannot be the mask of {n} weights")
    coder = _coder()
    if coder is None:
        raise ValueError("its masks are range-coded, which needs a package: pip install constriction")
    decoder = coder.queue.RangeDecoder(coded.view("<u4").astype(np.uint32))
    model = coder.model.Bernoulli(kept / n, perfect=False)
    try:
        parts = [pack_bits(_decode(decoder, model, min(CHUNK, n - start), kept < n)) for start in range(0, n, CHUNK)]
    except AssertionError as error:  # constriction's own, for impossible data
        raise ValueError(f"the coded mask of {n} weights cannot be decoded") from error
    mask = np.concatenate(parts)
    if int(np.bitwise_count(mask).sum()) != kept or not np.array_equal(encode_mask(mask, n=n, kept=kept), coded):
        raise ValueError(f"the coded mask does not keep {kept} of {n} weights, or has bytes behind its end")
    return mask


def least_coded_bytes(n: int) -> int:
    """Bytes that a coded mask of ``n`` weights has at least: whole words of 4."""
    return 4 * -(-n // (4 * WEIGHTS_PER_BYTE))


def entropy(n: int, kept: int) -> float:
    """``n H(kept / n)``: the bits that a mask of ``n`` weights carries if only its density is known."""
    counts = np.array([kept, n - kept], dtype=float)
    counts = counts[counts > 0]
    return float((counts * np.log2(n / counts)).sum())


@cache
def _coder() -> Any:
    """``constriction.stream``, or None where it is not installed: not every platform has it."""
    try:
        from constriction import stream
    except ImportError:
        return None
    return stream


def _decode(decoder: Any, model: object, n: int, some_pruned: bool) -> np.ndarray:
    return decoder.decode(model, n).astype(bool) if some_pruned else np.ones(n, dtype=bool)


def _chunks(packed: np.ndarray, n: int) -> Iterator[np.ndarray]:
    """The ``n`` bits of ``packed`` in pieces, bool (at most CHUNK,)."""
    for start in range(0, n, CHUNK):
        yield unpack_bits(packed[start // 8 : (start + CHUNK) // 8], n=min(CHUNK, n - start))
