"""QMIX's networks: the agents' values, and the hypernetworks from the state to the mixer."""

from __future__ import annotations

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms.qmix.config import QMIXConfig
from jaxmarl_lite.networks.recurrent import Network, make_network, orthogonal, typed
from jaxmarl_lite.ops import monotonic_mixing
from jaxmarl_lite.types import Array, EnvSpec, PyTree


class QMIXParams(NamedTuple):
    """All learned parameters.

    Attributes:
        agents: parameters of the agents' network.
        mixer: parameters of the hypernetworks; () for VDN.
    """

    agents: PyTree
    mixer: PyTree


class Hypernetworks(nn.Module):
    """Networks from the global state to the weights of its mixer.

    Attributes:
        num_agents: N, the number of agents.
        width: M, the width of the mixer's hidden layer.
        hidden_size: width of the hidden layer of the hypernetworks.
    """

    num_agents: int
    width: int
    hidden_size: int

    @nn.compact
    def __call__(self, state: Array) -> monotonic_mixing.Mixer:
        """Computes the mixer of every state.

        Args:
            state: ``[..., S]``, the global states.

        Returns:
            The mixers, with the leading axes of ``state``.
        """
        dense = functools.partial(nn.Dense, param_dtype=jnp.result_type(float))

        def two_layers(name: str, hidden: int, size: int, gain: float = 1.0) -> Array:
            inner = dense(hidden, kernel_init=orthogonal(2.0**0.5), name=name)(state)
            kernel = nn.initializers.variance_scaling(gain**2, "fan_in", "truncated_normal")
            return dense(size, kernel_init=kernel, name=f"{name}_out")(nn.relu(inner))

        # A value reaches Q_tot through M hidden units: this keeps its initial gain below one for
        # every M.
        gain = self.width**-0.5
        w1 = two_layers("w1", self.hidden_size, self.num_agents * self.width, gain)
        w1 = w1.reshape(*state.shape[:-1], self.num_agents, self.width)
        b1, b2 = dense(self.width, name="b1")(state), two_layers("b2", self.width, 1)[..., 0]
        w2 = two_layers("w2", self.hidden_size, self.width, gain)
        return monotonic_mixing.Mixer(w1, b1, w2, b2)


class QMIXNetworks(NamedTuple):
    """QMIX's networks, built for the sizes of one environment.

    Attributes:
        net: the agents' network, from an observation to the value of every action.
        hyper: the hypernetworks of the mixer; None for VDN.
    """

    net: Network
    hyper: Hypernetworks | None

    def init(self, key: Array, spec: EnvSpec) -> QMIXParams:
        """Returns random parameters.

        Args:
            key: typed PRNG key.
            spec: the environment's sizes.

        Returns:
            The parameters of all networks.
        """
        agents_key, mixer_key = jax.random.split(key)
        states = jnp.zeros((1, spec.global_state_size), jnp.result_type(float))
        mixer = () if self.hyper is None else typed(self.hyper).init(mixer_key, states)["params"]
        return QMIXParams(self.net.init(agents_key), mixer)

    def mix(self, params: QMIXParams, state: Array, q: Array) -> Array:
        """Computes Q_tot of the agents' values.

        Args:
            params: parameters of all networks; it reads those of the mixer.
            state: ``[..., S]``, the global states.
            q: ``[..., N]``, the agents' values.

        Returns:
            ``[...]``, in the unit of the discounted return.
        """
        if self.hyper is None:
            return monotonic_mixing.sum_mixing(q)
        return monotonic_mixing.mix(typed(self.hyper).apply({"params": params.mixer}, state), q)


def make_qmix_networks(spec: EnvSpec, config: QMIXConfig) -> QMIXNetworks:
    """Returns the networks that the static fields of the config describe.

    Args:
        spec: the environment's sizes.
        config: settings.

    Returns:
        The networks.
    """
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
