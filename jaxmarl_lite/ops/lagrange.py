"""Lagrange multipliers of cost constraints."""

from __future__ import annotations

import chex
import jax.numpy as jnp

from jaxmarl_lite.types import Array, Number


def dual_ascent(
    multiplier: Array, violation: Array, learning_rate: Number, max_value: Number = jnp.inf
) -> Array:
    """Dual ascent, ``λ <- clip(λ + α d, 0, λ_max)`` (Gu et al. 2021, section 4.3).

    Args:
        multiplier: ``[...]`` λ, reward per unit of cost.
        violation: ``[...]`` d, the cost less its limit; positive where the limit is broken.
        learning_rate: α.
        max_value: λ_max.
    """
    chex.assert_equal_shape([multiplier, violation])
    return jnp.clip(multiplier + learning_rate * violation, 0.0, max_value)
