"""What a run leaves behind: rows in memory, and, where it has a folder, every file in it but the checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxmarl_lite.report import files, runfolder, writers
from jaxmarl_lite.running import costs
from jaxmarl_lite.running.plan import Plan
from jaxmarl_lite.types import EnvSpec

TIMINGS = ("elapsed_seconds", "steps_per_second")
"""Entries of a row that differ between two runs of one plan."""

INDEX = ("update", "step", "seed")
"""Entries of a row that are no metrics."""

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
    """

    def __init__(
        self,
        plan: Plan,
        spec: EnvSpec,
        folder: runfolder.RunFolder | None,
        update: int | None = None,
        wandb: str | None = None,
    ):
        self._plan, self._spec, self.folder = plan, spec, folder
        self.rows: list[writers.Row] = []
        self._writers: list[writers.Writer] = []
        self._picture_seconds: float | None = None
        self.lost: list[int] = []
        """Updates of which a resumed run should have rows and has none."""
        if folder is not None:
            self._open(folder, update)
        if wandb is not None:
            run_id = None if folder is None else folder.path.name
            name = folder.path.name if folder is not None else f"{plan.algorithm} {plan.env}"
            self._writers.append(writers.WandbWriter(wandb, name, plan.to_dict(), None, run_id))

    def _open(self, folder: runfolder.RunFolder, update: int | None) -> None:
        lines = writers.JsonlWriter(folder.metrics)
        step = None
        if update is not None:
            lines.truncate_after(update)
            self.rows = writers.read_rows(folder.metrics)
            step = -1 if update < 0 else update * self._plan.batch
            there = {row["update"] for row in self.rows}
            self.lost = [u for u in self._plan.schedule if u <= update and u not in there]
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

    def flush(self) -> None:
        """Return when all rows are on disk, and draw the curve if that is quick."""
        for writer in self._writers:
            writer.flush()
        if self._picture_seconds is None or self._picture_seconds < _QUICK:
            self.draw()

    def draw(self) -> None:
        """Draw the learning curve into the folder."""
        if self.folder is not None:
            self._picture_seconds = draw(self._plan, self._spec, self.folder, self.rows)

    def random(self) -> np.ndarray | None:
        """Return of the random policy for every seed, if it was measured in this folder."""
        return None if self.folder is None else read_random(self.folder)

    def keep_random(self, returns: np.ndarray) -> None:
        """Remember it."""
        if self.folder is not None:
            files.replace_text(random_path(self.folder), files.to_json({"eval_return": returns}) + "\n")

    def close(self) -> None:
        """Close all files."""
        for writer in self._writers:
            writer.close()


def random_path(folder: runfolder.RunFolder) -> Path:
    """Where the random policy's returns are kept."""
    return folder.path / "random_policy.json"


def read_random(folder: runfolder.RunFolder) -> np.ndarray | None:
    """Return of the random policy for every seed, ``[seeds]``, or None where it was not measured."""
    try:
        return np.asarray(json.loads(random_path(folder).read_text())["eval_return"], float)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise runfolder.RunFolderError(f"{random_path(folder)} is damaged: {error!r}") from error


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
    """Metric -> ``[seeds, evaluations, ...]``; entries ``name/agent_0`` ... become one array ``name``, gaps are NaN."""
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
        sizes = 1 + np.max(indices, axis=0, initial=0).astype(int) if indices[0] else ()
        found[base] = np.asarray(values, float).reshape(len(seeds), len(updates), *sizes)
    return found
