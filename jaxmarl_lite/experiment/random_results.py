"""What uniformly random actions reach in each listed environment: the floor of learning curves.

The measurements come with the package and are shown beside the sizes of an environment. The
program ``benchmarks/random_policy.py`` of the repository makes them again.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmarl_lite import envs, keys
from jaxmarl_lite.algorithms.random_policy import random_policy
from jaxmarl_lite.evaluate import make_evaluate
from jaxmarl_lite.report import statistics

DATA = Path(__file__).parent.parent / "reference_data" / "random_policy.json"
"""The file of the measurements."""


class RandomResult(NamedTuple):
    """Episodes of uniformly random legal actions in one environment.

    Attributes:
        episodes: how many were played.
        mean_return: mean undiscounted return of the team per episode.
        interval: low and high end of its 95 % bootstrap interval over episodes.
        mean_length: mean length of an episode in time steps.
        win_rate: share of won episodes, 0 to 1; None where the environment has no wins.
        mean_costs: ``[N][K]`` mean undiscounted cost per episode of each agent; empty where the
            environment has no costs.
        measured: date, device and versions.
    """

    episodes: int
    mean_return: float
    interval: Sequence[float]
    mean_length: float
    win_rate: float | None
    mean_costs: list[list[float]]
    measured: str = ""


def measure(env_id: str, episodes: int, seed: int = 0) -> RandomResult:
    """Plays whole episodes of uniformly random legal actions, side by side.

    Args:
        env_id: id of the environment.
        episodes: number of episodes, 1 or more.
        seed: seed of all random numbers.

    Returns:
        Means over the episodes.

    Raises:
        ValueError: the environment is unknown, or a return or a cost is not finite.
    """
    env = envs.make(env_id)
    spec = env.spec
    play = jax.jit(make_evaluate(random_policy(spec), env, episodes))
    played = jax.device_get(play((), keys.for_purpose(jax.random.key(seed), keys.RANDOM_POLICY)))
    returns = np.asarray(spec.team_return(played.returns), float)
    if not (np.isfinite(returns).all() and np.isfinite(played.costs).all()):
        raise ValueError(f"random play of {env_id} has a return or a cost that is not finite")
    mean = statistics.bootstrap_interval(returns, statistics.mean)
    return RandomResult(
        episodes=episodes,
        mean_return=_rounded(mean.estimate),
        interval=(_rounded(mean.low), _rounded(mean.high)),
        mean_length=_rounded(played.lengths.mean()),
        win_rate=_rounded(np.mean(played.wins)) if spec.win_condition else None,
        mean_costs=[[_rounded(x) for x in row] for row in played.costs.mean(0)]
        if spec.num_costs
        else [],
    )


@functools.cache
def load() -> Mapping[str, RandomResult]:
    """Reads the measurements that come with the package.

    Returns:
        Id of the environment -> what random actions reach there.
    """
    rows: dict[str, dict[str, Any]] = json.loads(DATA.read_text(encoding="utf-8"))["rows"]
    return {name: RandomResult(**row) for name, row in rows.items()}


def cost_text(result: RandomResult, cost: int) -> str:
    """Formats what an agent of random actions costs, for tables.

    Args:
        result: the episodes.
        cost: index of the cost.

    Returns:
        The mean cost per episode, or the least and the most where those of the agents differ in
        their first two digits.
    """
    texts = [_plain(x, 2) for x in sorted(costs[cost] for costs in result.mean_costs)]
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def return_text(result: RandomResult) -> str:
    """Formats the mean return to three digits, and the share of won episodes where there is one.

    Args:
        result: the episodes.

    Returns:
        Such as ``0.181 (2 % won)``.
    """
    wins = "" if result.win_rate is None else f" ({100 * result.win_rate:.2g} % won)"
    return f"{_plain(result.mean_return, 3)}{wins}"


def _plain(value: float, digits: int) -> str:
    """Formats a number with so many digits and without an exponent: 1230, not 1.23e+03."""
    return f"{float(f'{value:.{digits}g}'):.10g}"


def _rounded(value: Any) -> float:
    """Returns a number with the four digits that are stored."""
    return float(f"{float(value):.4g}")
