"""Atomic writes: no reader sees half a file, and no killed process leaves one."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any


def sync_folder(folder: Path) -> None:
    """Asks the disk to keep the folder's entries (names and renames).

    Does nothing where folders cannot be opened.

    Args:
        folder: Folder whose entries changed.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        # some network file systems refuse to sync a folder; the rename itself is still atomic
        pass
    finally:
        os.close(handle)


def read_bytes(path: Path | str) -> bytes:
    """Returns the content of a regular file.

    Anything else is refused: a pipe would never answer, a device never end.

    Args:
        path: File to read.

    Returns:
        The file's bytes.

    Raises:
        OSError: There is no such file, or it is no regular file.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
    return Path(path).read_bytes()


def replace_bytes(path: Path | str, data: bytes) -> None:
    """Puts ``data`` at ``path``; a reader sees the old content or the new, never a part.

    The data goes to a neighbouring file, is synced, and takes the name in one rename. The folder
    must exist: one that was deleted while a run trained in it must not come back with a part of
    the run.

    Args:
        path: File to write or replace.
        data: New content.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace_text(path: Path | str, text: str) -> None:
    """Puts UTF-8 text at ``path`` as `replace_bytes` does.

    Args:
        path: File to write or replace.
        text: New content.
    """
    replace_bytes(path, text.encode())


def write_json(path: Path | str, value: object) -> None:
    """Puts plain data at ``path`` as indented JSON, as `replace_bytes` does.

    Args:
        path: File to write or replace.
        value: Data to write; see `to_json`.

    Raises:
        TypeError: See `to_json`.
    """
    replace_text(path, to_json(value, indent=2) + "\n")


def to_json(value: object, indent: int | None = None) -> str:
    """Returns the JSON text of plain data, arrays, paths and dataclass-free records.

    Strict JSON has no number for these, so NaN becomes ``null`` and the infinities the texts
    ``"Infinity"`` and ``"-Infinity"``, which ``from_json`` and ``to_number`` turn back.

    Args:
        value: Data to write; arrays of NumPy and JAX become lists.
        indent: Spaces per level; None for a single line.

    Returns:
        Strict JSON.

    Raises:
        TypeError: A value of any other kind.
    """
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def from_json(text: str | bytes) -> Any:
    """Returns the data of a JSON text, with the infinities that ``to_json`` wrote as texts.

    Args:
        text: JSON text.

    Returns:
        Dictionaries, lists, numbers, texts, bools and None.

    Raises:
        ValueError: It is no JSON text.
        RecursionError: It is nested too deeply.
    """
    return _revive(json.loads(text))


def to_number(value: float | str | None) -> float:
    """Returns a number as ``to_json`` wrote it: ``null`` is NaN, ``"Infinity"`` is infinite.

    Args:
        value: Number, text or None, as it stands in the JSON data.

    Returns:
        The number.
    """
    return math.nan if value is None else float(value)


def _revive(value: object) -> object:
    """Returns the same data with infinities in place of the texts that stand for them."""
    if isinstance(value, dict):
        return {key: _revive(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_revive(entry) for entry in value]
    return (
        {"Infinity": math.inf, "-Infinity": -math.inf}.get(value, value)
        if isinstance(value, str)
        else value
    )


def _plain(value: Any) -> Any:
    """Returns the same data in dictionaries, lists, numbers and texts that strict JSON can hold."""
    if hasattr(value, "tolist"):  # NumPy and JAX arrays and numbers
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value
