"""Writing files so that a reader, or a kill at any moment, never meets half of one."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any


def sync_folder(folder: Path) -> None:
    """Ask the disk to keep the folder's entries (names and renames); a no-op where folders cannot
    be opened.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems refuse to sync a folder; the rename itself is still atomic
    finally:
        os.close(handle)


def sync_file(descriptor: int) -> None:
    """Return when the content of an open file is on the disk."""
    os.fsync(descriptor)


def read_bytes(path: Path | str) -> bytes:
    """The content of a regular file; OSError for anything else: a pipe would never answer, a device
    never end.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
    return Path(path).read_bytes()


def replace_bytes(path: Path | str, data: bytes) -> None:
    """Put ``data`` at ``path``: whoever reads it sees the old content or the new, never a part.

    The data goes to a neighbouring file, is synced, and takes the name in one rename. The folder
    must be there: one that was deleted while a run trained in it must not come back with a part of
    the run.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            sync_file(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace_text(path: Path | str, text: str) -> None:
    """``replace_bytes`` for UTF-8 text."""
    replace_bytes(path, text.encode())


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON text of plain data, arrays, paths and dataclass-free records; anything else raises
    TypeError.

    Strict JSON has no number for these, so NaN becomes ``null`` and the infinities the texts
    ``"Infinity"`` and ``"-Infinity"``, which ``from_json`` and ``to_number`` turn back.
    """
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def from_json(text: str | bytes) -> Any:
    """The data of a JSON text, with the infinities that ``to_json`` wrote as texts.

    Raises:
        ValueError: it is no JSON text.
        RecursionError: it is nested too deeply.
    """
    return _revive(json.loads(text))


def to_number(value: Any) -> float:
    """A number as ``to_json`` wrote it: ``null`` is NaN, ``"Infinity"`` is infinite."""
    return math.nan if value is None else float(value)


def _revive(value: Any) -> Any:
    """The same data with infinities in place of the texts that stand for them."""
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
    """The same data in dictionaries, lists, numbers and texts that strict JSON can hold."""
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
