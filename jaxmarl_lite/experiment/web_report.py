"""Web pages of a run and of a comparison, each one file that can be mailed or put on a server."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxmarl_lite.algorithms import cost_limits
from jaxmarl_lite.algorithms.cost_limits import CostLimits
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment import dataframe
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.report import html, plotting, run_dir, tables
from jaxmarl_lite.report.html import Section

if TYPE_CHECKING:
    from jaxmarl_lite.experiment.comparison import Comparison
    from jaxmarl_lite.experiment.result import Result


def write_run(result: Result, path: Path) -> Path:
    """Writes the page of a run; see `Result.report`.

    Args:
        result: the run.
        path: file to write.

    Returns:
        The file.
    """
    panels = plotting.run_panels(
        {result.algorithm: result},
        cost_names=result.spec.cost_names,
        cost_descriptions=result.spec.cost_descriptions,
        ylabel=result.spec.return_description,
        best=result.spec.max_return,
        random=_mean_random(result),
    )
    sections = [
        Section("", [html.facts(_facts(result)), *_warnings(result)]),
        _curves("Learning curves", panels),
        Section("Last evaluation", [html.table(result.table())]),
        Section("Episodes", [html.grid(_media(result.path))]),
        Section("Settings", _settings(result)),
        Section("Versions and device", [html.pairs(_versions(result))]),
    ]
    subtitle = f"{result.spec.return_description}; {result.path or 'not kept in a folder'}"
    title = f"{result.algorithm} on {result.plan.env}"
    return html.save(path, html.page(title, subtitle, sections))


def write_comparison(comparison: Comparison, path: Path) -> Path:
    """Writes the page of a comparison; see `Comparison.report`.

    Args:
        comparison: the comparison.
        path: file to write.

    Returns:
        The file.
    """
    runs = {
        f"{label} on {env}" if len(comparison.results) > 1 else label: result
        for env, results in comparison.results.items()
        for label, result in results.items()
    }
    failed = [
        html.paragraph(f"{label} failed on {env}: {reason}")
        for env, reasons in comparison.failed.items()
        for label, reason in reasons.items()
    ]
    caveats = [html.paragraph(sentence) for sentence in comparison.caveats()]
    improvement = []
    if any(len(results) > 1 for results in comparison.results.values()):
        label = f"Probability that {comparison.against} is better than each other run"
        improvement = [html.wide_figure(comparison.plot_improvement(), label)]
    sections = [
        *(_curves(env, comparison.panels(env)) for env in comparison.results),
        Section("Results", [html.table(comparison.table()), *caveats, *failed]),
        Section("Probability of improvement", improvement),
        Section("Settings", [_differences(runs), *map(_details, runs, runs.values())]),
        Section("Versions and device", [html.pairs(_versions(next(iter(runs.values()))))]),
    ]
    labels = dict.fromkeys(x for results in comparison.results.values() for x in results)
    subtitle = (
        "Intervals are 95 % bootstraps over seeds. The score is the win rate where episodes can be "
        "won, and the return elsewhere."
    )
    return html.save(path, html.page(f"Comparison of {', '.join(labels)}", subtitle, sections))


def _curves(title: str, panels: list[plotting.Panel]) -> Section:
    """Returns the section of learning curves."""
    note = html.paragraph(plotting.caption(panels), note=True)
    return Section(title, [html.grid([html.figure(panel) for panel in panels]), note])


def _mean_random(result: Result) -> float | None:
    """Returns the return of the random policy, mean over seeds, where it was measured."""
    random = result.random_returns
    return None if random is None or np.isnan(random).all() else float(np.nanmean(random))


def _facts(result: Result) -> dict[str, str]:
    """Returns what is shown in large letters."""
    values = {"final return, IQM [95 %]": tables.format_interval(result.final_return())}
    if result.win_rates is not None:
        values["final win rate"] = tables.format_interval(result.final_win_rate())
    minutes = result.timings.elapsed_seconds / 60
    return values | {
        "seeds": str(len(result.seeds)),
        "steps of each seed": f"{int(result.steps[-1]):,}",
        "minutes": f"{minutes:.1f}",
    }


def _warnings(result: Result) -> Iterator[str]:
    """Yields paragraphs about what a reader must know to judge the numbers."""
    done = int(result.steps[-1]) // result.plan.batch_steps
    if done < result.plan.num_updates:
        yield html.paragraph(
            f"The run is not finished: {done:,} of {result.plan.num_updates:,} updates are done."
        )
    if result.diverged:
        seeds = ", ".join(map(str, result.diverged))
        yield html.paragraph(f"Left out of all statistics, because it diverged: seed {seeds}.")


def _media(folder: Path | None) -> list[str]:
    """Returns the videos and figures of episodes in a run's folder."""
    if folder is None:
        return []
    curve = run_dir.RunFolder(folder).curve
    paths = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in html.MEDIA and path.is_file() and path != curve
    ]
    return [html.media(path, path.name) for path in paths[:8]]


def _settings(result: Result) -> list[str]:
    """Returns the commands that repeat a run, and all of its settings."""
    plan = result.plan
    commands = []
    if (command := command_of(plan)) is not None:
        commands.append(html.code(command))
    elif plan.env_args is not None and result.path is not None:
        config = shlex.quote(str(result.path / "config.json"))
        commands.append(html.code(f"jaxmarl-lite train --config {config}"))
    else:
        commands.append(
            html.paragraph("The environment was passed as an object, to `run` in Python.", True)
        )
    flat = {"seeds": plan.seeds} | dataframe.flat_settings(plan)
    of_run = {name: x for name, x in flat.items() if not name.startswith("config.")}
    of_algorithm = {
        name.removeprefix("config."): x for name, x in flat.items() if name not in of_run
    }
    return [*commands, html.pairs(of_run), html.pairs(of_algorithm)]


def _details(label: str, result: Result) -> str:
    """Returns the settings of one run of a comparison, shown on demand."""
    return html.details(label, _settings(result))


def _differences(runs: Mapping[str, Result]) -> str:
    """Returns a table of the settings in which runs differ."""
    settings = {label: dataframe.flat_settings(run.plan) for label, run in runs.items()}
    names = dict.fromkeys(name for values in settings.values() for name in values)
    absent = object()
    rows = []
    for name in names:
        values = [values.get(name, absent) for values in settings.values()]
        if any(value != values[0] for value in values):
            shown = ("-" if value is absent else html.show(value) for value in values)
            rows.append((name.removeprefix("config."), *shown))
    if not rows:
        return ""
    title = "settings that differ"
    return html.table(tables.make_table(("setting", *settings), rows, title))


def _versions(result: Result) -> dict[str, object]:
    """Returns the versions and devices that a run was trained with."""
    stored = run_dir.versions()
    if result.path is not None:
        stored = run_dir.read_versions(run_dir.RunFolder(result.path)) or stored
    packages = stored.get("packages", {})
    others = {k: v for k, v in stored.items() if k not in ("packages", "earlier")}
    values: dict[str, object] = {name.replace("_", " "): x for name, x in others.items()}
    return values | dict(packages)


def command_of(plan: RunConfig) -> str | None:
    """Returns the command that trains a plan.

    Args:
        plan: the plan.

    Returns:
        The command, with every setting that differs from the tuned ones; None where no command has
        the same plan, for example where the environment was passed as an object.

    Example:
        >>> from jaxmarl_lite.experiment import config
        >>> plan = config.make_run_config("ippo", "toy/counter", config={"lr": 0.01}, seeds=2)[0]
        >>> command_of(plan)
        'jaxmarl-lite train ippo --env toy/counter --seeds 2 --total-steps 1000000 --lr 0.01'
    """
    counted = plan.seeds == tuple(range(len(plan.seeds)))
    if plan.env_args is None or (len(plan.seeds) == 1 and not counted):
        return None
    base = experiment_config.tuned_run_config(plan.algorithm, plan.env)
    seeds = [len(plan.seeds)] if counted else plan.seeds
    parts = ["jaxmarl-lite", "train", plan.algorithm, "--env", plan.env]
    parts += ["--seeds", *map(str, seeds), "--total-steps", str(plan.total_steps)]
    if plan.env_args:
        parts += ["--env-args", *(f"{name}={value}" for name, value in plan.env_args.items())]
    present = ("algorithm", "env", "env_args", "seeds", "total_steps", "config")
    for settings, defaults in ((plan, base), (plan.config, base.config)):
        for field in dataclasses.fields(settings):
            value = getattr(settings, field.name)
            if field.name in present or value == getattr(defaults, field.name):
                continue
            option = _option(field.name, value)
            if option is None:
                return None
            parts += option
    return shlex.join(parts)


def _option(name: str, value: object) -> list[str] | None:
    """Returns the words of one option; None for a value that no words stand for."""
    name = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, CostLimits):
        return [f"--{name}", *cost_limits.to_words(value)]
    values = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(entry, (int, float, str, type(None))) for entry in values):
        return None
    return [f"--{name}", *map(str, values)]
