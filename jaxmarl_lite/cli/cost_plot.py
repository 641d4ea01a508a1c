"""Plots costs of stored runs with their limits: ``jaxmarl-lite plot RUN --metric eval_cost``."""

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

METRICS = ("eval_cost", "episode_cost")
"""Metrics that have limits."""


def has_costs(run: Run, metric: str) -> bool:
    """Returns whether a metric of a run is a cost, with values for each agent and cost.

    Args:
        run: a stored run.
        metric: name of the metric.
    """
    return metric in METRICS and f"{metric}/agent_0/cost_0" in run.names()


def draw(runs: Mapping[str, Run], metric: str, title: str, out: Path) -> None:
    """Plots the costs of runs with their limits.

    Args:
        runs: label -> stored run.
        metric: one of `METRICS`.
        title: title of the figure.
        out: file to write, in the format of its suffix.

    Raises:
        ValueError: the runs differ in their numbers of agents or costs.
    """
    from jaxmarl_lite.report import plotting

    curves, limits, spec = {}, {}, None
    for label, run in runs.items():
        plan = experiment_config.from_dict(run.config, run.folder.config)
        costs = run_logger.to_arrays(run.rows, plan.seeds)[metric]
        steps = np.asarray(sorted({row["step"] for row in run.rows}))
        run_spec = _spec(run, plan)
        spec = run_spec or spec
        curves[label] = steps, None, costs
        limits[label] = None if run_spec is None else limits_of(plan.config, run_spec)
    options: dict[str, Any] = dict(title=title, path=out)
    if spec is not None:
        options |= dict(names=spec.cost_names, meanings=spec.cost_descriptions)
    if len(curves) == 1:
        (label,) = curves
        plotting.run_curves(label, curves[label], limits=limits[label], **options)
    else:
        plotting.constrained_curves(curves, limits=limits, **options)


def _spec(run: Run, plan: experiment_config.RunConfig) -> EnvSpec | None:
    """Returns the spec in the run's folder, or that of its environment.

    Folders of earlier versions hold no spec; None where such a run was given an environment object.
    """
    if (spec := run_logger.read_spec(run.folder)) is not None:
        return spec
    return (
        None
        if plan.env_args is None
        else experiment_config.resolve_env(plan.env, plan.env_args)[0].spec
    )
