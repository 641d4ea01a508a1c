import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmarl_lite.ops import surrogates


def test_ratio():
    result = surrogates.importance_ratio(
        jnp.log(jnp.array([0.5, 0.2])), jnp.log(jnp.array([0.25, 0.4]))
    )
    np.testing.assert_allclose(result, [2.0, 0.5], rtol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.1, 2.0, 2.2),  # within the clip: ρ A
        (1.5, 2.0, 2.4),  # gain cut off at (1 + 0.2) * 2
        (0.5, 2.0, 1.0),  # a loss is never cut off: 0.5 * 2
        (0.5, -2.0, -1.6),  # gain cut off at (1 - 0.2) * -2
        (1.5, -2.0, -3.0),  # a loss is never cut off: 1.5 * -2
        (0.9, -2.0, -1.8),  # within
        (7.0, 0.0, 0.0),
    ],
)
def test_clipped_surrogate_by_hand(ratio, advantage, expected):
    function = lambda r: surrogates.clipped_surrogate(r, jnp.float32(advantage), 0.2)  # noqa: E731
    np.testing.assert_allclose(function(jnp.float32(ratio)), expected, rtol=1e-6)
    free = expected == pytest.approx(ratio * advantage)
    np.testing.assert_allclose(
        jax.grad(function)(jnp.float32(ratio)), advantage if free else 0.0, rtol=1e-6
    )


def test_gradient_at_ratio_one_is_score_times_advantage(float64):
    draw = np.random.default_rng(0)
    theta, advantage = jnp.asarray(draw.normal(size=5)), jnp.asarray(draw.normal(size=4))
    action = jnp.array([0, 3, 3, 1])

    def log_prob(theta):
        return jax.nn.log_softmax(theta)[action]

    old = log_prob(theta)

    def surrogate(theta):
        return surrogates.clipped_surrogate(
            surrogates.importance_ratio(log_prob(theta), old), advantage, 0.2
        ).sum()

    # The score of a softmax is one-hot(u) - π.
    pi = np.exp(theta) / np.exp(theta).sum()
    expected = sum(
        float(a) * (np.eye(5)[u] - pi) for a, u in zip(advantage, np.asarray(action), strict=True)
    )
    np.testing.assert_allclose(jax.grad(surrogate)(theta), expected, atol=1e-12)


def test_approximate_kl(float64):
    log_ratio = jnp.linspace(-2.0, 2.0, 41)
    result = surrogates.approximate_kl(log_ratio)
    np.testing.assert_allclose(result, np.exp(log_ratio) - 1.0 - log_ratio, atol=1e-14)
    assert (result >= 0).all()
    # In expectation over the old policy it is KL(old || new).
    old, new = np.array([0.2, 0.5, 0.3]), np.array([0.4, 0.4, 0.2])
    estimate = (old * surrogates.approximate_kl(jnp.log(new / old))).sum()
    np.testing.assert_allclose(estimate, (old * np.log(old / new)).sum(), rtol=1e-12)


def test_approximate_kl_of_tiny_steps_keeps_its_digits():
    np.testing.assert_allclose(surrogates.approximate_kl(jnp.float32(1e-3)), 5e-7, rtol=0.02)


def test_explained_variance(float64):
    target = jnp.array([[1.0, 2.0], [3.0, 6.0]])
    every = jnp.ones((2, 2), bool)
    assert surrogates.explained_variance(target, target, every) == 1
    np.testing.assert_allclose(
        surrogates.explained_variance(jnp.full((2, 2), 3.0), target, every), 0.0, atol=1e-7
    )
    np.testing.assert_allclose(
        surrogates.explained_variance(-target, target, every), -3.0, rtol=1e-7
    )
    # Var(target) = 3.5; the error of the prediction is (0, 0, 0, 2): variance 0.75.
    result = surrogates.explained_variance(jnp.array([[1.0, 2.0], [3.0, 4.0]]), target, every)
    np.testing.assert_allclose(result, 1 - 0.75 / 3.5, rtol=1e-7)
    # without the last entry the prediction is perfect; a target that does not vary explains nothing
    assert (
        surrogates.explained_variance(
            jnp.array([[1.0, 2.0], [3.0, 4.0]]), target, every.at[1, 1].set(False)
        )
        == 1
    )
    assert surrogates.explained_variance(target, jnp.ones((2, 2)), every) == 0
