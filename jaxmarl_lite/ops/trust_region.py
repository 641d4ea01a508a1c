"""Natural gradients: Fisher-vector products, conjugate gradients and a backtracking line search.

    H = E[ J(o)ᵀ F(o) J(o) ] + ζ I

``J(o)`` is the derivative of a distribution's parameters by the policy's weights, ``F(o)`` the
Fisher matrix in these parameters, which every distribution has in closed form, and ζ the damping.
At the policy itself this is the Hessian of the mean KL divergence, by the Gauss-Newton identity and
without any second derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

import jaxmarl_lite.ops.tree_math as tree_math
from jaxmarl_lite.ops import jax_types
from jaxmarl_lite.types import Array, Number, PyTree

Product = Callable[[PyTree], PyTree]
"""A linear map of vectors, ``v -> H v``; a vector is a tree of arrays."""


def fisher_vector_product(
    dist_params_fn: Callable[[PyTree, PyTree], PyTree],
    fisher_fn: Callable[[PyTree, PyTree, PyTree], PyTree],
    params: PyTree,
    chunks: PyTree,
    damping: Number = 0.0,
) -> Product:
    """Returns the function ``v -> H v``, with the policy linearized once for all products.

    Memory: the activations of all samples, and the tangents of one chunk; nothing grows with the
    number of products.

    Args:
        dist_params_fn: ``(params, chunk) -> dist_params``, the parameters of the distributions of
            one chunk of the samples.
        fisher_fn: ``(dist_params, tangent, chunk) -> F tangent``, weighted so that the sum over all
            chunks is the mean over all samples.
        params: the policy's weights.
        chunks: the samples, every leaf with a leading axis of chunks. The linearization of one
            chunk should fit the processor's cache: the products go over the chunks one after the
            other.
        damping: ζ >= 0.

    Returns:
        The product, for vectors of the structure and shapes of ``params``.

    Example:
        Normals of mean ``w o`` and deviation 1, whose Fisher matrix in the mean is 1: H is the mean
        of o², here 7.5, plus the damping. The four samples are in two chunks.

        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import trust_region
        >>> product = trust_region.fisher_vector_product(
        ...     dist_params_fn=lambda w, obs: w * obs,
        ...     fisher_fn=lambda mean, tangent, obs: tangent / 4,  # of four samples
        ...     params=jnp.array(0.3),
        ...     chunks=jnp.array([[1.0, 2.0], [3.0, 4.0]]),
        ...     damping=0.5,
        ... )
        >>> print(product(jnp.array(2.0)))
        16.0
    """

    def linearize(chunk: PyTree) -> tuple[PyTree, jax_types.Pullback[PyTree, PyTree]]:
        return jax_types.vjp(lambda weights: dist_params_fn(weights, chunk), params)

    # The function that `jax.vjp` returns is a tree of arrays, so `lax.map` can stack one per chunk.
    dist_params, vjp_fns = jax_types.lax_map(linearize, chunks)

    def product(v: PyTree) -> PyTree:
        chex.assert_trees_all_equal_shapes(v, params)

        def add_chunk(total: PyTree, inputs: tuple[PyTree, PyTree, PyTree]) -> tuple[PyTree, None]:
            value, vjp_fn, chunk = inputs
            # J v by the transpose of u -> Jᵀ u: there is no `jax.jvp` of a function that has a
            # reverse rule of its own.
            (tangent,) = jax_types.linear_transpose(vjp_fn, value)((v,))
            (summand,) = vjp_fn(fisher_fn(value, tangent, chunk))
            return tree_math.add_scaled(1.0, summand, total), None

        inputs = (dist_params, vjp_fns, chunks)
        return jax.lax.scan(add_chunk, tree_math.scale(damping, v), inputs)[0]

    return product


_norms = jax.vmap(tree_math.norm)
_dots = jax.vmap(tree_math.vdot)
_combine = jax.vmap(tree_math.add_scaled)
"""Lengths ``[R]``, inner products ``a[r] · b[r]``, sums ``factor[r] a[r] + b[r]`` of R vectors."""


class CGResult(NamedTuple):
    """Solutions of conjugate gradients for R right-hand sides.

    Attributes:
        x: ``[R, ...]`` the solutions.
        residual: ``[R, ...]`` b - H x.
        relative_residual: ``[R]`` the residual's length over that of b.
        iterations: ``[R]`` int, the iterations that changed x.
        positive_curvature: ``[R]`` bool, whether every curvature p·Hp was positive.
    """

    x: PyTree
    residual: PyTree
    relative_residual: Array
    iterations: Array
    positive_curvature: Array


class _CGState(NamedTuple):
    """The state of the iteration for R right-hand sides.

    Attributes:
        x: ``[R, ...]`` the solutions so far.
        residual: ``[R, ...]`` b - H x.
        direction: ``[R, ...]`` p, the next search direction.
        preconditioned: ``[R, ...]`` the residual after the preconditioner.
        rho: ``[R]`` residual · preconditioned.
        iterations: ``[R]`` int.
        active: ``[R]`` bool, whether the right-hand side goes on.
        positive_curvature: ``[R]`` bool.
    """

    x: PyTree
    residual: PyTree
    direction: PyTree
    preconditioned: PyTree
    rho: Array
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
    """Solves H x = b for several right-hand sides at once (Hestenes and Stiefel 1952).

    Where a curvature ``p·Hp`` is not positive, the iteration of that right-hand side stops at the x
    it has, and ``positive_curvature`` is False.

    Args:
        matvec: ``v -> H v``, for one vector; H symmetric and positive definite.
        b: right-hand sides, every leaf with a leading ``[R]``.
        max_iterations: the most iterations, the same for all.
        tolerance: a right-hand side is done when ``|b - H x| <= tolerance |b|``.
        initial_x: first guesses ``[R, ...]``; zeros when None. A guess costs one product more.
        preconditioner: ``v -> M⁻¹ v`` for an approximation M of H; the identity when None.

    Returns:
        `CGResult` with the solutions, their residuals, iterations and whether every curvature was
        positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import trust_region
        >>> h = jnp.array([[2.0, 0.0], [0.0, 4.0]])
        >>> b = jnp.array([[2.0, 4.0], [2.0, 0.0]])
        >>> result = trust_region.conjugate_gradient(lambda v: h @ v, b, max_iterations=10)
        >>> print(result.x.round(), result.iterations)
        [[1. 1.]
         [1. 0.]] [2 1]
    """
    lengths = _norms(b)
    # A residual that is zero up to rounding counts as zero, so that nothing is divided by it.
    threshold = jnp.maximum(tolerance, 8.0 * np.finfo(lengths.dtype).eps) * lengths
    products, precondition = jax.vmap(matvec), jax.vmap(preconditioner or (lambda v: v))
    x = tree_math.map_leaves(jnp.zeros_like, b) if initial_x is None else initial_x
    residual = (
        b if initial_x is None else tree_math.map_leaves(jnp.subtract, b, products(initial_x))
    )
    preconditioned = precondition(residual)
    rho = _dots(residual, preconditioned)
    zeros = jnp.zeros(lengths.shape, jnp.int32)
    initial_state = _CGState(
        x,
        residual,
        preconditioned,
        preconditioned,
        rho,
        zeros,
        _norms(residual) > threshold,
        zeros == 0,
    )

    def is_unfinished(carry: tuple[Array, _CGState]) -> Array:
        return (carry[0] < max_iterations) & carry[1].active.any()

    def iterate(carry: tuple[Array, _CGState]) -> tuple[Array, _CGState]:
        count, state = carry
        h_direction = products(state.direction)
        curvature = _dots(state.direction, h_direction)
        # A right-hand side that is done takes steps of length 0 while the others go on.
        takes_step = state.active & (curvature > 0.0)
        alpha = jnp.where(takes_step, state.rho / jnp.where(takes_step, curvature, 1.0), 0.0)
        x = _combine(alpha, state.direction, state.x)
        residual = _combine(-alpha, h_direction, state.residual)
        preconditioned = precondition(residual)
        rho = _dots(residual, preconditioned)
        beta = jnp.where(takes_step, rho / jnp.where(state.rho > 0.0, state.rho, 1.0), 0.0)
        return count + 1, _CGState(
            x,
            residual,
            _combine(beta, state.direction, preconditioned),
            preconditioned,
            rho,
            state.iterations + takes_step,
            takes_step & (_norms(residual) > threshold),
            state.positive_curvature & (~state.active | (curvature > 0.0)),
        )

    final_state = jax.lax.while_loop(
        is_unfinished, iterate, (jnp.zeros((), jnp.int32), initial_state)
    )[1]
    relative_residual = _norms(final_state.residual) / jnp.where(lengths > 0.0, lengths, 1.0)
    return CGResult(
        final_state.x,
        final_state.residual,
        relative_residual,
        final_state.iterations,
        final_state.positive_curvature,
    )


class LineSearchResult(NamedTuple):
    """The end of a backtracking line search.

    Attributes:
        params: the accepted parameters, or those of the start.
        accepted: ``[]`` bool; when False, ``params`` are those of the start.
        step_size: ``[]`` accepted fraction of the whole step; 0 when nothing was accepted.
        num_steps: ``[]`` int, the number of tries.
        aux: the auxiliary output of ``accept_fn`` at the last try.
    """

    params: PyTree
    accepted: Array
    step_size: Array
    num_steps: Array
    aux: PyTree


_SearchState = tuple[Array, Array, Array, PyTree]
"""The number of tries, and of the last one: whether it was accepted, its fraction, its output."""


def backtracking_line_search(
    accept_fn: Callable[[PyTree], tuple[Array, PyTree]],
    params: PyTree,
    step: PyTree,
    shrink_factor: Number = 0.5,
    max_steps: int = 10,
    initial_step_size: Number = 1.0,
) -> LineSearchResult:
    """Finds the first acceptable point along a step, with fractions that shrink geometrically.

    The tries are ``params + initial_step_size shrink_factorʲ step``, j = 0, 1, ...

    Args:
        accept_fn: ``params -> (acceptable, aux)``: whether the conditions hold, a scalar bool, and
            any tree of arrays that the caller wants of the last try.
        params: the start of the search, and its result when no try is acceptable.
        step: the whole step, of the structure of ``params``.
        shrink_factor: factor between two tries, inside (0, 1).
        max_steps: the most tries.
        initial_step_size: fraction of the step at the first try.

    Returns:
        `LineSearchResult` with the parameters, whether a try was accepted, its fraction, the number
        of tries, and the auxiliary output of the last.

    Example:
        From 1 along -4, the tries are -3, -1 and 0; the third is the first inside (-1, 1):

        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import trust_region
        >>> result = trust_region.backtracking_line_search(
        ...     accept_fn=lambda x: (jnp.abs(x) < 1.0, {"square": x**2}),
        ...     params=jnp.array(1.0),
        ...     step=jnp.array(-4.0),
        ... )
        >>> print(result.params, result.accepted, result.step_size, result.num_steps)
        0.0 True 0.25 3
    """
    initial_aux = tree_math.map_leaves(
        lambda x: jnp.zeros(x.shape, x.dtype), jax_types.eval_shape(accept_fn, params)[1]
    )
    initial_state = (
        jnp.zeros((), jnp.int32),
        jnp.asarray(False),
        jnp.asarray(initial_step_size, jnp.result_type(float)),
        initial_aux,
    )

    def is_searching(state: _SearchState) -> Array:
        return (state[0] < max_steps) & ~state[1]

    def attempt(state: _SearchState) -> _SearchState:
        count, _, step_size, _ = state
        step_size = jnp.where(count > 0, step_size * shrink_factor, step_size)
        acceptable, aux = accept_fn(tree_math.add_scaled(step_size, step, params))
        return count + 1, acceptable, step_size, aux

    count, accepted, step_size, aux = jax.lax.while_loop(is_searching, attempt, initial_state)
    step_size = jnp.where(accepted, step_size, 0.0)
    new_params = tree_math.add_scaled(step_size, step, params)
    # Selected, since 0 times a step that is not finite is NaN.
    return LineSearchResult(
        tree_math.where(accepted, new_params, params), accepted, step_size, count, aux
    )
