"""Where metrics go: JSON lines (the record everything else is rebuilt from), TensorBoard, marl-eval
JSON, W&B.

In a run of several processes only process 0 writes.
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


class Mark(NamedTuple):
    """How far a file of rows had come, as a checkpoint remembers it."""

    rows: int
    size: int  # bytes
    checksum: int  # CRC-32 of these bytes

    def is_in(self, data: bytes) -> bool:
        """Whether a file's content begins with just what it held then."""
        return len(data) >= self.size and zlib.crc32(data[: self.size]) == self.checksum


class JsonlWriter:
    """One JSON object per row, visible to readers at once; a kill can cost at most the row being
    written.

    Opening an existing file goes on behind its last complete row.

    Args:
        path: of the file.
        copy: of a second file that gets the same rows when they are flushed, for `restore_rows`;
    None for none.
    """

    def __init__(self, path: Path | str, copy: Path | str | None = None):
        self.path, self._copy = Path(path), None if copy is None else Path(copy)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _cut_half_line(self.path)
        self._open()

    def _open(self) -> None:
        self._file = open(self.path, "ab")  # noqa: SIM115 - closed by close()
        data = self.path.read_bytes()
        self.mark = Mark(data.count(b"\n"), len(data), zlib.crc32(data))
        """What has been written; on the disk after `flush`."""
        self._uncopied: list[bytes] = []
        if self._copy is not None and (not self._copy.is_file() or self._copy.read_bytes() != data):
            self._copy.parent.mkdir(exist_ok=True)
            atomic_io.replace_bytes(self._copy, data)

    def write(self, update: int, step: int, seed: int, values: Mapping[str, float]) -> None:
        """Append a row. Raises ValueError when a metric is called ``update``, ``step`` or
        ``seed``.
        """
        if taken := set(_INDEX) & set(values):
            raise ValueError(f"metrics may not be called {sorted(taken)}")
        row = {"update": int(update), "step": int(step), "seed": int(seed)}
        line = to_line(row | {name: float(value) for name, value in values.items()})
        self._file.write(line)
        self._file.flush()
        self._uncopied.append(line)
        self.mark = Mark(
            self.mark.rows + 1, self.mark.size + len(line), zlib.crc32(line, self.mark.checksum)
        )

    def truncate_after(self, update: int, seed: int | None = None) -> int:
        """Drop the rows of later updates (of one seed, or of all), as a resume from ``update``
        must.

        Returns:
            The number of rows dropped. The file is replaced in one rename.
        """
        self._file.close()
        rows = read_rows(self.path)
        kept = [
            row
            for row in rows
            if row["update"] <= update or (seed is not None and row["seed"] != seed)
        ]
        self.replace(kept)
        return len(rows) - len(kept)

    def replace(self, rows: Iterable[Row]) -> None:
        """Put other rows into the file and its copy, each in one rename."""
        self._file.close()
        atomic_io.replace_bytes(self.path, b"".join(map(to_line, rows)))
        self._open()

    def is_intact(self) -> bool:
        """Whether file and copy are as long as what was written: neither was deleted, cut or
        replaced meanwhile.
        """
        copied = self.mark.size - sum(map(len, self._uncopied))
        return _size(self.path) == self.mark.size and (
            self._copy is None or _size(self._copy) == copied
        )

    def flush(self) -> None:
        """Return when every row is on disk, in the file and in its copy."""
        if self._file.closed:
            return
        self._file.flush()
        atomic_io.sync_file(self._file.fileno())
        if self._copy is not None and self._uncopied:
            with open(self._copy, "ab") as copy:
                copy.write(b"".join(self._uncopied))
                copy.flush()
                atomic_io.sync_file(copy.fileno())
            self._uncopied = []

    def close(self) -> None:
        """Flush and close."""
        try:
            self.flush()
        finally:
            self._file.close()


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def to_line(row: Row) -> bytes:
    """A row as a line of a file."""
    return atomic_io.to_json(row).encode() + b"\n"


def read_rows(path: Path | str) -> list[Row]:
    """The rows of a JSON-lines file, numbers as ``JsonlWriter`` was given them; a half-written last
    line is left out.

    Raises:
        ValueError: a line in the middle that is no row, naming file and line.
    """
    return parse_rows(atomic_io.read_bytes(path), path)


def parse_rows(data: bytes, path: Path | str) -> list[Row]:
    """The rows of a file's content; see `read_rows`."""
    rows = []
    for number, line in enumerate(_lines(data), start=1):
        try:
            rows.append(_parse_row(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is no metrics row: {error}") from error
    return rows


def restore_rows(
    path: Path, copy: Path, update: int, mark: Mark | None, belongs: Callable[[Row], bool]
) -> str | None:
    """Cut a file of rows and its copy back to what a checkpoint remembers, whatever happened to
    them since.

    Args:
        path: of the file.
        copy: what ``JsonlWriter`` wrote beside it. If the file changed, it gets the rows of the
            copy; if that changed as well, those that can be read from either.
        update: of the checkpoint; -1 drops every row.
        mark: of the checkpoint; None where it was written without one.
        belongs: whether a row can be one of this run.

    Returns:
        What was found wrong and done about it, for the user; None where nothing was.
    """
    contents = [
        atomic_io.read_bytes(each) if os.path.lexists(each) else b"" for each in (path, copy)
    ]
    complaint = None
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
            kept = f"{len(rows)} of {mark.rows} rows could be read and are kept"
            complaint = f"{path} and its copy, {copy}, had changed: {kept}"
    for each, content in zip((path, copy), contents, strict=True):
        if content != data or each.is_symlink():
            each.parent.mkdir(exist_ok=True)
            atomic_io.replace_bytes(each, data)
    return complaint


def _readable_rows(
    contents: Iterable[bytes], accept: Callable[[Row], bool]
) -> dict[tuple[int, int], bytes]:
    """Lines by update and seed, in the order of updates: the first one of each that is accepted."""
    rows: dict[tuple[int, int], bytes] = {}
    for line in (line for content in contents for line in _lines(content)):
        try:
            row = _parse_row(line)
        except ValueError:
            continue
        if accept(row):
            rows.setdefault((row["update"], row["seed"]), line + b"\n")
    return {key: rows[key] for key in sorted(rows, key=lambda key: key[0])}


def _lines(data: bytes) -> list[bytes]:
    return data.split(b"\n")[:-1]  # what follows the last line break is no whole row


def _parse_row(line: bytes) -> Row:
    """A row from its line; ValueError says why it is none."""
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
    """Remove what follows the last line break of a file, if there is a file."""
    if not path.exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        atomic_io.replace_bytes(path, data[: data.rfind(b"\n") + 1])


class TensorBoardWriter:
    """TensorBoard event files: a curve per seed (``seed_0/return``) over environment steps, the
    config as text.

    Args:
        folder: of the event files.
        config: plain data, shown as JSON on the Text page.
        resume_step: environment steps of the checkpoint that a resumed run starts from; TensorBoard
            hides what an earlier attempt wrote beyond it.
    """

    def __init__(self, folder: Path | str, config: Any = None, resume_step: int | None = None):
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        records: Any = event_pb2  # its classes are made when it is imported
        self._summary, self._event = summary, records.Event
        folder = Path(
            folder
        ).absolute()  # tensorboardX takes what stands before a colon for the name of a protocol
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
        self._writer.write_event(self._event(wall_time=time.time(), step=int(step), **content))

    def write(self, update: int, step: int, seed: int, values: Mapping[str, float]) -> None:
        """Add one point per metric at ``step``."""
        for name, value in values.items():
            self._add(step, summary=self._summary.scalar(f"seed_{seed}/{name}", float(value)))

    def flush(self) -> None:
        """Hand all points to the event file."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


class MarlEvalWriter:
    """The file that marl-eval's plotting tools read; see ``marl_eval_json`` for its content.

    It holds nothing itself: ``flush`` and ``close`` rebuild the whole file from the metrics rows,
    so the two never disagree, a resumed run included. Open it after the ``JsonlWriter`` it reads
    from and close it after that too.

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
        self._names = {
            "environment": environment,
            "task": task,
            "algorithm": algorithm,
            "metrics": tuple(metrics),
        }

    def write(self, update: int, step: int, seed: int, values: Mapping[str, float]) -> None:
        """Nothing: the rows hold it."""

    def flush(self) -> None:
        """Rebuild the file, in one rename."""
        rows = read_rows(self._rows) if self._rows.exists() else []
        # its readers are Python programs that average the lists: a bare NaN passes through them, a
        # null does not
        atomic_io.replace_text(
            self._path, json.dumps(marl_eval_json(rows, **self._names), indent=2) + "\n"
        )

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
    """Metrics rows in the nested form of marl-eval (github.com/instadeepai/marl-eval, README and
    docs).

    ``environment -> task -> algorithm -> seed_i -> step_k -> {step_count, elapsed_time, metric:
    [value]}`` with ``k`` counting the evaluations from 0, and ``seed_i -> absolute_metrics ->
    {metric: [values]}``. ``elapsed_time`` (seconds) stands where the row has ``elapsed_seconds``.

    Args:
        rows: of any seeds, as ``read_rows`` gives them; a row is an evaluation when it has the
            first of ``metrics``.
        metrics: names to carry over; those a row lacks are left out of its step.
        absolute: seed -> metric -> values of the best policy over ten times the episodes (Gorsane
            et al. 2022, arXiv:2209.10485). Without it the best evaluation by the first metric
            stands in, which is a maximum over noisy numbers and so too high by about that noise.
    """
    runs: dict[str, dict[str, Any]] = {}
    evaluations: dict[int, list[Row]] = {}
    for row in rows:
        if metrics[0] in row:
            evaluations.setdefault(row["seed"], []).append(row)
    for seed, mine in sorted(evaluations.items()):
        mine.sort(key=lambda row: row["update"])
        run = {f"step_{k}": _step(row, metrics) for k, row in enumerate(mine)}
        best = max(
            mine,
            key=lambda row: (
                row[metrics[0]] if row[metrics[0]] == row[metrics[0]] else float("-inf")
            ),
        )
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


def check_project(project: Any) -> None:
    """Raise ValueError for a name that W&B takes for no project."""
    if not isinstance(project, str) or not 0 < len(project) <= 128 or set(project) & set("/\\#?%:"):
        allowed = "a project's name of up to 128 letters, none of / \\ # ? % :"
        raise ValueError(f"wandb is {project!r}; allowed is {allowed}")


def import_wandb() -> Any:
    """The library wandb; ImportError that says how to install it."""
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "logging to W&B needs another package: pip install jaxmarl-lite[wandb]"
        ) from error
    return wandb


class WandbWriter:
    """Weights & Biases: one W&B run per seed, grouped under the run's name; needs the ``wandb``
    extra.

    Args:
        project: W&B project.
        name: of the group; its runs are called ``name/seed_0`` and so on.
        config: plain data shown beside the runs.
        folder: where W&B keeps its local files.
        run_id: text that stays the same when a run is resumed, so that W&B continues its curves;
            W&B takes no / \\ # ? % : in it. None begins new curves.

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
        self._runs[seed].log(
            {"update": int(update)} | {k: float(v) for k, v in values.items()}, step=int(step)
        )

    def flush(self) -> None:
        """Nothing: W&B uploads by itself."""

    def close(self) -> None:
        """Finish all runs."""
        for run in self._runs.values():
            run.finish()
        self._runs = {}
