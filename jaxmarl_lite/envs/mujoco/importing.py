"""MuJoCo and MJX, imported without the lines that they print; their compiled parts have no types."""

from __future__ import annotations

import contextlib
import importlib
import io
from typing import Any

with contextlib.redirect_stdout(io.StringIO()):  # MJX says that Warp, its own engine for a GPU, is missing
    mujoco: Any = importlib.import_module("mujoco")
    mjx: Any = importlib.import_module("mujoco.mjx")
