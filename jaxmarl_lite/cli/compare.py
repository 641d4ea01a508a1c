"""The command ``compare``: trains variants of algorithms, or compares runs that exist already."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from jaxmarl_lite.algorithms.registry import ALGORITHMS
from jaxmarl_lite.cli.train import REGISTRY, parse_keywords
from jaxmarl_lite.experiment import compare as comparing
from jaxmarl_lite.experiment.api import RunError
from jaxmarl_lite.report.tables import printable


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare runs: tables with 95 % intervals over seeds, plots, and probabilities of improvement.

    With --env, every variant is trained in every environment with the same settings; the same
    command continues an interrupted comparison. Without --env, existing runs are compared.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders of runs, or LABEL=FOLDER. With --env: algorithms (also as MODULE:NAME), or
    LABEL=ALGORITHM:FIELD=VALUE,... where a field may also be networks=MODULE:NAME;
    LABEL=ALGORITHM.reference begins from the settings of the reference implementation."""
    env: tuple[str, ...] = ()
    """Ids of the environments to train in, see `jaxmarl-lite list`."""
    env_args: dict[str, Any] | None = None
    """Keyword arguments of the environments, such as reward=individual agent_id=False."""
    networks: str | None = None
    """Networks of the user, as MODULE:NAME, for all variants that name none of their own."""
    out: Path | None = None
    """Folder of comparison.json, .md and .png; with --env also of the runs, and required; by
    default the current folder."""
    against: str | None = None
    """Label of the run with which all others are compared; by default the first."""
    reference: bool = False
    """Set the reference results that come with the package beside existing runs, and the values
    that papers publish."""
    report: bool = False
    """Write comparison.html too, one web page with everything inside."""
    seeds: tuple[int, ...] = (3,)
    """One number: how many seeds, 0 .. n-1; several numbers: the seeds themselves."""
    total_steps: int = 1_000_000
    """Environment steps of each seed, rounded up to whole updates."""
    num_envs: int | None = None
    """Parallel environments of a rollout; None: tuned for each variant and environment, or 64."""
    num_steps: int | None = None
    """Steps of a rollout; None: tuned for each variant and environment, or 64."""
    num_evaluations: int = 20
    """Number of evaluations after the one at the start."""
    eval_episodes: int = 32
    """Episodes of an evaluation."""
    greedy: bool = False
    """Evaluate the likeliest actions; by default as the algorithm does."""
    workers: int | None = None
    """Processes that train at once, each on a core of its own; by default one for each core."""


def compare(args: list[str]) -> None:
    """Runs the command ``compare``.

    Args:
        args: arguments of the command.

    Raises:
        ValueError: an argument is invalid, or the folder holds runs with other settings.
        RunFolderError: a folder holds no run.
        RunError: a run failed; the others are in the comparison.
    """
    options = tyro.cli(Compare, prog="jaxmarl-lite compare", args=args, registry=REGISTRY)
    if not options.runs:
        raise ValueError("no run is given; allowed are folders of runs, or algorithms with --env")
    if options.env:
        if options.out is None:
            raise ValueError("--out is missing; allowed with --env is the folder of the runs")
        if options.reference:
            raise ValueError(
                "--reference is given with --env; allowed is without it, on the folders of the runs"
            )
        comparison = comparing.compare(
            options.runs,
            options.env,
            out=options.out,
            env_args=parse_keywords("env_args", options.env_args or ()),
            networks=options.networks,
            seeds=options.seeds[0] if len(options.seeds) == 1 else options.seeds,
            total_steps=options.total_steps,
            num_envs=options.num_envs,
            num_steps=options.num_steps,
            num_evaluations=options.num_evaluations,
            eval_episodes=options.eval_episodes,
            greedy=options.greedy or None,
            against=options.against,
            workers=options.workers or os.cpu_count() or 1,
        )
    else:
        _check_no_training(options)
        comparison = comparing.compare_runs(
            options.runs, against=options.against, reference=options.reference
        )
    stem = (options.out or Path()) / "comparison"
    paths = comparison.save(stem)
    if options.report:
        paths.append(comparison.report(stem.with_suffix(".html")))
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)
    console.print(comparison.table())
    print(*map(printable, paths), sep="\n")
    if comparison.failed:
        failed = (f"{label} on {e}" for e, labels in comparison.failed.items() for label in labels)
        raise RunError(f"{', '.join(failed)} failed; the other runs are compared")


def _check_no_training(options: Compare) -> None:
    """Raises ValueError for algorithms, or options of training, without an environment."""
    for name in options.runs:
        text = name.partition("=")[2] if "=" in name.partition(":")[0] else name
        if text.partition(":")[0] in ALGORITHMS and not Path(text).exists():
            raise ValueError(
                f"{name} names an algorithm, but --env is missing; allowed without --env are "
                "folders of runs"
            )
    for field in dataclasses.fields(options):
        if field.name in ("runs", "env", "out", "against", "report", "reference"):
            continue
        if getattr(options, field.name) != field.default:
            raise ValueError(
                f"--{field.name.replace('_', '-')} is given, but without --env nothing is trained; "
                "allowed are --against, --out, --reference and --report"
            )
