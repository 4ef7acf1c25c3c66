"""What a compiled loop needs to work on memory by its address; imports numba, so only files of such loops import it."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _pointer(kind):
    """A function that makes an int64 address a pointer to ``kind``."""

    @intrinsic
    def pointer(context, address):
        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), generate

    return pointer


bytes_at = _pointer(types.int8)
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
