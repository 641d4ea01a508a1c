"""Rows of a run in memory, and every file in its folder except the checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxmarl_lite.algorithms import cost_limits
from jaxmarl_lite.envs import checker
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.report import atomic_io, loggers, run_dir, tracking
from jaxmarl_lite.report.run_dir import RunFolderError
from jaxmarl_lite.types import EnvSpec
from jaxmarl_lite.validation import one_line

TIMINGS = ("elapsed_seconds", "steps_per_second")
"""Entries of a row that differ between two runs of one plan."""

_AGAIN = "--resume of the run restores its rows up to the last checkpoint"

_SHARE = 0.05  # of a run's time that rebuilding each file made of its rows may take


class _Rebuilt:
    """A file that is rebuilt from all rows: often while that is quick, rarely when it takes long.

    Args:
        make: function that writes the file.
        stale: whether the file may lack rows that exist already.
    """

    def __init__(self, make: Callable[[], object], stale: bool):
        self._make, self._next, self._stale = make, 0.0, stale

    def refresh(self, immediately: bool = False) -> None:
        """Rebuilds the file where that is due.

        Args:
            immediately: True rebuilds it if it lacks rows; False announces new rows, and rebuilds
                it only if enough time has passed for its cost.
        """
        self._stale |= not immediately
        start = time.perf_counter()
        if self._stale if immediately else start >= self._next:
            try:
                self._make()
                self._stale = False
            finally:
                end = time.perf_counter()
                self._next = end + (end - start) / _SHARE


class RunLogger:
    """Rows of a run, one per seed and evaluation, and the files derived from them.

    If the file of the rows cannot be written, the run ends. All other files can be rebuilt from the
    rows, so their failures are reported and the run continues without them.

    Args:
        plan: plan of the run.
        spec: spec of its environment.
        folder: folder to write to; None keeps the rows in memory alone.
        update: update of the checkpoint to continue from; rows of later updates are dropped. None
            for a new run, -1 for a run that starts again in its folder.
        trackers: loggers that receive the rows as well.
        say: function that shows a line to the user.
        mark: position in the rows that the checkpoint holds; None where there is no checkpoint, or
            one of an earlier version.

    Attributes:
        folder: folder of the run, or None.
        rows: all rows of the run.
        complaint: faults in the rows of a resumed run and how they were repaired, or None.

    Raises:
        OSError: the file of the rows cannot be read or written.
    """

    def __init__(
        self,
        plan: RunConfig,
        spec: EnvSpec,
        folder: run_dir.RunFolder | None,
        update: int | None = None,
        trackers: Sequence[tracking.Logger] = (),
        say: Callable[[str], None] = print,
        mark: loggers.Mark | None = None,
    ):
        self._plan, self._spec, self.folder, self._say = plan, spec, folder, say
        self.rows: list[loggers.Row] = []
        self._lines: loggers.JsonlLogger | None = None
        self._loggers: dict[str, tracking.Logger] = {}
        self._unlogged: list[loggers.Row] = []
        self._rebuilt: dict[str, _Rebuilt] = {}
        self._failed: set[str] = set()
        self.complaint: str | None = None
        is_new = update is None or update < 0
        if folder is not None:
            if update is not None:
                self.complaint = (
                    _set_aside(folder) if is_new else restore_rows(plan, folder, update, mark)
                )
            self._lines = loggers.JsonlLogger(folder.metrics, folder.metrics_copy)
            self.rows = loggers.read_rows(folder.metrics)
            with self._optional(folder.spec.name):
                atomic_io.write_json(folder.spec, dataclasses.asdict(spec))
            for path, make in rebuilt_files(plan, spec, folder, self.rows).items():
                self._rebuilt[path.name] = _Rebuilt(make, stale=bool(self.rows))
        path = None if folder is None else folder.path.absolute()
        info = tracking.RunInfo(
            run_dir.new_id() if folder is None else run_dir.run_id(folder, anew=is_new),
            f"{plan.algorithm} {plan.env}" if path is None else path.name,
            json.loads(atomic_io.to_json(plan.to_dict())),
            path,
            tuple(self.rows),
            None if update is None else max(-1, update * plan.batch_steps),
        )
        self._start(trackers, info)

    def _start(self, trackers: Sequence[tracking.Logger], info: tracking.RunInfo) -> None:
        """Starts the loggers; one that fails is left out."""
        for logger in trackers:
            name = base = getattr(logger, "name", type(logger).__name__)
            while name in self._loggers or name in self._failed:  # two of one kind
                name = f"{base} ({1 + len(self._loggers)})"
            self._loggers[name] = logger
            with self._optional(name):
                logger.start(info)

    @contextlib.contextmanager
    def _optional(self, name: str) -> Iterator[None]:
        """Reports the first failure of what the run can do without, and closes its logger."""
        try:
            yield
        except Exception as error:  # matplotlib, W&B and the disk raise errors of any kind
            if name not in self._failed:
                self._failed.add(name)
                self._complain(f"{name} failed, and the run goes on without it: {one_line(error)}")
            if (logger := self._loggers.pop(name, None)) is not None:
                with contextlib.suppress(Exception):
                    logger.close()

    def _complain(self, message: str) -> None:
        """Warns of what failed."""
        try:
            warnings.warn(message, run_dir.RunFolderWarning, stacklevel=4)
        except run_dir.RunFolderWarning:  # where warnings are errors, which must not end the run
            self._say(message)

    def write(self, update: int, seed: int, values: Mapping[str, float]) -> None:
        """Adds the row of one seed.

        Args:
            update: updates done so far.
            seed: the seed.
            values: metric -> value.
        """
        step = update * self._plan.batch_steps
        self.rows.append({"update": update, "step": step, "seed": seed} | dict(values))
        if self._lines is not None:
            self._lines.write(update, step, seed, values)
        self._unlogged.append(self.rows[-1])

    def mark(self) -> loggers.Mark | None:
        """Returns the position in the rows that a checkpoint stores.

        Returns:
            A mark of the rows written so far; None where the rows are in memory alone.

        Raises:
            RunFolderError: the folder is gone.
        """
        self._check_folder()
        return None if self._lines is None else self._lines.mark

    def _check_folder(self) -> None:
        """Raises RunFolderError where the folder was moved or deleted.

        Everything that follows would be lost. If config.json alone is gone, it is written again,
        because the run cannot be continued without it.
        """
        if self.folder is None or self.folder.config.is_file():
            return
        if self.folder.lock.is_file() and self.folder.checkpoints.is_dir():
            write_plan(self.folder, self._plan)
            self._say(
                f"{self.folder.config} was deleted while the run trained; it is written again"
            )
        else:
            raise RunFolderError(
                f"{self.folder.path} was moved or deleted while the run trained in it, so that "
                "nothing more can be kept; everything saved before is where the folder is now: "
                "continue it there with --resume"
            )

    def flush(self) -> None:
        """Returns once all rows are on disk; then the loggers receive the new ones.

        Raises:
            RunFolderError: the folder is gone.
        """
        self._check_folder()
        if self._lines is not None:
            if not self._lines.is_intact():
                self._lines.replace(self.rows)
            self._lines.flush()
        new, self._unlogged = tuple(self._unlogged), []
        for name, logger in list(self._loggers.items()):
            with self._optional(name):
                logger.write(new)

    def refresh(self, immediately: bool = False) -> None:
        """Updates the files derived from the rows, unless the folder was moved or deleted.

        Args:
            immediately: True updates every file that lacks rows; False only those that do not take
                long now.
        """
        if self.folder is None or self.folder.config.is_file():
            for name, file in self._rebuilt.items():
                with self._optional(name):
                    file.refresh(immediately)

    def read_random_returns(self) -> np.ndarray | None:
        """Returns the random policy's mean return for every seed, ``[S]``.

        Returns None where it was not measured in this folder, or cannot be read.
        """
        with contextlib.suppress(RunFolderError):
            returns = None if self.folder is None else read_random_returns(self.folder)
            if returns is not None and len(returns) == len(self._plan.seeds):
                return returns
        return None

    def save_random_returns(self, returns: np.ndarray) -> None:
        """Writes the random policy's returns to the folder.

        Args:
            returns: mean return for every seed, ``[S]``.
        """
        if self.folder is not None:
            text = atomic_io.to_json({"eval_return": returns}) + "\n"
            atomic_io.replace_text(self.folder.random_policy, text)

    def close(self) -> None:
        """Updates everything and closes all files."""
        self.refresh(immediately=True)
        for name, logger in list(self._loggers.items()):
            with self._optional(name):
                logger.close()
        if self._lines is not None:
            with contextlib.suppress(OSError):  # a failure of the disk has ended the run already
                self._lines.close()


def rebuilt_files(
    plan: RunConfig, spec: EnvSpec, folder: run_dir.RunFolder, rows: list[loggers.Row]
) -> dict[Path, Callable[[], object]]:
    """Returns the files that derive from a run's rows, and functions that write them.

    Args:
        plan: plan of the run.
        spec: spec of its environment.
        folder: folder of the run.
        rows: rows of the run; the functions use those present when they are called.

    Returns:
        Path -> function that writes the file.
    """
    suite, _, task = plan.env.partition("/")
    names: dict[str, Any] = dict(environment=suite, task=task or suite, algorithm=plan.algorithm)

    def write_marl_eval() -> None:
        # not strict JSON: the readers are Python programs that average the lists, which accept a
        # bare NaN but no null
        nested = loggers.marl_eval_json(rows, **names)
        atomic_io.replace_text(folder.marl_eval, json.dumps(nested, indent=2) + "\n")

    return {
        folder.marl_eval: write_marl_eval,
        folder.curve: lambda: draw(plan, spec, folder, rows),
    }


def rebuild(
    plan: RunConfig, spec: EnvSpec, folder: run_dir.RunFolder, say: Callable[[str], None]
) -> None:
    """Rebuilds the files that derive from a finished run's rows, which a kill may have left stale.

    Args:
        plan: plan of the run.
        spec: spec of its environment.
        folder: folder of the run.
        say: function that shows a line to the user, here about a file that cannot be built.
    """
    for path, make in rebuilt_files(plan, spec, folder, run_dir.load(folder.path).rows).items():
        try:
            make()
        except Exception as error:
            say(f"{path.name} failed: {one_line(error)}")


def read_random_returns(folder: run_dir.RunFolder) -> np.ndarray | None:
    """Returns the random policy's mean return for every seed, as the folder holds it.

    Args:
        folder: folder of the run.

    Returns:
        ``[S]``, NaN for a seed whose return the environment spoiled; None where it was not
        measured.

    Raises:
        RunFolderError: the file is damaged.
    """
    path = folder.random_policy
    try:
        returns = np.asarray(json.loads(atomic_io.read_bytes(path))["eval_return"], float)
        # NaN is allowed: the environment returned no finite return to that seed
        if returns.ndim != 1 or np.isinf(returns).any():
            raise ValueError(
                f"eval_return is {returns.tolist()!r}; allowed is a list of finite numbers"
            )
        return returns
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunFolderError(
            f"{path} is damaged ({error!r}); remove it: the run does not need it"
        ) from error


def restore_rows(
    plan: RunConfig, folder: run_dir.RunFolder, update: int, mark: loggers.Mark | None
) -> str | None:
    """Cuts a run's rows back to those of a checkpoint.

    Args:
        plan: plan of the run.
        folder: folder of the run.
        update: update of the checkpoint; later rows are dropped.
        mark: position in the rows that the checkpoint holds; None in one of an earlier version.

    Returns:
        A message about faults in the rows, or None; see `loggers.restore_rows`.
    """
    return loggers.restore_rows(
        folder.metrics,
        folder.metrics_copy,
        update,
        mark,
        lambda row: row_mismatch(plan, row) is None,
    )


def _set_aside(folder: run_dir.RunFolder) -> str | None:
    """Empties the rows of a run that starts again; returns a message where rows were kept aside.

    Rows of a training whose checkpoints were lost are kept in a file of their own.
    """
    old, complaint = folder.path / "metrics.old.jsonl", None
    content = atomic_io.read_bytes(folder.metrics) if folder.metrics.exists() else b""
    lines = content.split(b"\n")[:-1]  # text after the last line break is an incomplete row
    if lines and not lines[-1].startswith(b'{"update": 0,') and not old.exists():
        atomic_io.replace_bytes(old, content)
        complaint = (
            f"{folder.path} has no checkpoint: it is trained from the start; its rows so far are "
            f"kept in {old.name}"
        )
    loggers.restore_rows(folder.metrics, folder.metrics_copy, 0, None, lambda _: False)
    return complaint


def row_mismatch(plan: RunConfig, row: loggers.Row) -> str | None:
    """Returns the reason why a row cannot belong to a plan, or None where it can.

    Args:
        plan: plan of a run.
        row: a row with ``update``, ``step`` and ``seed``.
    """
    if row["seed"] not in plan.seeds:
        return f"seed is {row['seed']}; allowed is one of {', '.join(map(str, plan.seeds))}"
    if row["update"] > plan.num_updates:
        return f"update is {row['update']}; allowed is at most {plan.num_updates}"
    if row["step"] != row["update"] * plan.batch_steps:
        return (
            f"step is {row['step']} at update {row['update']}; allowed is "
            f"{row['update'] * plan.batch_steps}"
        )
    if bad := [name for name in row if not _is_name(name)]:
        return f"it has the field {bad[0]!r}; allowed are names such as return, cost/agent_0/cost_1"
    if missing := {"eval_return", "is_finite"} - row.keys():
        return f"it lacks the field {min(missing)!r}"
    return None


@functools.lru_cache(maxsize=4096)
def _is_name(name: str) -> bool:
    """Returns whether a metric's name has the form that `metrics.flatten` produces."""
    return re.fullmatch(r"[^/]+(/[a-z]+_\d{1,9})*", name) is not None


def check_rows(plan: RunConfig, rows: Sequence[loggers.Row], path: Path) -> None:
    """Checks that every row can belong to a plan, and that no two rows share update and seed.

    Args:
        plan: plan of the run.
        rows: rows of the run, in the order of the file.
        path: the file of the rows, for the message.

    Raises:
        RunFolderError: a row does not belong to the run; the message names the first one.
    """
    keys = set()
    for number, row in enumerate(rows, start=1):
        reason = row_mismatch(plan, row)
        if (row["update"], row["seed"]) in keys:
            reason = f"there is another one of update {row['update']} and seed {row['seed']}"
        keys.add((row["update"], row["seed"]))
        if reason is not None:
            raise RunFolderError(
                f"{path}, line {number} is no row of this run: {reason}; --resume {path.parent} "
                "keeps the rows up to the last checkpoint"
            )


def draw(
    plan: RunConfig, spec: EnvSpec, folder: run_dir.RunFolder, rows: list[loggers.Row]
) -> None:
    """Draws a run's learning curve into its folder.

    Args:
        plan: plan of the run.
        spec: spec of its environment.
        folder: folder of the run.
        rows: rows of the run.
    """
    metrics = to_arrays(rows, plan.seeds)
    steps = np.asarray(sorted({row["step"] for row in rows}))
    run = steps, metrics["eval_return"], metrics.get("eval_cost")
    plot_run(
        plan, spec, run, read_random_returns(folder), folder.curve, metrics.get("eval_win_rate")
    )


def plot_run(
    plan: RunConfig,
    spec: EnvSpec,
    run: tuple[Any, Any, Any],
    random: np.ndarray | None,
    path: str | Path | None,
    won: np.ndarray | None = None,
) -> Any:
    """Draws a run's learning curve, with a panel for each cost, or for win rates.

    Args:
        plan: plan of the run.
        spec: spec of its environment.
        run: environment steps ``[E]``, returns ``[S, E]``, and costs ``[S, E, N, K]`` or None.
        random: returns of the random policy, ``[S]``, or None.
        path: file to write the figure to as well, in the format of its suffix, or None.
        won: win rates ``[S, E]``, 0 to 1; None where the environment has none. They are drawn where
            it has no costs.

    Returns:
        A matplotlib figure.
    """
    from jaxmarl_lite.report import plotting  # takes a second, and only runs with a folder need it

    steps, returns, costs = run
    limits = cost_limits.limits_of(plan.config, spec)
    curves = plotting.RunCurves(steps, returns, costs, won if costs is None else None, limits)
    return plotting.plot_runs(
        {plan.algorithm: curves},
        cost_names=spec.cost_names,
        cost_descriptions=spec.cost_descriptions,
        ylabel=spec.return_description,
        title=f"{plan.algorithm} on {plan.env}",
        path=path,
        best=spec.max_return,
        random=None if random is None or np.isnan(random).all() else float(np.nanmean(random)),
    )


def read_spec(folder: run_dir.RunFolder) -> EnvSpec | None:
    """Returns the spec that a run wrote, or None where one of an earlier version has none.

    No id leads back to an environment that was passed as an object.

    Args:
        folder: folder of the run.

    Raises:
        RunFolderError: the file is damaged.
    """
    if not folder.spec.exists():
        return None
    data = run_dir.read_object(folder.spec)
    try:
        spec = EnvSpec(**{name: _tuples(value) for name, value in data.items()})
        checker.check_spec(spec)
    except (TypeError, ValueError) as error:
        raise run_dir.RunFolderError(
            f"{folder.spec} is damaged: {error}; remove it to continue without it"
        ) from error
    return spec


def _tuples(value: object) -> Any:
    """Returns a value from JSON with lists as tuples, at every depth."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def write_plan(folder: run_dir.RunFolder, plan: RunConfig) -> None:
    """Replaces the config.json of a run.

    Args:
        folder: folder of the run.
        plan: plan of the run, such as a stored one with more steps.
    """
    atomic_io.write_json(folder.config, plan.to_dict())


def to_arrays(rows: list[loggers.Row], seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Returns the metrics in a run's rows as arrays.

    Entries ``name/agent_0``, ``name/agent_1`` ... become one array ``name``.

    Args:
        rows: rows of a run.
        seeds: seeds of the run, in the order of the first axis.

    Returns:
        Metric -> ``[S, E, ...]`` float; NaN where a row or an entry of it is missing.

    Raises:
        RunFolderError: entries of an array are missing in all rows, which no run writes.
    """
    updates = sorted({row["update"] for row in rows})
    row_of = {(row["seed"], row["update"]): row for row in rows}
    groups: dict[str, dict[str, None]] = {}
    for row in rows:
        for name in row:
            if name not in loggers.INDEX:
                groups.setdefault(name.partition("/")[0], {})[name] = None
    arrays = {}
    for base, members in groups.items():
        values = [
            [
                [row_of.get((seed, update), {}).get(name, np.nan) for name in members]
                for update in updates
            ]
            for seed in seeds
        ]
        indices = [
            [int(part.rpartition("_")[2]) for part in name.split("/")[1:]] for name in members
        ]
        if len({len(index) for index in indices}) > 1:
            raise RunFolderError(
                f"metrics.jsonl has {base} both as a number and as an array; {_AGAIN}"
            )
        sizes = tuple(1 + max(index) for index in zip(*indices, strict=True))
        if math.prod(sizes) != len(members):
            count = f"{len(members)} of {math.prod(sizes)} entries"
            raise RunFolderError(f"metrics.jsonl has {count} of {base}; {_AGAIN}")
        arrays[base] = np.asarray(values, float).reshape(len(seeds), len(updates), *sizes)
    return arrays
