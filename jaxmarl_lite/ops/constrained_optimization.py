"""The exact policy step under K linear cost limits, for a linear objective in a trust region.

    max_x g·x   subject to   c_k + b_k·x <= 0  (k = 1..K),   ½ x·Hx <= δ

It is the problem of MACPO's practical form (Gu et al. 2021, section 4.2; for one agent CPO, Achiam
et al. 2017, equation 10) for any small number of costs. With ``q = g·H⁻¹g``, ``r = B H⁻¹g`` and
``S = B H⁻¹Bᵀ``, the best step that has the costs of a set A at their limits goes to the nearest
point of those faces and from there along them,

    x_A = -H⁻¹B_Aᵀ S_A⁻¹ c_A + t H⁻¹(g - B_Aᵀ S_A⁻¹ r_A)
    t² (q - r_A·S_A⁻¹ r_A) = 2δ - c_A·S_A⁻¹ c_A

and the solution is the best of the 2^K that keep every limit. Where none does, the solution is the
step of the trust region with the least total violation ``Σ_k max(0, c_k + b_k·x)``, of the same
form: each violated cost counts into the objective with its gradient, each cost that ends at its
limit is a face, and the best of the 3^K sign patterns is taken.

A vector is an array or a tree of arrays; K vectors are a tree whose leaves have a leading ``[K]``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

import jaxmarl_lite.ops.tree_math as tree_math
from jaxmarl_lite.ops import jax_types
from jaxmarl_lite.types import Array, Number, PyTree

INFEASIBLE, RECOVERABLE, CONSTRAINED, UNCONSTRAINED, ZERO_COST_GRADIENT = range(5)
"""Cases of a step, in this order: the limits cannot be met inside the trust region; some limit is
broken at x = 0, and all can be met; none is broken, and some limit cuts the trust region; the whole
trust region keeps the limits; no cost has a gradient. The numbers are those of the reference
implementation of CPO (Achiam et al. 2017)."""

MAX_COSTS = 4
"""The most costs that a step can take: it tries 2^K sets of limits, and 3^K sign patterns."""
_MAX_OFFSET = 2.0
"""Distance of a limit from x = 0 beyond which it is cut, in radii of the trust region."""


class ConstrainedStep(NamedTuple):
    """A step, its case and multipliers, and its effect in the linear and quadratic models.

    Attributes:
        direction: x, of the structure of g.
        case: ``[]`` int, one of the cases from `INFEASIBLE` to `ZERO_COST_GRADIENT`.
        kl_dual: ``[]`` λ, the multiplier of the trust region, with
            ``x = (H⁻¹g - Σ_k ν_k H⁻¹b_k) / λ``; 0 in a recovery, where ``x = -Σ_k ν_k H⁻¹b_k``.
        cost_duals: ``[K]`` ν, the multipliers of the costs.
        predicted_gain: ``[]`` g·x.
        predicted_violation: ``[K]`` c + b·x.
        kl: ``[]`` ½ x·Hx, in nats.
    """

    direction: PyTree
    case: Array
    kl_dual: Array
    cost_duals: Array
    predicted_gain: Array
    predicted_violation: Array
    kl: Array


class StepCoefficients(NamedTuple):
    """A step as ``x = alpha H⁻¹g + Σ_k beta_k H⁻¹b_k``, with its case and multipliers.

    Attributes:
        alpha: ``[]`` coefficient of H⁻¹g.
        beta: ``[K]`` coefficients of the H⁻¹b_k.
        case: ``[]`` int, see `ConstrainedStep`.
        kl_dual: ``[]`` λ, see `ConstrainedStep`.
        cost_duals: ``[K]`` ν, see `ConstrainedStep`.
    """

    alpha: Array
    beta: Array
    case: Array
    kl_dual: Array
    cost_duals: Array


def constrained_step(
    g: PyTree, b: PyTree, c: Array, inverse_fisher: Callable[[PyTree], PyTree], target_kl: Number
) -> ConstrainedStep:
    """Computes the step of the trust region that gains most among those that keep every limit.

    Where no step keeps every limit, it is the one that breaks them least. A cost whose gradient is
    zero cannot be changed by any step, and is left out.

    Args:
        g: gradient of the objective, which is to grow; an array or a tree.
        b: gradients of the costs, of the same structure, every leaf with a leading ``[K]``; K from
            0 to 4.
        c: ``[K]`` the amount by which each cost is beyond its limit at x = 0; negative where it
            keeps it.
        inverse_fisher: ``v -> H⁻¹v`` for one vector of the structure of ``g``; it is mapped over
            all of them at once.
        target_kl: δ > 0, the bound of ½ x·Hx, in nats.

    Returns:
        `ConstrainedStep` with the step x, its case, its multipliers, and its predicted gain,
        violations and KL divergence.

    Raises:
        ValueError: there are more than `MAX_COSTS` costs, ``b`` or ``c`` has another shape, or
            ``target_kl`` is known and not positive.

    Example:
        H is the identity, and the trust region the disc |x|² <= 2. The cost grows with x_1, and its
        limit is x_1 <= 1, so the step is (1, 1) = (g - ν b_1) / λ with both multipliers 1:

        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import constrained_optimization
        >>> step = constrained_optimization.constrained_step(
        ...     g=jnp.array([2.0, 1.0]),
        ...     b=jnp.array([[1.0, 0.0]]),
        ...     c=jnp.array([-1.0]),
        ...     inverse_fisher=lambda v: v,
        ...     target_kl=1.0,
        ... )
        >>> print(step.direction.round(), step.cost_duals.round(), step.kl_dual.round())
        [1. 1.] [1.] 1.0
        >>> int(step.case) == constrained_optimization.CONSTRAINED
        True
    """
    _check_problem(g, b, c, target_kl)
    vectors = tree_math.prepend(g, b)
    solutions = jax.vmap(inverse_fisher)(vectors)
    hg, hb = tree_math.split_first(solutions)
    coefficients = solve_dual(
        tree_math.vdot(g, hg), tree_math.vdots(b, hg), tree_math.gram_matrix(b, hb), c, target_kl
    )
    return assemble_step(coefficients, g, b, c, solutions, vectors)


def _check_problem(g: PyTree, b: PyTree, c: Array, target_kl: Number) -> None:
    """Raises ValueError where the parts of a problem do not fit together."""
    # In a trace, comparisons of JAX arrays are traced even where their values are known.
    if not isinstance(target_kl, Tracer) and not np.asarray(target_kl) > 0.0:
        raise ValueError(f"target_kl is {target_kl}; allowed is a number above 0")
    if jnp.ndim(c) != 1:
        raise ValueError(f"c has shape {jnp.shape(c)}; allowed is [K], an entry for each cost")
    structures: list[object] = list(map(jax_types.tree_structure, (g, b)))
    if structures[0] != structures[1]:
        raise ValueError(f"b is {structures[1]}; allowed is the structure of g, {structures[0]}")
    for leaf, stacked in zip(jax.tree.leaves(g), jax.tree.leaves(b), strict=True):
        shape = (len(c), *jnp.shape(leaf))
        if jnp.shape(stacked) != shape:
            raise ValueError(
                f"b has an entry of shape {jnp.shape(stacked)}; allowed is {shape}, one gradient "
                "of the shape of g for each entry of c"
            )


def subspace_constrained_step(
    g: PyTree, b: PyTree, c: Array, x: PyTree, hx: PyTree, target_kl: Number
) -> ConstrainedStep:
    """Solves the problem of `constrained_step` within the span of given vectors.

    Conjugate gradients that end early give vectors that are not quite H⁻¹g and H⁻¹b. The step is
    exact all the same, whatever the vectors are: it keeps the limits and the radius of the models,
    and gains the most that any combination of the vectors can.

    Args:
        g: gradient of the objective, as in `constrained_step`.
        b: gradients of the costs, every leaf with a leading ``[K]``.
        c: ``[K]`` the amount by which each cost is beyond its limit at x = 0.
        x: ``1 + K`` vectors, every leaf with a leading axis.
        hx: H times each of them, of the same shapes.
        target_kl: δ > 0, the bound of ½ x·Hx, in nats.

    Returns:
        `ConstrainedStep`, as `constrained_step` returns it.

    Raises:
        ValueError: as for `constrained_step`.

    Example:
        The problem of `constrained_step`, with two vectors that span the plane:

        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import constrained_optimization
        >>> x = jnp.array([[1.0, 2.0], [0.0, 1.0]])
        >>> step = constrained_optimization.subspace_constrained_step(
        ...     g=jnp.array([2.0, 1.0]), b=jnp.array([[1.0, 0.0]]), c=jnp.array([-1.0]),
        ...     x=x, hx=x, target_kl=1.0,
        ... )
        >>> print(step.direction.round())
        [1. 1.]
    """
    _check_problem(g, b, c, target_kl)
    chex.assert_trees_all_equal_shapes(x, hx)
    gram = tree_math.gram_matrix(x, hx)

    projections = jnp.concatenate(
        [tree_math.vdots(x, g)[:, None], tree_math.gram_matrix(b, x).T], 1
    )
    # The columns of `weights` combine the vectors to H⁻¹g and the H⁻¹b_k, as seen inside the span.
    weights, _ = _solve(0.5 * (gram + gram.T), projections)
    inner = projections.T @ weights
    inner = 0.5 * (inner + inner.T)
    coefficients = solve_dual(inner[0, 0], inner[1:, 0], inner[1:, 1:], c, target_kl)

    solutions, products = (
        tree_math.map_leaves(lambda leaf: jnp.tensordot(weights, leaf, ((0,), (0,))), vectors)
        for vectors in (x, hx)
    )
    return assemble_step(coefficients, g, b, c, solutions, products)


def assemble_step(
    coefficients: StepCoefficients,
    g: PyTree,
    b: PyTree,
    c: Array,
    solutions: PyTree,
    products: PyTree,
) -> ConstrainedStep:
    """Builds the step from its coefficients.

    Args:
        coefficients: the solution of `solve_dual`.
        g: gradient of the objective, as in `constrained_step`.
        b: gradients of the costs, every leaf with a leading ``[K]``.
        c: ``[K]`` the amount by which each cost is beyond its limit at x = 0.
        solutions: H⁻¹g and H⁻¹b, ``[1 + K, ...]``.
        products: H times these, ``[1 + K, ...]``.

    Returns:
        `ConstrainedStep` with the step x, its case, its multipliers, and its predicted gain,
        violations and KL divergence.

    Example:
        The step of `constrained_step`, (1, 1) = g - b_1, with H the identity:

        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import constrained_optimization
        >>> coefficients = constrained_optimization.StepCoefficients(
        ...     alpha=jnp.array(1.0), beta=jnp.array([-1.0]), case=jnp.array(2),
        ...     kl_dual=jnp.array(1.0), cost_duals=jnp.array([1.0]),
        ... )
        >>> g, b, c = jnp.array([2.0, 1.0]), jnp.array([[1.0, 0.0]]), jnp.array([-1.0])
        >>> vectors = jnp.array([[2.0, 1.0], [1.0, 0.0]])
        >>> step = constrained_optimization.assemble_step(coefficients, g, b, c, vectors, vectors)
        >>> print(step.direction, step.predicted_gain, step.predicted_violation, step.kl)
        [1. 1.] 3.0 [0.] 1.0
    """
    weights = jnp.concatenate([coefficients.alpha[None], coefficients.beta])
    x, hx = (
        tree_math.map_leaves(lambda leaf: jnp.tensordot(weights, leaf, 1), tree)
        for tree in (solutions, products)
    )
    return ConstrainedStep(
        x,
        coefficients.case,
        coefficients.kl_dual,
        coefficients.cost_duals,
        tree_math.vdot(g, x),
        c + tree_math.vdots(b, x),
        0.5 * tree_math.vdot(x, hx),
    )


def solve_dual(q: Array, r: Array, s: Array, c: Array, target_kl: Number) -> StepCoefficients:
    """Solves the problem of `constrained_step` in the coordinates of its gradients.

    Args:
        q: ``[]`` g·H⁻¹g.
        r: ``[K]`` b_k·H⁻¹g.
        s: ``[K, K]`` b_k·H⁻¹b_l.
        c: ``[K]`` the amount by which each cost is beyond its limit at x = 0. ``-inf`` is no limit.
        target_kl: δ > 0, the bound of ½ x·Hx, in nats.

    Returns:
        `StepCoefficients` with the coefficients of the step, its case and its multipliers.

    Raises:
        ValueError: when there are more than `MAX_COSTS` costs.

    Example:
        The problem of `constrained_step`, where g = (2, 1), b_1 = (1, 0) and x = g - b_1:

        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.ops import constrained_optimization
        >>> coefficients = constrained_optimization.solve_dual(
        ...     q=jnp.array(5.0), r=jnp.array([2.0]), s=jnp.array([[1.0]]),
        ...     c=jnp.array([-1.0]), target_kl=1.0,
        ... )
        >>> print(coefficients.alpha.round(), coefficients.beta.round())
        1.0 [-1.]
    """
    chex.assert_rank([q, r, s, c], [0, 1, 2, 1])
    k = c.shape[0]
    chex.assert_shape([r, c], (k,))
    chex.assert_shape(s, (k, k))
    if k > MAX_COSTS:
        raise ValueError(
            f"c has {k} costs; allowed are 0 to {MAX_COSTS}, because every subset of the limits is "
            "tried"
        )
    # Without units: gradients of length 1 in the metric H⁻¹, a trust region of radius 1.
    radius = jnp.sqrt(2.0 * target_kl)
    diagonal = s.diagonal()
    has_gradient = diagonal > np.finfo(q.dtype).tiny ** 0.5
    lengths = jnp.concatenate(
        [jnp.sqrt(_nonzero(q))[None], jnp.sqrt(jnp.where(has_gradient, diagonal, 1.0))]
    )
    unit_gram = _unit_gram(q, r, s, has_gradient, lengths)
    # A limit beyond the reach of the trust region makes no difference, however far it is, and may
    # be infinite (no limit): it is cut.
    offsets = jnp.where(
        has_gradient,
        jnp.clip(c / (lengths[1:] * radius), -_MAX_OFFSET, _MAX_OFFSET),
        -_MAX_OFFSET,
    )
    step, feasible = _best_feasible(unit_gram, offsets, has_gradient)
    is_cut = (has_gradient & (offsets >= -1.0)).any()
    case = jnp.where(
        ~has_gradient.any(),
        ZERO_COST_GRADIENT,
        jnp.where(
            (has_gradient & (offsets > 0.0)).any(),
            RECOVERABLE,
            jnp.where(is_cut, CONSTRAINED, UNCONSTRAINED),
        ),
    )
    if k:
        rescue = _least_violation(unit_gram, offsets, has_gradient, lengths)
        step = tree_math.map_leaves(lambda a, b: jnp.where(feasible, a, b), step, rescue)
        case = jnp.where(feasible, case, INFEASIBLE)
    scales = radius / lengths
    kl_dual, cost_duals = _multipliers(step, scales)
    weights = step.weights * scales
    return StepCoefficients(weights[0], weights[1:], case, kl_dual, cost_duals)


class _Candidate(NamedTuple):
    """A point of the unit problem, and the parts that compose it.

    Attributes:
        weights: ``[1 + K]`` weights of the unit gradients.
        tangent: ``[1 + K]`` the component of the objective along the faces, as such weights.
        length: ``[]`` the multiple of ``tangent`` that the point contains.
        valid: ``[]`` bool, whether the faces are independent and meet the unit ball.
    """

    weights: Array
    tangent: Array
    length: Array
    valid: Array


def _unit_gram(q: Array, r: Array, s: Array, has_gradient: Array, lengths: Array) -> Array:
    """Returns the inner products ``[1 + K, 1 + K]`` of the gradients at unit length.

    Gradients that are left out are at right angles to all others.
    """
    gram = jnp.block([[q[None, None], r[None, :]], [r[:, None], 0.5 * (s + s.T)]])
    included = jnp.concatenate([q[None] > 0, has_gradient])
    unit_gram = gram / (lengths[:, None] * lengths[None, :])
    unit_gram = jnp.where(
        included[:, None] & included[None, :], jnp.clip(unit_gram, -1.0, 1.0), 0.0
    )
    on_diagonal = jnp.eye(unit_gram.shape[0], dtype=bool)
    # Exactly 1 on the diagonal, for costs left out as well; a zero objective keeps its 0.
    return jnp.where(on_diagonal, included.astype(unit_gram.dtype).at[1:].set(1.0), unit_gram)


def _best_feasible(
    unit_gram: Array, offsets: Array, has_gradient: Array
) -> tuple[_Candidate, Array]:
    """Returns the candidate of most gain among those that keep every limit, and whether one does.

    Every set of costs that are at their limits is tried.
    """
    k = offsets.shape[0]
    objective = jnp.zeros(1 + k, unit_gram.dtype).at[0].set(1.0)
    active_sets = jnp.asarray(
        np.array(list(itertools.product((0, 1), repeat=k)), float).reshape(2**k, k),
        unit_gram.dtype,
    )
    tolerance = 1e-9 if unit_gram.dtype == jnp.float64 else 1e-5

    def evaluate(active: Array) -> tuple[_Candidate, Array]:
        candidate = _candidate(
            unit_gram, jnp.where(has_gradient, offsets, 0.0), has_gradient, objective, active
        )
        values = unit_gram @ candidate.weights
        feasible = ((offsets + values[1:] <= tolerance) | ~has_gradient).all() & candidate.valid
        return candidate, jnp.where(feasible, values[0], -jnp.inf)

    candidates, gains = jax.vmap(evaluate)(active_sets)
    best = jnp.argmax(gains)
    return tree_math.map_leaves(lambda x: x[best], candidates), gains[best] > -jnp.inf


def _least_violation(
    unit_gram: Array, offsets: Array, has_gradient: Array, lengths: Array
) -> _Candidate:
    """Returns the candidate of least total violation, the sum over the costs beyond their limits.

    In a pattern, the violated costs (1) make the objective, a cost that ends at its limit (2) is a
    face, and a cost that keeps its limit (0) plays no part.
    """
    k = offsets.shape[0]
    patterns = jnp.asarray([p for p in itertools.product((0, 1, 2), repeat=k) if 1 in p])

    def evaluate(pattern: Array) -> tuple[_Candidate, Array]:
        descent = jnp.concatenate(
            [jnp.zeros(1, unit_gram.dtype), jnp.where(pattern == 1, -lengths[1:], 0.0)]
        )
        length = jnp.sqrt(jnp.maximum(descent @ unit_gram @ descent, 0.0))
        active = (pattern == 2).astype(unit_gram.dtype)
        candidate = _candidate(
            unit_gram,
            jnp.where(has_gradient, offsets, 0.0),
            has_gradient | (pattern == 0),
            descent / _nonzero(length),
            active,
        )
        violations = jnp.where(
            has_gradient,
            jnp.maximum(offsets + (unit_gram @ candidate.weights)[1:], 0.0) * lengths[1:],
            0.0,
        )
        valid = candidate.valid & (has_gradient | (pattern == 0)).all()
        return candidate, jnp.where(valid, violations.sum(), jnp.inf)

    candidates, totals = jax.vmap(evaluate)(patterns)
    least = jnp.argmin(totals)
    candidate = tree_math.map_leaves(lambda x: x[least], candidates)
    # When no cost has a gradient, no pattern is valid: the step is zero.
    none_valid = jnp.isinf(totals[least])
    return candidate._replace(weights=jnp.where(none_valid, 0.0, candidate.weights))


def _candidate(
    unit_gram: Array, offsets: Array, has_gradient: Array, objective: Array, active: Array
) -> _Candidate:
    """Returns the point of the unit ball on the active faces that is best for an objective.

    ``objective`` is ``[1 + K]``, weights of the unit gradients; ``active`` is ``[K]``, 0 or 1.
    """
    tolerance = _rank_tolerance(unit_gram)
    slopes = (unit_gram @ objective)[1:]
    right_sides = active[:, None] * jnp.stack([slopes, offsets], 1)
    # The system of the active faces; the rows of the others are those of the identity.
    system = unit_gram[1:, 1:] * active[:, None] * active[None, :] + jnp.diag(1.0 - active)
    solutions, pivots = _solve(system, right_sides)
    tangent = objective - jnp.concatenate([jnp.zeros(1, unit_gram.dtype), solutions[:, 0]])
    nearest = -jnp.concatenate([jnp.zeros(1, unit_gram.dtype), solutions[:, 1]])
    squared = tangent @ unit_gram @ tangent
    # The square of the radius of the ball's section by the faces; negative where they miss it.
    slack = 1.0 - right_sides[:, 1] @ solutions[:, 1]
    flat = squared <= tolerance  # the objective does not change along these faces
    length = jnp.where(flat, 0.0, jnp.sqrt(jnp.maximum(slack, 0.0) / jnp.where(flat, 1.0, squared)))
    valid = (
        (slack >= 0.0)
        & (pivots.min(initial=1.0) > tolerance)
        & (has_gradient | (active == 0)).all()
    )
    return _Candidate(nearest + length * tangent, tangent, length, valid)


def _solve(matrix: Array, right_sides: Array) -> tuple[Array, Array]:
    """Solves a small symmetric positive system ``[n, n] x = [n, m]``, and returns its pivots.

    It is written out (n <= 5), so that it maps over many systems. The pivots ``[n]`` are relative
    to each row's diagonal: about 0 where the row depends on those above it, which is then left out
    (its unknown is 0).
    """
    n = matrix.shape[0]
    tolerance = _rank_tolerance(matrix)
    rows, solutions = matrix, right_sides
    pivots: list[Array] = []
    for i in range(n):
        relative_pivot = rows[i, i] / _nonzero(matrix[i, i])
        usable = relative_pivot > tolerance
        pivot = jnp.where(usable, rows[i, i], 1.0)
        is_pivot_row = jnp.arange(n) == i
        row, value = (
            jnp.where(usable, rows[i], 0.0) / pivot,
            jnp.where(usable, solutions[i], 0.0) / pivot,
        )
        # Gauss-Jordan: the column is eliminated above and below the pivot.
        factor = jnp.where(is_pivot_row, 0.0, rows[:, i])[:, None]
        solutions = jnp.where(is_pivot_row[:, None], value[None], solutions - factor * value[None])
        rows = jnp.where(is_pivot_row[:, None], row[None], rows - factor * row[None])
        pivots.append(relative_pivot)
    return solutions, jnp.stack(pivots) if n else jnp.zeros((0,), matrix.dtype)


def _rank_tolerance(matrix: Array) -> float:
    """Returns the squared sine of the angle below which a vector counts as dependent on others."""
    return 1e-10 if matrix.dtype == jnp.float64 else 1e-4


def _multipliers(step: _Candidate, scales: Array) -> tuple[Array, Array]:
    """Returns λ and ν of ``x = (H⁻¹g - Σ ν_k H⁻¹b_k) / λ``.

    λ is 0 where g has no weight (a recovery), or where the objective does not change along the
    faces (then ``g = Σ ν_k b_k``).
    """
    weights = step.weights * scales
    gains = (weights[0] > 0) & (step.length > 0)
    flat = (step.tangent[0] > 0) & ~gains
    kl_dual = jnp.where(gains, 1.0 / _nonzero(weights[0]), 0.0)
    # Of the flat case: the weights of the unit gradients, in units of the gradients themselves.
    relative_scales = scales[1:] / scales[0]
    degenerate_duals = jnp.where(flat, -step.tangent[1:] * relative_scales, -weights[1:])
    return kl_dual, jnp.where(gains, -weights[1:] * kl_dual, degenerate_duals)


def _nonzero(x: Array) -> Array:
    """Returns ``x``, or 1 where it is not positive, as a safe divisor."""
    return jnp.where(x > 0, x, 1.0)
