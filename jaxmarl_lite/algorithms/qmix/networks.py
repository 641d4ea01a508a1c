"""QMIX's networks: the agents' values, and the mixer's weights out of the state."""

from __future__ import annotations

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms.qmix.config import QMIXConfig
from jaxmarl_lite.maths import mixing
from jaxmarl_lite.nets.actor_critic import Network, network, orthogonal
from jaxmarl_lite.types import Array, EnvSpec, PyTree


class Weights(NamedTuple):
    """Everything that is learned."""

    agents: PyTree
    mixer: PyTree  # () for VDN


class Hypernetworks(nn.Module):
    """The mixer of every state ``[..., S]``."""

    agents: int
    width: int
    hidden: int

    @nn.compact
    def __call__(self, state: Array) -> mixing.Mixer:
        dense = functools.partial(nn.Dense, param_dtype=jnp.result_type(float))

        def two(name: str, hidden: int, size: int, gain: float = 1.0) -> Array:
            inner = dense(hidden, kernel_init=orthogonal(2.0**0.5), name=name)(state)
            kernel = nn.initializers.variance_scaling(gain**2, "fan_in", "truncated_normal")
            return dense(size, kernel_init=kernel, name=f"{name}_out")(nn.relu(inner))

        # A value reaches Q_tot through M hidden units: at first its gain is below one, whatever M is.
        gain = self.width**-0.5
        w1 = two("w1", self.hidden, self.agents * self.width, gain)
        w1 = w1.reshape(*state.shape[:-1], self.agents, self.width)
        b1, b2 = dense(self.width, name="b1")(state), two("b2", self.width, 1)[..., 0]
        return mixing.Mixer(w1, b1, two("w2", self.hidden, self.width, gain), b2)


class Parts(NamedTuple):
    """QMIX's networks, for an environment's sizes."""

    net: Network
    hyper: Hypernetworks | None  # None for VDN

    def init(self, key: Array, spec: EnvSpec) -> Weights:
        """Weights at random."""
        agents_key, mixer_key = jax.random.split(key)
        states = jnp.zeros((1, spec.state_size), jnp.result_type(float))
        mixer = () if self.hyper is None else self.hyper.init(mixer_key, states)["params"]
        return Weights(self.net.init(agents_key), mixer)

    def mix(self, weights: Weights, state: Array, q: Array) -> Array:
        """Q_tot ``[...]`` of the agents' values ``[..., N]``."""
        if self.hyper is None:
            return mixing.total(q)
        return mixing.mix(self.hyper.apply({"params": weights.mixer}, state), q)  # type: ignore[arg-type]


def parts(spec: EnvSpec, config: QMIXConfig) -> Parts:
    """The networks that the config's static fields describe."""
    net = network(config.form, spec.view_size, spec.action_size, agents=spec.num_agents, shared=config.share_weights)
    if config.mixer == "vdn":
        return Parts(net, None)
    return Parts(net, Hypernetworks(spec.num_agents, config.mixer_size, config.hypernet_size))
