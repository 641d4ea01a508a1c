"""The constrained step against a convex solver, on random problems, with parallel and redundant
costs among them."""

import functools

import cvxpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmarl_lite.ops import constrained_optimization as cs

KINDS = ("plain", "parallel", "opposite", "redundant", "objective_in_span")


def _problem(seed, k, size, kind="plain", hardness=1.0):
    """g, B, c, H, δ; `hardness` scales how far the limits are from the present policy."""
    draw = np.random.default_rng(seed)
    root = draw.normal(size=(size, size)) / np.sqrt(size)
    h = root @ root.T + 0.1 * np.eye(size)
    g, b = draw.normal(size=size), draw.normal(size=(k, size)) * draw.uniform(0.1, 3.0, size=(k, 1))
    delta = 10.0 ** draw.uniform(-4, 0)
    reach = np.sqrt(2 * delta * np.einsum("ki,ij,kj->k", b, np.linalg.inv(h), b))
    c = hardness * draw.uniform(-1.2, 1.1, size=k) * reach
    if kind == "parallel" and k > 1:
        b[1], c[1] = 2.0 * b[0], 2.0 * c[0] + 0.3 * reach[0] * draw.uniform(-1, 1)
    if kind == "opposite" and k > 1:  # a corridor
        b[1], c[1] = -b[0], -abs(c[0]) - 0.4 * reach[0]
        c[0] = min(c[0], -0.1 * reach[0])
    if kind == "redundant" and k > 2:
        b[2], c[2] = b[0] + b[1], c[0] + c[1] - 0.2 * draw.uniform() * reach[0]
    if kind == "objective_in_span":
        g = draw.uniform(0.2, 1.0, size=k) @ b
    return g, b, c, h, delta


@functools.lru_cache
def _solver(k, size, violation):
    """A convex program for these sizes, set up once."""
    x, g, b, c = (
        cvxpy.Variable(size),
        cvxpy.Parameter(size),
        cvxpy.Parameter((k, size)),
        cvxpy.Parameter(k),
    )
    root = cvxpy.Parameter((size, size))
    ball = [cvxpy.norm(root @ x) <= 1]
    if violation:
        program = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum(cvxpy.pos(c + b @ x))), ball)
    else:
        program = cvxpy.Problem(cvxpy.Maximize(g @ x), [*ball, c + b @ x <= 0])
    return program, (g, b, c, root)


def _oracle(problem, violation=False):
    """The best value; None where nothing is feasible. Solved in units in which the ball has radius
    1."""
    g, b, c, h, delta = problem
    program, parameters = _solver(len(c), len(g), violation)
    radius = np.sqrt(2 * delta)
    size = np.linalg.norm(b, axis=1)
    scale = size if not violation else np.full(len(c), size.max())
    values = (g, b * radius / scale[:, None], c / scale, np.linalg.cholesky(h).T)
    for parameter, value in zip(parameters, values, strict=True):
        parameter.value = value
    fine = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-11)
    try:
        program.solve(cvxpy.CLARABEL, **fine)
    except cvxpy.error.SolverError:  # on some processors a step goes too far for one problem
        program.solve(cvxpy.CLARABEL, **fine, max_step_fraction=0.9)
    if "infeasible" in program.status:
        return None
    return program.value * (scale[0] if violation else radius)


@functools.partial(jax.jit, static_argnums=())
def _ours(g, b, c, h, delta):
    return cs.constrained_step(g, b, c, lambda v: jnp.linalg.solve(h, v), delta)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [10, 60])
def test_against_a_convex_solver(float64, k, size):
    """250 problems a size and number of costs: 2,000 in all."""
    feasible = 0
    for seed in range(250):
        problem = _problem(1000 * k + seed, k, size, KINDS[seed % len(KINDS)])
        g, b, c, h, delta = problem
        result = _ours(*problem)
        x = np.asarray(result.direction)
        assert 0.5 * x @ h @ x <= delta * (1 + 1e-9)
        best = _oracle(problem)
        left = np.maximum(c + b @ x, 0).sum()
        if best is None:
            assert result.case == cs.INFEASIBLE
            assert left < np.maximum(c, 0).sum()
            least = _oracle(problem, violation=True)
            assert left <= least + 1e-6 * max(np.abs(c).max(), 1e-3)
        elif result.case == cs.INFEASIBLE:  # feasible by a hair, or the solver thinks so
            assert left <= 1e-7 * np.abs(c).max()
        else:
            feasible += 1
            assert (c + b @ x).max() <= 1e-8
            assert g @ x >= best - 1e-6 * abs(best) - 1e-12
    assert 60 < feasible < 250


def test_in_float32():
    """The same problems rounded to float32, where nothing else is enabled, with a solve that is
    good to float32."""
    for k in (1, 2, 3, 4):
        for seed in range(100):
            problem = _problem(seed, k, 20, KINDS[seed % 2])
            g, b, c, h, delta = problem
            narrow = [jnp.asarray(part, jnp.float32) for part in problem]
            result = _ours(*narrow)
            assert {x.dtype for x in jax.tree.leaves(result)} <= {
                jnp.dtype("float32"),
                jnp.dtype("int32"),
            }
            with jax.enable_x64(True):
                exact = _ours(*map(jnp.asarray, problem))
            if exact.case == cs.INFEASIBLE or result.case == cs.INFEASIBLE:
                continue  # which of two equally bad points is best may turn on rounding
            x = np.asarray(result.direction, np.float64)
            assert 0.5 * x @ h @ x <= delta * 1.001
            reach = np.sqrt(2 * delta * np.einsum("ki,ij,kj->k", b, np.linalg.inv(h), b))
            assert ((c + b @ x) / reach).max() <= 1e-3
            free = np.sqrt(2 * delta * g @ np.linalg.solve(h, g))
            assert g @ x >= g @ np.asarray(exact.direction) - 1e-3 * free


def test_vmap_is_a_loop(float64):
    problems = [_problem(seed, 3, 12) for seed in range(20)]
    batch = [np.stack(part) for part in zip(*problems, strict=True)]
    together = jax.jit(jax.vmap(_ours))(*batch)
    for i, problem in enumerate(problems):
        for a, b in zip(jax.tree.map(lambda x, i=i: x[i], together), _ours(*problem), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


def test_no_costs_is_the_natural_gradient_step(float64):
    g, _, _, h, delta = _problem(0, 1, 10)
    result = _ours(g, np.zeros((0, 10)), np.zeros(0), h, delta)
    natural = np.linalg.solve(h, g)
    np.testing.assert_allclose(
        result.direction, np.sqrt(2 * delta / (g @ natural)) * natural, rtol=1e-10
    )
    np.testing.assert_allclose(result.kl_dual, np.sqrt(g @ natural / (2 * delta)), rtol=1e-10)
    np.testing.assert_allclose(result.kl, delta, rtol=1e-10)
    assert result.case == cs.ZERO_COST_GRADIENT
    assert result.cost_duals.shape == result.predicted_violation.shape == (0,)


def test_trees_are_arrays(float64):
    g, b, c, h, delta = _problem(3, 2, 10)

    def tree(x):
        return {"w": x[..., :6].reshape(*x.shape[:-1], 2, 3), "b": (x[..., 6:],)}

    def flat(t):
        return jnp.concatenate([t["w"].reshape(6), t["b"][0]])

    result = cs.constrained_step(
        tree(g), tree(b), c, lambda v: tree(jnp.linalg.solve(h, flat(v))), delta
    )
    np.testing.assert_allclose(
        flat(result.direction), _ours(g, b, c, h, delta).direction, rtol=1e-12
    )


@pytest.mark.parametrize("kind", ["plain", "parallel"])
def test_the_multipliers_are_those_of_the_problem(float64, kind):
    """Stationarity, signs and complementary slackness."""
    observed = set()
    for seed in range(60):
        g, b, c, h, delta = _problem(seed, 3, 12, kind)
        result = _ours(g, b, c, h, delta)
        observed.add(int(result.case))
        if result.case == cs.INFEASIBLE:
            assert result.kl_dual == 0
            np.testing.assert_allclose(
                h @ result.direction, -result.cost_duals @ b, rtol=1e-6, atol=1e-9
            )
            continue
        assert result.kl_dual > 0
        assert (np.asarray(result.cost_duals) >= -1e-9).all()
        expected = g - np.asarray(result.cost_duals) @ b
        np.testing.assert_allclose(
            float(result.kl_dual) * h @ result.direction, expected, rtol=1e-6, atol=1e-8
        )
        np.testing.assert_allclose(result.cost_duals * result.predicted_violation, 0.0, atol=1e-8)
        np.testing.assert_allclose(result.predicted_violation, c + b @ result.direction, atol=1e-10)
        np.testing.assert_allclose(
            result.kl, 0.5 * result.direction @ h @ result.direction, rtol=1e-8
        )
        np.testing.assert_allclose(result.predicted_gain, g @ result.direction, rtol=1e-8)
    assert observed >= {cs.INFEASIBLE, cs.RECOVERABLE, cs.CONSTRAINED}


def test_one_cost_is_the_papers_cases(float64):
    """The closed forms of section 2.1 for one constraint, written out."""
    cases = set()
    for seed in range(200):
        g, b, c, h, delta = _problem(seed, 1, 8, hardness=1.6)
        hg, hb = np.linalg.solve(h, g), np.linalg.solve(h, b[0])
        q, r, s = g @ hg, g @ hb, b[0] @ hb
        result = _ours(g, b, c, h, delta)
        cases.add(int(result.case))
        room = 2 * delta - c[0] ** 2 / s
        if room < 0:
            lam, nu = (0.0, np.sqrt(2 * delta / s)) if c[0] > 0 else (np.sqrt(q / (2 * delta)), 0.0)
            assert result.case == (cs.INFEASIBLE if c[0] > 0 else cs.UNCONSTRAINED)
        else:
            assert result.case == (cs.RECOVERABLE if c[0] > 0 else cs.CONSTRAINED)
            free = np.sqrt(2 * delta / q) * hg
            along = np.sqrt((q - r**2 / s) / room)
            lam, nu = (
                (np.sqrt(q / (2 * delta)), 0.0)
                if c[0] + b[0] @ free <= 0
                else (along, (r + along * c[0]) / s)
            )
        np.testing.assert_allclose(result.kl_dual, lam, rtol=1e-8)
        np.testing.assert_allclose(result.cost_duals, [nu], rtol=1e-8, atol=1e-12)
        expected = (hg - nu * hb) / lam if lam else -nu * hb
        np.testing.assert_allclose(result.direction, expected, rtol=1e-7, atol=1e-12)
    assert cases == {cs.INFEASIBLE, cs.RECOVERABLE, cs.CONSTRAINED, cs.UNCONSTRAINED}


def test_a_cost_without_a_gradient_is_left_out(float64):
    g, b, c, h, delta = _problem(1, 2, 10)
    b[1], c[1] = 0.0, 5.0
    one = _ours(g, b[:1], c[:1], h, delta)
    both = _ours(g, b, c, h, delta)
    np.testing.assert_allclose(both.direction, one.direction, rtol=1e-10)
    assert both.predicted_violation[1] == 5.0
    none = _ours(g, np.zeros_like(b), c, h, delta)
    assert none.case == cs.ZERO_COST_GRADIENT
    np.testing.assert_allclose(none.kl, delta, rtol=1e-9)


def test_nothing_to_gain_and_nothing_broken_is_no_step(float64):
    _, b, _, h, delta = _problem(1, 2, 10)
    result = _ours(np.zeros(10), b, np.array([-0.1, -0.2]), h, delta)
    np.testing.assert_allclose(result.direction, 0.0, atol=1e-12)
    assert all(np.isfinite(part).all() for part in result)


def test_too_many_costs_are_refused():
    with pytest.raises(ValueError, match="c has 5 costs; allowed are 0 to 4"):
        cs.constrained_step(jnp.ones(3), jnp.ones((5, 3)), jnp.ones(5), lambda v: v, 0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_kl": -0.1}, "target_kl is -0.1; allowed is a number above 0"),
        ({"target_kl": jnp.float32(0.0)}, "target_kl is 0.0; allowed is a number above 0"),
        ({"target_kl": float("nan")}, "target_kl is nan; allowed is a number above 0"),
        ({"c": 1.0}, r"c has shape \(\); allowed is \[K\]"),
        ({"b": {"x": jnp.ones((2, 2))}}, r"b has an entry of shape \(2, 2\); allowed is \(2, 3\)"),
        ({"b": jnp.ones((2, 3))}, "b is PyTreeDef.*; allowed is the structure of g"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    problem = {
        "g": {"x": jnp.ones(3)},
        "b": {"x": jnp.ones((2, 3))},
        "c": jnp.ones(2),
        "inverse_fisher": lambda v: v,
        "target_kl": 0.1,
    }
    assert np.isfinite(cs.constrained_step(**problem).kl)
    with pytest.raises(ValueError, match=message):
        cs.constrained_step(**(problem | change))


class TestStepInSpan:
    """The step among combinations of given vectors."""

    def test_of_exact_solutions_is_the_step(self, float64):
        for seed in range(40):
            g, b, c, h, delta = _problem(seed, 2, 12, KINDS[seed % 3])
            vectors = np.concatenate([g[None], b])
            result = cs.subspace_constrained_step(
                g, b, c, np.linalg.solve(h, vectors.T).T, vectors, delta
            )
            np.testing.assert_allclose(
                result.direction, _ours(g, b, c, h, delta).direction, rtol=1e-5, atol=1e-7
            )

    def test_of_poor_solutions_keeps_limits_and_radius(self, float64):
        """Of three steps of gradient descent instead of solutions; the plain formulas overstep with
        these."""
        overstepped = 0
        for seed in range(60):
            g, b, c, h, delta = _problem(seed, 2, 12)
            vectors = np.concatenate([g[None], b])
            rate = 1.0 / np.linalg.eigvalsh(h)[-1]
            poor = rate * sum(np.linalg.matrix_power(np.eye(12) - rate * h, n) for n in range(3))
            x = vectors @ poor
            result = cs.subspace_constrained_step(g, b, c, x, x @ h, delta)
            step = result.direction
            np.testing.assert_allclose(result.kl, 0.5 * step @ h @ step, rtol=1e-8)
            assert 0.5 * step @ h @ step <= delta * (1 + 1e-9)
            np.testing.assert_allclose(result.predicted_violation, c + b @ step, atol=1e-9)
            if result.case != cs.INFEASIBLE:
                assert (c + b @ step).max() <= 1e-8
            plain = cs.constrained_step(g, b, c, lambda v, poor=poor: poor @ v, delta)
            overstepped += (plain.case != cs.INFEASIBLE) & (
                0.5 * plain.direction @ h @ plain.direction < 0.9 * delta
            )
        assert overstepped > 10  # they misjudge the radius, here by staying far inside

    def test_a_vector_that_depends_on_others_is_no_harm(self, float64):
        g, _, _, h, delta = _problem(0, 1, 10)
        b = np.stack([2.0 * g, -g])
        c = np.array([-0.1, -0.1])
        vectors = np.concatenate([g[None], b])
        result = cs.subspace_constrained_step(
            g, b, c, np.linalg.solve(h, vectors.T).T, vectors, delta
        )
        exact = _ours(g, b, c, h, delta)
        np.testing.assert_allclose(result.predicted_gain, exact.predicted_gain, rtol=1e-8)
        assert result.predicted_violation.max() <= 1e-9
