"""Costs put on an environment from outside: functions of the state, the action and the next state.

The costs of step t are ``c_k(s_t, a_t, s_{t+1})``, ``[N]`` each, joined to ``[N, K]`` behind those
the environment has. The dynamics, the reward and the ends of the episodes stay what they are.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxmarl_lite.types import Array, Environment, EnvSpec, Observation, TimeStep
from jaxmarl_lite.validation import check_environment_object, check_limit, invalid, one_line

Limit = float | tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Cost:
    """One cost, and what must be seen to avoid it.

    name: a word, as ``--cost-limit`` takes it.
    description: what is counted, with its unit.
    fn: ``(state, action, next_state) -> [N]``, numbers or bools: each agent's cost of the step. It
        is charged whether an agent is alive or not; where the dead are to be spared, say so in the
        function.
    limit: the expected undiscounted cost per episode that is allowed, one number or one per agent;
    None: no limit.
    extra_obs: ``state -> [N, X]``, appended to the agents' views.
    extra_global_state: ``state -> [X]``, appended to the central state.

    Raises ValueError for an empty name, or a limit that is negative or no number.
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


def _as_limit(field: str, given: Any) -> Limit | None:
    return None if given is None else check_limit(field, given)


def with_costs(env: Environment, costs: Sequence[Cost]) -> CostWrapper:
    """The environment with further costs, behind those that it may have already.

    env: any environment; its own states are those of the result. costs: at least one. Limits of
    some costs only: the others' limit is infinite in ``spec.cost_limits``; of none: ``cost_limits``
    is None. Raises ValueError, naming the cost and what is allowed: no costs, a name that is there
    twice, a cost that cannot be traced or has another shape than ``[N]``, a view or state of a
    wrong shape, a wrong number of limits per agent.
    """
    check_environment_object(env)
    if not isinstance(costs, (list, tuple)):
        raise invalid("costs", costs, "a list of Cost objects")
    return CostWrapper(env, tuple(costs))


@dataclasses.dataclass(frozen=True)
class CostWrapper:
    """An environment with costs; built by `with_costs`. ``animate`` and ``unwrapped`` are the inner
    environment's.
    """

    env: Any
    costs: tuple[Cost, ...]

    def __post_init__(self):
        _check_names(self.env.spec, self.costs)
        self.spec  # noqa: B018  traces, and so finds wrong shapes

    def __getattr__(self, name: str) -> Any:
        if name in ("animate", "is_non_finite", "is_win", "unwrapped"):
            return getattr(self.env, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def spec(self) -> EnvSpec:
        """The inner environment's, with the costs, their limits and what they add to view and
        state.
        """
        inner = self.env.spec
        if self._specs.get("inner") != inner:  # tracing takes time, and it may have been changed
            self._specs.update(inner=inner, joined=self._joined_spec(inner))
        return self._specs["joined"]

    @functools.cached_property
    def _specs(self) -> dict[str, EnvSpec]:
        """The inner environment's spec, and the one made of it."""
        return {}

    def _joined_spec(self, inner: EnvSpec) -> EnvSpec:
        costs = self.costs
        view, whole = _added_sizes(self.env, costs)
        return dataclasses.replace(
            inner,
            obs_size=inner.obs_size + view,
            global_state_size=inner.global_state_size + whole,
            cost_names=(*inner.cost_names, *(cost.name for cost in costs)),
            cost_descriptions=(
                *(inner.cost_descriptions or inner.cost_names),
                *(cost.description for cost in costs),
            ),
            cost_limits=_joined_limits(inner, costs),
        )

    def reset(self, key: Array) -> tuple[Any, TimeStep]:
        """Begin an episode of the inner environment; nothing costs anything yet."""
        state, timestep = self.env.reset(key)
        added = jnp.zeros((self.env.spec.num_agents, len(self.costs)), timestep.cost.dtype)
        return state, self._joined(state, timestep, added)

    def step(self, state: Any, action: Array) -> tuple[Any, TimeStep]:
        """Take one joint action, and count what it cost."""
        after, timestep = self.env.step(state, action)
        added = jnp.stack(
            [cost.fn(state, action, after).astype(float) for cost in self.costs], axis=-1
        )  # [N, K]
        return after, self._joined(after, timestep, added)

    def _joined(self, state: Any, timestep: TimeStep, added: Array) -> TimeStep:
        cost = jnp.concatenate([timestep.cost, added], axis=-1)
        return timestep._replace(obs=self._observe(state, timestep.obs), cost=cost)

    def _observe(self, state: Any, obs: Observation) -> Observation:
        views = [
            cost.extra_obs(state).astype(float) for cost in self.costs if cost.extra_obs is not None
        ]
        states = [
            cost.extra_global_state(state).astype(float)
            for cost in self.costs
            if cost.extra_global_state is not None
        ]
        view = jnp.concatenate([obs.agents_view, *views], axis=-1)
        return obs._replace(
            agents_view=view, global_state=jnp.concatenate([obs.global_state, *states])
        )


def _check_names(inner: EnvSpec, costs: tuple[Cost, ...]) -> None:
    if not costs:
        raise ValueError("costs is empty, but must hold at least one Cost")
    seen = list(inner.cost_names)
    for cost in costs:
        if not isinstance(cost, Cost):
            raise ValueError(f"costs holds a {type(cost).__name__}, but must hold Cost objects")
        if cost.name in seen:
            taken = ", ".join(seen)
            raise ValueError(
                f"name of a cost is {cost.name!r}, but must differ from those there already: "
                f"{taken}"
            )
        seen.append(cost.name)
        if isinstance(cost.limit, tuple) and len(cost.limit) != inner.num_agents:
            found = f"limit of cost {cost.name!r} is {cost.limit!r}"
            raise ValueError(
                f"{found}, but must be one number or {inner.num_agents}, one per agent of "
                f"{inner.name}"
            )


def _joined_limits(inner: EnvSpec, costs: tuple[Cost, ...]) -> tuple[Limit, ...] | None:
    own = inner.cost_limits or (None,) * inner.num_costs
    limits = (*own, *(cost.limit for cost in costs))
    if all(limit is None for limit in limits):
        return None
    return tuple(math.inf if limit is None else limit for limit in limits)


def _added_sizes(env: Any, costs: tuple[Cost, ...]) -> tuple[int, int]:
    """Entries that the costs add to the view and to the state; checks every shape by tracing."""
    inner = env.spec
    n = inner.num_agents
    state, _ = jax.eval_shape(env.reset, jax.eval_shape(jax.random.key, 0))
    discrete = inner.action_type == "discrete"
    shape, dtype = (
        ((n,), jnp.int32) if discrete else ((n, inner.action_size), jnp.result_type(float))
    )
    action = jax.ShapeDtypeStruct(shape, dtype)
    view = whole = 0
    for cost in costs:
        _traced(f"cost {cost.name!r}", cost.fn, (n,), "[N]", state, action, state)
        if cost.extra_obs is not None:
            view += _traced(
                f"extra_obs of cost {cost.name!r}", cost.extra_obs, (n, None), "[N, X]", state
            )
        if cost.extra_global_state is not None:
            whole += _traced(
                f"extra_global_state of cost {cost.name!r}",
                cost.extra_global_state,
                (None,),
                "[X]",
                state,
            )
    return view, whole


def _traced(
    what: str, function: Any, shape: tuple[int | None, ...], letters: str, *args: Any
) -> int:
    """The length of the function's last axis; its shape must be the one given, None standing for
    any length.
    """
    try:
        answer = jax.eval_shape(function, *args)
    except Exception as error:
        raise ValueError(f"{what} cannot be traced ({one_line(error)})") from error
    found = getattr(answer, "shape", ())
    if len(found) != len(shape) or any(
        want not in (None, got) for want, got in zip(shape, found, strict=True)
    ):
        kind = f"of shape {found}" if hasattr(answer, "shape") else f"a {type(answer).__name__}"
        wanted = ", ".join("X" if want is None else str(want) for want in shape)
        raise ValueError(f"{what} is {kind}, but must be an array {letters}, here [{wanted}]")
    return int(answer.shape[-1])
