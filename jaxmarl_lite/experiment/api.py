"""Training from beginning to end, and on from where it was cut off."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmarl_lite import sharding
from jaxmarl_lite.experiment import compilation, schedules
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.experiment.fingerprint import changed_fields, data_by_field
from jaxmarl_lite.experiment.progress_bar import ProgressBar
from jaxmarl_lite.experiment.result import Result, read_meta
from jaxmarl_lite.experiment.run_logger import RunLogger, write_plan
from jaxmarl_lite.experiment.runner import ResumePoint, RunError, Runner, finished_result
from jaxmarl_lite.experiment.signals import StopRequest
from jaxmarl_lite.report import checkpoint, loggers, run_dir
from jaxmarl_lite.types import Environment
from jaxmarl_lite.validation import (
    MOST,
    check_bool,
    check_choice,
    check_int,
    check_path,
    invalid,
    to_python,
)

__all__ = ["RunError", "resume_run", "run"]


class _Default(int):
    """A number that the caller did not give, told apart from the same number given."""


_SEEDS, _STEPS, _EVALUATIONS, _EVAL_EPISODES = map(_Default, (3, 1_000_000, 20, 32))


class _Options(NamedTuple):
    """What changes nothing in the numbers of a run."""

    max_checkpoints: int
    checkpoint_minutes: float
    wandb: str | None
    quiet: bool

    def check(self) -> _Options:
        """Raise for what cannot be, before anything is compiled or written."""
        most, quiet = (
            check_int("max_checkpoints", self.max_checkpoints, 1, MOST),
            check_bool("quiet", self.quiet),
        )
        minutes = to_python(self.checkpoint_minutes)
        if (
            isinstance(minutes, bool)
            or not isinstance(minutes, (int, float))
            or math.isnan(minutes)
            or minutes <= 0
        ):
            raise invalid(
                "checkpoint_minutes", minutes, "a number above 0 (inf: save at evaluations alone)"
            )
        if self.wandb is not None:
            loggers.check_project(self.wandb)
            loggers.import_wandb()
        return self._replace(max_checkpoints=most, checkpoint_minutes=float(minutes), quiet=quiet)


def run(
    algorithm: str,
    env: str | Environment,
    *,
    config: Any = None,
    seeds: int | Sequence[int] = _SEEDS,
    total_steps: int = _STEPS,
    out: str | Path | None = None,
    num_envs: int | None = None,
    num_steps: int | None = None,
    stagger_episodes: bool | None = None,
    num_evaluations: int = _EVALUATIONS,
    eval_episodes: int = _EVAL_EPISODES,
    greedy: bool | None = None,
    env_args: Mapping[str, Any] | None = None,
    resume: str | Path | None = None,
    seeds_in_parallel: int | None = None,
    devices: int | None = None,
    shard_over: Literal["envs", "seeds"] = "envs",
    max_checkpoints: int = 2,
    checkpoint_minutes: float = 5.0,
    wandb: str | None = None,
    quiet: bool = False,
) -> Result:
    """Train an algorithm in an environment with several seeds, evaluating and saving on the way.

    Args:
        algorithm: its name, one of `ALGORITHMS`.
        env: an id for `make`, or any object that follows the `Environment` protocol.
        config: settings of the algorithm, its config; a mapping from some of its fields to values,
            which leaves the others as they are tuned for this environment, or at their defaults;
            None for all of these.
        seeds: how many (0 .. n-1), or which.
        total_steps: environment steps of each seed, rounded up to whole updates.
        out: a folder for everything that is to be kept; None writes nothing. num_envs, num_steps:
            worlds and steps of a rollout; tuned for this environment, or 64 and 64, when None.
        stagger_episodes: cut every world's first episode at a random step, as a time limit would.
            Where all episodes are equally long, rollouts then see all parts of an episode, and
            costs are known after every update instead of every few; tuned for this environment, or
            False, when None.
        num_evaluations: how often every seed is evaluated and saved, after the evaluation at the
            start.
        eval_episodes: episodes of an evaluation.
        greedy: evaluate the likeliest actions instead of sampled ones, and play them in
            `Result.policy`, `Result.episode` and ``jaxmarl-lite render``; None: for QMIX alone,
            whose sampled ones explore.
        env_args: keywords of `make`.
        resume: folder of a run to continue, see `resume_run`. Arguments that are not given are
            taken from that run. Those given must equal the run's, except for a larger
            ``total_steps`` and what `resume_run` takes as well.
        seeds_in_parallel: seeds that train side by side, the others after them; None: one on a CPU,
            else all. devices, shard_over: how many devices, and what is spread over them; see
            `jaxmarl_lite.sharding`.
        max_checkpoints: checkpoints to keep.
        checkpoint_minutes: longest time between two checkpoints; there is one after every
            evaluation too.
        wandb: a W&B project to write to as well.
        quiet: print nothing.

    On Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 the run saves and ends: with KeyboardInterrupt, or
    SystemExit whose code is 128 + the signal's number. A second Ctrl-C ends it at once, except
    while a program compiles, which nothing can interrupt.

    Raises:
        ValueError: for a setting that cannot be, before anything is compiled; names it and what is
            allowed.
        RunFolderError: ``out`` holds a run already, or ``resume`` holds none or one that another
            process trains.
        RunError: no seed is left, because all diverged or the environment gave numbers that are not
            finite; or the folder cannot be written.
    """
    options = _Options(max_checkpoints, checkpoint_minutes, wandb, quiet).check()
    out = None if out is None else check_path("out", out)
    resume = None if resume is None else check_path("resume", resume)
    stored = None if resume is None else experiment_config.read(resume)
    if stored is not None and resume is not None:
        if out is not None and out.absolute() != resume.absolute():
            raise ValueError(
                f"out is {str(out)!r} and resume is {str(resume)!r}; allowed is one of them"
            )
        total_steps = stored.total_steps if isinstance(total_steps, _Default) else total_steps
        num_evaluations = (
            stored.num_evaluations if isinstance(num_evaluations, _Default) else num_evaluations
        )
        eval_episodes = (
            stored.eval_episodes if isinstance(eval_episodes, _Default) else eval_episodes
        )
        seeds = stored.seeds if isinstance(seeds, _Default) else seeds
        config = stored.config if config is None and algorithm == stored.algorithm else config
        num_envs = stored.num_envs if num_envs is None else num_envs
        num_steps = stored.num_steps if num_steps is None else num_steps
        stagger_episodes = stored.stagger_episodes if stagger_episodes is None else stagger_episodes
        greedy = stored.greedy if greedy is None else greedy
    plan, world = experiment_config.make_run_config(
        algorithm,
        env,
        env_args=env_args,
        config=config,
        seeds=seeds,
        num_envs=num_envs,
        num_steps=num_steps,
        stagger_episodes=stagger_episodes,
        greedy=greedy,
        seeds_in_parallel=seeds_in_parallel,
        devices=devices,
        shard_over=shard_over,
        total_steps=total_steps,
        num_evaluations=num_evaluations,
        eval_episodes=eval_episodes,
    )
    if stored is not None and resume is not None:
        experiment_config.check_resumable(
            plan, stored, resume, (*experiment_config.RESUME_FIELDS, "num_evaluations")
        )
        longer = experiment_config.extend(stored, plan.total_steps)
        longer = _with_layout(longer, seeds_in_parallel, devices, shard_over)
        return _continue(longer, stored, world, run_dir.find(resume), options)
    _check_devices(plan)
    folder = None if out is None else run_dir.RunFolder(Path(out))
    with _locked(folder, plan):
        return _train(plan, world, folder, options, None, None)


def resume_run(
    path: str | Path,
    *,
    env: Environment | None = None,
    total_steps: int | None = None,
    seeds_in_parallel: int | None = None,
    devices: int | None = None,
    shard_over: Literal["envs", "seeds"] = "envs",
    max_checkpoints: int = 2,
    checkpoint_minutes: float = 5.0,
    wandb: str | None = None,
    quiet: bool = False,
) -> Result:
    """Continue a run, bit for bit, from its newest checkpoint, or anew where it had none yet.

    Args:
        path: folder of the run.
        env: its environment, where `run` was given an object.
        total_steps: more steps than planned; evaluations go on at the same distance.
            seeds_in_parallel, devices, shard_over, max_checkpoints, checkpoint_minutes, wandb, quiet:
            as for `run`; they
            may differ from what they were, but another number of devices or of seeds at once
            changes rounding, and so the bits.

    Raises:
        RunFolderError: the folder holds no run, or one that another process trains.
        CheckpointError: no checkpoint in it can be read.
        ValueError: the environment is another one.
        RunError: as for `run`.
    """
    options = _Options(max_checkpoints, checkpoint_minutes, wandb, quiet).check()
    path = check_path("path", path)
    stored = experiment_config.read(path)
    world = experiment_config.env_of_run(stored, path, env)
    plan = stored if total_steps is None else experiment_config.extend(stored, total_steps)
    plan = _with_layout(
        plan,
        stored.seeds_in_parallel if seeds_in_parallel is None else seeds_in_parallel,
        devices,
        shard_over,
    )
    return _continue(plan, stored, world, run_dir.find(path), options)


def _with_layout(
    plan: RunConfig, seeds_in_parallel: int | None, devices: int | None, layout: Any
) -> RunConfig:
    seeds_in_parallel = (
        None
        if seeds_in_parallel is None
        else check_int("seeds_in_parallel", seeds_in_parallel, 1, MOST)
    )
    devices = None if devices is None else check_int("devices", devices, 1, MOST)
    layout = check_choice("shard_over", layout, ("envs", "seeds"))
    return dataclasses.replace(
        plan, seeds_in_parallel=seeds_in_parallel, devices=devices, shard_over=layout
    )


def _check_devices(plan: RunConfig) -> None:
    """Raise ValueError when the plan's seeds or worlds cannot be laid over its devices."""
    mesh = sharding.make_mesh(plan.devices, plan.shard_over)
    minibatches = getattr(plan.config, "num_minibatches", 1)
    sharding.check_layout(mesh, plan.shard_over, len(plan.seeds), plan.num_envs, minibatches)


@contextlib.contextmanager
def _locked(folder: run_dir.RunFolder | None, new: RunConfig | None = None) -> Iterator[None]:
    """The folder for this run alone, and made for the plan of a new one; all its processes raise
    where it is refused.

    What is in the folder is looked at when nobody else can change it any more, and nothing is
    written before.
    """
    if folder is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        refused: Exception | None = None
        if sharding.is_primary():
            try:
                if new is not None:
                    folder.make()  # a lock needs a folder to lie in
                stack.enter_context(folder.lock_for_writing())
                if new is not None:
                    run_dir.create(folder.path, new.to_dict())
                folder.check(writing=True)
            except Exception as error:
                refused = error
        if jax.process_count() > 1 and multihost_utils.broadcast_one_to_all(
            np.asarray(refused is not None)
        ):
            refused = refused or run_dir.RunFolderError(
                f"{folder.path} was refused by the process that writes"
            )
        if refused is not None:
            raise refused
        yield


def _continue(
    plan: RunConfig,
    stored: RunConfig,
    world: Environment,
    folder: run_dir.RunFolder,
    options: _Options,
) -> Result:
    """Go on from the newest checkpoint of a folder that can be read; ``stored`` is the plan that
    was read from it.
    """
    _check_devices(plan)
    with _locked(folder):
        if experiment_config.read(folder.path) != stored:
            raise run_dir.RunFolderError(
                f"another process has just changed the run in {folder.path}; try again"
            )
        return _resume(plan, world, folder, options)


def _resume(
    plan: RunConfig, world: Environment, folder: run_dir.RunFolder, options: _Options
) -> Result:
    if checkpoint.latest(folder.checkpoints) is None:
        return _train(plan, world, folder, options, None, -1)
    intact = checkpoint.find_intact(folder.checkpoints, fallback=True)
    saved = read_meta(intact)
    experiment_config.check_resumable(plan, saved.plan, folder.checkpoints)
    if intact.step >= plan.num_updates:
        display = ProgressBar(
            plan.algorithm,
            plan.num_updates,
            plan.batch_steps,
            options.quiet or not sharding.is_primary(),
        )
        done = f"{intact.step} updates are done"
        display.print(f"{folder.path} is finished: {done}; give a larger total_steps to prolong it")
        return finished_result(plan, world, folder, display, intact.step, saved.rows)
    states = checkpoint.restore(
        folder.checkpoints, compilation.abstract_states(plan, world), intact.step
    ).state
    _warn_of_changes(saved.environment, world, folder)
    checkpoint.delete_after(folder.checkpoints, intact.step)
    start = ResumePoint(
        states,
        intact.step,
        saved.diverged,
        saved.timings,
        bool(intact.damages),
        saved.rows,
        saved.reasons,
        saved.partial,
    )
    return _train(plan, world, folder, options, start, intact.step)


def _warn_of_changes(
    stored: Mapping[str, str] | None, world: Environment, folder: run_dir.RunFolder
) -> None:
    """Warn, naming the fields, if the object that a run goes on in holds other data than when it
    was saved.
    """
    changed = changed_fields(stored, data_by_field(world)) if stored is not None else []
    if changed:
        warnings.warn(
            f"env differs from the environment that the run in {folder.path} was trained in, in "
            f"{', '.join(changed)}; "
            "the run goes on with what it holds now",
            stacklevel=5,
        )


def _train(
    plan: RunConfig,
    world: Environment,
    folder: run_dir.RunFolder | None,
    options: _Options,
    start: ResumePoint | None,
    update: int | None,
) -> Result:
    """Compile and train; ``update`` is what the folder's rows are cut back to."""
    writer = sharding.is_primary()
    display = ProgressBar(
        f"{plan.algorithm} on {plan.env}",
        plan.num_updates,
        plan.batch_steps,
        options.quiet or not writer,
    )
    updates = 0 if start is None else start.update
    with StopRequest() as stop, display, _disk_errors_named(plan, folder):
        try:
            if folder is not None and update is not None and writer:
                write_plan(folder, plan)
                if (differences := run_dir.renew_versions(folder, max(update, 0))) and update >= 0:
                    _warn(
                        f"{folder.path} goes on with other versions, so that its numbers may be "
                        "others than those of "
                        f"a run without a break ({differences}); versions.json keeps both"
                    )
            for sentence in schedules.warnings(plan):
                display.print(sentence)
            if start is not None:
                states, sentences = schedules.stretch(start.states, plan)
                start = start._replace(states=states)
                for sentence in sentences:
                    display.print(sentence)
            compiled, seconds = compilation.compile_run(plan, world)
            wandb, mark = options.wandb if writer else None, None if start is None else start.rows
            kept = RunLogger(
                plan, world.spec, folder if writer else None, update, wandb, display.print, mark
            )
            with contextlib.closing(kept):
                if kept.complaint:
                    _warn(kept.complaint)
                path = None if folder is None else folder.checkpoints
                loop = Runner(
                    plan,
                    world,
                    compiled,
                    kept,
                    display,
                    path,
                    options.max_checkpoints,
                    60 * options.checkpoint_minutes,
                    stop,
                )
                try:
                    return loop.run(start, seconds)
                finally:
                    updates = loop.update
        except (KeyboardInterrupt, SystemExit):
            display.print(_resume_hint(plan, folder, updates))
            raise


def _warn(message: str) -> None:
    warnings.warn(message, run_dir.RunFolderWarning, stacklevel=2)


@contextlib.contextmanager
def _disk_errors_named(plan: RunConfig, folder: run_dir.RunFolder | None) -> Iterator[None]:
    """Raise RunError that says what to do where the run's folder cannot be written, as on a full
    disk.
    """
    try:
        yield
    except run_dir.RunFolderError:
        raise
    except OSError as error:
        if folder is None:
            raise
        raise RunError(
            f"{folder.path} cannot be written: {' '.join(str(error).split())}; all that was saved "
            "before can be read. "
            f"Make room there, then continue with {_resume_command(plan, folder)}"
        ) from error


def _resume_hint(plan: RunConfig, folder: run_dir.RunFolder | None, update: int) -> str:
    if folder is None:
        return f"Stopped at update {update}; nothing was kept, because the run had no folder."
    newest = checkpoint.latest(folder.checkpoints)
    where = (
        "before its first checkpoint; begin anew"
        if newest is None
        else f"continue from update {newest}"
    )
    return f"Stopped at update {update}; {where}: {_resume_command(plan, folder)}"


def _resume_command(plan: RunConfig, folder: run_dir.RunFolder) -> str:
    """What the user types to continue a run; the command line cannot make an environment given as
    an object.
    """
    if plan.env_args is None:
        return f"resume_run({str(folder.path)!r}, env=...)"
    return f"jaxmarl-lite train --resume {shlex.quote(str(folder.path))}"
