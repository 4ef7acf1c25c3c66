"""The Triton kernels of :mod:`mpt.search.fast.cuda`, which imports them for the first layer on a GPU."""

import triton
import triton.language as tl


@triton.jit
def _keys(x, absolute: tl.constexpr):
    """uint32 keys in the order of float32 ``x``, or of ``|x|``; both zeros have one key."""
    x = tl.where(x == 0.0, 0.0, x)
    bits = x.to(tl.uint32, bitcast=True)
    if absolute:
        return bits & 0x7FFFFFFF
    else:
        return tl.where((bits >> 31) == 1, bits ^ 0xFFFFFFFF, bits | 0x80000000)


@triton.jit
def _threshold(counts, kept, digits: tl.constexpr, radix: tl.constexpr):
    """The first ``digits`` digits of the key of the ``kept``-th largest entry, and which of those with them it is."""
    bins = tl.arange(0, radix)
    prefix = tl.full((), 0, tl.uint32)
    for digit in tl.static_range(digits):
        count = tl.load(counts + digit * radix + bins)
        at_least = tl.cumsum(count, 0, reverse=True)  # entries whose digit is this one or a larger one
        found = tl.max(tl.where(at_least >= kept, bins, 0), 0)
        kept -= tl.sum(tl.where(bins > found, count, 0), 0)
        prefix = (prefix << 8) | found.to(tl.uint32)
    return prefix, kept


@triton.jit(do_not_specialize=["n", "kept"])
def count_digits(
    x, counts, n, kept, digit: tl.constexpr, absolute: tl.constexpr, radix: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    """Count the values of a digit among the entries whose earlier digits are those of the threshold."""
    prefix, _ = _threshold(counts, kept, digit, radix)
    bins = tl.arange(0, radix)
    total = tl.zeros((radix,), tl.int32)
    for start in range(tl.program_id(0) * block, n, tl.num_programs(0) * block):
        places = start + tl.arange(0, block)
        inside = places < n
        keys = _keys(tl.load(x + places, mask=inside, other=0.0), absolute)
        if digit > 0:
            inside = inside & ((keys >> (32 - 8 * digit)) == prefix)
        values = tl.where(inside, (keys >> (24 - 8 * digit)) & 255, 0).to(tl.int32)
        others = block - tl.sum(inside.to(tl.int32), 0)  # counted as zeros
        total += tl.histogram(values, radix) - tl.where(bins == 0, others, 0)
    tl.atomic_add(counts + digit * radix + bins, total, mask=total > 0)


@triton.jit(do_not_specialize=["n", "kept"])
def find_cut(
    x, counts, cut, n, kept, inner, taps, absolute: tl.constexpr,
    digits: tl.constexpr, radix: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Write the threshold's key, and the flat index of the last entry that equals it and is kept. One program."""
    key, missing = _threshold(counts, kept, digits, radix)
    equal = tl.load(counts + (digits - 1) * radix + (key & 255).to(tl.int32))
    last = tl.full((), 0, tl.int64) + n
    start = tl.full((), 0, tl.int64)
    if missing == equal:
        start += n  # all that equal it are kept
    seen = missing * 0
    while start < n:
        places = start + tl.arange(0, block)
        within = places % (inner * taps)  # of an output channel, in the order of the flat index
        memory = places - within + (within % taps) * inner + within // taps
        keys = _keys(tl.load(x + memory, mask=places < n, other=0.0), absolute)
        hit = (keys == key) & (places < n)
        rank = seen + tl.cumsum(hit.to(tl.int32), 0)
        here = tl.min(tl.where(hit & (rank == missing), places, n), 0)
        last = tl.minimum(last, here)
        seen += tl.sum(hit.to(tl.int32), 0)
        start = tl.where(seen >= missing, start * 0 + n, start + block)
    tl.store(cut, key.to(tl.int64))
    tl.store(cut + 1, last)


@triton.jit(do_not_specialize=["n"])
def write_mask(x, cut, mask, n, inner, taps, absolute: tl.constexpr, block: tl.constexpr):
    """Write 1 for the entries above the threshold, and for those that equal it up to the cut."""
    key, last = tl.load(cut).to(tl.uint32), tl.load(cut + 1)
    for start in range(tl.program_id(0) * block, n, tl.num_programs(0) * block):
        places = start + tl.arange(0, block)
        keys = _keys(tl.load(x + places, mask=places < n, other=0.0), absolute)
        within = places % (inner * taps)
        flat = places - within + (within % inner) * taps + within // inner
        keep = (keys > key) | ((keys == key) & (flat <= last))
        tl.store(mask + places, keep.to(tl.uint8), mask=places < n)


@triton.jit(do_not_specialize=["n"])
def kept_sums(weight, mask, sums, ones, n, block: tl.constexpr):
    """Write the program's part of ``sum(m |w|)``, in float64, and of ``sum(m)``."""
    total = tl.zeros((block,), tl.float64)
    count = tl.zeros((block,), tl.int32)
    for start in range(tl.program_id(0) * block, n, tl.num_programs(0) * block):
        places = start + tl.arange(0, block)
        kept = tl.load(mask + places, mask=places < n, other=0)
        w = tl.load(weight + places, mask=places < n, other=0.0)
        total += tl.where(kept != 0, tl.abs(w), 0.0).to(tl.float64)
        count += kept.to(tl.int32)
    tl.store(sums + tl.program_id(0), tl.sum(total, 0))
    tl.store(ones + tl.program_id(0), tl.sum(count, 0).to(tl.int64))


@triton.jit(do_not_specialize=["parts"])
def divide_sums(sums, ones, out, parts, block: tl.constexpr):
    """Write the gain from the parts of both sums. One program."""
    places = tl.arange(0, block)
    total = tl.sum(tl.load(sums + places, mask=places < parts, other=0.0), 0)
    count = tl.sum(tl.load(ones + places, mask=places < parts, other=0), 0)
    tl.store(out, (total / count.to(tl.float64)).to(tl.float32))


@triton.jit(do_not_specialize=["n"])
def binary_weight(weight, mask, gain, out, n, block: tl.constexpr):
    """Write ``g m sign(w)``."""
    places = tl.program_id(0) * block + tl.arange(0, block)
    w = tl.load(weight + places, mask=places < n, other=0.0)
    kept = tl.load(mask + places, mask=places < n, other=0)
    g = tl.load(gain)
    tl.store(out + places, tl.where(kept != 0, tl.where(w >= 0.0, g, -g), 0.0), mask=places < n)


@triton.jit(do_not_specialize=["n"])
def gradient(
    grad, weight, scores, gain, out, n, by_weight: tl.constexpr, by_gain: tl.constexpr,
    score_abs: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Write dL/ds from dL/db."""
    places = tl.program_id(0) * block + tl.arange(0, block)
    ds = tl.load(grad + places, mask=places < n, other=0.0)
    w = tl.load(weight + places, mask=places < n, other=0.0)
    if score_abs:
        s = tl.load(scores + places, mask=places < n, other=0.0)
        ds = tl.where(s >= 0.0, ds, -ds)
    if by_weight:
        ds = ds * w
    else:
        ds = tl.where(w >= 0.0, ds, -ds)
        if by_gain:
            ds = ds * tl.load(gain)
    tl.store(out + places, ds, mask=places < n)
