"""Choices that cost something, whose best return under limits is known: by linear programming, or
in closed form.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmarl_lite.envs.toys.timestep import check_numbers, check_tables, make_timestep
from jaxmarl_lite.types import Array, EnvSpec, Observation, TimeStep
from jaxmarl_lite.validation import check_limit, invalid

Limit = float | tuple[float, ...]
_GRID = 10_000


def _limits(given: Mapping[str, Limit] | None, spec: EnvSpec) -> np.ndarray:
    """The limit of every agent and cost, ``[N, K]``: the given ones over the spec's own."""
    given = dict(given or {})
    for name in given:
        if name not in spec.cost_names:
            raise ValueError(
                f"limits names the cost {name!r}; allowed for {spec.name}: "
                f"{', '.join(spec.cost_names)}"
            )
    assert spec.cost_limits is not None
    columns = []
    for name, own in zip(spec.cost_names, spec.cost_limits, strict=True):
        limit = np.asarray(given.get(name, own), float)
        if limit.shape not in ((), (1,), (spec.num_agents,)) or not (limit >= 0).all():
            allowed = f"a number from 0 up, or a tuple of {spec.num_agents}, one per agent"
            raise ValueError(
                f"{spec.name}: limit of {name!r} is {given.get(name, own)!r}, but must be {allowed}"
            )
        columns.append(np.broadcast_to(limit, spec.num_agents))
    return np.stack(columns, axis=-1)


@dataclasses.dataclass(frozen=True)
class Budget:
    """Each agent chooses how hard to work, for ``steps`` steps; what pays costs, and action 0 is
    rest.

    At each step the team receives ``Σ_i rewards[i][a_i]``, and agent i pays ``costs[k][a_i]`` of
    cost k. The view is constant, so the best policy under limits d is, for each agent by itself,
    the solution p of the linear program

        max_p Σ_a T rewards[i][a] p_a   s.t.   Σ_a T costs[k][a] p_a <= d_ik for all k,   p a
        distribution,

    with ``T = steps``: see `constrained_best`. Resting is free, so every limit can be kept. With
    the defaults, what pays best costs more than three times the limits. ``spec.max_return`` is the
    best without limits.

    View: 1, and the one-hot agent number, so that agents with shared weights can differ. State:
    share of steps taken.

    rewards: a row per agent, an entry per action. costs: a row per cost, an entry per action, the
    same for all agents.
    limits: per cost one number or one per agent, in cost per episode. cost_names: a word per cost.
    """

    rewards: tuple[tuple[float, ...], ...] = ((0.0, 1.0, 1.5), (0.0, 0.5, 2.0))
    costs: tuple[tuple[float, ...], ...] = ((0.0, 1.0, 3.0),)
    limits: tuple[Limit, ...] = ((3.0, 4.5),)
    cost_names: tuple[str, ...] = ("energy",)
    steps: int = 5
    name: str = "toy/budget"

    def __post_init__(self):
        check_tables(self, "rewards", "costs")
        check_numbers(self, {"steps": 1}, ())
        for name in ("limits", "cost_names"):
            if not isinstance(getattr(self, name), (tuple, list)):
                raise invalid(
                    f"{self.name}: {name}", getattr(self, name), "a tuple with an entry per cost"
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
        limits = (check_limit(f"{self.name}: limits", limit) for limit in self.limits)
        object.__setattr__(self, "limits", tuple(limits))
        _limits(None, self.spec)

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings."""
        n, num_actions = len(self.rewards), len(self.rewards[0])
        best = self.steps * sum(max(row) for row in self.rewards)
        sizes = (n, 1 + n, 1, "discrete", num_actions, self.steps)
        return EnvSpec(
            self.name,
            *sizes,
            "team",
            "work done by the team per episode",
            best,
            cost_names=self.cost_names,
            cost_descriptions=tuple(f"units of {name}" for name in self.cost_names),
            cost_limits=tuple(
                tuple(x) if isinstance(x, (tuple, list)) else float(x) for x in self.limits
            ),
        )

    def constrained_best(self, limits: Mapping[str, Limit] | None = None) -> float:
        """The highest expected return under limits, by one linear program per agent.

        limits: names of costs to one number, or one per agent, in cost per episode; those not named
        are the spec's. Raises ValueError for a name that does not exist, or a limit that is
        negative or of a wrong length.
        """
        from scipy.optimize import linprog

        best, used = 0.0, self.steps * np.asarray(self.costs, float)  # [K, A]
        for reward, limit in zip(self.rewards, _limits(limits, self.spec), strict=True):
            kept = np.isfinite(limit)
            rows, bounds = (used[kept], limit[kept]) if kept.any() else (None, None)
            answer = linprog(
                -np.asarray(reward, float), rows, bounds, np.ones((1, len(reward))), [1.0]
            )
            best -= self.steps * answer.fun
        return float(best)

    def _observe(self, time: Array) -> Observation:
        n, num_actions = len(self.rewards), len(self.rewards[0])
        view = jnp.concatenate([jnp.ones((n, 1), float), jnp.eye(n, dtype=float)], -1)
        whole = (time / self.steps).astype(float)[None]
        return Observation(view, whole, jnp.ones((n, num_actions), bool), jnp.ones(n, bool))

    def reset(self, key: Array) -> tuple[Array, TimeStep]:
        """Begin; the state is the number of steps taken."""
        time = jnp.zeros((), jnp.int32)
        return time, make_timestep(self._observe(time), num_costs=len(self.costs))

    def step(self, state: Array, action: Array) -> tuple[Array, TimeStep]:
        """Work or rest: action ``[N]`` int."""
        reward = jnp.take_along_axis(
            jnp.asarray(self.rewards, float), action[:, None], axis=-1
        ).sum()
        cost = jnp.asarray(self.costs, float)[:, action].T  # [N, K]
        state = state + 1
        return state, make_timestep(self._observe(state), reward, state >= self.steps, cost=cost)


@dataclasses.dataclass(frozen=True)
class Risky:
    """One step, two tables: the team receives ``payoff[a0][a1]``, and both agents pay
    ``costs[a0][a1]``.

    With probabilities x and y of the agents' action 1, reward and cost are bilinear in (x, y), so a
    limit couples the
    agents: what one may do depends on the other. With the default tables, one alone may take the
    risk for free, both together cost 1: the reward is ``x + y + x y`` and the cost ``x y``, so the
    best under a limit d <= 1 is ``1 + 2 d``, at ``x = 1, y = d`` or the other way round; the best
    of equal policies, ``x = y = √d``, is ``2 √d + d``, which is less.

    View: 1, and the one-hot agent number. State: 1.

    payoff, costs: two rows of two, a row per action of agent 0; costs[0][0] must be 0, so that
    every limit can be kept.
    limit: cost per episode, one number or one per agent; the lower one counts, as both pay the
    same.
    """

    payoff: tuple[tuple[float, ...], ...] = ((0.0, 1.0), (1.0, 3.0))
    costs: tuple[tuple[float, ...], ...] = ((0.0, 0.0), (0.0, 1.0))
    limit: Limit = 0.2
    name: str = "toy/risky"

    def __post_init__(self):
        check_tables(self, "payoff", "costs")
        object.__setattr__(self, "limit", check_limit(f"{self.name}: limit", self.limit))
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
        _limits(None, self.spec)

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings."""
        best = float(np.max(self.payoff))
        return EnvSpec(
            self.name,
            *(2, 3, 1, "discrete", 2, 1),
            "team",
            "payoff of the game",
            best,
            cost_names=("accident",),
            cost_descriptions=("expected accidents",),
            cost_limits=(
                tuple(self.limit) if isinstance(self.limit, (tuple, list)) else float(self.limit),
            ),
        )

    def constrained_best(self, limits: Mapping[str, Limit] | None = None) -> float:
        """The highest expected return of independent policies under a limit.

        For each y on a grid of 10,001, reward and cost are linear in x, so the best x is an end of
        the interval that keeps the limit; the same with the agents exchanged. Never above the
        optimum, and below it by a step of the grid at most; exact where one of the two
        probabilities lies on the grid.

        limits: a mapping from "accident" to one number, or one per agent; None: the spec's. Raises
        ValueError for a name that does not exist, or a limit that is negative or of a wrong length.
        """
        limit = float(_limits(limits, self.spec).min())
        payoff, costs = np.asarray(self.payoff, float), np.asarray(self.costs, float)
        return float(max(_best_row(payoff, costs, limit), _best_row(payoff.T, costs.T, limit)))

    def _observe(self) -> Observation:
        view = jnp.concatenate([jnp.ones((2, 1), float), jnp.eye(2, dtype=float)], -1)
        return Observation(view, jnp.ones(1, float), jnp.ones((2, 2), bool), jnp.ones(2, bool))

    def reset(self, key: Array) -> tuple[Array, TimeStep]:
        """Begin; the state is the number of steps taken."""
        return jnp.zeros((), jnp.int32), make_timestep(self._observe(), num_costs=1)

    def step(self, state: Array, action: Array) -> tuple[Array, TimeStep]:
        """Play once: action ``[2]`` int."""
        reward = jnp.asarray(self.payoff, float)[action[0], action[1]]
        cost = jnp.broadcast_to(jnp.asarray(self.costs, float)[action[0], action[1]], (2, 1))
        return state + 1, make_timestep(self._observe(), reward, over=True, cost=cost)


def _best_row(payoff: np.ndarray, costs: np.ndarray, limit: float) -> Any:
    """The best return over the column player's grid, the row player answering each point with its
    best policy.
    """
    y = np.linspace(0.0, 1.0, _GRID + 1)
    mixed = np.stack([1 - y, y])  # [2, grid]
    (pay0, pay1), (cost0, cost1) = payoff @ mixed, costs @ mixed
    rise = cost1 - cost0
    with np.errstate(divide="ignore", invalid="ignore"):
        meet = np.clip((limit - cost0) / rise, 0.0, 1.0)
    found = []
    for x in (np.zeros_like(y), np.ones_like(y), np.where(rise == 0, 0.0, meet)):
        kept = cost0 + x * rise <= limit + 1e-12
        found.append(np.where(kept, pay0 + x * (pay1 - pay0), -np.inf).max())
    return max(found)
