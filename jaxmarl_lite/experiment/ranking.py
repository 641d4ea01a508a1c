"""Which evaluation of a run is the best by a metric, and within the limits on costs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from jaxmarl_lite.algorithms import cost_limits
from jaxmarl_lite.experiment import compilation
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.report import metrics, statistics
from jaxmarl_lite.report.loggers import Row
from jaxmarl_lite.types import Environment, EnvSpec
from jaxmarl_lite.validation import check_choice, invalid, unknown_name


class Score(NamedTuple):
    """How good the policies of one evaluation are.

    Attributes:
        excess: by how much mean costs exceed their limits, summed over agents and costs, in
            multiples of each limit (of 1 where a limit is 0); 0 where all limits are kept.
        value: mean of the metric over seeds; higher is better.
    """

    excess: float
    value: float

    def is_better(self, other: Score, min_delta: float = 0.0) -> bool:
        """Returns whether this evaluation is better than another one.

        An evaluation that keeps all limits is better than one that does not; of two that do not,
        the one with the smaller excess. The metric decides where both keep them.

        Args:
            other: score of the other evaluation.
            min_delta: least difference of the metric that counts.
        """
        if self.excess != other.excess:
            return self.excess < other.excess
        return self.value > other.value + min_delta


@dataclasses.dataclass(frozen=True)
class Ranking:
    """An order of evaluations: by limits on costs first, then by a metric.

    Means are over the seeds that have not diverged.

    Attributes:
        metric: name of the metric; one with several entries counts by their mean.
        mode: ``max`` where a higher metric is better, ``min`` where a lower one is.
    """

    metric: str
    mode: Literal["max", "min"] = "max"

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) or not self.metric:
            raise invalid("metric", self.metric, "the name of a metric, such as eval_return")
        check_choice("mode", self.mode, ("max", "min"))

    def scores(self, rows: Iterable[Row], limits: np.ndarray) -> dict[int, Score]:
        """Returns the score of every evaluation that has the metric.

        Args:
            rows: rows of a run, in the order of updates.
            limits: limit of every agent and cost, ``[N, K]``; inf where there is none.

        Returns:
            Update -> score.
        """
        by_update: dict[int, list[Row]] = {}
        for row in rows:
            by_update.setdefault(row["update"], []).append(row)
        result = {}
        for update, group in by_update.items():
            value = _mean(group, self._entries(group))
            if not math.isnan(value):
                value = value if self.mode == "max" else -value
                result[update] = Score(_excess(group, limits), value)
        return result

    def _entries(self, rows: Sequence[Row]) -> list[str]:
        """Returns the names in rows that are the metric or entries of it."""
        start = f"{self.metric}/"
        names = dict.fromkeys(name for row in rows for name in row)
        return [name for name in names if name == self.metric or name.startswith(start)]

    def best(
        self, rows: Iterable[Row], limits: np.ndarray, candidates: Collection[int]
    ) -> int | None:
        """Returns the update of the best evaluation; of equal ones the first.

        Args:
            rows: rows of a run, in the order of updates.
            limits: as for `scores`.
            candidates: the updates to choose from.

        Returns:
            The update, or None where none of the candidates has the metric.
        """
        chosen: tuple[int, Score] | None = None
        for update, score in self.scores(rows, limits).items():
            if update in candidates and (chosen is None or score.is_better(chosen[1])):
                chosen = update, score
        return None if chosen is None else chosen[0]


def _mean(rows: Sequence[Row], names: Sequence[str]) -> float:
    """Returns the mean of entries over rows, NaN left out; NaN where there is none."""
    return float(statistics.mean(np.asarray([row.get(x, np.nan) for row in rows for x in names])))


def _excess(rows: Sequence[Row], limits: np.ndarray) -> float:
    """Returns by how much mean costs exceed their limits, see `Score`."""
    costs = np.zeros_like(limits)
    for agent, k in np.argwhere(np.isfinite(limits)).tolist():
        costs[agent, k] = _mean(rows, [f"eval_cost/agent_{agent}/cost_{k}"])
    return excess(costs, limits)


def excess(costs: np.ndarray, limits: np.ndarray) -> float:
    """Returns by how much mean costs exceed their limits, see `Score`.

    Args:
        costs: mean cost per episode of every agent and cost, ``[N, K]``.
        limits: their limits ``[N, K]``; inf where there is none.

    Returns:
        The sum over agents and costs, in multiples of each limit; 0 where all limits are kept.
    """
    over = np.isfinite(limits) & (costs > limits)
    unit = np.where(limits == 0, 1.0, limits)
    return float(((costs - limits)[over] / unit[over]).sum())


def check_metric(field: str, name: str, plan: RunConfig, env: Environment) -> None:
    """Checks that the rows of a run will have a metric.

    Args:
        field: name of the setting, for the message.
        name: name of the metric.
        plan: plan of the run.
        env: the environment.

    Raises:
        ValueError: they will not; the message names those that they will have.
    """
    shapes = compilation.metric_shapes(plan, env) | _evaluation_shapes(plan, env.spec)
    entries = {
        entry for x, shape in shapes.items() for entry in metrics.flatten({x: np.zeros(shape)})
    }
    if name not in shapes and name not in entries:
        raise unknown_name(field, name, sorted(shapes))


def _evaluation_shapes(plan: RunConfig, spec: EnvSpec) -> dict[str, tuple[int, ...]]:
    """Returns the metrics of an evaluation, name -> shape for each seed."""
    costs = (spec.num_agents, spec.num_costs)
    shapes: dict[str, tuple[int, ...]] = {"eval_return": (), "eval_episode_length": ()}
    if spec.win_condition:
        shapes["eval_win_rate"] = ()
    if spec.num_costs:
        shapes["eval_cost"] = costs
    if np.isfinite(cost_limits.limits_of(plan.config, spec)).any():
        shapes |= {"eval_satisfaction_rate": costs, "num_violations": costs}
    return shapes
