"""Training as two pure functions, `init` and `train`, for any algorithm in any environment."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmarl_lite import rollout
from jaxmarl_lite.types import (
    Algorithm,
    Array,
    Environment,
    EnvSpec,
    Observation,
    PyTree,
    Rollout,
    TrainState,
)
from jaxmarl_lite.validation import (
    check_bool,
    check_fits,
    check_int,
    check_key,
    check_like,
    invalid,
    show,
)

Init = Callable[..., TrainState]
"""``(key, config=algorithm.config) -> state``."""
Train = Callable[[TrainState, int], tuple[TrainState, dict[str, Array]]]
"""``(state, num_updates) -> (state, metrics)``."""


def make_train(
    algorithm: Algorithm,
    env: Environment,
    num_envs: int = 64,
    num_steps: int = 64,
    stagger_episodes: bool = False,
) -> tuple[Init, Train]:
    """Makes the two pure functions that begin and continue a training run.

    One update collects ``num_steps * num_envs`` environment steps and learns from them.

    Args:
        algorithm: The algorithm, as `make_algorithm` returns it.
        env: One environment, of the sizes that the algorithm was made for.
        num_envs: B, number of parallel environments, 1 or more.
        num_steps: T, time steps of a rollout, 1 or more.
        stagger_episodes: Cut the first episode of every environment at a random step, see
            `rollout.rollout`.

    Returns:
        The pair ``(init, train)``:

        - ``init(key, config=algorithm.config) -> state``, a `TrainState`. The floats of the config
          go into the state: pass configs that differ in floats alone to sweep them, by ``vmap`` if
          you like; its other fields must be those of the algorithm's config.
        - ``train(state, num_updates) -> (state, metrics)``; each metric leads with
          ``[num_updates]``. Calling it again with the state that it returned continues the run.
          ``num_updates`` is static under ``jit``.

    Raises:
        ValueError: The algorithm cannot deal these sizes into its minibatches, the environment has
            other sizes than the algorithm was made for, or an argument has the wrong type or range.

    Example:
        The two agents of this environment play one-step episodes, so that 8 steps in each of 4
        environments are 32 episodes an update:

        >>> import jax
        >>> import jaxmarl_lite as jml
        >>> env = jml.make("toy/coordination")
        >>> config = jml.IPPOConfig(hidden_sizes=(8,))
        >>> algorithm = jml.make_algorithm("ippo", env.spec, config)
        >>> init, train = jml.make_train(algorithm, env, num_envs=4, num_steps=8)
        >>> state, metrics = jax.jit(lambda key: train(init(key), 3))(jax.random.key(0))
        >>> metrics["episode_return"].shape
        (3,)
        >>> metrics["episodes"].tolist()
        [32.0, 32.0, 32.0]
        >>> int(state.num_updates)
        3
    """
    num_envs, num_steps = check_int("num_envs", num_envs), check_int("num_steps", num_steps)
    stagger_episodes = check_bool("stagger_episodes", stagger_episodes)
    spec = check_fits(algorithm, env)
    algorithm.check_sizes(num_envs, num_steps)

    @functools.cache
    def learner_form() -> PyTree:
        """Shapes and types of a learner's state, without computing one."""
        return jax.eval_shape(
            lambda key: algorithm.init(key, num_envs, algorithm.config), jax.random.key(0)
        )

    def init(key: Array, config: Any = algorithm.config) -> TrainState:
        check_key("key", key)
        if type(config) is type(algorithm.config) and dataclasses.is_dataclass(config):
            # runs the checks, which tree functions skip
            config = dataclasses.replace(config)  # type: ignore[arg-type]
        if jax.tree.structure(config) != jax.tree.structure(algorithm.config):
            raise _static_field_error(config, algorithm.config)
        learner_key, env_key, key = jax.random.split(key, 3)
        learner_state = algorithm.init(learner_key, num_envs, config)
        rollout_state = rollout.init_rollout_state(
            env, env_key, num_envs, algorithm.init_hidden_state(num_envs)
        )
        return TrainState(learner_state, rollout_state, key, jnp.zeros((), jnp.int32))

    def update(state: TrainState, _: None) -> tuple[TrainState, dict[str, Array]]:
        rollout_key, update_key, key = jax.random.split(state.key, 3)

        def act(key: Array, obs: Observation, hidden_state: PyTree) -> tuple[Array, Array, PyTree]:
            return algorithm.act(state.learner_state, key, obs, hidden_state)

        with jax.named_scope("rollout"):
            rollout_state, batch = rollout.rollout(
                env, act, state.rollout_state, rollout_key, num_steps, stagger_episodes
            )
        learner_state, info = algorithm.update(update_key, state.learner_state, batch)
        info = info | rollout_metrics(spec, batch)
        return TrainState(learner_state, rollout_state, key, state.num_updates + 1), info

    def train(state: TrainState, num_updates: int) -> tuple[TrainState, dict[str, Array]]:
        num_updates = check_int("num_updates", num_updates, 0)
        if not isinstance(state, TrainState):
            raise invalid("state", state, "a TrainState, as init returns it")
        # names the leaf that has another shape, before the scan meets it
        check_like("state.learner_state", state.learner_state, learner_form())
        return jax.lax.scan(update, state, None, num_updates)

    return init, train


def _static_field_error(config: Any, algorithm_config: Any) -> ValueError:
    """Returns the error for a config that would need another program than the algorithm's."""
    if type(config) is not type(algorithm_config):
        return ValueError(
            f"config is a {type(config).__name__}; allowed is a {type(algorithm_config).__name__}"
        )
    for field in dataclasses.fields(algorithm_config):
        value, expected = getattr(config, field.name), getattr(algorithm_config, field.name)
        if dataclasses.is_dataclass(expected):
            # limits: their numbers are data, their names are not
            if jax.tree.structure(value) != jax.tree.structure(expected):
                return ValueError(
                    f"config.{field.name} is {value}, and the algorithm was made with {expected}; "
                    "allowed are other numbers for the same costs. Set limits when the algorithm "
                    "is made, to change them later"
                )
        elif _decides_program(field.type, value, expected) and value != expected:
            return ValueError(
                f"config.{field.name} is {show(value)}; allowed is {show(expected)}, with which "
                "the algorithm was made: it decides the program, which floats and the numbers of "
                "limits do not"
            )
    raise AssertionError("configs of one structure")


def _decides_program(kind: Any, value: object, expected: object) -> bool:
    """Returns whether a field is a part of the program, as a schedule is and a float is not."""
    is_schedule = any(callable(x) or isinstance(x, str) for x in (value, expected))
    return kind not in ("float", float) and (kind != "LearningRate" or is_schedule)


def rollout_metrics(spec: EnvSpec, batch: Rollout) -> dict[str, Array]:
    """Computes the metrics of a batch that do not depend on the algorithm.

    Means are over the episodes that ended in the batch; NaN where none did.

    Args:
        spec: Spec of the environment.
        batch: Rollout with leaves ``[T, B, ...]``.

    Returns:
        A dict with these entries:

        - ``episode_return``: ``[]``, mean undiscounted team return per episode.
        - ``episodes``: ``[]``, number of episodes that ended.
        - ``episode_length``: ``[]``, mean length in time steps.
        - ``reward_is_finite``: ``[]`` bool, whether all rewards and costs are finite.
        - ``env_faults``: ``[]`` int32, see `rollout.env_faults`.
        - ``episode_cost``: ``[N, K]``, mean undiscounted cost per episode, if the environment has
          costs.
        - ``non_finite_episodes``: ``[]``, episodes whose numbers were no longer finite, if the
          environment can diverge.
        - ``win_rate``: ``[]``, share of episodes won, 0 to 1, if episodes can be won.
    """
    stats = batch.episode_stats
    count = jnp.where(stats.count > 0, stats.count, jnp.nan)
    info = {
        "episode_return": spec.team_return(stats.returns) / count,
        "episodes": stats.count,
        "episode_length": stats.lengths / count,
        "reward_is_finite": jnp.isfinite(batch.transitions.reward).all()
        & jnp.isfinite(batch.transitions.cost).all(),
        "env_faults": jnp.asarray(batch.env_faults, jnp.int32),
    }
    if spec.num_costs:
        info["episode_cost"] = stats.costs / count
    if spec.can_diverge:
        info["non_finite_episodes"] = jnp.asarray(stats.non_finite)
    if spec.win_condition:
        info["win_rate"] = stats.wins / count
    return info
