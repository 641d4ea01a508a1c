"""The policy step under cost constraints: a linear objective over the trust region and K linear
limits, exactly.

    max_x g·x   subject to   c_k + b_k·x <= 0  (k = 1..K),   ½ x·Hx <= δ

It is the problem of MACPO's practical form (Gu et al. 2021, section 4.2; for one agent CPO, Achiam
et al. 2017, equation 10) for any small number of costs. With ``q = g·H⁻¹g``, ``r = B H⁻¹g``, ``S =
B H⁻¹Bᵀ``, the best step that has the costs of a set A at their limits goes to the nearest point of
those faces and from there along them,

    x_A = -H⁻¹B_Aᵀ S_A⁻¹ c_A + t H⁻¹(g - B_Aᵀ S_A⁻¹ r_A),   t² (q - r_A·S_A⁻¹ r_A) = 2δ - c_A·S_A⁻¹
    c_A

and the answer is the best of the 2^K that keep every limit. Where none does, the answer is the step
of the trust region with the least total violation ``Σ_k max(0, c_k + b_k·x)``, of the same form:
each violated cost counts into the objective with its gradient, each cost that ends at its limit is
a face, and the best of the 3^K sign patterns is taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

import jaxmarl_lite.ops.tree_math as tree_math
from jaxmarl_lite.types import Array, Number, PyTree

INFEASIBLE, RECOVERABLE, CONSTRAINED, UNCONSTRAINED, ZERO_COST_GRADIENT = range(5)
"""Cases of a step: the limits cannot be met inside the trust region; some limit is broken now, and
can be met; none is broken, and some limit cuts the trust region; the whole trust region keeps the
limits; no cost has a gradient. They are numbered as in the program of Achiam et al."""

MAX_COSTS = 4
"""Costs that a step can take: 2^K sets of limits, and 3^K signs, are tried."""
_MAX_OFFSET = 2.0  # in units of the trust region's radius


class ConstrainedStep(NamedTuple):
    """A step, how it came about, and what it promises by the linear and quadratic models."""

    direction: PyTree  # x
    case: Array  # [] int
    kl_dual: (
        Array  # [] λ; x = (H⁻¹g - Σ_k ν_k H⁻¹b_k) / λ; 0 in a recovery, where x = -Σ_k ν_k H⁻¹b_k
    )
    cost_duals: Array  # [K] ν
    predicted_gain: Array  # [] g·x
    predicted_violation: Array  # [K] c + b·x
    kl: Array  # [] ½ x·Hx


class StepCoefficients(NamedTuple):
    """A step as ``alpha H⁻¹g + Σ_k beta_k H⁻¹b_k``."""

    alpha: Array  # []
    beta: Array  # [K]
    case: Array  # [] int
    kl_dual: Array  # []
    cost_duals: Array  # [K]


def constrained_step(
    g: PyTree, b: PyTree, c: Array, inverse_fisher: Callable[[PyTree], PyTree], target_kl: Number
) -> ConstrainedStep:
    """The step that gains most, keeps every limit and stays in the trust region; or that breaks the
    limits least.

    Args:
        g: gradient of what is to grow; an array or a tree.
        b: gradients of the costs, of the same structure, every leaf with a leading ``[K]``; K from
            0 to 4.
        c: ``[K]``, how far each cost is beyond its limit now; negative where it keeps it.
        inverse_fisher: ``v -> H⁻¹v`` for one vector of the structure of ``g``; it is mapped over
            all of them at once.
        target_kl: δ > 0, the radius of the trust region, in nats.

    A cost whose gradient is zero cannot be changed by any step, and is left out.
    """
    solutions = jax.vmap(inverse_fisher)(tree_math.prepend(g, b))
    hg, hb = tree_math.split_first(solutions)
    found = solve_dual(
        tree_math.vdot(g, hg), tree_math.vdots(b, hg), tree_math.gram_matrix(b, hb), c, target_kl
    )
    return assemble_step(found, g, b, c, solutions, tree_math.prepend(g, b))


def subspace_constrained_step(
    g: PyTree, b: PyTree, c: Array, x: PyTree, hx: PyTree, target_kl: Number
) -> ConstrainedStep:
    """`constrained_step` among the combinations of given vectors, exact whatever these are.

    Conjugate gradients that end early give vectors that are not quite H⁻¹g and H⁻¹b; the step
    combined of them keeps the limits and the radius of the models all the same, and gains the most
    that any combination can.

    Args:
        g, b, c, target_kl: as in `constrained_step`.
        x: ``1 + K`` vectors, every leaf with a leading axis.
        hx: H times each of them.
    """
    chex.assert_trees_all_equal_shapes(x, hx)
    span = tree_math.gram_matrix(x, hx)
    against = jnp.concatenate(
        [tree_math.vdots(x, g)[:, None], jax.vmap(lambda row: tree_math.vdots(x, row))(b).T], 1
    )
    weights, _ = _solve(
        0.5 * (span + span.T), against
    )  # of H⁻¹g and H⁻¹b, as they look inside the span
    inner = against.T @ weights
    inner = 0.5 * (inner + inner.T)
    found = solve_dual(inner[0, 0], inner[1:, 0], inner[1:, 1:], c, target_kl)

    def combined(vectors: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, ((0,), (0,))), vectors)

    return assemble_step(found, g, b, c, combined(x), combined(hx))


def assemble_step(
    found: StepCoefficients, g: PyTree, b: PyTree, c: Array, solutions: PyTree, products_of: PyTree
) -> ConstrainedStep:
    """The step that coefficients stand for.

    Args:
        found: the coefficients.
        g, b, c: the problem.
        solutions: H⁻¹g and H⁻¹b, ``[1 + K, ...]``.
        products_of: H times these.
    """
    weights = jnp.concatenate([found.alpha[None], found.beta])
    x, hx = (
        jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, 1), tree)
        for tree in (solutions, products_of)
    )
    return ConstrainedStep(
        x,
        found.case,
        found.kl_dual,
        found.cost_duals,
        tree_math.vdot(g, x),
        c + tree_math.vdots(b, x),
        0.5 * tree_math.vdot(x, hx),
    )


def solve_dual(q: Array, r: Array, s: Array, c: Array, target_kl: Number) -> StepCoefficients:
    """Solve the problem in the coordinates of its gradients.

    Args:
        q: g·H⁻¹g, scalar.
        r: ``[K]`` b_k·H⁻¹g.
        s: ``[K, K]`` b_k·H⁻¹b_l.
        c, delta: as in `constrained_step`.
    """
    chex.assert_rank([q, r, s, c], [0, 1, 2, 1])
    k = c.shape[0]
    chex.assert_shape([r, c], (k,))
    chex.assert_shape(s, (k, k))
    if k > MAX_COSTS:
        raise ValueError(
            f"c has {k} costs; allowed are 0 to {MAX_COSTS}, because the sets of active ones are "
            "tried"
        )
    # Without units: gradients of length 1 in the metric H⁻¹, a trust region of radius 1.
    radius = jnp.sqrt(2.0 * target_kl)
    diagonal = jnp.diagonal(s)
    live = diagonal > jnp.finfo(q.dtype).tiny ** 0.5
    size = jnp.concatenate([jnp.sqrt(_nonzero(q))[None], jnp.sqrt(jnp.where(live, diagonal, 1.0))])
    unit = _unit_gram(q, r, s, live, size)
    # beyond the trust region's reach, how far makes no difference, and inf (no limit) may be there
    d = jnp.where(live, jnp.clip(c / (size[1:] * radius), -_MAX_OFFSET, _MAX_OFFSET), -_MAX_OFFSET)
    step, case = _solve_unit(unit, d, live, size)
    to_units = radius / size
    trust, multipliers = _multipliers(step, to_units)
    weights = step.weights * to_units
    return StepCoefficients(weights[0], weights[1:], case, trust, multipliers)


class _Candidate(NamedTuple):
    """A point of the unit problem, and what it was made of."""

    weights: Array  # [1 + K] of the unit gradients
    along: Array  # [1 + K] the objective along the faces
    length: Array  # [] how far along
    valid: Array  # [] bool: whether its faces are independent and meet the ball


def _unit_gram(q: Array, r: Array, s: Array, live: Array, size: Array) -> Array:
    """Inner products ``[1 + K, 1 + K]`` of the gradients at unit length; those left out are at
    right angles to all.
    """
    whole = jnp.block([[q[None, None], r[None, :]], [r[:, None], 0.5 * (s + s.T)]])
    keep = jnp.concatenate([q[None] > 0, live])
    unit = whole / (size[:, None] * size[None, :])
    unit = jnp.where(keep[:, None] & keep[None, :], jnp.clip(unit, -1.0, 1.0), 0.0)
    own = jnp.eye(unit.shape[0], dtype=bool)
    return jnp.where(own, keep.astype(unit.dtype).at[1:].set(1.0), unit)


def _solve_unit(unit: Array, d: Array, live: Array, size: Array) -> tuple[_Candidate, Array]:
    """The best point of the unit problem, and its case."""
    k = d.shape[0]
    reward = jnp.zeros(1 + k, unit.dtype).at[0].set(1.0)
    sets = jnp.asarray(
        np.array(list(itertools.product((0, 1), repeat=k)), float).reshape(2**k, k), unit.dtype
    )
    step, feasible = _best_feasible(unit, d, live, reward, sets)
    if not k:
        return step, _case(d, live)
    rescue = _least_violation(unit, d, live, size)
    step = jax.tree.map(lambda a, b: jnp.where(feasible, a, b), step, rescue)
    return step, jnp.where(feasible, _case(d, live), INFEASIBLE)


def _best_feasible(
    unit: Array, d: Array, live: Array, reward: Array, sets: Array
) -> tuple[_Candidate, Array]:
    """The candidate of most gain among those that keep every limit, and whether there is one."""
    tolerance = 1e-9 if unit.dtype == jnp.float64 else 1e-5

    def gain(on: Array) -> tuple[_Candidate, Array]:
        found = _candidate(unit, jnp.where(live, d, 0.0), live, reward, on)
        values = unit @ found.weights
        kept = ((d + values[1:] <= tolerance) | ~live).all() & found.valid
        return found, jnp.where(kept, values[0], -jnp.inf)

    candidates, gains = jax.vmap(gain)(sets)
    best = jnp.argmax(gains)
    return jax.tree.map(lambda x: x[best], candidates), gains[best] > -jnp.inf


def _least_violation(unit: Array, d: Array, live: Array, size: Array) -> _Candidate:
    """The candidate of least total violation: the violated costs (1) make the objective, a cost
    that ends at its limit (2) is a face.
    """
    k = d.shape[0]
    signs = jnp.asarray([p for p in itertools.product((0, 1, 2), repeat=k) if 1 in p])

    def total(sign: Array) -> tuple[_Candidate, Array]:
        downhill = jnp.concatenate([jnp.zeros(1, unit.dtype), jnp.where(sign == 1, -size[1:], 0.0)])
        length = jnp.sqrt(jnp.maximum(downhill @ unit @ downhill, 0.0))
        on = (sign == 2).astype(unit.dtype)
        found = _candidate(
            unit, jnp.where(live, d, 0.0), live | (sign == 0), downhill / _nonzero(length), on
        )
        left = jnp.where(live, jnp.maximum(d + (unit @ found.weights)[1:], 0.0) * size[1:], 0.0)
        return found, jnp.where(found.valid & (live | (sign == 0)).all(), left.sum(), jnp.inf)

    candidates, totals = jax.vmap(total)(signs)
    least = jnp.argmin(totals)
    found = jax.tree.map(lambda x: x[least], candidates)
    nothing = jnp.isinf(totals[least])  # no cost has a gradient
    return found._replace(weights=jnp.where(nothing, 0.0, found.weights))


def _candidate(
    unit: Array, offset: Array, has_gradient: Array, objective: Array, active: Array
) -> _Candidate:
    """The point of the unit ball on the faces ``active`` (0/1, ``[K]``) that is best for an
    objective ``[1 + K]``.
    """
    independent = _rank_tolerance(unit)
    slope = (unit @ objective)[1:]
    both = active[:, None] * jnp.stack([slope, offset], 1)
    cut = unit[1:, 1:] * active[:, None] * active[None, :] + jnp.diag(1.0 - active)
    solved, pivots = _solve(cut, both)
    along = objective - jnp.concatenate([jnp.zeros(1, unit.dtype), solved[:, 0]])
    nearest = -jnp.concatenate([jnp.zeros(1, unit.dtype), solved[:, 1]])
    steep = along @ unit @ along
    room = 1.0 - both[:, 1] @ solved[:, 1]
    flat = steep <= independent  # the objective does not change along these faces
    length = jnp.where(flat, 0.0, jnp.sqrt(jnp.maximum(room, 0.0) / jnp.where(flat, 1.0, steep)))
    valid = (
        (room >= 0.0)
        & (pivots.min(initial=1.0) > independent)
        & (has_gradient | (active == 0)).all()
    )
    return _Candidate(nearest + length * along, along, length, valid)


def _solve(matrix: Array, right: Array) -> tuple[Array, Array]:
    """Solve a small symmetric positive system ``[n, n] x = [n, m]``; written out, n <= 5, so that
    it maps over many.

    Also gives each row's pivot over its diagonal: about 0 where the row depends on those before it,
    which is then left out (its unknown is 0).
    """
    n = matrix.shape[0]
    floor = _rank_tolerance(matrix)
    rows, answer, pivots = matrix, right, []
    for i in range(n):
        share = rows[i, i] / _nonzero(matrix[i, i])
        usable = share > floor
        pivot = jnp.where(usable, rows[i, i], 1.0)
        own = jnp.arange(n) == i
        line, value = (
            jnp.where(usable, rows[i], 0.0) / pivot,
            jnp.where(usable, answer[i], 0.0) / pivot,
        )
        factor = jnp.where(own, 0.0, rows[:, i])[:, None]
        answer = jnp.where(own[:, None], value[None], answer - factor * value[None])
        rows = jnp.where(own[:, None], line[None], rows - factor * line[None])
        pivots.append(share)
    return answer, jnp.stack(pivots) if n else jnp.zeros((0,), matrix.dtype)


def _rank_tolerance(matrix: Array) -> float:
    """The squared sine of an angle below which a vector counts as dependent on others."""
    return 1e-10 if matrix.dtype == jnp.float64 else 1e-4


def _multipliers(step: _Candidate, to_units: Array) -> tuple[Array, Array]:
    """λ and ν from ``x = (H⁻¹g - Σ ν_k H⁻¹b_k) / λ``; λ is 0 where g has no weight (a recovery), or
    where the objective does not change along the faces (then ``g = Σ ν_k b_k``).
    """
    weights = step.weights * to_units
    moving = (weights[0] > 0) & (step.length > 0)
    flat = (step.along[0] > 0) & ~moving
    trust = jnp.where(moving, 1.0 / _nonzero(weights[0]), 0.0)
    scale = to_units[1:] / to_units[0]
    of_flat = jnp.where(flat, -step.along[1:] * scale, -weights[1:])
    return trust, jnp.where(moving, -weights[1:] * trust, of_flat)


def _case(d: Array, live: Array) -> Array:
    """The case of a problem that has a solution."""
    open_now = jnp.where((live & (d >= -1.0)).any(), CONSTRAINED, UNCONSTRAINED)
    return jnp.where(
        ~live.any(), ZERO_COST_GRADIENT, jnp.where((live & (d > 0.0)).any(), RECOVERABLE, open_now)
    )


def _nonzero(x: Array) -> Array:
    return jnp.where(x > 0, x, 1.0)
