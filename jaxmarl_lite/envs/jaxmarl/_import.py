"""Importing JaxMARL without what it prints, and saying what to install where it is missing."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import sys
import warnings
from collections.abc import Iterator
from typing import Any

OLDEST = (0, 2)
"""The first version whose states have the fields that are read here."""


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without JaxMARL's lines and warnings about itself.

    Its import sets ``sys.stdout`` and ``sys.stderr`` to those that Python began with, which are not
    a notebook's.
    """
    kept = {name: getattr(sys, name) for name in ("stdout", "stderr", "__stdout__")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        sys.stdout = sys.__stdout__ = io.StringIO()  # type: ignore[misc]
        try:
            yield
        finally:
            for name, stream in kept.items():
                setattr(sys, name, stream)


def load(module: str) -> Any:
    """A module inside JaxMARL's ``environments``."""
    with quietly():
        return importlib.import_module(f"jaxmarl.environments.{module}")


def require(env_id: str) -> None:
    """Raise ImportError, saying what to install, where JaxMARL is missing or too old."""
    try:
        found = importlib.metadata.version("jaxmarl")
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(f"{env_id} needs jaxmarl: install 'jaxmarl-lite[smax]'") from None
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise ImportError(
            f"{env_id} needs jaxmarl {wanted} or newer, not {found}: install 'jaxmarl-lite[smax]'"
        )
