"""Imports of the simulators: without their side effects, and with a word on what is missing."""

from __future__ import annotations

import builtins
import contextlib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import io
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any


class MissingPackageError(ImportError):
    """Packages that an environment needs are missing or too old; the message names them.

    Attributes:
        extra: the extra of this package that installs them; "" for the suite's.
    """

    def __init__(self, message: str, extra: str = ""):
        super().__init__(message)
        self.extra = extra


def require(packages: Mapping[str, tuple[int, ...]], extra: str = "") -> None:
    """Checks that packages are installed, without importing them.

    Args:
        packages: dotted name of a module -> the oldest version that can be used; () for any.
        extra: the extra of this package that installs them; "" for the suite's.

    Raises:
        MissingPackageError: for modules that cannot be found, or a package that is too old.
    """
    missing = [name for name in packages if not is_installed(name)]
    if missing:
        raise MissingPackageError(" and ".join(missing), extra)
    for name, oldest in packages.items():
        installed = importlib.metadata.version(name) if oldest else ""
        if oldest and tuple(map(int, installed.split(".")[: len(oldest)])) < oldest:
            required = ".".join(map(str, oldest))
            raise MissingPackageError(f"{name} {required} or newer, not {installed}", extra)


def is_installed(name: str) -> bool:
    """Returns whether a module can be found; its package is not imported for that.

    Args:
        name: the module's dotted name, with at most one dot.
    """
    package, _, submodule = name.partition(".")
    spec = importlib.util.find_spec(package)
    if spec is None or not submodule:
        return spec is not None
    locations = spec.submodule_search_locations
    return importlib.machinery.PathFinder.find_spec(submodule, locations) is not None


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Suppresses a simulator's side effects inside a ``with`` block.

    - Printed lines (MJX prints that Warp, its own engine for a GPU, is missing) and deprecation
      warnings.
    - JaxMARL's import sets ``sys.stdout`` and ``sys.stderr`` to the streams that Python started
      with, which are not a notebook's; the block's end restores them.
    - In a notebook, Jumanji's import switches matplotlib to the `ipympl` backend: an error where
      that is not installed, and a change of the user's own plots where it is. Inside the block it
      cannot detect the notebook. If the user has imported Jumanji before, it has switched already.

    Yields:
        None.
    """
    streams = {name: getattr(sys, name) for name in ("stdout", "stderr", "__stdout__")}
    notebook_marker = builtins.__dict__.pop("__IPYTHON__", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        sys.stdout = sys.__stdout__ = io.StringIO()  # type: ignore[misc]
        try:
            yield
        finally:
            for name, stream in streams.items():
                setattr(sys, name, stream)
            if notebook_marker is not None:
                builtins.__dict__["__IPYTHON__"] = notebook_marker


def load(module: str) -> Any:
    """Imports a module of a simulator quietly; compiled ones have no types.

    Args:
        module: the module's dotted name.

    Returns:
        The module.
    """
    with quietly():
        return importlib.import_module(module)


def load_mujoco() -> tuple[Any, Any]:
    """Imports MuJoCo, without OpenGL where that is missing, and MJX.

    The import asks for the OpenGL that ``MUJOCO_GL`` names, and fails without it, though only
    videos need it. It is then imported without any: videos are drawn in a process of their own,
    which asks once more.

    Returns:
        The modules ``mujoco`` and ``mujoco.mjx``.
    """
    try:
        return load("mujoco"), load("mujoco.mjx")
    except Exception:
        backend = os.environ.get("MUJOCO_GL")
        if backend is None:
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "mujoco"]:
            del sys.modules[name]
        os.environ["MUJOCO_GL"] = "disable"
        try:
            return load("mujoco"), load("mujoco.mjx")
        finally:
            os.environ["MUJOCO_GL"] = backend
