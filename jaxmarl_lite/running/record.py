"""What a run leaves behind: rows in memory, and, where it has a folder, every file in it but the checkpoints."""

from __future__ import annotations

import functools
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxmarl_lite.report import files, runfolder, writers
from jaxmarl_lite.report.runfolder import RunFolderError
from jaxmarl_lite.running import costs
from jaxmarl_lite.running.plan import Plan
from jaxmarl_lite.types import EnvSpec

TIMINGS = ("elapsed_seconds", "steps_per_second")
"""Entries of a row that differ between two runs of one plan."""

INDEX = ("update", "step", "seed")
"""Entries of a row that are no metrics."""

_AGAIN = "--resume of the run restores its rows up to the last checkpoint"

_QUICK = 0.3  # seconds that a picture may take to be drawn at every evaluation


class Record:
    """Rows of a run, one per seed and evaluation, and the files made of them.

    Args:
        plan: of the run.
        spec: of its environment.
        folder: where to write; None keeps the rows in memory alone.
        update: of the checkpoint that the run goes on from; rows of later updates are dropped. None for a new run,
            -1 for one that begins anew in its folder.
        wandb: a W&B project to write to as well.
        mark: what that checkpoint remembers of the rows; None where there is no checkpoint, or one of an earlier
            version.
    """

    def __init__(
        self,
        plan: Plan,
        spec: EnvSpec,
        folder: runfolder.RunFolder | None,
        update: int | None = None,
        wandb: str | None = None,
        mark: writers.Mark | None = None,
    ):
        self._plan, self._spec, self.folder = plan, spec, folder
        self.rows: list[writers.Row] = []
        self._writers: list[writers.Writer] = []
        self._picture_seconds: float | None = None
        self.complaint: str | None = None
        """What was found wrong with the rows of a resumed run, and done about it."""
        if folder is not None:
            self._open(folder, update, mark)
        if wandb is not None:
            run_id = None if folder is None else folder.path.name
            name = folder.path.name if folder is not None else f"{plan.algorithm} {plan.env}"
            self._writers.append(writers.WandbWriter(wandb, name, plan.to_dict(), None, run_id))

    def _open(self, folder: runfolder.RunFolder, update: int | None, mark: writers.Mark | None) -> None:
        step = None
        if update is not None:
            self.complaint = _set_aside(folder) if update < 0 else restore_rows(self._plan, folder, update, mark)
            step = -1 if update < 0 else update * self._plan.batch
        self._lines = lines = writers.JsonlWriter(folder.metrics, folder.metrics_copy)
        self.rows = writers.read_rows(folder.metrics)
        room, _, task = self._plan.env.partition("/")
        evals = writers.MarlEvalWriter(
            folder.marl_eval, folder.metrics, environment=room, task=task or room, algorithm=self._plan.algorithm
        )
        board = writers.TensorBoardWriter(folder.tensorboard, self._plan.to_dict(), step)
        self._writers = [lines, board, evals]

    def write(self, update: int, seed: int, values: Mapping[str, float]) -> None:
        """Take the row of one seed."""
        step = update * self._plan.batch
        self.rows.append({"update": update, "step": step, "seed": seed} | dict(values))
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        for writer in self._writers:  # only the rows keep what is not finite: the others cannot show it
            writer.write(update, step, seed, values if isinstance(writer, writers.JsonlWriter) else finite)

    def mark(self) -> writers.Mark | None:
        """What a checkpoint is to remember of the rows written so far; None where they are in memory alone.

        Raises:
            RunFolderError: the folder is gone.
        """
        self._check_folder()
        return None if self.folder is None else self._lines.mark

    def _check_folder(self) -> None:
        """Raise RunFolderError where the folder was moved or deleted: all that follows would be written nowhere."""
        if self.folder is not None and not self.folder.config.is_file():
            raise RunFolderError(
                f"{self.folder.path} was moved or deleted while the run trained in it, so that nothing more can be "
                "kept; what was saved before is where the folder is now: continue it there with --resume"
            )

    def flush(self) -> None:
        """Return when all rows are on disk, and draw the curve if that is quick.

        Raises:
            RunFolderError: the folder is gone.
        """
        self._check_folder()
        if self.folder is not None and not self._lines.is_intact():
            self._lines.replace(self.rows)
        for writer in self._writers:
            writer.flush()
        if self._picture_seconds is None or self._picture_seconds < _QUICK:
            self.draw()

    def draw(self) -> None:
        """Draw the learning curve into the folder."""
        self._check_folder()
        if self.folder is not None:
            self._picture_seconds = draw(self._plan, self._spec, self.folder, self.rows)

    def random(self) -> np.ndarray | None:
        """Return of the random policy for every seed, if it was measured in this folder and can be read."""
        try:
            returns = None if self.folder is None else read_random(self.folder)
        except RunFolderError:
            return None
        return returns if returns is not None and returns.shape == (len(self._plan.seeds),) else None

    def keep_random(self, returns: np.ndarray) -> None:
        """Remember it."""
        if self.folder is not None:
            files.replace_text(self.folder.random_policy, files.to_json({"eval_return": returns}) + "\n")

    def close(self) -> None:
        """Close all files."""
        for writer in self._writers:
            try:
                writer.close()
            except OSError:
                if self.folder is None or self.folder.config.is_file():
                    raise  # in a folder that is gone nothing more can be written, as `_check_folder` has said


def read_random(folder: runfolder.RunFolder) -> np.ndarray | None:
    """Return of the random policy for every seed, ``[seeds]``, or None where it was not measured."""
    path = folder.random_policy
    try:
        returns = np.asarray(json.loads(files.read_bytes(path))["eval_return"], float)
        if returns.ndim != 1 or not np.isfinite(returns).all():
            raise ValueError(f"eval_return is {returns.tolist()!r}; allowed is a list of finite numbers")
        return returns
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunFolderError(f"{path} is damaged ({error!r}); remove it: the run can do without") from error


def restore_rows(plan: Plan, folder: runfolder.RunFolder, update: int, mark: writers.Mark | None) -> str | None:
    """Cut a run's rows back to a checkpoint's; answers what was wrong with them, see `writers.restore_rows`."""

    def belongs(row: writers.Row) -> bool:
        return misfit(plan, row) is None

    return writers.restore_rows(folder.metrics, folder.metrics_copy, update, mark, belongs)


def _set_aside(folder: runfolder.RunFolder) -> str | None:
    """Empty the rows of a run that begins anew, but keep those of a training whose checkpoints were lost."""
    old, complaint = folder.path / "metrics.old.jsonl", None
    content = files.read_bytes(folder.metrics) if folder.metrics.exists() else b""
    lines = content.split(b"\n")[:-1]  # what follows the last line break is no whole row
    if lines and not lines[-1].startswith(b'{"update": 0,') and not old.exists():
        files.replace_bytes(old, content)
        complaint = f"{folder.path} has no checkpoint: it is trained anew; its rows so far are kept in {old.name}"
    writers.restore_rows(folder.metrics, folder.metrics_copy, -1, None, lambda _: False)
    return complaint


def misfit(plan: Plan, row: writers.Row) -> str | None:
    """Why a row can be none of this plan; None where it can."""
    if row["seed"] not in plan.seeds:
        return f"seed is {row['seed']}; allowed is one of {', '.join(map(str, plan.seeds))}"
    if row["update"] > plan.updates:
        return f"update is {row['update']}; allowed is at most {plan.updates}"
    if row["step"] != row["update"] * plan.batch:
        return f"step is {row['step']} at update {row['update']}; allowed is {row['update'] * plan.batch}"
    if bad := [name for name in row if not _is_name(name)]:
        return f"it has the field {bad[0]!r}; allowed are names such as return, cost/agent_0/cost_1"
    if missing := {"eval_return", "finite"} - row.keys():
        return f"it lacks the field {min(missing)!r}"
    return None


@functools.lru_cache(maxsize=4096)
def _is_name(name: str) -> bool:
    """Whether a metric is called as `metrics.flatten` calls it."""
    return re.fullmatch(r"[^/]+(/[a-z]+_\d{1,9})*", name) is not None


def check_rows(plan: Plan, rows: Sequence[writers.Row], path: Path) -> None:
    """Raise RunFolderError naming the first row that cannot be one of this run."""
    keys = set()
    for number, row in enumerate(rows, start=1):
        why = misfit(plan, row)
        if (row["update"], row["seed"]) in keys:
            why = f"there is another one of update {row['update']} and seed {row['seed']}"
        keys.add((row["update"], row["seed"]))
        if why is not None:
            raise RunFolderError(
                f"{path}, line {number} is no row of this run: {why}; --resume {path.parent} keeps the rows up to the "
                "last checkpoint"
            )


def draw(plan: Plan, spec: EnvSpec, folder: runfolder.RunFolder, rows: list[writers.Row]) -> float:
    """Draw a run's learning curve into its folder; answers the seconds that took, imports left out."""
    from jaxmarl_lite.report import plots  # noqa: F401 - costs a second, and only runs with a folder need it

    began = time.perf_counter()
    found = runfolder.series(rows, "eval_return")
    metrics = stacked(rows, found.seeds)
    run = found.steps, found.values, metrics.get("eval_cost")
    picture(plan, spec, run, read_random(folder), folder.curve, metrics.get("eval_win_rate"))
    return time.perf_counter() - began


def picture(
    plan: Plan,
    spec: EnvSpec,
    run: tuple[Any, Any, Any],
    random: np.ndarray | None,
    path: str | Path | None,
    won: np.ndarray | None = None,
) -> Any:
    """A run's learning curve as a matplotlib figure, with a panel per cost, or of wins, where the environment has them.

    Args:
        plan, spec: of the run.
        run: environment steps ``[E]``, returns ``[S, E]``, costs ``[S, E, N, K]`` or None.
        random: returns of the random policy, ``[S]``.
        path: where to write a PNG as well.
        won: win rates ``[S, E]``.
    """
    from jaxmarl_lite.report import plots

    steps, returns, paid = run
    words: dict[str, Any] = dict(
        ylabel=spec.return_meaning,
        title=f"{plan.algorithm} on {plan.env}",
        path=path,
        best=spec.best_return,
        random=None if random is None else float(random.mean()),
    )
    if paid is None:
        wins = None if won is None else {plan.algorithm: (steps, won)}
        return plots.learning_curve({plan.algorithm: (steps, returns)}, wins=wins, **words)
    limits = costs.limits_of(plan.config, spec)
    names = {"names": spec.cost_names, "meanings": spec.cost_meanings}
    return plots.run_curves(plan.algorithm, (steps, returns, paid), limits=limits, **names, **words)


def write_plan(folder: runfolder.RunFolder, plan: Plan) -> None:
    """Replace the config of a run that is prolonged."""
    files.replace_text(folder.config, files.to_json(plan.to_dict(), indent=2) + "\n")


def stacked(rows: list[writers.Row], seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Metric -> ``[seeds, evaluations, ...]``; entries ``name/agent_0`` ... become one array ``name``, gaps are NaN.

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
            [[place.get((seed, update), {}).get(name, np.nan) for name in members] for update in updates]
            for seed in seeds
        ]
        indices = [[int(part.rpartition("_")[2]) for part in name.split("/")[1:]] for name in members]
        if len({len(index) for index in indices}) > 1:
            raise RunFolderError(f"metrics.jsonl has {base} both as a number and as an array; {_AGAIN}")
        sizes = tuple(1 + max(index) for index in zip(*indices, strict=True))
        if math.prod(sizes) != len(members):
            count = f"{len(members)} of {math.prod(sizes)} entries"
            raise RunFolderError(f"metrics.jsonl has {count} of {base}; {_AGAIN}")
        found[base] = np.asarray(values, float).reshape(len(seeds), len(updates), *sizes)
    return found
