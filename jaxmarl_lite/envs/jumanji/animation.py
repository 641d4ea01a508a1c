"""GIFs from Jumanji's viewers, without a window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@contextmanager
def _without_windows() -> Iterator[Any]:
    """Draw with Agg, and afterwards leave matplotlib as it was: backend, interactive mode, open
    figures.
    """
    import matplotlib
    import matplotlib.pyplot as plt

    backend, interactive, before = (
        matplotlib.get_backend(),
        plt.isinteractive(),
        set(plt.get_fignums()),
    )
    plt.switch_backend("agg")
    try:
        yield plt
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
        plt.switch_backend(backend)
        (plt.ion if interactive else plt.ioff)()


def _to_host(state: Any) -> Any:
    """Arrays as numpy, so that a viewer's cell-by-cell reading is quick; typed keys stay as they
    are.
    """
    return jax.tree.map(
        lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x), state
    )


def write_gif(
    env: Any, states: Sequence[Any], path: str | Path, fps: int, limits: tuple[float, float] | None
) -> Path:
    """Write a GIF of a list of single-world states of a Jumanji environment; see
    ``JumanjiEnvironment.animate``.
    """
    path = Path(path)
    if not states:
        raise ValueError("animate: states is empty; give at least one state")
    if path.suffix != ".gif":
        raise ValueError(f"animate: path must end in .gif, not {path.name!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _without_windows():
        from matplotlib.animation import PillowWriter

        film = env.animate([_to_host(state) for state in states], interval=round(1000 / fps))
        if limits is not None:
            for axes in film._fig.axes:
                axes.set(xlim=limits, ylim=limits)
        film.save(str(path), writer=PillowWriter(fps=fps), dpi=50)
    return path
