"""Lagrange multipliers of cost constraints."""

from __future__ import annotations

import chex
import jax.numpy as jnp

from jaxmarl_lite.types import Array, Number


def dual_ascent(
    multiplier: Array, violation: Array, learning_rate: Number, max_value: Number = jnp.inf
) -> Array:
    """Takes one step of dual ascent, ``λ <- clip(λ + α d, 0, λ_max)``.

    Gu et al. 2021, section 4.3.

    Args:
        multiplier: ``[...]`` λ >= 0, reward per unit of cost.
        violation: ``[...]`` d, the cost less its limit; positive where the limit is broken.
        learning_rate: α.
        max_value: λ_max, the upper bound of the multipliers.

    Returns:
        ``[...]`` the new multipliers, in ``[0, max_value]``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import lagrange
        >>> multiplier = jnp.array([0.5, 0.5, 9.5])
        >>> violation = jnp.array([2.0, -4.0, 4.0])  # broken by 2, kept by 4, broken by 4
        >>> print(lagrange.dual_ascent(multiplier, violation, 0.25, max_value=10.0))
        [ 1.  0. 10.]
    """
    chex.assert_equal_shape([multiplier, violation])
    return jnp.clip(multiplier + learning_rate * violation, 0.0, max_value)
