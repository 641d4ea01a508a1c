"""Saves and restores a whole training state, safe against a kill at any moment.

A checkpoint is one folder::

    checkpoints/step_000000000012/
        state/          the arrays, written by orbax
        manifest.json   step, meta, path + shape + dtype of every leaf, checksum of every file in
                        state/, and a checksum of all of these

It is written under a hidden name, read back and compared, synced, and takes its final name in one
rename: a folder called ``step_...`` is complete and can be restored. Deleting works the other way
round. The leaves are stored as a flat list, so orbax never sees the tree, and the tree that comes
back (NamedTuples, optax states, empty tuples) is the template's.

Orbax's ``CheckpointManager`` (0.12) does not replace this: it does not sync, keeps no checksums,
saves no step twice, and deletes a checkpoint under its final name.

In a ``jax.distributed`` run every process calls ``save`` and ``restore`` with the same arguments
and a folder that all of them share; each writes its own shards and process 0 the rest. Leaves that
a process holds whole are taken from process 0. Every process reads the whole state into its memory.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import logging
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxmarl_lite.report import atomic_io
from jaxmarl_lite.types import PyTree
from jaxmarl_lite.validation import one_line

_NAME = re.compile(r"step_(\d+)(?:\.(\d+))?")
_MANIFEST = "manifest.json"
_FORMAT = 3
_PLAIN = re.compile(r"(?:[A-Za-z]:)?[\w./ -]+")
"""Paths that orbax and tensorstore take literally."""


class CheckpointError(RuntimeError):
    """Error of a checkpoint that is missing, damaged or of another run.

    The message names the path and the reason.
    """


class Leaf(NamedTuple):
    """Description of one leaf, in values that JSON can hold.

    Attributes:
        path: Path in the tree, as ``jax.tree_util.keystr`` writes it.
        shape: Shape of the array.
        dtype: Name of the array's dtype.
        impl: Generator of a typed key; None for other arrays.
    """

    path: str
    shape: list[int]
    dtype: str
    impl: str | None


class Checkpoint(NamedTuple):
    """Checkpoint as it lies on the disk, or as `restore` read it.

    Attributes:
        path: Folder of the checkpoint.
        step: Its step.
        meta: Plain data saved with the state.
        leaves: Descriptions of the state's leaves, in the tree's order.
        files: Name -> checksum of the files that hold the leaves.
        damages: Messages about the newer checkpoints that were passed over.
        state: State, in the template's tree, once it is restored.
    """

    path: Path
    step: int
    meta: dict[str, Any]
    leaves: list[Leaf]
    files: dict[str, str]
    damages: tuple[str, ...] = ()
    state: PyTree = None


def save(
    folder: Path | str,
    step: int,
    state: PyTree,
    meta: Mapping[str, Any] | None = None,
    max_checkpoints: int = 2,
    keep: Collection[int] = (),
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
        keep: Steps that are not deleted, however old they are.

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
    leaves, arrays = _flatten(state)
    hidden, final = folder / ".saving", folder
    is_writer = jax.process_index() == 0
    if is_writer:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_partial(folder)
        hidden.mkdir()
    with _muted_logs():
        problem = _write_arrays(hidden, leaves, arrays)
        if problem is not None:
            gc.collect()  # orbax's tasks print their tracebacks when they are freed: here, muted
    if problem is not None:
        if is_writer:
            shutil.rmtree(hidden, ignore_errors=True)  # on a full disk it would take the last space
        raise OSError(f"the checkpoint of step {step} failed: {problem}")
    try:
        _compare(hidden, leaves, arrays)
        if is_writer:
            final = _commit(folder, step, leaves, dict(meta or {}))
            for outdated in steps(folder)[:-max_checkpoints]:
                if outdated not in keep:
                    _delete(_complete_checkpoints(folder)[outdated])
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
    return _read_manifest(*_candidates(Path(folder), step)[0]).meta


def find_intact(folder: Path | str, step: int | None = None, fallback: bool = False) -> Checkpoint:
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
    candidates = _candidates(Path(folder), step)
    damages: list[str] = []
    for candidate in candidates if fallback else candidates[:1]:
        try:
            intact = _read_manifest(*candidate)
            _verify(intact)
        except CheckpointError as error:
            damages.append(str(error))
        else:
            return intact._replace(damages=tuple(damages))
    if len(damages) == 1:
        raise CheckpointError(damages[0])
    raise CheckpointError(f"every checkpoint in {folder} is damaged: " + "; ".join(damages))


def restore(
    folder: Path | str, template: PyTree, step: int | None = None, fallback: bool = False
) -> Checkpoint:
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
        The checkpoint with its state.

    Raises:
        CheckpointError: There is no checkpoint; or it is damaged (the message names the file); or
            it is of another algorithm or sizes (the message names the first leaf that differs and
            both shapes).
    """
    intact = find_intact(folder, step, fallback)
    flat, treedef = jax.tree_util.tree_flatten_with_path(template)
    expected = [_describe(path, value) for path, value in flat]
    if (difference := _first_mismatch(intact.leaves, expected)) is not None:
        raise CheckpointError(f"{intact.path} {difference}")
    try:
        arrays = _read_arrays(intact.path, intact.leaves)
        placed = [
            _device_put_like(leaf, value, array)
            for leaf, (_, value), array in zip(intact.leaves, flat, arrays, strict=True)
        ]
    except Exception as error:  # orbax and tensorstore raise many kinds
        raise CheckpointError(
            f"the state of {intact.path} cannot be read: {one_line(error)}"
        ) from error
    return intact._replace(state=jax.tree_util.tree_unflatten(treedef, placed))


def read_arrays(intact: Checkpoint) -> list[np.ndarray]:
    """Reads the arrays of a checkpoint without a template.

    Args:
        intact: A checkpoint, as `find_intact` returns it.

    Returns:
        An array for each of its ``leaves``; of a typed key, its data.

    Raises:
        CheckpointError: They cannot be read.
    """
    try:
        return _read_arrays(intact.path, intact.leaves)
    except Exception as error:  # orbax and tensorstore raise many kinds
        raise CheckpointError(
            f"the state of {intact.path} cannot be read: {one_line(error)}"
        ) from error


# The leaves of a state


def _flatten(state: PyTree) -> tuple[list[Leaf], list[Any]]:
    """Returns descriptions and storable arrays of all leaves, in the tree's order.

    Typed keys become their data. Arrays that this process holds whole come back as NumPy arrays,
    fetched in one transfer; those spread over processes stay.

    Raises:
        TypeError: See `_describe`.
    """
    flat = jax.tree_util.tree_flatten_with_path(state)[0]
    leaves = [_describe(path, value) for path, value in flat]
    arrays = [
        value if leaf.impl is None else jax.random.key_data(value)
        for leaf, (_, value) in zip(leaves, flat, strict=True)
    ]
    local = [i for i, array in enumerate(arrays) if getattr(array, "is_fully_addressable", True)]
    for i, array in zip(local, jax.device_get([arrays[i] for i in local]), strict=True):
        arrays[i] = np.asarray(array, leaves[i].dtype if leaves[i].impl is None else None)
    return leaves, arrays


def _describe(path: tuple[Any, ...], value: Any) -> Leaf:
    """Returns the shape and dtype of a leaf, an array or its abstract stand-in.

    Python numbers are described as ``jit`` sees them.

    Raises:
        TypeError: It is no array, or an array whose dtype JAX cannot hold as configured; the
            message names the leaf.
    """
    name, impl = jax.tree_util.keystr(path), None
    if isinstance(value, (bool, int, float, complex)):
        value = jax.eval_shape(lambda: jnp.asarray(value))
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        raise TypeError(
            f"state{name} is a {type(value).__name__}; only arrays can be saved and restored"
        )
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        impl = str(jax.random.key_impl(value)) if isinstance(value, jax.Array) else "as stored"
    elif value.dtype != jax.dtypes.canonicalize_dtype(value.dtype):
        raise TypeError(
            f"state{name} is {value.dtype}, which JAX cannot hold; cast it or set jax_enable_x64"
        )
    return Leaf(name, list(value.shape), str(value.dtype), impl)


def _first_mismatch(stored: Sequence[Leaf], expected: Sequence[Leaf]) -> str | None:
    """Returns the first leaf whose path, shape or dtype differs, in words; None where none does."""
    for actual, template in zip(stored, expected, strict=False):
        if actual.path != template.path:
            return (
                f"holds another kind of state: it has state{actual.path} where "
                f"state{template.path} is expected"
            )
        if (actual.shape, actual.dtype) != (template.shape, template.dtype):
            return (
                f"does not fit: state{actual.path} was saved as {actual.dtype}{actual.shape},"
                f" here it is {template.dtype}{template.shape}"
            )
    if len(stored) == len(expected):
        return None
    verb, longer = ("has", stored) if len(stored) > len(expected) else ("lacks", expected)
    first = longer[min(len(stored), len(expected))].path
    counts = f"{len(stored)} leaves saved, {len(expected)} expected"
    return f"holds another kind of state: it {verb} state{first} ({counts})"


def _device_put_like(leaf: Leaf, value: Any, array: Any) -> Any:
    """Returns a read array in the form and place of the template's leaf ``value``.

    It is typed where the leaf is a typed key, and on the leaf's devices where it is bound to any.
    """
    if isinstance(value, np.ndarray):
        return array
    if leaf.impl is not None:
        array = jax.random.wrap_key_data(jnp.asarray(array), impl=leaf.impl)
    sharding = getattr(value, "sharding", None)
    if sharding is None or not getattr(value, "committed", True):
        return jnp.asarray(array)
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


# Arrays on the disk


def _write_arrays(hidden: Path, leaves: Sequence[Leaf], arrays: Sequence[Any]) -> str | None:
    """Writes the arrays, with a barrier of all processes before and after.

    Arrays without entries (no costs, K = 0) are stored as None: orbax refuses them.

    Returns:
        The reason why that failed, or None.
    """
    # orbax takes no empty list: the number of the format stands before the arrays
    stored = [None if 0 in leaf.shape else x for leaf, x in zip(leaves, arrays, strict=True)]
    try:
        with (
            _literal_path(hidden) as path,
            ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax,
        ):
            orbax.save(path / "state", args=ocp.args.PyTreeSave([np.int32(_FORMAT), *stored]))
    except Exception as error:  # orbax and tensorstore raise many kinds, some over many lines
        code = re.search(r"os_error_code='(\d+)'", str(error))
        return os.strerror(int(code[1])) if code else " ".join(str(error).split())
    return None


def _read_arrays(path: Path, leaves: Sequence[Leaf]) -> list[np.ndarray]:
    """Returns the arrays of a checkpoint; of a typed key, its data.

    Raises:
        ValueError: An array has another shape than its leaf.
    """
    arguments = [
        None if 0 in leaf.shape else ocp.RestoreArgs(restore_type=np.ndarray) for leaf in leaves
    ]
    arguments = [ocp.RestoreArgs(restore_type=np.ndarray), *arguments]
    with _literal_path(path) as readable, ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
        stored = orbax.restore(
            readable / "state", args=ocp.args.PyTreeRestore(restore_args=arguments)
        )
    arrays = []
    for leaf, array in zip(leaves, stored[1:], strict=True):
        key_shape = (
            jax.random.key_data(jax.random.key(0, impl=leaf.impl)).shape if leaf.impl else ()
        )
        shape = (*leaf.shape, *key_shape)
        if array is None:
            array = np.zeros(shape, leaf.dtype if leaf.impl is None else np.uint32)
        if array.shape != shape:
            raise ValueError(
                f"state{leaf.path} has shape {list(array.shape)} instead of {leaf.shape}"
            )
        arrays.append(array)
    return arrays


def _compare(hidden: Path, leaves: Sequence[Leaf], arrays: Sequence[Any]) -> None:
    """Raises CheckpointError where the written arrays do not come back bit for bit.

    Of an array that spreads over processes, each compares its own part.
    """
    try:
        for leaf, array, stored in zip(leaves, arrays, _read_arrays(hidden, leaves), strict=True):
            parts = (
                [(..., array)]
                if isinstance(array, np.ndarray)
                else [(shard.index, np.asarray(shard.data)) for shard in array.addressable_shards]
            )
            if any(
                (part.shape, part.dtype) != (stored[index].shape, stored.dtype)
                or part.tobytes() != stored[index].tobytes()
                for index, part in parts
            ):
                raise ValueError(f"state{leaf.path} came back with other values")
    except Exception as error:  # orbax and tensorstore raise many kinds
        reason = f"cannot be read back: {one_line(error)}"
        raise CheckpointError(
            f"a checkpoint written to {hidden.parent} {reason}; those before it are kept"
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


@contextlib.contextmanager
def _muted_logs() -> Iterator[None]:
    """Keeps orbax's threads and tasks from printing tracebacks of errors that are raised too."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]

    def is_unrelated(record: logging.LogRecord) -> bool:
        """Returns whether a record is none of these tracebacks."""
        return not re.search("_SignalingThread|never retrieved", str(record.msg))

    for logger in loggers:
        logger.addFilter(is_unrelated)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_unrelated)


# Folders of checkpoints


def _commit(folder: Path, step: int, leaves: list[Leaf], meta: dict[str, Any]) -> Path:
    """Describes the written state, syncs it and gives it its name; only process 0 calls it.

    Returns:
        The checkpoint's folder.
    """
    hidden = folder / ".saving"
    written = sorted(path for path in (hidden / "state").rglob("*") if path.is_file())
    files = {path.relative_to(hidden).as_posix(): _digest(path, sync=True) for path in written}
    manifest = {"format": _FORMAT, "step": step, "meta": meta, "leaves": leaves, "files": files}
    manifest["checksum"] = _checksum(manifest)
    atomic_io.replace_text(hidden / _MANIFEST, atomic_io.to_json(manifest))
    for inner in {path.parent for path in written}:
        atomic_io.sync_folder(inner)
    final, previous = folder / f"step_{step:012d}", _complete_checkpoints(folder).get(step)
    if previous is not None:
        final = folder / f"{final.name}.{1 + int(previous.suffix[1:] or 0)}"
    # the rename makes the checkpoint complete: all it holds was synced above
    hidden.replace(final)
    atomic_io.sync_folder(folder)
    if previous is not None:
        _delete(previous)
    return final


def _complete_checkpoints(folder: Path) -> dict[int, Path]:
    """Returns step -> folder of its latest attempt."""
    paths = folder.iterdir() if folder.is_dir() else ()
    names = ((_NAME.fullmatch(path.name), path) for path in paths)
    attempts = sorted((int(name[1]), int(name[2] or 0), path) for name, path in names if name)
    return {step: path for step, _, path in attempts}


def _candidates(folder: Path, step: int | None) -> list[tuple[int, Path]]:
    """Returns the complete checkpoints up to a step (None: all) with their steps, newest first.

    Raises:
        CheckpointError: There is none, or none of this step.
    """
    folder = folder.absolute()
    by_step = _complete_checkpoints(folder)
    if not by_step:
        raise CheckpointError(f"no checkpoint in {folder}")
    if step is not None and step not in by_step:
        raise CheckpointError(
            f"no checkpoint of step {step} in {folder}; there are {sorted(by_step)}"
        )
    return sorted(
        (item for item in by_step.items() if step is None or item[0] <= step), reverse=True
    )


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


def _digest(path: Path, sync: bool = False) -> str:
    """Returns a checksum of a file; with ``sync`` its content is on the disk afterwards."""
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(manifest: Mapping[str, Any]) -> int:
    """Returns the CRC-32 of a manifest's entries without the checksum itself."""
    entries = {name: value for name, value in manifest.items() if name != "checksum"}
    return zlib.crc32(atomic_io.to_json(entries).encode())


def _read_manifest(step: int, path: Path) -> Checkpoint:
    """Returns a checkpoint as its manifest describes it, before its other files are checked.

    Raises:
        CheckpointError: The manifest cannot be used; the message names the file.
    """
    try:
        manifest = atomic_io.from_json(atomic_io.read_bytes(path / _MANIFEST))
        if manifest["format"] != _FORMAT:
            raise CheckpointError(
                f"{path / _MANIFEST} is of another format than this version reads ({_FORMAT})"
            )
        if manifest["checksum"] != _checksum(manifest):
            raise ValueError("its content changed (checksum)")
        if manifest["step"] != step:
            raise ValueError(f"its name says step {step}, its content step {manifest['step']}")
        leaves = [Leaf(*leaf) for leaf in manifest["leaves"]]
        return Checkpoint(path, step, dict(manifest["meta"]), leaves, dict(manifest["files"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged: {_MANIFEST} cannot be read ({one_line(error)})"
        ) from error


def _verify(intact: Checkpoint) -> None:
    """Compares every file of a checkpoint with its checksum.

    Raises:
        CheckpointError: A file differs; the message names the first.
    """
    for name, digest in intact.files.items():
        try:
            if _digest(intact.path / name) != digest:
                raise ValueError("its content changed (checksum)")
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{intact.path} is damaged: {name} cannot be read ({one_line(error)})"
            ) from error


def _barrier(name: str) -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
