"""Folder of a run: its layout, making one without overwriting another, and reading one back."""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import os
import platform
import re
import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np

from jaxmarl_lite import determinism
from jaxmarl_lite.report import atomic_io, checkpoint, loggers

_PACKAGES = (
    "jaxmarl-lite",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "chex",
    "jumanji",
    "orbax-checkpoint",
    "numpy",
    "mujoco",
    "mujoco-mjx",
    "warp-lang",
    "jaxmarl",
)

_MAX_CONFIG_BYTES = 10_000_000
"""A thousand times more bytes than any config has."""


class RunFolderError(OSError):
    """Error of a folder that already holds a run, holds none, or holds a damaged one.

    The message names the folder and the way out.
    """


class RunFolderWarning(UserWarning):
    """Warning that a file in a run's folder was damaged and another was read in its place.

    The message names both.
    """


class RunFolder:
    """Paths of all files of a run.

    Args:
        path: Folder of the run.

    Attributes:
        path: Folder of the run.
        config: Settings of the run, as JSON; can be given back to the command line.
        versions: Package versions, Python, kind and number of devices.
        metrics: Metrics, one JSON row per seed and report.
        metrics_copy: Copy of the rows beside the checkpoints that count them, which restores
            ``metrics`` when that is damaged.
        random_policy: Returns of the random policy.
        marl_eval: Evaluations in marl-eval's form.
        tensorboard: Folder of TensorBoard's event files.
        checkpoints: Folder of the training states.
        curve: Learning curve as a figure.
        spec: Names, units and limits of the environment, as JSON.
        status: The run's id, and why it stopped before its end, as JSON.
        lock: Lock held by the process that trains here, for as long as it lives.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.versions = self.path / "versions.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.metrics_copy = self.checkpoints / "metrics.jsonl"
        self.random_policy = self.path / "random_policy.json"
        self.marl_eval = self.path / "marl_eval.json"
        self.tensorboard = self.path / "tensorboard"
        self.curve = self.path / "curve.png"
        self.spec = self.path / "spec.json"
        self.status = self.path / "status.json"
        self.lock = self.path / ".lock"

    @contextlib.contextmanager
    def lock_for_writing(self) -> Iterator[None]:
        """Keeps the folder from other processes, where the file system has locks.

        Yields:
            None, once the folder is locked.

        Raises:
            RunFolderError: Another process trains here.
        """
        lock = filelock.FileLock(self.lock)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise RunFolderError(
                f"the run in {self.path} is being trained by another process; allowed is one at a "
                f"time: wait for it to end, or end it (if there is none, remove {self.lock})"
            ) from None
        except (OSError, RuntimeError):  # the file system has no locks, or lets nothing be written
            pass
        try:
            yield
        finally:
            lock.release()  # does nothing where there is no lock

    def make(self) -> None:
        """Makes the empty folder of a new run.

        Raises:
            RunFolderError: It already holds a run, or cannot be made.
        """
        try:
            if self.path.is_file():
                raise RunFolderError(
                    f"{self.path} is a file; allowed is a folder that holds no run, or a new one"
                )
            self.check(writing=True)
            if self.exists():
                raise RunFolderError(
                    f"{self.path} already holds a run; continue it with --resume {self.path} (in "
                    "Python: resume_run), or choose another --out"
                )
            self.path.mkdir(parents=True, exist_ok=True)
        except RunFolderError:
            raise
        except OSError as error:  # a name that is too long, a place that may not be written to
            raise RunFolderError(f"{self.path} cannot be used for a run: {error}") from error

    def check(self, writing: bool = False) -> None:
        """Checks that the files a run reads are regular files and folders.

        Reading a pipe would block for ever; writing through a link would change files outside the
        folder.

        Args:
            writing: Whether to check the files that a run writes, too.

        Raises:
            RunFolderError: Something else stands in the place of a file or folder; the message
                names it.
        """
        names = [self.config, self.versions, self.metrics, self.random_policy, self.spec]
        names += [self.status]
        names += [self.marl_eval, self.curve, self.lock] if writing else []
        for path in names:
            if os.path.lexists(path) and not path.is_file():
                raise RunFolderError(
                    f"{path} is no regular file, as a run keeps there; move it away and try again"
                )
        for path in (self.checkpoints, self.tensorboard) if writing else (self.checkpoints,):
            if path.is_symlink():
                raise RunFolderError(
                    f"{path} is a link, which a run does not follow; allowed is the folder "
                    "itself: move it here, or make the whole run's folder a link"
                )
            if path.exists() and not path.is_dir():
                raise RunFolderError(
                    f"{path} is no folder, as a run keeps there; move it away and try again"
                )

    def exists(self) -> bool:
        """Returns whether there is something that a new run would overwrite.

        Returns:
            True where any of a run's main files exists.
        """
        return any(
            p.exists()
            for p in (self.config, self.metrics, self.marl_eval, self.checkpoints, self.tensorboard)
        )


@dataclasses.dataclass(frozen=True)
class Series:
    """One metric over a run; entries that were not reported are NaN.

    Attributes:
        seeds: Numbers of the seeds.
        updates: Updates ``[E]`` int after which the metric was reported.
        steps: Environment steps ``[E]`` int at these updates.
        values: Values ``[seeds, E]`` float.
    """

    seeds: tuple[int, ...]
    updates: np.ndarray
    steps: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Run:
    """A run read back from its folder.

    Attributes:
        folder: Layout of the folder.
        config: Settings of the run.
        versions: Package versions and devices that it ran with.
        rows: Metrics rows, as `loggers.read_rows` returns them.
    """

    folder: RunFolder
    config: dict[str, Any]
    versions: dict[str, Any]
    rows: list[loggers.Row]

    def names(self) -> list[str]:
        """Returns the metrics that some row has.

        Returns:
            Their names, in order of appearance.
        """
        all_names = dict.fromkeys(name for row in self.rows for name in row)
        return [name for name in all_names if name not in loggers.INDEX]

    def series(self, name: str) -> Series:
        """Returns a metric as an array; see `series`.

        Args:
            name: Name of the metric.

        Returns:
            The metric, with values ``[seeds, E]``.

        Raises:
            KeyError: No row has it; the message names the available metrics.
        """
        return series(self.rows, name)


def create(path: Path | str, config: Any) -> RunFolder:
    """Makes the folder of a new run and writes its config and versions.

    The caller holds the folder by `RunFolder.lock_for_writing`.

    Args:
        path: Folder that holds no run; made if missing.
        config: Plain data or a dataclass; must go into JSON.

    Returns:
        The folder's layout.

    Raises:
        RunFolderError: It already holds a run, or cannot be made, or the config does not go into
            JSON.
    """
    folder = RunFolder(path)
    folder.make()
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = dataclasses.asdict(config)
    try:
        atomic_io.to_json(config)  # nothing is written where this fails
        atomic_io.write_json(folder.versions, versions())
        atomic_io.write_json(folder.config, config)
    except TypeError as error:  # an object among the keywords of an environment
        raise RunFolderError(
            f"the settings of a run in {folder.path} cannot be kept as JSON: {error}"
        ) from error
    except OSError as error:
        raise RunFolderError(f"{folder.path} cannot be used for a run: {error}") from error
    return folder


def discard(folder: RunFolder) -> None:
    """Removes what a run without a checkpoint has written, so that the folder can hold another.

    The caller holds the folder by `RunFolder.lock_for_writing`.

    Args:
        folder: Folder of the run.
    """
    results = (folder.metrics, folder.random_policy, folder.spec, folder.marl_eval, folder.curve)
    for path in (folder.config, folder.versions, folder.status, *results):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder.tensorboard, ignore_errors=True)
    shutil.rmtree(folder.checkpoints, ignore_errors=True)


def find(path: Path | str) -> RunFolder:
    """Returns the layout of an existing run.

    Args:
        path: Folder of the run.

    Returns:
        The folder's layout.

    Raises:
        RunFolderError: The folder holds no run.
    """
    folder = RunFolder(path)
    if not folder.path.is_dir():
        raise RunFolderError(f"{folder.path} is no folder")
    folder.check()
    if not folder.config.is_file():
        raise RunFolderError(f"{folder.path} holds no run: it has no {folder.config.name}")
    return folder


def read_config(path: Path | str) -> dict[str, Any]:
    """Returns the config of a run.

    Args:
        path: Folder of the run.

    Returns:
        The settings, as plain data.

    Raises:
        RunFolderError: The folder holds no run, or its config is damaged.
    """
    return read_object(find(path).config)


def load(path: Path | str) -> Run:
    """Returns config, versions and metrics of a run, finished or not.

    Args:
        path: Folder of the run.

    Returns:
        The run.

    Raises:
        RunFolderError: The folder holds no run, or a file in it is damaged; the message names the
            file.
    """
    folder = find(path)
    return Run(folder, read_object(folder.config), read_versions(folder), _read_metrics(folder))


def read_versions(folder: RunFolder) -> dict[str, Any]:
    """Returns the content of versions.json.

    Where it is damaged, this warns and returns nothing, since nothing depends on it.

    Args:
        folder: Layout of the run's folder.

    Returns:
        The versions; empty where the file is missing or damaged.
    """
    try:
        return read_object(folder.versions) if folder.versions.exists() else {}
    except RunFolderError as error:
        warnings.warn(f"{error}; the run is read without it", RunFolderWarning, stacklevel=3)
        return {}


def read_status(folder: RunFolder) -> dict[str, Any]:
    """Returns the content of status.json.

    Args:
        folder: Layout of the run's folder.

    Returns:
        The entries; empty where the file is missing or damaged, since no number depends on it.
    """
    try:
        return read_object(folder.status) if folder.status.exists() else {}
    except RunFolderError:
        return {}


def write_status(folder: RunFolder, **changes: Any) -> None:
    """Changes entries of status.json.

    Args:
        folder: Layout of the run's folder.
        **changes: New entries; None removes one.
    """
    status = read_status(folder)
    changed = {name: x for name, x in (status | changes).items() if x is not None}
    if changed != status:
        atomic_io.write_json(folder.status, changed)


def new_id() -> str:
    """Returns a random text of letters and digits that no other run has."""
    return secrets.token_hex(6)


def run_id(folder: RunFolder, anew: bool = False) -> str:
    """Returns the id of a run, by which W&B and MLflow find it again when it is resumed.

    It is stored in the folder.

    Args:
        folder: Layout of the run's folder.
        anew: Whether to replace an existing id.

    Returns:
        The id.
    """
    stored = None if anew else read_status(folder).get("id")
    if isinstance(stored, str) and re.fullmatch(r"[0-9a-z]{4,32}", stored):
        return stored
    identity = new_id()
    write_status(folder, id=identity)
    return identity


def _read_metrics(folder: RunFolder) -> list[loggers.Row]:
    """Returns the rows of a run, compared with the mark in its newest readable checkpoint.

    Raises:
        RunFolderError: The file cannot be read, or a line of it is no row.
    """
    # read before the rows: a run that is being trained only adds to them
    remembered = _newest_mark(folder)
    try:
        data = atomic_io.read_bytes(folder.metrics) if folder.metrics.exists() else b""
        if remembered is not None and not remembered[1].is_in(data):
            update, mark = remembered
            message = f"{folder.metrics} has changed since the checkpoint of update {update}"
            copy = (
                atomic_io.read_bytes(folder.metrics_copy) if folder.metrics_copy.exists() else b""
            )
            if mark.is_in(copy):
                data = copy
                message += f"; its copy is read instead, and --resume {folder.path} restores it"
            else:
                message += f", which counted {mark.rows} rows, and so has its copy"
            warnings.warn(message, RunFolderWarning, stacklevel=3)
        return loggers.parse_rows(data, folder.metrics)
    except OSError as error:
        raise RunFolderError(f"{folder.metrics} cannot be read: {error}") from error
    except ValueError as error:
        raise RunFolderError(
            f"{error}; --resume {folder.path} keeps the rows up to the last checkpoint"
        ) from error


def _newest_mark(folder: RunFolder) -> tuple[int, loggers.Mark] | None:
    """Returns update and mark of the newest checkpoint that has one; None where none has."""
    for step in reversed(checkpoint.steps(folder.checkpoints)):
        try:
            mark = mark_of(checkpoint.read_meta(folder.checkpoints, step))
        except checkpoint.CheckpointError:
            continue
        if mark is not None:
            return step, mark
    return None


def mark_of(meta: Mapping[str, Any]) -> loggers.Mark | None:
    """Returns the mark of the rows in a checkpoint's ``meta``.

    Args:
        meta: Plain data of the checkpoint.

    Returns:
        The mark; None in checkpoints of an earlier version.
    """
    return None if meta.get("rows") is None else loggers.Mark(*meta["rows"])


def series(rows: list[loggers.Row], name: str) -> Series:
    """Returns one metric of metrics rows as an array.

    Args:
        rows: Rows as `loggers.read_rows` returns them, in any order; of two rows of one seed and
            update the later counts.
        name: Name of the metric.

    Returns:
        The metric, with values ``[seeds, E]``.

    Raises:
        KeyError: No row has it; the message names the available metrics.
    """
    matching_rows = [row for row in rows if name in row]
    if not matching_rows:
        available = sorted({key for row in rows for key in row} - set(loggers.INDEX))
        raise KeyError(f"no row has {name!r}; there are {available}")
    seeds = sorted({row["seed"] for row in matching_rows})
    steps = {row["update"]: row["step"] for row in matching_rows}
    updates = sorted(steps)
    values = np.full((len(seeds), len(updates)), np.nan)
    for row in matching_rows:
        values[seeds.index(row["seed"]), bisect.bisect_left(updates, row["update"])] = row[name]
    return Series(
        tuple(seeds), np.array(updates), np.array([steps[update] for update in updates]), values
    )


def renew_versions(folder: RunFolder, update: int) -> str | None:
    """Writes the versions that a run continues with, and keeps earlier ones that differ.

    Args:
        folder: Layout of the run's folder.
        update: Update from which the run continues.

    Returns:
        The differences in words; None where there is none, or nothing to compare with.
    """
    current, previous = versions(), read_versions(folder)
    earlier = previous.pop("earlier", [])
    old, new = (
        entries.get("packages", {}) | {k: v for k, v in entries.items() if k != "packages"}
        for entries in (previous, current)
    )
    differences = [
        f"{name} {old.get(name)} -> {new.get(name)}"
        for name in dict.fromkeys([*new, *old])
        if previous and old.get(name) != new.get(name)
    ]
    if previous and not differences:
        return None
    if previous:
        earlier = [*earlier, {**previous, "until_update": update}]
    atomic_io.write_json(folder.versions, {**current, "earlier": earlier})
    return "; ".join(differences) or None


def versions() -> dict[str, Any]:
    """Returns what the numbers of a run depend on besides its config.

    Returns:
        Packages, Python, platform and devices, as plain data.
    """
    devices = jax.devices()
    packages: dict[str, str] = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    return {
        "packages": packages,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device_kind": devices[0].device_kind,
        "device_platform": devices[0].platform,
        "device_count": len(devices),
        "process_count": jax.process_count(),
        "x64": bool(jax.config.read("jax_enable_x64")),
        **({"deterministic_ops": True} if determinism.uses_deterministic_ops() else {}),
    }


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object as `atomic_io.to_json` wrote it, infinities among it.

    All stored configs are read by this function.

    Args:
        path: File to read.

    Returns:
        The object, as a dictionary.

    Raises:
        RunFolderError: It cannot be read, or is no JSON object; the message names the file.
    """
    try:
        if not path.is_file():  # nor a pipe or a device, which may never end
            raise RunFolderError(f"{path} is no file")
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise RunFolderError(
                f"{path} is damaged: it is larger than any config, {_MAX_CONFIG_BYTES:,} bytes"
            )
        # utf-8-sig: some editors add a byte order mark
        value = atomic_io.from_json(atomic_io.read_bytes(path).decode("utf-8-sig"))
    except RunFolderError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise RunFolderError(f"{path} is damaged: it holds no JSON object")
    return value
