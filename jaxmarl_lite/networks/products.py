"""Matrix products with operands rounded to bfloat16 and float32 sums, at any order of derivatives.

Differentiation must round the operands of the products that it makes, and not their results, which
are gradients. Casting the operands would do the opposite: the transpose of a cast rounds the
gradient that comes back. Accelerators have an algorithm of the product itself for this, which
derivatives inherit; a CPU has none, and rounds in separate steps here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmarl_lite import platforms
from jaxmarl_lite.ops import jax_types
from jaxmarl_lite.types import Array

Precision = Literal["float32", "bfloat16"]
"""To what the operands of matrix products are rounded."""


def matmul(precision: Precision) -> Callable[[Array, Array], Array]:
    """Returns the product of arrays ``[..., I]`` with a matrix ``[I, J]``.

    Args:
        precision: ``float32``: JAX's product in the type of its operands; ``bfloat16``: that of
            `dot_general`.

    Returns:
        ``(x, matrix) -> [..., J]``.
    """

    def multiply(x: Array, matrix: Array) -> Array:
        if precision == "float32":
            return x @ matrix
        return dot_general(x, matrix, (((x.ndim - 1,), (0,)), ((), ())))

    return multiply


def dense_layer(precision: Precision) -> Callable[..., nn.Dense]:
    """Returns the class of dense layers whose weights have the working precision.

    Args:
        precision: ``float32``: JAX's product in the type of its operands; ``bfloat16``: that of
            `dot_general`.

    Returns:
        `flax.linen.Dense` but for ``param_dtype`` and ``dot_general``.
    """
    return functools.partial(
        nn.Dense,
        param_dtype=jnp.result_type(float),
        dot_general=None if precision == "float32" else dot_general,
    )


def dot_general(
    lhs: Array,
    rhs: Array,
    dimension_numbers: jax_types.DimensionNumbers,
    precision: object = None,
    preferred_element_type: object = None,
) -> Array:
    """Computes `jax.lax.dot_general` of operands that are rounded to bfloat16, and sums in float32.

    So do all products of its gradient. In the second derivatives that a CPU computes, some products
    have their result rounded in place of an operand.

    GPUs need bfloat16 in hardware: NVIDIA's from Ampere (A100) on.

    Args:
        lhs: the left operand.
        rhs: the right operand.
        dimension_numbers: as `jax.lax.dot_general` takes them.
        precision: unused; Flax passes it.
        preferred_element_type: likewise.

    Returns:
        The product, in the type of ``lhs``.

    Example:
        1 + 2⁻⁹ has more digits than bfloat16 holds:

        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.networks import products
        >>> x = jnp.array([[1.0 + 2.0**-9, 2.0]])
        >>> print(products.matmul("bfloat16")(x, jnp.ones((2, 1))) - 3.0)
        [[0.]]
        >>> print(products.matmul("float32")(x, jnp.ones((2, 1))) - 3.0)
        [[0.00195312]]
    """
    if platforms.current() == "cpu":
        # XLA's CPU backend computes the algorithm below in float32, or refuses it.
        product = jax_types.dot_general(_round(lhs), _round(rhs), dimension_numbers)
        return _round_cotangent(product)
    # In double precision too, the algorithm takes float32 alone.
    product = jax_types.dot_general(
        lhs.astype(jnp.float32),
        rhs.astype(jnp.float32),
        dimension_numbers,
        precision=jax.lax.DotAlgorithmPreset.BF16_BF16_F32,
    )
    return product.astype(lhs.dtype)


def _to_bfloat16(x: Array) -> Array:
    """Rounds to a number of bfloat16, in the type of ``x``.

    XLA may drop a cast to bfloat16 and back; it never drops this.
    """
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


@jax_types.custom_jvp
def _round(x: Array) -> Array:
    """Rounds an operand; its derivative is that of the identity, so that gradients pass."""
    return _to_bfloat16(x)


@_round.defjvp
def _round_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _round(*primals), tangents[0]


@jax_types.custom_jvp
def _round_cotangent(x: Array) -> Array:
    """Returns ``x``; what comes back to it, the operand of the products of a gradient, is rounded.

    Rounding is its own transpose.
    """
    return x


@_round_cotangent.defjvp
def _round_cotangent_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _round_cotangent(*primals), _to_bfloat16(tangents[0])
