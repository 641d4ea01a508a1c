"""Trains an algorithm from the first update to the last, and resumes runs that were interrupted.

`run` plans, compiles and trains; `resume_run` continues the run that a folder holds.
"""

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
    """A default number, distinguishable from the same number passed by the caller."""


_SEEDS, _STEPS, _EVALUATIONS, _EVAL_EPISODES = map(_Default, (3, 1_000_000, 20, 32))


class _Options(NamedTuple):
    """Options that do not affect the numbers of a run.

    Attributes:
        max_checkpoints: number of checkpoints to keep, at least 1.
        checkpoint_minutes: longest time between two checkpoints, in minutes.
        wandb: name of a W&B project, or None.
        quiet: whether nothing is printed.
    """

    max_checkpoints: int
    checkpoint_minutes: float
    wandb: str | None
    quiet: bool

    def check(self) -> _Options:
        """Returns the options in canonical types, before anything is compiled or written.

        Raises:
            ValueError: an option has an invalid value.
            ImportError: ``wandb`` is given, but W&B is not installed.
        """
        max_checkpoints = check_int("max_checkpoints", self.max_checkpoints, 1, MOST)
        quiet = check_bool("quiet", self.quiet)
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
        return self._replace(
            max_checkpoints=max_checkpoints, checkpoint_minutes=float(minutes), quiet=quiet
        )


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
    """Trains an algorithm in an environment with several seeds, evaluating and saving on the way.

    On Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 the run saves a checkpoint and ends: with
    KeyboardInterrupt, or with SystemExit whose code is 128 + the signal's number. A second Ctrl-C
    ends it at once, except while a program compiles, which nothing can interrupt.

    Args:
        algorithm: name of the algorithm, one of `ALGORITHMS`.
        env: an id that `make` accepts, or any object that follows the `Environment` protocol.
        config: settings of the algorithm: its config, or a mapping from some of its fields to
            values. Fields that a mapping omits, or all fields when None, have the values tuned for
            this environment, or their defaults.
        seeds: number of seeds (n stands for 0 .. n-1), or a sequence of different seeds. Each seed
            is an independent training run.
        total_steps: environment steps of each seed, rounded up to whole updates.
        out: folder for everything that the run keeps; None writes nothing.
        num_envs: parallel environments of a rollout, B; None: the value tuned for this environment,
            or 64.
        num_steps: steps of a rollout, T; None: the value tuned for this environment, or 64.
        stagger_episodes: whether to cut the first episode of every environment at a random step, as
            a time limit would. Where all episodes are equally long, rollouts then see all parts of
            an episode, and costs are known after every update instead of every few. None: the value
            tuned for this environment, or False.
        num_evaluations: how often every seed is evaluated and saved, after the evaluation at the
            start.
        eval_episodes: episodes of an evaluation.
        greedy: whether to evaluate the likeliest actions instead of sampled ones, and to play them
            in `Result.policy`, `Result.episode` and ``jaxmarl-lite render``. None: True for QMIX
            alone, whose sampled actions explore.
        env_args: keyword arguments of `make`, allowed where ``env`` is an id.
        resume: folder of a run to continue, see `resume_run`. Arguments that are not given are
            taken from that run. Arguments that are given must equal the run's, except for a larger
            ``total_steps`` and the options that `resume_run` accepts as well.
        seeds_in_parallel: seeds that train side by side, the others after them; None: one on a CPU,
            else all.
        devices: number of devices to use; see `jaxmarl_lite.sharding`.
        shard_over: the axis that is spread over the devices; see `jaxmarl_lite.sharding`.
        max_checkpoints: number of checkpoints to keep.
        checkpoint_minutes: longest time between two checkpoints, in minutes, above 0 (inf: save at
            evaluations alone). The run saves a checkpoint after every evaluation too.
        wandb: name of a W&B project to write to as well.
        quiet: whether to print nothing.

    Returns:
        The `Result`: curves of every seed and metric, final states, and policies.

    Raises:
        ValueError: a setting is invalid. Raised before anything is compiled; the message names the
            setting and the allowed values.
        RunFolderError: ``out`` holds a run already, or ``resume`` holds none or one that another
            process trains.
        RunError: no seed is left, because all diverged or the environment returned numbers that are
            not finite; or the folder cannot be written.

    Example:
        Two seeds of two updates each, evaluated at the start and after every update:

        >>> import jaxmarl_lite as jml
        >>> result = jml.run(
        ...     "ippo", "toy/counter", config={"hidden_sizes": (8,)}, seeds=2, total_steps=64,
        ...     num_envs=4, num_steps=8, num_evaluations=2, eval_episodes=4, quiet=True,
        ... )
        >>> result.steps
        array([ 0, 32, 64])
        >>> result.returns.shape  # [seeds, evaluations]
        (2, 3)
        >>> result.config.hidden_sizes
        (8,)
    """
    options = _Options(max_checkpoints, checkpoint_minutes, wandb, quiet).check()
    out = None if out is None else check_path("out", out)
    resume = None if resume is None else check_path("resume", resume)
    stored = None if resume is None else experiment_config.read(resume)
    if stored is not None and resume is not None:
        # Arguments that the caller did not pass are those of the stored run.
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
    plan, environment = experiment_config.make_run_config(
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
        return _continue(longer, stored, environment, run_dir.find(resume), options)
    _check_devices(plan)
    folder = None if out is None else run_dir.RunFolder(Path(out))
    with _locked(folder, plan):
        return _train(plan, environment, folder, options, None, None)


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
    """Continues a run from its newest checkpoint, bit for bit.

    A run without a checkpoint starts again from its first update.

    Args:
        path: folder of the run.
        env: the environment of the run, where `run` was given an object.
        total_steps: environment steps of each seed, at least as many as planned; further
            evaluations are as far apart as before. None: as planned.
        seeds_in_parallel: as for `run`; None: as before. This and the remaining arguments may
            differ from their earlier values, but another number of devices, or of seeds that train
            side by side, changes rounding and therefore the bits of the result.
        devices: as for `run`.
        shard_over: as for `run`.
        max_checkpoints: as for `run`.
        checkpoint_minutes: as for `run`, in minutes.
        wandb: as for `run`.
        quiet: as for `run`.

    Returns:
        The `Result` of the whole run, including the evaluations before the interruption.

    Raises:
        RunFolderError: the folder holds no run, or one that another process trains.
        CheckpointError: no checkpoint in the folder can be read.
        ValueError: the environment is another one, or an argument is invalid.
        RunError: as for `run`.

    Example:
        >>> import jaxmarl_lite as jml
        >>> short = jml.run(
        ...     "ippo", "toy/counter", config={"hidden_sizes": (8,)}, seeds=2, total_steps=64,
        ...     num_envs=4, num_steps=8, num_evaluations=2, eval_episodes=4, quiet=True,
        ...     out="counter",
        ... )
        >>> longer = jml.resume_run("counter", total_steps=96, quiet=True)
        >>> longer.steps
        array([ 0, 32, 64, 96])
        >>> bool((longer.returns[:, :3] == short.returns).all())
        True
    """
    options = _Options(max_checkpoints, checkpoint_minutes, wandb, quiet).check()
    path = check_path("path", path)
    stored = experiment_config.read(path)
    environment = experiment_config.env_of_run(stored, path, env)
    plan = stored if total_steps is None else experiment_config.extend(stored, total_steps)
    plan = _with_layout(
        plan,
        stored.seeds_in_parallel if seeds_in_parallel is None else seeds_in_parallel,
        devices,
        shard_over,
    )
    return _continue(plan, stored, environment, run_dir.find(path), options)


def _with_layout(
    plan: RunConfig, seeds_in_parallel: int | None, devices: int | None, layout: str
) -> RunConfig:
    """Returns the plan with another distribution of its seeds and environments, after a check."""
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
    """Raises ValueError when the plan's seeds or environments cannot be spread over its devices."""
    mesh = sharding.make_mesh(plan.devices, plan.shard_over)
    minibatches = getattr(plan.config, "num_minibatches", 1)
    sharding.check_layout(mesh, plan.shard_over, len(plan.seeds), plan.num_envs, minibatches)


@contextlib.contextmanager
def _locked(folder: run_dir.RunFolder | None, new_plan: RunConfig | None = None) -> Iterator[None]:
    """Locks the folder for this run, and creates it for the plan of a new run.

    The content of the folder is checked once the lock is held, when no other process can change it
    any more; nothing is written before the lock is held. All processes of the run raise where the
    folder is refused.

    Args:
        folder: folder to lock; None locks nothing.
        new_plan: plan of a new run; None to continue the run in the folder.
    """
    if folder is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        refused: Exception | None = None
        if sharding.is_primary():
            try:
                if new_plan is not None:
                    folder.make()  # the lock is a file in the folder
                stack.enter_context(folder.lock_for_writing())
                if new_plan is not None:
                    run_dir.create(folder.path, new_plan.to_dict())
                folder.check(writing=True)
            except Exception as error:
                refused = error
        # Only the primary process looks at the folder: the others learn from it whether to raise.
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
    env: Environment,
    folder: run_dir.RunFolder,
    options: _Options,
) -> Result:
    """Continues from the newest readable checkpoint of a folder.

    Args:
        plan: plan of the continued run.
        stored: plan that was read from the folder, before it was locked.
        env: the environment.
        folder: folder of the run.
        options: options that do not affect the numbers.
    """
    _check_devices(plan)
    with _locked(folder):
        if experiment_config.read(folder.path) != stored:
            raise run_dir.RunFolderError(
                f"another process has just changed the run in {folder.path}; try again"
            )
        return _resume(plan, env, folder, options)


def _resume(
    plan: RunConfig, env: Environment, folder: run_dir.RunFolder, options: _Options
) -> Result:
    """Resumes the run in a locked folder, or returns its result where it is finished."""
    if checkpoint.latest(folder.checkpoints) is None:
        return _train(plan, env, folder, options, None, -1)
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
        display.print(
            f"{folder.path} is finished after {intact.step} updates; pass a larger total_steps to "
            "extend it"
        )
        return finished_result(plan, env, folder, display, intact.step, saved.rows)
    states = checkpoint.restore(
        folder.checkpoints, compilation.abstract_states(plan, env), intact.step
    ).state
    _warn_of_changes(saved.environment, env, folder)
    checkpoint.delete_after(folder.checkpoints, intact.step)
    start = ResumePoint(
        states=states,
        update=intact.step,
        diverged=saved.diverged,
        timings=saved.timings,
        used_older_checkpoint=bool(intact.damages),
        rows=saved.rows,
        reasons=saved.reasons,
        partial=saved.partial,
    )
    return _train(plan, env, folder, options, start, intact.step)


def _warn_of_changes(
    stored: Mapping[str, str] | None, env: Environment, folder: run_dir.RunFolder
) -> None:
    """Warns, naming the fields, if the environment object holds other data than when it was saved.

    Args:
        stored: hashes of its data in the checkpoint, by field; None where config.json defines it.
        env: the environment in which the run continues.
        folder: folder of the run.
    """
    changed = changed_fields(stored, data_by_field(env)) if stored is not None else []
    if changed:
        warnings.warn(
            f"env differs from the environment that the run in {folder.path} was trained in, in "
            f"{', '.join(changed)}; the run goes on with what it holds now",
            stacklevel=5,
        )


def _train(
    plan: RunConfig,
    env: Environment,
    folder: run_dir.RunFolder | None,
    options: _Options,
    start: ResumePoint | None,
    update: int | None,
) -> Result:
    """Compiles the programs of a plan and trains.

    Args:
        plan: plan of the run.
        env: the environment.
        folder: folder of the run, locked; None keeps nothing.
        options: options that do not affect the numbers.
        start: state of a resumed run; None to begin with the first update.
        update: update of the checkpoint to continue from: later rows in the folder are dropped.
            None for a new run, -1 for a run that starts again in its folder.

    Returns:
        The result of the run.
    """
    is_writer = sharding.is_primary()
    display = ProgressBar(
        f"{plan.algorithm} on {plan.env}",
        plan.num_updates,
        plan.batch_steps,
        options.quiet or not is_writer,
    )
    updates = 0 if start is None else start.update
    with StopRequest() as stop, display, _disk_errors_named(plan, folder):
        try:
            if folder is not None and update is not None and is_writer:
                write_plan(folder, plan)
                if (differences := run_dir.renew_versions(folder, max(update, 0))) and update >= 0:
                    _warn(
                        f"{folder.path} continues with other versions, so that its numbers may "
                        "differ from those of an uninterrupted run "
                        f"({differences}); versions.json keeps both"
                    )
            for sentence in schedules.warnings(plan):
                display.print(sentence)
            if start is not None:
                states, sentences = schedules.stretch(start.states, plan)
                start = start._replace(states=states)
                for sentence in sentences:
                    display.print(sentence)
            compiled, seconds = compilation.compile_run(plan, env)
            wandb = options.wandb if is_writer else None
            mark = None if start is None else start.rows
            run_logger = RunLogger(
                plan, env.spec, folder if is_writer else None, update, wandb, display.print, mark
            )
            with contextlib.closing(run_logger):
                if run_logger.complaint:
                    _warn(run_logger.complaint)
                checkpoints = None if folder is None else folder.checkpoints
                runner = Runner(
                    plan,
                    env,
                    compiled,
                    run_logger,
                    display,
                    checkpoints,
                    options.max_checkpoints,
                    60 * options.checkpoint_minutes,
                    stop,
                )
                try:
                    return runner.run(start, seconds)
                finally:
                    updates = runner.update
        except (KeyboardInterrupt, SystemExit):
            display.print(_resume_hint(plan, folder, updates))
            raise


def _warn(message: str) -> None:
    """Warns of the state of a run's folder."""
    warnings.warn(message, run_dir.RunFolderWarning, stacklevel=2)


@contextlib.contextmanager
def _disk_errors_named(plan: RunConfig, folder: run_dir.RunFolder | None) -> Iterator[None]:
    """Turns an OSError into a RunError that says what to do, as on a full disk."""
    try:
        yield
    except run_dir.RunFolderError:
        raise
    except OSError as error:
        if folder is None:
            raise
        raise RunError(
            f"{folder.path} cannot be written: {' '.join(str(error).split())}; everything "
            "saved before can be read. Make room there, then continue with "
            f"{_resume_command(plan, folder)}"
        ) from error


def _resume_hint(plan: RunConfig, folder: run_dir.RunFolder | None, update: int) -> str:
    """Returns the message after a signal: where the run stopped and how to continue it."""
    if folder is None:
        return f"Stopped at update {update}; nothing was kept, because the run had no folder."
    newest = checkpoint.latest(folder.checkpoints)
    where = (
        "before its first checkpoint; start it again"
        if newest is None
        else f"continue from update {newest}"
    )
    return f"Stopped at update {update}; {where}: {_resume_command(plan, folder)}"


def _resume_command(plan: RunConfig, folder: run_dir.RunFolder) -> str:
    """Returns the command that continues a run, in the shell or in Python.

    The command line cannot construct an environment that was passed as an object.
    """
    if plan.env_args is None:
        return f"resume_run({str(folder.path)!r}, env=...)"
    return f"jaxmarl-lite train --resume {shlex.quote(str(folder.path))}"
