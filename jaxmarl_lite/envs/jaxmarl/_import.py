"""Imports JaxMARL without its output, and reports the extra to install where it is missing."""

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
"""The first version whose states have the fields that this module's adapters read."""


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Suppresses JaxMARL's printed lines and deprecation warnings inside a ``with`` block.

    JaxMARL's import sets ``sys.stdout`` and ``sys.stderr`` to the streams that Python started with,
    which are not a notebook's; the block's end restores them.
    """
    streams = {name: getattr(sys, name) for name in ("stdout", "stderr", "__stdout__")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        sys.stdout = sys.__stdout__ = io.StringIO()  # type: ignore[misc]
        try:
            yield
        finally:
            for name, stream in streams.items():
                setattr(sys, name, stream)


def load(module: str) -> Any:
    """Returns a module inside ``jaxmarl.environments``, importing it without output.

    Args:
        module: the module's dotted name, relative to ``jaxmarl.environments``.

    Returns:
        The module.
    """
    with quietly():
        return importlib.import_module(f"jaxmarl.environments.{module}")


def require(env_id: str) -> None:
    """Checks that JaxMARL is installed in a version that the adapters can use.

    Args:
        env_id: the environment that needs it, for the message.

    Raises:
        ImportError: that names the extra to install, where JaxMARL is missing or too old.
    """
    try:
        installed = importlib.metadata.version("jaxmarl")
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(f"{env_id} needs jaxmarl: install 'jaxmarl-lite[smax]'") from None
    if tuple(int(part) for part in installed.split(".")[:2]) < OLDEST:
        required = ".".join(map(str, OLDEST))
        raise ImportError(
            f"{env_id} needs jaxmarl {required} or newer, not {installed}: install "
            "'jaxmarl-lite[smax]'"
        )
