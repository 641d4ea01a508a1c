"""Training as two pure functions, `init` and `train`, for any algorithm in any world."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmarl_lite import rollout
from jaxmarl_lite.types import Algorithm, Array, Batch, Environment, EnvSpec, TrainState

_WORDS = ("name", "return_meaning", "best_return", "cost_meanings", "cost_limits", "win_meaning", "action_names")
"""Fields of a spec in which the environment of training may differ from the one an algorithm was made for."""

Init = Callable[..., TrainState]
Train = Callable[[TrainState, int], tuple[TrainState, dict[str, Array]]]


def make_train(
    algorithm: Algorithm, env: Environment, num_envs: int = 64, num_steps: int = 64, stagger: bool = False
) -> tuple[Init, Train]:
    """Pure functions that begin and continue a training run.

    ``init(key, config=algorithm.config) -> state``. The config's floats go into the state: give configs that
        differ in floats alone to sweep them, by ``vmap`` if you like; its other fields must be the algorithm's.
    ``train(state, num_updates) -> (state, metrics)``; each metric leads with ``[num_updates]``. Calling it
        again with the state it gave continues the run. ``num_updates`` is static under ``jit``.

    One update collects ``num_steps * num_envs`` environment steps (T and B) and learns from them; ``stagger`` is
    `rollout.rollout`'s.

    Raises:
        ValueError: for sizes that the algorithm cannot deal into its minibatches.
    """
    for name, value in (("num_envs", num_envs), ("num_steps", num_steps)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; allowed is a whole number, 1 or more")
    spec = env.spec
    _check_made_for(algorithm, spec)
    algorithm.check(num_envs, num_steps)

    def init(key: Array, config: Any = algorithm.config) -> TrainState:
        if jax.tree.structure(config) != jax.tree.structure(algorithm.config):
            raise _other_program(config, algorithm.config)
        learner_key, worlds_key, key = jax.random.split(key, 3)
        learner = algorithm.init(learner_key, num_envs, config)
        acting = rollout.begin(env, worlds_key, num_envs, algorithm.initial_memory(num_envs))
        return TrainState(learner, acting, key, jnp.zeros((), jnp.int32))

    def update(state: TrainState, _: None) -> tuple[TrainState, dict[str, Array]]:
        rollout_key, update_key, key = jax.random.split(state.key, 3)

        def act(key: Array, obs: Any, memory: Any) -> Any:
            return algorithm.act(state.learner, key, obs, memory)

        acting, batch = rollout.rollout(env, act, state.acting, rollout_key, num_steps, stagger)
        learner, info = algorithm.update(update_key, state.learner, batch)
        info = info | batch_info(spec, batch)
        return TrainState(learner, acting, key, state.updates + 1), info

    def train(state: TrainState, num_updates: int) -> tuple[TrainState, dict[str, Array]]:
        return jax.lax.scan(update, state, None, num_updates)

    return init, train


def _other_program(config: Any, made: Any) -> ValueError:
    """The error for a config that would need another program than the algorithm's."""
    if type(config) is not type(made):
        return ValueError(f"config is a {type(config).__name__}; allowed is a {type(made).__name__}")
    for field in dataclasses.fields(made):
        given, own = getattr(config, field.name), getattr(made, field.name)
        if dataclasses.is_dataclass(own):  # limits: their numbers are data, their names are not
            if jax.tree.structure(given) != jax.tree.structure(own):
                return ValueError(
                    f"config.{field.name} is {given}, and the algorithm was made with {own}; allowed are other numbers "
                    "for the same costs. Give limits when the algorithm is made, to change them later"
                )
        elif field.type not in ("float", float) and given != own:
            return ValueError(
                f"config.{field.name} is {given!r}; allowed is {own!r}, with which the algorithm was made: it decides "
                "the program, which floats and the numbers of limits do not"
            )
    raise AssertionError("configs of one structure")


def _check_made_for(algorithm: Algorithm, spec: EnvSpec) -> None:
    """Raise ValueError when an algorithm was made for an environment of other sizes."""
    for field in dataclasses.fields(spec) if algorithm.spec is not None else ():
        made, have = getattr(algorithm.spec, field.name), getattr(spec, field.name)
        if made != have and field.name not in _WORDS:
            raise ValueError(
                f"env has {field.name} {have!r}; allowed is {made!r}, for which {algorithm.name} was made "
                f"(its spec is that of {algorithm.spec.name}, this is {spec.name})"  # type: ignore[union-attr]
            )


def batch_info(spec: EnvSpec, batch: Batch) -> dict[str, Array]:
    """Metrics of a batch: the episodes that ended in it (NaN where none did), and whether its numbers are finite."""
    ended = batch.episodes
    count = jnp.where(ended.count > 0, ended.count, jnp.nan)
    info = {
        "return": spec.team_return(ended.returns) / count,
        "episodes": ended.count,
        "episode_length": ended.length / count,
        "reward_finite": jnp.isfinite(batch.steps.reward).all() & jnp.isfinite(batch.steps.cost).all(),
    }
    if spec.num_costs:
        info["cost"] = ended.costs / count
    if spec.may_break:
        info["broken_episodes"] = jnp.asarray(ended.broken)
    if spec.win_meaning:
        info["win_rate"] = ended.won / count
    return info
