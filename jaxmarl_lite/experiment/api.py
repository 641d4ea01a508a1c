"""Trains an algorithm from the first update to the last, and resumes runs that were interrupted.

`run` plans, compiles and trains; `resume_run` continues the run that a folder holds. Schedules that
end with the run, such as annealed learning rates, are stretched when a run is extended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmarl_lite import sharding
from jaxmarl_lite.algorithms import base_config, registry
from jaxmarl_lite.experiment import compilation, initial_weights, memory
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment.callbacks import Callback, Callbacks, EarlyStopping
from jaxmarl_lite.experiment.config import Objects, RunConfig
from jaxmarl_lite.experiment.fingerprint import changed_fields, data_by_field
from jaxmarl_lite.experiment.progress import ProgressBar
from jaxmarl_lite.experiment.ranking import check_metric
from jaxmarl_lite.experiment.result import Result, read_meta
from jaxmarl_lite.experiment.run_logger import RunLogger, write_plan
from jaxmarl_lite.experiment.runner import (
    ResumePoint,
    RunError,
    Runner,
    StopRequest,
    finished_result,
)
from jaxmarl_lite.experiment.session import SessionConfig
from jaxmarl_lite.references import Unavailable, describe
from jaxmarl_lite.report import checkpoint, run_dir
from jaxmarl_lite.report.tracking import Logger
from jaxmarl_lite.types import Algorithm, Array, Environment, TrainState
from jaxmarl_lite.validation import check_int, check_path

Record = TypeVar("Record")

__all__ = ["RunError", "resume_run", "run"]


class _Default(int):
    """A default number, distinguishable from the same number passed by the caller."""


_SEEDS, _STEPS, _EVALUATIONS, _EVAL_EPISODES = map(
    _Default,
    (3, RunConfig.total_steps, RunConfig.num_evaluations, RunConfig.eval_episodes),
)


def run(
    algorithm: str | Algorithm | tuple[type[Any], Callable[..., Algorithm]],
    env: str | Environment,
    *,
    config: Any = None,
    networks: Any = None,
    seeds: int | Sequence[int] = _SEEDS,
    seed: int | None = None,
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
    init_from: str | Path | None = None,
    seeds_in_parallel: int | None = None,
    devices: int | None = None,
    shard_over: Literal["envs", "seeds"] = "envs",
    max_checkpoints: int = 2,
    checkpoint_minutes: float = 5.0,
    loggers: Sequence[Logger | str] | None = None,
    on_evaluation: Callback | str | Sequence[Callback | str] | None = None,
    best_metric: str | None = None,
    best_mode: Literal["max", "min"] = "max",
    quiet: bool = False,
) -> Result:
    """Trains an algorithm in an environment with several seeds, evaluating and saving on the way.

    On Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 the run saves a checkpoint and ends: with
    KeyboardInterrupt, or with SystemExit whose code is 128 + the signal's number. A second Ctrl-C
    ends it at once, except while a program compiles, which nothing can interrupt.

    Args:
        algorithm: name of the algorithm, one of `ALGORITHMS`; or an algorithm of the user: a text
            ``module:name``, a ``(Config, make)`` pair, or an `Algorithm`; see
            `algorithms.registry.resolve`.
        env: an id that `make` accepts, or any object that follows the `Environment` protocol.
        config: settings of the algorithm: its config, or a mapping from some of its fields to
            values. Fields that a mapping omits, or all fields when None, have the values tuned for
            this environment, or their defaults.
        networks: the user's networks, a `Networks` such as ``Networks(actor=MyEncoder())``; a
            function from the environment's spec to them; or a text ``module:name`` of either. None:
            the layers of the config. Objects are no part of the run's folder: whoever loads or
            resumes the run passes them again.
        seeds: number of seeds (n stands for 0 .. n-1), or a sequence of different seeds. Each seed
            is an independent training run.
        seed: the only seed of the run, in place of ``seeds``, as for one job of an array on a
            cluster. ``plot`` and `compare_runs` join runs that differ in nothing but their seeds.
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
            in `Result.policy`, `Result.episode` and ``jaxmarl-lite render``. None: True only for
            algorithms whose sampled actions explore.
        env_args: keyword arguments of `make`, allowed where ``env`` is an id.
        resume: folder of a run to continue, see `resume_run`. Arguments that are not given are
            taken from that run. Arguments that are given must equal the run's, except for a larger
            ``total_steps`` and the options that `resume_run` accepts as well.
        init_from: folder of another run, from whose newest checkpoint this one starts: its learned
            weights and normalizers, where shapes agree; not its optimizers, environments and number
            of steps. What is taken and what is not is printed. The first seed starts from the first
            of the other run, and so on; where that has fewer, its seeds take turns. A resumed run
            does not load it again.
        seeds_in_parallel: seeds that train side by side, the others after them; None: one on a CPU,
            else all.
        devices: number of devices to use; see `jaxmarl_lite.sharding`.
        shard_over: the axis that is spread over the devices; see `jaxmarl_lite.sharding`.
        max_checkpoints: number of checkpoints to keep.
        checkpoint_minutes: longest time between two checkpoints, in minutes, above 0 (inf: save at
            evaluations alone). The run saves a checkpoint after every evaluation too.
        loggers: loggers beside metrics.jsonl, which is always written: names (``tensorboard``,
            ``csv``, ``wandb``, ``wandb=PROJECT``, ``mlflow``, ``mlflow=EXPERIMENT``), objects with
            the methods of `report.tracking.Logger`, or references ``module:name`` of such objects
            or their classes. None: TensorBoard where the run has a folder. A logger that fails is
            reported by a warning, and the run goes on without it.
        on_evaluation: a function that is called with an `EvaluationReport` after every evaluation,
            once that is saved; or its reference ``module:name``, or a list of several. The run goes
            on where it returns None or False. True, or a text that says why, ends the run: `run`
            returns the `Result` so far, whose ``stopped`` is the reason. What it raises ends the
            run as well. `resume_run` continues in both cases. Of several processes only process 0
            calls it. `EarlyStopping` is one.
        best_metric: a metric by which the checkpoint of the best evaluation is kept beside the
            newest ones, for ``load_run(path, checkpoint="best")``. It is the mean over the seeds
            that have not diverged. In a run with limits on costs, evaluations whose mean costs keep
            them come first, see `ranking.Score`.
        best_mode: whether the highest (``max``) or the lowest (``min``) is the best.
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
        DeviceMemoryError: the run needs more memory than the device has. ``out`` can then hold
            another run, unless a checkpoint was saved before.

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
    arguments = locals()
    session = _fields_of(SessionConfig, arguments)
    if seed is not None:
        if not isinstance(seeds, _Default):
            raise ValueError(
                f"seed is {seed!r} and seeds is {seeds!r}; allowed is one of them: seed is the "
                "number of the only seed"
            )
        arguments["seeds"] = (check_int("seed", seed, 0, 2**32 - 1),)
    settings = {
        name: value
        for name, value in arguments.items()
        if name in RunConfig.__dataclass_fields__ and name not in ("algorithm", "env")
    }
    name, _ = registry.resolve(algorithm)
    if session.resume is None:
        plan, environment = experiment_config.make_run_config(algorithm, env, **settings)
        _check_devices(plan)
        _check_metrics(plan, environment, session)
        initial_weights.find(plan, environment)  # raises where there are none
        folder = None if session.out is None else run_dir.RunFolder(session.out)
        with _locked(folder, plan):
            return _train(plan, environment, folder, session, None, None)
    stored = _stored_plan(session.resume, algorithm, networks, config)
    # Arguments that the caller did not pass are those of the stored run.
    excluded = {"algorithm", "entry", "lanes", "env", "devices", "shard_over"}
    excluded |= set() if name == stored.algorithm else {"config"}
    excluded |= set() if isinstance(env, str) and env == stored.env else {"env_args"}
    settings |= {
        name: value
        for name, value in vars(stored).items()
        if name not in excluded and (settings[name] is None or isinstance(settings[name], _Default))
    }
    plan, environment = experiment_config.make_run_config(algorithm, env, **settings)
    free = experiment_config.FREE_FIELDS - {"num_evaluations"}
    experiment_config.check_resumable(plan, stored, session.resume, free)
    layout = {name: getattr(plan, name) for name in experiment_config.LAYOUT_FIELDS}
    return _continue(stored, environment, session, plan.total_steps, layout)


def run_plan(plan: RunConfig, env: Environment, session: SessionConfig) -> Result:
    """Trains a plan, or continues the run of the same plan that ``session.resume`` holds.

    Args:
        plan: plan of the run.
        env: its environment.
        session: settings that do not affect the numbers.

    Returns:
        The result of the run.

    Raises:
        ValueError: the plan and the stored run differ.
        RunFolderError: as for `run`.
        RunError: as for `run`.
        DeviceMemoryError: as for `run`.
    """
    if session.resume is not None:
        layout = {name: getattr(plan, name) for name in experiment_config.LAYOUT_FIELDS}
        experiment_config.check_resumable(
            plan, experiment_config.read(session.resume), session.resume
        )
        return _continue(plan, env, session, plan.total_steps, layout)
    _check_devices(plan)
    _check_metrics(plan, env, session)
    folder = None if session.out is None else run_dir.RunFolder(session.out)
    with _locked(folder, plan):
        return _train(plan, env, folder, session, None, None)


def _stored_plan(path: Path, algorithm: object, networks: object, config: object) -> RunConfig:
    """Returns the plan of a run that `run` resumes, with the objects that the caller passed.

    An argument that is another object than the run's is left out here: the comparison of the plans
    names it.
    """
    stored = experiment_config.read(path)
    name, _ = registry.resolve(algorithm)
    same_networks = networks is not None and describe(networks) == describe(stored.networks)
    fields = config if isinstance(config, Mapping) else vars(config) if config is not None else {}
    missing = base_config.objects_of(stored.config)
    objects = Objects(
        None if isinstance(algorithm, str) or name != stored.algorithm else algorithm,
        networks if same_networks else None,
        {
            field: value
            for field, value in fields.items()
            if isinstance(missing.get(field), Unavailable)
            and describe(value) == describe(missing[field])
        },
    )
    return experiment_config.read(path, objects)


def _fields_of(kind: type[Record], arguments: Mapping[str, Any]) -> Record:
    """Returns a dataclass from those arguments that are its fields."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: arguments[name] for name in names if name in arguments})


def resume_run(
    path: str | Path,
    *,
    env: Environment | None = None,
    algorithm: Any = None,
    networks: Any = None,
    config: Mapping[str, Any] | None = None,
    total_steps: int | None = None,
    seeds_in_parallel: int | None = None,
    devices: int | None = None,
    shard_over: Literal["envs", "seeds"] = "envs",
    max_checkpoints: int = 2,
    checkpoint_minutes: float = 5.0,
    loggers: Sequence[Logger | str] | None = None,
    on_evaluation: Callback | str | Sequence[Callback | str] | None = None,
    best_metric: str | None = None,
    best_mode: Literal["max", "min"] = "max",
    quiet: bool = False,
) -> Result:
    """Continues a run from its newest checkpoint, bit for bit.

    A run without a checkpoint starts again from its first update.

    Args:
        path: folder of the run.
        env: the environment of the run, where `run` was given an object.
        algorithm: the algorithm of the run, where `run` was given an object.
        networks: the networks of the run, where `run` was given an object.
        config: fields of the config that were objects, such as ``{"optimizer": ...}``.
        total_steps: environment steps of each seed, at least as many as planned; further
            evaluations are as far apart as before. None: as planned.
        seeds_in_parallel: as for `run`; None: as before. This and the remaining arguments may
            differ from their earlier values, but another number of devices, or of seeds that train
            side by side, changes rounding and therefore the bits of the result.
        devices: as for `run`.
        shard_over: as for `run`.
        max_checkpoints: as for `run`.
        checkpoint_minutes: as for `run`, in minutes.
        loggers: as for `run`; None: those of the run that names gave. W&B and MLflow continue their
            runs.
        on_evaluation: as for `run`; None: those of the run that were given as ``module:name``, and
            `EarlyStopping`, unless one of them ended the run. Functions must be passed again.
        best_metric: as for `run`; None: as before.
        best_mode: as for `run`, for ``best_metric``.
        quiet: as for `run`.

    Returns:
        The `Result` of the whole run, including the evaluations before the interruption.

    Raises:
        RunFolderError: the folder holds no run, or one that another process trains.
        CheckpointError: no checkpoint in the folder can be read.
        ValueError: the environment is another one, or an argument is invalid.
        RunError: as for `run`.
        DeviceMemoryError: the run needs more memory than the device has.

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
    path = check_path("path", path)
    session = _fields_of(SessionConfig, locals() | {"resume": path})
    stored = experiment_config.read(path, Objects(algorithm, networks, config))
    experiment_config.check_complete(stored, path)
    environment = experiment_config.env_of_run(stored, path, env)
    steps = stored.total_steps if total_steps is None else total_steps
    at_once = stored.seeds_in_parallel if seeds_in_parallel is None else seeds_in_parallel
    layout = {"seeds_in_parallel": at_once, "devices": devices, "shard_over": shard_over}
    return _continue(stored, environment, session, steps, layout)


def _check_devices(plan: RunConfig) -> None:
    """Raises ValueError when the plan's seeds or environments cannot be spread over its devices."""
    mesh = sharding.make_mesh(plan.devices, plan.shard_over)
    minibatches = getattr(plan.config, "num_minibatches", 1)
    sharding.check_layout(mesh, plan.shard_over, len(plan.seeds), plan.num_envs, minibatches)


def _check_metrics(plan: RunConfig, env: Environment, session: SessionConfig) -> None:
    """Raises ValueError for a metric in the session's settings that the run will not have."""
    if session.best_metric is not None:
        check_metric("best_metric", session.best_metric, plan, env)
    for callback in session.on_evaluation:
        if isinstance(callback, EarlyStopping):
            check_metric("metric", callback.metric, plan, env)


@contextlib.contextmanager
def _locked(folder: run_dir.RunFolder | None, new_plan: RunConfig | None = None) -> Iterator[None]:
    """Locks the folder for this run, and creates it for the plan of a new run.

    The content of the folder is checked once the lock is held, when no other process can change it
    any more; nothing is written before the lock is held. All processes of the run raise where the
    folder is refused. A new run that does not fit the device, and has saved no state yet, leaves
    the folder free for another.

    Args:
        folder: folder to lock; None locks nothing.
        new_plan: plan of a new run; None to continue the run in the folder.
    """
    if folder is None:
        with memory.exhaustion_explained():
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
        try:
            with memory.exhaustion_explained():
                yield
        except memory.DeviceMemoryError:  # the user tries again with other sizes
            unsaved = checkpoint.latest(folder.checkpoints) is None
            if new_plan is not None and unsaved and sharding.is_primary():
                run_dir.discard(folder)
            raise


def _continue(
    stored: RunConfig,
    env: Environment,
    session: SessionConfig,
    total_steps: int,
    layout: Mapping[str, Any],
) -> Result:
    """Continues from the newest readable checkpoint of a folder.

    Args:
        stored: plan that was read from the folder, before it was locked.
        env: the environment.
        session: settings that do not affect the numbers; ``resume`` is the folder.
        total_steps: environment steps of each seed, at least as many as planned.
        layout: fields of the plan that distribute the seeds and environments.
    """
    assert session.resume is not None
    plan = dataclasses.replace(experiment_config.extend(stored, total_steps), **layout)
    _check_devices(plan)
    _check_metrics(plan, env, session)
    folder = run_dir.find(session.resume)
    with _locked(folder):
        if experiment_config.read(folder.path).to_dict() != stored.to_dict():
            raise run_dir.RunFolderError(
                f"another process has just changed the run in {folder.path}; try again"
            )
        return _resume(plan, env, folder, session)


def _resume(
    plan: RunConfig, env: Environment, folder: run_dir.RunFolder, session: SessionConfig
) -> Result:
    """Resumes the run in a locked folder, or returns its result where it is finished."""
    if checkpoint.latest(folder.checkpoints) is None:
        return _train(plan, env, folder, session, None, -1)
    intact = checkpoint.find_intact(folder.checkpoints, fallback=True)
    saved = read_meta(intact)
    experiment_config.check_resumable(plan, saved.plan, folder.checkpoints)
    if intact.step >= plan.num_updates:
        display = ProgressBar(
            plan.algorithm,
            plan.num_updates,
            plan.batch_steps,
            session.quiet or not sharding.is_primary(),
        )
        display.print(
            f"{folder.path} is finished after {intact.step} updates; pass a larger total_steps to "
            "extend it"
        )
        return finished_result(plan, env, folder, display, intact.step, saved.rows)
    states = checkpoint.restore(
        folder.checkpoints, compilation.abstract_states(plan, env), intact.step
    ).state
    if saved.environment is not None:  # None where config.json defines it
        changed = changed_fields(saved.environment, data_by_field(env))
        if changed:
            warnings.warn(
                f"env differs from the environment that the run in {folder.path} was trained in, "
                f"in {', '.join(changed)}; the run goes on with what it holds now",
                stacklevel=4,
            )
    checkpoint.delete_after(folder.checkpoints, intact.step)
    start = ResumePoint(states, intact.step, bool(intact.damages), saved)
    return _train(plan, env, folder, session, start, intact.step)


def _train(
    plan: RunConfig,
    env: Environment,
    folder: run_dir.RunFolder | None,
    session: SessionConfig,
    start: ResumePoint | None,
    update: int | None,
) -> Result:
    """Compiles the programs of a plan and trains.

    Args:
        plan: plan of the run.
        env: the environment.
        folder: folder of the run, locked; None keeps nothing.
        session: settings that do not affect the numbers.
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
        session.quiet or not is_writer,
    )
    updates = 0 if start is None else start.update
    callbacks = Callbacks(session.on_evaluation, lambda: _how_to_continue(plan, folder))
    with StopRequest() as stop, display, _disk_errors_named(plan, folder, callbacks):
        try:
            if folder is not None and is_writer:
                run_dir.write_status(folder, stopped=None, session=session.texts or None)
            if folder is not None and update is not None and is_writer:
                write_plan(folder, plan)
                if (differences := run_dir.renew_versions(folder, max(update, 0))) and update >= 0:
                    _warn(
                        f"{folder.path} continues with other versions, so that its numbers may "
                        "differ from those of an uninterrupted run "
                        f"({differences}); versions.json keeps both"
                    )
            sentences = _schedule_warnings(plan)
            if start is not None:
                states, changes = _stretch_schedules(start.states, plan)
                start = start._replace(states=states)
                sentences += changes
            for sentence in sentences:
                display.print(sentence)
            compiled, seconds = compilation.compile_run(plan, env)
            display.finish_compiling()
            memory.check(plan, env, compiled)
            trackers = session.loggers if is_writer else ()
            mark = None if start is None else start.saved.rows
            run_logger = RunLogger(
                plan, env.spec, folder if is_writer else None, update, trackers, display.print, mark
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
                    session.max_checkpoints,
                    60 * session.checkpoint_minutes,
                    stop,
                    callbacks,
                    session.ranking,
                )
                try:
                    result = runner.run(start, seconds)
                    if runner.stopped is not None:
                        _note_stop(runner, plan, folder, display)
                    return result
                finally:
                    updates = runner.update
        except (KeyboardInterrupt, SystemExit):
            display.print(_resume_hint(plan, folder, updates))
            raise


def _warn(message: str) -> None:
    """Warns of the state of a run's folder."""
    warnings.warn(message, run_dir.RunFolderWarning, stacklevel=2)


@contextlib.contextmanager
def _disk_errors_named(
    plan: RunConfig, folder: run_dir.RunFolder | None, callbacks: Callbacks
) -> Iterator[None]:
    """Turns an OSError into a RunError that says what to do, as on a full disk."""
    try:
        yield
    except run_dir.RunFolderError:
        raise
    except OSError as error:
        if folder is None or error is callbacks.error:
            raise
        raise RunError(
            f"{folder.path} cannot be written: {' '.join(str(error).split())}; everything "
            "saved before can be read. Make room there, then continue with "
            f"{_resume_command(plan, folder)}"
        ) from error


def _resume_hint(plan: RunConfig, folder: run_dir.RunFolder | None, update: int | str) -> str:
    """Returns the message where a run stopped (and perhaps why), and how to continue it."""
    if folder is not None and checkpoint.latest(folder.checkpoints) is None:
        return (
            f"Stopped at update {update}, before its first checkpoint; start it again: "
            f"{_resume_command(plan, folder)}"
        )
    hint = _how_to_continue(plan, folder)
    return f"Stopped at update {update}; {hint[0].lower()}{hint[1:]}"


def _how_to_continue(plan: RunConfig, folder: run_dir.RunFolder | None) -> str:
    """Returns a sentence that says how a run with a checkpoint is continued."""
    if folder is None:
        return "Nothing was kept, because the run had no folder."
    newest = checkpoint.latest(folder.checkpoints)
    return f"Continue from update {newest}: {_resume_command(plan, folder)}"


def _note_stop(
    runner: Runner, plan: RunConfig, folder: run_dir.RunFolder | None, display: ProgressBar
) -> None:
    """Keeps and shows why a callback ended the run."""
    if folder is not None and sharding.is_primary():
        run_dir.write_status(folder, stopped=runner.stopped)
    display.print(_resume_hint(plan, folder, f"{runner.update} ({runner.stopped})"))


def _resume_command(plan: RunConfig, folder: run_dir.RunFolder) -> str:
    """Returns the command that continues a run, in the shell or in Python.

    The command line cannot construct what was passed as an object.
    """
    needed = ["env"] if plan.env_args is None else []
    needed += [] if plan.entry is None else ["algorithm"]
    needed += ["networks"] if describe(plan.networks or "").startswith("<") else []
    texts = base_config.describe_objects(plan.config).values()
    needed += ["config"] if any(text.startswith("<") for text in texts) else []
    if needed:
        return f"resume_run({str(folder.path)!r}, {', '.join(f'{name}=...' for name in needed)})"
    return f"jaxmarl-lite train --resume {shlex.quote(str(folder.path))}"


_MEANING = {"lr_anneal_steps": "the learning rates", "epsilon_steps": "exploration"}


def _stretch_schedules(states: TrainState, plan: RunConfig) -> tuple[TrainState, list[str]]:
    """Adapts the schedules in restored states to the length of the run that continues.

    The config may define a schedule as a share of the run, which may be longer than when the states
    were saved.

    Args:
        states: restored states of all seeds, every leaf ``[S, ...]``.
        plan: plan of the run that continues.

    Returns:
        The states with updated configs, and a sentence for every schedule that changed.
    """
    if plan.lanes is not None:
        return states, []
    stored, changed, sentences = states.learner_state.config, {}, []
    done = float(_first_seed(states.num_updates)) * plan.batch_steps
    for share, steps in base_config.shares_of(type(plan.config)).items():
        stored_steps = _first_seed(getattr(stored, steps))
        new_steps = float(getattr(plan.learner_config, steps))
        # compared in the precision in which the states hold the config
        is_changed = stored_steps != np.asarray(new_steps, stored_steps.dtype)
        if getattr(plan.config, share) and is_changed:
            changed[steps] = new_steps
            sentences.append(
                f"{_MEANING[steps]} ({share}): the schedule of {stored_steps:,.0f} steps is "
                f"stretched to {new_steps:,.0f}; it goes on at a factor of "
                f"{_factor(done, new_steps):.3g}, where it stood at "
                f"{_factor(done, float(stored_steps)):.3g}"
            )

    def updated(path: Any, leaf: Any) -> Any:
        if len(path) > 1 or path[0].name not in changed:
            return leaf
        return jax.device_put(np.full(leaf.shape, changed[path[0].name], leaf.dtype), leaf.sharding)

    if not changed:
        return states, []
    config = jax.tree_util.tree_map_with_path(updated, stored)
    return states._replace(learner_state=states.learner_state._replace(config=config)), sentences


def _schedule_warnings(plan: RunConfig) -> list[str]:
    """Returns a sentence, in a list, if the learning rates are 0 for a part of the run.

    Args:
        plan: plan of the run.
    """
    steps = getattr(plan.learner_config, "lr_anneal_steps", 0.0)
    total = plan.num_updates * plan.batch_steps
    if not 0 < steps < total - plan.batch_steps:
        return []
    return [
        f"lr_anneal_steps is {steps:,.0f}: nothing is learned in the last {total - steps:,.0f} of "
        f"{total:,} steps"
    ]


def _factor(done: float, steps: float) -> float:
    """Returns the factor after ``done`` steps of a schedule that falls linearly over ``steps``."""
    return max(0.0, 1.0 - done / max(steps, 1.0))


def _first_seed(leaf: Array) -> np.ndarray:
    """Returns the value of the first seed in a leaf ``[S]``."""
    return np.ravel(sharding.fetch(leaf))[0]
