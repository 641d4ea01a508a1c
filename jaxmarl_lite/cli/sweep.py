"""The command ``sweep``: many settings of one algorithm."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import tyro

from jaxmarl_lite.cli.train import REGISTRY, parse
from jaxmarl_lite.experiment import optuna_study, sweep_space
from jaxmarl_lite.experiment import sweep as experiment_sweep
from jaxmarl_lite.validation import check_int, invalid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """Train an algorithm with many settings and rank them.

    usage: jaxmarl-lite sweep ALGORITHM --env ENV --out DIR (--grid | --random | --optuna) ... and
    all options of `jaxmarl-lite train`, which hold for every point. The same command goes on with a
    sweep that was interrupted.
    """

    grid: tuple[str, ...] = ()
    """FIELD=VALUE,VALUE,...: all combinations of these values."""
    random: tuple[str, ...] = ()
    """FIELD=LOW:HIGH[:log|:int] or FIELD=VALUE,VALUE,...: --points points drawn from these."""
    optuna: tuple[str, ...] = ()
    """The same ranges, searched by Optuna in --points trials, of which bad ones end early."""
    points: int | None = None
    """Number of random points, or of Optuna's trials over all processes."""
    sweep_seed: int = 0
    """Seed of the random points."""
    metric: str = "eval_return"
    """Metric by which points are ranked, at the last evaluation."""
    mode: Literal["max", "min"] = "max"
    """Whether a higher or a lower value is better."""
    group_size: int | None = None
    """Most points that train as one program; by default all that can."""
    part: str = "0/1"
    """I/N: train the I-th of N equal shares of the points, from 0; the jobs of a Slurm array share
    --out: --part $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT."""
    storage: str | None = None
    """URL of Optuna's storage; by default an SQLite file in --out."""
    study_name: str = "jaxmarl_lite"
    """Name of the study in Optuna's storage."""


def sweep(args: list[str]) -> None:
    """Runs the command ``sweep``.

    Args:
        args: arguments of the command.

    Raises:
        ValueError: an argument is invalid.
        ImportError: --optuna is given, but Optuna is not installed.
        RunFolderError: the folder holds another sweep.
    """
    sweep_args, train_args = _split(args)
    options = tyro.cli(
        Sweep,
        prog="jaxmarl-lite sweep",
        args=sweep_args,
        registry=REGISTRY,
        description=Sweep.__doc__,
    )
    kinds = {name: getattr(options, name) for name in ("grid", "random", "optuna")}
    if len([name for name, value in kinds.items() if value]) != 1:
        raise ValueError("allowed is exactly one of --grid, --random and --optuna")
    command = parse(train_args)
    if command is None:
        return
    if command.dry_run:
        raise ValueError("--dry-run is given to a sweep; allowed is --dry-run of train")
    settings = dict(command.settings)
    out = settings.pop("out")
    if settings.pop("resume") is not None:
        raise ValueError("--resume is given to a sweep, which goes on by itself; allowed is --out")
    if not settings["on_evaluation"]:
        del settings["on_evaluation"]
    if out is None:
        raise ValueError("--out is missing; allowed is a folder for the sweep")
    ranked: dict[str, Any] = {"metric": options.metric, "mode": options.mode}
    if options.optuna:
        _optimize(command.algorithm, command.env, options, out, settings | ranked)
        return
    random = sweep_space.parse_words("--random", options.random) if options.random else None
    experiment_sweep.sweep(
        command.algorithm,
        command.env,
        grid=_lists(options.grid) if options.grid else None,
        random=random,
        num_points=options.points,
        sweep_seed=options.sweep_seed,
        group_size=options.group_size,
        part=_part(options.part),
        out=out,
        **(settings | ranked),
    )


def _optimize(
    algorithm: str, env: str, options: Sweep, out: Path, settings: dict[str, Any]
) -> None:
    """Runs an Optuna study and prints its best trials."""
    if options.points is None:
        raise ValueError("--points is missing; allowed is the number of Optuna's trials")
    study = optuna_study.optimize(
        algorithm,
        env,
        space=sweep_space.parse_words("--optuna", options.optuna),
        num_trials=options.points,
        out=out,
        storage=options.storage,
        study_name=options.study_name,
        **settings,
    )
    print(optuna_study.summary(study, settings["metric"]))


_NAMES = tuple(f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Sweep))


def _split(args: list[str]) -> tuple[list[str], list[str]]:
    """Returns the arguments that are options of a sweep, and those of ``train``."""
    if any(word in ("-h", "--help") for word in args):
        return ["--help"], []
    parts: tuple[list[str], list[str]] = ([], [])
    target = 1
    for word in args:
        if word.startswith("--"):
            target = 0 if word.partition("=")[0].replace("_", "-") in _NAMES else 1
        parts[target].append(word)
    return parts


def _lists(texts: tuple[str, ...]) -> dict[str, Any]:
    """Returns the grid of ``--grid``; a range is refused."""
    grid = sweep_space.parse_words("--grid", texts)
    for name, values in grid.items():
        if isinstance(values, tuple):
            raise invalid(f"--grid of {name}", values, "values with commas between them")
    return grid


def _part(text: str) -> tuple[int, int]:
    """Returns the share that ``--part`` asks for."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(count)):
        raise invalid("--part", text, "I/N with I from 0 to N - 1, such as 0/4")
    return check_int("--part", int(index), 0, int(count) - 1), int(count)
