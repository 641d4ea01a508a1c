"""Compares runs: variants of algorithms that are trained alike, or runs that exist already.

`compare` trains every variant in every environment with the same settings; `compare_runs` reads
runs from their folders. Both return a `Comparison`: tables and plots of returns, win rates and
costs with their intervals, and the probability that one run is better than another.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from jaxmarl_lite.algorithms import registry
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment import joining
from jaxmarl_lite.experiment.api import RunError, resume_run
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.experiment.result import Result, load_run
from jaxmarl_lite.experiment.runner import StopRequest
from jaxmarl_lite.report import atomic_io, run_dir, statistics, tables
from jaxmarl_lite.report.statistics import Interval
from jaxmarl_lite.types import Environment
from jaxmarl_lite.validation import (
    MOST,
    check_choice,
    check_environment_object,
    check_int,
    check_path,
    parse_value,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxmarl_lite.report.plotting import Panel

POOLED = "all"
"""Name of the environments together, in rows and tables."""

FEW_SEEDS = 5
"""With fewer seeds, a comparison says that its intervals mean little."""


class Variant(NamedTuple):
    """An algorithm with changed settings, under a label of its own.

    Attributes:
        label: name of its runs.
        algorithm: name of the algorithm.
        reference: whether the settings begin from those of the reference implementation instead of
            the tuned ones.
        fields: changed settings, by field.
    """

    label: str
    algorithm: str
    reference: bool = False
    fields: Mapping[str, Any] = {}

    @property
    def config(self) -> Any:
        """The argument ``config`` of `run`.

        Raises:
            ValueError: the algorithm has no settings of a reference implementation.
        """
        if not self.reference:
            return dict(self.fields) or None
        configs = {name: registry.config_of(name) for name in registry.ALGORITHMS}
        known = [name for name, kind in configs.items() if hasattr(kind, "reference")]
        if self.algorithm not in known:
            allowed = " or ".join(f"{name}.reference" for name in known)
            raise ValueError(f"algorithm is '{self.algorithm}.reference'; allowed is {allowed}")
        return configs[self.algorithm].reference(**self.fields)  # type: ignore[attr-defined]


def parse_variant(text: str) -> Variant:
    """Parses a variant.

    Args:
        text: ``ALGORITHM``, or ``LABEL=ALGORITHM:FIELD=VALUE,FIELD=VALUE``.
            ``LABEL=ALGORITHM.reference`` begins from the settings of the reference implementation.

    Returns:
        The variant; values are true, false, Python literals, or else text.

    Raises:
        ValueError: the text is neither.

    Example:
        >>> parse_variant("lambda-0=liir:intrinsic_coef=0")
        Variant(label='lambda-0', algorithm='liir', reference=False, fields={'intrinsic_coef': 0})
    """
    match = re.fullmatch(r"(?:([\w.-]+)=)?([\w-]+)(\.reference)?(?::(.+))?", text)
    if (
        match is None
        or set(match[1] or "") == {"."}
        or (match[1] is None and (match[3] or match[4]))
    ):
        allowed = "ALGORITHM or LABEL=ALGORITHM[.reference][:FIELD=VALUE,FIELD=VALUE]"
        raise ValueError(f"variant is {text!r}; allowed is {allowed}")
    pairs = re.split(r",(?=\w+=)", match[4]) if match[4] else []
    fields = {name: parse_value(value) for name, _, value in (p.partition("=") for p in pairs)}
    return Variant(match[1] or match[2], match[2], bool(match[3]), fields)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs side by side, returned by `compare` and `compare_runs`.

    The score of a run is its win rate where episodes can be won, and its return elsewhere.

    Attributes:
        results: environment -> label -> result.
        against: label of the run with which all others are compared.
        failed: environment -> label -> why a run ended without a result.
    """

    results: dict[str, dict[str, Result]]
    against: str
    failed: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """Computes the statistics of every run, as plain data.

        Returns:
            A row for each environment and label: final return, final win rate, mean of the score
            over training and final costs with their 95 % intervals; ``against_final`` and
            ``against_over_training``, the probabilities that a run of ``against`` has the higher
            score; curves, durations and the plan. Where all of several environments have wins,
            further rows pool them: each environment's seeds are drawn separately.
        """
        rows = [
            self._row(env, label, result)
            for env, results in self.results.items()
            for label, result in results.items()
        ]
        return [*rows, *self._pooled_rows()]

    def _row(self, env: str, label: str, result: Result) -> dict[str, Any]:
        """Returns the row of one run."""
        random, wins, costs = result.random_returns, result.win_rates, result.costs
        row = {
            "env": env,
            "label": label,
            "algorithm": result.algorithm,
            "seeds": len(result.seeds),
            "final_return": _as_dict(result.final_return()),
            "final_win_rate": None if wins is None else _as_dict(result.final_win_rate()),
            "over_training": _as_dict(statistics.bootstrap_interval(_over_training(result))),
            "random": None if random is None else _as_dict(statistics.bootstrap_interval(random)),
            "max_return": result.spec.max_return,
            **self._against({env: result}, label),
        }
        return row | {
            "costs": None if costs is None else _final_costs(result),
            "steps": result.steps.tolist(),
            "returns": result.returns.tolist(),
            "win_rates": None if wins is None else wins.tolist(),
            "highest_costs": None if costs is None else costs.max((2, 3)).tolist(),
            **result.timings._asdict(),
            "plan": result.plan.to_dict(),
        }

    def _pooled_rows(self) -> Iterator[dict[str, Any]]:
        """Yields the rows of all environments together, of the labels that all of them have."""
        every = [result for results in self.results.values() for result in results.values()]
        # returns of different environments have no common unit
        if len(self.results) < 2 or any(result.win_rates is None for result in every):
            return
        for label in next(iter(self.results.values())):
            if not all(label in results for results in self.results.values()):
                continue
            runs = {env: results[label] for env, results in self.results.items()}
            final, over_training = (
                statistics.bootstrap_interval(
                    _same_length(map(measure, runs.values())), by_task=True
                )
                for measure in (_final_score, _over_training)
            )
            yield {
                "env": POOLED,
                "label": label,
                "seeds": min(len(result.seeds) for result in runs.values()),
                "final_win_rate": _as_dict(final),
                "over_training": _as_dict(over_training),
                **self._against(runs, label),
            }

    def _against(self, runs: Mapping[str, Result], label: str) -> dict[str, Any]:
        """Returns how likely a run of ``against`` has a higher score than one of ``label``."""
        others = [self.results[env].get(self.against) for env in runs]
        if label == self.against or None in others:
            return {}
        measures = {"against_final": _final_score, "against_over_training": _over_training}
        return {
            name: _as_dict(
                improvement_interval(
                    _same_length(measure(other) for other in others if other is not None),
                    _same_length(map(measure, runs.values())),
                )
            )
            for name, measure in measures.items()
        }

    def table(self) -> Table:
        """Returns the comparison as a table, which a notebook shows: scores, costs, durations."""
        grid = tables.NotebookTable.grid()
        for table in self._tables(self.rows()):
            grid.add_row(table)
        for sentence in self.caveats():
            grid.add_row(tables.literal(sentence))
        return grid

    def caveats(self) -> list[str]:
        """Returns sentences about what limits the comparison.

        These are runs of unequal length, whose ends are compared all the same, other numbers of
        evaluation episodes, and too few seeds for intervals that mean something.

        Returns:
            The sentences; none where nothing limits it.
        """
        sentences = []
        for env, results in self.results.items():
            for what, values in {
                "steps of each seed": {x: f"{int(r.steps[-1]):,}" for x, r in results.items()},
                "episodes of an evaluation": {
                    x: str(r.plan.eval_episodes) for x, r in results.items()
                },
                "actions in evaluations": {
                    x: "likeliest" if r.plan.greedy else "sampled" for x, r in results.items()
                },
            }.items():
                if len(set(values.values())) > 1:
                    listed = ", ".join(f"{label} {value}" for label, value in values.items())
                    sentences.append(
                        f"{env}: the runs differ in {what} ({listed}), so that their ends are not "
                        "comparable."
                    )
        every = [result for results in self.results.values() for result in results.values()]
        fewest = min(len(result.seeds) - len(result.diverged) for result in every)
        if fewest < FEW_SEEDS and any(len(results) > 1 for results in self.results.values()):
            sentences.append(
                f"P({self.against} better) and the intervals are estimated from as few as {fewest} "
                f"seed{'s' * (fewest != 1)}, which is too few to draw a conclusion: a bootstrap of "
                f"less than {FEW_SEEDS} seeds covers less than it says."
            )
        return sentences

    def summary(self) -> str:
        """Returns `table` as text."""
        return tables.to_text(self.table(), 140)

    def _repr_html_(self) -> str:
        """Returns `table` as HTML, which notebooks ask for by this name."""
        return tables.to_html(self.table())

    def _tables(self, rows: Sequence[dict[str, Any]]) -> list[Table]:
        """Returns the tables of scores, of costs where there are some, and of durations."""
        has_wins = any(row["final_win_rate"] is not None for row in rows)
        scores = [
            {
                "environment": row["env"],
                "run": row["label"],
                "seeds": row["seeds"],
                "final return, IQM [95 %]": _interval_text(row.get("final_return")),
                **({"final win rate": _interval_text(row["final_win_rate"])} if has_wins else {}),
                "score over training": _interval_text(row["over_training"]),
                f"P({self.against} better) at the end": _interval_text(row.get("against_final")),
                f"P({self.against} better) over training": _interval_text(
                    row.get("against_over_training")
                ),
                "random policy": _interval_text(row.get("random")),
                "best possible": row.get("max_return"),
            }
            for row in rows
        ]
        costs = [
            {
                "environment": row["env"],
                "run": row["label"],
                "cost": cost["cost"],
                "agent": cost["agent"],
                "limit": cost["limit"],
                "cost per episode, mean [95 %]": _interval_text(cost["mean"]),
                "upper end within": "yes" if cost["mean"]["high"] <= cost["limit"] else "no",
                "P(kept)": f"{cost['satisfaction_rate']:.3f}",
                "updates over the limit": f"{cost['violation_rate']:.3f}",
                "updates over it, second half": f"{cost['late_violation_rate']:.3f}",
            }
            for row in rows
            for cost in row.get("costs") or ()
        ]
        durations = [
            {
                "environment": row["env"],
                "run": row["label"],
                "steps a seed": f"{row['steps'][-1]:,}",
                "minutes": f"{row['elapsed_seconds'] / 60:.1f}",
                "env steps/s": f"{row['steps_per_second']:,.0f}",
                "compile s": f"{row['compile_seconds']:.1f}",
            }
            for row in rows
            if "plan" in row
        ]
        return [
            tables.make_table(list(lines[0]), [list(line.values()) for line in lines])
            for lines in (scores, costs, durations)
            if lines
        ]

    def plot(self, env: str | None = None, path: str | Path | None = None) -> Figure:
        """Draws the learning curves of the runs in one environment, a line for each label.

        Where the environment has wins or costs, they have panels beside the returns; a cost is that
        of the costliest agent.

        Args:
            env: name of the environment; None: the first.
            path: file to write the figure to as well, in the format of its suffix.

        Returns:
            A matplotlib figure.

        Raises:
            ValueError: the environment is unknown, or ``path`` has another suffix.
        """
        from jaxmarl_lite.report import plotting

        env = check_choice("env", next(iter(self.results)) if env is None else env, self.results)
        return plotting.draw_panels(self.panels(env), title=env, path=path)

    def panels(self, env: str) -> list[Panel]:
        """Returns the panels of `plot`.

        Args:
            env: name of the environment.
        """
        from jaxmarl_lite.report import plotting

        runs = self.results[env]
        first = next(iter(runs.values()))
        random = None if first.random_returns is None else statistics.iqm(first.random_returns)
        return plotting.run_panels(
            runs,
            cost_names=first.spec.cost_names,
            cost_descriptions=first.spec.cost_descriptions,
            ylabel=first.spec.return_description,
            best=first.spec.max_return,
            random=random,
        )

    def report(self, path: str | Path) -> Path:
        """Writes the comparison as one web page with everything inside.

        Args:
            path: file to write, which ends in .html.

        Returns:
            The file.

        Raises:
            ValueError: ``path`` has another suffix, or cannot be written.
        """
        from jaxmarl_lite.experiment import web_report
        from jaxmarl_lite.report import html

        return web_report.write_comparison(self, html.check_path(check_path("path", path)))

    def plot_improvement(self, path: str | Path | None = None) -> Figure:
        """Draws how likely a run of ``against`` ends with a higher score than one of each other.

        Args:
            path: file to write the figure to as well, in the format of its suffix.

        Returns:
            A matplotlib figure with a panel for each environment.
        """
        from jaxmarl_lite.report import plotting

        panels: dict[str, dict[str, dict[str, float]]] = {env: {} for env in self.results}
        for row in self.rows():
            if "against_final" in row:
                panels.setdefault(row["env"], {})[row["label"]] = row["against_final"]
        most = max(map(len, panels.values()))
        figure = plotting.new_figure(4.2 * len(panels), 1.2 + 0.35 * most)
        for axes, (env, others) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            for i, interval in enumerate(others.values()):
                color = plotting.PALETTE[(i + 1) % len(plotting.PALETTE)]
                axes.plot(
                    [interval["low"], interval["high"]],
                    [i, i],
                    color=color,
                    linewidth=6,
                    alpha=0.35,
                )
                axes.plot(interval["estimate"], i, "o", color=color)
            axes.axvline(0.5, color=plotting.MUTED_COLOR, linestyle="--", linewidth=1)
            axes.set(xlim=(-0.02, 1.02), yticks=range(len(others)), yticklabels=list(others))
            axes.invert_yaxis()
            axes.set_title(env, fontsize=9, loc="left")
            axes.set_xlabel(f"P({self.against} is better at the end)", fontsize=8)
        return plotting.save(figure, path)

    def save(self, stem: str | Path) -> list[Path]:
        """Writes the comparison: rows as JSON, tables as Markdown, and the plots.

        Args:
            stem: path of the files without their suffixes.

        Returns:
            The files: ``STEM.json``, ``STEM.md``, ``STEM-ENV.png`` for each environment and, with
            several labels, ``STEM-improvement.png``.
        """
        stem = check_path("stem", stem)
        paths = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".json", ".md")]
        rows, versions = self.rows(), run_dir.versions()
        data = {"versions": versions, "against": self.against, "rows": rows, "failed": self.failed}
        stem.parent.mkdir(parents=True, exist_ok=True)
        atomic_io.replace_text(paths[0], atomic_io.to_json(data, indent=2) + "\n")
        for env in self.results:
            paths.append(stem.with_name(f"{stem.name}-{_folder_name(env)}.png"))
            self.plot(env, paths[-1])
        improvement = stem.with_name(f"{stem.name}-improvement.png")
        improvement.unlink(missing_ok=True)  # of an earlier comparison of other runs
        if any("against_final" in row for row in rows):
            paths.append(improvement)
            self.plot_improvement(improvement)
        atomic_io.replace_text(paths[1], self._markdown(rows, versions, paths[2:]))
        return paths

    def _markdown(
        self, rows: Sequence[dict[str, Any]], versions: Mapping[str, Any], plots: Sequence[Path]
    ) -> str:
        """Returns the tables with all that a reader needs to judge them, as Markdown."""
        lines = self._tables(rows)
        for table in lines:
            table.box = box.MARKDOWN
        plan = next(row["plan"] for row in rows)
        packages = ", ".join(f"{name} {version}" for name, version in versions["packages"].items())
        settings = "".join(
            f"- {row['label']} on {row['env']}: {row['plan']['num_envs']} environments x "
            f"{row['plan']['num_steps']} steps"
            f"{', staggered episodes' * row['plan']['stagger_episodes']}, "
            + ", ".join(f"{name} {value}" for name, value in row["plan"]["config"].items())
            + "\n"
            for row in rows
            if "plan" in row
        )
        failed = "".join(
            f"- {label} failed on {env}: {reason}\n"
            for env, reasons in self.failed.items()
            for label, reason in reasons.items()
        )
        return (
            f"# Comparison of {', '.join(dict.fromkeys(row['label'] for row in rows))}\n\n"
            f"{versions['device_count']} x {versions['device_kind']}, {packages}.\n\n"
            f"{_render(lines, 10_000)}\n"
            f"{plan['eval_episodes']} episodes of each seed's "
            f"{'likeliest' if plan['greedy'] else 'sampled'} actions at each evaluation. Intervals "
            "are bootstraps over seeds. The score is the win rate where episodes can be won, and "
            "the return elsewhere. Minutes are of all seeds together, without compiling.\n\n"
            + "".join(f"{sentence}\n\n" for sentence in self.caveats())
            + "".join(f"![{path.stem}]({path.name})\n" for path in plots)
            + f"\nSettings:\n\n{settings}{failed}"
        )


def compare(
    variants: Sequence[str | Variant],
    envs: str | Environment | Sequence[str | Environment],
    *,
    out: str | Path,
    seeds: int | Sequence[int] = 3,
    total_steps: int = 1_000_000,
    num_envs: int | None = None,
    num_steps: int | None = None,
    num_evaluations: int = 20,
    eval_episodes: int = 32,
    greedy: bool | None = None,
    against: str | None = None,
    workers: int | None = None,
    quiet: bool = False,
) -> Comparison:
    """Trains variants of algorithms in environments, with the same settings, and compares them.

    Every run is kept in ``OUT/ENV/LABEL``. After each environment the comparison of all complete
    runs in ``out`` is written to ``OUT/comparison.*``, see `Comparison.save`. When the call is
    interrupted, the same call continues: complete runs stay as they are, the others continue from
    their newest checkpoints. A call with more variants or environments adds to the comparison, and
    one with a larger ``total_steps`` extends its runs.

    Args:
        variants: algorithms, or variants of them with changed settings, see `parse_variant`.
        envs: ids that `make` accepts, or environment objects; one or several.
        out: folder of the runs and of the comparison.
        seeds: as for `run`.
        total_steps: as for `run`, in environment steps of each seed.
        num_envs: as for `run`; None: the value tuned for each variant and environment.
        num_steps: as for `run`; None: the value tuned for each variant and environment.
        num_evaluations: as for `run`.
        eval_episodes: as for `run`.
        greedy: as for `run`.
        against: label of the run with which all others are compared; None: the first.
        workers: number of processes that train at once, each on a core of its own, for ids of
            environments; None trains in this process, one run after another.
        quiet: whether to print nothing.

    Returns:
        The `Comparison` of all complete runs in ``out``; runs that failed are named in it.

    Raises:
        ValueError: a variant or a setting is invalid, or ``out`` holds runs with other settings.
            Raised before anything is trained.
        RunError: no run is complete.

    Example:
        >>> import jaxmarl_lite as jml
        >>> comparison = jml.compare(
        ...     ["small=ippo:hidden_sizes=(4,)", "large=ippo:hidden_sizes=(8,)"], "toy/counter",
        ...     out="sizes", seeds=2, total_steps=64, num_envs=4, num_steps=8, num_evaluations=2,
        ...     eval_episodes=4, quiet=True,
        ... )
        >>> comparison.results["toy/counter"]["large"].returns.shape  # [seeds, evaluations]
        (2, 3)
        >>> row = comparison.rows()[1]
        >>> 0.0 <= row["against_final"]["estimate"] <= 1.0  # P(small is better than large)
        True
    """
    out = check_path("out", out)
    parsed = [parse_variant(x) if isinstance(x, str) else x for x in variants]
    labels = [variant.label for variant in parsed]
    if not labels or len(set(labels)) < len(labels):
        raise ValueError(
            f"variants have the labels {labels}; allowed are one or more, all different"
        )
    workers = None if workers is None else check_int("workers", workers, 1, MOST)
    settings = dict(
        seeds=seeds,
        total_steps=total_steps,
        num_envs=num_envs,
        num_steps=num_steps,
        num_evaluations=num_evaluations,
        eval_episodes=eval_episodes,
        greedy=greedy,
    )
    several = isinstance(envs, Sequence) and not isinstance(envs, str)
    plans: dict[str, dict[str, RunConfig]] = {}
    objects: dict[str, Environment] = {}
    for env in envs if several else [envs]:  # type: ignore[union-attr]
        for variant in parsed:
            plan = _make_plan(variant, env, settings)  # type: ignore[arg-type]
            plans.setdefault(plan.env, {})[variant.label] = plan
            if plan.env_args is None:
                objects[plan.env] = env  # type: ignore[assignment]
    if workers is not None and objects:
        raise ValueError(
            f"workers is {workers} with {', '.join(objects)} as an object; allowed are ids of "
            "environments, or None"
        )
    if not plans:
        raise ValueError("envs is empty; allowed is at least one environment")
    stored = {label for env in plans for label in _check_folder(out, env, plans[env], greedy)}
    known = dict.fromkeys([*labels, *sorted(stored)])
    against = check_choice("against", labels[0] if against is None else against, known)
    failed: dict[str, dict[str, str]] = {}
    comparison = None
    for env, env_plans in plans.items():
        folders = {label: _folder(out, env) / label for label in env_plans}
        for label, folder in folders.items():
            _create(run_dir.RunFolder(folder), env_plans[label])
        if workers is None:
            failed[env] = _train(folders, total_steps, objects.get(env), quiet)
        else:
            failed[env] = _train_in_processes(folders, total_steps, workers, quiet)
        results = _complete_results(out, plans, failed, objects)
        if results:
            comparison = Comparison(results, against, {e: f for e, f in failed.items() if f})
            comparison.save(out / "comparison")
    if comparison is None:
        reasons = "; ".join(f"{label}: {x}" for f in failed.values() for label, x in f.items())
        raise RunError(f"no run in {out} is complete: {reasons}")
    return comparison


def compare_runs(
    runs: Sequence[str | Path],
    *,
    against: str | None = None,
    env: Environment | Sequence[Environment] = (),
) -> Comparison:
    """Compares runs that exist already.

    Args:
        runs: folders of runs, or ``LABEL=FOLDER``. Without a label it is the name of the folder.
            Runs with one label in several environments are runs of the same variant. Runs with one
            label, or without, that differ in nothing but their seeds are one run of several seeds.
        against: label of the run with which all others are compared; None: the first.
        env: the environments of those runs that were given an object, one or several; each serves
            the runs that have its name.

    Returns:
        The `Comparison`.

    Raises:
        ValueError: there are no runs, two in one environment have the same label, or an environment
            is missing; or runs that differ in nothing but their seeds have a seed twice, or other
            evaluations.
        RunFolderError: a folder holds no run, or one without an evaluation.

    Example:
        >>> import jaxmarl_lite as jml
        >>> for width in (4, 8):
        ...     result = jml.run(
        ...         "ippo", "toy/counter", config={"hidden_sizes": (width,)}, seeds=2,
        ...         total_steps=64, num_envs=4, num_steps=8, num_evaluations=2, eval_episodes=4,
        ...         quiet=True, out=f"width-{width}",
        ...     )
        >>> comparison = jml.compare_runs(["width-4", "wide=width-8"])
        >>> list(comparison.results["toy/counter"])
        ['width-4', 'wide']
    """
    results: dict[str, dict[str, Result]] = {}
    runs = [runs] if isinstance(runs, (str, Path)) else runs
    several = list(env) if isinstance(env, Sequence) else [env]
    objects = {check_environment_object(x).name: x for x in several}
    for label, path, result in _joined(runs, objects):
        env_results = results.setdefault(result.plan.env, {})
        if label in env_results:
            raise ValueError(
                f"two runs in {result.plan.env} have the label {label!r}; allowed is one, and "
                f"LABEL={path} sets another"
            )
        env_results[label] = result
    if not results:
        raise ValueError("runs is empty; allowed are the folders of one or several runs")
    known = dict.fromkeys(label for env_results in results.values() for label in env_results)
    return Comparison(
        results, check_choice("against", next(iter(known)) if against is None else against, known)
    )


def _joined(
    runs: Sequence[str | Path], objects: Mapping[str, Environment]
) -> Iterator[tuple[str, str, Result]]:
    """Yields label, first folder and result of runs; those of single seeds are joined."""
    by_label: dict[str | None, list[str]] = {}
    order: list[str] = []
    for run in runs:
        label, separator, path = str(run).partition("=")
        if not separator or run_dir.RunFolder(Path(run)).exists():
            by_label.setdefault(None, []).append(str(run))
            order.append(str(run))
        else:
            by_label.setdefault(label, []).append(path)
            order.append(path)
    joined = []
    for label, paths in by_label.items():
        results = [load_run(path, objects.get(experiment_config.read(path).env)) for path in paths]
        for group in joining.groups([result.plan for result in results]):
            folders = [paths[i] for i in group]
            name = joining.common_name([Path(path) for path in folders])
            result = joining.join_results([results[i] for i in group], folders)
            joined.append((label if label is not None else name, folders[0], result))
    yield from sorted(joined, key=lambda entry: order.index(entry[1]))


def improvement_interval(x: Any, y: Any, resamples: int = 2000) -> Interval:
    """Estimates how likely a run of X is to beat a run of Y, with its 95 % bootstrap interval.

    The bootstrap draws the seeds of both sides, within each task. Seeds that diverged are left out.

    Args:
        x: values of X, ``[seeds]`` or ``[tasks, seeds]``.
        y: values of Y, likewise, with the same tasks; the number of seeds may differ.
        resamples: number of draws.

    Returns:
        An `Interval` of probabilities; NaN where one side has no value in a task.

    Example:
        >>> interval = improvement_interval([3.0, 4.0], [1.0, 2.0])
        >>> float(interval.estimate), float(interval.low), float(interval.high)
        (1.0, 1.0, 1.0)
    """
    finite = [[task[~np.isnan(task)] for task in np.atleast_2d(values)] for values in (x, y)]
    counts = [sum(task.size for task in tasks) for tasks in finite]
    seeds = np.size(x) + np.size(y)
    if not all(task.size for tasks in finite for task in tasks):
        return Interval(np.nan, np.nan, np.nan, sum(counts), seeds)
    generator = np.random.default_rng(0)

    def probability(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> float:
        pairs = zip(first, second, strict=True)
        return float(np.mean([statistics.probability_of_improvement(*pair) for pair in pairs]))

    def resample(tasks: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [task[generator.integers(task.size, size=task.size)] for task in tasks]

    draws = [probability(resample(finite[0]), resample(finite[1])) for _ in range(resamples)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(probability(*finite), float(low), float(high), sum(counts), seeds)


# Training


def _make_plan(variant: Variant, env: str | Environment, settings: dict[str, Any]) -> RunConfig:
    """Returns the plan of a run; raises ValueError, with the label, where it is impossible."""
    try:
        return experiment_config.make_run_config(
            variant.algorithm, env, config=variant.config, **settings
        )[0]
    except (ValueError, ImportError) as error:
        raise ValueError(f"{variant.label}: {error}") from error


def _folder_name(env: str) -> str:
    """Returns the name of an environment as part of a path."""
    return env.replace("/", "-")


def _folder(out: Path, env: str) -> Path:
    """Returns the folder of an environment's runs."""
    return out / _folder_name(env)


def _runs_in(folder: Path) -> list[Path]:
    """Returns the folders of the runs in a folder, by name."""
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if run_dir.RunFolder(path).config.exists()]


def _check_folder(
    out: Path, env: str, plans: Mapping[str, RunConfig], greedy: bool | None
) -> list[str]:
    """Checks that the runs in a folder can be continued by, or compared with, new ones.

    Returns:
        Their labels.

    Raises:
        ValueError: a run has other settings, or more steps.
    """
    new = next(iter(plans.values()))
    shared = ["seeds", "total_steps", "eval_episodes", *(["greedy"] if greedy is not None else [])]
    runs = _runs_in(_folder(out, env))
    for path in runs:
        label, stored = path.name, experiment_config.read(path)
        if label not in plans:
            for name in shared:
                if getattr(stored, name) != getattr(new, name):
                    raise ValueError(
                        f"{path} holds a run with {name} {getattr(stored, name)}, not "
                        f"{getattr(new, name)}; allowed is the same, or another out"
                    )
            continue
        try:
            experiment_config.check_resumable(plans[label], stored, path)
        except ValueError as error:
            raise ValueError(f"{label}: {error}; or another out") from error
        if stored.total_steps > new.total_steps:
            raise ValueError(
                f"{label}: total_steps is {new.total_steps}, but the run in {path} has "
                f"{stored.total_steps}; allowed is as many or more, or another out"
            )
    return [path.name for path in runs]


def _create(folder: run_dir.RunFolder, plan: RunConfig) -> None:
    """Makes the folder of a run that has not begun, from which it can be resumed."""
    if not folder.exists():
        folder.make()
        with folder.lock_for_writing():
            run_dir.create(folder.path, plan.to_dict())


def _train(
    folders: Mapping[str, Path], total_steps: int, env: Environment | None, quiet: bool
) -> dict[str, str]:
    """Trains runs one after another; returns why some failed."""
    failed = {}
    for label, folder in folders.items():
        try:
            resume_run(folder, env=env, total_steps=total_steps, quiet=quiet)
        except RunError as error:
            failed[label] = str(error)
    return failed


def _train_in_processes(
    folders: Mapping[str, Path], total_steps: int, workers: int, quiet: bool
) -> dict[str, str]:
    """Trains runs in processes, each pinned to a core; returns why some failed.

    A signal that ends this process ends the others too.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    free = list(range(min(workers, len(cores)) if cores else workers))
    waiting, failed = list(folders), {}
    running: dict[str, tuple[subprocess.Popen[bytes], int]] = {}
    with StopRequest():
        try:
            while waiting or running:
                while waiting and free:
                    label, slot = waiting.pop(0), free.pop(0)
                    process = _start(folders[label], total_steps)
                    running[label] = process, slot
                    if cores:  # before JAX starts the threads of the process
                        os.sched_setaffinity(process.pid, {cores[slot]})
                    if not quiet:
                        print(f"{label}: see {_log(folders[label])}", flush=True)
                time.sleep(0.2)
                for label, (process, slot) in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[label]
                    free.append(slot)
                    if process.returncode:
                        lines = _log(folders[label]).read_text(errors="replace").split("\n")
                        last_line = next((line for line in reversed(lines) if line.strip()), "")
                        failed[label] = f"ended with code {process.returncode}: {last_line}"
                    if not quiet:
                        print(f"{label}: {failed.get(label, 'done')}", flush=True)
        finally:
            for process, _ in running.values():
                process.terminate()
    return failed


def _start(folder: Path, total_steps: int) -> subprocess.Popen[bytes]:
    """Starts a process that continues the run in a folder."""
    command = [sys.executable, "-m", "jaxmarl_lite", "train", "--resume", str(folder)]
    with _log(folder).open("ab") as log:
        return subprocess.Popen(
            [*command, "--total-steps", str(total_steps)], stdout=log, stderr=subprocess.STDOUT
        )


def _log(folder: Path) -> Path:
    """Returns the file that the process of a run prints to."""
    return folder.with_name(f"{folder.name}.log")


def _complete_results(
    out: Path,
    plans: Mapping[str, Mapping[str, RunConfig]],
    failed: Mapping[str, Mapping[str, str]],
    objects: Mapping[str, Environment],
) -> dict[str, dict[str, Result]]:
    """Loads the complete runs in a folder, those of this call first, as in `Comparison`."""
    failed_paths = {_folder(out, env) / label for env in failed for label in failed[env]}
    asked = [_folder(out, env) / label for env in plans for label in plans[env]]
    others = [path for folder in sorted(out.iterdir()) for path in _runs_in(folder)]
    results: dict[str, dict[str, Result]] = {}
    for path in dict.fromkeys([*asked, *others]):
        if path in failed_paths or not run_dir.RunFolder(path).config.exists():
            continue
        plan = experiment_config.read(path)
        steps = [row["step"] for row in run_dir.load(path).rows if "eval_return" in row]
        is_complete = max(steps, default=0) >= plan.num_updates * plan.batch_steps
        if is_complete and (plan.env_args is not None or plan.env in objects):
            result = load_run(path, objects.get(plan.env))
            results.setdefault(plan.env, {})[path.name] = result
    return results


# Statistics and text


def _final_score(result: Result) -> np.ndarray:
    """Returns the win rate of every seed at the end, or its return where nothing is won."""
    return (result.returns if result.win_rates is None else result.win_rates)[:, -1]


def _over_training(result: Result) -> np.ndarray:
    """Returns the mean score of every seed over training."""
    scores = result.returns if result.win_rates is None else result.win_rates
    if len(result.steps) < 2:
        return scores[:, 0]
    return statistics.area_under_curve(result.steps, scores)


def _same_length(tasks: Any) -> np.ndarray:
    """Stacks the values of tasks, ``[seeds]`` each, to ``[tasks, seeds]``: of as many seeds."""
    tasks = list(tasks)
    return np.stack([task[: min(map(len, tasks))] for task in tasks])


def _final_costs(result: Result) -> list[dict[str, Any]]:
    """Returns the final cost of each agent, and how often training violated its limit."""
    final, satisfied = result.final_costs(), result.satisfaction_rate()
    violations = result.metrics.get("violation_rate")
    rows = []
    for k, name in enumerate(result.spec.cost_names):
        for agent in range(result.spec.num_agents):
            at = (agent, k)
            rates = np.full(2, np.nan) if violations is None else violations[:, 1:, agent, k]
            late = rates[..., rates.shape[-1] // 2 :]
            mean = Interval(
                final.estimate[at], final.low[at], final.high[at], final.count[at], final.seeds
            )
            rows.append(
                {
                    "cost": name,
                    "agent": agent,
                    "limit": float(result.limits[at]),
                    "mean": _as_dict(mean),
                    "satisfaction_rate": float(satisfied[at]),
                    "violation_rate": float(statistics.mean(rates)),
                    "late_violation_rate": float(statistics.mean(late)),
                }
            )
    return rows


def _as_dict(interval: Interval) -> dict[str, float]:
    """Returns the fields of an interval as plain data."""
    return {name: float(value) for name, value in interval._asdict().items()}


def _interval_text(interval: Mapping[str, float] | None) -> str:
    """Formats an interval, with three decimals where it is small; None is empty."""
    if interval is None:
        return ""
    numbers = [interval[name] for name in ("estimate", "low", "high")]
    if (
        interval["count"] < interval["seeds"]
        or interval["count"] < 2
        or max(map(abs, numbers)) >= 10
    ):
        return tables.format_interval(Interval(**interval))  # type: ignore[arg-type]
    return "{:.3f} [{:.3f}, {:.3f}]".format(*numbers)


def _render(parts: Sequence[Table], width: int) -> str:
    """Returns tables as text."""
    return "".join(tables.to_text(part, width) for part in parts)
