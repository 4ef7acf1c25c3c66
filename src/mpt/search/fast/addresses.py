"""What a compiled loop needs to work on memory by its address; imports numba, so only files of such loops import it."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from mpt.search.fast.loops import LANES, PAIRWISE


def _pointer(kind):
    """A function that makes an int64 address a pointer to ``kind``."""

    @intrinsic
    def pointer(context, address):
        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), generate

    return pointer


halves_at = _pointer(types.uint16)
words_at = _pointer(types.uint32)
floats_at = _pointer(types.float32)
doubles_at = _pointer(types.float64)
longs_at = _pointer(types.int64)


@intrinsic
def as_float(context, bits):
    """The float32 of these 32 bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), generate


@intrinsic
def fma(context, x, y, z):
    """``x y + z``, rounded once."""

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


@intrinsic
def divide(context, x, y):
    """``x / y``; a division by zero gives infinity or NaN and raises nothing, so that a loop of it can be vectors."""

    def generate(context, builder, signature, arguments):
        return builder.fdiv(*arguments)

    return types.float32(types.float32, types.float32), generate


@intrinsic
def root(context, x):
    """The square root of ``x``, rounded correctly."""

    def generate(context, builder, signature, arguments):
        return builder.call(builder.module.declare_intrinsic("llvm.sqrt", [ir.FloatType()]), arguments)

    return types.float32(types.float32), generate


@intrinsic
def add_at(context, address, amount):
    """Add ``amount`` to the int64 at ``address``, in one go among threads; what was there before."""

    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


def _at(builder, address, kind, offset=0):
    """The pointer to a vector of ``kind`` at an int64 address and ``offset`` bytes behind it."""
    return builder.inttoptr(builder.add(address, ir.IntType(64)(offset)), ir.VectorType(kind, LANES).as_pointer())


def _splat(builder, x):
    vector = ir.VectorType(x.type, LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), x, ir.IntType(32)(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _as_bits(builder, flags):
    """The flags of a vector as the low bits of an int32."""
    return builder.zext(builder.bitcast(flags, ir.IntType(LANES)), ir.IntType(32))


def _count(builder, flags):
    """How many flags of a vector are set, int64."""
    return builder.zext(builder.ctpop(builder.bitcast(flags, ir.IntType(LANES))), ir.IntType(64))


def _as_flags(builder, bits):
    """The low bits of an int32 as the flags of a vector."""
    return builder.bitcast(builder.trunc(bits, ir.IntType(LANES)), ir.VectorType(ir.IntType(1), LANES))


@intrinsic
def keep_block(context, scores, weight, signs, bits, threshold, counts):
    """Keep those of 128 weights whose score, of which only the ``bits`` count, is at least ``threshold``.

    Returns the sum of their magnitudes as NumPy adds float64: eight running sums, then these in pairs. Writes eight
    words of 16 signs to ``signs``, and adds the numbers of weights kept and of scores that are NaN to ``counts``.
    """

    def generate(context, builder, signature, arguments):
        scores, weight, signs, bits, threshold, counts = arguments
        bits, threshold = _splat(builder, bits), _splat(builder, threshold)
        zero = ir.Constant(threshold.type, None)
        total = ir.Constant(ir.VectorType(ir.DoubleType(), LANES // 2), None)
        found = [ir.IntType(64)(0)] * 2
        for word in range(PAIRWISE // LANES):
            score, one = (
                builder.load(_at(builder, address, ir.IntType(32), 4 * LANES * word), align=4)
                for address in (scores, weight)
            )
            score = builder.bitcast(builder.and_(score, bits), threshold.type)
            kept = builder.fcmp_ordered(">=", score, threshold)
            plus = builder.and_(kept, builder.fcmp_ordered(">=", builder.bitcast(one, zero.type), zero))
            minus = builder.shl(_as_bits(builder, builder.xor(kept, plus)), ir.IntType(32)(LANES))
            out = builder.inttoptr(builder.add(signs, ir.IntType(64)(4 * word)), ir.IntType(32).as_pointer())
            builder.store(builder.or_(_as_bits(builder, plus), minus), out, align=4)
            flags = kept, builder.fcmp_unordered("uno", score, score)
            found = [builder.add(x, _count(builder, some)) for x, some in zip(found, flags, strict=True)]
            magnitude = builder.and_(one, ir.Constant(one.type, [0x7FFFFFFF] * LANES))
            magnitude = builder.bitcast(builder.select(kept, magnitude, ir.Constant(one.type, None)), zero.type)
            for half in (range(LANES // 2), range(LANES // 2, LANES)):
                places = ir.Constant(ir.VectorType(ir.IntType(32), LANES // 2), list(half))
                total = builder.fadd(total, builder.fpext(builder.shuffle_vector(magnitude, zero, places), total.type))
        for place, x in enumerate(found):
            count = builder.inttoptr(builder.add(counts, ir.IntType(64)(8 * place)), ir.IntType(64).as_pointer())
            builder.store(builder.add(builder.load(count), x), count)
        parts = [builder.extract_element(total, ir.IntType(32)(i)) for i in range(LANES // 2)]
        while len(parts) > 1:
            parts = [builder.fadd(*parts[i : i + 2]) for i in range(0, len(parts), 2)]
        return parts[0]

    numbers = types.int64, types.int64, types.int64, types.uint32, types.float32, types.int64
    return types.float64(*numbers), generate


@intrinsic
def compare(context, address, bits, low, high):
    """Compare 16 float32 at ``address``, of each only the ``bits``: in the low half of the result those are 1 that are
    at least ``high``, in the high half those that are less than ``low``."""

    def generate(context, builder, signature, arguments):
        address, bits, low, high = arguments
        words = builder.and_(builder.load(_at(builder, address, ir.IntType(32)), align=4), _splat(builder, bits))
        values = builder.bitcast(words, ir.VectorType(ir.FloatType(), LANES))
        above = _as_bits(builder, builder.fcmp_ordered(">=", values, _splat(builder, high)))
        below = _as_bits(builder, builder.fcmp_ordered("<", values, _splat(builder, low)))
        return builder.or_(above, builder.shl(below, ir.IntType(32)(LANES)))

    return types.uint32(types.int64, types.uint32, types.float32, types.float32), generate


@intrinsic
def write_signs(context, signs, out, plus, minus):
    """Write 16 numbers of the type of ``plus`` to ``out``: ``plus`` where a bit of the low half of ``signs`` is 1,
    ``minus`` where one of the high half is, and else 0."""

    def generate(context, builder, signature, arguments):
        signs, out, plus, minus = arguments
        low, high = (_as_flags(builder, x) for x in (signs, builder.lshr(signs, ir.IntType(32)(LANES))))
        nothing = ir.Constant(ir.VectorType(plus.type, LANES), [0] * LANES)
        values = builder.select(high, _splat(builder, minus), nothing)
        values = builder.select(low, _splat(builder, plus), values)
        builder.store(values, _at(builder, out, plus.type), align=plus.type.width // 8)
        return context.get_dummy_value()

    return types.void(types.uint32, types.int64, plus, minus), generate


@intrinsic
def count_ones(context, x):
    """How many bits of ``x`` are 1."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.uint32(types.uint32), generate
