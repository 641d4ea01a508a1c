"""The platform that programs are traced for: a CPU, a GPU or a TPU.

Some programs are written in another way for a CPU. The platform is that of this process's devices,
unless programs are compiled for a chip that is not there.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import jax

PLATFORMS = ("cpu", "gpu", "tpu")

_compiled_for: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "jaxmarl_lite_platform", default=None
)


def current() -> str:
    """Returns the platform that programs are traced for now: ``cpu``, ``gpu`` or ``tpu``.

    Example:
        >>> with compile_for("tpu"):
        ...     current()
        'tpu'
    """
    return _compiled_for.get() or jax.default_backend()


@contextlib.contextmanager
def compile_for(platform: str) -> Iterator[None]:
    """Context in which programs are traced for a platform that this process may not have.

    Programs that were traced before stay as they are: begin it before a function is first traced.

    Args:
        platform: ``cpu``, ``gpu`` or ``tpu``.

    Yields:
        None.

    Raises:
        ValueError: ``platform`` is something else.
    """
    if platform not in PLATFORMS:
        raise ValueError(f"platform is {platform!r}; allowed is one of {', '.join(PLATFORMS)}")
    token = _compiled_for.set(platform)
    try:
        yield
    finally:
        _compiled_for.reset(token)


def scan_unroll() -> int:
    """Returns how many steps of a short loop over time are written out one after the other.

    An accelerator starts a kernel for every operation of every step, and XLA joins operations
    within the written-out steps; on a CPU they would only take longer to compile.
    """
    return 1 if current() == "cpu" else 16
