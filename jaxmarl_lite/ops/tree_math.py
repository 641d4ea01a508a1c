"""Vector arithmetic on trees of arrays."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxmarl_lite.types import Array, PyTree


def vdot(a: PyTree, b: PyTree) -> Array:
    """Inner product of two trees of one structure. Scalar."""
    products = jax.tree.map(lambda x, y: jnp.vdot(x, y, precision=jax.lax.Precision.HIGHEST), a, b)
    parts = jax.tree.leaves(products)
    # no zero to begin with: where double precision is enabled it would turn float32 into float64
    return functools.reduce(jnp.add, parts) if parts else jnp.zeros(())


def norm(a: PyTree) -> Array:
    """Euclidean length of a tree. Scalar."""
    return jnp.sqrt(vdot(a, a))


def scale(factor: Array | float, a: PyTree) -> PyTree:
    """``factor * a``."""
    return jax.tree.map(lambda x: factor * x, a)


def add_scaled(factor: Array | float, a: PyTree, b: PyTree) -> PyTree:
    """``factor * a + b``."""
    return jax.tree.map(lambda x, y: factor * x + y, a, b)


def cosine(a: PyTree, b: PyTree) -> Array:
    """Cosine of the angle between two trees, however short they are; 0 where either is zero. Scalar
    in [-1, 1].
    """
    lengths = norm(a), norm(b)
    return _divide(_divide(vdot(a, b), lengths[0]), lengths[1])


def _divide(x: Array, length: Array) -> Array:
    return jnp.where(length > 0, x / jnp.where(length > 0, length, 1.0), 0.0)


def clip_by_norm(a: PyTree, max_norm: Array | float) -> PyTree:
    """``a`` shortened to ``max_norm`` where it is longer.

    Unlike optax's `clip_by_global_norm` it is differentiable where ``a`` is zero, as a
    meta-gradient needs.
    """
    squared = vdot(a, a)
    length = jnp.sqrt(jnp.where(squared > 0, squared, 1.0))
    return scale(jnp.where(squared > max_norm**2, max_norm / length, 1.0), a)


def all_finite(a: PyTree) -> Array:
    """Whether every number of the tree is finite. Scalar bool."""
    floats = [x for x in jax.tree.leaves(a) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return (
        jnp.all(jnp.stack([jnp.isfinite(x).all() for x in floats])) if floats else jnp.asarray(True)
    )


def where(condition: Array, a: PyTree, b: PyTree) -> PyTree:
    """``a`` where the condition holds, else ``b``; the condition's axes lead those of every
    leaf.
    """

    def leaf(x: Array, y: Array) -> Array:
        return jnp.where(
            condition.reshape(condition.shape + (1,) * (x.ndim - condition.ndim)), x, y
        )

    return jax.tree.map(leaf, a, b)


def prepend(g: PyTree, b: PyTree) -> PyTree:
    """One tree of ``[1 + K, ...]``."""
    return jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), g, b)


def split_first(both: PyTree) -> tuple[PyTree, PyTree]:
    """The inverse of `prepend`."""
    return jax.tree.map(lambda x: x[0], both), jax.tree.map(lambda x: x[1:], both)


def vdots(rows: PyTree, vector: PyTree) -> Array:
    """Inner product of each of the rows with a vector, ``[K]``."""
    return jax.vmap(vdot, (0, None))(rows, vector)


def gram_matrix(a: PyTree, b: PyTree) -> Array:
    """Inner products ``[rows of a, rows of b]``."""
    return jax.vmap(lambda row: vdots(b, row))(a)
