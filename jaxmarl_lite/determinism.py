"""Operations that give the same bits in every run on a GPU.

On a CPU two runs with one seed agree bit for bit as they are. On an NVIDIA GPU some operations add
numbers in whatever order its threads finish, unless an option of XLA forbids it before JAX starts.
"""

from __future__ import annotations

import os
from typing import Any

_FLAG = "--xla_gpu_deterministic_ops"


def uses_deterministic_ops() -> bool:
    """Returns whether XLA was told to use deterministic operations on GPUs."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    values = [flag.partition("=")[2] for flag in flags if flag.partition("=")[0] == _FLAG]
    return bool(values) and values[-1].lower() in ("", "true", "1")  # the last one counts


def use_deterministic_ops() -> None:
    """Makes XLA use deterministic operations on GPUs, which may be slower.

    Call it before anything that computes: XLA reads its options when JAX starts its devices. The
    command line has ``--deterministic``. A run notes it in its versions.json.

    Raises:
        ValueError: JAX has started its devices already, without this option.

    Example:
        >>> import jaxmarl_lite as jml
        >>> jml.use_deterministic_ops()  # doctest: +SKIP
    """
    if uses_deterministic_ops():
        return
    if _has_started():
        raise ValueError(
            "deterministic operations are asked for, but JAX has started its devices already; "
            "allowed is to ask before anything is computed, or to start the program with "
            f"XLA_FLAGS={_FLAG}=true"
        )
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=true".strip()


def _has_started() -> bool:
    """Returns whether JAX has started its devices."""
    try:
        from jax._src import xla_bridge  # JAX has no public question for this
    except ImportError:
        return False
    bridge: Any = xla_bridge
    return bool(getattr(bridge, "backends_are_initialized", lambda: False)())
