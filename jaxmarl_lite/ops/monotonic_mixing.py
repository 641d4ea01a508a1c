"""QMIX's mixer: the agents' values as one of the team, which grows with each of them."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxmarl_lite.types import Array


class Mixer(NamedTuple):
    """Weights of one state's mixer; those that meet values are used by their size, so that they are
    never negative.
    """

    w1: Array  # [..., N, M]
    b1: Array  # [..., M]
    w2: Array  # [..., M]
    b2: Array  # [...]


def mix(mixer: Mixer, q: Array) -> Array:
    """Q_tot (Rashid et al. 2018, figure 2): ``|w2|ᵀ elu(|w1|ᵀ q + b1) + b2``, so that ∂Q_tot/∂q_i
    >= 0.

    Args:
        mixer: made by hypernetworks from the state.
        q: ``[..., N]`` the values of the agents' actions.

    Returns: ``[...]``. With one hidden unit, weights 1 and a hidden value from 0 up it is the sum,
        as in VDN.
    """
    chex.assert_shape(q, mixer.w1.shape[:-1])
    chex.assert_equal_shape([mixer.b1, mixer.w2])
    chex.assert_shape(mixer.b2, q.shape[:-1])
    hidden = jax.nn.elu(jnp.einsum("...n,...nm->...m", q, jnp.abs(mixer.w1)) + mixer.b1)
    return (hidden * jnp.abs(mixer.w2)).sum(-1) + mixer.b2


def sum_mixing(q: Array) -> Array:
    """VDN's mixer (Sunehag et al. 2018): the sum of the agents' values ``[..., N]``."""
    return q.sum(-1)
