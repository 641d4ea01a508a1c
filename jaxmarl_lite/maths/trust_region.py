"""Natural gradients: products with the Fisher matrix, conjugate gradients, and a backtracking search.

    H = E[ J(o)ᵀ F(o) J(o) ] + ζ I

``J(o)`` is the derivative of a distribution's parameters by the policy's weights, ``F(o)`` the Fisher matrix in these
parameters, which every distribution has in closed form, and ζ the damping. At the policy itself this is the Hessian of
the mean KL divergence, by the Gauss-Newton identity and without any second derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

import jaxmarl_lite.maths.trees as trees
from jaxmarl_lite.types import Array, Number, PyTree

Product = Callable[[PyTree], PyTree]


def fisher_product(
    parameters: Callable[[PyTree, Any], PyTree],
    metric: Callable[[PyTree, PyTree, Any], PyTree],
    theta: PyTree,
    parts: Any,
    damping: Number = 0.0,
) -> Product:
    """``v -> H v``, with the policy linearised once, however often the product is taken.

    Args:
        parameters: ``(theta, part) -> parameters`` of the distributions of one part of the samples.
        metric: ``(parameters, tangent, part) -> F tangent``, weighted so that the sum over all parts is the mean.
        theta: the policy's weights.
        parts: samples, every leaf with a leading axis of parts. What is linearised of one part should fit the
            processor's cache: the products go over the parts one after the other.
        damping: ζ.

    Memory: the activations of all samples, and the tangents of one part; nothing grows with the number of products.
    """
    values, pulls = jax.lax.map(lambda part: jax.vjp(lambda weights: parameters(weights, part), theta), parts)

    def product(v: PyTree) -> PyTree:
        chex.assert_trees_all_equal_shapes(v, theta)

        def add(total: PyTree, at: tuple[PyTree, Any, Any]) -> tuple[PyTree, None]:
            value, pull, part = at
            (tangent,) = _transpose(pull, value)(v)
            (found,) = pull(metric(value, tangent, part))
            return trees.axpy(1.0, found, total), None

        return jax.lax.scan(add, trees.scale(damping, v), (values, pulls, parts))[0]

    return product


def _transpose(pull: Callable[[PyTree], tuple[PyTree]], value: PyTree) -> Callable[[PyTree], tuple[PyTree]]:
    """``v -> (J v,)`` from ``u -> (Jᵀ u,)``; it serves a function with a reverse rule of its own as well."""
    transposed = jax.linear_transpose(pull, value)
    return lambda v: transposed((v,))


class Solutions(NamedTuple):
    """What conjugate gradients found for each of R right-hand sides, and how they ended."""

    x: PyTree  # [R, ...]
    residual: PyTree  # [R, ...] b - H x
    relative_residual: Array  # [R] its length over that of b
    iterations: Array  # [R] int
    positive: Array  # [R] bool: every curvature that was met was positive


class _State(NamedTuple):
    x: PyTree
    residual: PyTree
    direction: PyTree
    scaled: PyTree  # the residual after the preconditioner
    rho: Array  # residual · scaled
    iterations: Array
    active: Array
    positive: Array


def conjugate_gradient(
    product: Product,
    b: PyTree,
    iterations: int,
    tolerance: Number = 0.0,
    start: PyTree | None = None,
    precondition: Product | None = None,
) -> Solutions:
    """Solve H x = b for several right-hand sides at once (Hestenes and Stiefel 1952).

    Args:
        product: ``v -> H v``, for one vector; H symmetric and positive definite.
        b: right-hand sides, every leaf with a leading ``[R]``.
        iterations: the most iterations, the same for all.
        tolerance: a right-hand side is done when ``|b - H x| <= tolerance |b|``.
        start: first guesses ``[R, ...]``; zeros when None. A guess costs one product more.
        precondition: ``v -> M⁻¹ v`` for an approximation M of H; the identity when None.

    Where a curvature ``p·Hp`` is not positive, the iteration stops at what it has and says so.
    """
    lengths = jax.vmap(trees.norm)(b)
    # what is zero up to rounding is not divided by
    enough = jnp.maximum(tolerance, 8.0 * jnp.finfo(lengths.dtype).eps) * lengths
    apply, scaled_of = jax.vmap(product), jax.vmap(precondition or (lambda v: v))
    x = jax.tree.map(jnp.zeros_like, b) if start is None else start
    residual = b if start is None else jax.tree.map(jnp.subtract, b, apply(start))
    scaled = scaled_of(residual)
    rho = _dots(residual, scaled)
    none = jnp.zeros(lengths.shape, jnp.int32)
    begin = _State(x, residual, scaled, scaled, rho, none, jax.vmap(trees.norm)(residual) > enough, none == 0)

    def unfinished(carry: tuple[Array, _State]) -> Array:
        return (carry[0] < iterations) & carry[1].active.any()

    def iterate(carry: tuple[Array, _State]) -> tuple[Array, _State]:
        count, now = carry
        h = apply(now.direction)
        curvature = _dots(now.direction, h)
        go = now.active & (curvature > 0.0)
        alpha = jnp.where(go, now.rho / jnp.where(go, curvature, 1.0), 0.0)
        x = _combine(alpha, now.direction, now.x)
        residual = _combine(-alpha, h, now.residual)
        scaled = scaled_of(residual)
        rho = _dots(residual, scaled)
        beta = jnp.where(go, rho / jnp.where(now.rho > 0.0, now.rho, 1.0), 0.0)
        return count + 1, _State(
            x,
            residual,
            _combine(beta, now.direction, scaled),
            scaled,
            rho,
            now.iterations + go,
            go & (jax.vmap(trees.norm)(residual) > enough),
            now.positive & (~now.active | (curvature > 0.0)),
        )

    end = jax.lax.while_loop(unfinished, iterate, (jnp.zeros((), jnp.int32), begin))[1]
    left = jax.vmap(trees.norm)(end.residual) / jnp.where(lengths > 0.0, lengths, 1.0)
    return Solutions(end.x, end.residual, left, end.iterations, end.positive)


def _dots(a: PyTree, b: PyTree) -> Array:
    return jax.vmap(trees.dot)(a, b)


def _combine(factor: Array, a: PyTree, b: PyTree) -> PyTree:
    """``factor[r] * a[r] + b[r]``."""
    return jax.vmap(trees.axpy)(factor, a, b)


class Search(NamedTuple):
    """Where a backtracking search ended."""

    theta: PyTree
    accepted: Array  # [] bool; when False, theta is where it began
    fraction: Array  # [] of the whole step; 0 when nothing was accepted
    tries: Array  # [] int
    found: Any  # what `judge` found at the last try


def backtrack(
    judge: Callable[[PyTree], tuple[Array, Any]],
    theta: PyTree,
    step: PyTree,
    shrink: Number = 0.5,
    tries: int = 10,
    first: Number = 1.0,
) -> Search:
    """The first of ``theta + first shrinkʲ step``, j = 0, 1, ..., that is judged acceptable.

    Args:
        judge: ``theta -> (acceptable, found)``: the conditions, and whatever one may want to know of the last try.
        theta: where the search begins, and ends when no try is acceptable.
        step: the whole step.
        shrink: factor between two tries, inside (0, 1).
        tries: how many at most.
        first: fraction of the first try.
    """
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(judge, theta)[1])
    begin = (jnp.zeros((), jnp.int32), jnp.asarray(False), jnp.asarray(first, jnp.result_type(float)), nothing)

    def searching(carry: Any) -> Array:
        return (carry[0] < tries) & ~carry[1]

    def attempt(carry: Any) -> Any:
        count, _, fraction, _ = carry
        fraction = jnp.where(count > 0, fraction * shrink, fraction)
        acceptable, found = judge(trees.axpy(fraction, step, theta))
        return count + 1, acceptable, fraction, found

    count, accepted, fraction, found = jax.lax.while_loop(searching, attempt, begin)
    fraction = jnp.where(accepted, fraction, 0.0)
    moved = trees.axpy(fraction, step, theta)
    return Search(trees.select(accepted, moved, theta), accepted, fraction, count, found)
