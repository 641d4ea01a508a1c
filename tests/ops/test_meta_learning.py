"""The gradient through an update, against finite differences and a closed form; and `jml.ops` as a
fresh process sees it."""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmarl_lite as jml
from jaxmarl_lite.ops import tree_math

RULE = optax.chain(optax.clip_by_global_norm(2.0), optax.adam(0.1, eps_root=1e-6))


def inner_loss(eta, theta):
    """A regression whose targets are learned."""
    x = jnp.linspace(-1.0, 1.0, 7)
    return (
        (jnp.tanh(theta["w"][None] * x[:, None] + theta["b"][None]).sum(-1) - eta["target"] * x)
        ** 2
    ).sum()


def one_step(eta, theta):
    return jax.tree.map(lambda p, g: p - 0.1 * g, theta, jax.grad(inner_loss, 1)(eta, theta))


def steps_by_optax(eta, theta):
    def step(carry, _):
        theta, state = carry
        updates, state = RULE.update(jax.grad(inner_loss, 1)(eta, theta), state, theta)
        return (optax.apply_updates(theta, updates), state), None

    return jax.lax.scan(step, (theta, RULE.init(theta)), None, 3)[0][0]


def outer(theta):
    return jnp.sin(theta["w"]).sum() + (theta["b"] ** 2).sum()


@pytest.mark.parametrize("update", [one_step, steps_by_optax])
def test_it_is_the_derivative_of_the_outer_objective(update):
    with jax.enable_x64(True):
        eta = {"target": jnp.arange(1.0, 8.0) / 7.0}
        theta = {"w": jnp.array([0.3, -0.2]), "b": jnp.array([0.1, 0.4])}
        result = jax.jit(lambda eta, theta: jml.ops.meta_gradient(eta, theta, update, outer))(
            eta, theta
        )
        direction = {"target": jnp.cos(jnp.arange(7.0))}

        def along(t):
            return float(outer(update(tree_math.add_scaled(t, direction, eta), theta)))

        h = 1e-4
        slope = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)
        exact = float(tree_math.vdot(result.gradient, direction))
        np.testing.assert_allclose(exact, slope, rtol=1e-7)
        assert abs(slope) > 1e-3
        np.testing.assert_allclose(result.value, along(0.0), rtol=1e-12)
        np.testing.assert_allclose(result.outer_gradient["w"], jnp.cos(result.params["w"]))
        assert result.aux is None


def test_what_the_update_returns_besides_is_passed_on():
    result = jml.ops.meta_gradient(
        jnp.array(2.0),
        jnp.array(1.0),
        lambda eta, theta: (theta * eta, {"old": theta, "by": eta}),
        lambda theta: theta**2,
        has_aux=True,
    )
    assert (float(result.params), float(result.gradient)) == (2.0, 4.0)
    assert {name: float(x) for name, x in result.aux.items()} == {"old": 1.0, "by": 2.0}


FRESH = """
import jax, jax.numpy as jnp, numpy as np
import jaxmarl_lite as jml

ops, tree = jml.ops, {"w": np.ones(2, np.float32)}
q = np.array([[1.0, 2.0, 4.0]], np.float32)
costs = {"w": np.ones((1, 2), np.float32)}
step = ops.constrained_step(tree, costs, jnp.zeros(1), lambda v: v, 1.0)
assert isinstance(step, ops.ConstrainedStep) and step.direction["w"].shape == (2,)
solved = ops.conjugate_gradient(lambda v: v, jax.tree.map(lambda x: x[None], tree), 3)
assert isinstance(solved, ops.CGResult)
product = ops.fisher_vector_product(
    lambda p, x: p["w"].sum() * x, lambda mean, v, x: v / 2, tree, np.ones((1, 2), np.float32)
)
assert product(tree)["w"].tolist() == [2.0, 2.0]
gae = ops.generalized_advantage_estimation(
    *(jnp.ones(3) for _ in range(4)), np.zeros(3, bool), 0.9, 0.9
)
assert gae.shape == (3,)
assert ops.importance_ratio(q, q).tolist() == [[1.0, 1.0, 1.0]]
assert ops.clipped_surrogate(q, q, 0.2).shape == q.shape
assert ops.approximate_kl(q - q).max() == 0.0
assert float(ops.explained_variance(q, q, np.ones(q.shape))) == 1.0
probs = np.array([[0.5, 0.25, 0.25]], np.float32)
assert ops.counterfactual_baseline(q, probs).tolist() == [2.0]
assert ops.optimal_baseline(q, probs).shape == (1,)
mixer = ops.Mixer(np.ones((1, 3, 1)), np.zeros((1, 1)), np.ones((1, 1)), np.zeros(1))
assert ops.mix(mixer, q).tolist() == ops.sum_mixing(q).tolist() == [7.0]
assert ops.dual_ascent(jnp.ones(1), jnp.ones(1), 0.5).tolist() == [1.5]
assert ops.masked_mean(jnp.asarray(q), np.ones(q.shape)).shape == ()
assert abs(float(ops.standardize(jnp.asarray(q), jnp.ones(q.shape)).mean())) < 1e-6
meta = ops.meta_gradient(
    tree, tree, lambda eta, p: jax.tree.map(jnp.add, eta, p), lambda p: p["w"].sum()
)
assert isinstance(meta, ops.MetaGradient) and meta.gradient["w"].tolist() == [1.0, 1.0]
search = ops.backtracking_line_search
assert callable(search) and ops.LineSearchResult
assert ops.returns and ops.tree_math.norm and set(ops.__all__) <= set(dir(ops))
print(sorted(ops.__all__))
"""


def test_every_function_of_ops_works_in_a_fresh_process_on_plain_arrays():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FRESH)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert all(repr(name) in done.stdout for name in jml.ops.__all__)
    unused = [name for name in jml.ops.__all__ if f"ops.{name}" not in FRESH]
    assert not unused, unused


def test_numbers_without_a_gradient_are_refused():
    with pytest.raises(TypeError, match="eta has entries of int32; allowed are floats"):
        jml.ops.meta_gradient(
            {"a": jnp.ones(2), "b": jnp.arange(2)}, 0.0, lambda e, p: p, lambda p: p
        )
