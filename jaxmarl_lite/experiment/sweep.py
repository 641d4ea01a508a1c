"""Sweeps: many settings of one algorithm, trained alike and compared.

Points that differ in floats of the config alone train side by side as one compiled program; points
that differ in anything else are separate runs. Every finished point is an ordinary run in a folder,
which `load_run`, `compare_runs`, ``plot`` and ``evaluate`` read.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import filelock
import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxmarl_lite import references, validation
from jaxmarl_lite.algorithms import base_config
from jaxmarl_lite.experiment import api, memory
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment.config import Lane, RunConfig
from jaxmarl_lite.experiment.ranking import check_metric, excess
from jaxmarl_lite.experiment.result import Result, load_run, read_meta
from jaxmarl_lite.experiment.run_logger import RunLogger, rebuild
from jaxmarl_lite.experiment.runner import RunError
from jaxmarl_lite.experiment.session import SessionConfig
from jaxmarl_lite.experiment.sweep_space import Setting, grid_points, random_points, show_value
from jaxmarl_lite.report import (
    atomic_io,
    checkpoint,
    metrics,
    run_dir,
    statistics,
    tables,
    tracking,
)
from jaxmarl_lite.report.loggers import INDEX, read_rows
from jaxmarl_lite.types import Environment
from jaxmarl_lite.validation import check_int, check_path, invalid

if TYPE_CHECKING:
    from pandas import DataFrame

_RUN_FIELDS = ("num_envs", "num_steps", "total_steps", "stagger_episodes")
"""Settings of a run, beside the fields of the config, that a sweep may vary."""


class Point(NamedTuple):
    """One point of a sweep.

    Attributes:
        number: place in the sweep, from 0.
        setting: name of a setting -> value.
        plan: plan of its run.
    """

    number: int
    setting: Setting
    plan: RunConfig

    @property
    def label(self) -> str:
        """Number and settings as one word, the name of its folder."""
        assignments = (f"{name}={show_value(value)}" for name, value in self.setting.items())
        text = "-".join([f"{self.number:03d}", *assignments])
        return "".join(c if c.isalnum() or c in "-=._+," else "_" for c in text)[:120]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The points of a sweep and their results, returned by `sweep` and `load_sweep`.

    Attributes:
        points: settings of every point.
        results: result of every point; None where it has none yet, or failed.
        failed: number of a point -> why it has no result.
        metric: metric by which points are ranked.
        mode: ``max`` or ``min``: whether a higher or a lower value is better.
        path: folder of the sweep, or None.
    """

    points: tuple[Setting, ...]
    results: tuple[Result | None, ...]
    failed: dict[int, str]
    metric: str = "eval_return"
    mode: str = "max"
    path: Path | None = None

    def scores(self) -> np.ndarray:
        """Returns the metric of every point and seed at its last evaluation.

        Returns:
            ``[points, seeds]``, mean over agents and costs where the metric has these; NaN where a
            seed diverged or a point has no result.
        """
        rows = [None if r is None else final_scores(r, self.metric) for r in self.results]
        seeds = max((len(row) for row in rows if row is not None), default=1)
        scores = np.full((len(rows), seeds), np.nan)
        for i, row in enumerate(rows):
            if row is not None:
                scores[i, : len(row)] = row
        return scores

    def ranking(self) -> list[int]:
        """Returns the numbers of the points that have a result, the best first.

        A point whose mean costs at the last evaluation keep all limits is better than one whose do
        not; of two that do not, the one with the smaller excess (`excesses`). The IQM of the metric
        over seeds decides where both keep them; the better of equal ones is the earlier.
        """
        middle, excesses = self._middles(), self.excesses()
        sign = -1.0 if self.mode == "max" else 1.0
        ranked = [i for i in range(len(middle)) if not np.isnan(middle[i])]
        return sorted(ranked, key=lambda i: (excesses[i], sign * middle[i]))

    def excesses(self) -> np.ndarray:
        """Returns by how much every point exceeds its limits on costs at its last evaluation.

        Returns:
            ``[points]``: mean costs over seeds less their limits, where that is positive, summed
            over agents and costs in multiples of each limit; 0 where all limits are kept or there
            are none, NaN where a point has no result.
        """
        return np.asarray([np.nan if r is None else final_excess(r) for r in self.results])

    def _middles(self) -> np.ndarray:
        """Returns the IQM over seeds of every point."""
        return np.asarray(
            [float(statistics.bootstrap_interval(row).estimate) for row in self.scores()]
        )

    @property
    def best(self) -> Setting:
        """The setting of the best point.

        Raises:
            ValueError: no point has a result.
        """
        order = self.ranking()
        if not order:
            raise ValueError("no point of the sweep has a result")
        return self.points[order[0]]

    @property
    def best_result(self) -> Result:
        """The result of the best point.

        Raises:
            ValueError: no point has a result.
        """
        order = self.ranking()
        result = self.results[order[0]] if order else None
        if result is None:
            raise ValueError("no point of the sweep has a result")
        return result

    def rows(self) -> list[dict[str, Any]]:
        """Returns the points as plain data, the best first, those without result last.

        Returns:
            For each point its number, its settings, and estimate, low and high end of the 95 %
            interval of the metric, and ``excess`` over the limits on costs, where the environment
            has costs; ``failed`` says why there is none.
        """
        order = self.ranking()
        rest = [i for i in range(len(self.points)) if i not in order]
        rows, scores, excesses = [], self.scores(), self.excesses()
        for i in [*order, *rest]:
            row: dict[str, Any] = {"point": i, **self.points[i]}
            if i in order:
                interval = statistics.bootstrap_interval(scores[i])
                ends = (float(x) for x in (interval.estimate, interval.low, interval.high))
                row |= dict(zip((self.metric, "low", "high"), ends, strict=True))
                result = self.results[i]
                if result is not None and result.costs is not None:
                    row["excess"] = float(excesses[i])
            else:
                row["failed"] = self.failed.get(i, "not trained yet")
            rows.append(row)
        return rows

    def table(self, most: int = 20) -> Table:
        """Returns a table of the best points.

        Args:
            most: most rows of the table.

        Returns:
            A table of settings and scores.
        """
        names = list(dict.fromkeys(name for point in self.points for name in point))
        lines, rows = [], self.rows()
        has_limits = any("excess" in row for row in rows)
        for row in rows[:most]:
            score = (
                f"{row[self.metric]:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
                if self.metric in row and "low" in row
                else row["failed"]
            )
            settings = (show_value(row[name]) if name in row else "" for name in names)
            over = (f"{100 * row['excess']:.3g} %" if "excess" in row else "",) * has_limits
            lines.append((row["point"], *settings, score, *over))
        hidden = len(self.points) - len(lines)
        title = f"sweep of {len(self.points)} points" + (
            f", the best {len(lines)} shown" if hidden else ""
        )
        heads = ("point", *names, f"{self.metric}: IQM over seeds [95 % interval]")
        heads += ("costs over their limits",) * has_limits
        return tables.make_table(heads, lines, title)

    def summary(self) -> str:
        """Returns `table` as text."""
        return tables.to_text(self.table())

    def _repr_html_(self) -> str:
        """Returns `table` as HTML, which notebooks ask for by this name."""
        return tables.to_html(self.table())

    def to_dataframe(self) -> DataFrame:
        """Returns the metrics of all points as a pandas data frame.

        Returns:
            A frame with a row for each point, seed and evaluation: the columns ``point`` and one
            for each setting that the sweep varies, then those of `Result.to_dataframe`. Points
            without a result have no rows.

        Raises:
            ImportError: pandas, of the extra ``dataframe``, is not installed.
            ValueError: no point has a result.

        Example:
            ``frame.groupby("lr")["eval_return"].max()`` compares the values of one setting.
        """
        from jaxmarl_lite.experiment import dataframe

        finished = [
            (i, setting, result)
            for i, (setting, result) in enumerate(zip(self.points, self.results, strict=True))
            if result is not None
        ]
        return dataframe.of_points(finished)

    def plot(self, path: str | Path | None = None) -> Any:
        """Draws value against score for every setting, and parallel coordinates of all.

        Args:
            path: file to write the figure to as well, in the format of its suffix.

        Returns:
            A matplotlib figure.

        Raises:
            ValueError: no point has a result, or ``path`` is no path.
        """
        from jaxmarl_lite.report import sweep_plot

        rows = [row for row in self.rows() if "failed" not in row]
        if not rows:
            raise ValueError("no point of the sweep has a result; there is nothing to draw")
        names = list(dict.fromkeys(name for point in self.points for name in point))
        path = None if path is None else check_path("path", path)
        return sweep_plot.plot(rows, names, self.metric, self.mode, path)


def final_scores(result: Result, metric: str) -> np.ndarray:
    """Returns a metric of every seed at the last evaluation, mean over its other axes.

    Args:
        result: result of a run.
        metric: name of the metric.

    Returns:
        ``[S]``; NaN for a seed that diverged.

    Raises:
        ValueError: the run has no such metric.
    """
    if metric in result.metrics:
        values = result.metrics[metric][:, -1]
        return values.reshape(len(values), -1).mean(-1)
    base = metric.partition("/")[0]  # such as eval_cost/agent_0/cost_1
    rows = [metrics.flatten({base: row[-1]}) for row in result.metrics.get(base, ())]
    if not rows or metric not in rows[0]:
        raise validation.unknown_name("metric", metric, result.metrics)
    return np.asarray([row[metric] for row in rows], float)


def final_excess(result: Result) -> float:
    """Returns by how much the mean costs of the last evaluation exceed their limits.

    Args:
        result: result of a run.

    Returns:
        The excess as in `ranking.Score`, over the seeds that have not diverged; 0 without costs.
    """
    if result.costs is None:
        return 0.0
    return excess(statistics.mean(result.costs[:, -1], axis=0), result.limits)


def sweep(
    algorithm: Any,
    env: str | Environment,
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    random: Mapping[str, Any] | None = None,
    num_points: int | None = None,
    points: Sequence[Setting] | None = None,
    sweep_seed: int = 0,
    config: Any = None,
    seeds: int | Sequence[int] = 3,
    out: str | Path | None = None,
    group_size: int | None = None,
    part: tuple[int, int] = (0, 1),
    metric: str = "eval_return",
    mode: str = "max",
    quiet: bool = False,
    **settings: Any,
) -> Sweep:
    """Trains an algorithm with many settings, with the same seeds for each.

    Points that differ only in floats of the config train as one program, which compiles once. Every
    point ends as an ordinary run in ``out/runs``. A sweep in a folder resumes: the same call goes
    on with what is not finished.

    Args:
        algorithm: as for `run`.
        env: as for `run`.
        grid: setting -> values; all combinations are points.
        random: setting -> a range ``(low, high)``, ``(low, high, "log")``, ``(low, high, "int")``,
            or a list of choices; ``num_points`` points are drawn.
        num_points: number of random points.
        points: the points themselves, each a mapping from settings to values.
        sweep_seed: seed of the random points.
        config: settings that all points share, as for `run`.
        seeds: as for `run`.
        out: folder of the sweep; None keeps the results in memory alone.
        group_size: most points that train as one program; None: all that can. Where the device's
            memory is too small for a group, it is halved.
        part: ``(i, n)`` trains the i-th of n equal shares of the points (from 0), as a task of a
            Slurm array does; the tasks share ``out``.
        metric: metric by which points are ranked, at the last evaluation.
        mode: ``max`` or ``min``.
        quiet: whether to print nothing.
        **settings: further arguments of `run`, the same for all points.

    Returns:
        The `Sweep`.

    Raises:
        ValueError: a setting is invalid, there is no point, or the folder holds another sweep.

    Example:
        >>> import jaxmarl_lite as jml
        >>> result = jml.sweep(
        ...     "ippo", "toy/counter", grid={"lr": [1e-3, 1e-2], "gamma": [0.9, 0.99]},
        ...     config={"hidden_sizes": (8,)}, seeds=2, total_steps=64, num_envs=4, num_steps=8,
        ...     num_evaluations=2, eval_episodes=4, quiet=True,
        ... )
        >>> result.points[0]
        {'lr': 0.001, 'gamma': 0.9}
        >>> result.scores().shape  # [points, seeds]
        (4, 2)
        >>> sorted(result.best)
        ['gamma', 'lr']
    """
    chosen = _choose_points(grid, random, num_points, points, sweep_seed)
    validation.check_choice("mode", mode, ("max", "min"))
    size = check_int("group_size", len(chosen) if group_size is None else group_size)
    index, count = _check_part(part)
    folder = None if out is None else check_path("out", out)
    session_names = {field.name for field in dataclasses.fields(SessionConfig)}
    session: dict[str, Any] = {k: v for k, v in settings.items() if k in session_names}
    if refused := [name for name in ("out", "resume", "on_evaluation") if name in session]:
        raise ValueError(f"{refused[0]} is given to a sweep; allowed are other arguments of run")
    session["loggers"] = loggers = session.get("loggers")
    tracking.parse_loggers(loggers, folder is not None)
    if folder is None and loggers:
        raise invalid("loggers", loggers, "None for a sweep without a folder (out)")
    settings = {k: v for k, v in settings.items() if k not in session_names} | {"seeds": seeds}
    if (seed := settings.pop("seed", None)) is not None:
        settings["seeds"] = (seed,)
    planned, environment = _make_points(algorithm, env, config, chosen, settings)
    check_metric("metric", metric, planned[0].plan, environment)
    if folder is not None:
        _claim(folder, planned, metric, mode)
    checked: dict[str, Any] = session | {"loggers": None}
    SessionConfig(**checked)  # wrong values are named before training
    run_group = _GroupRunner(environment, folder, session, quiet)
    mine = planned[index * len(planned) // count : (index + 1) * len(planned) // count]
    results: dict[int, Result] = {}
    failed: dict[int, str] = {}
    for group in _groups(mine, size):
        run_group(group, results, failed)
    for point in planned:  # those that the tasks of other parts have finished
        if point not in mine and (stored := run_group.stored(point)) is not None:
            results[point.number] = stored
    finished = Sweep(
        tuple(point.setting for point in planned),
        tuple(results.get(point.number) for point in planned),
        failed,
        metric,
        mode,
        folder,
    )
    _write_overview(finished)
    if not quiet:
        Console().print(finished.table())
    return finished


def _choose_points(
    grid: Any, random: Any, num_points: int | None, points: Any, seed: int
) -> list[Setting]:
    """Returns the points of exactly one of the three kinds of sweep."""
    arguments = {"grid": grid, "random": random, "points": points}
    kinds = [name for name, value in arguments.items() if value is not None]
    if len(kinds) != 1:
        raise ValueError(f"points come from {kinds}; allowed is one of grid, random and points")
    if num_points is not None and random is None:
        raise invalid("num_points", num_points, f"None with {kinds[0]}")
    if grid is not None:
        return grid_points(grid)
    if random is not None:
        return random_points(random, check_int("num_points", num_points), seed)
    if isinstance(points, (str, Mapping)) or not isinstance(points, Sequence) or not len(points):
        raise invalid("points", points, "a list of mappings from settings to values, not empty")
    return [validation.check_mapping(f"points[{i}]", point) for i, point in enumerate(points)]


def _check_part(part: Any) -> tuple[int, int]:
    """Returns the share of a sweep that this process trains."""
    plain = validation.to_plain(part)
    if not isinstance(plain, tuple) or len(plain) != 2:
        raise invalid("part", part, "(i, n): the i-th of n parts, from 0")
    count = check_int("part", plain[1])
    return check_int("part", plain[0], 0, count - 1), count


def _make_points(
    algorithm: Any,
    env: str | Environment,
    config: Any,
    chosen: Sequence[Setting],
    settings: Mapping[str, Any],
) -> tuple[list[Point], Environment]:
    """Returns the points with their plans, all checked before anything is compiled."""
    result: list[Point] = []
    bases: dict[str, tuple[RunConfig, Environment]] = {}
    for number, setting in enumerate(chosen):
        of_run = {name: x for name, x in setting.items() if name in _RUN_FIELDS}
        fields = {name: x for name, x in setting.items() if name not in _RUN_FIELDS}
        key = repr(of_run)
        try:
            if key not in bases:
                arguments = dict(settings) | of_run
                bases[key] = experiment_config.make_run_config(
                    algorithm, env, config=config, **arguments
                )
            base, environment = bases[key]
            plan = experiment_config.with_config(base, fields, environment)
        except ValueError as error:
            raise ValueError(f"point {number} of the sweep, {setting}: {error}") from error
        result.append(Point(number, setting, plan))
    return result, environment


def _groups(points: Sequence[Point], size: int) -> Iterator[list[Point]]:
    """Returns groups of points that one program trains, each of at most ``size`` points."""
    groups: dict[Any, list[Point]] = {}
    for point in points:
        groups.setdefault(_group_key(point.plan), []).append(point)
    for members in groups.values():
        # each seed of a run that starts from another run's weights has weights of its own
        together = size if members[0].plan.init_from is None else 1
        for start in range(0, len(members), together):
            yield members[start : start + together]


def _group_key(plan: RunConfig) -> Any:
    """Returns what must be equal in two plans that one program trains."""
    others = {name: x for name, x in vars(plan).items() if name not in ("config", "env_args")}
    fields = vars(plan.config)
    static = tuple((k, v) for k, v in fields.items() if not isinstance(v, float))
    return type(plan.config), tuple(others.items()), static


def _claim(folder: Path, points: Sequence[Point], metric: str, mode: str) -> None:
    """Writes what the sweep is, or checks that the folder holds this one."""
    plans = [{"setting": point.setting, "plan": point.plan.to_dict()} for point in points]
    content = {"metric": metric, "mode": mode, "points": plans}
    path, lock = folder / "sweep.json", folder / ".sweep.lock"
    is_new = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not (is_new or lock.exists() or path.exists()):
        raise run_dir.RunFolderError(
            f"{folder} is not empty and holds no sweep; allowed is a new or empty folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(lock):  # the jobs of an array begin at one time
        if not path.exists():
            atomic_io.write_json(path, content)
            return
        stored = run_dir.read_object(path)
    expected = atomic_io.from_json(atomic_io.to_json(plans))
    if validation.to_plain(stored.get("points")) != validation.to_plain(expected):
        raise run_dir.RunFolderError(
            f"{folder} holds another sweep, of {len(stored.get('points', []))} points; allowed is "
            "a folder without one, or the same sweep, which is then continued"
        )


class _GroupRunner:
    """Trains groups of points and keeps each point as a run.

    Args:
        env: the environment.
        folder: folder of the sweep, or None.
        session: arguments of `SessionConfig`, the same for all runs.
        quiet: whether to print nothing.
    """

    def __init__(
        self, env: Environment, folder: Path | None, session: Mapping[str, Any], quiet: bool
    ):
        self._env, self._folder, self._session, self._quiet = env, folder, session, quiet

    def __call__(
        self, group: list[Point], results: dict[int, Result], failed: dict[int, str]
    ) -> None:
        """Trains a group, unless its points are finished.

        Args:
            group: the points.
            results: number of a point -> result, to which those of the group are added.
            failed: number of a point -> why it has no result, likewise.
        """
        missing = []
        for point in group:
            stored = self.stored(point)
            if stored is None:
                missing.append(point)
            else:
                results[point.number] = stored
        if not missing:
            return
        # a group that was interrupted while its points were written goes on as a whole
        path = self._group_path(group)
        together = group if path is not None and path.is_dir() else missing
        try:
            with memory.exhaustion_explained():
                results |= self._train(together)
        except RunError as error:
            if isinstance(error.__cause__, OSError):  # the disk, which no other point has either
                raise
            failed |= dict.fromkeys((point.number for point in missing), str(error))
        except MemoryError:
            if len(together) == 1:
                raise
            self._remove_unsaved(together)
            half = max(1, len(missing) // 2)
            self._say(f"{len(together)} points do not fit the memory; going on with {half} at once")
            for part in (missing[:half], missing[half:]):
                self(part, results, failed)

    def _say(self, text: str) -> None:
        if not self._quiet:
            print(text, flush=True)

    def _path(self, point: Point) -> Path | None:
        """Returns the folder of a point's run."""
        return None if self._folder is None else self._folder / "runs" / point.label

    def _group_path(self, group: Sequence[Point]) -> Path | None:
        """Returns the folder of the run that trains a group."""
        if self._folder is None or len(group) < 2:
            return None
        return self._folder / "groups" / f"{group[0].number:03d}-{group[-1].number:03d}"

    def _remove_unsaved(self, group: Sequence[Point]) -> None:
        """Removes the folder of a group that has nothing to continue from."""
        path = self._group_path(group)
        if path is None or not path.is_dir():
            return
        if checkpoint.latest(run_dir.RunFolder(path).checkpoints) is None:
            shutil.rmtree(path)

    def stored(self, point: Point) -> Result | None:
        """Returns the result of a point that is finished in its folder.

        Args:
            point: the point.
        """
        path = self._path(point)
        if path is None or not path.is_dir():
            return None
        if checkpoint.latest(run_dir.RunFolder(path).checkpoints) != point.plan.num_updates:
            return None
        return _load_point(path, point.plan, self._env)

    def _train(self, group: list[Point]) -> dict[int, Result]:
        """Trains points as one program, and returns their results by number."""
        names = ", ".join(f"{p.number}" for p in group[:8]) + (", ..." if len(group) > 8 else "")
        if len(group) > 1:
            self._say(f"training {len(group)} points as one program: {names}")
        else:
            self._say(f"training point {names}")
        if len(group) == 1:
            path = self._path(group[0])
            return {group[0].number: self._run(group[0].plan, path, self._session["loggers"])}
        plan = _joined(group)
        path = self._group_path(group)
        joined = self._run(plan, path, ())  # the points have the loggers
        results, start = {}, 0
        for point in group:
            stop = start + len(point.plan.seeds)
            # one that an interruption found written already is complete
            stored = self.stored(point)
            results[point.number] = stored or self._split(joined, point, start, stop)
            start = stop
        if path is not None:  # the points hold all of it
            shutil.rmtree(path)
        return results

    def _run(self, plan: RunConfig, path: Path | None, run_loggers: Any) -> Result:
        """Trains a plan in a folder, or continues it there."""
        where: dict[str, Any] = {}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            where = {"resume" if run_dir.RunFolder(path).exists() else "out": path}
        arguments = {**self._session, **where, "loggers": run_loggers, "quiet": self._quiet}
        return api.run_plan(plan, self._env, SessionConfig(**arguments))

    def _split(self, joined: Result, point: Point, start: int, stop: int) -> Result:
        """Returns the result of one point, and writes it as a run where the sweep has a folder."""
        seeds = dict(zip(joined.plan.seeds[start:stop], point.plan.seeds, strict=True))
        curves = {name: values[start:stop] for name, values in joined.metrics.items()}
        states = jax.tree.map(lambda x: x[start:stop], joined.states)
        random = None if joined.random_returns is None else joined.random_returns[start:stop]
        share = joined.timings._replace(
            **{
                name: getattr(joined.timings, name) * len(seeds) / len(joined.plan.seeds)
                for name in ("training_seconds", "elapsed_seconds")
            }
        )
        path = self._path(point)
        if path is not None:
            trackers = tracking.parse_loggers(self._session["loggers"], True)
            parts = (seeds, states, random, share, trackers)
            _write_point(path, joined, point.plan, self._env, parts, start)
        return Result(
            point.plan,
            self._env,
            joined.steps,
            curves["eval_return"],
            curves,
            random,
            share,
            path,
            lambda: states,
        )


def _joined(group: Sequence[Point]) -> RunConfig:
    """Returns the plan that trains all points of a group, with a lane for each point and seed."""
    base = group[0].plan
    lanes = []
    for point in group:
        floats = tuple(
            (name, value)
            for name, value in vars(point.plan.config).items()
            if isinstance(value, float)
        )
        lanes += [Lane(seed, floats) for seed in point.plan.seeds]
    return dataclasses.replace(base, seeds=tuple(range(len(lanes))), lanes=tuple(lanes))


def _write_point(
    path: Path,
    joined: Result,
    plan: RunConfig,
    env: Environment,
    parts: tuple[Any, ...],
    start: int,
) -> None:
    """Writes one point as a run; its folder appears when it is complete.

    Args:
        path: folder of the point.
        joined: result of the group, from its folder.
        plan: plan of the point.
        env: the environment.
        parts: lane -> seed, states, returns of the random policy, durations, and loggers of the
            point.
        start: the point's first lane.
    """
    seeds, states, random, timings, trackers = parts
    assert joined.path is not None
    group = run_dir.RunFolder(joined.path)
    saved = read_meta(checkpoint.find_intact(group.checkpoints))
    unfinished = path.with_name(f".{path.name}")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = run_dir.create(unfinished, plan.to_dict())
    logger = RunLogger(plan, env.spec, folder, trackers=trackers)
    for row in read_rows(group.metrics):
        if row["seed"] in seeds:
            values = {k: v for k, v in row.items() if k not in INDEX}
            logger.write(row["update"], seeds[row["seed"]], values)
    logger.flush()
    if random is not None:
        logger.save_random_returns(random)
    meta = {
        "plan": plan.to_dict(),
        "diverged": saved.diverged[start : start + len(plan.seeds)],
        "environment": saved.environment,
        "reasons": {
            str(seed): saved.reasons[str(lane)]
            for lane, seed in seeds.items()
            if str(lane) in saved.reasons
        },
        "timings": timings._asdict(),
        "rows": logger.mark(),
    }
    checkpoint.save(folder.checkpoints, plan.num_updates, states, meta, 1)
    logger.close()
    rebuild(plan, env.spec, folder, print)
    if path.exists():
        shutil.rmtree(path)  # a point that was not finished
    unfinished.rename(path)


def _load_point(path: Path, plan: RunConfig, env: Environment) -> Result:
    """Returns the result in a point's folder."""
    objects = base_config.objects_of(plan.config)
    return load_run(
        path,
        env=env if plan.env_args is None else None,
        algorithm=plan.entry,
        networks=None if isinstance(plan.networks, str) else plan.networks,
        config={name: x for name, x in objects.items() if references.describe(x).startswith("<")},
    )


def load_sweep(
    path: str | Path,
    env: Environment | None = None,
    *,
    algorithm: Any = None,
    networks: Any = None,
) -> Sweep:
    """Loads a sweep from its folder, finished or not.

    Args:
        path: folder of the sweep.
        env: the environment, where `sweep` was given an object.
        algorithm: the algorithm, likewise.
        networks: the networks, likewise.

    Returns:
        The `Sweep`; points that are not finished have no result.

    Raises:
        RunFolderError: the folder holds no sweep.
    """
    folder = check_path("path", path)
    if not (folder / "sweep.json").is_file():
        raise run_dir.RunFolderError(f"{folder} holds no sweep (sweep.json is missing)")
    stored = run_dir.read_object(folder / "sweep.json")
    settings, results = [], []
    for number, entry in enumerate(stored["points"]):
        plan = experiment_config.from_dict(entry["plan"], folder / "sweep.json")
        setting = validation.to_plain(entry["setting"])
        run = folder / "runs" / Point(number, setting, plan).label
        done = run.is_dir() and (
            checkpoint.latest(run_dir.RunFolder(run).checkpoints) == plan.num_updates
        )
        settings.append(setting)
        objects = {"algorithm": algorithm, "networks": networks}
        results.append(load_run(run, env, **objects) if done else None)
    return Sweep(tuple(settings), tuple(results), {}, stored["metric"], stored["mode"], folder)


def _write_overview(result: Sweep) -> None:
    """Writes table and picture of a sweep to its folder."""
    if result.path is None:
        return
    atomic_io.write_json(result.path / "results.json", result.rows())
    atomic_io.replace_text(result.path / "table.txt", result.summary())
    if result.ranking():
        result.plot(result.path / "sweep.png")


__all__ = ["Sweep", "load_sweep", "sweep"]
