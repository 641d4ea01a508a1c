"""Choices that cost something, whose best return under limits is known.

It is computed by linear programming, or in closed form.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmarl_lite.envs.base import make_timestep
from jaxmarl_lite.envs.errors import at_least
from jaxmarl_lite.envs.toys.base import Toy, full_observation, numbered_view
from jaxmarl_lite.types import Array, EnvSpec, Observation, TimeStep
from jaxmarl_lite.validation import check_limit, check_table, invalid, unknown_name

Limit = float | tuple[float, ...]
"""Limit of one cost, in cost per episode: one number, or one per agent."""
_GRID_STEPS = 10_000
"""Steps of the grid of probabilities on which `Risky.constrained_best` searches."""


def _limit_table(limits: Mapping[str, Limit] | None, spec: EnvSpec) -> np.ndarray:
    """Returns the limit of every agent and cost, ``[N, K]``: ``limits``, else the spec's.

    Raises:
        ValueError: A name does not exist, or a limit is negative or of a wrong length.
    """
    limits = dict(limits or {})
    for name in limits:
        if name not in spec.cost_names:
            raise unknown_name("cost in limits", name, spec.cost_names)
    assert spec.cost_limits is not None
    columns = []
    for name, default in zip(spec.cost_names, spec.cost_limits, strict=True):
        field = f"{spec.name}: limit of {name!r}"
        limit = check_limit(field, limits.get(name, default), spec.num_agents)
        columns.append(np.broadcast_to(limit, spec.num_agents))
    return np.stack(columns, axis=-1)


def _check_entries(name: str, value: object) -> tuple[Any, ...]:
    """Checks a field with an entry per cost."""
    if not isinstance(value, (tuple, list)):
        raise invalid(name, value, "a tuple with an entry per cost")
    return tuple(value)


def _check_limits(name: str, value: object) -> tuple[Limit, ...]:
    """Checks a field with a limit per cost."""
    return tuple(check_limit(name, limit) for limit in _check_entries(name, value))


@dataclasses.dataclass(frozen=True)
class Budget(Toy):
    """Each agent chooses how hard to work, for ``steps`` steps; action 0 is rest, and work costs.

    At each step the team receives ``Σ_i rewards[i][a_i]``, and agent i pays ``costs[k][a_i]`` of
    cost k. The observation is constant, so the best policy under limits d is, for each agent by
    itself, the solution p of the linear program

        max_p Σ_a T rewards[i][a] p_a
        s.t.  Σ_a T costs[k][a] p_a <= d_ik for all k,   p a distribution,

    with ``T = steps``: see `constrained_best`. Resting is free, so every limit can be kept. With
    the defaults, the best-paid work costs more than three times the limits. ``spec.max_return`` is
    the best return without limits.

    The observation is 1 and the one-hot agent number, so that agents with shared weights can
    differ; the state is the share of steps taken.

    Attributes:
        rewards: Table with a row per agent and an entry per action.
        costs: Table with a row per cost and an entry per action, the same for all agents.
        limits: For each cost one number or one per agent, in cost per episode.
        cost_names: Name of each cost.
        steps: Steps of an episode.
        name: Name of the environment.
    """

    rewards: tuple[tuple[float, ...], ...] = ((0.0, 1.0, 1.5), (0.0, 0.5, 2.0))
    costs: tuple[tuple[float, ...], ...] = ((0.0, 1.0, 3.0),)
    limits: tuple[Limit, ...] = ((3.0, 4.5),)
    cost_names: tuple[str, ...] = ("energy",)
    steps: int = 5
    name: str = "toy/budget"

    def __post_init__(self):
        self._check_fields(
            rewards=check_table,
            costs=check_table,
            steps=at_least(1),
            limits=_check_limits,
            cost_names=_check_entries,
        )
        rows = (*self.rewards, *self.costs)
        if len(self.rewards[0]) != len(self.costs[0]):
            raise ValueError(
                f"{self.name}: rewards and costs must have rows of one length, an entry per action"
            )
        if any(row[0] != 0 for row in rows):
            raise ValueError(
                f"{self.name}: action 0 is rest, so the first entry of rewards and costs must be 0"
            )
        if not len(self.costs) == len(self.limits) == len(self.cost_names):
            raise ValueError(f"{self.name}: costs, limits and cost_names must be equally many")
        _limit_table(None, self.spec)

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings of the environment."""
        num_agents, num_actions = len(self.rewards), len(self.rewards[0])
        best = self.steps * sum(max(row) for row in self.rewards)
        sizes = (num_agents, 1 + num_agents, 1, "discrete", num_actions, self.steps)
        return EnvSpec(
            self.name,
            *sizes,
            "team",
            "work done by the team per episode",
            best,
            cost_names=self.cost_names,
            cost_descriptions=tuple(f"units of {name}" for name in self.cost_names),
            cost_limits=self.limits,
        )

    def constrained_best(self, limits: Mapping[str, Limit] | None = None) -> float:
        """Computes the highest expected return under limits, by one linear program per agent.

        Args:
            limits: Cost's name -> one number, or one per agent, in cost per episode; costs that
                are not named, and all costs with None, have the spec's limits.

        Returns:
            The return, in the unit of the reward.

        Raises:
            ValueError: A name does not exist, or a limit is negative or of a wrong length.
        """
        from scipy.optimize import linprog

        best, episode_costs = 0.0, self.steps * np.asarray(self.costs, float)  # [K, A]
        for reward, limit in zip(self.rewards, _limit_table(limits, self.spec), strict=True):
            # SciPy takes no infinite bounds, so rows without a limit are left out
            is_limited = np.isfinite(limit)
            rows, bounds = (
                (episode_costs[is_limited], limit[is_limited]) if is_limited.any() else (None, None)
            )
            solution = linprog(
                -np.asarray(reward, float), rows, bounds, np.ones((1, len(reward))), [1.0]
            )
            best -= self.steps * solution.fun
        return float(best)

    def _observe(self, state: Array) -> Observation:
        """Returns the observation: constant for the agents, the share of steps for the critic."""
        view = numbered_view(len(self.rewards))
        global_state = (state / self.steps).astype(float)[None]
        return full_observation(view, global_state, len(self.rewards[0]))

    def step(self, state: Array, action: Array) -> tuple[Array, TimeStep]:
        """Works or rests.

        Args:
            state: State before the step.
            action: Actions ``[N]`` int.

        Returns:
            ``(state, timestep)`` after the step.
        """
        reward = jnp.take_along_axis(
            jnp.asarray(self.rewards, float), action[:, None], axis=-1
        ).sum()
        cost = jnp.asarray(self.costs, float)[:, action].T  # [N, K]
        state = state + 1
        return state, make_timestep(self._observe(state), reward, state >= self.steps, cost=cost)


@dataclasses.dataclass(frozen=True)
class Risky(Toy):
    """Game of one step and two tables, in which a limit couples the agents.

    The team receives ``payoff[a0][a1]``, and both agents pay ``costs[a0][a1]``. With probabilities
    x and y of the agents' action 1, reward and cost are bilinear in (x, y), so what one agent may
    do depends on the other. With the default tables, one alone may take the risk for free, both
    together cost 1: the reward is ``x + y + x y`` and the cost ``x y``, so the best return under a
    limit d <= 1 is ``1 + 2 d``, at ``x = 1, y = d`` or the other way round; the best of equal
    policies, ``x = y = √d``, is ``2 √d + d``, which is less.

    The observation is 1 and the one-hot agent number; the state is 1.

    Attributes:
        payoff: Two rows of two, a row per action of agent 0.
        costs: Likewise; costs[0][0] must be 0, so that every limit can be kept.
        limit: Cost per episode, one number or one per agent; the lower one counts, as both pay the
            same.
        name: Name of the environment.
    """

    payoff: tuple[tuple[float, ...], ...] = ((0.0, 1.0), (1.0, 3.0))
    costs: tuple[tuple[float, ...], ...] = ((0.0, 0.0), (0.0, 1.0))
    limit: Limit = 0.2
    name: str = "toy/risky"

    def __post_init__(self):
        self._check_fields(payoff=check_table, costs=check_table, limit=check_limit)
        for field in ("payoff", "costs"):
            if np.shape(getattr(self, field)) != (2, 2):
                raise ValueError(
                    f"{self.name}: {field} must be two rows of two, not {getattr(self, field)!r}"
                )
        if self.costs[0][0] != 0 or np.min(self.costs) < 0:
            raise ValueError(
                f"{self.name}: costs must be at least 0, and costs[0][0] must be 0, not "
                f"{self.costs!r}"
            )
        _limit_table(None, self.spec)

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings of the environment."""
        best = float(np.max(self.payoff))
        return EnvSpec(
            self.name,
            *(2, 3, 1, "discrete", 2, 1),
            "team",
            "payoff of the game",
            best,
            cost_names=("accident",),
            cost_descriptions=("expected accidents",),
            cost_limits=(self.limit,),
        )

    def constrained_best(self, limits: Mapping[str, Limit] | None = None) -> float:
        """Computes the highest expected return of independent policies under a limit.

        For each y on a grid of 10,001, reward and cost are linear in x, so the best x is an end of
        the interval that keeps the limit; the same with the agents exchanged. The result is never
        above the optimum, and below it by a step of the grid at most; it is exact where one of the
        two probabilities lies on the grid.

        Args:
            limits: "accident" -> one number, or one per agent, in cost per episode; None: the
                spec's limits.

        Returns:
            The return, in the unit of the reward.

        Raises:
            ValueError: A name does not exist, or a limit is negative or of a wrong length.
        """
        limit = float(_limit_table(limits, self.spec).min())
        payoff, costs = np.asarray(self.payoff, float), np.asarray(self.costs, float)
        return float(max(_best_row(payoff, costs, limit), _best_row(payoff.T, costs.T, limit)))

    def _observe(self, state: Array) -> Observation:
        """Returns the constant observation."""
        return full_observation(numbered_view(2), jnp.ones(1, float), 2)

    def step(self, state: Array, action: Array) -> tuple[Array, TimeStep]:
        """Plays once.

        Args:
            state: State before the step.
            action: Actions ``[2]`` int.

        Returns:
            ``(state, timestep)`` after the step.
        """
        reward = jnp.asarray(self.payoff, float)[action[0], action[1]]
        cost = jnp.broadcast_to(jnp.asarray(self.costs, float)[action[0], action[1]], (2, 1))
        return state + 1, make_timestep(self._observe(state), reward, terminated=True, cost=cost)


def _best_row(payoff: np.ndarray, costs: np.ndarray, limit: float) -> float:
    """Returns the best return over the column player's grid.

    The row player answers each point of the grid with its best policy that keeps the limit.
    """
    y = np.linspace(0.0, 1.0, _GRID_STEPS + 1)
    column_policy = np.stack([1 - y, y])  # [2, grid]
    (pay0, pay1), (cost0, cost1) = payoff @ column_policy, costs @ column_policy
    rise = cost1 - cost0
    with np.errstate(divide="ignore", invalid="ignore"):
        # the x at which the cost equals the limit
        boundary = np.clip((limit - cost0) / rise, 0.0, 1.0)
    best_returns = []
    for x in (np.zeros_like(y), np.ones_like(y), np.where(rise == 0, 0.0, boundary)):
        feasible = cost0 + x * rise <= limit + 1e-12
        best_returns.append(np.where(feasible, pay0 + x * (pay1 - pay0), -np.inf).max())
    return max(best_returns)
