"""Writers of metrics: JSON lines, TensorBoard, marl-eval JSON and W&B.

The JSON lines are the record from which everything else is rebuilt. In a run of several processes
only process 0 writes.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jaxmarl_lite.report import atomic_io

Row = dict[str, Any]
"""``update``, ``step``, ``seed`` (ints) and one float per metric."""

_INDEX = ("update", "step", "seed")


class Writer(Protocol):
    """Interface of every writer."""

    def write(self, update: int, step: int, seed: int, values: Mapping[str, float]) -> None:
        """Takes the metrics of one seed after an update.

        Args:
            update: Number of updates done so far.
            step: Environment steps so far.
            seed: Number of the seed.
            values: Metrics, name -> number.
        """
        ...

    def flush(self) -> None:
        """Returns when everything written is on disk (called before a checkpoint)."""
        ...

    def close(self) -> None:
        """Flushes and releases all files; calling it again does nothing."""
        ...


class Mark(NamedTuple):
    """Extent of a file of rows at one moment, as a checkpoint remembers it.

    Attributes:
        rows: Number of rows.
        size: Length, in bytes.
        checksum: CRC-32 of these bytes.
    """

    rows: int
    size: int
    checksum: int

    def is_in(self, data: bytes) -> bool:
        """Returns whether a file's content begins with exactly the content of that moment.

        Args:
            data: Content of the file.

        Returns:
            True where the first ``size`` bytes have the checksum.
        """
        return len(data) >= self.size and zlib.crc32(data[: self.size]) == self.checksum


class JsonlWriter:
    """Writer of one JSON object per row, visible to readers at once.

    A kill can cost at most the row being written. Opening an existing file goes on behind its last
    complete row.

    Args:
        path: File of the rows.
        copy: Second file that gets the same rows when they are flushed, for `restore_rows`; None
            for none.

    Attributes:
        path: File of the rows.
        mark: Extent of the rows written so far; on the disk after `flush`.
    """

    def __init__(self, path: Path | str, copy: Path | str | None = None):
        self.path, self._copy = Path(path), None if copy is None else Path(copy)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _cut_half_line(self.path)
        self._open()

    def _open(self) -> None:
        """Opens the file to append, and makes the copy equal to it."""
        self._file = self.path.open("ab")
        data = self.path.read_bytes()
        self.mark = Mark(data.count(b"\n"), len(data), zlib.crc32(data))
        self._uncopied: list[bytes] = []
        if self._copy is not None and (not self._copy.is_file() or self._copy.read_bytes() != data):
            self._copy.parent.mkdir(exist_ok=True)
            atomic_io.replace_bytes(self._copy, data)

    def write(self, update: int, step: int, seed: int, values: Mapping[str, float]) -> None:
        """Appends a row.

        Args:
            update: Number of updates done so far.
            step: Environment steps so far.
            seed: Number of the seed.
            values: Metrics, name -> number.

        Raises:
            ValueError: A metric is called ``update``, ``step`` or ``seed``.
        """
        if reserved := set(_INDEX) & set(values):
            raise ValueError(f"metrics may not be called {sorted(reserved)}")
        row = {"update": int(update), "step": int(step), "seed": int(seed)}
        line = to_line(row | {name: float(value) for name, value in values.items()})
        self._file.write(line)
        self._file.flush()
        self._uncopied.append(line)
        self.mark = Mark(
            self.mark.rows + 1, self.mark.size + len(line), zlib.crc32(line, self.mark.checksum)
        )

    def truncate_after(self, update: int, seed: int | None = None) -> int:
        """Drops the rows of later updates, as a resume from ``update`` requires.

        The file is replaced in one rename.

        Args:
            update: Last update to keep.
            seed: Number of the one seed whose rows are dropped; None for all seeds.

        Returns:
            The number of rows dropped.
        """
        self._file.close()
        rows = read_rows(self.path)
        remaining = [
            row
            for row in rows
            if row["update"] <= update or (seed is not None and row["seed"] != seed)
        ]
        self.replace(remaining)
        return len(rows) - len(remaining)

    def replace(self, rows: Iterable[Row]) -> None:
        """Puts other rows into the file and its copy, each in one rename.

        Args:
            rows: The new rows.
        """
        self._file.close()
        atomic_io.replace_bytes(self.path, b"".join(map(to_line, rows)))
        self._open()

    def is_intact(self) -> bool:
        """Returns whether file and copy are as long as what was written.

        Neither was then deleted, cut or replaced meanwhile.

        Returns:
            True where both lengths agree.
        """
        copied = self.mark.size - sum(map(len, self._uncopied))
        return _size_of(self.path) == self.mark.size and (
            self._copy is None or _size_of(self._copy) == copied
        )

    def flush(self) -> None:
        """Returns when every row is on disk, in the file and in its copy."""
        if self._file.closed:
            return
        self._file.flush()
        atomic_io.sync_file(self._file.fileno())
        if self._copy is not None and self._uncopied:
            with self._copy.open("ab") as copy:
                copy.write(b"".join(self._uncopied))
                copy.flush()
                atomic_io.sync_file(copy.fileno())
            self._uncopied = []

    def close(self) -> None:
        """Flushes and closes the file."""
        try:
            self.flush()
        finally:
            self._file.close()


def _size_of(path: Path) -> int | None:
    """Returns the length of a file in bytes, or None where there is none."""
    return path.stat().st_size if path.is_file() else None


def to_line(row: Row) -> bytes:
    """Returns a row as a line of a file.

    Args:
        row: See `Row`.

    Returns:
        JSON in UTF-8, with a line break.
    """
    return atomic_io.to_json(row).encode() + b"\n"


def read_rows(path: Path | str) -> list[Row]:
    """Returns the rows of a JSON-lines file, numbers as ``JsonlWriter`` received them.

    A half-written last line is left out.

    Args:
        path: File of the rows.

    Returns:
        The rows, in the order of the file.

    Raises:
        ValueError: A line in the middle is no row; the message names file and line.
    """
    return parse_rows(atomic_io.read_bytes(path), path)


def parse_rows(data: bytes, path: Path | str) -> list[Row]:
    """Returns the rows of a file's content; see `read_rows`.

    Args:
        data: Content of the file.
        path: Name of the file, for the error message.

    Returns:
        The rows, in the order of the file.

    Raises:
        ValueError: A line in the middle is no row; the message names file and line.
    """
    rows = []
    for number, line in enumerate(_complete_lines(data), start=1):
        try:
            rows.append(_parse_row(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is no metrics row: {error}") from error
    return rows


def restore_rows(
    path: Path, copy: Path, update: int, mark: Mark | None, belongs: Callable[[Row], bool]
) -> str | None:
    """Cuts a file of rows and its copy back to the extent that a checkpoint remembers.

    This works whatever happened to them since.

    Args:
        path: File of the rows.
        copy: File that ``JsonlWriter`` wrote beside it. If ``path`` changed, it gets the rows of
            the copy; if that changed as well, those that can be read from either.
        update: Update of the checkpoint; -1 drops every row.
        mark: Mark in the checkpoint; None where it was written without one.
        belongs: Function that returns whether a row can be one of this run.

    Returns:
        A message to the user about the damage and its repair; None where there was none.
    """
    contents = [
        atomic_io.read_bytes(file) if os.path.lexists(file) else b"" for file in (path, copy)
    ]
    complaint = None
    # the file itself, if it is intact, or else its copy; or else the readable rows of either
    if mark is not None and (intact := [content for content in contents if mark.is_in(content)]):
        data = intact[0][: mark.size]
        if intact[0] is not contents[0]:
            complaint = f"{path} had changed and was restored from its copy ({mark.rows} rows)"
    else:
        rows = (
            {}
            if update < 0
            else _readable_rows(contents, lambda row: row["update"] <= update and belongs(row))
        )
        data = b"".join(rows.values())
        if mark is not None:
            outcome = f"{len(rows)} of {mark.rows} rows could be read and are kept"
            complaint = f"{path} and its copy, {copy}, had changed: {outcome}"
    for target, content in zip((path, copy), contents, strict=True):
        if content != data or target.is_symlink():
            target.parent.mkdir(exist_ok=True)
            atomic_io.replace_bytes(target, data)
    return complaint


def _readable_rows(
    contents: Iterable[bytes], accept: Callable[[Row], bool]
) -> dict[tuple[int, int], bytes]:
    """Returns lines by update and seed, in the order of updates.

    Of several lines of one update and seed, the first accepted one counts.
    """
    rows: dict[tuple[int, int], bytes] = {}
    for line in (line for content in contents for line in _complete_lines(content)):
        try:
            row = _parse_row(line)
        except ValueError:
            continue
        if accept(row):
            rows.setdefault((row["update"], row["seed"]), line + b"\n")
    return {key: rows[key] for key in sorted(rows, key=lambda key: key[0])}


def _complete_lines(data: bytes) -> list[bytes]:
    """Returns the complete lines of a file's content, without line breaks."""
    return data.split(b"\n")[:-1]  # the rest after the last line break is no whole row


def _parse_row(line: bytes) -> Row:
    """Returns a row from its line.

    Raises:
        ValueError: It is no row; the message says why.
    """
    try:
        row = json.loads(line)
        index = {name: row.pop(name) for name in _INDEX}
        if bad := [
            name
            for name, value in index.items()
            if type(value) is not int or not 0 <= value < 2**63
        ]:
            raise ValueError(
                f"{bad[0]} is {index[bad[0]]!r}; allowed is a whole number from 0 to 2^63 - 1"
            )
        if bad := [name for name in row if not name.isprintable()]:
            raise ValueError(f"it has the field {bad[0]!r}; allowed are printable names")
        return index | {name: atomic_io.to_number(value) for name, value in row.items()}
    except KeyError as error:
        raise ValueError(f"it lacks the field {error}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(str(error)) from error


def _cut_half_line(path: Path) -> None:
    """Removes a half-written last line from a file, if there is a file."""
    if not path.exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        atomic_io.replace_bytes(path, data[: data.rfind(b"\n") + 1])


class TensorBoardWriter:
    """Writer of TensorBoard event files.

    They hold a curve per seed (``seed_0/return``) over environment steps, and the config as text.

    Args:
        folder: Folder of the event files.
        config: Plain data, shown as JSON on the Text page.
        resume_step: Environment steps of the checkpoint that a resumed run starts from; TensorBoard
            hides what an earlier attempt wrote beyond it.
    """

    def __init__(self, folder: Path | str, config: Any = None, resume_step: int | None = None):
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        records: Any = event_pb2  # its classes are made when it is imported
        self._summary, self._event = summary, records.Event
        # absolute: tensorboardX takes the part before a colon for the name of a protocol
        folder = Path(folder).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        # Not `SummaryWriter`: its thread dies when the disk is full, and the run then waits for it
        # for ever. The suffix: two sessions that begin in one second must not share a file.
        suffix = f".{os.getpid()}.{time.time_ns()}"
        self._writer: Any = event_file_writer.EventsWriter(str(folder / "events"), suffix)
        step = 0
        if resume_step is not None:
            step, session = resume_step + 1, records.SessionLog(status=records.SessionLog.START)
            self._add(step, session_log=session)
        if config is not None:
            text = "\n".join(
                "    " + line for line in atomic_io.to_json(config, indent=2).splitlines()
            )
            self._add(step, summary=summary.text("config", text))

    def _add(self, step: int, **content: Any) -> None:
        """Writes one event at ``step``."""
        self._writer.write_event(self._event(wall_time=time.time(), step=int(step), **content))

    def write(self, update: int, step: int, seed: int, values: Mapping[str, float]) -> None:
        """Adds one point per metric at ``step``.

        Args:
            update: Number of updates done so far.
            step: Environment steps so far.
            seed: Number of the seed.
            values: Metrics, name -> number.
        """
        for name, value in values.items():
            self._add(step, summary=self._summary.scalar(f"seed_{seed}/{name}", float(value)))

    def flush(self) -> None:
        """Hands all points to the event file."""
        self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the event file; calling it again does nothing."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


class MarlEvalWriter:
    """Writer of the file that marl-eval's plotting tools read.

    ``marl_eval_json`` describes its content. The writer holds nothing itself: ``flush`` and
    ``close`` rebuild the whole file from the metrics rows, so the two never disagree, a resumed run
    included. Open it after the ``JsonlWriter`` it reads
    from and close it after that too.

    Args:
        path: File to write, ``marl_eval.json``.
        rows: File of the JSON lines.
        environment: Name of the environment under which the run is filed.
        task: Name of the task, likewise.
        algorithm: Name of the algorithm, likewise.
        metrics: See ``marl_eval_json``.
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
        self._names = {
            "environment": environment,
            "task": task,
            "algorithm": algorithm,
            "metrics": tuple(metrics),
        }

    def write(self, update: int, step: int, seed: int, values: Mapping[str, float]) -> None:
        """Does nothing: the file of rows holds the metrics.

        Args:
            update: Number of updates done so far.
            step: Environment steps so far.
            seed: Number of the seed.
            values: Metrics, name -> number.
        """

    def flush(self) -> None:
        """Rebuilds the file, in one rename."""
        rows = read_rows(self._rows) if self._rows.exists() else []
        # not strict JSON: the readers are Python programs that average the lists, which accept a
        # bare NaN but no null
        atomic_io.replace_text(
            self._path, json.dumps(marl_eval_json(rows, **self._names), indent=2) + "\n"
        )

    def close(self) -> None:
        """Rebuilds the file a last time."""
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
    """Returns metrics rows in the nested form of marl-eval.

    The form is that of github.com/instadeepai/marl-eval (README and docs):
    ``environment -> task -> algorithm -> seed_i -> step_k -> {step_count, elapsed_time, metric:
    [value]}`` with ``k`` counting the evaluations from 0, and ``seed_i -> absolute_metrics ->
    {metric: [values]}``. ``elapsed_time`` (seconds) is present where the row has
    ``elapsed_seconds``.

    Args:
        rows: Rows of any seeds, as ``read_rows`` returns them; a row is an evaluation when it has
            the first of ``metrics``.
        environment: Name of the environment.
        task: Name of the task.
        algorithm: Name of the algorithm.
        metrics: Names to carry over; those a row lacks are left out of its step.
        absolute: Seed -> metric -> values of the best policy over ten times the episodes (Gorsane
            et al. 2022, arXiv:2209.10485). Without it the best evaluation by the first metric
            stands in, which is a maximum over noisy numbers and so too high by about that noise.

    Returns:
        Nested dictionaries.
    """
    runs: dict[str, dict[str, Any]] = {}
    evaluations: dict[int, list[Row]] = {}
    for row in rows:
        if metrics[0] in row:
            evaluations.setdefault(row["seed"], []).append(row)
    for seed, seed_rows in sorted(evaluations.items()):
        seed_rows.sort(key=lambda row: row["update"])
        run = {f"step_{k}": _marl_eval_step(row, metrics) for k, row in enumerate(seed_rows)}
        best = max(
            seed_rows,
            key=lambda row: (
                row[metrics[0]] if row[metrics[0]] == row[metrics[0]] else float("-inf")
            ),
        )
        absolute_values = (absolute or {}).get(seed)
        run["absolute_metrics"] = (
            {name: [float(value) for value in values] for name, values in absolute_values.items()}
            if absolute_values is not None
            else {name: [best[name]] for name in metrics if name in best}
        )
        runs[f"seed_{seed}"] = run
    return {environment: {task: {algorithm: runs}}}


def _marl_eval_step(row: Row, metrics: Sequence[str]) -> dict[str, Any]:
    """Returns one evaluation of one seed in marl-eval's form."""
    step: dict[str, Any] = {"step_count": row["step"]}
    if "elapsed_seconds" in row:
        step["elapsed_time"] = row["elapsed_seconds"]
    return step | {name: [row[name]] for name in metrics if name in row}


def check_project(project: object) -> None:
    """Checks the name of a W&B project.

    Args:
        project: Name to check.

    Raises:
        ValueError: W&B refuses such a name.
    """
    if not isinstance(project, str) or not 0 < len(project) <= 128 or set(project) & set("/\\#?%:"):
        allowed = "a project's name of up to 128 letters, none of / \\ # ? % :"
        raise ValueError(f"wandb is {project!r}; allowed is {allowed}")


def import_wandb() -> Any:
    """Imports the library wandb.

    Returns:
        The module.

    Raises:
        ImportError: It is not installed; the message says how to install it.
    """
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "logging to W&B needs another package: pip install jaxmarl-lite[wandb]"
        ) from error
    return wandb


class WandbWriter:
    r"""Writer to Weights & Biases: one W&B run per seed, grouped under the run's name.

    It needs the ``wandb`` extra.

    Args:
        project: W&B project.
        name: Name of the group; its runs are called ``name/seed_0`` and so on.
        config: Plain data shown beside the runs.
        folder: Folder of W&B's local files.
        run_id: Text that stays the same when a run is resumed, so that W&B continues its curves;
            W&B takes no / \ # ? % : in it. None begins new curves.

    Raises:
        ImportError: wandb is not installed; the message says how to install it.
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
        """Logs to the seed's run, which begins at its first row.

        Args:
            update: Number of updates done so far.
            step: Environment steps so far.
            seed: Number of the seed.
            values: Metrics, name -> number.
        """
        if seed not in self._runs:
            resume_options = (
                {} if self._id is None else {"id": f"{self._id}-seed-{seed}", "resume": "allow"}
            )
            self._runs[seed] = self._wandb.init(
                name=f"{self._name}/seed_{seed}",
                reinit="create_new",
                **self._shared,
                **resume_options,
            )
        self._runs[seed].log(
            {"update": int(update)} | {k: float(v) for k, v in values.items()}, step=int(step)
        )

    def flush(self) -> None:
        """Does nothing: W&B uploads by itself."""

    def close(self) -> None:
        """Finishes all runs."""
        for run in self._runs.values():
            run.finish()
        self._runs = {}
