"""Saves and restores a whole training state, safe against a kill at any moment.

A checkpoint is one folder::

    checkpoints/step_000000000012/
        state/          the arrays, written by orbax
        manifest.json   step, meta, path + shape + dtype of every leaf, size + checksum of every
                        file in state/, and a checksum of all of these

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
_WITHOUT_CHECKSUM = 1
"""The earlier format, whose manifests have no checksum of their own."""
_PLAIN = re.compile(r"(?:[A-Za-z]:)?[\w./ -]+")
"""Paths that orbax and tensorstore take literally."""


class CheckpointError(RuntimeError):
    """Error of a checkpoint that is missing, damaged or of another run.

    The message names the path and the reason.
    """


class Intact(NamedTuple):
    """Checkpoint whose files are as they were written.

    Attributes:
        path: Folder of the checkpoint.
        step: Its step.
        manifest: Content of its manifest, with the leaves as `leaves.Leaf`.
        damages: Messages about the newer checkpoints that were passed over.
    """

    path: Path
    step: int
    manifest: dict[str, Any]
    damages: tuple[str, ...]

    @property
    def meta(self) -> dict[str, Any]:
        """Plain data saved with the state."""
        return self.manifest["meta"]


class Restored(NamedTuple):
    """Result of `restore`.

    Attributes:
        state: State, in the template's tree.
        step: Its step.
        meta: Plain data saved with the state.
        damages: Messages about the newer checkpoints that were passed over.
    """

    state: PyTree
    step: int
    meta: dict[str, Any]
    damages: tuple[str, ...] = ()


def save(
    folder: Path | str,
    step: int,
    state: PyTree,
    meta: Mapping[str, Any] | None = None,
    max_checkpoints: int = 2,
) -> Path:
    """Writes a checkpoint, reads it back, and deletes all but the newest ones.

    Returns when the checkpoint is safely on disk.

    Args:
        folder: Folder of the checkpoints; made if missing.
        step: Step of the state; not negative, and not below the newest step there (see
            ``delete_after``). Saving the same step again replaces it, the old one staying until the
            new one is complete.
        state: Tree of arrays, typed keys among them. Python numbers become the arrays that ``jit``
            would make of them.
        meta: Plain data (algorithm, environment, sizes, versions) stored in the same atomic unit,
            as JSON.
        max_checkpoints: Number of checkpoints to keep, at least 1.

    Returns:
        The checkpoint's folder (meaningful on process 0).

    Raises:
        CheckpointError: The folder holds a later step, or the written files cannot be read back;
            the checkpoints there are kept.
        ValueError: ``max_checkpoints`` is below 1 or ``step`` negative.
        TypeError: A leaf is no array, or of a dtype that JAX cannot hold as configured; the message
            names the leaf.
        OSError: The disk refuses, as when it is full.
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
    is_writer = jax.process_index() == 0
    if is_writer:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_partial(folder)
        hidden.mkdir()
    with _muted_logs():
        problem = _write_state(hidden, _by_leaf_name(descriptions, arrays, np.int32(_FORMAT)))
        if problem is not None:
            gc.collect()  # orbax's tasks print their tracebacks when they are freed: here, muted
    if problem is not None:
        if is_writer:
            shutil.rmtree(hidden, ignore_errors=True)  # on a full disk it would take the last space
        raise OSError(f"the checkpoint of step {step} failed: {problem}")
    try:
        _compare(hidden, descriptions, arrays)
        final = (
            _commit(folder, hidden, step, descriptions, dict(meta or {}), max_checkpoints)
            if is_writer
            else folder
        )
    finally:
        _barrier("jaxmarl_lite.checkpoint.committed")
    return final


def steps(folder: Path | str) -> list[int]:
    """Returns the steps of the complete checkpoints in a folder, oldest first.

    Args:
        folder: Folder of the checkpoints.

    Returns:
        The steps; empty where there is no folder.
    """
    return sorted(_complete_checkpoints(Path(folder)))


def latest(folder: Path | str) -> int | None:
    """Returns the newest complete step in a folder.

    Args:
        folder: Folder of the checkpoints.

    Returns:
        The step, or None where there is none.
    """
    return max(_complete_checkpoints(Path(folder)), default=None)


def delete_after(folder: Path | str, step: int) -> list[int]:
    """Deletes the checkpoints later than ``step``, as going back to it requires.

    Args:
        folder: Folder of the checkpoints.
        step: Last step to keep.

    Returns:
        The steps deleted, oldest first.
    """
    doomed = {s: path for s, path in _complete_checkpoints(Path(folder)).items() if s > step}
    if jax.process_index() == 0:
        # newest first: at any moment the rest is a history without holes
        for s in sorted(doomed, reverse=True):
            _delete(doomed[s])
    _barrier("jaxmarl_lite.checkpoint.dropped")
    return sorted(doomed)


def read_meta(folder: Path | str, step: int | None = None) -> dict[str, Any]:
    """Returns the ``meta`` that was saved beside a state.

    Args:
        folder: Folder of the checkpoints.
        step: Step of the checkpoint; None for the newest.

    Returns:
        The plain data.

    Raises:
        CheckpointError: There is no such checkpoint, or its manifest is damaged.
    """
    _, path = _find(Path(folder).absolute(), step)
    return _read_manifest(path)["meta"]


def find_intact(folder: Path | str, step: int | None = None, fallback: bool = False) -> Intact:
    """Returns the checkpoint that `restore` would read, after a check of all its files.

    Args:
        folder: Folder of the checkpoints.
        step: Step of the checkpoint; None for the newest.
        fallback: Whether to go on to the checkpoint before a damaged one instead of raising.

    Returns:
        The checkpoint, with messages about the damaged ones that were passed over.

    Raises:
        CheckpointError: There is no checkpoint, or it is damaged (the message names the file).
    """
    folder = Path(folder).absolute()
    _find(folder, step)
    candidates = sorted(
        (item for item in _complete_checkpoints(folder).items() if step is None or item[0] <= step),
        reverse=True,
    )
    damages: list[CheckpointError] = []
    for candidate_step, path in candidates if fallback else candidates[:1]:
        try:
            manifest = _read_manifest(path)
            _verify(path, manifest)
        except CheckpointError as error:
            damages.append(error)
            continue
        return Intact(path, candidate_step, manifest, tuple(map(str, damages)))
    if len(damages) == 1:
        raise damages[0]
    raise CheckpointError(
        f"every checkpoint in {folder} is damaged: " + "; ".join(map(str, damages))
    )


def restore(
    folder: Path | str, template: PyTree, step: int | None = None, fallback: bool = False
) -> Restored:
    """Reads a checkpoint, bit for bit, into the template's tree.

    Args:
        folder: Folder of the checkpoints.
        template: State, or ``jax.eval_shape`` of the function that makes one. Where its leaves
            carry a sharding (or are committed to a device), the restored ones get it, whatever the
            devices of the writer; the others land uncommitted on the default device. Weak types are
            not kept: every dtype is as if given explicitly.
        step: Step of the checkpoint; None for the newest.
        fallback: Whether to go on to the checkpoint before a damaged one instead of raising. A
            checkpoint that is whole but does not fit the template always raises.

    Returns:
        ``Restored`` with state, step, meta and damages.

    Raises:
        CheckpointError: There is no checkpoint; or it is damaged (the message names the file); or
            it is of another algorithm or sizes (the message names the first leaf that differs and
            both shapes).
    """
    intact = find_intact(folder, step, fallback)
    return Restored(
        _read_state(intact.path, intact.manifest, template),
        intact.step,
        intact.meta,
        intact.damages,
    )


def _read_state(path: Path, manifest: dict[str, Any], template: PyTree) -> PyTree:
    """Returns the arrays of a verified checkpoint in the template's tree and places."""
    flat, treedef = jax.tree_util.tree_flatten_with_path(template)
    values = [value for _, value in flat]
    stored = manifest["leaves"]
    expected = [
        leaves.describe(jax.tree_util.keystr(path_in_tree), value) for path_in_tree, value in flat
    ]
    if (difference := leaves.first_mismatch(stored, expected)) is not None:
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
    """Returns a checkpoint's arrays, read as `leaves.restore_argument` says."""
    arguments = [
        leaves.restore_argument(leaf, value) for leaf, value in zip(stored, values, strict=True)
    ]
    arguments = _by_leaf_name(stored, arguments, ocp.RestoreArgs(restore_type=np.ndarray))
    tree = dict.fromkeys(arguments, 0)
    with _literal_path(path) as readable, _checkpointer() as checkpointer:
        restored = checkpointer.restore(
            readable / "state", args=ocp.args.PyTreeRestore(tree, restore_args=arguments)
        )
    return [
        leaf.empty_array() if leaf.empty else restored[_leaf_name(i)]
        for i, leaf in enumerate(stored)
    ]


def _check_shapes(path: Path, stored: Sequence[leaves.Leaf]) -> None:
    """Checks that the arrays of a checkpoint have the shapes of its manifest.

    Reading allocates the sizes that the arrays' own metadata name, and a process that asks for
    terabytes is killed.

    Raises:
        ValueError: A shape differs.
    """
    with _literal_path(path) as readable:
        handler: Any = ocp.PyTreeCheckpointHandler()
        stored_metadata = handler.metadata(readable / "state")
    tree = getattr(stored_metadata, "tree", stored_metadata)
    for i, leaf in enumerate(stored):
        if not leaf.empty and tuple(tree[_leaf_name(i)].shape) != leaf.stored_shape:
            raise ValueError(
                f"state{leaf.path} has shape {list(tree[_leaf_name(i)].shape)} instead of "
                f"{leaf.shape}"
            )


def _compare(path: Path, described: Sequence[leaves.Leaf], arrays: Sequence[Any]) -> None:
    """Raises CheckpointError where the written arrays do not come back bit for bit."""
    try:
        arrays_read = _read_arrays(path, described, arrays)
        different = [
            leaf.path
            for leaf, a, b in zip(described, arrays, arrays_read, strict=True)
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
def _literal_path(path: Path) -> Iterator[Path]:
    """Yields a name of the folder that orbax and tensorstore take literally.

    They read brackets as patterns, a backslash as a slash, ``://`` as the end of a URL's scheme.
    For a path with such characters it is a temporary link.
    """
    if _PLAIN.fullmatch(path.as_posix()):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="jaxmarl_lite_") as home:
        link = Path(home).resolve() / "checkpoint"
        link.symlink_to(path, target_is_directory=True)
        yield link


def _in_one_line(error: Exception) -> str:
    """Returns the error's message in one line of at most 400 characters."""
    return " ".join((str(error) or type(error).__name__).split())[:400]


def _commit(
    folder: Path,
    hidden: Path,
    step: int,
    described: list[leaves.Leaf],
    meta: dict[str, Any],
    max_checkpoints: int,
) -> Path:
    """Describes the written state, syncs it, gives it its name, and deletes what is too old.

    Only process 0 calls it.

    Returns:
        The checkpoint's folder.
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
    previous = _complete_checkpoints(folder).get(step)
    attempt = 0 if previous is None else _parse_name(previous.name)[1] + 1
    final = folder / (f"step_{step:012d}" + (f".{attempt}" if attempt else ""))
    # the rename makes the checkpoint complete: all it holds was synced above
    hidden.replace(final)
    atomic_io.sync_folder(folder)
    if previous is not None:
        _delete(previous)
    for outdated in steps(folder)[:-max_checkpoints]:
        _delete(_complete_checkpoints(folder)[outdated])
    return final


def _parse_name(name: str) -> tuple[int, int]:
    """Returns step and attempt of a checkpoint folder's name; step -1 when it is none."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2] or 0)) if match else (-1, 0)


def _complete_checkpoints(folder: Path) -> dict[int, Path]:
    """Returns step -> folder of its latest attempt."""
    names = (
        sorted((path.name for path in folder.iterdir()), key=_parse_name) if folder.is_dir() else []
    )
    return {_parse_name(name)[0]: folder / name for name in names if _parse_name(name)[0] >= 0}


def _find(folder: Path, step: int | None) -> tuple[int, Path]:
    """Returns a step (None: the newest) and its folder.

    Raises:
        CheckpointError: There is none.
    """
    by_step = _complete_checkpoints(folder)
    if not by_step:
        raise CheckpointError(f"no checkpoint in {folder}")
    if step is not None and step not in by_step:
        raise CheckpointError(
            f"no checkpoint of step {step} in {folder}; there are {sorted(by_step)}"
        )
    step = max(by_step) if step is None else step
    return step, by_step[step]


def _delete(path: Path) -> None:
    """Takes a checkpoint's name away in one rename, then removes its files."""
    doomed = path.with_name(f".deleting_{path.name}")
    _remove(doomed)
    path.replace(doomed)
    _remove(doomed)


def _remove(path: Path) -> None:
    """Removes a folder with all that is in it; of a link or a file, itself alone."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _remove_partial(folder: Path) -> None:
    """Removes what a killed process left half written or half deleted."""
    for path in folder.iterdir():
        if path.name == ".saving" or path.name.startswith(".deleting_"):
            _remove(path)


def _file_checksum(path: Path, sync: bool = False) -> list[int]:
    """Returns size and CRC-32 of a file; with ``sync`` its content is on the disk afterwards."""
    size, checksum = 0, 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
        if sync:
            os.fsync(file.fileno())
    return [size, checksum]


def _checksum(manifest: Mapping[str, Any]) -> int:
    """Returns the CRC-32 of a manifest's entries without the checksum itself."""
    return zlib.crc32(
        atomic_io.to_json(
            {name: value for name, value in manifest.items() if name != "checksum"}
        ).encode()
    )


def _read_manifest(path: Path) -> dict[str, Any]:
    """Returns the manifest of a checkpoint.

    Raises:
        CheckpointError: It cannot be used; the message names the file.
    """
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
    step, _ = _parse_name(path.name)
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
    """Compares every file of a checkpoint with its manifest.

    Raises:
        CheckpointError: A file differs; the message names the first.
    """
    for name, (size, checksum) in manifest["files"].items():
        if not (path / name).is_file():
            raise CheckpointError(f"{path} is damaged: {name} is missing")
        try:
            actual = _file_checksum(path / name)
        except OSError as error:
            raise CheckpointError(f"{path} is damaged: {name} cannot be read ({error})") from error
        if actual[0] != size:
            raise CheckpointError(
                f"{path} is damaged: {name} has {actual[0]} bytes instead of {size}"
            )
        if actual[1] != checksum:
            raise CheckpointError(f"{path} is damaged: the content of {name} changed (checksum)")


def _write_state(hidden: Path, tree: dict[str, Any]) -> str | None:
    """Writes the arrays, with a barrier of all processes before and after.

    Returns:
        The reason why that failed, or None.
    """
    try:
        with _literal_path(hidden) as path, _checkpointer() as checkpointer:
            checkpointer.save(path / "state", args=ocp.args.PyTreeSave(tree))
    except CheckpointError:
        raise
    except Exception as error:  # orbax and tensorstore raise many kinds, some over many lines
        code = re.search(r"os_error_code='(\d+)'", str(error))
        return os.strerror(int(code[1])) if code else " ".join(str(error).split())
    return None


@contextlib.contextmanager
def _muted_logs() -> Iterator[None]:
    """Keeps orbax's threads and tasks from printing tracebacks of errors that are raised too."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]

    def is_unrelated(record: logging.LogRecord) -> bool:
        """Returns whether a record is none of these tracebacks."""
        return "_SignalingThread" not in str(record.msg) and "never retrieved" not in str(
            record.msg
        )

    for logger in loggers:
        logger.addFilter(is_unrelated)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_unrelated)


def _checkpointer() -> ocp.Checkpointer:
    """Returns orbax's blocking checkpointer.

    The asynchronous one saves no time here and leaves threads behind when killed.
    """
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler())


def _leaf_name(index: int) -> str:
    """Returns the name under which orbax stores the leaf of this number."""
    return f"{index:06d}"


def _by_leaf_name(
    described: Sequence[leaves.Leaf], values: Sequence[Any], first: Any
) -> dict[str, Any]:
    """Returns one value per leaf under its name, after ``first``: orbax takes no empty tree.

    Leaves without entries (no costs, K = 0) are left out: orbax refuses them, and the manifest
    describes all of them.
    """
    pairs = enumerate(zip(described, values, strict=True))
    return {"format": first} | {
        _leaf_name(i): value for i, (leaf, value) in pairs if not leaf.empty
    }


def _barrier(name: str) -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
