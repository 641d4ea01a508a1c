"""Several devices, processes and hosts: where each part of a training state lives.

Two layouts. ``envs``: every seed's worlds are spread over the devices and its learner is on all of
them, so that one run is faster. ``seeds``: each device trains some of the seeds on its own, so that
no step communicates. The compiler inserts the exchange between devices; the numbers are those of
one device up to rounding.
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
_PER_ENVIRONMENT = (
    "critic_hidden_state",
    "critic_hidden_states",
)  # fields of a learner with an entry for each copy


def make_mesh(devices: int | None = None, layout: Layout = "envs") -> Mesh | None:
    """A line of devices, those of all processes together; None when there is one device and nothing
    to lay out.

    Args:
        devices: how many to use; None takes one, or all where several processes have joined.
        layout: only checked here.

    Raises:
        ValueError: for an unknown layout or more devices than there are.
    """
    check_choice("shard_over", layout, ("envs", "seeds"))
    available = jax.device_count()
    wanted = (available if jax.process_count() > 1 else 1) if devices is None else devices
    wanted = check_int("devices", wanted, 1, available)
    if jax.process_count() > 1 and wanted != available:
        raise ValueError(
            f"devices is {devices!r}; allowed with several processes is all of them, {available}"
        )
    if wanted == 1:
        return None
    return jax.make_mesh(
        (wanted,), (AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:wanted]
    )


def check_layout(
    mesh: Mesh | None, layout: Layout, num_seeds: int, num_envs: int, num_minibatches: int = 1
) -> None:
    """Raise ValueError when seeds or worlds do not divide over the devices."""
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
            "allowed with shard_over "
            f"envs is a multiple of {count * num_minibatches}"
        )


def state_shardings(states: TrainState, mesh: Mesh, layout: Layout = "envs") -> TrainState:
    """The sharding of every leaf of a training state whose leaves lead with ``[seeds]``.

    With layout ``envs`` the leaves of ``rollout_state``, except for its sums ``unreported``, and
    the hidden states that a learner keeps for each world (its ``critic_hidden_state`` or
    ``critic_hidden_states``), are split along B; all others are on every device.
    """
    if layout == "seeds":
        return jax.tree.map(lambda _: NamedSharding(mesh, P(AXIS)), states)
    split, whole = NamedSharding(mesh, P(None, AXIS)), NamedSharding(mesh, P())

    def place(path: Sequence[Any], _: Any) -> NamedSharding:
        names = [getattr(entry, "name", None) for entry in path[:2]]
        by_copy = names[0] == "rollout_state" and names[1] != "unreported"
        return (
            split
            if by_copy or (names[0] == "learner_state" and names[1] in _PER_ENVIRONMENT)
            else whole
        )

    return jax.tree_util.tree_map_with_path(place, states)


def map_over_seeds(
    function: Callable[..., Any], mesh: Mesh | None, layout: Layout = "envs"
) -> Callable[..., Any]:
    """A function over ``[seeds, ...]`` that runs on each device's own seeds with layout ``seeds``;
    else itself.

    With layout ``envs`` the shardings of the arguments are enough: the compiler does the rest.
    """
    if mesh is None or layout == "envs":
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=P(AXIS), out_specs=P(AXIS), check_vma=False)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device is to have whole."""
    return NamedSharding(mesh, P())


def initialize_distributed(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Join this process to the others through JAX's own runtime, which finds Slurm and the like by
    itself.

    Args:
        coordinator: ``host:port`` of process 0; None lets the runtime find it.
        num_processes, process_id: how many there are and which this is; None likewise.
    """
    jax.distributed.initialize(coordinator, num_processes, process_id)


def is_primary() -> bool:
    """Whether this process writes files and shows progress: the first one does."""
    return jax.process_index() == 0


def fetch(tree: PyTree) -> PyTree:
    """Every leaf as a whole numpy array, gathered over the processes if need be. All processes must
    call it.
    """
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    from jax.experimental import multihost_utils

    return jax.tree.map(
        lambda x: np.asarray(multihost_utils.process_allgather(x, tiled=True)), tree
    )
