"""Runs as pandas data frames: one row for each seed and evaluation, one column for each metric."""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmarl_lite import references
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment import run_logger
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.report import loggers, metrics, run_dir
from jaxmarl_lite.validation import check_path, invalid

if TYPE_CHECKING:
    from pandas import DataFrame

    from jaxmarl_lite.experiment.result import Result

_NOT_SETTINGS = ("algorithm", "env", "seeds")
"""Fields of a plan that have columns of their own, with one value a row."""


def of_result(result: Result) -> DataFrame:
    """Returns the metrics of a result; see `Result.to_dataframe`.

    Args:
        result: the result.

    Raises:
        ImportError: pandas is not installed.
    """
    pandas = references.import_extra("pandas", "data frames need", "dataframe")
    return pandas.DataFrame(_rows_of_result(result))


def of_points(points: Sequence[tuple[int, Mapping[str, Any], Result]]) -> DataFrame:
    """Returns the metrics of several points of a sweep; see `Sweep.to_dataframe`.

    Args:
        points: number, settings and result of each.

    Raises:
        ImportError: pandas is not installed.
        ValueError: there is no point.
    """
    pandas = references.import_extra("pandas", "data frames need", "dataframe")
    if not points:
        raise ValueError("no point of the sweep has a result")
    return pandas.DataFrame(
        [
            {"point": number} | {name: _hashable(x) for name, x in setting.items()} | row
            for number, setting, result in points
            for row in _rows_of_result(result)
        ]
    )


def _rows_of_result(result: Result) -> list[dict[str, Any]]:
    """Returns a row for each seed and evaluation of a result."""
    measured = [
        ~np.isnan(values).reshape(*values.shape[:2], -1).all(-1)
        for values in result.metrics.values()
    ]
    evaluated = np.any(measured, axis=0)  # [S, E]; an interrupted run lacks some
    return [
        row_index(result.plan, seed, int(step) // result.plan.batch_steps, int(step))
        | metrics.flatten({name: values[i, j] for name, values in result.metrics.items()})
        for i, seed in enumerate(result.seeds)
        for j, step in enumerate(result.steps)
        if evaluated[i, j]
    ]


def load_runs(paths: str | Path | Iterable[str | Path]) -> DataFrame:
    """Loads the metrics and settings of several runs into one data frame.

    Nothing is compiled, and no environment is built: runs in a user's own environments are read
    like all others.

    Args:
        paths: a pattern such as ``"runs/*"`` (``**`` stands for folders at any depth), the folder
            of a run, or several of both.

    Returns:
        A pandas data frame with a row for each run, seed and evaluation, sorted by these. Columns
        are ``run`` (the folder), ``algorithm``, ``env``, ``seed``, ``update``, ``step``, the
        metrics under their names in metrics.jsonl, and every setting of the run under its name in
        config.json, such as ``num_envs`` or ``config.lr``. All settings are there, equal or not, so
        that a script finds the same columns whichever runs it loads;
        ``frame.loc[:, frame.nunique(dropna=False) > 1]`` keeps what differs.

    Raises:
        ImportError: pandas is not installed.
        RunFolderError: a folder that is named, and not matched by a pattern, holds no run, a
            damaged one, or one without an evaluation; or no match of the patterns is a run. Folders
            that a pattern matches and that cannot be read are left out, with a warning.
        ValueError: ``paths`` are no paths.

    Example:
        >>> import jaxmarl_lite as jml
        >>> for lr in (1e-3, 1e-2):
        ...     result = jml.run(
        ...         "ippo", "toy/counter", config={"hidden_sizes": (8,), "lr": lr}, seeds=2,
        ...         total_steps=64, num_envs=4, num_steps=8, num_evaluations=2, eval_episodes=4,
        ...         quiet=True, out=f"runs/lr-{lr:g}",
        ...     )
        >>> frame = jml.load_runs("runs/*")
        >>> frame[["run", "seed", "step", "config.lr"]].tail(2)
                   run  seed  step  config.lr
        10  runs/lr-0.01     1    32       0.01
        11  runs/lr-0.01     1    64       0.01
        >>> frame.groupby("config.lr")["eval_return"].max().shape
        (2,)
    """
    pandas = references.import_extra("pandas", "data frames need", "dataframe")
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    loaded: set[Path] = set()
    for folder, matched in _folders(paths):
        if folder.resolve() in loaded:
            continue
        try:
            rows += _rows_of(folder)
            loaded.add(folder.resolve())
        except (run_dir.RunFolderError, ValueError) as error:
            if not matched:
                raise
            left_out.append(" ".join(str(error).split()))
    if not rows:
        raise run_dir.RunFolderError(
            f"no run is in {_show(paths)}; allowed are folders of runs, or a pattern that matches "
            f"some, such as 'runs/*'{': ' * bool(left_out)}{'; '.join(left_out)}"
        )
    if left_out:
        warnings.warn(f"left out: {'; '.join(left_out)}", run_dir.RunFolderWarning, stacklevel=2)
    frame = pandas.DataFrame(rows)
    # of runs of different algorithms, each may have metrics that the ones before it lack
    return frame[sorted(frame.columns, key=_is_setting)]


def _is_setting(name: str) -> bool:
    """Returns whether a column is a setting, and not a metric or an index."""
    return name.partition(".")[0] in RunConfig.__dataclass_fields__ and name not in _NOT_SETTINGS


def _folders(paths: str | Path | Iterable[str | Path]) -> Iterator[tuple[Path, bool]]:
    """Yields folders, and whether a pattern matched them; files that match are passed over."""
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    elif not isinstance(paths, Iterable):
        raise invalid("paths", paths, "a pattern such as 'runs/*', the folder of a run, or several")
    for entry in paths:
        path = check_path("paths", entry)
        # a folder may have brackets in its name
        if glob.has_magic(str(path)) and not path.exists():
            matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207, keeps the form
            yield from ((Path(match), True) for match in matches if Path(match).is_dir())
        else:
            yield path, False


def _rows_of(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of one run, with its settings.

    Raises:
        RunFolderError: the folder holds no run, a damaged one, or one without an evaluation.
        ValueError: a setting is invalid.
    """
    if not path.is_dir():
        raise run_dir.RunFolderError(f"{path} is no folder")
    if not run_dir.RunFolder(path).config.is_file():
        inside = any(run_dir.RunFolder(child).config.is_file() for child in path.iterdir())
        hint = f"; the runs in it are {path / '*'}" if inside else ""
        raise run_dir.RunFolderError(f"{path} holds no run: it has no config.json{hint}")
    stored = run_dir.load(path)
    plan = experiment_config.from_dict(stored.config, stored.folder.config)
    run_logger.check_rows(plan, stored.rows, stored.folder.metrics)
    if not stored.rows:
        raise run_dir.RunFolderError(
            f"{path} holds no evaluation yet; continue it with --resume {path}"
        )
    settings = flat_settings(plan)
    place = {seed: i for i, seed in enumerate(plan.seeds)}
    ordered = sorted(stored.rows, key=lambda row: (place[row["seed"]], row["update"]))
    return [
        {"run": str(path)}
        | row_index(plan, row["seed"], row["update"], row["step"])
        | {name: value for name, value in row.items() if name not in loggers.INDEX}
        | settings
        for row in ordered
    ]


def row_index(plan: RunConfig, seed: int, update: int, step: int) -> dict[str, Any]:
    """Returns the columns that say which evaluation a row is of.

    Args:
        plan: plan of the run.
        seed: the seed.
        update: number of the update.
        step: environment steps of the seed so far.

    Returns:
        Name of the column -> value.
    """
    return {
        "algorithm": plan.algorithm,
        "env": plan.env,
        "seed": seed,
        "update": update,
        "step": step,
    }


def flat_settings(plan: RunConfig) -> dict[str, Any]:
    """Returns the settings of a plan by their names in config.json, nested ones with dots.

    Args:
        plan: the plan.

    Returns:
        Name, such as ``config.lr``, -> number, text, bool, None, or tuple; algorithm, environment
        and seeds are left out.
    """
    data = {name: value for name, value in plan.to_dict().items() if name not in _NOT_SETTINGS}
    return dict(_flatten(data, ""))


def _flatten(data: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yields names with dots and values; lists become tuples, which can be grouped by."""
    for name, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, Mapping):
            yield f"{prefix}{name}", None
        else:
            yield f"{prefix}{name}", _hashable(value)


def _hashable(value: Any) -> Any:
    """Returns a value with lists as tuples, at every depth."""
    return tuple(map(_hashable, value)) if isinstance(value, (list, tuple)) else value


def _show(paths: str | Path | Iterable[str | Path]) -> str:
    """Returns paths for a message."""
    entries = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    return ", ".join(map(str, entries)) or "an empty list"
