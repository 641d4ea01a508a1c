"""Fresh episodes of a run's policies, in its environment or in another of the same sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from rich.table import Table

from jaxmarl_lite import keys
from jaxmarl_lite.algorithms import cost_limits
from jaxmarl_lite.evaluate import Evaluation, make_evaluate
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.report import statistics, tables
from jaxmarl_lite.report.statistics import Interval
from jaxmarl_lite.types import Environment, EnvSpec, PyTree
from jaxmarl_lite.validation import MOST, check_int, invalid

if TYPE_CHECKING:
    from jaxmarl_lite.experiment.result import Result

SIZES = (
    "num_agents",
    "obs_size",
    "global_state_size",
    "action_type",
    "action_size",
    "action_low",
    "action_high",
)
"""Fields of a spec that a policy depends on."""


@dataclasses.dataclass(frozen=True, repr=False)
class PolicyEvaluation:
    """Episodes that trained policies have played, returned by `Result.evaluate`.

    ``S`` is the number of seeds and ``P`` that of episodes of each. Where a seed has diverged, its
    numbers are NaN.

    Attributes:
        algorithm: name of the algorithm.
        trained_on: name of the environment of the run.
        env: name of the environment that was played.
        spec: spec of the environment that was played.
        greedy: whether the likeliest actions were played, and not sampled ones.
        episode_seed: seed of the random numbers of the episodes.
        seeds: seeds of the run whose policies were played.
        returns: ``[S, P]`` undiscounted return of the team.
        lengths: ``[S, P]`` time steps.
        wins: ``[S, P]``, 1 where the episode was won; None where the environment has no wins.
        costs: ``[S, P, N, K]`` undiscounted costs; None where the environment has none.
        limits: ``[N, K]`` limits of the costs, inf where there is none.
    """

    algorithm: str
    trained_on: str
    env: str
    spec: EnvSpec
    greedy: bool
    episode_seed: int
    seeds: tuple[int, ...]
    returns: np.ndarray
    lengths: np.ndarray
    wins: np.ndarray | None
    costs: np.ndarray | None
    limits: np.ndarray

    def _index(self, seed: int) -> int:
        """Returns the place of a seed; raises ValueError for one that was not played."""
        if seed not in self.seeds:
            raise invalid("seed", seed, f"one of {', '.join(map(str, self.seeds))}")
        return self.seeds.index(seed)

    @property
    def num_episodes(self) -> int:
        """P, the number of episodes of each seed."""
        return self.returns.shape[1]

    def mean_return(self, seed: int) -> Interval:
        """Computes a seed's mean return, with its 95 % bootstrap interval over episodes.

        Args:
            seed: a seed that was played.

        Returns:
            An `Interval` of scalars; it is about this seed's policy, not about those of other
            seeds.
        """
        returns = self.returns[self._index(seed)]
        return statistics.bootstrap_interval(returns, statistics.mean)

    def iqm_return(self) -> Interval:
        """Computes the IQM over seeds of their mean returns, with its 95 % interval over seeds.

        Returns:
            An `Interval` of scalars.
        """
        return statistics.bootstrap_interval(self.returns.mean(1))

    def win_rate(self, seed: int) -> Interval:
        """Computes a seed's share of won episodes, with Wilson's 95 % interval.

        Args:
            seed: a seed that was played.

        Returns:
            An `Interval` of scalars; NaN where the seed has diverged.

        Raises:
            ValueError: episodes of the environment cannot be won.
        """
        if self.wins is None:
            raise ValueError(f"{self.env} has no wins; allowed is an environment that reports wins")
        wins = self.wins[self._index(seed)]
        if np.isnan(wins).any():
            return Interval(np.nan, np.nan, np.nan, 0, wins.size)
        return statistics.proportion_interval(int(wins.sum()), wins.size)

    def mean_costs(self) -> Interval:
        """Computes the mean costs of all seeds' episodes together, with their 95 % intervals.

        Returns:
            An `Interval` of costs per episode, ``[N, K]``; diverged seeds are left out.

        Raises:
            ValueError: the environment has no costs.
        """
        return statistics.bootstrap_interval(self._pooled_costs(), statistics.mean)

    def satisfaction_rate(self) -> np.ndarray:
        """Computes the share of all seeds' episodes whose cost is at most its limit.

        Returns:
            ``[N, K]``, 0 to 1; NaN where there is no limit.

        Raises:
            ValueError: the environment has no costs.
        """
        costs = self._pooled_costs()
        is_known = np.isfinite(self.limits) & np.isfinite(costs).all()
        return np.where(is_known, (costs <= self.limits).mean(0), np.nan)

    def _pooled_costs(self) -> np.ndarray:
        """Returns the costs of the episodes of all seeds that did not diverge, ``[P', N, K]``.

        Where all have diverged, it is one episode of NaNs.
        """
        if self.costs is None:
            raise ValueError(f"{self.env} has no costs; allowed is an environment with some")
        sound = self.costs[np.isfinite(self.costs).all((1, 2, 3))]
        sound = sound if sound.size else self.costs[:1, :1]
        return sound.reshape(-1, *self.limits.shape)

    def tables(self) -> list[Table]:
        """Returns the tables of returns, of wins and of costs, those that there are."""
        rows, wins = [], []
        for i, seed in enumerate(self.seeds):
            text, length, share = "left out", None, "left out"
            if np.isfinite(self.returns[i]).all():
                text = tables.format_interval(self.mean_return(seed), count_seeds=False)
                length = round(float(self.lengths[i].mean()), 1)
            if self.wins is not None and np.isfinite(self.wins[i]).all():
                share = tables.format_share(int(self.wins[i].sum()), self.num_episodes)
            rows.append((f"seed {seed}", text, length))
            wins.append((f"seed {seed}", share))
        overall = tables.format_interval(self.iqm_return())
        rows += [(), ("IQM [95 % interval] over seeds", overall, None)]
        meaning = self.spec.return_description
        meaning += f": mean [95 % interval] over {self.num_episodes} episodes"
        title = f"{self.algorithm} on {self.env}, {'greedy' if self.greedy else 'sampled'}"
        title += f", trained on {self.trained_on}" * (self.env != self.trained_on)
        parts = [tables.make_table(("", meaning, "episode length"), rows, title)]
        if self.wins is not None:
            columns = ("", "win rate [95 % interval]")
            parts.append(tables.make_table(columns, wins, f"wins: {self.spec.win_condition}"))
        if self.costs is not None:
            title = f"costs over {self.num_episodes} episodes of each seed, together"
            costs: dict[int, Any] = dict(zip(self.seeds, self.costs, strict=True))
            names = self.spec.cost_names
            parts += tables.evaluation_cost_tables(costs, self.limits, names, title)
        return parts

    def table(self) -> Table:
        """Returns `tables` one below the other as one table, which a notebook shows."""
        grid = tables.NotebookTable.grid()
        for part in self.tables():
            grid.add_row(part)
        return grid

    def _repr_html_(self) -> str:
        """Returns `table` as HTML, which notebooks ask for by this name."""
        return tables.to_html(self.table())

    def summary(self) -> str:
        """Returns `table` as text."""
        return tables.to_text(self.table(), width=110)

    def to_dict(self) -> dict[str, Any]:
        """Returns episodes and statistics as plain data, as ``evaluate --json`` prints them."""
        by_seed = [
            {
                "seed": seed,
                "return": _as_dict(self.mean_return(seed)),
                "episode_length": float(self.lengths[i].mean()),
                "win_rate": None if self.wins is None else _as_dict(self.win_rate(seed)),
            }
            for i, seed in enumerate(self.seeds)
        ]
        data = {
            "algorithm": self.algorithm,
            "env": self.env,
            "trained_on": self.trained_on,
            "greedy": self.greedy,
            "episodes": self.num_episodes,
            "episode_seed": self.episode_seed,
            "return_description": self.spec.return_description,
            "return_iqm": _as_dict(self.iqm_return()),
            "by_seed": by_seed,
            "costs_mean": None,
            "returns": self.returns.tolist(),
            "lengths": self.lengths.tolist(),
            "wins": None if self.wins is None else self.wins.tolist(),
            "costs": None if self.costs is None else self.costs.tolist(),
        }
        if self.costs is not None:
            data["costs_mean"] = self._cost_rows()
        return data

    def _cost_rows(self) -> list[dict[str, Any]]:
        """Returns the mean of each agent's each cost, as plain data."""
        mean, satisfied = self.mean_costs(), self.satisfaction_rate()
        return [
            {
                "cost": name,
                "agent": agent,
                "limit": float(self.limits[agent, k]),
                **{field: float(getattr(mean, field)[agent, k]) for field in _ENDS},
                "satisfaction_rate": float(satisfied[agent, k]),
            }
            for k, name in enumerate(self.spec.cost_names)
            for agent in range(self.spec.num_agents)
        ]

    def __repr__(self) -> str:
        overall = tables.format_interval(self.iqm_return())
        return (
            f"PolicyEvaluation({self.algorithm} on {self.env}, {len(self.seeds)} seeds x "
            f"{self.num_episodes} episodes, return {overall})"
        )


_ENDS = ("estimate", "low", "high")


def _as_dict(interval: Interval) -> dict[str, float]:
    """Returns an interval of scalars as plain data."""
    return {name: float(getattr(interval, name)) for name in _ENDS}


def check_sizes(spec: EnvSpec, other: EnvSpec) -> None:
    """Checks that policies trained in one environment can act in another.

    Args:
        spec: spec of the environment of the training.
        other: spec of the other environment.

    Raises:
        ValueError: a size differs; the message names all that do.
    """
    different = [name for name in SIZES if getattr(spec, name) != getattr(other, name)]
    if different:
        present = ", ".join(f"{name} {getattr(other, name)!r}" for name in different)
        expected = ", ".join(f"{name} {getattr(spec, name)!r}" for name in different)
        raise ValueError(
            f"env is {other.name}, which has {present}; allowed is an environment with {expected}, "
            f"as {spec.name} has, where the policies were trained"
        )


def evaluate(
    result: Result,
    episodes: int,
    seed: int | None,
    greedy: bool | None,
    episode_seed: int,
    env: str | Environment | None,
) -> PolicyEvaluation:
    """Plays episodes with the policies of a run; for arguments and errors see `Result.evaluate`.

    Args:
        result: the run.
        episodes: episodes of each seed.
        seed: a seed of the run; None: all.
        greedy: whether to play the likeliest actions.
        episode_seed: seed of the episodes' random numbers.
        env: another environment.

    Returns:
        The episodes.
    """
    episodes = check_int("episodes", episodes, 1, MOST)
    episode_seed = check_int("episode_seed", episode_seed, -(2**31), 2**32 - 1)
    greedy = result.is_greedy(greedy)
    seeds = result.seeds if seed is None else (result.check_seed(seed),)
    played_env, name, algorithm = result.env, result.plan.env, result.built_algorithm
    if env is not None:
        played_env, name = experiment_config.resolve_env(env)
        check_sizes(result.spec, played_env.spec)
        algorithm = algorithm._replace(spec=None)  # costs, words and lengths may differ

    def make() -> Callable[[PyTree, jax.Array], Evaluation]:
        return jax.jit(make_evaluate(algorithm, played_env, episodes, greedy))

    play = result.compiled(("evaluate", greedy, episodes, env is None), played_env, make)
    parts = []
    for each in seeds:
        key = jax.random.fold_in(keys.for_purpose(episode_seed, keys.AFTERWARDS), each)
        played = jax.device_get(play(result.learner(each), key))
        if each in result.diverged:  # its policy may still act, but without meaning
            played = jax.tree.map(lambda x: np.full(x.shape, np.nan), played)
        parts.append(played)
    spec = played_env.spec
    costs, lengths, wins = (
        np.stack([np.asarray(getattr(part, field), float) for part in parts])
        for field in ("costs", "lengths", "wins")
    )
    same_costs = spec.cost_names == result.spec.cost_names
    return PolicyEvaluation(
        algorithm=result.algorithm,
        trained_on=result.plan.env,
        env=name,
        spec=spec,
        greedy=greedy,
        episode_seed=episode_seed,
        seeds=seeds,
        returns=np.stack([np.asarray(spec.team_return(x.returns), float) for x in parts]),
        lengths=lengths,
        wins=wins if spec.win_condition else None,
        costs=costs if spec.num_costs else None,
        limits=result.limits if same_costs else cost_limits.limits_of(None, spec),
    )
