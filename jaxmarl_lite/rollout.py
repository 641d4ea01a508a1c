"""Rollouts: run any `act` function in many environments, independent of algorithm and network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite import keys, platforms
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

_BeginNext = Callable[[RolloutState, Array], RolloutState]
"""``(state, last) -> state``: begins the next episode where ``last`` is true."""

_LONGEST_CHUNK = 8
"""Most steps of an accelerator between two resets of all environments."""

Act = Callable[[Array, Observation, PyTree], tuple[Array, Array, PyTree]]
"""``(key, obs, hidden_state) -> (action, log_prob, hidden_state)``; all but the key lead with B."""


def init_rollout_state(
    env: Environment, key: Array, num_envs: int, hidden_state: PyTree
) -> RolloutState:
    """Returns the state of ``num_envs`` environments at the start of their first episodes.

    Args:
        env: One environment.
        key: A random key; every environment gets a key of its own from it.
        num_envs: B, number of parallel environments.
        hidden_state: ``[B, ...]``, hidden state of the policy at the start of an episode.

    Returns:
        The `RolloutState`, whose leaves lead with ``[B]``.
    """
    reset_key = jax.random.split(key, num_envs)
    episode_index = jnp.ones((num_envs,), jnp.int32)
    env_state, timestep = jax.vmap(env.reset)(
        jax.vmap(jax.random.fold_in)(reset_key, episode_index - 1)
    )
    sizes = env.spec.num_agents, env.spec.num_costs
    return RolloutState(
        env_state,
        timestep,
        hidden_state,
        reset_key,
        episode_index,
        zero_episode_stats((num_envs,), *sizes),
        zero_episode_stats((), *sizes),
    )


def zero_episode_stats(
    leading_shape: tuple[int, ...], num_agents: int, num_costs: int
) -> EpisodeStats:
    """Returns the sums over no episodes.

    Args:
        leading_shape: Axes before those of `EpisodeStats`, such as ``(B,)``.
        num_agents: Number of agents, N.
        num_costs: Number of costs, K.

    Returns:
        An `EpisodeStats` of zeros, with leaves ``[*leading_shape, ...]``.
    """

    def zeros(*shape: int) -> Array:
        return jnp.zeros((*leading_shape, *shape), jnp.result_type(float))

    return EpisodeStats(
        zeros(),
        zeros(num_agents),
        zeros(num_agents, num_costs),
        zeros(),
        zeros(num_agents),
        zeros(),
        zeros(),
        zeros(num_agents, num_costs),
    )


ENV_FIELDS = ("agents_view", "global_state", "reward", "cost", "discount", "action_mask")
"""Fields of a time step, in the order of the bits of `env_faults`."""


def env_faults(timestep: TimeStep) -> Array:
    """Finds the fields of time steps that no learner can use.

    Args:
        timestep: Time step of one environment, or of many with leading axes.

    Returns:
        ``[]`` int32, the sum of ``2**i`` over the indices ``i`` of `ENV_FIELDS` that are wrong
        anywhere: a number that is not finite, or a mask that leaves an agent in play no action.
    """
    obs = timestep.obs
    numbers = (obs.agents_view, obs.global_state, timestep.reward, timestep.cost, timestep.discount)
    flags = [~jnp.isfinite(x).all() for x in numbers] + [
        (obs.alive & ~obs.action_mask.any(-1)).any()
    ]
    return sum(
        (flag.astype(jnp.int32) << i for i, flag in enumerate(flags)), jnp.zeros((), jnp.int32)
    )


def rollout(
    env: Environment,
    act: Act,
    rollout_state: RolloutState,
    key: Array,
    num_steps: int,
    stagger_episodes: bool = False,
) -> tuple[RolloutState, Rollout]:
    """Takes ``num_steps`` steps in every environment; an episode that ends is followed by the next.

    The transitions keep the true last observation of every episode. On a CPU the first observation
    of the next one costs a reset of all environments, but only at the steps at which some episode
    ends. An accelerator, which waits for the start of every kernel, resets all environments several
    times at once before every few steps, if some of these beginnings were used since.

    Args:
        env: One environment.
        act: ``(key, obs, hidden_state) -> (action, log_prob, hidden_state)`` for all B environments
            at once.
        rollout_state: State of the environments before the first step.
        key: Random key of the actions.
        num_steps: Number of steps, T.
        stagger_episodes: Cut the first episode of every environment at a random step, as a time
            limit would, and leave it out of the sums. Environments whose episodes are equally long
            then are at different steps of them; otherwise every rollout would see one part of an
            episode, and most would see none end.

    Returns:
        The state of the environments after the last step, and the batch ``[T, B, ...]``.
    """
    spec = env.spec
    sizes = spec.num_agents, spec.num_costs
    initial_hidden_state = rollout_state.hidden_state
    # index of the first episode that counts in the sums: a staggered one (the first) is left out
    first = 2 if stagger_episodes else 1

    columns = np.repeat(EpisodeStats._fields, [math.prod(shape) for shape in _stats_shapes(*sizes)])
    # the others are known at the end of an episode
    is_summed = ~np.isin(columns, ("count", "non_finite", "wins", "squared_costs"))
    is_non_finite = columns == "non_finite"  # counts in every episode

    def step(carry: _Carry, key: Array, begin_next: _BeginNext) -> tuple[_Carry, Transition]:
        state = carry.state
        obs = state.timestep.obs
        action, log_prob, hidden_state = act(key, obs, state.hidden_state)
        with jax.named_scope("environment"):
            env_state, timestep = jax.vmap(env.step)(state.env_state, action)
        episode_ends = timestep.last
        last = (
            episode_ends
            | _staggered_truncation(
                state, _to_stats(carry.stats, *sizes).lengths, spec.max_episode_steps
            )
            if stagger_episodes
            else episode_ends
        )
        transition = Transition(
            obs,
            action,
            log_prob,
            timestep.reward,
            timestep.cost,
            timestep.discount,
            last,
            timestep.obs,
        )
        # until all environments have ended episode `first`, later episodes do not count: `_report`
        counted = episode_ends & (
            (state.episode_index == first) | (state.episode_index > first).all()
        )
        of_step = EpisodeStats(
            jnp.ones_like(timestep.discount),
            timestep.reward,
            timestep.cost,
            jnp.ones_like(timestep.discount),
            obs.alive,
            _env_flag(env, "is_non_finite", env.spec.can_diverge, env_state, last),
            _env_flag(env, "is_win", bool(env.spec.win_condition), env_state, last),
            jnp.zeros_like(timestep.cost),
        )
        running = jnp.where(is_summed, carry.stats, 0.0) + _to_vector(of_step)
        if spec.num_costs:
            squares = running[:, columns == "costs"] ** 2
            running = jnp.concatenate([running[:, columns != "squared_costs"], squares], -1)
        finished = jnp.where(is_non_finite, episode_ends[:, None], counted[:, None])
        ended_stats = carry.ended_stats + jnp.where(finished, running, 0.0).sum(0)
        next_state = state._replace(
            env_state=env_state, timestep=timestep, hidden_state=hidden_state
        )
        stats = jnp.where(last[:, None], 0.0, running)
        return _Carry(begin_next(next_state, last), stats, ended_stats), transition

    no_stats = {"episode_stats": ()}
    carry = _Carry(
        rollout_state._replace(**no_stats),
        _to_vector(rollout_state.episode_stats),
        _to_vector(rollout_state.unreported),
    )
    step_keys = jax.random.split(key, num_steps)
    length = max(n for n in range(1, _LONGEST_CHUNK + 1) if num_steps % n == 0)
    if platforms.current() == "cpu" or length == 1:

        def reset_where_needed(state: RolloutState, last: Array) -> RolloutState:
            return jax.lax.cond(last.any(), lambda: _auto_reset(env, state, last), lambda: state)

        carry, transitions = jax.lax.scan(
            lambda carry, key: step(carry, key, reset_where_needed), carry, step_keys
        )
    else:
        packing = _Packing()

        def chunk(
            carry: tuple[_Carry, _Starts], chunk_keys: Array
        ) -> tuple[tuple[_Carry, _Starts], list[Array]]:
            inner, starts = carry
            starts = jax.lax.cond(
                (inner.state.episode_index != starts.first).any(),
                lambda: _prepare_starts(env, inner.state, length),
                lambda: starts,
            )

            def packed_step(carry: _Carry, key: Array) -> tuple[_Carry, list[Array]]:
                carry, transition = step(carry, key, starts.begin)
                return carry, packing.pack(transition)

            inner, packed = jax.lax.scan(packed_step, inner, chunk_keys)
            return (inner, starts), packed

        chunks = num_steps // length
        (carry, _), packed = jax.lax.scan(
            chunk,
            (carry, _prepare_starts(env, carry.state, length)),
            step_keys.reshape(chunks, length),
        )
        transitions = packing.unpack([x.reshape(num_steps, *x.shape[2:]) for x in packed])
    stats = _to_stats(carry.stats, *sizes)
    rollout_state = carry.state._replace(
        episode_stats=stats._replace(count=jnp.zeros_like(stats.count))
    )
    ended_stats = _to_stats(carry.ended_stats, *sizes)
    rollout_state, episode_stats, first_episodes = _report(rollout_state, ended_stats, first)
    return rollout_state, Rollout(
        transitions,
        initial_hidden_state,
        episode_stats,
        _rollout_faults(transitions),
        first_episodes,
    )


class _Carry(NamedTuple):
    """What a step hands on to the next.

    Attributes:
        state: States of the environments, whose ``episode_stats`` are ().
        stats: ``[B, F]``, sums of the running episodes, see `_to_vector`.
        ended_stats: ``[F]``, sums over the episodes that ended.
    """

    state: RolloutState
    stats: Array
    ended_stats: Array


def _to_vector(stats: EpisodeStats) -> Array:
    """Returns the F numbers of `EpisodeStats` as one array, so that a step adds to one array.

    The leading axes, ``[B]`` or none, are those of the count.
    """
    lead = stats.count.shape
    return jnp.concatenate([jnp.reshape(x, (*lead, -1)).astype(float) for x in stats], -1)


def _stats_shapes(num_agents: int, num_costs: int) -> list[tuple[int, ...]]:
    """Returns the shape of each field of `EpisodeStats`, without leading axes."""
    stats = jax.eval_shape(lambda: zero_episode_stats((), num_agents, num_costs))
    return [x.shape for x in stats]


def _to_stats(vector: Array, num_agents: int, num_costs: int) -> EpisodeStats:
    """Returns the inverse of `_to_vector`."""
    shapes = _stats_shapes(num_agents, num_costs)
    ends = list(itertools.accumulate(math.prod(shape) for shape in shapes))
    parts = (
        vector[..., end - math.prod(shape) : end] for end, shape in zip(ends, shapes, strict=True)
    )
    return EpisodeStats(
        *(x.reshape(*x.shape[:-1], *shape) for x, shape in zip(parts, shapes, strict=True))
    )


class _Packing:
    """Joins the arrays of a step to one array of each type, and takes the steps apart again.

    An accelerator starts a kernel for every array that a step stores.
    """

    def __init__(self) -> None:
        self._forms: list[jax.ShapeDtypeStruct] = []
        self._structure: Any = None

    def pack(self, tree: PyTree) -> list[Array]:
        """Returns arrays ``[B, ...]`` of a step as arrays ``[B, F]``, one of each type."""
        leaves, self._structure = jax.tree.flatten(tree)
        self._forms = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
        return [
            jnp.concatenate([x.reshape(len(x), -1) for x in leaves if x.dtype == dtype], -1)
            for dtype in self._dtypes()
        ]

    def unpack(self, packed: list[Array]) -> PyTree:
        """Returns the arrays ``[T, B, ...]`` of all steps from those that `pack` returned."""
        by_dtype = dict(zip(self._dtypes(), packed, strict=True))
        ends, leaves = dict.fromkeys(by_dtype, 0), []
        for form in self._forms:
            begin = ends[form.dtype]
            ends[form.dtype] += math.prod(form.shape[1:])
            part = by_dtype[form.dtype][..., begin : ends[form.dtype]]
            leaves.append(part.reshape(*part.shape[:2], *form.shape[1:]))
        return jax.tree.unflatten(self._structure, leaves)

    def _dtypes(self) -> list[Any]:
        return list(dict.fromkeys(form.dtype for form in self._forms))


def _rollout_faults(transitions: Transition) -> Array:
    """Computes `env_faults` of a whole rollout, after it: the loop over its steps stays short."""

    def faults_of_step(step: Transition) -> Array:
        timestep = TimeStep(step.next_obs, step.reward, step.cost, step.discount, step.last)
        # both observations, because a reset replaces the last one of an episode
        faults = env_faults(timestep) | env_faults(timestep._replace(obs=step.obs))
        # an action that is not finite is the policy's fault, whatever the environment makes of it
        return jnp.where(jnp.isfinite(step.action).all(), faults, 0)

    faults = jax.vmap(faults_of_step)(transitions)
    return jax.lax.reduce(faults, jnp.int32(0), jax.lax.bitwise_or, (0,))


def _report(
    rollout_state: RolloutState, ended_stats: EpisodeStats, first: int
) -> tuple[RolloutState, EpisodeStats, EpisodeStats]:
    """Splits the sums over ended episodes into those to report now, and those to hold back.

    The first episodes to end are the short ones, whose returns and costs say nothing of the long
    ones. So episode number ``first`` of each environment is held back until the last of them has
    ended, and until then no other episode counts: an environment with short episodes would end many
    of them meanwhile.

    Args:
        rollout_state: State of the environments after a rollout.
        ended_stats: Sums over the episodes that ended, with those held back before.
        first: Index of the first episode that counts, 1 or 2.

    Returns:
        The state of the environments with the sums held back, the sums to report, and
        `Rollout.first_episodes`.
    """
    complete = (rollout_state.episode_index > first).all()
    reported = jax.tree.map(lambda x: jnp.where(complete, x, 0.0), ended_stats)
    unreported = jax.tree.map(jnp.subtract, ended_stats, reported)
    in_first = rollout_state.episode_index == first
    running = rollout_state.episode_stats._replace(
        count=jnp.ones_like(rollout_state.episode_stats.count)
    )
    first_episodes = jax.tree.map(
        lambda x, y: x + jnp.where(_expand_to(in_first, y), y, 0.0).sum(0), unreported, running
    )
    return rollout_state._replace(unreported=unreported), reported, first_episodes


class _Starts(NamedTuple):
    """Beginnings of the next C episodes of every environment.

    Attributes:
        env_state: States of the environments, ``[B, C, ...]``.
        timestep: First time steps, ``[B, C, ...]``.
        first: ``[B]`` int, index of the first of these episodes.
    """

    env_state: PyTree
    timestep: TimeStep
    first: Array

    @jax.named_scope("reset")
    def begin(self, rollout_state: RolloutState, last: Array) -> RolloutState:
        """Begins the next episode in the environments whose episode ended (``last``, ``[B]``)."""
        place = rollout_state.episode_index - self.first

        def choose(x: Array) -> Array:
            # no gather, for which environments spread over devices would be collected on each
            chosen = x[:, 0]
            for i in range(1, x.shape[1]):
                chosen = jnp.where(_expand_to(place == i, chosen), x[:, i], chosen)
            return chosen

        env_state, timestep = jax.tree.map(choose, (self.env_state, self.timestep))
        return _begin_episodes(rollout_state, last, env_state, timestep)


@jax.named_scope("reset")
def _prepare_starts(env: Environment, rollout_state: RolloutState, count: int) -> _Starts:
    """Resets every environment as often as it can end an episode in ``count`` steps."""
    first = rollout_state.episode_index
    index = first[:, None] + jnp.arange(count, dtype=jnp.int32)[None]
    # one axis of environments, not two: XLA divides a sort among devices along the first alone
    starts = _reset(env, jnp.repeat(rollout_state.reset_key, count), index.reshape(-1))
    env_state, timestep = jax.tree.map(lambda x: x.reshape(*index.shape, *x.shape[1:]), starts)
    return _Starts(env_state, timestep, first)


def _reset(env: Environment, reset_key: Array, episode_index: Array) -> tuple[PyTree, TimeStep]:
    """Returns the beginning of an episode of every environment."""
    return jax.vmap(env.reset)(jax.vmap(jax.random.fold_in)(reset_key, episode_index))


@jax.named_scope("reset")
def _auto_reset(env: Environment, rollout_state: RolloutState, last: Array) -> RolloutState:
    """Begins the next episode in the environments whose episode ended (``last``, ``[B]`` bool)."""
    start = _reset(env, rollout_state.reset_key, rollout_state.episode_index)
    return _begin_episodes(rollout_state, last, *start)


def _begin_episodes(
    rollout_state: RolloutState, last: Array, env_state: PyTree, timestep: TimeStep
) -> RolloutState:
    """Puts the beginnings of episodes in the place of those that ended (``last``, ``[B]``)."""
    fresh = rollout_state._replace(
        env_state=env_state,
        timestep=timestep,
        hidden_state=jax.tree.map(jnp.zeros_like, rollout_state.hidden_state),
        episode_index=rollout_state.episode_index + 1,
    )

    def pick(new: Array, old: Array) -> Array:
        return jnp.where(_expand_to(last, new), new, old)

    # the same for every environment, or no array of numbers
    excluded = {"reset_key": (), "unreported": ()}
    picked = jax.tree.map(pick, fresh._replace(**excluded), rollout_state._replace(**excluded))
    return picked._replace(reset_key=rollout_state.reset_key, unreported=rollout_state.unreported)


def _staggered_truncation(
    rollout_state: RolloutState, lengths: Array, max_episode_steps: int
) -> Array:
    """Returns whether this step is the last of a staggered first episode, ``[B]`` bool.

    ``lengths`` ``[B]`` are the steps of the running episodes before this one.

    The cut falls at a random share of the episode limit, so that environments get out of step.
    """
    share = jax.vmap(lambda key: jax.random.uniform(keys.for_purpose(key, keys.STAGGER)))(
        rollout_state.reset_key
    )
    return (rollout_state.episode_index == 1) & (
        lengths + 1.0 >= jnp.ceil(share * max_episode_steps)
    )


def _env_flag(
    env: Environment, method: str, is_defined: bool, env_state: PyTree, last: Array
) -> Array:
    """Returns 1.0 where a method of the environment, such as ``is_win``, is true, ``[B]``.

    Zeros of the shape of ``last`` where the environment does not define the method.
    """
    if not is_defined:
        return jnp.zeros(last.shape)
    return jax.vmap(getattr(env, method))(env_state).astype(float)


def _expand_to(flag: Array, x: Array) -> Array:
    """Appends axes of length 1 to ``flag`` until it has as many as ``x``."""
    return flag.reshape(flag.shape + (1,) * (x.ndim - flag.ndim))
