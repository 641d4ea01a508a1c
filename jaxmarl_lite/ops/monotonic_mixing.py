"""Mixers of QMIX and VDN: one value of the team that grows with the value of every agent."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxmarl_lite.ops import jax_types
from jaxmarl_lite.types import Array


class Mixer(NamedTuple):
    """Weights of the mixing network in one state, with M hidden units.

    `mix` takes the absolute value of the weights that multiply values (``w1`` and ``w2``), so that
    they are never negative.

    Attributes:
        w1: ``[..., N, M]`` weights of the agents' values.
        b1: ``[..., M]`` biases of the hidden units.
        w2: ``[..., M]`` weights of the hidden units.
        b2: ``[...]`` bias of the team's value.
    """

    w1: Array
    b1: Array
    w2: Array
    b2: Array


def mix(mixer: Mixer, q: Array) -> Array:
    """Computes QMIX's value of the team from the values of the agents.

    Rashid et al. 2018, figure 2:

        Q_tot = |w2|ᵀ elu(|w1|ᵀ q + b1) + b2

    so that ∂Q_tot/∂q_i >= 0. With one hidden unit, weights 1, biases 0 and a hidden value of at
    least 0, it is the sum, as in VDN (`sum_mixing`).

    Args:
        mixer: the weights, which hypernetworks compute from the state.
        q: ``[..., N]`` the values of the agents' actions.

    Returns:
        ``[...]`` Q_tot.

    Example:
        Two agents and one hidden unit:

        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import monotonic_mixing
        >>> mixer = monotonic_mixing.Mixer(
        ...     w1=jnp.array([[1.0], [-2.0]]), b1=jnp.array([0.5]),
        ...     w2=jnp.array([3.0]), b2=jnp.array(1.0),
        ... )
        >>> q = jnp.array([1.0, 2.0])
        >>> print(monotonic_mixing.mix(mixer, q))  # 3 (1 · 1 + |-2| · 2 + 0.5) + 1
        17.5
    """
    chex.assert_shape(q, mixer.w1.shape[:-1])
    chex.assert_equal_shape([mixer.b1, mixer.w2])
    chex.assert_shape(mixer.b2, q.shape[:-1])
    hidden = jax.nn.elu(jax_types.einsum("...n,...nm->...m", q, jnp.abs(mixer.w1)) + mixer.b1)
    return (hidden * jnp.abs(mixer.w2)).sum(-1) + mixer.b2


def sum_mixing(q: Array) -> Array:
    """Computes VDN's value of the team, the sum of the agents' values (Sunehag et al. 2018).

    Args:
        q: ``[..., N]`` the values of the agents' actions.

    Returns:
        ``[...]`` the sum over the agents.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import monotonic_mixing
        >>> print(monotonic_mixing.sum_mixing(jnp.array([1.0, 2.0])))
        3.0
    """
    return q.sum(-1)
