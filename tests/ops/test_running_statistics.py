import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmarl_lite.ops import running_statistics


def _masked(seed=0, shape=(7, 3, 4)):
    draw = np.random.default_rng(seed)
    x, weight = 5.0 + 3.0 * draw.normal(size=shape), draw.random(shape) < 0.6
    weight[0] = True
    return x, weight


@pytest.mark.parametrize("axis", [None, (0, 1)])
def test_masked_mean_and_standardize_against_numpy(float64, axis):
    x, weight = _masked()
    masked = np.ma.array(x, mask=~weight)
    np.testing.assert_allclose(
        running_statistics.masked_mean(jnp.asarray(x), jnp.asarray(weight), axis), masked.mean(axis)
    )
    result = running_statistics.standardize(jnp.asarray(x), jnp.asarray(weight), axis)
    expected = (x - masked.mean(axis, keepdims=True)) / masked.std(axis, keepdims=True)
    np.testing.assert_allclose(result[weight], expected[weight], rtol=1e-8)


@pytest.mark.parametrize("unit", [1e-12, 1e-5, 1.0, 1e6])
def test_standardized_numbers_do_not_depend_on_their_unit(unit):
    """A deviation of 1e-5 comes out as 1, and not as 0.095."""
    x, weight = _masked()
    x, weight = jnp.asarray(x, jnp.float32), jnp.asarray(weight)
    result = running_statistics.standardize(unit * (x - 5.0), weight)
    np.testing.assert_allclose(
        result, running_statistics.standardize(x - 5.0, weight), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(jnp.std(result[weight]), 1.0, rtol=1e-4)


@pytest.mark.parametrize("constant", [0.0, 1e-9, 0.1, 1e6])
def test_rounding_errors_are_not_standardized(constant):
    """A constant whose last bit differs here and there stays below its own deviation, and its
    derivative is finite."""
    x = jnp.full(64, constant, jnp.float32).at[::3].multiply(1 + 1.2e-7)
    assert jnp.abs(running_statistics.standardize(x, jnp.ones(64, bool))).max() < 0.5
    pull = jax.grad(lambda v: (running_statistics.standardize(v, jnp.ones(64, bool)) ** 3).sum())(x)
    assert jnp.isfinite(pull).all()


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_normalized_numbers_do_not_depend_on_their_unit(unit):
    x = jnp.asarray(np.random.default_rng(6).normal(size=(200, 2)), jnp.float32)
    running = running_statistics.update_running_statistics(
        running_statistics.init_running_statistics((2,)), unit * x
    )
    np.testing.assert_allclose(
        running_statistics.normalize(running, unit * x).std(0), 1.0, rtol=1e-4
    )
    np.testing.assert_allclose(
        running_statistics.denormalize(running, running_statistics.normalize(running, unit * x)),
        unit * x,
        rtol=1e-4,
    )


def test_dead_entries_change_nothing(float64):
    x, weight = _masked()
    wild = np.where(weight, x, 1e6)
    for function in (running_statistics.masked_mean, running_statistics.standardize):
        calm, disturbed = (
            np.asarray(function(jnp.asarray(v), jnp.asarray(weight), (0, 1))) for v in (x, wild)
        )
        if function is running_statistics.standardize:
            calm, disturbed = calm[weight], disturbed[weight]
        np.testing.assert_array_equal(calm, disturbed)
    pull = jax.grad(lambda v: running_statistics.masked_mean(v, jnp.asarray(weight)))(
        jnp.asarray(x)
    )
    assert (np.asarray(pull)[~weight] == 0).all() and (np.asarray(pull)[weight] > 0).all()


def test_nobody_alive():
    x = jnp.ones((4, 2))
    nobody = jnp.zeros((4, 2), bool)
    assert running_statistics.masked_mean(x, nobody) == 0
    assert running_statistics.masked_mean(x, nobody, (0,)).tolist() == [0, 0]
    assert jnp.isfinite(running_statistics.standardize(x, nobody)).all()


def test_gradient_of_a_constant_is_finite():
    x, weight = jnp.full((5, 2), 3.0), jnp.ones((5, 2), bool)
    jacobian = jax.jacobian(lambda v: running_statistics.standardize(v, weight))(x)
    assert jnp.isfinite(jacobian).all() and jnp.abs(jacobian).max() > 0
    np.testing.assert_array_equal(running_statistics.standardize(x, weight), 0)


def test_running_moments_of_batches_are_those_of_everything(float64):
    draw = np.random.default_rng(3)
    batches = [
        draw.normal(loc, scale, (n, 2, 3))
        for loc, scale, n in [(50.0, 1.0, 3), (-2.0, 9.0, 11), (0.0, 0.1, 1)]
    ]
    running = running_statistics.init_running_statistics((3,))
    for batch in batches:
        running = running_statistics.update_running_statistics(running, jnp.asarray(batch))
    everything = np.concatenate(batches).reshape(-1, 3)
    assert running.count == len(everything)
    np.testing.assert_allclose(running.mean, everything.mean(0), rtol=1e-12)
    np.testing.assert_allclose(running.variance, everything.var(0), rtol=1e-12)


def test_running_moments_of_one_number_far_from_zero():
    draw = np.random.default_rng(4)
    running = running_statistics.init_running_statistics(())
    everything = (1e4 + draw.normal(size=(50, 64))).astype(np.float32)
    for batch in everything:
        running = running_statistics.update_running_statistics(running, jnp.asarray(batch))
    np.testing.assert_allclose(running.mean, everything.mean(dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(running.variance, everything.var(dtype=np.float64), rtol=0.01)


def test_normalize_and_back(float64):
    running = running_statistics.RunningStatistics(
        jnp.asarray(9.0), jnp.array([1.0, -2.0]), jnp.array([4.0, 0.0])
    )
    x = jnp.asarray(np.random.default_rng(5).normal(size=(6, 3, 2)))
    np.testing.assert_allclose(
        running_statistics.denormalize(running, running_statistics.normalize(running, x)),
        x,
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        running_statistics.normalize(running, x)[..., 0], (x[..., 0] - 1.0) / 2.0, rtol=1e-6
    )


def test_moments_of_nothing_change_nothing(float64):
    x = jnp.array([[3.0, -4.0]])
    np.testing.assert_allclose(
        running_statistics.normalize(running_statistics.init_running_statistics((2,)), x),
        x,
        rtol=1e-6,
    )


def test_running_moments_leave_out_samples_without_weight():
    rng = np.random.default_rng(5)
    x, weight = rng.normal(size=(6, 4, 3)), rng.uniform(size=(6, 4)) < 0.5
    result = running_statistics.update_running_statistics(
        running_statistics.init_running_statistics((3,)), jnp.asarray(x), jnp.asarray(weight)
    )
    np.testing.assert_allclose(result.mean, x[weight].mean(0), atol=1e-6)
    np.testing.assert_allclose(result.variance, x[weight].var(0), rtol=1e-5)
    assert result.count == weight.sum()
    nothing = running_statistics.update_running_statistics(
        running_statistics.init_running_statistics((3,)), jnp.asarray(x), jnp.zeros((6, 4))
    )
    np.testing.assert_array_equal(nothing.variance, 1.0)


def test_a_number_that_is_not_finite_counts_nothing_where_the_weight_is_zero():
    x, weight = jnp.array([1.0, jnp.nan, 3.0]), jnp.array([True, False, True])
    assert running_statistics.masked_mean(x, weight) == 2.0
    assert np.isfinite(running_statistics.standardize(x, weight)[jnp.array([0, 2])]).all()
