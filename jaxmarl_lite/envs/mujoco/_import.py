"""MuJoCo and MJX, imported without the lines that they print; their compiled parts have no
types.
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


def _imported() -> Any:
    """MuJoCo; its import asks for the OpenGL that ``MUJOCO_GL`` names, and fails without it, though
    only films need it.

    It is imported without any then: films are drawn in a process of their own, which asks once
    more.
    """
    try:
        return importlib.import_module("mujoco")
    except Exception:
        wanted = os.environ.get("MUJOCO_GL")
        if wanted is None:
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "mujoco"]:
            del sys.modules[name]
        os.environ["MUJOCO_GL"] = "disable"
        try:
            return importlib.import_module("mujoco")
        finally:
            os.environ["MUJOCO_GL"] = wanted


with contextlib.redirect_stdout(
    io.StringIO()
):  # MJX says that Warp, its own engine for a GPU, is missing
    mujoco: Any = _imported()
    mjx: Any = importlib.import_module("mujoco.mjx")

_lock = threading.RLock()


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Around what traces MJX: on a CPU, every product of quaternions then ends in a barrier.

    XLA fuses the products along a chain of bodies, and its code for a CPU computes each anew for
    every entry of the next one that asks for it: six links in a row take some 500 times as long as
    they should, ten more than a thousand.
    """
    try:
        math: Any = importlib.import_module("mujoco.mjx._src.math")
        product = math.quat_mul
    except (ImportError, AttributeError):  # another version of MJX: slow at worst
        product = None
    if product is None or jax.default_backend() != "cpu":
        yield
        return
    with _lock:
        math.quat_mul = lambda u, v: jax.lax.optimization_barrier(product(u, v))
        try:
            yield
        finally:
            math.quat_mul = product
