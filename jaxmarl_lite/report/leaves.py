"""Leaves of a state on their way to the disk and back: description, comparison, placement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxmarl_lite.types import PyTree


class Leaf(NamedTuple):
    """Description of one leaf, in values that JSON can hold.

    Attributes:
        path: Path in the tree, as ``jax.tree_util.keystr`` writes it.
        shape: Shape of the array.
        dtype: Name of the array's dtype.
        impl: Generator of a typed key; None for other arrays.
    """

    path: str
    shape: list[int]
    dtype: str
    impl: str | None

    @property
    def empty(self) -> bool:
        """Whether the array has no entries, so that it needs no storing."""
        return 0 in self.shape

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of the array that stands for the leaf on the disk: of a typed key, its data's."""
        if self.impl is None:
            return tuple(self.shape)
        return (*self.shape, *jax.random.key_data(jax.random.key(0, impl=self.impl)).shape)

    def empty_array(self) -> np.ndarray:
        """Returns the stored form of an empty leaf.

        Returns:
            An array without entries, of `stored_shape`.
        """
        return np.zeros(self.stored_shape, self.dtype if self.impl is None else np.uint32)


def flatten(state: PyTree) -> tuple[list[Leaf], list[Any]]:
    """Returns descriptions and storable arrays of all leaves, in the tree's order.

    Typed keys become their data. Arrays that this process holds whole come back as NumPy arrays,
    fetched together; those spread over processes stay.

    Args:
        state: Tree of arrays.

    Returns:
        ``(descriptions, arrays)``, one of each per leaf.

    Raises:
        TypeError: See `describe`.
    """
    described, arrays = [], []
    for path, value in jax.tree_util.tree_flatten_with_path(state)[0]:
        leaf = describe(jax.tree_util.keystr(path), value)
        described.append(leaf)
        arrays.append(value if leaf.impl is None else jax.random.key_data(value))
    # arrays that this process holds whole are fetched in one transfer
    local = [i for i, array in enumerate(arrays) if getattr(array, "is_fully_addressable", True)]
    for i, array in zip(local, jax.device_get([arrays[i] for i in local]), strict=True):
        arrays[i] = np.asarray(
            array, dtype=described[i].dtype if described[i].impl is None else None
        )
    return described, arrays


def describe(path: str, value: Any) -> Leaf:
    """Returns the shape and dtype of a leaf, an array or its abstract stand-in.

    Python numbers are described as ``jit`` sees them.

    Args:
        path: Path of the leaf, as ``jax.tree_util.keystr`` writes it.
        value: The leaf.

    Returns:
        Its description.

    Raises:
        TypeError: It is no array, or an array whose dtype JAX cannot hold as configured; the
            message names the leaf.
    """
    if isinstance(value, (bool, int, float, complex)):
        value = jax.eval_shape(lambda: jnp.asarray(value))
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        raise TypeError(
            f"state{path} is a {type(value).__name__}; only arrays can be saved and restored"
        )
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        impl = str(jax.random.key_impl(value)) if isinstance(value, jax.Array) else "as stored"
        return Leaf(path, list(value.shape), str(value.dtype), impl)
    if value.dtype != jax.dtypes.canonicalize_dtype(value.dtype):
        raise TypeError(
            f"state{path} is {value.dtype}, which JAX cannot hold; cast it or set jax_enable_x64"
        )
    return Leaf(path, list(value.shape), str(value.dtype), None)


def first_mismatch(stored: Sequence[Leaf], expected: Sequence[Leaf]) -> str | None:
    """Returns the first leaf whose path, shape or dtype differs.

    Args:
        stored: Leaves of a checkpoint.
        expected: Leaves of the template.

    Returns:
        The difference, worded to follow the checkpoint's name; None where there is none.
    """
    for actual, template in zip(stored, expected, strict=False):
        if actual.path != template.path:
            return (
                f"holds another kind of state: it has state{actual.path} where "
                f"state{template.path} is expected"
            )
        if (actual.shape, actual.dtype) != (template.shape, template.dtype):
            return (
                f"does not fit: state{actual.path} was saved as {actual.dtype}{actual.shape},"
                f" here it is {template.dtype}{template.shape}"
            )
    if len(stored) == len(expected):
        return None
    verb, longer = ("has", stored) if len(stored) > len(expected) else ("lacks", expected)
    first = longer[min(len(stored), len(expected))].path
    counts = f"{len(stored)} leaves saved, {len(expected)} expected"
    return f"holds another kind of state: it {verb} state{first} ({counts})"


def same(a: Any, b: Any) -> bool:
    """Returns whether two stored arrays agree in every bit that this process holds.

    Args:
        a: An array of NumPy or JAX.
        b: Another one.

    Returns:
        True where shape, dtype and bits agree.
    """
    if isinstance(a, jax.Array) and not a.is_fully_addressable:
        is_local = isinstance(b, np.ndarray)
        other_parts = (
            [b[x.index] for x in a.addressable_shards]
            if is_local
            else [x.data for x in b.addressable_shards]
        )
        return all(same(x.data, y) for x, y in zip(a.addressable_shards, other_parts, strict=True))
    a, b = np.asarray(a), np.asarray(b)
    return (a.shape, a.dtype) == (b.shape, b.dtype) and a.tobytes() == b.tobytes()


def restore_argument(leaf: Leaf, value: Any) -> ocp.RestoreArgs:
    """Returns the instruction by which orbax reads a leaf.

    It reads straight onto the template's devices where the leaf spans processes, else into NumPy.

    Args:
        leaf: Description of the leaf.
        value: The template's leaf.

    Returns:
        Orbax's arguments for this leaf.
    """
    sharding = getattr(value, "sharding", None)
    if leaf.impl is None and sharding is not None and not sharding.is_fully_addressable:
        return ocp.ArrayRestoreArgs(
            sharding=sharding, global_shape=tuple(leaf.shape), dtype=np.dtype(leaf.dtype)
        )
    return ocp.RestoreArgs(restore_type=np.ndarray)


def device_put_like(leaf: Leaf, value: Any, array: Any) -> Any:
    """Returns a read array in the form and place of the template's leaf.

    It is typed where the leaf is a typed key, and on the leaf's devices where it is bound to any.

    Args:
        leaf: Description of the leaf.
        value: The template's leaf.
        array: Array as it was read.

    Returns:
        An array of NumPy where the template's leaf is one, else of JAX.
    """
    if isinstance(value, np.ndarray):
        return np.asarray(array)
    if leaf.impl is not None:
        array = jax.random.wrap_key_data(jnp.asarray(array), impl=leaf.impl)
    sharding = getattr(value, "sharding", None)
    if sharding is None or not getattr(value, "committed", True):
        return jnp.asarray(array)
    if getattr(array, "sharding", None) == sharding:
        return array
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    # typed keys that spread over processes
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
