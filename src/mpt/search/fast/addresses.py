"""What a compiled loop needs to work on memory by its address; imports numba, so only files of such loops import it."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from mpt.search.fast.loops import LANES


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


@intrinsic
def sum_in_eights(context, values):
    """The sum of 128 float64 as NumPy adds them: eight running sums, then these in pairs."""

    def generate(context, builder, signature, arguments):
        eight = ir.VectorType(ir.DoubleType(), 8)
        first = builder.bitcast(arguments[0], eight.as_pointer())
        running = builder.load(first, align=8)
        for i in range(1, 16):
            running = builder.fadd(running, builder.load(builder.gep(first, [ir.IntType(64)(i)]), align=8))
        parts = [builder.extract_element(running, ir.IntType(32)(i)) for i in range(8)]
        while len(parts) > 1:
            parts = [builder.fadd(*parts[i : i + 2]) for i in range(0, len(parts), 2)]
        return parts[0]

    return types.float64(types.CPointer(types.float64)), generate


def _at(builder, address, kind):
    """The pointer to a vector of ``kind`` at an int64 address."""
    return builder.inttoptr(address, ir.VectorType(kind, LANES).as_pointer())


def _splat(builder, x):
    vector = ir.VectorType(x.type, LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), x, ir.IntType(32)(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _as_bits(builder, flags):
    """The flags of a vector as the low bits of an int32."""
    return builder.zext(builder.bitcast(flags, ir.IntType(LANES)), ir.IntType(32))


def _as_flags(builder, bits):
    """The low bits of an int32 as the flags of a vector."""
    return builder.bitcast(builder.trunc(bits, ir.IntType(LANES)), ir.VectorType(ir.IntType(1), LANES))


@intrinsic
def compare(context, address, bits, bound):
    """Compare 16 float32 at ``address``, of each only the ``bits``, with ``bound``: in the low half of the result those
    are 1 that are at least that, in the high half those that are less."""

    def generate(context, builder, signature, arguments):
        words = builder.load(_at(builder, arguments[0], ir.IntType(32)), align=4)
        values = builder.bitcast(
            builder.and_(words, _splat(builder, arguments[1])), ir.VectorType(ir.FloatType(), LANES)
        )
        least = _splat(builder, arguments[2])
        above, below = (_as_bits(builder, builder.fcmp_ordered(sign, values, least)) for sign in (">=", "<"))
        return builder.or_(above, builder.shl(below, ir.IntType(32)(LANES)))

    return types.uint32(types.int64, types.uint32, types.float32), generate


@intrinsic
def copy_magnitudes(context, address, bits, out):
    """Write ``|x|`` of 16 float32 at ``address`` to ``out`` as float64 where a bit is 1, and else 0."""

    def generate(context, builder, signature, arguments):
        address, bits, out = arguments
        words = builder.load(_at(builder, address, ir.IntType(32)), align=4)
        kept = builder.select(_as_flags(builder, bits), words, ir.Constant(words.type, [0] * LANES))
        positive = builder.and_(kept, _splat(builder, ir.IntType(32)(0x7FFFFFFF)))
        values = builder.fpext(
            builder.bitcast(positive, ir.VectorType(ir.FloatType(), LANES)), ir.VectorType(ir.DoubleType(), LANES)
        )
        builder.store(values, _at(builder, out, ir.DoubleType()), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint32, types.int64), generate


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
