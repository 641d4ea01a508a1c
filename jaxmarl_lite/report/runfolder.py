"""The folder of a run: its layout, making one without overwriting another, and reading one back."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np

from jaxmarl_lite.report import files, writers

_PACKAGES = (
    "jaxmarl-lite", "jax", "jaxlib", "flax", "optax", "chex", "jumanji", "orbax-checkpoint", "numpy", "mujoco",
    "mujoco-mjx", "jaxmarl",
)  # fmt: skip


class RunFolderError(OSError):
    """A folder holds a run already, holds none, or holds a damaged one; the message names it and the way out."""


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
    def lock(self) -> Path:
        """Held by the process that trains here, as long as it lives."""
        return self.path / ".lock"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep the folder from other processes, where the file system has locks.

        Raises:
            RunFolderError: another process trains here.
        """
        lock, taken = filelock.FileLock(self.lock), True
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise RunFolderError(
                f"the run in {self.path} is being trained by another process; allowed is one at a time: wait for it to "
                f"end, or end it (if there is none, remove {self.lock})"
            ) from None
        except (OSError, RuntimeError):  # the file system has no locks, or lets nothing be written
            taken = False
        try:
            yield
        finally:
            if taken:
                lock.release()

    def holds_a_run(self) -> bool:
        """True where something is there that a new run would overwrite."""
        return any(p.exists() for p in (self.config, self.metrics, self.marl_eval, self.checkpoints, self.tensorboard))


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
    rows: list[writers.Row]

    def names(self) -> list[str]:
        """The metrics that some row has, in order of appearance."""
        seen = dict.fromkeys(name for row in self.rows for name in row)
        return [name for name in seen if name not in ("update", "step", "seed")]

    def series(self, name: str) -> Series:
        """A metric as ``[seeds, evaluations]``; raises KeyError naming the metrics there are."""
        return series(self.rows, name)


def create(path: Path | str, config: Any) -> RunFolder:
    """Make the folder of a new run and write its config and versions.

    Args:
        path: a folder that holds no run; made if missing.
        config: plain data or a dataclass; must go into JSON.

    Raises:
        RunFolderError: it holds a run already, or cannot be made.
    """
    folder = RunFolder(Path(path))
    if folder.path.is_file():
        raise RunFolderError(f"{folder.path} is a file; allowed is a folder that holds no run, or a new one")
    if folder.holds_a_run():
        raise RunFolderError(
            f"{folder.path} already holds a run; continue it with --resume {folder.path} (in Python: resume_run), or "
            "choose another --out"
        )
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = dataclasses.asdict(config)
    try:
        files.replace_text(folder.versions, files.to_json(versions(), indent=2) + "\n")
        files.replace_text(folder.config, files.to_json(config, indent=2) + "\n")
    except OSError as error:
        raise RunFolderError(f"{folder.path} cannot be used for a run: {error}") from error
    return folder


def find(path: Path | str) -> RunFolder:
    """The layout of an existing run; RunFolderError when the folder holds none."""
    folder = RunFolder(Path(path))
    if not folder.path.is_dir():
        raise RunFolderError(f"{folder.path} is no folder")
    if not folder.config.is_file():
        raise RunFolderError(f"{folder.path} holds no run: it has no {folder.config.name}")
    return folder


def read_config(path: Path | str) -> dict[str, Any]:
    """The config of a run; RunFolderError when the folder holds none or it is damaged."""
    return _read_object(find(path).config)


def load(path: Path | str) -> Run:
    """Config, versions and metrics of a run, finished or not.

    Raises:
        RunFolderError: the folder holds no run, or a file in it is damaged; names the file.
    """
    folder = find(path)
    try:
        rows = writers.read_rows(folder.metrics) if folder.metrics.exists() else []
    except ValueError as error:
        raise RunFolderError(str(error)) from error
    found = _read_object(folder.versions) if folder.versions.exists() else {}
    return Run(folder, _read_object(folder.config), found, rows)


def series(rows: list[writers.Row], name: str) -> Series:
    """One metric of metrics rows as an array.

    Args:
        rows: as ``writers.read_rows`` gives them, in any order; of two rows of one seed and update the later counts.
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
    places = {update: i for i, update in enumerate(updates)}, {seed: i for i, seed in enumerate(seeds)}
    values = np.full((len(seeds), len(updates)), np.nan)
    for row in having:
        values[places[1][row["seed"]], places[0][row["update"]]] = row[name]
    return Series(tuple(seeds), np.array(updates), np.array([steps[update] for update in updates]), values)


def versions() -> dict[str, Any]:
    """What the numbers of a run depend on besides its config: packages, Python, platform, devices."""
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


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object; RunFolderError naming the file when it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise RunFolderError(f"{path} is damaged: it holds no JSON object")
    return _revive(value)


def _revive(value: Any) -> Any:
    """Infinities back from the texts that ``files.to_json`` made of them."""
    if isinstance(value, Mapping):
        return {key: _revive(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_revive(entry) for entry in value]
    return {"Infinity": math.inf, "-Infinity": -math.inf}.get(value, value) if isinstance(value, str) else value
