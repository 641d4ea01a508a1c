"""Rows of metrics: the JSON lines that are the record of a run, and the JSON of marl-eval.

Everything else is rebuilt from the JSON lines. In a run of several processes only process 0 writes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxmarl_lite.report import atomic_io

Row = dict[str, Any]
"""``update``, ``step``, ``seed`` (ints) and one float per metric."""

INDEX = ("update", "step", "seed")
"""Entries of a row that are not metrics."""


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


class JsonlLogger:
    """Logger of one JSON object per row, visible to readers at once.

    A kill can cost at most the row being written. Opening an existing file goes on behind its last
    complete row.

    Args:
        path: File of the rows.
        copy: Second file that gets the same rows, for `restore_rows`; None for none.

    Attributes:
        path: File of the rows.
        mark: Extent of the rows written so far; on the disk after `flush`.
    """

    def __init__(self, path: Path | str, copy: Path | str | None = None):
        self.path = Path(path)
        self._paths = [self.path] if copy is None else [self.path, Path(copy)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = self.path.read_bytes() if self.path.exists() else b""
        self._open(data[: data.rfind(b"\n") + 1])

    def _open(self, data: bytes) -> None:
        """Puts rows into the file and its copy, each in one rename, and opens both to append."""
        for path in self._paths[1:]:
            path.parent.mkdir(exist_ok=True)
        for path in self._paths:
            if not path.is_file() or path.read_bytes() != data:
                atomic_io.replace_bytes(path, data)
        self._files = [path.open("ab") for path in self._paths]
        self.mark = Mark(data.count(b"\n"), len(data), zlib.crc32(data))

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
        if reserved := set(INDEX) & set(values):
            raise ValueError(f"metrics may not be called {sorted(reserved)}")
        row = {"update": int(update), "step": int(step), "seed": int(seed)}
        line = _to_line(row | {name: float(value) for name, value in values.items()})
        for file in self._files:
            file.write(line)
            file.flush()
        self.mark = Mark(
            self.mark.rows + 1, self.mark.size + len(line), zlib.crc32(line, self.mark.checksum)
        )

    def replace(self, rows: Iterable[Row]) -> None:
        """Puts other rows into the file and its copy, each in one rename.

        Args:
            rows: The new rows.
        """
        for file in self._files:
            file.close()
        self._open(b"".join(map(_to_line, rows)))

    def is_intact(self) -> bool:
        """Returns whether file and copy are as long as what was written.

        Neither was then deleted, cut or replaced meanwhile.

        Returns:
            True where both lengths agree.
        """
        return all(path.is_file() and path.stat().st_size == self.mark.size for path in self._paths)

    def flush(self) -> None:
        """Returns when every row is on disk, in the file and in its copy."""
        for file in self._files:
            os.fsync(file.fileno())

    def close(self) -> None:
        """Closes the files, with every row on disk; calling it again does nothing."""
        for file in self._files:
            with file:
                os.fsync(file.fileno())
        self._files = []


def _to_line(row: Row) -> bytes:
    """Returns a row as a line of a file: JSON in UTF-8, with a line break."""
    return atomic_io.to_json(row).encode() + b"\n"


def read_rows(path: Path | str) -> list[Row]:
    """Returns the rows of a JSON-lines file, numbers as ``JsonlLogger`` received them.

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
        copy: File that ``JsonlLogger`` wrote beside it. If ``path`` changed, it gets the rows of
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
        rows = _readable_rows(contents, lambda row: row["update"] <= update and belongs(row))
        data = b"".join(rows)
        if mark is not None:
            outcome = f"{len(rows)} of {mark.rows} rows could be read and are kept"
            complaint = f"{path} and its copy, {copy}, had changed: {outcome}"
    for target, content in zip((path, copy), contents, strict=True):
        if content != data or target.is_symlink():
            target.parent.mkdir(exist_ok=True)
            atomic_io.replace_bytes(target, data)
    return complaint


def _readable_rows(contents: Iterable[bytes], accept: Callable[[Row], bool]) -> list[bytes]:
    """Returns the accepted lines in the order of updates, of one update and seed the first."""
    rows: dict[tuple[int, int], bytes] = {}
    for line in (line for content in contents for line in _complete_lines(content)):
        with contextlib.suppress(ValueError):
            row = _parse_row(line)
            if accept(row):
                rows.setdefault((row["update"], row["seed"]), line + b"\n")
    return [rows[key] for key in sorted(rows, key=lambda key: key[0])]


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
        index = {name: row.pop(name) for name in INDEX}
        for name, value in index.items():
            if type(value) is not int or not 0 <= value < 2**63:
                raise ValueError(
                    f"{name} is {value!r}; allowed is a whole number from 0 to 2^63 - 1"
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


def marl_eval_json(
    rows: Iterable[Row],
    *,
    environment: str,
    task: str,
    algorithm: str,
    metrics: Sequence[str] = ("eval_return",),
    absolute: Mapping[int, Mapping[str, Sequence[float]]] | None = None,
) -> dict[str, Any]:
    """Returns metrics rows in the nested form that marl-eval's plotting tools read.

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

    def values(row: Row) -> dict[str, list[float]]:
        return {name: [row[name]] for name in metrics if name in row}

    runs: dict[str, dict[str, Any]] = {}
    evaluations = [row for row in rows if metrics[0] in row]
    for seed in sorted({row["seed"] for row in evaluations}):
        seed_rows = sorted(
            (row for row in evaluations if row["seed"] == seed), key=lambda row: row["update"]
        )
        run: dict[str, Any] = {}
        for k, row in enumerate(seed_rows):
            time_entry = (
                {"elapsed_time": row["elapsed_seconds"]} if "elapsed_seconds" in row else {}
            )
            run[f"step_{k}"] = {"step_count": row["step"]} | time_entry | values(row)
        best = max(
            seed_rows,
            key=lambda row: -math.inf if math.isnan(row[metrics[0]]) else row[metrics[0]],
        )
        run["absolute_metrics"] = (
            values(best)
            if absolute is None or seed not in absolute
            else {name: list(map(float, entries)) for name, entries in absolute[seed].items()}
        )
        runs[f"seed_{seed}"] = run
    return {environment: {task: {algorithm: runs}}}
