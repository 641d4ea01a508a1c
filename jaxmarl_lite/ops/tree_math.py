"""Vector arithmetic on trees of arrays, each tree taken as one long vector.

A tree whose leaves have a leading axis ``[K]`` stands for K vectors, its rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Protocol, TypeVar, cast, overload

import jax
import jax.numpy as jnp

from jaxmarl_lite.types import Array, PyTree

Tree = TypeVar("Tree")


class _MapLeaves(Protocol):
    @overload
    def __call__(self, function: Callable[[Array], Array], tree: Tree, /) -> Tree: ...
    @overload
    def __call__(
        self, function: Callable[[Array, Array], Array], tree: Tree, second: Tree, /
    ) -> Tree: ...
    @overload
    def __call__(
        self,
        function: Callable[[Array, Array, Array], Array],
        tree: Tree,
        second: Tree,
        third: Tree,
        /,
    ) -> Tree: ...


map_leaves = cast(_MapLeaves, jax.tree.map)
"""`jax.tree.map` of a function of arrays that returns one, with the types that this implies."""


def vdot(a: PyTree, b: PyTree) -> Array:
    """Computes the inner product of two trees.

    Args:
        a: a tree of arrays.
        b: a tree of the same structure and shapes.

    Returns:
        A scalar, 0 for trees without leaves.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import tree_math
        >>> a = {"w": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}
        >>> b = {"w": jnp.array([4.0, 5.0]), "b": jnp.array(6.0)}
        >>> print(tree_math.vdot(a, b))  # 4 + 10 + 18
        32.0
    """
    products = map_leaves(lambda x, y: jnp.vdot(x, y, precision=jax.lax.Precision.HIGHEST), a, b)
    leaves: list[Array] = jax.tree.leaves(products)
    # The sum does not start from a zero: where double precision is enabled, that would turn float32
    # into float64.
    return functools.reduce(jnp.add, leaves) if leaves else jnp.zeros(())


def norm(a: PyTree) -> Array:
    """Computes the Euclidean length of a tree.

    Args:
        a: a tree of arrays.

    Returns:
        A scalar >= 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import tree_math
        >>> print(tree_math.norm({"w": jnp.array([3.0]), "b": jnp.array(4.0)}))
        5.0
    """
    return jnp.sqrt(vdot(a, a))


def scale(factor: Array | float, a: PyTree) -> PyTree:
    """Computes ``factor * a``.

    Args:
        factor: a scalar.
        a: a tree of arrays.

    Returns:
        A tree of the structure and shapes of ``a``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import tree_math
        >>> print(tree_math.scale(2.0, {"w": jnp.array([3.0, 4.0])})["w"])
        [6. 8.]
    """
    return map_leaves(lambda x: factor * x, a)


def add_scaled(factor: Array | float, a: PyTree, b: PyTree) -> PyTree:
    """Computes ``factor * a + b``.

    Args:
        factor: a scalar.
        a: a tree of arrays.
        b: a tree of the same structure and shapes.

    Returns:
        A tree of the structure and shapes of ``a``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import tree_math
        >>> params, gradient = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([4.0, -4.0])}
        >>> print(tree_math.add_scaled(-0.5, gradient, params)["w"])
        [-1.  4.]
    """
    return map_leaves(lambda x, y: factor * x + y, a, b)


def cosine(a: PyTree, b: PyTree) -> Array:
    """Computes the cosine of the angle between two trees, however short they are.

    Args:
        a: a tree of arrays.
        b: a tree of the same structure and shapes.

    Returns:
        A scalar in [-1, 1]; 0 where either tree is zero.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import tree_math
        >>> a, b = jnp.array([3.0, 4.0]), jnp.array([1.0, 0.0])
        >>> print(f"{tree_math.cosine(a, b):.3f} {tree_math.cosine(a, 0.0 * b):.3f}")
        0.600 0.000
    """
    lengths = norm(a), norm(b)
    # One length after the other: the product of two small ones would vanish.
    return _divide(_divide(vdot(a, b), lengths[0]), lengths[1])


def _divide(x: Array, length: Array) -> Array:
    """Returns ``x / length``, or 0 where the length is 0."""
    return jnp.where(length > 0, x / jnp.where(length > 0, length, 1.0), 0.0)


def clip_by_norm(a: PyTree, max_norm: Array | float) -> PyTree:
    """Shortens a tree to ``max_norm`` where it is longer.

    Unlike optax's `clip_by_global_norm` it is differentiable where ``a`` is zero, as a
    meta-gradient needs.

    Args:
        a: a tree of arrays.
        max_norm: the largest Euclidean length, > 0.

    Returns:
        A tree of the structure and shapes of ``a`` and of its direction.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import tree_math
        >>> a = jnp.array([3.0, 4.0])
        >>> print(tree_math.clip_by_norm(a, 2.5), tree_math.clip_by_norm(a, 10.0))
        [1.5 2. ] [3. 4.]
    """
    squared = vdot(a, a)
    # The root of a safe number: the derivative of √0 is infinite, and 0 times it NaN.
    length = jnp.sqrt(jnp.where(squared > 0, squared, 1.0))
    return scale(jnp.where(squared > max_norm**2, max_norm / length, 1.0), a)


def all_finite(a: PyTree) -> Array:
    """Computes whether every number of a tree is finite.

    Args:
        a: a tree of arrays; only its floating-point and complex leaves are looked at. Leaves that
            are spread over devices in different ways are gathered: check these separately.

    Returns:
        A scalar bool, True for a tree without such leaves.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import tree_math
        >>> print(tree_math.all_finite({"w": jnp.ones(2), "count": jnp.array(3)}))
        True
        >>> print(tree_math.all_finite({"w": jnp.array([1.0, jnp.nan])}))
        False
    """
    floats = [x for x in jax.tree.leaves(a) if jnp.issubdtype(x.dtype, jnp.inexact)]
    # one reduction of all: an accelerator would start a kernel for every leaf
    finite = [jnp.isfinite(x).reshape(-1) for x in floats]
    return jnp.concatenate(finite).all() if finite else jnp.asarray(True)


def where(condition: Array, a: PyTree, b: PyTree) -> PyTree:
    """Selects ``a`` where the condition holds, else ``b``.

    Args:
        condition: bool; its axes are the leading axes of every leaf.
        a: a tree of arrays.
        b: a tree of the same structure and shapes.

    Returns:
        A tree of the structure and shapes of ``a``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import tree_math
        >>> is_first = jnp.array([True, False])
        >>> hidden_state = {"h": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
        >>> print(tree_math.where(is_first, {"h": jnp.zeros((2, 2))}, hidden_state)["h"])
        [[0. 0.]
         [3. 4.]]
    """
    return map_leaves(
        lambda x, y: jnp.where(
            condition.reshape(condition.shape + (1,) * (x.ndim - condition.ndim)), x, y
        ),
        a,
        b,
    )


def prepend(g: PyTree, b: PyTree) -> PyTree:
    """Puts one vector in front of K others.

    Args:
        g: a tree of arrays, one vector.
        b: a tree of the same structure, every leaf with a leading ``[K]``.

    Returns:
        A tree of the same structure, every leaf with a leading ``[1 + K]``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import tree_math
        >>> print(tree_math.prepend(jnp.array([1.0, 2.0]), jnp.array([[3.0, 4.0], [5.0, 6.0]])))
        [[1. 2.]
         [3. 4.]
         [5. 6.]]
    """
    return map_leaves(lambda first, rest: jnp.concatenate([first[None], rest]), g, b)


def split_first(vectors: PyTree) -> tuple[PyTree, PyTree]:
    """Separates the first of 1 + K vectors from the others; the inverse of `prepend`.

    Args:
        vectors: a tree of arrays, every leaf with a leading ``[1 + K]``.

    Returns:
        The first vector, and a tree of the others, every leaf with a leading ``[K]``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import tree_math
        >>> first, rest = tree_math.split_first(jnp.array([[1.0, 2.0], [3.0, 4.0]]))
        >>> print(first, rest)
        [1. 2.] [[3. 4.]]
    """
    return map_leaves(lambda x: x[0], vectors), map_leaves(lambda x: x[1:], vectors)


def vdots(rows: PyTree, vector: PyTree) -> Array:
    """Computes the inner product of every row with a vector.

    Args:
        rows: a tree of arrays, every leaf with a leading ``[K]``.
        vector: a tree of the same structure, without that axis.

    Returns:
        ``[K]`` the inner products.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import tree_math
        >>> rows = jnp.array([[1.0, 0.0], [1.0, 1.0]])
        >>> print(tree_math.vdots(rows, jnp.array([2.0, 3.0])))
        [2. 5.]
    """
    return jax.vmap(vdot, (0, None))(rows, vector)


def gram_matrix(a: PyTree, b: PyTree) -> Array:
    """Computes the inner product of every row of one tree with every row of another.

    Args:
        a: a tree of arrays, every leaf with a leading ``[K]``.
        b: a tree of the same structure, every leaf with a leading ``[L]``.

    Returns:
        ``[K, L]`` the inner products.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import tree_math
        >>> rows = jnp.array([[1.0, 0.0], [1.0, 1.0]])
        >>> print(tree_math.gram_matrix(rows, rows))
        [[1. 1.]
         [1. 2.]]
    """
    return jax.vmap(vdots, (None, 0))(b, a)
