"""MuJoCo and MJX, imported without the lines that they print.

Their compiled parts have no types.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax


def _import_mujoco() -> Any:
    """Imports MuJoCo, without OpenGL where that is missing.

    The import asks for the OpenGL that ``MUJOCO_GL`` names, and fails without it, though only
    videos need it. It is then imported without any: videos are drawn in a process of their own,
    which asks once more.
    """
    try:
        return importlib.import_module("mujoco")
    except Exception:
        backend = os.environ.get("MUJOCO_GL")
        if backend is None:
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "mujoco"]:
            del sys.modules[name]
        os.environ["MUJOCO_GL"] = "disable"
        try:
            return importlib.import_module("mujoco")
        finally:
            os.environ["MUJOCO_GL"] = backend


# MJX prints that Warp, its own engine for a GPU, is missing
with contextlib.redirect_stdout(io.StringIO()):
    mujoco: Any = _import_mujoco()
    mjx: Any = importlib.import_module("mujoco.mjx")

_lock = threading.RLock()


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Context for tracing MJX: on a CPU, every product of quaternions ends in a barrier.

    XLA fuses the products along a chain of bodies, and its code for a CPU computes each anew for
    every entry of the next one that asks for it: six links in a row take some 500 times as long as
    they should, ten more than a thousand.

    Yields:
        None.
    """
    try:
        math: Any = importlib.import_module("mujoco.mjx._src.math")
        original_product = math.quat_mul
    except (ImportError, AttributeError):  # another version of MJX: slow at worst
        original_product = None
    if original_product is None or jax.default_backend() != "cpu":
        yield
        return
    with _lock:
        math.quat_mul = lambda u, v: jax.lax.optimization_barrier(original_product(u, v))
        try:
            yield
        finally:
            math.quat_mul = original_product
