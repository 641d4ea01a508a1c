"""Act, step, scan: runs any `act` function in many worlds; knows no algorithm and no network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmarl_lite import keys
from jaxmarl_lite.types import (
    Array,
    Environment,
    EpisodeStats,
    Observation,
    PyTree,
    Rollout,
    RolloutState,
    TimeStep,
    Transition,
)

Act = Callable[[Array, Observation, PyTree], tuple[Array, Array, PyTree]]


def init_rollout_state(
    env: Environment, key: Array, num_envs: int, hidden_state: PyTree
) -> RolloutState:
    """The first moment of ``num_envs`` worlds, each with a key of its own."""
    reset_key = jax.random.split(key, num_envs)
    episode = jnp.ones((num_envs,), jnp.int32)
    env_state, timestep = jax.vmap(env.reset)(jax.vmap(jax.random.fold_in)(reset_key, episode - 1))
    sizes = env.spec.num_agents, env.spec.num_costs
    return RolloutState(
        env_state,
        timestep,
        hidden_state,
        reset_key,
        episode,
        zero_episode_stats((num_envs,), *sizes),
        zero_episode_stats((), *sizes),
    )


def zero_episode_stats(lead: tuple[int, ...], agents: int, costs: int) -> EpisodeStats:
    """Sums over no episodes."""
    zeros = lambda *shape: jnp.zeros((*lead, *shape), jnp.result_type(float))  # noqa: E731
    return EpisodeStats(
        zeros(), zeros(agents), zeros(agents, costs), zeros(), zeros(agents), zeros(), zeros()
    )


ENV_FIELDS = ("agents_view", "global_state", "reward", "cost", "discount", "action_mask")
"""Fields of a time step, in the order of the bits of `env_faults`."""


def env_faults(timestep: TimeStep) -> Array:
    """Finds the fields of time steps that no learner can use.

    Args:
        timestep: of one world, or of many with leading axes.

    Returns: ``[]`` int32, the sum of ``2**i`` over the indices ``i`` of `ENV_FIELDS` that are wrong
        anywhere: a number that is not finite, or a mask that leaves an agent in play no action.
    """
    obs = timestep.obs
    numbers = (obs.agents_view, obs.global_state, timestep.reward, timestep.cost, timestep.discount)
    wrong = [~jnp.isfinite(x).all() for x in numbers] + [
        (obs.alive & ~obs.action_mask.any(-1)).any()
    ]
    return sum(
        (flag.astype(jnp.int32) << i for i, flag in enumerate(wrong)), jnp.zeros((), jnp.int32)
    )


def rollout(
    env: Environment,
    act: Act,
    acting: RolloutState,
    key: Array,
    num_steps: int,
    stagger_episodes: bool = False,
) -> tuple[RolloutState, Rollout]:
    """Take ``num_steps`` steps in every world; where an episode ends, the next one begins at once.

    The transitions keep the true last observation of every episode. The first observation of the
    next one costs a reset of all worlds, but only at the steps at which some episode ends.

    Args:
        env: the environment, of one world.
        act: ``(key, obs, hidden_state) -> (action, log_prob, hidden_state)`` for all worlds at
            once.
        acting: where the worlds stand.
        key: for the actions.
        num_steps: T.
        stagger_episodes: cut the first episode of every world at a random step, as a time limit
            would, and leave it out of the sums. Worlds whose episodes are equally long then stand
            at different steps of theirs, where otherwise every rollout would see one part of an
            episode, and most would see none end.

    Returns:
        Where the worlds then stand, and the batch ``[T, B, ...]``.
    """
    spec = env.spec
    start = acting.hidden_state
    first = 2 if stagger_episodes else 1

    def step(
        carry: tuple[RolloutState, EpisodeStats], key: Array
    ) -> tuple[tuple[RolloutState, EpisodeStats], Transition]:
        now, ended = carry
        obs = now.timestep.obs
        action, log_prob, hidden_state = act(key, obs, now.hidden_state)
        env_state, after = jax.vmap(env.step)(now.env_state, action)
        ends = after.last
        last = (
            ends | _staggered_truncation(now, spec.max_episode_steps) if stagger_episodes else ends
        )
        transition = Transition(
            obs, action, log_prob, after.reward, after.cost, after.discount, last, after.obs
        )
        running = EpisodeStats(
            now.episode_stats.count,
            now.episode_stats.returns + after.reward,
            now.episode_stats.costs + after.cost,
            now.episode_stats.lengths + 1.0,
            now.episode_stats.living_steps + obs.alive,
            _env_flag(env, "is_non_finite", env.spec.can_diverge, env_state, last),
            _env_flag(env, "is_win", bool(env.spec.win_condition), env_state, last),
        )
        counted = ends & ((now.episode_index == first) | (now.episode_index > first).all())
        finished = jax.tree.map(lambda x: jnp.where(_expand_to(counted, x), x, 0.0), running)
        finished = finished._replace(
            count=counted.astype(float), non_finite=jnp.where(ends, running.non_finite, 0.0)
        )
        ended = jax.tree.map(lambda total, x: total + x.sum(0), ended, finished)
        moved = now._replace(
            env_state=env_state, timestep=after, hidden_state=hidden_state, episode_stats=running
        )
        return (
            jax.lax.cond(last.any(), lambda: _auto_reset(env, moved, last), lambda: moved),
            ended,
        ), transition

    (acting, ended), steps = jax.lax.scan(
        step, (acting, acting.unreported), jax.random.split(key, num_steps)
    )
    acting, episodes, begun = _report(acting, ended, first)
    return acting, Rollout(steps, start, episodes, _rollout_faults(steps), begun)


def _rollout_faults(steps: Transition) -> Array:
    """`env_faults` of a whole rollout, after it, so that the loop over its steps stays short."""

    def faults_of_step(step: Transition) -> Array:
        timestep = TimeStep(step.next_obs, step.reward, step.cost, step.discount, step.last)
        # both observations, because a reset replaces the last one of an episode
        wrong = env_faults(timestep) | env_faults(timestep._replace(obs=step.obs))
        # an action that is not finite is the policy's fault, whatever the environment makes of it
        return jnp.where(jnp.isfinite(step.action).all(), wrong, 0)

    return jax.lax.reduce(jax.vmap(faults_of_step)(steps), jnp.int32(0), jax.lax.bitwise_or, (0,))


def _report(
    acting: RolloutState, ended: EpisodeStats, first: int
) -> tuple[RolloutState, EpisodeStats, EpisodeStats]:
    """Splits the sums over ended episodes into those to report now, and those to hold back.

    The first episodes to end are the short ones, whose returns and costs say nothing of the long
    ones. So each environment's episode number ``first`` is held back until the last of them has
    ended, and until then no other episode counts: an environment with short episodes would end many
    of them meanwhile.

    Returns:
        Where the environments stand, the sums to report, and `Rollout.first_episodes`.
    """
    complete = (acting.episode_index > first).all()
    episodes = jax.tree.map(lambda x: jnp.where(complete, x, 0.0), ended)
    unreported = jax.tree.map(jnp.subtract, ended, episodes)
    under_way = acting.episode_index == first
    running = acting.episode_stats._replace(count=jnp.ones_like(acting.episode_stats.count))
    begun = jax.tree.map(
        lambda x, y: x + jnp.where(_expand_to(under_way, y), y, 0.0).sum(0), unreported, running
    )
    return acting._replace(unreported=unreported), episodes, begun


def _auto_reset(env: Environment, acting: RolloutState, last: Array) -> RolloutState:
    """Begin the next episode in the worlds whose last one ended."""
    env_state, timestep = jax.vmap(env.reset)(
        jax.vmap(jax.random.fold_in)(acting.reset_key, acting.episode_index)
    )
    fresh = acting._replace(
        env_state=env_state,
        timestep=timestep,
        hidden_state=jax.tree.map(jnp.zeros_like, acting.hidden_state),
        episode_index=acting.episode_index + 1,
        episode_stats=jax.tree.map(jnp.zeros_like, acting.episode_stats),
    )

    def pick(new: Any, old: Any) -> Any:
        return jnp.where(_expand_to(last, new), new, old)

    no_copies = {
        "reset_key": (),
        "unreported": (),
    }  # the same for every environment, or no array of numbers
    picked = jax.tree.map(pick, fresh._replace(**no_copies), acting._replace(**no_copies))
    return picked._replace(reset_key=acting.reset_key, unreported=acting.unreported)


def _staggered_truncation(acting: RolloutState, max_episode_steps: int) -> Array:
    """Whether the step under way is the last of a world's first episode, so that worlds get out of
    step, ``[B]``.
    """
    share = jax.vmap(lambda key: jax.random.uniform(keys.for_purpose(key, keys.STAGGER)))(
        acting.reset_key
    )
    return (acting.episode_index == 1) & (
        acting.episode_stats.lengths + 1.0 >= jnp.ceil(share * max_episode_steps)
    )


def _env_flag(env: Environment, what: str, tells: bool, env_state: PyTree, last: Array) -> Array:
    """1 for the worlds of which the environment's own function says that they broke, or were won,
    ``[B]``.
    """
    if not tells:
        return jnp.zeros(last.shape)
    return jax.vmap(getattr(env, what))(env_state).astype(float)


def _expand_to(flag: Array, x: Array) -> Array:
    return flag.reshape(flag.shape + (1,) * (x.ndim - flag.ndim))
