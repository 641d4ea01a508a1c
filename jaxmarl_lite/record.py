"""What a run leaves behind: rows in memory, and, where it has a folder, every file in it but the checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxmarl_lite.plan import Plan
from jaxmarl_lite.report import files, runfolder, writers
from jaxmarl_lite.types import EnvSpec

TIMINGS = ("elapsed_seconds", "steps_per_second")
"""Entries of a row that differ between two runs of one plan."""

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
        for writer in self._writers:
            writer.write(update, step, seed, values)

    def flush(self) -> None:
        """Return when all rows are on disk, and draw the curve if that is quick."""
        for writer in self._writers:
            writer.flush()
        if self._picture_seconds is None or self._picture_seconds < _QUICK:
            self.draw()

    def draw(self) -> Path | None:
        """Draw the learning curve into the folder."""
        if self.folder is None:
            return None
        from jaxmarl_lite.report import plots  # costs a second, and only runs with a folder need it

        began = time.perf_counter()
        found = runfolder.series(self.rows, "eval_return")
        random = self.random()
        plots.learning_curve(
            {self._plan.algorithm: (found.steps, found.values)},
            ylabel=self._spec.return_meaning,
            title=f"{self._plan.algorithm} on {self._plan.env}",
            path=self.folder.curve,
            best=self._spec.best_return,
            random=None if random is None else float(random.mean()),
        )
        self._picture_seconds = time.perf_counter() - began
        return self.folder.curve

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


def write_plan(folder: runfolder.RunFolder, plan: Plan) -> None:
    """Replace the config of a run that is prolonged."""
    files.replace_text(folder.config, files.to_json(plan.to_dict(), indent=2) + "\n")


def stacked(rows: list[writers.Row]) -> dict[str, Any]:
    """Metric -> ``[seeds, evaluations, ...]``; entries ``name/agent_0`` ... become one array ``name``."""
    names = dict.fromkeys(name for row in rows for name in row if name not in ("update", "step", "seed"))
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition("/")[0], []).append(name)
    found = {}
    for base, members in groups.items():
        arrays = np.stack([runfolder.series(rows, name).values for name in members], -1)
        sizes = [1 + max(int(part[i].rpartition("_")[2]) for part in _parts(members)) for i in range(_depth(members))]
        found[base] = arrays.reshape(*arrays.shape[:2], *sizes)
    return found


def _parts(members: list[str]) -> list[list[str]]:
    return [name.split("/")[1:] for name in members]


def _depth(members: list[str]) -> int:
    return len(_parts(members)[0])
