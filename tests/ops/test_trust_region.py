"""Fisher products, conjugate gradients and the search, against dense matrices."""

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmarl_lite.networks import distributions
from jaxmarl_lite.networks.recurrent import NetworkSpec, make_network
from jaxmarl_lite.ops import trust_region
from jaxmarl_lite.ops.lagrange import dual_ascent
from jaxmarl_lite.types import Observation

T, B, VIEW, A = 4, 6, 3, 3


def _policy(kind, recurrent):
    """Weights, samples, and `(theta, samples) -> distributions`, with an agent that is dead now and
    then."""
    draw = np.random.default_rng(0)
    form = NetworkSpec((5,), "tanh", recurrent, 4) if recurrent else NetworkSpec((5,), "tanh")
    net = make_network(form, VIEW, A, num_agents=None, gaussian_head=kind != "categorical")
    theta = jax.tree.map(lambda x: x + 0.3 * draw.normal(size=x.shape), net.init(jax.random.key(0)))
    mask = draw.uniform(size=(T, B, A)) < 0.7
    mask[..., 0] = True
    view, first = draw.normal(size=(T, B, VIEW)), draw.uniform(size=(T, B)) < 0.2
    alive = draw.uniform(size=(T, B)) < 0.8
    bounds = (jnp.zeros(A), jnp.ones(A)) if kind == "tanh" else None

    def pi(theta, view, mask, first, alive):
        head, _ = net.unroll(theta, net.init_hidden_state(view.shape[1]), view, first)
        return distributions.make_distribution(head, Observation(view, view, mask, alive), bounds)

    return theta, tuple(map(jnp.asarray, (view, mask, first, alive))), pi


def _dense(product, theta):
    flat, back = jax.flatten_util.ravel_pytree(theta)
    rows = jax.vmap(lambda e: jax.flatten_util.ravel_pytree(product(back(e)))[0])(
        jnp.eye(flat.size)
    )
    return np.asarray(rows)


@pytest.mark.ci_cases("*-True-*")
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("kind", ["categorical", "gaussian", "tanh"])
def test_fisher_products_are_the_hessian_of_the_mean_kl(float64, kind, recurrent, parts):
    theta, samples, pi = _policy(kind, recurrent)
    flat, back = jax.flatten_util.ravel_pytree(theta)
    alive = samples[3]
    old = pi(theta, *samples)

    def mean_kl(vector):
        return (old.kl(pi(back(vector), *samples)) * alive).sum() / alive.sum()

    # reverse over reverse: the recurrent network has no forward rule
    expected = jax.jacrev(jax.grad(mean_kl))(flat)
    batch = jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(T, parts, B // parts, *x.shape[2:]), 1, 0), samples
    )

    def metric(values, tangent, part):
        result = pi(theta, *part)  # whose matrix it is; only the parameters enter
        weight = part[3] / alive.sum()
        return jax.tree.map(lambda x: x * weight[..., None], result.fisher(tangent))

    def parameters(weights, part):
        return pi(weights, *part).params()

    product = trust_region.fisher_vector_product(parameters, metric, theta, batch, damping=0.05)
    result = _dense(product, theta)
    np.testing.assert_allclose(result, expected + 0.05 * np.eye(len(result)), rtol=1e-8, atol=1e-10)
    assert np.linalg.eigvalsh(result)[0] > 0.049


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_the_fisher_matrix_is_the_mean_square_of_the_score(kind):
    """By sampling."""
    key = jax.random.key(0)
    if kind == "categorical":
        start = jnp.array([0.3, -0.5, 1.0])
        make = lambda x: distributions.categorical(x, jnp.ones(3, bool))  # noqa: E731
    else:
        start = jnp.array([0.3, -0.5])
        make = lambda x: distributions.Gaussian(x[:1], x[1:], jnp.ones(1, bool))  # noqa: E731
    actions = jax.vmap(lambda key: make(start).sample(key))(jax.random.split(key, 40_000))
    scores = jax.vmap(lambda u: jax.grad(lambda x: make(x).log_prob(u))(start))(actions)

    def along(t):
        _, pull = jax.vjp(lambda x: make(x).params(), start)
        tangent = jax.jvp(lambda x: make(x).params(), (start,), (t,))[1]
        return pull(make(start).fisher(tangent))[0]

    np.testing.assert_allclose(
        jax.vmap(along)(jnp.eye(len(start))), scores.T @ scores / 40_000, atol=0.06
    )


def _system(seed, size, rows, spread=3.0):
    draw = np.random.default_rng(seed)
    basis = np.linalg.qr(draw.normal(size=(size, size)))[0]
    h = basis @ np.diag(10.0 ** draw.uniform(-spread, 0, size)) @ basis.T
    return h, draw.normal(size=(rows, size))


class TestConjugateGradient:
    """Against a dense solve."""

    def test_solves_all_right_hand_sides(self, float64):
        h, b = _system(0, 20, 4)
        result = jax.jit(lambda b: trust_region.conjugate_gradient(lambda v: h @ v, b, 200, 1e-12))(
            b
        )
        np.testing.assert_allclose(result.x, np.linalg.solve(h, b.T).T, rtol=1e-6)
        np.testing.assert_allclose(result.residual, b - result.x @ h, atol=1e-10)
        assert (result.relative_residual <= 1e-12).all()
        assert result.positive_curvature.all()

    def test_is_the_textbooks_iteration(self, float64):
        """Each right-hand side as if it were alone, iteration by iteration."""
        h, b = _system(1, 12, 3)
        for number in (0, 1, 4):
            result = trust_region.conjugate_gradient(lambda v: h @ v, b, number)
            for row, x in zip(b, result.x, strict=True):
                space = (
                    np.stack([np.linalg.matrix_power(h, n) @ row for n in range(number)], 1)
                    if number
                    else None
                )
                best = (
                    space @ np.linalg.solve(space.T @ h @ space, space.T @ row)
                    if number
                    else np.zeros(12)
                )
                np.testing.assert_allclose(x, best, rtol=1e-5, atol=1e-8)
            assert (result.iterations == number).all()

    def test_stops_each_at_its_tolerance(self, float64):
        h, b = _system(2, 30, 3)
        b[0] = h @ h @ h @ b[0]  # with little of what is hard to solve for
        b[1] *= 1e-12  # the tolerance is relative
        result = trust_region.conjugate_gradient(lambda v: h @ v, b, 100, 1e-2)
        assert (result.relative_residual <= 1e-2).all()
        assert result.iterations[0] < result.iterations[2] < 100
        assert result.iterations[1] > 5

    def test_of_nothing_is_nothing(self):
        result = trust_region.conjugate_gradient(lambda v: v, jnp.zeros((2, 5)), 10)
        chex.assert_trees_all_equal(result.x, jnp.zeros((2, 5)))
        assert (result.relative_residual == 0).all()
        assert (result.iterations == 0).all()

    def test_a_curvature_that_is_not_positive_is_reported(self, float64):
        h = np.diag([1.0, 2.0, -0.5])
        result = trust_region.conjugate_gradient(lambda v: h @ v, np.eye(3) + 0.1, 10)
        assert not result.positive_curvature[2]
        assert np.isfinite(result.x).all()

    def test_a_start_and_a_preconditioner_save_iterations(self, float64):
        h, b = _system(3, 40, 2)
        scale = 10.0 ** np.linspace(-2, 2, 40)
        h = scale[:, None] * (h + np.eye(40)) * scale[None]
        plain = trust_region.conjugate_gradient(lambda v: h @ v, b, 500, 1e-6)
        jacobi = trust_region.conjugate_gradient(
            lambda v: h @ v, b, 500, 1e-6, preconditioner=lambda v: v / np.diagonal(h)
        )
        exact = np.linalg.solve(h, b.T).T
        warm = trust_region.conjugate_gradient(
            lambda v: h @ v, b, 500, 1e-6, initial_x=exact * (1 + 1e-8)
        )
        assert (jacobi.relative_residual <= 1e-6).all()
        assert (jacobi.iterations < plain.iterations // 2).all()
        assert (warm.iterations < jacobi.iterations).all()

    def test_costs_one_product_an_iteration_for_all(self):
        """In the whole program the matrix is multiplied once, by all right-hand sides together."""
        h = jnp.asarray(_system(0, 8, 3)[0])
        program = jax.make_jaxpr(lambda b: trust_region.conjugate_gradient(lambda v: h @ v, b, 5))(
            jnp.ones((3, 8))
        )
        sizes = [
            {tuple(operand.aval.shape) for operand in equation.invars}
            for equation in _equations(program.jaxpr)
            if equation.primitive.name == "dot_general"
        ]
        assert sizes.count({(8, 8), (3, 8)}) == 1
        assert not any({(8, 8), (8,)} == size for size in sizes)


def _equations(program):
    for equation in program.eqns:
        yield equation
        for leaf in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            if hasattr(leaf, "eqns"):  # a jaxpr, closed or not
                yield from _equations(getattr(leaf, "jaxpr", leaf))


class TestBacktrack:
    """The first acceptable fraction."""

    @pytest.mark.parametrize(
        ("limit", "expected", "tries"), [(5.0, 0.8, 1), (0.5, 0.4, 2), (0.11, 0.1, 4)]
    )
    def test_the_first_that_is_acceptable(self, limit, expected, tries):
        result = jax.jit(
            lambda: trust_region.backtracking_line_search(
                lambda x: (x["a"][0] <= limit, x["a"]),
                {"a": jnp.zeros(2)},
                {"a": jnp.ones(2)},
                0.5,
                6,
                initial_step_size=0.8,
            )
        )()
        np.testing.assert_allclose(result.params["a"], expected, rtol=1e-6)
        np.testing.assert_allclose(result.aux, expected, rtol=1e-6)
        assert result.accepted
        assert result.num_steps == tries
        np.testing.assert_allclose(result.step_size, expected, rtol=1e-6)

    def test_nothing_acceptable_moves_nothing(self):
        theta = jnp.array([0.1, 0.7])
        result = trust_region.backtracking_line_search(
            lambda x: (jnp.asarray(False), x.sum()), theta, jnp.ones(2), 0.5, 3
        )
        np.testing.assert_array_equal(result.params, theta)
        assert not result.accepted
        assert result.num_steps == 3
        assert result.step_size == 0

    def test_a_step_that_is_not_finite_is_never_taken(self):
        theta = jnp.array([0.1, 0.7])
        result = trust_region.backtracking_line_search(
            lambda x: (x.sum() < 9, x.sum()), theta, jnp.full(2, jnp.nan), 0.5, 3
        )
        np.testing.assert_array_equal(result.params, theta)

    def test_under_vmap_each_searches_for_itself(self):
        limits = jnp.array([5.0, 0.5, 0.11])

        def one(limit):
            return trust_region.backtracking_line_search(
                lambda x: (x <= limit, ()), jnp.zeros(()), jnp.ones(()), 0.5, 6
            ).params

        np.testing.assert_allclose(jax.vmap(one)(limits), [1.0, 0.5, 0.0625])


def test_multipliers_ascend_and_stay_positive():
    result = dual_ascent(jnp.array([0.5, 0.5, 9.9]), jnp.array([2.0, -8.0, 5.0]), 0.1, 10.0)
    np.testing.assert_allclose(result, [0.7, 0.0, 10.0], rtol=1e-6)
