"""Several devices, processes and hosts: the device layout of each part of a training state.

There are two layouts:

- ``envs``: the environments of every seed are spread over the devices and its learner is on all of
  them, so that one run is faster.
- ``seeds``: each device trains some of the seeds on its own, so that no step communicates.

The compiler inserts the exchange between devices; the numbers are those of one device up to
rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmarl_lite.types import PyTree, TrainState
from jaxmarl_lite.validation import check_choice, check_int

Layout = Literal["envs", "seeds"]
AXIS = "devices"
"""Name of the only axis of a mesh."""
PER_ENVIRONMENT = ("critic_hidden_state", "critic_hidden_states")
"""Fields of a learner's state with an entry for each environment."""


def make_mesh(devices: int | None = None, layout: Layout = "envs") -> Mesh | None:
    """Returns a line of devices, those of all processes together.

    Args:
        devices: Number of devices, 1 up to those available; None takes one, or all of them where
            several processes have joined.
        layout: Layout of the training state; only checked here.

    Returns:
        A mesh with the one axis `AXIS`; None for one device, where there is nothing to lay out.

    Raises:
        ValueError: The layout is unknown, there are fewer devices, or several processes are to use
            only some of the devices.
    """
    check_choice("shard_over", layout, ("envs", "seeds"))
    available = jax.device_count()
    count = (available if jax.process_count() > 1 else 1) if devices is None else devices
    count = check_int("devices", count, 1, available)
    if jax.process_count() > 1 and count != available:
        raise ValueError(
            f"devices is {devices!r}; allowed with several processes is all of them, {available}"
        )
    if count == 1:
        return None
    return mesh_of(jax.devices()[:count])


def mesh_of(devices: Sequence[Any]) -> Mesh:
    """Returns a line of some devices.

    Args:
        devices: JAX's devices.

    Returns:
        A mesh with the one axis `AXIS`.
    """
    return jax.make_mesh(
        (len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=list(devices)
    )


def check_layout(
    mesh: Mesh | None, layout: Layout, num_seeds: int, num_envs: int, num_minibatches: int = 1
) -> None:
    """Checks that seeds or environments divide over the devices.

    Args:
        mesh: The devices; None, one device, fits everything.
        layout: Layout of the training state.
        num_seeds: Number of seeds that train together.
        num_envs: B, number of environments of a seed.
        num_minibatches: Minibatches into which the environments of a seed are dealt.

    Raises:
        ValueError: With ``seeds``, ``num_seeds`` is no multiple of the number of devices; with
            ``envs``, ``num_envs`` is no multiple of devices times minibatches.
    """
    if mesh is None:
        return
    count = mesh.size
    if layout == "seeds" and num_seeds % count:
        raise ValueError(
            f"seeds is {num_seeds} on {count} devices; allowed with shard_over seeds is a "
            f"multiple of {count}"
        )
    if layout == "envs" and num_envs % (count * num_minibatches):
        raise ValueError(
            f"num_envs is {num_envs} on {count} devices with {num_minibatches} minibatches; "
            f"allowed with shard_over envs is a multiple of {count * num_minibatches}"
        )


def state_shardings(states: TrainState, mesh: Mesh, layout: Layout = "envs") -> TrainState:
    """Returns the sharding of every leaf of a training state.

    With layout ``envs`` the leaves of ``rollout_state``, except for its sums ``unreported``, and
    the hidden states that a learner keeps for each environment (its ``critic_hidden_state`` or
    ``critic_hidden_states``), are split along B; all others are on every device. With layout
    ``seeds`` all leaves are split along the seeds.

    Args:
        states: Training states of several seeds; leaves lead with ``[seeds]``.
        mesh: The devices.
        layout: Layout of the training state.

    Returns:
        A `TrainState` with a `NamedSharding` in the place of each leaf.
    """
    if layout == "seeds":
        return jax.tree.map(lambda _: NamedSharding(mesh, P(AXIS)), states)
    split_envs, replicated = NamedSharding(mesh, P(None, AXIS)), NamedSharding(mesh, P())

    def leaf_sharding(path: jax.tree_util.KeyPath, _: object) -> NamedSharding:
        names = [getattr(entry, "name", None) for entry in path[:2]]
        # `unreported` has sums over all environments, and no axis B
        has_envs = (names[0] == "rollout_state" and names[1] != "unreported") or (
            names[0] == "learner_state" and names[1] in PER_ENVIRONMENT
        )
        return split_envs if has_envs else replicated

    return jax.tree_util.tree_map_with_path(leaf_sharding, states)


def map_over_seeds(
    function: Callable[..., Any],
    mesh: Mesh | None,
    layout: Layout = "envs",
    shared: Sequence[int] = (),
) -> Callable[..., Any]:
    """Makes a function over seeds run on each device's own seeds, with layout ``seeds``.

    With layout ``envs`` the shardings of the arguments are enough: the compiler does the rest.

    Args:
        function: A function of positional arguments; these and its results lead with ``[seeds]``.
        mesh: The devices, or None for one device.
        layout: Layout of the training state.
        shared: Positions of arguments that are the same for all seeds.

    Returns:
        The mapped function with layout ``seeds`` on several devices, else ``function`` itself.
    """
    if mesh is None or layout == "envs":
        return function

    def of_all(*args: Any) -> Any:
        specs = tuple(P() if i in shared else P(AXIS) for i in range(len(args)))
        mapped = jax.shard_map(
            function, mesh=mesh, in_specs=specs, out_specs=P(AXIS), check_vma=False
        )
        return mapped(*args)

    return of_all


def is_primary() -> bool:
    """Returns whether this process, as the first one, writes files and shows progress."""
    return jax.process_index() == 0


def place(tree: PyTree, at: NamedSharding | None) -> PyTree:
    """Puts NumPy arrays on the devices of a sharding; every process passes the same arrays.

    Args:
        tree: NumPy arrays, and arrays of JAX, which stay where they are.
        at: The sharding; None leaves all as they are.

    Returns:
        The same tree.
    """
    if at is None:
        return tree

    def put(x: Any) -> Any:
        if isinstance(x, jax.Array):
            return x
        return jax.make_array_from_callback(np.shape(x), at, lambda index: x[index])

    return jax.tree.map(put, tree)


def fetch(tree: PyTree) -> PyTree:
    """Gathers every leaf as a complete NumPy array, over the processes if need be.

    All processes must call it.

    Args:
        tree: Arrays, possibly spread over devices and processes.

    Returns:
        The same tree with NumPy arrays as leaves.
    """
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    from jax.experimental import multihost_utils

    return jax.tree.map(
        lambda x: np.asarray(multihost_utils.process_allgather(x, tiled=True)), tree
    )
