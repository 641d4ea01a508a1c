"""What all toys answer with."""

from __future__ import annotations

import jax.numpy as jnp

from jaxmarl_lite.types import Array, Observation, TimeStep


def time_step(obs: Observation, reward: Array | float = 0.0, over: Array | bool = False, last: Array | bool = False):
    """A time step without costs; a single reward goes to every agent, and what is over is last too."""
    num_agents = obs.view.shape[0]
    over = jnp.asarray(over)
    return TimeStep(
        obs=obs,
        reward=jnp.broadcast_to(jnp.asarray(reward, float), (num_agents,)),
        cost=jnp.zeros((num_agents, 0), float),
        discount=1.0 - over.astype(float),
        last=over | last,
    )
