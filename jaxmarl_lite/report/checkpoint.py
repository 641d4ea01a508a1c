"""Saving and restoring a whole training state, safe against a kill at any moment.

A checkpoint is one folder::

    checkpoints/step_000000000012/
        state/          the arrays, written by orbax
        manifest.json   step, meta, path + shape + dtype of every leaf, size + checksum of every file in state/, and a
                        checksum of all of these

It is written under a hidden name, read back and compared, synced, and takes its final name in one
rename: a folder called ``step_...`` is complete and can be restored. Deleting works the other way
round. The leaves are stored as a flat list, so orbax never sees the tree, and the tree that comes
back (NamedTuples, optax states, empty tuples) is the template's.

In a ``jax.distributed`` run every process calls ``save`` and ``restore`` with the same arguments
and a folder that all of them share; each writes its own shards and process 0 the rest. Leaves that
a process holds whole are taken from process 0.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxmarl_lite.report import atomic_io, leaves
from jaxmarl_lite.types import PyTree

_NAME = re.compile(r"step_(\d+)(?:\.(\d+))?")
_MANIFEST = "manifest.json"
_FORMAT = 2
_WITHOUT_CHECKSUM = 1  # the format before, whose manifests have no checksum of their own
_PLAIN = re.compile(r"(?:[A-Za-z]:)?[\w./ -]+")


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged or of another run; the message names the path and what is
    wrong.
    """


class Intact(NamedTuple):
    """A checkpoint whose files are as they were written."""

    path: Path
    step: int
    manifest: dict[str, Any]
    damages: tuple[str, ...]  # of the newer ones that were passed over

    @property
    def meta(self) -> dict[str, Any]:
        """The plain data saved with the state."""
        return self.manifest["meta"]


class Restored(NamedTuple):
    """What ``restore`` hands back."""

    state: PyTree  # the template's tree
    step: int
    meta: dict[str, Any]
    damages: tuple[str, ...] = ()  # of the newer ones that were passed over


def save(
    folder: Path | str,
    step: int,
    state: PyTree,
    meta: Mapping[str, Any] | None = None,
    max_checkpoints: int = 2,
) -> Path:
    """Write a checkpoint, read it back, and drop all but the newest ones; returns when it is safely
    on disk.

    Args:
        folder: where the checkpoints lie; made if missing.
        step: not negative, and not below the newest step there (see ``delete_after``). Saving the
            same step again replaces it, the old one staying until the new one is complete.
        state: tree of arrays, typed keys among them. Python numbers become the arrays that ``jit``
            would make of them.
        meta: plain data (algorithm, environment, sizes, versions) stored in the same atomic unit,
            as JSON.
        max_checkpoints: checkpoints to keep, at least 1.

    Returns:
        The checkpoint's folder (meaningful on process 0).

    Raises:
        CheckpointError: the folder holds a later step, or what was written cannot be read back; the
            checkpoints there are kept.
        ValueError: ``max_checkpoints`` below 1 or ``step`` negative.
        TypeError: a leaf is no array, or of a dtype that JAX cannot hold as configured; names the
            leaf.
        OSError: the disk refuses, as when it is full.
    """
    if max_checkpoints < 1 or step < 0:
        raise ValueError(
            "max_checkpoints must be at least 1 and step not negative, got "
            f"max_checkpoints={max_checkpoints}, step={step}"
        )
    folder = Path(folder).absolute()
    newest = latest(folder)
    if newest is not None and newest > step:
        raise CheckpointError(
            f"{folder} already holds step {newest}, later than {step}; call delete_after to go back"
        )
    descriptions, arrays = leaves.flatten(state)
    hidden = folder / ".saving"
    first = jax.process_index() == 0
    if first:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_partial(folder)
        hidden.mkdir()
    with _unlogged():
        problem = _write_state(hidden, _named(descriptions, arrays, np.int32(_FORMAT)))
        if problem is not None:
            gc.collect()  # orbax's tasks print their tracebacks when they are let go of
    if problem is not None:
        if first:
            shutil.rmtree(hidden, ignore_errors=True)  # on a full disk it would take the last room
        raise OSError(f"the checkpoint of step {step} failed: {problem}")
    try:
        _compare(hidden, descriptions, arrays)
        final = (
            _commit(folder, hidden, step, descriptions, dict(meta or {}), max_checkpoints)
            if first
            else folder
        )
    finally:
        _barrier("jaxmarl_lite.checkpoint.committed")
    return final


def steps(folder: Path | str) -> list[int]:
    """The steps of the complete checkpoints in a folder, oldest first; empty where there is no
    folder.
    """
    return sorted(_complete(Path(folder)))


def latest(folder: Path | str) -> int | None:
    """The newest complete step in a folder, or None."""
    return max(_complete(Path(folder)), default=None)


def delete_after(folder: Path | str, step: int) -> list[int]:
    """Delete the checkpoints later than ``step``, as going back to it must; returns the steps
    deleted.
    """
    doomed = {s: path for s, path in _complete(Path(folder)).items() if s > step}
    if jax.process_index() == 0:
        for s in sorted(
            doomed, reverse=True
        ):  # newest first: at any moment the rest is a history without holes
            _delete(doomed[s])
    _barrier("jaxmarl_lite.checkpoint.dropped")
    return sorted(doomed)


def read_meta(folder: Path | str, step: int | None = None) -> dict[str, Any]:
    """The ``meta`` that was saved beside a state; the newest one's by default. Raises
    CheckpointError.
    """
    _, path = _find(Path(folder).absolute(), step)
    return _read_manifest(path)["meta"]


def find_intact(folder: Path | str, step: int | None = None, fallback: bool = False) -> Intact:
    """The checkpoint that ``restore`` reads with the same arguments, after a check of all its
    files.

    Raises:
        CheckpointError: no checkpoint there, or damaged (names the file).
    """
    folder = Path(folder).absolute()
    _find(folder, step)
    candidates = sorted(
        (item for item in _complete(folder).items() if step is None or item[0] <= step),
        reverse=True,
    )
    damages: list[CheckpointError] = []
    for found, path in candidates if fallback else candidates[:1]:
        try:
            manifest = _read_manifest(path)
            _verify(path, manifest)
        except CheckpointError as error:
            damages.append(error)
            continue
        return Intact(path, found, manifest, tuple(map(str, damages)))
    if len(damages) == 1:
        raise damages[0]
    raise CheckpointError(
        f"every checkpoint in {folder} is damaged: " + "; ".join(map(str, damages))
    )


def restore(
    folder: Path | str, template: PyTree, step: int | None = None, fallback: bool = False
) -> Restored:
    """Read a checkpoint, bit for bit, into the template's tree.

    Args:
        folder: where the checkpoints lie.
        template: a state, or ``jax.eval_shape`` of the function that makes one. Where its leaves
            carry a sharding (or are committed to a device), the restored ones get it, whatever the
            devices of the writer; the others land uncommitted on the default device. Weak types are
            not kept: every dtype is as if given explicitly.
        step: which; the newest by default.
        fallback: when a checkpoint is damaged, go on to the one before it instead of raising. A
            checkpoint that is whole but does not fit the template always raises.

    Raises:
        CheckpointError: no checkpoint there; damaged (names the file); of another algorithm or
            sizes (names the first leaf that differs and both shapes).
    """
    intact = find_intact(folder, step, fallback)
    return Restored(
        _read_state(intact.path, intact.manifest, template),
        intact.step,
        intact.meta,
        intact.damages,
    )


def _read_state(path: Path, manifest: dict[str, Any], template: PyTree) -> PyTree:
    """The arrays of a verified checkpoint in the template's tree and places."""
    flat, treedef = jax.tree_util.tree_flatten_with_path(template)
    values = [value for _, value in flat]
    stored = manifest["leaves"]
    wanted = [leaves.describe(jax.tree_util.keystr(where), value) for where, value in flat]
    if (difference := leaves.first_mismatch(stored, wanted)) is not None:
        raise CheckpointError(f"{path} {difference}")
    try:
        _check_shapes(path, stored)
        arrays = _read_arrays(path, stored, values)
        placed = [
            leaves.device_put_like(*item) for item in zip(stored, values, arrays, strict=True)
        ]
    except Exception as error:  # orbax and tensorstore raise many kinds
        raise CheckpointError(
            f"the state of {path} cannot be read: {_in_one_line(error)}"
        ) from error
    return jax.tree_util.tree_unflatten(treedef, placed)


def _read_arrays(path: Path, stored: Sequence[leaves.Leaf], values: Sequence[Any]) -> list[Any]:
    """The stored arrays of a checkpoint's leaves, as `leaves.restore_argument` reads them for
    ``values``.
    """
    arguments = [
        leaves.restore_argument(leaf, value) for leaf, value in zip(stored, values, strict=True)
    ]
    arguments = _named(stored, arguments, ocp.RestoreArgs(restore_type=np.ndarray))
    tree = dict.fromkeys(arguments, 0)
    with _readable(path) as readable, _checkpointer() as checkpointer:
        restored = checkpointer.restore(
            readable / "state", args=ocp.args.PyTreeRestore(tree, restore_args=arguments)
        )
    return [
        leaf.empty_array() if leaf.empty else restored[_name(i)] for i, leaf in enumerate(stored)
    ]


def _check_shapes(path: Path, stored: Sequence[leaves.Leaf]) -> None:
    """Raise ValueError where the arrays of a checkpoint have other shapes than its manifest.

    Reading allocates what the arrays' own metadata ask for, and a process that asks for terabytes
    is killed.
    """
    with _readable(path) as readable:
        handler: Any = ocp.PyTreeCheckpointHandler()
        found = handler.metadata(readable / "state")
    tree = getattr(found, "tree", found)
    for i, leaf in enumerate(stored):
        if not leaf.empty and tuple(tree[_name(i)].shape) != leaf.stored_shape:
            raise ValueError(
                f"state{leaf.path} has shape {list(tree[_name(i)].shape)} instead of {leaf.shape}"
            )


def _compare(path: Path, described: Sequence[leaves.Leaf], arrays: Sequence[Any]) -> None:
    """Raise CheckpointError where what was written does not come back bit for bit."""
    try:
        back = _read_arrays(path, described, arrays)
        different = [
            leaf.path
            for leaf, a, b in zip(described, arrays, back, strict=True)
            if not leaves.same(a, b)
        ]
        if different:
            raise ValueError(f"state{different[0]} came back with other values")
    except Exception as error:  # orbax and tensorstore raise many kinds
        reason = f"cannot be read back: {_in_one_line(error)}"
        raise CheckpointError(
            f"a checkpoint written to {path.parent} {reason}; those before it are kept"
        ) from error


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[Path]:
    """A name of the folder that orbax and tensorstore take as it is; for some characters that is a
    temporary link.

    They read brackets as patterns, a backslash as a slash, ``://`` as the end of a URL's scheme.
    """
    if _PLAIN.fullmatch(path.as_posix()):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="jaxmarl_lite_") as home:
        link = Path(home).resolve() / "checkpoint"
        link.symlink_to(path, target_is_directory=True)
        yield link


def _in_one_line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:400]


def _commit(
    folder: Path,
    hidden: Path,
    step: int,
    described: list[leaves.Leaf],
    meta: dict,
    max_checkpoints: int,
) -> Path:
    """Describe the written state, sync it, give it its name, drop what is too old. Process 0
    only.
    """
    written = sorted(path for path in (hidden / "state").rglob("*") if path.is_file())
    manifest = {
        "format": _FORMAT,
        "step": step,
        "meta": meta,
        "leaves": described,
        "files": {
            path.relative_to(hidden).as_posix(): _file_checksum(path, sync=True) for path in written
        },
    }
    manifest["checksum"] = _checksum(manifest)
    atomic_io.replace_text(hidden / _MANIFEST, atomic_io.to_json(manifest))
    for inner in {path.parent for path in written}:
        atomic_io.sync_folder(inner)
    before = _complete(folder).get(step)
    attempt = 0 if before is None else _parse(before.name)[1] + 1
    final = folder / (f"step_{step:012d}" + (f".{attempt}" if attempt else ""))
    os.replace(hidden, final)
    atomic_io.sync_folder(folder)
    if before is not None:
        _delete(before)
    for old in steps(folder)[:-max_checkpoints]:
        _delete(_complete(folder)[old])
    return final


def _parse(name: str) -> tuple[int, int]:
    """Step and attempt of a checkpoint folder's name; step -1 when it is none."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2] or 0)) if match else (-1, 0)


def _complete(folder: Path) -> dict[int, Path]:
    """Step -> folder of its latest attempt."""
    names = sorted((path.name for path in folder.iterdir()), key=_parse) if folder.is_dir() else []
    return {_parse(name)[0]: folder / name for name in names if _parse(name)[0] >= 0}


def _find(folder: Path, step: int | None) -> tuple[int, Path]:
    """A step (None: the newest) and its folder; CheckpointError where there is none."""
    there = _complete(folder)
    if not there:
        raise CheckpointError(f"no checkpoint in {folder}")
    if step is not None and step not in there:
        raise CheckpointError(
            f"no checkpoint of step {step} in {folder}; there are {sorted(there)}"
        )
    step = max(there) if step is None else step
    return step, there[step]


def _delete(path: Path) -> None:
    """Take a checkpoint's name away in one rename, then its files."""
    doomed = path.with_name(f".deleting_{path.name}")
    _remove(doomed)
    os.replace(path, doomed)
    _remove(doomed)


def _remove(path: Path) -> None:
    """Remove a folder with all that is in it; of a link or a file, itself alone."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _remove_partial(folder: Path) -> None:
    """Remove what a killed process left half written or half deleted."""
    for path in folder.iterdir():
        if path.name == ".saving" or path.name.startswith(".deleting_"):
            _remove(path)


def _file_checksum(path: Path, sync: bool = False) -> list[int]:
    """Size and CRC-32 of a file; with ``sync`` its content is on the disk afterwards."""
    size, checksum = 0, 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
        if sync:
            os.fsync(file.fileno())
    return [size, checksum]


def _checksum(manifest: Mapping[str, Any]) -> int:
    """CRC-32 of a manifest's entries but for the checksum itself."""
    return zlib.crc32(
        atomic_io.to_json(
            {name: value for name, value in manifest.items() if name != "checksum"}
        ).encode()
    )


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint; CheckpointError naming the file when it cannot be used."""
    try:
        manifest = atomic_io.from_json(atomic_io.read_bytes(path / _MANIFEST))
        missing = {"format", "step", "meta", "leaves", "files"} - set(manifest)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged: {_MANIFEST} cannot be read ({_in_one_line(error)})"
        ) from error
    if missing or manifest["format"] not in (_WITHOUT_CHECKSUM, _FORMAT):
        raise CheckpointError(
            f"{path / _MANIFEST} is of another format than this version reads ({_FORMAT})"
        )
    if manifest["format"] == _FORMAT and manifest.get("checksum") != _checksum(manifest):
        raise CheckpointError(f"{path} is damaged: the content of {_MANIFEST} changed (checksum)")
    step, _ = _parse(path.name)
    if manifest["step"] != step:
        raise CheckpointError(
            f"{path} is damaged: its name says step {step}, its content step {manifest['step']}"
        )
    try:
        manifest["leaves"] = [leaves.Leaf(*leaf) for leaf in manifest["leaves"]]
        if not (
            isinstance(manifest["meta"], dict)
            and all(len(entry) == 2 for entry in manifest["files"].values())
        ):
            raise ValueError("meta or files")
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is damaged: {_MANIFEST} has entries of other kinds ({error})"
        ) from error
    return manifest


def _verify(path: Path, manifest: dict[str, Any]) -> None:
    """Compare every file of a checkpoint with its manifest; CheckpointError names the first that
    differs.
    """
    for name, (size, checksum) in manifest["files"].items():
        if not (path / name).is_file():
            raise CheckpointError(f"{path} is damaged: {name} is missing")
        try:
            found = _file_checksum(path / name)
        except OSError as error:
            raise CheckpointError(f"{path} is damaged: {name} cannot be read ({error})") from error
        if found[0] != size:
            raise CheckpointError(
                f"{path} is damaged: {name} has {found[0]} bytes instead of {size}"
            )
        if found[1] != checksum:
            raise CheckpointError(f"{path} is damaged: the content of {name} changed (checksum)")


def _write_state(hidden: Path, tree: dict[str, Any]) -> str | None:
    """Write the arrays, with a barrier of all processes before and after; answers why that failed,
    or None.
    """
    try:
        with _readable(hidden) as path, _checkpointer() as checkpointer:
            checkpointer.save(path / "state", args=ocp.args.PyTreeSave(tree))
    except CheckpointError:
        raise
    except (
        Exception
    ) as error:  # orbax and tensorstore raise many kinds, some of them over many lines
        code = re.search(r"os_error_code='(\d+)'", str(error))
        return os.strerror(int(code[1])) if code else " ".join(str(error).split())
    return None


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Keep orbax's threads and tasks from printing tracebacks of an error that is raised as
    well.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]

    def is_other(record: logging.LogRecord) -> bool:
        return "_SignalingThread" not in str(record.msg) and "never retrieved" not in str(
            record.msg
        )

    for logger in loggers:
        logger.addFilter(is_other)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_other)


def _checkpointer() -> ocp.Checkpointer:
    """Orbax, blocking: the asynchronous one saves no time here and leaves threads behind when
    killed.
    """
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler())


def _name(index: int) -> str:
    """What orbax calls the leaf of this number."""
    return f"{index:06d}"


def _named(described: Sequence[leaves.Leaf], values: Sequence[Any], first: Any) -> dict[str, Any]:
    """One value per leaf under its name, and ``first``, since orbax takes no empty tree.

    Leaves without entries (no costs, K = 0) are left out: orbax refuses them and the manifest tells
    all of them.
    """
    pairs = enumerate(zip(described, values, strict=True))
    return {"format": first} | {_name(i): value for i, (leaf, value) in pairs if not leaf.empty}


def _barrier(name: str) -> None:
    """Wait for all processes."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
