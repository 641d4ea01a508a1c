"""QMIX's networks: the agents' values, and the mixer's weights out of the state."""

from __future__ import annotations

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms.qmix.config import QMIXConfig
from jaxmarl_lite.networks.recurrent import Network, make_network, orthogonal
from jaxmarl_lite.ops import monotonic_mixing
from jaxmarl_lite.types import Array, EnvSpec, PyTree


class QMIXParams(NamedTuple):
    """Everything that is learned."""

    agents: PyTree
    mixer: PyTree  # () for VDN


class Hypernetworks(nn.Module):
    """The mixer of every state ``[..., S]``."""

    num_agents: int
    width: int
    hidden_size: int

    @nn.compact
    def __call__(self, state: Array) -> monotonic_mixing.Mixer:
        dense = functools.partial(nn.Dense, param_dtype=jnp.result_type(float))

        def two(name: str, hidden: int, size: int, gain: float = 1.0) -> Array:
            inner = dense(hidden, kernel_init=orthogonal(2.0**0.5), name=name)(state)
            kernel = nn.initializers.variance_scaling(gain**2, "fan_in", "truncated_normal")
            return dense(size, kernel_init=kernel, name=f"{name}_out")(nn.relu(inner))

        # A value reaches Q_tot through M hidden units: at first its gain is below one, whatever M
        # is.
        gain = self.width**-0.5
        w1 = two("w1", self.hidden_size, self.num_agents * self.width, gain)
        w1 = w1.reshape(*state.shape[:-1], self.num_agents, self.width)
        b1, b2 = dense(self.width, name="b1")(state), two("b2", self.width, 1)[..., 0]
        return monotonic_mixing.Mixer(w1, b1, two("w2", self.hidden_size, self.width, gain), b2)


class QMIXNetworks(NamedTuple):
    """QMIX's networks, for an environment's sizes."""

    net: Network
    hyper: Hypernetworks | None  # None for VDN

    def init(self, key: Array, spec: EnvSpec) -> QMIXParams:
        """Weights at random."""
        agents_key, mixer_key = jax.random.split(key)
        states = jnp.zeros((1, spec.global_state_size), jnp.result_type(float))
        mixer = () if self.hyper is None else self.hyper.init(mixer_key, states)["params"]
        return QMIXParams(self.net.init(agents_key), mixer)

    def mix(self, weights: QMIXParams, state: Array, q: Array) -> Array:
        """Q_tot ``[...]`` of the agents' values ``[..., N]``."""
        if self.hyper is None:
            return monotonic_mixing.sum_mixing(q)
        return monotonic_mixing.mix(self.hyper.apply({"params": weights.mixer}, state), q)  # type: ignore[arg-type]


def make_qmix_networks(spec: EnvSpec, config: QMIXConfig) -> QMIXNetworks:
    """The networks that the config's static fields describe."""
    net = make_network(
        config.network_spec,
        spec.obs_size,
        spec.action_size,
        num_agents=spec.num_agents,
        shared=config.parameter_sharing,
    )
    if config.mixer == "vdn":
        return QMIXNetworks(net, None)
    return QMIXNetworks(
        net, Hypernetworks(spec.num_agents, config.mixing_embed_dim, config.hypernet_embed_dim)
    )
