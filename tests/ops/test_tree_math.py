import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference_impl

from jaxmarl_lite.ops import tree_math


def _tree(seed):
    draw = np.random.default_rng(seed)
    return {
        "a": jnp.asarray(draw.normal(size=(3, 2))),
        "b": [jnp.asarray(draw.normal(size=4)), jnp.asarray(2.0)],
    }


def _flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def test_arithmetic_against_flat_vectors(float64):
    a, b = _tree(0), _tree(1)
    np.testing.assert_allclose(tree_math.vdot(a, b), _flat(a) @ _flat(b), rtol=1e-14)
    np.testing.assert_allclose(tree_math.norm(a), np.linalg.norm(_flat(a)), rtol=1e-14)
    np.testing.assert_allclose(_flat(tree_math.scale(-2.5, a)), -2.5 * _flat(a), rtol=1e-14)
    np.testing.assert_allclose(
        _flat(tree_math.add_scaled(3.0, a, b)), 3.0 * _flat(a) + _flat(b), rtol=1e-14
    )
    expected = _flat(a) @ _flat(b) / np.linalg.norm(_flat(a)) / np.linalg.norm(_flat(b))
    np.testing.assert_allclose(tree_math.cosine(a, b), expected, rtol=1e-14)
    np.testing.assert_allclose(tree_math.cosine(a, tree_math.scale(-3.0, a)), -1.0, rtol=1e-14)


def test_single_precision_stays_single_where_double_is_enabled(float64):
    a = jax.tree.map(lambda x: x.astype(jnp.float32), _tree(0))
    result = (
        tree_math.vdot(a, a),
        tree_math.norm(a),
        tree_math.cosine(a, a),
        tree_math.clip_by_norm(a, 0.1),
    )
    assert {x.dtype for x in jax.tree.leaves(result)} == {jnp.dtype("float32")}
    assert tree_math.vdot((), ()) == 0


@pytest.mark.parametrize("size", [1e-15, 1e-9, 1.0, 1e9])
def test_cosine_does_not_depend_on_the_size(size):
    a = jax.tree.map(lambda x: x.astype(jnp.float32) * size, _tree(0))
    np.testing.assert_allclose(tree_math.cosine(a, a), 1.0, rtol=1e-5)


def test_cosine_with_nothing_is_zero():
    a = _tree(0)
    assert tree_math.cosine(a, jax.tree.map(jnp.zeros_like, a)) == 0


@pytest.mark.parametrize("max_norm", [0.5, 3.0, 100.0])
def test_clip_by_norm_is_optaxs(float64, max_norm):
    a = _tree(2)
    result = tree_math.clip_by_norm(a, max_norm)
    expected, _ = optax.clip_by_global_norm(max_norm).update(a, optax.EmptyState())
    np.testing.assert_allclose(_flat(result), _flat(expected), rtol=1e-13)
    np.testing.assert_allclose(
        _flat(result), reference_impl.clip_by_norm(_flat(a), max_norm), rtol=1e-13
    )


def test_clip_by_norm_at_zero_and_its_derivative(float64):
    zero = jnp.zeros(3)
    np.testing.assert_array_equal(tree_math.clip_by_norm(zero, 1.0), 0)
    np.testing.assert_array_equal(
        jax.jacobian(lambda x: tree_math.clip_by_norm(x, 1.0))(zero), np.eye(3)
    )
    # Beyond the bound the direction alone counts: the Jacobian is (I - x xᵀ/|x|²) m/|x|.
    x = jnp.array([3.0, 0.0, 4.0])
    expected = (np.eye(3) - np.outer(x, x) / 25.0) * 2.0 / 5.0
    np.testing.assert_allclose(
        jax.jacobian(lambda x: tree_math.clip_by_norm(x, 2.0))(x), expected, atol=1e-14
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_all_finite(bad):
    tree = {
        "key": jax.random.key(0),
        "count": jnp.arange(3),
        "x": jnp.array([1.0, 2.0]),
        "y": jnp.zeros((2, 2)),
    }
    assert bool(tree_math.all_finite(tree))
    assert not bool(tree_math.all_finite(tree | {"x": jnp.array([1.0, bad])}))
    assert bool(tree_math.all_finite({"count": jnp.arange(3)}))


def test_select_by_the_leading_axes():
    a, b = (
        {"x": jnp.ones((2, 3)), "y": jnp.ones(2, int)},
        {"x": jnp.zeros((2, 3)), "y": jnp.zeros(2, int)},
    )
    result = tree_math.where(jnp.array([True, False]), a, b)
    assert result["x"].tolist() == [[1, 1, 1], [0, 0, 0]] and result["y"].tolist() == [1, 0]
