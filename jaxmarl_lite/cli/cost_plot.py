"""``jaxmarl-lite plot RUN --metric eval_cost``: costs of stored runs with the limits they are
measured against.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment import run_logger
from jaxmarl_lite.experiment.constraint_stats import limits_of
from jaxmarl_lite.report.run_dir import Run
from jaxmarl_lite.types import EnvSpec

METRICS = ("eval_cost", "cost")
"""Metrics that have limits."""


def has_costs(run: Run, metric: str) -> bool:
    """Whether a metric of a run is one of costs, per agent and cost."""
    return metric in METRICS and f"{metric}/agent_0/cost_0" in run.names()


def draw(runs: Mapping[str, Run], metric: str, title: str, out: Path) -> None:
    """Draw the costs of runs, label -> run, with their limits, in the format of the file's suffix.

    Raises:
        ValueError: runs of other numbers of agents or costs.
    """
    from jaxmarl_lite.report import plotting

    found, limits, spec = {}, {}, None
    for label, run in runs.items():
        plan = experiment_config.from_dict(run.config, run.folder.config)
        costs = run_logger.to_arrays(run.rows, plan.seeds)[metric]
        steps = np.asarray(sorted({row["step"] for row in run.rows}))
        own = _spec(run, plan)
        spec = own or spec
        found[label] = steps, None, costs
        limits[label] = None if own is None else limits_of(plan.config, own)
    words: dict[str, Any] = dict(title=title, path=out)
    if spec is not None:
        words |= dict(names=spec.cost_names, meanings=spec.cost_descriptions)
    if len(found) == 1:
        (label,) = found
        plotting.run_curves(label, found[label], limits=limits[label], **words)
    else:
        plotting.constrained_curves(found, limits=limits, **words)


def _spec(run: Run, plan: experiment_config.RunConfig) -> EnvSpec | None:
    """The spec that the run's folder keeps. Runs of earlier versions keep none: it is the
    environment's, or None where they were given an object.
    """
    if (kept := run_logger.read_spec(run.folder)) is not None:
        return kept
    return (
        None
        if plan.env_args is None
        else experiment_config.resolve_env(plan.env, plan.env_args)[0].spec
    )
