"""Types of the functions of `optax.tree` that the library calls."""

from typing import TypeVar

from jax import Array

_Tree = TypeVar("_Tree")

def bias_correction(moment: _Tree, decay: float, count: Array) -> _Tree: ...
def update_moment(updates: _Tree, moments: _Tree, decay: float, order: int) -> _Tree: ...
def update_moment_per_elem_norm(
    updates: _Tree, moments: _Tree, decay: float, order: int
) -> _Tree: ...
