"""The uniformly random policy, the baseline of every learned one."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxmarl_lite.networks import distributions
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, Observation, PyTree, Rollout


def random_policy(spec: EnvSpec) -> Algorithm:
    """Returns an algorithm that learns nothing and acts uniformly at random.

    Discrete actions are uniform over the legal ones, continuous ones uniform within the bounds, or
    standard normal where there are no bounds.

    Args:
        spec: the environment's sizes and action bounds.

    Returns:
        The algorithm ``"random"``, without parameters or hyperparameters; the log-probabilities
        that its ``act`` returns are 0.
    """

    def act(
        learner: PyTree, key: Array, obs: Observation, hidden_state: PyTree, greedy: bool = False
    ) -> tuple[Array, Array, PyTree]:
        if spec.action_type == "discrete":
            action = distributions.categorical(
                jnp.zeros_like(obs.action_mask, float), obs.action_mask
            ).sample(key)
        elif spec.action_low is None or spec.action_high is None:
            action = jnp.where(
                obs.action_mask, jax.random.normal(key, obs.action_mask.shape, float), 0.0
            )
        else:
            low, high = jnp.asarray(spec.action_low), jnp.asarray(spec.action_high)
            action = jnp.where(
                obs.action_mask,
                jax.random.uniform(key, obs.action_mask.shape, float, low, high),
                0.0,
            )
        return action, jnp.zeros(action.shape[:2]), hidden_state

    def update(key: Array, learner: PyTree, batch: Rollout) -> tuple[PyTree, dict[str, Array]]:
        return learner, {}

    def init(key: Array, num_envs: int, config: None = None) -> PyTree:
        return ()

    def init_hidden_state(num_envs: int) -> PyTree:
        return ()

    def check_sizes(num_envs: int, num_steps: int) -> None:
        pass

    return Algorithm("random", None, init, init_hidden_state, act, update, check_sizes)
