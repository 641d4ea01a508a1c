"""Natural gradients: products with the Fisher matrix, conjugate gradients, and a backtracking
search.

    H = E[ J(o)ᵀ F(o) J(o) ] + ζ I

``J(o)`` is the derivative of a distribution's parameters by the policy's weights, ``F(o)`` the
Fisher matrix in these parameters, which every distribution has in closed form, and ζ the damping.
At the policy itself this is the Hessian of the mean KL divergence, by the Gauss-Newton identity and
without any second derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

import jaxmarl_lite.ops.tree_math as tree_math
from jaxmarl_lite.types import Array, Number, PyTree

Product = Callable[[PyTree], PyTree]


def fisher_vector_product(
    dist_params_fn: Callable[[PyTree, Any], PyTree],
    fisher_fn: Callable[[PyTree, PyTree, Any], PyTree],
    params: PyTree,
    chunks: Any,
    damping: Number = 0.0,
) -> Product:
    """``v -> H v``, with the policy linearized once, however often the product is taken.

    Args:
        dist_params_fn: ``(params, part) -> parameters`` of the distributions of one part of the
            samples.
        fisher_fn: ``(parameters, tangent, part) -> F tangent``, weighted so that the sum over all
            parts is the mean.
        params: the policy's weights.
        chunks: samples, every leaf with a leading axis of parts. What is linearized of one part
            should fit the processor's cache: the products go over the parts one after the other.
        damping: ζ.

    Memory: the activations of all samples, and the tangents of one part; nothing grows with the
    number of products.
    """
    values, pulls = jax.lax.map(
        lambda part: jax.vjp(lambda weights: dist_params_fn(weights, part), params), chunks
    )

    def product(v: PyTree) -> PyTree:
        chex.assert_trees_all_equal_shapes(v, params)

        def add(total: PyTree, at: tuple[PyTree, Any, Any]) -> tuple[PyTree, None]:
            value, pull, part = at
            (tangent,) = _transpose(pull, value)(v)
            (found,) = pull(fisher_fn(value, tangent, part))
            return tree_math.add_scaled(1.0, found, total), None

        return jax.lax.scan(add, tree_math.scale(damping, v), (values, pulls, chunks))[0]

    return product


def _transpose(
    pull: Callable[[PyTree], tuple[PyTree]], value: PyTree
) -> Callable[[PyTree], tuple[PyTree]]:
    """``v -> (J v,)`` from ``u -> (Jᵀ u,)``; it serves a function with a reverse rule of its own as
    well.
    """
    transposed = jax.linear_transpose(pull, value)
    return lambda v: transposed((v,))


class CGResult(NamedTuple):
    """What conjugate gradients found for each of R right-hand sides, and how they ended."""

    x: PyTree  # [R, ...]
    residual: PyTree  # [R, ...] b - H x
    relative_residual: Array  # [R] its length over that of b
    iterations: Array  # [R] int
    positive_curvature: Array  # [R] bool: every curvature that was met was positive


class _CGState(NamedTuple):
    x: PyTree
    residual: PyTree
    direction: PyTree
    preconditioned: PyTree  # the residual after the preconditioner
    rho: Array  # residual · preconditioned
    iterations: Array
    active: Array
    positive_curvature: Array


def conjugate_gradient(
    matvec: Product,
    b: PyTree,
    max_iterations: int,
    tolerance: Number = 0.0,
    initial_x: PyTree | None = None,
    preconditioner: Product | None = None,
) -> CGResult:
    """Solve H x = b for several right-hand sides at once (Hestenes and Stiefel 1952).

    Args:
        matvec: ``v -> H v``, for one vector; H symmetric and positive definite.
        b: right-hand sides, every leaf with a leading ``[R]``.
        max_iterations: the most iterations, the same for all.
        tolerance: a right-hand side is done when ``|b - H x| <= tolerance |b|``.
        initial_x: first guesses ``[R, ...]``; zeros when None. A guess costs one product more.
        preconditioner: ``v -> M⁻¹ v`` for an approximation M of H; the identity when None.

    Where a curvature ``p·Hp`` is not positive, the iteration stops at what it has and says so.
    """
    lengths = jax.vmap(tree_math.norm)(b)
    # what is zero up to rounding is not divided by
    enough = jnp.maximum(tolerance, 8.0 * jnp.finfo(lengths.dtype).eps) * lengths
    apply, scaled_of = jax.vmap(matvec), jax.vmap(preconditioner or (lambda v: v))
    x = jax.tree.map(jnp.zeros_like, b) if initial_x is None else initial_x
    residual = b if initial_x is None else jax.tree.map(jnp.subtract, b, apply(initial_x))
    scaled = scaled_of(residual)
    rho = _dots(residual, scaled)
    none = jnp.zeros(lengths.shape, jnp.int32)
    begin = _CGState(
        x,
        residual,
        scaled,
        scaled,
        rho,
        none,
        jax.vmap(tree_math.norm)(residual) > enough,
        none == 0,
    )

    def unfinished(carry: tuple[Array, _CGState]) -> Array:
        return (carry[0] < max_iterations) & carry[1].active.any()

    def iterate(carry: tuple[Array, _CGState]) -> tuple[Array, _CGState]:
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
        return count + 1, _CGState(
            x,
            residual,
            _combine(beta, now.direction, scaled),
            scaled,
            rho,
            now.iterations + go,
            go & (jax.vmap(tree_math.norm)(residual) > enough),
            now.positive_curvature & (~now.active | (curvature > 0.0)),
        )

    end = jax.lax.while_loop(unfinished, iterate, (jnp.zeros((), jnp.int32), begin))[1]
    left = jax.vmap(tree_math.norm)(end.residual) / jnp.where(lengths > 0.0, lengths, 1.0)
    return CGResult(end.x, end.residual, left, end.iterations, end.positive_curvature)


def _dots(a: PyTree, b: PyTree) -> Array:
    return jax.vmap(tree_math.vdot)(a, b)


def _combine(factor: Array, a: PyTree, b: PyTree) -> PyTree:
    """``factor[r] * a[r] + b[r]``."""
    return jax.vmap(tree_math.add_scaled)(factor, a, b)


class LineSearchResult(NamedTuple):
    """Where a backtracking search ended."""

    params: PyTree
    accepted: Array  # [] bool; when False, params is where it began
    step_size: Array  # [] of the whole step; 0 when nothing was accepted
    num_steps: Array  # [] int
    aux: Any  # what `accept_fn` found at the last try


def backtracking_line_search(
    accept_fn: Callable[[PyTree], tuple[Array, Any]],
    params: PyTree,
    step: PyTree,
    shrink_factor: Number = 0.5,
    max_steps: int = 10,
    initial_step_size: Number = 1.0,
) -> LineSearchResult:
    """The first of ``params + initial_step_size shrink_factorʲ step``, j = 0, 1, ..., that is
    judged acceptable.

    Args:
        accept_fn: ``params -> (acceptable, found)``: the conditions, and whatever one may want to
            know of the last try.
        params: where the search begins, and ends when no try is acceptable.
        step: the whole step.
        shrink_factor: factor between two tries, inside (0, 1).
        max_steps: how many at most.
        initial_step_size: fraction of the first try.
    """
    nothing = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(accept_fn, params)[1]
    )
    begin = (
        jnp.zeros((), jnp.int32),
        jnp.asarray(False),
        jnp.asarray(initial_step_size, jnp.result_type(float)),
        nothing,
    )

    def searching(carry: Any) -> Array:
        return (carry[0] < max_steps) & ~carry[1]

    def attempt(carry: Any) -> Any:
        count, _, fraction, _ = carry
        fraction = jnp.where(count > 0, fraction * shrink_factor, fraction)
        acceptable, found = accept_fn(tree_math.add_scaled(fraction, step, params))
        return count + 1, acceptable, fraction, found

    count, accepted, fraction, found = jax.lax.while_loop(searching, attempt, begin)
    fraction = jnp.where(accepted, fraction, 0.0)
    moved = tree_math.add_scaled(fraction, step, params)
    return LineSearchResult(
        tree_math.where(accepted, moved, params), accepted, fraction, count, found
    )
