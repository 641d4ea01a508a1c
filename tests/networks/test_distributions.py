import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_impl
import scipy.integrate
import scipy.stats

from jaxmarl_lite.networks.distributions import (
    Categorical,
    Gaussian,
    TanhGaussian,
    categorical,
    make_distribution,
)
from jaxmarl_lite.types import Observation

DTYPES = [jnp.float32, jnp.float64]
MASK = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 0]], bool)


def _logits(dtype, seed=0):
    return jnp.asarray(3.0 * np.random.default_rng(seed).normal(size=(3, 4)), dtype)


def _tolerance(dtype):
    return {"rtol": 2e-5, "atol": 2e-5} if dtype == jnp.float32 else {"rtol": 1e-11, "atol": 1e-12}


def _gaussian(dtype, mask, seed=0):
    mean, log_std = np.random.default_rng(seed).normal(size=(2, *mask.shape))
    return Gaussian(jnp.asarray(mean, dtype), jnp.asarray(0.5 * log_std, dtype), jnp.asarray(mask))


@pytest.mark.parametrize("dtype", DTYPES)
def test_categorical_against_distrax(float64, dtype):
    logits, other = _logits(dtype), _logits(dtype, seed=1)
    full = jnp.ones_like(logits, bool)
    ours, theirs = categorical(logits, full), distrax.Categorical(logits)
    their_other = distrax.Categorical(other)
    action = jnp.array([0, 3, 2])
    assert ours.logits.dtype == dtype
    np.testing.assert_allclose(ours.log_prob(action), theirs.log_prob(action), **_tolerance(dtype))
    np.testing.assert_allclose(ours.entropy(), theirs.entropy(), **_tolerance(dtype))
    kl = ours.kl(categorical(other, full))
    np.testing.assert_allclose(kl, theirs.kl_divergence(their_other), **_tolerance(dtype))
    np.testing.assert_array_equal(ours.mode(), theirs.mode())


@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_categorical_against_a_loop(float64, dtype):
    logits, other = _logits(dtype), _logits(dtype, seed=1)
    ours = categorical(logits, jnp.asarray(MASK))
    kl = ours.kl(categorical(other, jnp.asarray(MASK)))
    for row in range(3):
        p = reference_impl.softmax(np.asarray(logits[row], float), MASK[row])
        q = reference_impl.softmax(np.asarray(other[row], float), MASK[row])
        legal = np.flatnonzero(MASK[row])
        np.testing.assert_allclose(
            ours.entropy()[row], -sum(p[a] * np.log(p[a]) for a in legal), **_tolerance(dtype)
        )
        np.testing.assert_allclose(
            kl[row], sum(p[a] * np.log(p[a] / q[a]) for a in legal), **_tolerance(dtype)
        )
        for action in legal:
            result = ours.log_prob(jnp.full(3, action))[row]
            np.testing.assert_allclose(result, np.log(p[action]), **_tolerance(dtype))
        assert ours.mode()[row] == max(legal, key=lambda a: p[a])


def test_an_illegal_action_is_never_drawn_and_the_others_as_often_as_they_should():
    logits = _logits(jnp.float32).at[1, 0].set(1e6)
    pi = categorical(logits, jnp.asarray(MASK))
    draws = np.asarray(jax.vmap(pi.sample)(jax.random.split(jax.random.key(0), 20_000)))
    for row in range(3):
        result = np.bincount(draws[:, row], minlength=4)
        p = reference_impl.softmax(np.asarray(logits[row], float), MASK[row])
        assert (result[~MASK[row]] == 0).all()
        # Four standard errors of a share.
        assert (np.abs(result / 20_000 - p) <= 4 * np.sqrt(p * (1 - p) / 20_000)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_illegal_logits_get_no_gradient_at_all(float64, dtype):
    mask = jnp.asarray(MASK)
    other = categorical(_logits(dtype, seed=1), mask)
    action = jnp.array([1, 3, 2])

    def total(logits):
        pi = categorical(logits, mask)
        return (pi.log_prob(action) + pi.entropy() + pi.kl(other) + other.kl(pi)).sum()

    for logits in (
        _logits(dtype),
        jnp.where(mask, _logits(dtype), jnp.inf),
        jnp.where(mask, _logits(dtype), -jnp.inf),
    ):
        pull = np.asarray(jax.grad(total)(logits))
        assert np.isfinite(pull).all()
        assert (pull[~MASK] == 0).all() and (pull[:2][MASK[:2]] != 0).all()


def test_second_derivatives_of_a_masked_categorical(float64):
    logits = _logits(jnp.float64)[1]
    hessian = jax.hessian(lambda x: categorical(x, jnp.asarray(MASK[1])).log_prob(jnp.array(3)))(
        logits
    )
    p = reference_impl.softmax(np.asarray(logits), MASK[1])
    np.testing.assert_allclose(hessian, -(np.diag(p) - np.outer(p, p)), atol=1e-12)


def test_extreme_logits_stay_finite():
    logits = jnp.array([[1e4, -1e4, 0.0], [-1e8, -1e8, -1e8], [1e30, 0.0, -1e30]])
    full = jnp.ones((3, 3), bool)
    for function in (
        lambda pi: pi.entropy(),
        lambda pi: pi.log_prob(jnp.array([0, 1, 0])),
        lambda pi: pi.kl(pi),
    ):
        assert jnp.isfinite(function(categorical(logits, full))).all()
        assert jnp.isfinite(
            jax.grad(lambda x, function=function: function(categorical(x, full)).sum())(logits)
        ).all()
    np.testing.assert_allclose(
        categorical(logits, full).entropy(), [0.0, np.log(3.0), 0.0], atol=1e-6
    )


def test_a_row_without_a_legal_action_counts_as_free():
    nothing = jnp.zeros((2, 3), bool)
    logits = jnp.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    pi = categorical(logits, nothing)
    for function in (lambda pi: pi.log_prob(jnp.array([0, 2])), lambda pi: pi.entropy()):
        np.testing.assert_allclose(function(pi), function(categorical(logits, ~nothing)), rtol=1e-6)
        assert jnp.isfinite(
            jax.grad(lambda x, function=function: function(categorical(x, nothing)).sum())(logits)
        ).all()
    assert pi.mode().tolist() == [2, 0]
    assert (pi.sample(jax.random.key(0)) < 3).all()


DIMENSIONS = np.array([[1, 1, 1], [1, 0, 1], [1, 0, 0], [0, 0, 0]], bool)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gaussian_against_scipy_over_the_dimensions_that_exist(float64, dtype):
    pi, other = _gaussian(dtype, DIMENSIONS), _gaussian(dtype, DIMENSIONS, seed=1)
    action = jnp.asarray(np.random.default_rng(2).normal(size=DIMENSIONS.shape), dtype)
    mean, std = np.asarray(pi.mean, float), np.exp(np.asarray(pi.log_std, float))
    other_mean, other_std = np.asarray(other.mean, float), np.exp(np.asarray(other.log_std, float))
    assert pi.log_prob(action).dtype == dtype
    for row, mask in enumerate(DIMENSIONS):
        here = scipy.stats.norm(mean[row, mask], std[row, mask])
        expected = here.logpdf(np.asarray(action, float)[row, mask]).sum()
        np.testing.assert_allclose(pi.log_prob(action)[row], expected, **_tolerance(dtype))
        np.testing.assert_allclose(pi.entropy()[row], here.entropy().sum(), **_tolerance(dtype))
        theirs = (
            distrax.MultivariateNormalDiag(mean[row, mask], std[row, mask]) if mask.any() else None
        )
        if theirs is not None:
            there = distrax.MultivariateNormalDiag(other_mean[row, mask], other_std[row, mask])
            np.testing.assert_allclose(
                pi.kl(other)[row], theirs.kl_divergence(there), **_tolerance(dtype)
            )
        else:
            assert pi.kl(other)[row] == pi.entropy()[row] == pi.log_prob(action)[row] == 0


def test_gaussian_draws():
    pi = _gaussian(jnp.float32, DIMENSIONS)
    draws = np.asarray(jax.vmap(pi.sample)(jax.random.split(jax.random.key(1), 20_000)))
    std = np.exp(np.asarray(pi.log_std))
    assert (draws[:, ~DIMENSIONS] == 0).all() and (np.asarray(pi.mode())[~DIMENSIONS] == 0).all()
    gap = np.abs(draws.mean(0) - np.asarray(pi.mean))
    assert (gap <= 4 * std / np.sqrt(20_000))[DIMENSIONS].all()
    np.testing.assert_allclose(draws.std(0)[DIMENSIONS], std[DIMENSIONS], rtol=0.03)
    np.testing.assert_array_equal(
        np.asarray(pi.mode())[DIMENSIONS], np.asarray(pi.mean)[DIMENSIONS]
    )


def _squeezed(base, low=-2.0, high=3.0):
    return TanhGaussian(
        base, jnp.full(base.mean.shape, low, base.mean.dtype), jnp.full_like(base.mean, high)
    )


@pytest.mark.parametrize("squeeze", [False, True])
def test_padded_dimensions_get_no_gradient_at_all(float64, squeeze):
    start = _gaussian(jnp.float64, DIMENSIONS)
    action = jnp.asarray(np.random.default_rng(2).uniform(-1.5, 1.5, DIMENSIONS.shape))
    build = _squeezed if squeeze else lambda base: base
    other = build(_gaussian(jnp.float64, DIMENSIONS, seed=1))

    def total(mean, log_std):
        pi = build(Gaussian(mean, log_std, start.mask))
        return (pi.log_prob(action) + pi.entropy() + pi.kl(other) + other.kl(pi)).sum()

    for pull in jax.grad(total, (0, 1))(start.mean, start.log_std):
        assert (np.asarray(pull)[~DIMENSIONS] == 0).all() and (
            np.asarray(pull)[DIMENSIONS] != 0
        ).all()
    wild = jnp.where(start.mask, action, 1e6)
    assert build(start).log_prob(wild).tolist() == build(start).log_prob(action).tolist()


@pytest.mark.parametrize(
    ("mean", "std"), [(0.0, 1.0), (0.7, 0.3), (-1.5, 0.8), (5.0, 1.0), (-7.0, 2.0), (30.0, 1.0)]
)
def test_tanh_density_and_the_ends_sum_to_one(float64, mean, std):
    pi = _squeezed(Gaussian(jnp.array([mean]), jnp.log(jnp.array([std])), jnp.array([True])))
    density = jax.jit(lambda u: jnp.exp(pi.log_prob(u[None])))
    edge = 2.5 * TanhGaussian.SATURATION_EPS
    points = [-1.999, -1.99, -1.9, 0.5, 2.9, 2.99, 2.999]
    inside, _ = scipy.integrate.quad(
        lambda u: float(density(u)), -2.0 + edge, 3.0 - edge, epsabs=1e-7, limit=400, points=points
    )
    ends = [float(density(jnp.array(u))) for u in (-2.0, 3.0)]
    np.testing.assert_allclose(inside + sum(ends), 1.0, atol=1e-5)
    assert (max(ends) > 0.1) == (abs(mean) > 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ratios_far_beyond_the_bounds_are_one(float64, dtype):
    """What is played there is the bound, whatever the mean."""

    def at(mean):
        mean = jnp.array([mean], dtype)
        return TanhGaussian(
            Gaussian(mean, jnp.zeros_like(mean), jnp.array([True])),
            jnp.full_like(mean, -2.0),
            jnp.full_like(mean, 3.0),
        )

    action = at(20.0).sample(jax.random.key(0))
    assert 3.0 - 1e-5 < action[0] < 3.0
    for played in (action, jnp.full_like(action, 3.0)):
        log_probs = [float(at(mean).log_prob(played)) for mean in (20.0, 21.0, 60.0)]
        np.testing.assert_allclose(log_probs, 0.0, atol=1e-12)
    assert jax.grad(lambda mean: at(mean).log_prob(action))(20.0) < 1e-12


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh_log_prob_against_distrax(float64, dtype):
    base = _gaussian(dtype, np.ones((4, 3), bool))
    pi = _squeezed(base)
    squeeze = distrax.Chain(
        [
            distrax.ScalarAffine(shift=jnp.asarray(0.5, dtype), scale=jnp.asarray(2.5, dtype)),
            distrax.Tanh(),
        ]
    )
    theirs = distrax.Independent(
        distrax.Transformed(distrax.Normal(base.mean, jnp.exp(base.log_std)), squeeze), 1
    )
    action = pi.sample(jax.random.key(3))
    np.testing.assert_allclose(
        pi.log_prob(action),
        theirs.log_prob(action),
        **({"rtol": 1e-3, "atol": 1e-3} if dtype == jnp.float32 else {"rtol": 1e-8, "atol": 1e-8}),
    )
    other = _squeezed(_gaussian(dtype, np.ones((4, 3), bool), seed=1))
    np.testing.assert_array_equal(pi.kl(other), base.kl(other.base))
    np.testing.assert_array_equal(pi.entropy(), base.entropy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mean", [0.0, 3.0, -50.0, 50.0, 1e4])
def test_tanh_at_the_edges(float64, dtype, mean):
    mask = jnp.ones((5, 2), bool).at[:, 1].set(False)
    base = Gaussian(jnp.full((5, 2), mean, dtype), jnp.zeros((5, 2), dtype), mask)
    pi = _squeezed(base)

    def drawn(mean):
        return TanhGaussian(base._replace(mean=mean), pi.low, pi.high)

    for action in (pi.sample(jax.random.key(0)), pi.mode()):
        assert action.dtype == dtype
        assert (action[:, 0] > -2).all() and (action[:, 0] < 3).all() and (action[:, 1] == 0).all()
        assert jnp.isfinite(pi.log_prob(action)).all()
        pull = jax.grad(lambda m, action=action: drawn(m).log_prob(action).sum())(base.mean)
        assert jnp.isfinite(pull).all() and (pull[:, 1] == 0).all()
    for bound in (-2.0, 3.0):
        assert jnp.isfinite(pi.log_prob(jnp.full((5, 2), bound, dtype))).all()


def test_tanh_sample_and_log_prob_agree(float64):
    pi = _squeezed(_gaussian(jnp.float64, np.ones((1, 1), bool)))
    draws = np.asarray(jax.vmap(pi.sample)(jax.random.split(jax.random.key(5), 20_000)))[:, 0, 0]
    x = float(pi.base.mean[0, 0]) + np.exp(float(pi.base.log_std[0, 0])) * scipy.stats.norm.ppf(
        [0.1, 0.5, 0.9]
    )
    shares = (draws[:, None] <= -2.0 + 2.5 * (np.tanh(x) + 1.0)).mean(0)
    np.testing.assert_allclose(shares, [0.1, 0.5, 0.9], atol=0.012)
    np.testing.assert_allclose(
        pi.mode()[0, 0], -2.0 + 2.5 * (np.tanh(float(pi.base.mean[0, 0])) + 1.0), rtol=1e-12
    )


def test_from_head():
    def observed(mask):
        return Observation(jnp.zeros((2, 1)), jnp.zeros(1), jnp.asarray(mask), jnp.ones(2, bool))

    masked = observed([[True, False], [True, True]])
    assert isinstance(make_distribution(jnp.zeros((2, 2)), masked, None), Categorical)
    mean, log_std = jnp.array([[0.0, 1.0], [2.0, 3.0]]), jnp.array([0.5, -0.5])
    free = make_distribution((mean, log_std), masked, None)
    assert isinstance(free, Gaussian) and free.log_std.tolist() == [[0.5, -0.5]] * 2
    bounded = make_distribution(
        (mean, log_std), masked, (jnp.array([-1.0, 0.0]), jnp.array([1.0, 4.0]))
    )
    assert isinstance(bounded, TanhGaussian)
    np.testing.assert_allclose(
        bounded.mode(), [[0.0, 0.0], [np.tanh(2.0), 2.0 + 2.0 * np.tanh(3.0)]], rtol=1e-5
    )
