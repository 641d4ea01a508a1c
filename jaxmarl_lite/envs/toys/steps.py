"""What all toys answer with."""

from __future__ import annotations

import jax.numpy as jnp

from jaxmarl_lite.types import Array, Observation, TimeStep


def time_step(
    obs: Observation,
    reward: Array | float = 0.0,
    over: Array | bool = False,
    last: Array | bool = False,
    cost: Array | None = None,
    num_costs: int = 0,
) -> TimeStep:
    """A time step; a single reward goes to every agent, what is over is last too, and no cost means zeros."""
    num_agents = obs.view.shape[0]
    over = jnp.asarray(over)
    return TimeStep(
        obs=obs,
        reward=jnp.broadcast_to(jnp.asarray(reward, float), (num_agents,)),
        cost=jnp.zeros((num_agents, num_costs), float) if cost is None else cost,
        discount=1.0 - over.astype(float),
        last=over | last,
    )
