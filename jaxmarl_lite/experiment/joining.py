"""Runs of single seeds as one run of several seeds, as an array of cluster jobs leaves them."""

from __future__ import annotations

import dataclasses
import itertools
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment import run_logger
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.experiment.result import Result, Timings
from jaxmarl_lite.report import run_dir
from jaxmarl_lite.types import TrainState


class JoinedRun(NamedTuple):
    """The rows of runs that differ in nothing but their seeds.

    Attributes:
        run: the run, with the rows of all folders; its ``folder`` is the first.
        plan: plan of the run, with the seeds of all.
        paths: folders of the runs.
    """

    run: run_dir.Run
    plan: RunConfig
    paths: tuple[Path, ...]


def join_runs(paths: Sequence[Path]) -> list[JoinedRun]:
    """Reads runs, and joins those that differ in nothing but their seeds.

    Args:
        paths: folders of the runs.

    Returns:
        The runs, in the order of their first folders.

    Raises:
        RunFolderError: a folder holds no run, or a damaged one.
        ValueError: runs that differ in nothing else have a seed twice, or were evaluated at other
            steps.

    Example:
        >>> from pathlib import Path
        >>> import jaxmarl_lite as jml
        >>> for seed in (3, 7):
        ...     result = jml.run(
        ...         "ippo", "toy/counter", config={"hidden_sizes": (8,)}, seed=seed, total_steps=64,
        ...         num_envs=4, num_steps=8, num_evaluations=2, eval_episodes=4, quiet=True,
        ...         out=f"seed-{seed}",
        ...     )
        >>> (joined,) = join_runs([Path("seed-3"), Path("seed-7")])
        >>> joined.plan.seeds, len(joined.run.rows)
        ((3, 7), 6)
    """
    runs, plans = [], []
    for path in paths:
        run = run_dir.load(path)
        plan = experiment_config.from_dict(run.config, run.folder.config)
        run_logger.check_rows(plan, run.rows, run.folder.metrics)
        runs.append(run)
        plans.append(plan)
    joined = []
    for group in groups(plans):
        steps = [sorted({row["step"] for row in runs[i].rows}) for i in group]
        seeds = check_group([paths[i] for i in group], [plans[i].seeds for i in group], steps)
        plan = plans[group[0]] if len(group) == 1 else _with_seeds(plans[group[0]], seeds)
        # the rows of one update together, as one run writes them
        rows = sorted((row for i in group for row in runs[i].rows), key=lambda row: row["update"])
        run = dataclasses.replace(runs[group[0]], rows=rows)
        joined.append(JoinedRun(run, plan, tuple(paths[i] for i in group)))
    return joined


def groups(plans: Sequence[RunConfig]) -> list[list[int]]:
    """Returns which plans differ in nothing but their seeds, and how these are distributed.

    Plans with an object that no text describes whole, such as the functions of an optimizer, may
    differ in it and are never alike; a warning says so where they look the same.

    Args:
        plans: plans of runs.

    Returns:
        Lists of indices, in the order of their first plans.
    """
    contents: list[dict[str, Any]] = []
    result: list[list[int]] = []
    for i, plan in enumerate(plans):
        content = {
            k: v
            for k, v in plan.to_dict().items()
            if k not in ("seeds", *experiment_config.LAYOUT_FIELDS)
        }
        if content in contents and not (hidden := _hidden(content)):
            result[contents.index(content)].append(i)
            continue
        if content in contents:
            warnings.warn(
                f"runs of {plan.algorithm} in {plan.env} with seeds "
                f"{plans[result[contents.index(content)][0]].seeds} and {plan.seeds} are not "
                f"joined: each was given {hidden[0]} as an object, which may differ; give it as "
                "'module:name' to have single seeds joined",
                run_dir.RunFolderWarning,
                stacklevel=2,
            )
        contents.append(content)
        result.append([i])
    return result


def _hidden(content: object) -> list[str]:
    """Returns the descriptions of objects in a plan that do not tell two objects apart."""
    if isinstance(content, str):
        # the text of a function, of an object without a text of its own, or of one that was cut
        whole = not any(part in content[1:] for part in ("<", " object", " ..."))
        is_function = content.startswith(("<function", "<built-in", "<bound"))
        return [content] if content.startswith("<") and (is_function or not whole) else []
    entries = content.values() if isinstance(content, Mapping) else content
    if not isinstance(entries, Iterable):
        return []
    return [text for entry in entries for text in _hidden(entry)]


def check_group(
    paths: Sequence[Path | str], seeds: Sequence[Sequence[int]], steps: Sequence[Sequence[int]]
) -> tuple[int, ...]:
    """Checks that runs can be joined.

    Args:
        paths: folders of the runs, for messages.
        seeds: seeds of each run.
        steps: environment steps of the evaluations of each run.

    Returns:
        The seeds of all runs.

    Raises:
        ValueError: a seed occurs twice, or the steps differ.
    """
    folder_of: dict[int, Path | str] = {}
    for path, run_seeds, run_steps in zip(paths, seeds, steps, strict=True):
        for seed in run_seeds:
            if seed in folder_of:
                raise ValueError(
                    f"seed is {seed} in {folder_of[seed]} and in {path}, whose runs differ in "
                    "nothing else; allowed is each seed once (compare LABEL=RUN LABEL=RUN takes "
                    "them as two runs)"
                )
            folder_of[seed] = path
        if list(run_steps) != list(steps[0]):
            raise ValueError(
                f"{path} has evaluations {_last(run_steps)}, but {paths[0]}, which differs in the "
                f"seeds alone, has them {_last(steps[0])}; allowed are the same steps: continue "
                f"the shorter one with --resume"
            )
    return tuple(folder_of)


def _last(steps: Sequence[int]) -> str:
    """Returns at which steps a run was evaluated, in words."""
    return f"at {len(steps)} steps up to {max(steps, default=0):,}"


def join_results(results: Sequence[Result], paths: Sequence[Path | str]) -> Result:
    """Returns the results of runs that differ in nothing but their seeds as one.

    Args:
        results: results of the runs.
        paths: folders of the runs, for messages.

    Returns:
        A `Result` with the seeds of all. Durations are summed.

    Raises:
        ValueError: a seed occurs twice, or the runs were evaluated at other steps.
    """
    first = results[0]
    if len(results) == 1:
        return first
    steps = [result.steps.tolist() for result in results]
    seeds = check_group(paths, [result.seeds for result in results], steps)
    metrics = {
        name: np.concatenate([result.metrics[name] for result in results])
        for name in first.metrics
        if all(name in result.metrics for result in results)
    }
    random = [result.random_returns for result in results]

    def states() -> TrainState:
        each = [result.states for result in results]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *each)

    return Result(
        _with_seeds(first.plan, seeds),
        first.env,
        first.steps,
        metrics["eval_return"],
        metrics,
        None if any(x is None for x in random) else np.concatenate(random),  # type: ignore[arg-type]
        _sum_of_timings([result.timings for result in results]),
        None,
        states,
        next((result.stopped for result in results if result.stopped), None),
    )


def _with_seeds(plan: RunConfig, seeds: Sequence[int]) -> RunConfig:
    """Returns a plan of other seeds, which are distributed as on one device."""
    layout: dict[str, Any] = dict(seeds_in_parallel=None, devices=None, shard_over="envs")
    return dataclasses.replace(plan, seeds=tuple(seeds), **layout)


def _sum_of_timings(timings: Sequence[Timings]) -> Timings:
    """Returns the durations of runs one after the other."""
    training = sum(item.training_seconds for item in timings)
    steps = sum(item.steps_per_second * item.training_seconds for item in timings)
    return Timings(
        sum(item.compile_seconds for item in timings),
        training,
        sum(item.elapsed_seconds for item in timings),
        steps / training if training else float("nan"),
    )


def common_name(paths: Sequence[Path]) -> str:
    """Returns a name for runs in several folders: what their names have in common.

    Args:
        paths: folders of the runs.

    Returns:
        The name of the only folder, the beginning that all names share without a last ``seed``, or
        the name of the folder that holds all.

    Example:
        >>> common_name([Path("runs/liir_seed_0"), Path("runs/liir_seed_1")])
        'liir'
        >>> common_name([Path("runs/liir/10"), Path("runs/liir/11")])
        'liir'
    """
    names = [path.resolve().name for path in paths]
    if len(set(names)) == 1:
        return names[0]
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    prefix = "".join(letters[0] for letters in same)
    if all(name[len(prefix) :][:1].isdigit() for name in names):
        prefix = prefix.rstrip("0123456789")
    prefix = re.sub(r"(^|[-_. ])(seed|s)?[-_. =]*$", "", prefix)
    parents = {path.resolve().parent.name for path in paths}
    return prefix or (parents.pop() if len(parents) == 1 else "") or names[0]
