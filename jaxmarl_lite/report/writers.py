"""Where metrics go: JSON lines (the record everything else is rebuilt from), TensorBoard, marl-eval JSON, W&B.

In a run of several processes only process 0 writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jaxmarl_lite.report import files

Row = dict[str, Any]
"""``update``, ``step``, ``seed`` (ints) and one float per metric."""

_INDEX = ("update", "step", "seed")


class Writer(Protocol):
    """What every writer offers."""

    def write(self, update: int, step: int, seed: int, values: Mapping[str, float]) -> None:
        """Take the metrics of one seed after ``update`` updates and ``step`` environment steps."""
        ...

    def flush(self) -> None:
        """Return when all that was written is on disk (called before a checkpoint)."""
        ...

    def close(self) -> None:
        """Flush and let go of all files; calling it again does nothing."""
        ...


class JsonlWriter:
    """One JSON object per row, visible to readers at once; a kill can cost at most the row being written.

    Opening an existing file goes on behind its last complete row.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _cut_half_line(self.path)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def write(self, update: int, step: int, seed: int, values: Mapping[str, float]) -> None:
        """Append a row. Raises ValueError when a metric is called ``update``, ``step`` or ``seed``."""
        if taken := set(_INDEX) & set(values):
            raise ValueError(f"metrics may not be called {sorted(taken)}")
        row = {"update": int(update), "step": int(step), "seed": int(seed)}
        row |= {name: float(value) for name, value in values.items()}
        self._file.write(files.to_json(row) + "\n")
        self._file.flush()

    def truncate_after(self, update: int, seed: int | None = None) -> int:
        """Drop the rows of later updates (of one seed, or of all), as a resume from ``update`` must.

        Returns:
            The number of rows dropped. The file is replaced in one rename.
        """
        self._file.close()
        rows = read_rows(self.path)
        kept = [row for row in rows if row["update"] <= update or (seed is not None and row["seed"] != seed)]
        files.replace_text(self.path, "".join(files.to_json(row) + "\n" for row in kept))
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        return len(rows) - len(kept)

    def flush(self) -> None:
        """Return when every row is on disk."""
        if not self._file.closed:
            self._file.flush()
            files.sync_file(self._file.fileno())

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        self._file.close()


def read_rows(path: Path | str) -> list[Row]:
    """The rows of a JSON-lines file, numbers as ``JsonlWriter`` was given them; a half-written last line is left out.

    Raises:
        ValueError: a line in the middle that is no row, naming file and line.
    """
    lines = Path(path).read_bytes().split(b"\n")[:-1]  # what follows the last line break is no whole row
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            index = {name: int(row.pop(name)) for name in _INDEX}
            rows.append(index | {name: files.to_number(value) for name, value in row.items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, line {number} is no metrics row: {_words_of(error)}") from error
    return rows


def _cut_half_line(path: Path) -> None:
    """Remove what follows the last line break of a file, if there is a file."""
    if not path.exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        files.replace_bytes(path, data[: data.rfind(b"\n") + 1])


class TensorBoardWriter:
    """TensorBoard event files: a curve per seed (``seed_0/return``) over environment steps, the config as text.

    Args:
        folder: of the event files.
        config: plain data, shown as JSON on the Text page.
        resume_step: environment steps of the checkpoint that a resumed run starts from; TensorBoard hides
            what an earlier attempt wrote beyond it.
    """

    def __init__(self, folder: Path | str, config: Any = None, resume_step: int | None = None):
        from tensorboardX import SummaryWriter

        purge = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(str(folder), purge_step=purge)
        if config is not None:
            text = "\n".join("    " + line for line in files.to_json(config, indent=2).splitlines())
            self._writer.add_text("config", text, global_step=0 if resume_step is None else purge)

    def write(self, update: int, step: int, seed: int, values: Mapping[str, float]) -> None:
        """Add one point per metric at ``step``."""
        for name, value in values.items():
            self._writer.add_scalar(f"seed_{seed}/{name}", float(value), global_step=int(step))

    def flush(self) -> None:
        """Hand all points to the event file."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class MarlEvalWriter:
    """The file that marl-eval's plotting tools read; see ``marl_eval_json`` for its content.

    It holds nothing itself: ``flush`` and ``close`` rebuild the whole file from the metrics rows, so the two never
    disagree, a resumed run included. Open it after the ``JsonlWriter`` it reads from and close it after that too.

    Args:
        path: of the file, ``marl_eval.json``.
        rows: path of the JSON lines.
        environment, task, algorithm: names under which the run is filed.
        metrics: see ``marl_eval_json``.
    """

    def __init__(
        self,
        path: Path | str,
        rows: Path | str,
        *,
        environment: str,
        task: str,
        algorithm: str,
        metrics: Sequence[str] = ("eval_return",),
    ):
        self._path, self._rows = Path(path), Path(rows)
        self._names = {"environment": environment, "task": task, "algorithm": algorithm, "metrics": tuple(metrics)}

    def write(self, update: int, step: int, seed: int, values: Mapping[str, float]) -> None:
        """Nothing: the rows hold it."""

    def flush(self) -> None:
        """Rebuild the file, in one rename."""
        rows = read_rows(self._rows) if self._rows.exists() else []
        # its readers are Python programs that average the lists: a bare NaN passes through them, a null does not
        files.replace_text(self._path, json.dumps(marl_eval_json(rows, **self._names), indent=2) + "\n")

    def close(self) -> None:
        """Rebuild the file a last time."""
        self.flush()


def marl_eval_json(
    rows: Iterable[Row],
    *,
    environment: str,
    task: str,
    algorithm: str,
    metrics: Sequence[str] = ("eval_return",),
    absolute: Mapping[int, Mapping[str, Sequence[float]]] | None = None,
) -> dict[str, Any]:
    """Metrics rows in the nested form of marl-eval (github.com/instadeepai/marl-eval, README and docs).

    ``environment -> task -> algorithm -> seed_i -> step_k -> {step_count, elapsed_time, metric: [value]}`` with
    ``k`` counting the evaluations from 0, and ``seed_i -> absolute_metrics -> {metric: [values]}``.
    ``elapsed_time`` (seconds) stands where the row has ``elapsed_seconds``.

    Args:
        rows: of any seeds, as ``read_rows`` gives them; a row is an evaluation when it has the first of ``metrics``.
        metrics: names to carry over; those a row lacks are left out of its step.
        absolute: seed -> metric -> values of the best policy over ten times the episodes (Gorsane et al. 2022,
            arXiv:2209.10485). Without it the best evaluation by the first metric stands in, which is a maximum over
            noisy numbers and so too high by about that noise.
    """
    runs: dict[str, dict[str, Any]] = {}
    evaluations: dict[int, list[Row]] = {}
    for row in rows:
        if metrics[0] in row:
            evaluations.setdefault(row["seed"], []).append(row)
    for seed, mine in sorted(evaluations.items()):
        mine.sort(key=lambda row: row["update"])
        run = {f"step_{k}": _step(row, metrics) for k, row in enumerate(mine)}
        best = max(mine, key=lambda row: row[metrics[0]] if row[metrics[0]] == row[metrics[0]] else float("-inf"))
        given = (absolute or {}).get(seed)
        run["absolute_metrics"] = (
            {name: [float(value) for value in values] for name, values in given.items()}
            if given is not None
            else {name: [best[name]] for name in metrics if name in best}
        )
        runs[f"seed_{seed}"] = run
    return {environment: {task: {algorithm: runs}}}


def _step(row: Row, metrics: Sequence[str]) -> dict[str, Any]:
    """One evaluation of one seed in marl-eval's form."""
    step: dict[str, Any] = {"step_count": row["step"]}
    if "elapsed_seconds" in row:
        step["elapsed_time"] = row["elapsed_seconds"]
    return step | {name: [row[name]] for name in metrics if name in row}


def _words_of(error: Exception) -> str:
    return f"it lacks the field {error}" if isinstance(error, KeyError) else str(error)


def import_wandb() -> Any:
    """The library wandb; ImportError that says how to install it."""
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("logging to W&B needs another package: pip install jaxmarl-lite[wandb]") from error
    return wandb


class WandbWriter:
    """Weights & Biases: one W&B run per seed, grouped under the run's name; needs the ``wandb`` extra.

    Args:
        project: W&B project.
        name: of the group; its runs are called ``name/seed_0`` and so on.
        config: plain data shown beside the runs.
        folder: where W&B keeps its local files.
        run_id: text that stays the same when a run is resumed, so that W&B continues its curves.

    Raises:
        ImportError: wandb is not installed; says how to install it.
    """

    def __init__(
        self,
        project: str,
        name: str,
        config: Mapping[str, Any] | None = None,
        folder: Path | str | None = None,
        run_id: str | None = None,
    ):
        self._wandb: Any = import_wandb()
        self._runs: dict[int, Any] = {}
        self._id, self._name = run_id, name
        self._shared = {"project": project, "group": name, "config": dict(config or {})}
        if folder is not None:
            self._shared["dir"] = str(folder)

    def write(self, update: int, step: int, seed: int, values: Mapping[str, float]) -> None:
        """Log to the seed's run, which begins at its first row."""
        if seed not in self._runs:
            kept = {} if self._id is None else {"id": f"{self._id}-seed-{seed}", "resume": "allow"}
            self._runs[seed] = self._wandb.init(
                name=f"{self._name}/seed_{seed}", reinit="create_new", **self._shared, **kept
            )
        self._runs[seed].log({"update": int(update)} | {k: float(v) for k, v in values.items()}, step=int(step))

    def flush(self) -> None:
        """Nothing: W&B uploads by itself."""

    def close(self) -> None:
        """Finish all runs."""
        for run in self._runs.values():
            run.finish()
        self._runs = {}
