"""Runs side by side, and their statistics: tables and plots with intervals over seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from jaxmarl_lite.experiment.result import Result
from jaxmarl_lite.report import atomic_io, run_dir, statistics, tables
from jaxmarl_lite.report.statistics import Interval
from jaxmarl_lite.validation import check_choice, check_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxmarl_lite.report.plotting import Panel

POOLED = "all"
"""Name of the environments together, in rows and tables."""

FEW_SEEDS = 5
"""With fewer seeds, a comparison says that its intervals mean little."""


class PublishedValue(NamedTuple):
    """A final result that a paper publishes, read off its figures.

    Attributes:
        paper: short name of the paper or program.
        source: what was read.
        steps: environment steps of each seed at the end.
        env: id of the environment.
        algorithm: name of the algorithm here.
        final_return: mean return at the end, or None.
        final_win_rate: share of won episodes at the end, 0 to 1, or None.
        cost: mean cost per episode, or None.
    """

    paper: str
    source: str
    steps: int
    env: str
    algorithm: str
    final_return: float | None = None
    final_win_rate: float | None = None
    cost: float | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs side by side, returned by `compare` and `compare_runs`.

    The score of a run is its win rate where episodes can be won, and its return elsewhere.

    Attributes:
        results: environment -> label -> result.
        against: label of the run with which all others are compared.
        failed: environment -> label -> why a run ended without a result.
        published: environment -> what papers publish for algorithms of the runs.
    """

    results: dict[str, dict[str, Result]]
    against: str
    failed: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    published: dict[str, list[PublishedValue]] = dataclasses.field(default_factory=dict)

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
                "arguments of the environment": {
                    x: str(r.plan.env_args or "none") for x, r in results.items()
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
        published = [
            {
                "environment": env,
                "published": f"{value.algorithm}, {value.paper}",
                "return": _number_text(value.final_return),
                "win rate": _number_text(value.final_win_rate),
                "cost per episode": _number_text(value.cost),
                "steps a seed": f"{value.steps:,}",
                "source": value.source,
            }
            for env, values in self.published.items()
            for value in values
        ]
        return [
            tables.make_table(list(lines[0]), [list(line.values()) for line in lines])
            for lines in (scores, costs, durations, published)
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
        panels = plotting.run_panels(
            runs,
            cost_names=first.spec.cost_names,
            cost_descriptions=first.spec.cost_descriptions,
            ylabel=first.spec.return_description,
            best=first.spec.max_return,
            random=random,
        )
        levels = [
            (title, plotting.HLine(level, f"{value.algorithm}, {value.paper}"))
            for value in self.published.get(env, [])
            for title, level in (
                ("return", value.final_return),
                ("win rate", value.final_win_rate),
            )
            if level is not None
        ]
        return [
            dataclasses.replace(
                panel,
                hlines=[*panel.hlines, *(line for title, line in levels if title == panel.title)],
            )
            for panel in panels
        ]

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
            labels = self.results.get(env) or next(iter(self.results.values()))
            styles = plotting.style_indices(labels)  # as in the curves
            for i, (label, interval) in enumerate(others.items()):
                color = plotting.PALETTE[styles[label] % len(plotting.PALETTE)]
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
            paths.append(stem.with_name(f"{stem.name}-{folder_name(env)}.png"))
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


def folder_name(env: str) -> str:
    """Returns the name of an environment as part of a path, on every file system.

    Args:
        env: name of the environment.
    """
    return env.replace("/", "-").replace(":", "-")


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


def _number_text(number: float | None) -> str:
    """Formats a published value; None is empty."""
    return "" if number is None else f"{number:,g}"


def _render(parts: Sequence[Table], width: int) -> str:
    """Returns tables as text."""
    return "".join(tables.to_text(part, width) for part in parts)
