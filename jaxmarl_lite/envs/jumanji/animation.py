"""GIFs from Jumanji's viewers, without a window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite.types import PyTree


@contextmanager
def _agg_backend() -> Iterator[ModuleType]:
    """Draws with Agg, and restores matplotlib's backend, interactive mode and open figures."""
    import matplotlib
    import matplotlib.pyplot as plt

    backend, interactive, open_figures = (
        matplotlib.get_backend(),
        plt.isinteractive(),
        set(plt.get_fignums()),
    )
    plt.switch_backend("agg")
    try:
        yield plt
    finally:
        for number in set(plt.get_fignums()) - open_figures:
            plt.close(number)
        plt.switch_backend(backend)
        (plt.ion if interactive else plt.ioff)()


def _to_host(state: PyTree) -> PyTree:
    """Returns arrays as numpy, and typed keys unchanged.

    A viewer reads cell by cell, which is slow on JAX's arrays.
    """
    return jax.tree.map(
        lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x), state
    )


def write_gif(
    env: Any,
    states: Sequence[PyTree],
    path: str | Path,
    fps: int,
    limits: tuple[float, float] | None,
) -> Path:
    """Writes a GIF of a list of states of a Jumanji environment.

    See ``JumanjiEnvironment.animate``.

    Args:
        env: the Jumanji environment.
        states: its states, of one environment (one of the B copies), in order.
        path: the file to write, ending in ``.gif``.
        fps: frames per second.
        limits: limits of both axes; None keeps the viewer's.

    Returns:
        The path.

    Raises:
        ValueError: for an empty list, or a path that is not ``.gif``.
    """
    path = Path(path)
    if not states:
        raise ValueError("animate: states is empty; give at least one state")
    if path.suffix != ".gif":
        raise ValueError(f"animate: path must end in .gif, not {path.name!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _agg_backend():
        from matplotlib.animation import PillowWriter

        video = env.animate([_to_host(state) for state in states], interval=round(1000 / fps))
        if limits is not None:
            for axes in video._fig.axes:
                axes.set(xlim=limits, ylim=limits)
        video.save(str(path), writer=PillowWriter(fps=fps), dpi=50)
    return path
