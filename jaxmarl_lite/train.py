"""Training as two pure functions, `init` and `train`, for any algorithm in any world."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmarl_lite import rollout
from jaxmarl_lite.types import Algorithm, Array, Environment, EnvSpec, Rollout, TrainState
from jaxmarl_lite.validation import (
    check_bool,
    check_fits,
    check_int,
    check_key,
    check_like,
    invalid,
)

Init = Callable[..., TrainState]
Train = Callable[[TrainState, int], tuple[TrainState, dict[str, Array]]]


def make_train(
    algorithm: Algorithm,
    env: Environment,
    num_envs: int = 64,
    num_steps: int = 64,
    stagger_episodes: bool = False,
) -> tuple[Init, Train]:
    """Pure functions that begin and continue a training run.

    ``init(key, config=algorithm.config) -> state``. The config's floats go into the state: give
        configs that differ in floats alone to sweep them, by ``vmap`` if you like; its other fields
        must be the algorithm's.
    ``train(state, num_updates) -> (state, metrics)``; each metric leads with ``[num_updates]``.
        Calling it again with the state it gave continues the run. ``num_updates`` is static under
        ``jit``.

    One update collects ``num_steps * num_envs`` environment steps (T and B) and learns from them;
    ``stagger_episodes`` is `rollout.rollout`'s.

    Raises:
        ValueError: for sizes that the algorithm cannot deal into its minibatches, an environment of
            other sizes than the algorithm was made for, and any other argument that cannot be.
    """
    num_envs, num_steps = check_int("num_envs", num_envs), check_int("num_steps", num_steps)
    stagger_episodes = check_bool("stagger_episodes", stagger_episodes)
    spec = check_fits(algorithm, env)
    algorithm.check_sizes(num_envs, num_steps)

    @functools.cache
    def learner_form() -> Any:
        return jax.eval_shape(
            lambda key: algorithm.init(key, num_envs, algorithm.config), jax.random.key(0)
        )

    def init(key: Array, config: Any = algorithm.config) -> TrainState:
        check_key("key", key)
        if type(config) is type(algorithm.config) and dataclasses.is_dataclass(config):
            config = dataclasses.replace(config)  # type: ignore[arg-type]  # runs the checks, which tree functions skip
        if jax.tree.structure(config) != jax.tree.structure(algorithm.config):
            raise _static_field_error(config, algorithm.config)
        learner_key, worlds_key, key = jax.random.split(key, 3)
        learner = algorithm.init(learner_key, num_envs, config)
        acting = rollout.init_rollout_state(
            env, worlds_key, num_envs, algorithm.init_hidden_state(num_envs)
        )
        return TrainState(learner, acting, key, jnp.zeros((), jnp.int32))

    def update(state: TrainState, _: None) -> tuple[TrainState, dict[str, Array]]:
        rollout_key, update_key, key = jax.random.split(state.key, 3)

        def act(key: Array, obs: Any, hidden_state: Any) -> Any:
            return algorithm.act(state.learner_state, key, obs, hidden_state)

        acting, batch = rollout.rollout(
            env, act, state.rollout_state, rollout_key, num_steps, stagger_episodes
        )
        learner, info = algorithm.update(update_key, state.learner_state, batch)
        info = info | rollout_metrics(spec, batch)
        return TrainState(learner, acting, key, state.num_updates + 1), info

    def train(state: TrainState, num_updates: int) -> tuple[TrainState, dict[str, Array]]:
        num_updates = check_int("num_updates", num_updates, 0)
        if not isinstance(state, TrainState):
            raise invalid("state", state, "a TrainState, as init returns it")
        check_like("state.learner_state", state.learner_state, learner_form())
        return jax.lax.scan(update, state, None, num_updates)

    return init, train


def _static_field_error(config: Any, made: Any) -> ValueError:
    """The error for a config that would need another program than the algorithm's."""
    if type(config) is not type(made):
        return ValueError(
            f"config is a {type(config).__name__}; allowed is a {type(made).__name__}"
        )
    for field in dataclasses.fields(made):
        given, own = getattr(config, field.name), getattr(made, field.name)
        if dataclasses.is_dataclass(own):  # limits: their numbers are data, their names are not
            if jax.tree.structure(given) != jax.tree.structure(own):
                return ValueError(
                    f"config.{field.name} is {given}, and the algorithm was made with {own}; "
                    "allowed are other numbers "
                    "for the same costs. Give limits when the algorithm is made, to change them "
                    "later"
                )
        elif field.type not in ("float", float) and given != own:
            return ValueError(
                f"config.{field.name} is {given!r}; allowed is {own!r}, with which the algorithm "
                "was made: it decides "
                "the program, which floats and the numbers of limits do not"
            )
    raise AssertionError("configs of one structure")


def rollout_metrics(spec: EnvSpec, batch: Rollout) -> dict[str, Array]:
    """Metrics of a batch: the episodes that ended in it (NaN where none did), and whether its
    numbers are finite.
    """
    ended = batch.episode_stats
    count = jnp.where(ended.count > 0, ended.count, jnp.nan)
    info = {
        "return": spec.team_return(ended.returns) / count,
        "episodes": ended.count,
        "episode_length": ended.lengths / count,
        "reward_finite": jnp.isfinite(batch.transitions.reward).all()
        & jnp.isfinite(batch.transitions.cost).all(),
        "env_faults": jnp.asarray(batch.env_faults, jnp.int32),
    }
    if spec.num_costs:
        info["cost"] = ended.costs / count
    if spec.can_diverge:
        info["non_finite_episodes"] = jnp.asarray(ended.non_finite)
    if spec.win_condition:
        info["win_rate"] = ended.wins / count
    return info
