"""The leaves of a state on their way to the disk and back: described, compared, put in their
places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxmarl_lite.types import PyTree


class Leaf(NamedTuple):
    """One leaf in words that JSON can hold."""

    path: str  # as ``jax.tree_util.keystr`` writes it
    shape: list[int]
    dtype: str
    impl: str | None  # generator of a typed key; None for other arrays

    @property
    def empty(self) -> bool:
        """True for arrays without entries, which need no storing."""
        return 0 in self.shape

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of the array that stands for the leaf on the disk: of a typed key, its data's."""
        if self.impl is None:
            return tuple(self.shape)
        return (*self.shape, *jax.random.key_data(jax.random.key(0, impl=self.impl)).shape)

    def empty_array(self) -> np.ndarray:
        """The stored form of an empty leaf."""
        return np.zeros(self.stored_shape, self.dtype if self.impl is None else np.uint32)


def flatten(state: PyTree) -> tuple[list[Leaf], list[Any]]:
    """Descriptions and storable arrays (typed keys as their data) of all leaves, in the tree's
    order.

    What this process holds whole comes back as NumPy arrays, fetched together; what is spread over
    processes stays.

    Raises:
        TypeError: see ``describe``.
    """
    described, arrays = [], []
    for path, value in jax.tree_util.tree_flatten_with_path(state)[0]:
        leaf = describe(jax.tree_util.keystr(path), value)
        described.append(leaf)
        arrays.append(value if leaf.impl is None else jax.random.key_data(value))
    held = [i for i, array in enumerate(arrays) if getattr(array, "is_fully_addressable", True)]
    for i, array in zip(held, jax.device_get([arrays[i] for i in held]), strict=True):
        arrays[i] = np.asarray(
            array, dtype=described[i].dtype if described[i].impl is None else None
        )
    return described, arrays


def describe(path: str, value: Any) -> Leaf:
    """Shape and dtype of a leaf, an array or its abstract stand-in; Python numbers as ``jit`` sees
    them.

    Raises:
        TypeError: it is no array, or a NumPy array whose dtype JAX cannot hold as configured; names
    the leaf.
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


def first_mismatch(stored: Sequence[Leaf], wanted: Sequence[Leaf]) -> str | None:
    """The first leaf whose path, shape or dtype differs, worded to follow the checkpoint's name; or
    None.
    """
    for have, want in zip(stored, wanted, strict=False):
        if have.path != want.path:
            return (
                f"holds another kind of state: it has state{have.path} where state{want.path} "
                "is expected"
            )
        if (have.shape, have.dtype) != (want.shape, want.dtype):
            return (
                f"does not fit: state{have.path} was saved as {have.dtype}{have.shape},"
                f" here it is {want.dtype}{want.shape}"
            )
    if len(stored) == len(wanted):
        return None
    verb, longer = ("has", stored) if len(stored) > len(wanted) else ("lacks", wanted)
    first = longer[min(len(stored), len(wanted))].path
    counts = f"{len(stored)} leaves saved, {len(wanted)} expected"
    return f"holds another kind of state: it {verb} state{first} ({counts})"


def same(a: Any, b: Any) -> bool:
    """Whether two stored arrays agree in every bit, as far as this process holds them."""
    if isinstance(a, jax.Array) and not a.is_fully_addressable:
        whole = isinstance(b, np.ndarray)
        parts = (
            [b[x.index] for x in a.addressable_shards]
            if whole
            else [x.data for x in b.addressable_shards]
        )
        return all(same(x.data, y) for x, y in zip(a.addressable_shards, parts, strict=True))
    a, b = np.asarray(a), np.asarray(b)
    return (a.shape, a.dtype) == (b.shape, b.dtype) and a.tobytes() == b.tobytes()


def restore_argument(leaf: Leaf, value: Any) -> Any:
    """How orbax shall read a leaf: straight onto the template's devices where it spans processes,
    else into NumPy.
    """
    sharding = getattr(value, "sharding", None)
    if leaf.impl is None and sharding is not None and not sharding.is_fully_addressable:
        return ocp.ArrayRestoreArgs(
            sharding=sharding, global_shape=tuple(leaf.shape), dtype=np.dtype(leaf.dtype)
        )
    return ocp.RestoreArgs(restore_type=np.ndarray)


def device_put_like(leaf: Leaf, value: Any, array: Any) -> Any:
    """A read array as the template's leaf ``value`` is: typed, and on its devices where it is bound
    to any.
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
    return jax.make_array_from_callback(
        array.shape, sharding, lambda index: array[index]
    )  # keys over processes
