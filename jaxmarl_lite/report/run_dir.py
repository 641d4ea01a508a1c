"""The folder of a run: its layout, making one without overwriting another, and reading one back."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import warnings
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np

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
    "jaxmarl",
)


class RunFolderError(OSError):
    """A folder holds a run already, holds none, or holds a damaged one; the message names it and
    the way out.
    """


class RunFolderWarning(UserWarning):
    """Something in a run's folder was damaged, and something else was read in its place; the
    message names both.
    """


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Names of everything a run keeps."""

    path: Path

    @property
    def config(self) -> Path:
        """What was run, as JSON; can be given back to the command line."""
        return self.path / "config.json"

    @property
    def versions(self) -> Path:
        """Package versions, Python, kind and number of devices."""
        return self.path / "versions.json"

    @property
    def metrics(self) -> Path:
        """One JSON row per seed and report."""
        return self.path / "metrics.jsonl"

    @property
    def metrics_copy(self) -> Path:
        """The same rows once more, beside the checkpoints that count them: restores ``metrics``
        when it is damaged.
        """
        return self.checkpoints / "metrics.jsonl"

    @property
    def random_policy(self) -> Path:
        """Returns of the random policy."""
        return self.path / "random_policy.json"

    @property
    def marl_eval(self) -> Path:
        """The evaluations in marl-eval's form."""
        return self.path / "marl_eval.json"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """Training states."""
        return self.path / "checkpoints"

    @property
    def curve(self) -> Path:
        """The learning curve as a picture."""
        return self.path / "curve.png"

    @property
    def spec(self) -> Path:
        """Names, units and limits of the environment, as JSON."""
        return self.path / "spec.json"

    @property
    def lock(self) -> Path:
        """Held by the process that trains here, as long as it lives."""
        return self.path / ".lock"

    @contextlib.contextmanager
    def lock_for_writing(self) -> Iterator[None]:
        """Keep the folder from other processes, where the file system has locks.

        Raises:
            RunFolderError: another process trains here.
        """
        lock, taken = filelock.FileLock(self.lock), True
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise RunFolderError(
                f"the run in {self.path} is being trained by another process; allowed is one at a "
                "time: wait for it to "
                f"end, or end it (if there is none, remove {self.lock})"
            ) from None
        except (OSError, RuntimeError):  # the file system has no locks, or lets nothing be written
            taken = False
        try:
            yield
        finally:
            if taken:
                lock.release()

    def make(self) -> None:
        """Make the folder of a new run, empty as yet.

        Raises:
            RunFolderError: it holds a run already, or cannot be made.
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
                    "Python: resume_run), "
                    "or choose another --out"
                )
            self.path.mkdir(parents=True, exist_ok=True)
        except RunFolderError:
            raise
        except OSError as error:  # a name that is too long, a place that may not be written to
            raise RunFolderError(f"{self.path} cannot be used for a run: {error}") from error

    def check(self, writing: bool = False) -> None:
        """Raise RunFolderError where something odd stands in the place of what a run reads, or also
        writes.

        A pipe would never answer; through a link, files outside the folder would be changed or
        removed.
        """
        names = [self.config, self.versions, self.metrics, self.random_policy, self.spec]
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
                    "itself: move it here, or "
                    "make the whole run's folder a link"
                )
            if path.exists() and not path.is_dir():
                raise RunFolderError(
                    f"{path} is no folder, as a run keeps there; move it away and try again"
                )

    def exists(self) -> bool:
        """True where something is there that a new run would overwrite."""
        return any(
            p.exists()
            for p in (self.config, self.metrics, self.marl_eval, self.checkpoints, self.tensorboard)
        )


@dataclasses.dataclass(frozen=True)
class Series:
    """One metric over a run; entries that were not reported are NaN."""

    seeds: tuple[int, ...]
    updates: np.ndarray  # [E] int
    steps: np.ndarray  # [E] int, environment steps
    values: np.ndarray  # [seeds, E] float


@dataclasses.dataclass(frozen=True)
class Run:
    """A run read back from its folder."""

    folder: RunFolder
    config: dict[str, Any]
    versions: dict[str, Any]
    rows: list[loggers.Row]

    def names(self) -> list[str]:
        """The metrics that some row has, in order of appearance."""
        seen = dict.fromkeys(name for row in self.rows for name in row)
        return [name for name in seen if name not in ("update", "step", "seed")]

    def series(self, name: str) -> Series:
        """A metric as ``[seeds, evaluations]``; raises KeyError naming the metrics there are."""
        return series(self.rows, name)


def create(path: Path | str, config: Any) -> RunFolder:
    """Make the folder of a new run and write its config and versions; to be called with the folder
    `held`.

    Args:
        path: a folder that holds no run; made if missing.
        config: plain data or a dataclass; must go into JSON.

    Raises:
        RunFolderError: it holds a run already, or cannot be made.
    """
    folder = RunFolder(Path(path))
    folder.make()
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = dataclasses.asdict(config)
    try:
        text = atomic_io.to_json(config, indent=2) + "\n"
    except TypeError as error:  # an object among the keywords of an environment
        raise RunFolderError(
            f"the settings of a run in {folder.path} cannot be kept as JSON: {error}"
        ) from error
    try:
        atomic_io.replace_text(folder.versions, atomic_io.to_json(versions(), indent=2) + "\n")
        atomic_io.replace_text(folder.config, text)
    except OSError as error:
        raise RunFolderError(f"{folder.path} cannot be used for a run: {error}") from error
    return folder


def find(path: Path | str) -> RunFolder:
    """The layout of an existing run; RunFolderError when the folder holds none."""
    folder = RunFolder(Path(path))
    if not folder.path.is_dir():
        raise RunFolderError(f"{folder.path} is no folder")
    folder.check()
    if not folder.config.is_file():
        raise RunFolderError(f"{folder.path} holds no run: it has no {folder.config.name}")
    return folder


def read_config(path: Path | str) -> dict[str, Any]:
    """The config of a run; RunFolderError when the folder holds none or it is damaged."""
    return read_object(find(path).config)


def load(path: Path | str) -> Run:
    """Config, versions and metrics of a run, finished or not.

    Raises:
        RunFolderError: the folder holds no run, or a file in it is damaged; names the file.
    """
    folder = find(path)
    return Run(folder, read_object(folder.config), read_versions(folder), _read_metrics(folder))


def read_versions(folder: RunFolder) -> dict[str, Any]:
    """The content of versions.json; empty, with a warning, where it is damaged, since nothing
    depends on it.
    """
    try:
        return read_object(folder.versions) if folder.versions.exists() else {}
    except RunFolderError as error:
        warnings.warn(f"{error}; the run is read without it", RunFolderWarning, stacklevel=3)
        return {}


def _read_metrics(folder: RunFolder) -> list[loggers.Row]:
    """The rows of a run, compared with what its newest readable checkpoint remembers of them."""
    remembered = _newest_mark(
        folder
    )  # before the rows: a run that is being trained only adds to them
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
    """Update and mark of the newest checkpoint that has one; None where none has."""
    for step in reversed(checkpoint.steps(folder.checkpoints)):
        try:
            mark = mark_of(checkpoint.read_meta(folder.checkpoints, step))
        except checkpoint.CheckpointError:
            continue
        if mark is not None:
            return step, mark
    return None


def mark_of(meta: Mapping[str, Any]) -> loggers.Mark | None:
    """What a checkpoint's ``meta`` remembers of the rows; None in those of an earlier version."""
    return None if meta.get("rows") is None else loggers.Mark(*meta["rows"])


def series(rows: list[loggers.Row], name: str) -> Series:
    """One metric of metrics rows as an array.

    Args:
        rows: as ``writers.read_rows`` gives them, in any order; of two rows of one seed and update
            the later counts.
        name: of the metric.

    Raises:
        KeyError: no row has it; names those there are.
    """
    having = [row for row in rows if name in row]
    if not having:
        there = sorted({key for row in rows for key in row} - {"update", "step", "seed"})
        raise KeyError(f"no row has {name!r}; there are {there}")
    seeds = sorted({row["seed"] for row in having})
    steps = {row["update"]: row["step"] for row in having}
    updates = sorted(steps)
    places = (
        {update: i for i, update in enumerate(updates)},
        {seed: i for i, seed in enumerate(seeds)},
    )
    values = np.full((len(seeds), len(updates)), np.nan)
    for row in having:
        values[places[1][row["seed"]], places[0][row["update"]]] = row[name]
    return Series(
        tuple(seeds), np.array(updates), np.array([steps[update] for update in updates]), values
    )


def renew_versions(folder: RunFolder, update: int) -> str | None:
    """Write down what a run goes on with, and keep what it ran with before where that differs.

    Args:
        folder: of the run.
        update: from which it goes on.

    Returns:
        The differences in words; None where there is none, or nothing to compare with.
    """
    now, before = versions(), read_versions(folder)
    earlier = before.pop("earlier", [])
    differences = _differences(before, now)
    if before and not differences:
        return None
    if before:
        earlier = [*earlier, {**before, "until_update": update}]
    atomic_io.replace_text(
        folder.versions, atomic_io.to_json({**now, "earlier": earlier}, indent=2) + "\n"
    )
    return "; ".join(differences) or None


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The entries of two versions that differ, as ``name before -> now``; none where there is
    nothing before.
    """
    lines = []
    for name, value in now.items():
        was = before.get(name, value)
        if isinstance(value, dict) and isinstance(was, dict):
            every = dict.fromkeys([*value, *was])
            lines += [
                f"{x} {was.get(x)} -> {value.get(x)}" for x in every if was.get(x) != value.get(x)
            ]
        elif was != value:
            lines.append(f"{name} {was} -> {value}")
    return lines


def versions() -> dict[str, Any]:
    """What the numbers of a run depend on besides its config: packages, Python, platform,
    devices.
    """
    devices = jax.devices()
    return {
        "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device_kind": devices[0].device_kind,
        "device_platform": devices[0].platform,
        "device_count": len(devices),
        "process_count": jax.process_count(),
        "x64": bool(jax.config.read("jax_enable_x64")),
    }


def _version(package: str) -> str | None:
    """Installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


_LARGEST = 10_000_000  # bytes of a config: a thousand times more than any has


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object as ``files.to_json`` wrote it, infinities among it; the one reader of stored
    configs.

    Raises:
        RunFolderError: it cannot be read, or is no JSON object; names the file.
    """
    try:
        if not path.is_file():  # nor a pipe or a device, which may never end
            raise RunFolderError(f"{path} is no file")
        if path.stat().st_size > _LARGEST:
            raise RunFolderError(
                f"{path} is damaged: it is larger than any config, {_LARGEST:,} bytes"
            )
        value = atomic_io.from_json(
            atomic_io.read_bytes(path).decode("utf-8-sig")
        )  # some editors add a byte order mark
    except RunFolderError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise RunFolderError(f"{path} is damaged: it holds no JSON object")
    return value
