"""Costs added to an environment: functions of the state, the action and the next state.

The costs of step t are ``c_k(s_t, a_t, s_{t+1})``, ``[N]`` each, joined to ``[N, K]`` after those
that the environment has. The dynamics, the reward and the ends of the episodes do not change.

Any environment with its reward paid in one sum when the episode ends: ``delayed/<name>``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.envs.errors import unknown_name_error
from jaxmarl_lite.types import Array, Environment, EnvSpec, Observation, PyTree, TimeStep
from jaxmarl_lite.validation import check_environment_object, check_limit, invalid, one_line

Limit = float | tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Cost:
    """One cost, and the extra observations that agents need to avoid it.

    Attributes:
        name: a word, as ``--cost-limit`` takes it.
        description: the quantity that is counted, with its unit.
        fn: ``(state, action, next_state) -> [N]``, numbers or bools: each agent's cost of the
            step. It is charged whether an agent is alive or not; to spare dead agents, return 0
            for them.
        limit: the expected undiscounted cost per episode that is allowed, from 0 up, one number or
            one per agent; None: no limit.
        extra_obs: ``state -> [N, X]``, appended to the agents' observations.
        extra_global_state: ``state -> [X]``, appended to the central critic's state.

    Raises:
        ValueError: for a ``fn`` that cannot be called, a name that is empty or no word, or a limit
            that is negative or no number.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.envs import Cost, make, with_costs
        >>> cost = Cost(
        ...     "early",
        ...     "actions 1 before the last step",
        ...     fn=lambda state, action, next_state: (action == 1) & (next_state.time <= 2),
        ...     extra_obs=lambda state: jnp.full((2, 1), state.time),
        ... )
        >>> env = make("toy/memory", delay=2)
        >>> with_costs(env, [cost]).spec.obs_size - env.spec.obs_size
        1
        >>> Cost("too early", cost.description, cost.fn)
        Traceback (most recent call last):
            ...
        ValueError: name is 'too early', but must be a word, without spaces or any of * = , /
    """

    name: str
    description: str
    fn: Callable[[Any, Array, Any], Array]
    limit: Limit | None = None
    extra_obs: Callable[[Any], Array] | None = None
    extra_global_state: Callable[[Any], Array] | None = None

    def __post_init__(self):
        if not callable(self.fn):
            raise invalid(
                f"fn, of cost {self.name!r}", self.fn, "a function of (state, action, next_state)"
            )
        if not isinstance(self.name, str) or not self.name or set(self.name) & set("*=,/ "):
            raise ValueError(
                f"name is {self.name!r}, but must be a word, without spaces or any of * = , /"
            )
        object.__setattr__(self, "limit", _as_limit(f"limit of cost {self.name!r}", self.limit))


def _as_limit(field: str, limit: Any) -> Limit | None:
    return None if limit is None else check_limit(field, limit)


def with_costs(env: Environment, costs: Sequence[Cost]) -> CostWrapper:
    """Returns the environment with further costs, after those that it may already have.

    Where only some costs have limits, the limit of the others is infinite in ``spec.cost_limits``;
    where none has, ``cost_limits`` is None.

    Args:
        env: any environment; the states of the result are this environment's.
        costs: a list or tuple of at least one cost.

    Returns:
        An environment whose ``TimeStep.cost`` is ``[N, K + len(costs)]`` for an environment with K
        costs.

    Raises:
        ValueError: that names the cost and what is allowed: no costs, a name that occurs twice, a
            cost that cannot be traced or whose shape is not ``[N]``, an extra observation or state
            of a wrong shape, or a wrong number of limits per agent.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxmarl_lite.envs import Cost, make, with_costs
        >>> effort = Cost(
        ...     "effort",
        ...     "steps in which an agent takes action 1",
        ...     fn=lambda state, action, next_state: action == 1,
        ...     limit=2.0,
        ... )
        >>> env = with_costs(make("toy/memory", delay=2), [effort])
        >>> env.spec.cost_names, env.spec.cost_limits
        (('effort',), (2.0,))
        >>> state, timestep = env.reset(jax.random.key(0))
        >>> state, timestep = env.step(state, jnp.array([0, 1]))
        >>> timestep.cost.tolist()
        [[0.0], [1.0]]
    """
    check_environment_object(env)
    if not isinstance(costs, (list, tuple)):
        raise invalid("costs", costs, "a list of Cost objects")
    return CostWrapper(env, tuple(costs))


@dataclasses.dataclass(frozen=True)
class CostWrapper:
    """An environment with costs; built by `with_costs`.

    ``animate``, ``is_non_finite``, ``is_win`` and ``unwrapped`` are the inner environment's.

    Attributes:
        env: the inner environment.
        costs: the costs that the wrapper adds.

    Raises:
        ValueError: as in `with_costs`.
    """

    env: Environment
    costs: tuple[Cost, ...]

    def __post_init__(self):
        _check_costs(self.env.spec, self.costs)
        _ = self.spec  # traces the cost functions, and so finds wrong shapes

    def __getattr__(self, name: str) -> Any:
        if name in ("animate", "is_non_finite", "is_win", "unwrapped"):
            return getattr(self.env, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def spec(self) -> EnvSpec:
        """The inner environment's spec, with the costs, their limits and the extra entries.

        The extra entries are those of the agents' observations and of the central critic's state.
        """
        inner_spec = self.env.spec
        # tracing takes time, and the inner environment may have been changed since the last call
        if self._specs.get("inner") != inner_spec:
            self._specs.update(inner=inner_spec, joined=self._joined_spec(inner_spec))
        return self._specs["joined"]

    @functools.cached_property
    def _specs(self) -> dict[str, EnvSpec]:
        """The inner environment's spec, and the joined one that was built from it."""
        return {}

    def _joined_spec(self, inner_spec: EnvSpec) -> EnvSpec:
        costs = self.costs
        extra_obs_size, extra_state_size = _extra_sizes(self.env, costs)
        return dataclasses.replace(
            inner_spec,
            obs_size=inner_spec.obs_size + extra_obs_size,
            global_state_size=inner_spec.global_state_size + extra_state_size,
            cost_names=(*inner_spec.cost_names, *(cost.name for cost in costs)),
            cost_descriptions=(
                *(inner_spec.cost_descriptions or inner_spec.cost_names),
                *(cost.description for cost in costs),
            ),
            cost_limits=_joined_limits(inner_spec, costs),
        )

    def reset(self, key: Array) -> tuple[PyTree, TimeStep]:
        """Begins an episode of the inner environment; every added cost is 0.

        Args:
            key: typed random key.

        Returns:
            The inner environment's state and the first time step.
        """
        state, timestep = self.env.reset(key)
        added = jnp.zeros((self.env.spec.num_agents, len(self.costs)), timestep.cost.dtype)
        return state, self._join(state, timestep, added)

    def step(self, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        """Takes one joint action, and computes its costs.

        Args:
            state: the inner environment's state.
            action: ``[N]`` int when discrete, ``[N, A]`` float when continuous.

        Returns:
            The inner environment's next state and the time step.
        """
        next_state, timestep = self.env.step(state, action)
        added = jnp.stack(
            [cost.fn(state, action, next_state).astype(float) for cost in self.costs], axis=-1
        )  # [N, K]
        return next_state, self._join(next_state, timestep, added)

    def _join(self, state: PyTree, timestep: TimeStep, added: Array) -> TimeStep:
        cost = jnp.concatenate([timestep.cost, added], axis=-1)
        return timestep._replace(obs=self._observe(state, timestep.obs), cost=cost)

    def _observe(self, state: PyTree, obs: Observation) -> Observation:
        extra_obs = [
            cost.extra_obs(state).astype(float) for cost in self.costs if cost.extra_obs is not None
        ]
        extra_states = [
            cost.extra_global_state(state).astype(float)
            for cost in self.costs
            if cost.extra_global_state is not None
        ]
        agents_view = jnp.concatenate([obs.agents_view, *extra_obs], axis=-1)
        return obs._replace(
            agents_view=agents_view, global_state=jnp.concatenate([obs.global_state, *extra_states])
        )


def with_limits(costs: tuple[Cost, ...], limit: Any) -> tuple[Cost, ...]:
    """Returns the costs with other limits.

    Args:
        costs: the costs.
        limit: a mapping from names of costs to limits; a limit, where there is one cost; None
            keeps every limit.

    Returns:
        The costs; those that the mapping does not name keep their limits.

    Raises:
        ValueError: for a name that no cost has, or a limit without a name for several costs.
    """
    if limit is None:
        return costs
    names = [cost.name for cost in costs]
    if not isinstance(limit, Mapping):
        if len(costs) > 1:
            allowed = f"a mapping from any of {', '.join(names)} to limits"
            raise ValueError(f"cost_limit is {limit!r}, but must be {allowed}")
        limit = {names[0]: limit}
    for name in limit:
        if name not in names:
            raise unknown_name_error("cost in cost_limit:", name, names)
    return tuple(
        dataclasses.replace(cost, limit=limit.get(cost.name, cost.limit)) for cost in costs
    )


def _check_costs(inner_spec: EnvSpec, costs: tuple[Cost, ...]) -> None:
    """Checks that costs exist, that their names differ, and the number of limits per agent."""
    if not costs:
        raise ValueError("costs is empty, but must hold at least one Cost")
    names = list(inner_spec.cost_names)
    for cost in costs:
        if not isinstance(cost, Cost):
            raise ValueError(f"costs holds a {type(cost).__name__}, but must hold Cost objects")
        if cost.name in names:
            taken = ", ".join(names)
            raise ValueError(
                f"name of a cost is {cost.name!r}, but must differ from those there already: "
                f"{taken}"
            )
        names.append(cost.name)
        if isinstance(cost.limit, tuple) and len(cost.limit) != inner_spec.num_agents:
            raise ValueError(
                f"limit of cost {cost.name!r} is {cost.limit!r}, but must be one number or "
                f"{inner_spec.num_agents}, one per agent of {inner_spec.name}"
            )


def _joined_limits(inner_spec: EnvSpec, costs: tuple[Cost, ...]) -> tuple[Limit, ...] | None:
    """Returns the limits of the inner environment's and the added costs; None if none has one."""
    inner_limits = inner_spec.cost_limits or (None,) * inner_spec.num_costs
    limits = (*inner_limits, *(cost.limit for cost in costs))
    if all(limit is None for limit in limits):
        return None
    return tuple(math.inf if limit is None else limit for limit in limits)


def _extra_sizes(env: Environment, costs: tuple[Cost, ...]) -> tuple[int, int]:
    """Returns the entries that costs add to observation and state; checks shapes by tracing."""
    inner_spec = env.spec
    num_agents = inner_spec.num_agents
    state, _ = jax.eval_shape(env.reset, jax.eval_shape(jax.random.key, 0))
    discrete = inner_spec.action_type == "discrete"
    shape, dtype = (
        ((num_agents,), jnp.int32)
        if discrete
        else ((num_agents, inner_spec.action_size), jnp.result_type(float))
    )
    action = jax.ShapeDtypeStruct(shape, dtype)
    obs_size = state_size = 0
    for cost in costs:
        # `step` keeps the form of the state, so that the first state stands for the next one too
        _last_axis_size(f"cost {cost.name!r}", cost.fn, (num_agents,), "[N]", state, action, state)
        if cost.extra_obs is not None:
            obs_size += _last_axis_size(
                f"extra_obs of cost {cost.name!r}",
                cost.extra_obs,
                (num_agents, None),
                "[N, X]",
                state,
            )
        if cost.extra_global_state is not None:
            state_size += _last_axis_size(
                f"extra_global_state of cost {cost.name!r}",
                cost.extra_global_state,
                (None,),
                "[X]",
                state,
            )
    return obs_size, state_size


def _last_axis_size(
    name: str,
    function: Callable[..., Array],
    shape: tuple[int | None, ...],
    letters: str,
    *args: PyTree,
) -> int:
    """Returns the size of the last axis of a function's result, found by tracing.

    Raises ValueError where the result does not have the given shape; None stands for any size.
    """
    try:
        result = jax.eval_shape(function, *args)
    except Exception as error:
        raise ValueError(f"{name} cannot be traced ({one_line(error)})") from error
    actual_shape = getattr(result, "shape", ())
    if len(actual_shape) != len(shape) or any(
        size not in (None, actual) for size, actual in zip(shape, actual_shape, strict=True)
    ):
        kind = (
            f"of shape {actual_shape}" if hasattr(result, "shape") else f"a {type(result).__name__}"
        )
        expected = ", ".join("X" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} is {kind}, but must be an array {letters}, here [{expected}]")
    return int(result.shape[-1])


class DelayedRewardState(NamedTuple):
    """The state of a delayed-reward episode.

    Attributes:
        inner: the inner environment's state.
        pending_reward: ``[N]``, the reward owed to each agent.
    """

    inner: PyTree
    pending_reward: Array


@dataclasses.dataclass(frozen=True)
class DelayedRewardWrapper:
    """An environment that pays each agent the sum of an episode's rewards at its last step.

    Returns, ends and costs do not change. The reward owed so far, N numbers, is added to the state
    that a central critic sees, but not to the agents' observations. ``animate``,
    ``is_non_finite``, ``is_win`` and ``unwrapped`` are the inner environment's.

    Attributes:
        env: the inner environment.
    """

    env: Environment

    def __getattr__(self, name: str) -> Any:
        forwarded = {
            "animate": self._forward_animate,
            "is_non_finite": self._forward_flag,
            "is_win": self._forward_flag,
            "unwrapped": getattr,
        }
        forward = forwarded.get(name)
        if forward is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return forward(self.env, name)

    @staticmethod
    def _forward_flag(env: Environment, name: str) -> Callable[[DelayedRewardState], Array]:
        """Returns the inner method ``is_non_finite`` or ``is_win``, for this wrapper's states."""
        return lambda state: getattr(env, name)(state.inner)

    @staticmethod
    def _forward_animate(env: Environment, name: str) -> Callable[..., Any]:
        """Returns the inner method ``animate``, for this wrapper's states."""
        animate_inner = getattr(env, name)

        @functools.wraps(animate_inner)
        def animate(states: Sequence[DelayedRewardState], *args: Any, **keywords: Any) -> Any:
            return animate_inner([state.inner for state in states], *args, **keywords)

        return animate

    @property
    def spec(self) -> EnvSpec:
        """The inner environment's spec, with N more entries of the central critic's state."""
        inner_spec = self.env.spec
        return dataclasses.replace(
            inner_spec,
            name=f"delayed/{inner_spec.name}",
            global_state_size=inner_spec.global_state_size + inner_spec.num_agents,
        )

    def reset(self, key: Array) -> tuple[DelayedRewardState, TimeStep]:
        """Begins an episode; no reward is owed.

        Args:
            key: typed random key.

        Returns:
            The state and the first time step.
        """
        inner, timestep = self.env.reset(key)
        state = DelayedRewardState(inner, jnp.zeros_like(timestep.reward))
        return state, self._append_pending(state, timestep)

    def step(self, state: DelayedRewardState, action: Array) -> tuple[DelayedRewardState, TimeStep]:
        """Takes one joint action; the reward is 0 until the last step, which pays the sum.

        Args:
            state: the state of the episode.
            action: ``[N]`` int when discrete, ``[N, A]`` float when continuous.

        Returns:
            The next state and the time step.
        """
        inner, timestep = self.env.step(state.inner, action)
        owed = state.pending_reward + timestep.reward
        paid = jnp.where(timestep.last, owed, 0.0)
        # a debt still visible after a time limit would be bootstrapped from, and grow without bound
        state = DelayedRewardState(inner, owed - paid)
        return state, self._append_pending(state, timestep._replace(reward=paid))

    def _append_pending(self, state: DelayedRewardState, timestep: TimeStep) -> TimeStep:
        """Appends the reward owed to the central critic's state."""
        global_state = jnp.concatenate(
            [
                timestep.obs.global_state,
                state.pending_reward.astype(timestep.obs.global_state.dtype),
            ]
        )
        return timestep._replace(obs=timestep.obs._replace(global_state=global_state))
