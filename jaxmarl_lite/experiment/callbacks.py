"""Functions of the user that a run calls after every evaluation, and that may end it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxmarl_lite import references
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.experiment.ranking import Ranking
from jaxmarl_lite.experiment.run_logger import to_arrays
from jaxmarl_lite.report import loggers, statistics
from jaxmarl_lite.report.metrics import METRICS
from jaxmarl_lite.validation import (
    check_int,
    check_number,
    invalid,
    one_line,
    to_python,
    unknown_name,
)


@dataclasses.dataclass(frozen=True)
class EvaluationReport:
    """The numbers of one evaluation, as `run` passes them to ``on_evaluation``.

    Attributes:
        plan: plan of the run.
        update: updates done.
        rows: a row for each seed, in the order of ``plan.seeds``: ``update``, ``step``, ``seed``
            and every metric; metrics of training are means since the evaluation before.
        history: the rows of all evaluations so far, these included; those of earlier sessions too.
        limits: the limit of every agent and cost, ``[N, K]``; inf where there is none.
        folder: folder of the run; None where nothing is kept.
    """

    plan: RunConfig
    update: int
    rows: Sequence[loggers.Row]
    history: Sequence[loggers.Row]
    limits: np.ndarray
    folder: Path | None

    @property
    def step(self) -> int:
        """Environment steps of each seed so far."""
        return self.update * self.plan.batch_steps

    def metric(self, name: str) -> np.ndarray:
        """Returns a metric of this evaluation for every seed.

        Args:
            name: name of the metric, such as ``eval_return``, ``eval_cost`` (of all agents and
                costs) or ``eval_cost/agent_0/cost_0``.

        Returns:
            ``[S]`` float, followed by its axes ``N`` and ``K``, if it has them; NaN where a seed
            has diverged, and for metrics of training before the first update.

        Raises:
            ValueError: the rows have no such metric; the message names those that they have.
        """
        if any(name in row for row in self.rows):
            return np.asarray([row.get(name, np.nan) for row in self.rows], float)
        arrays = to_arrays(list(self.rows), self.plan.seeds)
        if name not in arrays and self.update == 0 and name.partition("/")[0] in METRICS:
            # the evaluation before the first update has no metrics of training
            return np.full(len(self.rows), np.nan)
        if name not in arrays:
            raise unknown_name("metric", name, arrays)
        return arrays[name][:, 0]

    def mean(self, name: str) -> float:
        """Returns the mean of a metric over seeds, and over agents and costs where it has some.

        Args:
            name: name of the metric, as for `metric`.

        Returns:
            The mean of the entries that are not NaN; NaN where all are.

        Raises:
            ValueError: as for `metric`.
        """
        return float(statistics.mean(self.metric(name).reshape(-1)))


Callback = Callable[[EvaluationReport], Any]
"""A function of a report. It returns None or False, or ends the run by True or the reason."""


def parse_callbacks(functions: object) -> tuple[Callback, ...]:
    """Returns the callbacks of the argument ``on_evaluation``.

    Args:
        functions: a function of an `EvaluationReport`, or its reference ``module:name``, or a
            sequence of both; None: none. A class that a reference names is called without
            arguments.

    Raises:
        ValueError: an entry is no function, or cannot be imported.
    """
    if functions is None:
        return ()
    several = isinstance(functions, (list, tuple))
    return tuple(map(_parse_callback, functions if several else [functions]))  # type: ignore[arg-type]


def _parse_callback(function: object) -> Callback:
    """Returns one callback; raises ValueError where it cannot be called with a report."""
    name, loaded = "on_evaluation", function
    if isinstance(function, str):
        loaded = references.load(name, function)
        loaded = loaded() if isinstance(loaded, type) else loaded
    if isinstance(loaded, type) or not callable(loaded):
        raise invalid(
            name,
            function,
            "a function of an EvaluationReport, 'module:name', or a list of these",
        )
    return loaded


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """A callback that ends a run whose evaluations no longer improve.

    In a run with limits on costs, an evaluation that keeps them is better than one that does not,
    and while none keeps them, a smaller excess is an improvement: see `ranking.Score`. It looks at
    the history of the run alone, so that a resumed run ends where an undisturbed one would.

    Attributes:
        metric: name of the metric, whose mean over seeds counts.
        patience: number of evaluations in a row without improvement after which the run ends.
        min_delta: least difference of the metric that counts as an improvement.
        mode: ``max`` where a higher metric is better, ``min`` where a lower one is.

    Raises:
        ValueError: a value is invalid.

    Example:
        >>> import jaxmarl_lite as jml
        >>> result = jml.run(
        ...     "ippo", "toy/counter", config={"hidden_sizes": (8,)}, seeds=2, total_steps=256,
        ...     num_envs=4, num_steps=8, num_evaluations=8, eval_episodes=4, quiet=True,
        ...     on_evaluation=jml.EarlyStopping("eval_return", patience=2, min_delta=100.0),
        ... )
        >>> result.steps, result.stopped
        (array([ 0, 32, 64]), 'eval_return has not improved in 2 evaluations')
    """

    metric: str = "eval_return"
    patience: int = 5
    min_delta: float = 0.0
    mode: Literal["max", "min"] = "max"

    def __post_init__(self) -> None:
        Ranking(self.metric, self.mode)
        object.__setattr__(self, "patience", check_int("patience", self.patience))
        object.__setattr__(self, "min_delta", check_number("min_delta", self.min_delta, 0.0))

    def __call__(self, report: EvaluationReport) -> str | None:
        """Returns why the run ends, or None.

        Args:
            report: the report of an evaluation.
        """
        best, waited = None, 0
        scores = Ranking(self.metric, self.mode).scores(report.history, report.limits)
        for score in scores.values():
            if best is None or score.is_better(best, self.min_delta):
                best, waited = score, 0
            else:
                waited += 1
        if waited < self.patience:
            return None
        return f"{self.metric} has not improved in {waited} evaluations"


class Callbacks:
    """The callbacks of one run.

    Args:
        functions: the callbacks, in the order in which they are called.
        how_to_continue: function that returns a sentence on how the run is continued.

    Attributes:
        error: the exception that a callback raised, or None.
    """

    def __init__(self, functions: Sequence[Callback], how_to_continue: Callable[[], str]):
        self._functions, self._how_to_continue = functions, how_to_continue
        self.error: BaseException | None = None

    def __bool__(self) -> bool:
        return bool(self._functions)

    def call(self, report: EvaluationReport) -> str | None:
        """Calls every callback.

        Args:
            report: the report of the evaluation.

        Returns:
            The reason why the run ends, or None. An exception that a callback raises is kept in
            `error`, with a note on how the run is continued; the callbacks after it are not called.
        """
        reasons = []
        for function in self._functions:
            try:
                if (reason := _reason(function, function(report))) is not None:
                    reasons.append(reason)
            except BaseException as error:  # sys.exit and optuna.TrialPruned, too
                error.add_note(
                    f"on_evaluation raised this at update {report.update}. "
                    f"{self._how_to_continue()}"
                )
                self.error = error
                return one_line(error)
        return "; ".join(reasons) or None


def _reason(function: Callback, answer: object) -> str | None:
    """Returns why a callback's answer ends the run; None where it does not."""
    answer = to_python(answer)
    if answer is None or answer is False:
        return None
    if answer is True:
        return f"{_name(function)} returned True"
    if isinstance(answer, str) and answer.strip():
        return " ".join(answer.split())
    raise invalid(
        f"the result of {_name(function)}", answer, "None or False, or to stop True or the reason"
    )


def _name(function: Callback) -> str:
    """Returns the name of a callback, for messages."""
    return getattr(function, "__name__", type(function).__name__)
