"""Values of `LANES` pixels at once in vector registers, for compiled loops.

Numba leaves it to LLVM whether a loop runs in vector registers, how wide they are, and whether a
sum stays in one. Here the loop says so: a value of these functions is a vector of LLVM's, which it
keeps in two registers of AVX-512, four of AVX, or eight of NEON or SSE. Each lane is worked on as
if it were alone: a pixel has the same result beside any others.

Loads and stores are of values in a row in an array of one dimension, from any place on; those of
which one crosses the border of a cache line take twice as long (`aligned`).
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.datamodel import models
from numba.extending import intrinsic as _intrinsic
from numba.extending import register_model
from numba.np.arrayobj import make_array

LANES = 8
"""Values in a vector: those in single precision fill one line of the cache."""

ALIGNMENT = 64
"""Bytes of a line of the cache."""

intrinsic: Any = _intrinsic
"""What makes an instruction of a function that says how it is written for LLVM."""

_VECTOR = ir.VectorType(ir.DoubleType(), LANES)
_INDICES = ir.VectorType(ir.IntType(32), LANES)
_FUSED = ("contract",)


class Lanes(types.Type):
    """The type of a vector of float64 in compiled functions."""

    def __init__(self):
        super().__init__(name="Lanes")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    """A vector as LLVM has it."""

    def __init__(self, manager, kind):
        super().__init__(manager, kind, _VECTOR)


_lanes = Lanes()


def aligned(n_values: int) -> np.ndarray:
    """Return so many float64, 0, at the beginning of a line of the cache."""
    raw = np.zeros(8 * n_values + ALIGNMENT, np.uint8)
    skipped = -raw.ctypes.data % ALIGNMENT
    return raw[skipped : skipped + 8 * n_values].view(np.float64)


def _address(context, builder, kind, array, place):
    """Return the address of a vector that begins at a place of an array of a kind."""
    values = make_array(kind)(context, builder, array).data
    element = ir.FloatType() if kind.dtype == types.float32 else ir.DoubleType()
    vector = ir.VectorType(element, LANES)
    return builder.bitcast(builder.gep(values, [place]), vector.as_pointer())


@intrinsic
def zeros(_typing):
    """Return a vector of zeros."""

    def generate(_context, _builder, _signature, _arguments):
        return ir.Constant(_VECTOR, None)

    return _lanes(), generate


@intrinsic
def load(_typing, array, place):
    """Return values of an array of float64 or float32, from a place on."""

    def generate(context, builder, signature, arguments):
        kind = signature.args[0]
        address = _address(context, builder, kind, *arguments)
        values = builder.load(address, align=kind.dtype.bitwidth // 8)
        return values if kind.dtype == types.float64 else builder.fpext(values, _VECTOR)

    return _lanes(array, place), generate


@intrinsic
def store(_typing, array, place, values):
    """Set values of an array of float64, from a place on."""

    def generate(context, builder, signature, arguments):
        address = _address(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], address, align=8)
        return context.get_dummy_value()

    return types.none(array, place, values), generate


@intrinsic
def add(_typing, a, b):
    """Return a + b."""

    def generate(_context, builder, _signature, arguments):
        return builder.fadd(*arguments)

    return _lanes(a, b), generate


@intrinsic
def add_product(_typing, total, a, b):
    """Return total + a · b, rounded once where the processor can."""

    def generate(_context, builder, _signature, arguments):
        total, a, b = arguments
        return builder.fadd(total, builder.fmul(a, b, flags=_FUSED), flags=_FUSED)

    return _lanes(total, a, b), generate


@intrinsic
def scale(_typing, a, factor):
    """Return a times a number."""

    def generate(_context, builder, _signature, arguments):
        nothing = ir.Constant(_VECTOR, ir.Undefined)
        first = builder.insert_element(nothing, arguments[1], ir.Constant(ir.IntType(32), 0))
        factors = builder.shuffle_vector(first, nothing, ir.Constant(_INDICES, None))
        return builder.fmul(arguments[0], factors)

    return _lanes(a, types.float64), generate
