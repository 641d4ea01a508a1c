"""What a run leaves behind: rows in memory, and, where it has a folder, every file in it but the
checkpoints.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxmarl_lite.envs import checker
from jaxmarl_lite.experiment import constraint_stats
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.report import atomic_io, loggers, run_dir
from jaxmarl_lite.report.run_dir import RunFolderError
from jaxmarl_lite.types import EnvSpec

TIMINGS = ("elapsed_seconds", "steps_per_second")
"""Entries of a row that differ between two runs of one plan."""

INDEX = ("update", "step", "seed")
"""Entries of a row that are no metrics."""

_AGAIN = "--resume of the run restores its rows up to the last checkpoint"

_SHARE = 0.05  # of a run's time that rebuilding each file made of its rows may take


class _Rebuilt:
    """A file made anew of all rows: often while that is quick, rarely when it takes long."""

    def __init__(self, make: Callable[[], object], stale: bool):
        self._make, self._next, self._stale = make, 0.0, stale

    def refresh(self, now: bool = False) -> None:
        """Make the file, if it is time again, or ``now`` if it lacks what there is."""
        self._stale |= not now
        began = time.perf_counter()
        if self._stale if now else began >= self._next:
            try:
                self._make()
                self._stale = False
            finally:
                done = time.perf_counter()
                self._next = done + (done - began) / _SHARE


class RunLogger:
    """Rows of a run, one per seed and evaluation, and the files made of them.

    A file that cannot be written ends the run if it is the rows. The others can be made anew, so a
    failure is said and the run goes on without them.

    Args:
        plan: of the run.
        spec: of its environment.
        folder: where to write; None keeps the rows in memory alone.
        update: of the checkpoint that the run goes on from; rows of later updates are dropped. None
            for a new run, -1 for one that begins anew in its folder.
        wandb: a W&B project to write to as well.
        say: takes a line for the user.
        mark: what that checkpoint remembers of the rows; None where there is no checkpoint, or one
            of an earlier version.
    """

    def __init__(
        self,
        plan: RunConfig,
        spec: EnvSpec,
        folder: run_dir.RunFolder | None,
        update: int | None = None,
        wandb: str | None = None,
        say: Callable[[str], None] = print,
        mark: loggers.Mark | None = None,
    ):
        self._plan, self._spec, self.folder, self._say = plan, spec, folder, say
        self.rows: list[loggers.Row] = []
        self._lines: loggers.JsonlWriter | None = None
        self._writers: dict[str, loggers.Writer] = {}
        self._rebuilt: dict[str, _Rebuilt] = {}
        self._failed: set[str] = set()
        self.complaint: str | None = None
        """What was found wrong with the rows of a resumed run, and done about it."""
        if folder is not None:
            self._open(folder, update, mark)
        if wandb is not None:
            self._attempt("W&B", lambda: self._open_wandb(wandb, update))

    def _open(
        self, folder: run_dir.RunFolder, update: int | None, mark: loggers.Mark | None
    ) -> None:
        step = None
        if update is not None:
            self.complaint = (
                _set_aside(folder) if update < 0 else restore_rows(self._plan, folder, update, mark)
            )
            step = -1 if update < 0 else update * self._plan.batch_steps
        self._lines = loggers.JsonlWriter(folder.metrics, folder.metrics_copy)
        self.rows = loggers.read_rows(folder.metrics)
        self._attempt("TensorBoard", lambda: self._open_tensorboard(folder, step))
        self._attempt(folder.spec.name, lambda: write_spec(folder, self._spec))
        for path, make in rebuilt_files(self._plan, self._spec, folder, self.rows).items():
            self._rebuilt[path.name] = _Rebuilt(make, stale=bool(self.rows))

    def _open_tensorboard(self, folder: run_dir.RunFolder, step: int | None) -> None:
        self._writers["TensorBoard"] = loggers.TensorBoardWriter(
            folder.tensorboard, self._plan.to_dict(), step
        )

    def _open_wandb(self, project: str, update: int | None) -> None:
        if self.folder is None:
            name, run_id = f"{self._plan.algorithm} {self._plan.env}", None
        else:
            name, run_id = (
                self.folder.path.absolute().name,
                wandb_id(self.folder, anew=update is None or update < 0),
            )
        folder = None if self.folder is None else self.folder.path.absolute()
        self._writers["W&B"] = loggers.WandbWriter(
            project, name, self._plan.to_dict(), folder, run_id
        )

    def _attempt(self, name: str, action: Callable[[], object]) -> None:
        """Do what the run can do without; say so, once, where it fails."""
        try:
            action()
        except Exception as error:  # of matplotlib, W&B, the disk: of any kind
            if name not in self._failed:
                self._failed.add(name)
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                self._say(f"{name} failed, and the run goes on without it: {reason}")
            if (writer := self._writers.pop(name, None)) is not None:
                with contextlib.suppress(Exception):
                    writer.close()

    def write(self, update: int, seed: int, values: Mapping[str, float]) -> None:
        """Take the row of one seed."""
        step = update * self._plan.batch_steps
        self.rows.append({"update": update, "step": step, "seed": seed} | dict(values))
        if self._lines is not None:
            self._lines.write(update, step, seed, values)
        # only the rows keep what is not finite: the others cannot show it
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        for name, writer in list(self._writers.items()):
            self._attempt(name, lambda writer=writer: writer.write(update, step, seed, finite))

    def mark(self) -> loggers.Mark | None:
        """What a checkpoint is to remember of the rows written so far; None where they are in
        memory alone.

        Raises:
            RunFolderError: the folder is gone.
        """
        self._check_folder()
        return None if self._lines is None else self._lines.mark

    def _check_folder(self) -> None:
        """Raise RunFolderError where the folder was moved or deleted: all that follows would be
        written nowhere.

        A config.json that alone is gone is written again, since the run cannot be continued without
        it.
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
                "nothing more can be "
                "kept; what was saved before is where the folder is now: continue it there with "
                "--resume"
            )

    def flush(self) -> None:
        """Return when all rows are on disk.

        Raises:
            RunFolderError: the folder is gone.
        """
        self._check_folder()
        if self._lines is not None:
            if not self._lines.is_intact():
                self._lines.replace(self.rows)
            self._lines.flush()

    def refresh(self) -> None:
        """Bring up to date what is made of the rows, as far as that is quick."""
        for name, writer in list(self._writers.items()):
            self._attempt(name, writer.flush)
        for name, file in self._rebuilt.items():
            self._attempt(name, file.refresh)

    def read_random_returns(self) -> np.ndarray | None:
        """Return of the random policy for every seed, if it was measured in this folder and can be
        read.
        """
        try:
            returns = None if self.folder is None else read_random_returns(self.folder)
        except RunFolderError:
            return None
        return (
            returns if returns is not None and returns.shape == (len(self._plan.seeds),) else None
        )

    def save_random_returns(self, returns: np.ndarray) -> None:
        """Remember it."""
        if self.folder is not None:
            atomic_io.replace_text(
                self.folder.random_policy, atomic_io.to_json({"eval_return": returns}) + "\n"
            )

    def draw(self) -> None:
        """Bring every file that is made of the rows up to date.

        Raises:
            RunFolderError: the folder is gone.
        """
        self._check_folder()
        self._refresh_all()

    def _refresh_all(self) -> None:
        for name, file in self._rebuilt.items():
            self._attempt(name, lambda file=file: file.refresh(now=True))

    def close(self) -> None:
        """Bring everything up to date and close all files."""
        if (
            self.folder is None or self.folder.config.is_file()
        ):  # else the folder is gone, and not to be made anew
            self._refresh_all()
        for name, writer in list(self._writers.items()):
            self._attempt(name, writer.close)
        if self._lines is not None:
            with contextlib.suppress(OSError):  # a failure of the disk has ended the run already
                self._lines.close()


def wandb_id(folder: run_dir.RunFolder, anew: bool = False) -> str:
    """The folder's id for W&B: random, so that no two runs share it, and kept, so that a resumed
    run goes on with it.

    Args:
        folder: of the run.
        anew: make another one.
    """
    path = folder.path / "wandb_id.txt"
    if not anew and path.is_file():
        text = path.read_text(errors="replace").strip()
        if re.fullmatch(r"[0-9a-z]{4,32}", text):
            return text
    text = secrets.token_hex(6)
    atomic_io.replace_text(path, text + "\n")
    return text


def rebuilt_files(
    plan: RunConfig, spec: EnvSpec, folder: run_dir.RunFolder, rows: list[loggers.Row]
) -> dict[Path, Callable[[], object]]:
    """Path -> function that makes the file of a run's rows."""
    suite, _, task = plan.env.partition("/")
    names: dict[str, Any] = dict(environment=suite, task=task or suite, algorithm=plan.algorithm)
    evals = loggers.MarlEvalWriter(folder.marl_eval, folder.metrics, **names)
    return {folder.marl_eval: evals.flush, folder.curve: lambda: draw(plan, spec, folder, rows)}


def rebuild(
    plan: RunConfig, spec: EnvSpec, folder: run_dir.RunFolder, say: Callable[[str], None]
) -> None:
    """Make the files of a finished run's rows, which a kill may have left old."""
    for path, make in rebuilt_files(plan, spec, folder, run_dir.load(folder.path).rows).items():
        try:
            make()
        except Exception as error:
            say(f"{path.name} failed: " + " ".join(f"{type(error).__name__}: {error}".split()))


def read_random_returns(folder: run_dir.RunFolder) -> np.ndarray | None:
    """Return of the random policy for every seed, ``[seeds]``, or None where it was not
    measured.
    """
    path = folder.random_policy
    try:
        returns = np.asarray(json.loads(atomic_io.read_bytes(path))["eval_return"], float)
        if (
            returns.ndim != 1 or np.isinf(returns).any()
        ):  # NaN: the environment gave none to that seed
            raise ValueError(
                f"eval_return is {returns.tolist()!r}; allowed is a list of finite numbers"
            )
        return returns
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunFolderError(
            f"{path} is damaged ({error!r}); remove it: the run can do without"
        ) from error


def restore_rows(
    plan: RunConfig, folder: run_dir.RunFolder, update: int, mark: loggers.Mark | None
) -> str | None:
    """Cut a run's rows back to a checkpoint's; answers what was wrong with them, see
    `writers.restore_rows`.
    """

    def belongs(row: loggers.Row) -> bool:
        return row_mismatch(plan, row) is None

    return loggers.restore_rows(folder.metrics, folder.metrics_copy, update, mark, belongs)


def _set_aside(folder: run_dir.RunFolder) -> str | None:
    """Empty the rows of a run that begins anew, but keep those of a training whose checkpoints were
    lost.
    """
    old, complaint = folder.path / "metrics.old.jsonl", None
    content = atomic_io.read_bytes(folder.metrics) if folder.metrics.exists() else b""
    lines = content.split(b"\n")[:-1]  # what follows the last line break is no whole row
    if lines and not lines[-1].startswith(b'{"update": 0,') and not old.exists():
        atomic_io.replace_bytes(old, content)
        complaint = (
            f"{folder.path} has no checkpoint: it is trained anew; its rows so far are "
            f"kept in {old.name}"
        )
    loggers.restore_rows(folder.metrics, folder.metrics_copy, -1, None, lambda _: False)
    return complaint


def row_mismatch(plan: RunConfig, row: loggers.Row) -> str | None:
    """Why a row can be none of this plan; None where it can."""
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
    if missing := {"eval_return", "finite"} - row.keys():
        return f"it lacks the field {min(missing)!r}"
    return None


@functools.lru_cache(maxsize=4096)
def _is_name(name: str) -> bool:
    """Whether a metric is called as `metrics.flatten` calls it."""
    return re.fullmatch(r"[^/]+(/[a-z]+_\d{1,9})*", name) is not None


def check_rows(plan: RunConfig, rows: Sequence[loggers.Row], path: Path) -> None:
    """Raise RunFolderError naming the first row that cannot be one of this run."""
    keys = set()
    for number, row in enumerate(rows, start=1):
        why = row_mismatch(plan, row)
        if (row["update"], row["seed"]) in keys:
            why = f"there is another one of update {row['update']} and seed {row['seed']}"
        keys.add((row["update"], row["seed"]))
        if why is not None:
            raise RunFolderError(
                f"{path}, line {number} is no row of this run: {why}; --resume {path.parent} "
                "keeps the rows up to the "
                "last checkpoint"
            )


def draw(
    plan: RunConfig, spec: EnvSpec, folder: run_dir.RunFolder, rows: list[loggers.Row]
) -> None:
    """Draw a run's learning curve into its folder."""
    found = run_dir.series(rows, "eval_return")
    metrics = to_arrays(rows, found.seeds)
    run = found.steps, found.values, metrics.get("eval_cost")
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
    """A run's learning curve as a matplotlib figure, with a panel per cost, or of wins, where the
    environment has them.

    Args:
        plan, spec: of the run.
        run: environment steps ``[E]``, returns ``[S, E]``, costs ``[S, E, N, K]`` or None.
        random: returns of the random policy, ``[S]``.
        path: where to write it as well, in the format of its suffix.
        won: win rates ``[S, E]``.
    """
    from jaxmarl_lite.report import plotting  # costs a second, and only runs with a folder need it

    steps, returns, paid = run
    words: dict[str, Any] = dict(
        ylabel=spec.return_description,
        title=f"{plan.algorithm} on {plan.env}",
        path=path,
        best=spec.max_return,
        random=None if random is None or np.isnan(random).all() else float(np.nanmean(random)),
    )
    if paid is None:
        wins = None if won is None else {plan.algorithm: (steps, won)}
        return plotting.learning_curve({plan.algorithm: (steps, returns)}, wins=wins, **words)
    limits = constraint_stats.limits_of(plan.config, spec)
    names = {"names": spec.cost_names, "meanings": spec.cost_descriptions}
    return plotting.run_curves(
        plan.algorithm, (steps, returns, paid), limits=limits, **names, **words
    )


def write_spec(folder: run_dir.RunFolder, spec: EnvSpec) -> None:
    """Keep names, units and limits of an environment: no id leads back to one that was given as an
    object.
    """
    atomic_io.replace_text(
        folder.spec, atomic_io.to_json(dataclasses.asdict(spec), indent=2) + "\n"
    )


def read_spec(folder: run_dir.RunFolder) -> EnvSpec | None:
    """The spec that `write_spec` kept, or None where there is none, as in runs of earlier versions.

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
            f"{folder.spec} is damaged: {error}; remove it to go on without"
        ) from error
    return spec


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def write_plan(folder: run_dir.RunFolder, plan: RunConfig) -> None:
    """Replace the config of a run that is prolonged."""
    atomic_io.replace_text(folder.config, atomic_io.to_json(plan.to_dict(), indent=2) + "\n")


def to_arrays(rows: list[loggers.Row], seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Metric -> ``[seeds, evaluations, ...]``; entries ``name/agent_0`` ... become one array
    ``name``, gaps are NaN.

    Raises:
        RunFolderError: of an array, not every entry is there, as of no array that a run wrote.
    """
    updates = sorted({row["update"] for row in rows})
    place = {(row["seed"], row["update"]): row for row in rows}
    groups: dict[str, dict[str, None]] = {}
    for row in rows:
        for name in row:
            if name not in INDEX:
                groups.setdefault(name.partition("/")[0], {})[name] = None
    found = {}
    for base, members in groups.items():
        values = [
            [
                [place.get((seed, update), {}).get(name, np.nan) for name in members]
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
        found[base] = np.asarray(values, float).reshape(len(seeds), len(updates), *sizes)
    return found
