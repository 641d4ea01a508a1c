import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_impl

from jaxmarl_lite.ops.returns import generalized_advantage_estimation


def test_five_numbers_by_hand():
    """γ = 0.5, λ = 0.5, so γλ = 0.25; step 1 is truly over, step 3 is cut off."""
    reward = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0])
    value = jnp.array([10.0, 20.0, 30.0, 40.0, 50.0])
    next_value = jnp.array([20.0, 99.0, 40.0, 60.0, 70.0])
    discount = jnp.array([1.0, 0.0, 1.0, 1.0, 1.0])
    last = jnp.array([False, True, False, True, False])
    # δ_0 = 1 + 0.5 * 20 - 10 =  1
    # δ_1 = 2 + 0        - 20 = -18    the 99 beyond a true end is not looked at
    # δ_2 = 3 + 0.5 * 40 - 30 = -7
    # δ_3 = 4 + 0.5 * 60 - 40 = -6     the 60 beyond the time limit is
    # δ_4 = 5 + 0.5 * 70 - 50 = -10
    # A_4 = -10                        the rollout stops here
    # A_3 = -6                         nothing flows back from A_4
    # A_2 = -7 + 0.25 * -6 = -8.5
    # A_1 = -18                        nothing flows back from A_2
    # A_0 = 1 + 0.25 * -18 = -3.5
    result = generalized_advantage_estimation(reward, value, next_value, discount, last, 0.5, 0.5)
    assert result.tolist() == [-3.5, -18.0, -8.5, -6.0, -10.0]


def _random(shape, seed=0):
    draw = np.random.default_rng(seed)
    last = draw.random(shape) < 0.25
    discount = np.where(last & (draw.random(shape) < 0.5), 0.0, 1.0)
    return *draw.normal(size=(3, *shape)), discount, last


@pytest.mark.parametrize(("gamma", "lam"), [(0.9, 0.8), (1.0, 1.0), (0.7, 0.0), (0.0, 0.9)])
def test_against_sums_over_the_episode(float64, gamma, lam):
    data = _random((40, 5))
    result = generalized_advantage_estimation(*map(jnp.asarray, data), gamma, lam)
    for b in range(5):
        expected = reference_impl.advantage(*(x[:, b] for x in data), gamma, lam)
        np.testing.assert_allclose(result[:, b], expected, rtol=0, atol=1e-12)


def test_lambda_one_without_ends_is_the_discounted_return_less_the_value(float64):
    reward, value, *_ = _random((12,))
    next_value = np.append(value[1:], 2.5)
    quiet = np.ones(12), np.zeros(12, bool)
    result = generalized_advantage_estimation(
        *map(jnp.asarray, (reward, value, next_value, *quiet)), 0.9, 1.0
    )
    for t in range(12):
        expected = (
            sum(0.9 ** (k - t) * reward[k] for k in range(t, 12)) + 0.9 ** (12 - t) * 2.5 - value[t]
        )
        np.testing.assert_allclose(result[t], expected, rtol=0, atol=1e-12)


def test_gamma_zero_and_lambda_zero():
    reward, value, next_value, discount, last = map(jnp.asarray, _random((9,)))
    blind = generalized_advantage_estimation(reward, value, next_value, discount, last, 0.0, 0.7)
    np.testing.assert_allclose(blind, reward - value, atol=1e-6)
    one_step = generalized_advantage_estimation(reward, value, next_value, discount, last, 0.9, 0.0)
    np.testing.assert_allclose(one_step, reward + 0.9 * discount * next_value - value, atol=1e-6)


def test_linear_in_the_reward_and_its_derivative(float64):
    data = [jnp.asarray(x) for x in _random((15, 3))]
    other = jnp.asarray(_random((15, 3), seed=1)[0])

    def function(reward):
        return generalized_advantage_estimation(reward, *data[1:], 0.9, 0.8)

    rest = function(jnp.zeros_like(other))
    np.testing.assert_allclose(
        function(2 * data[0] - 3 * other) - rest,
        2 * (function(data[0]) - rest) - 3 * (function(other) - rest),
    )
    tangent = jax.jvp(function, (data[0],), (other,))[1]
    np.testing.assert_allclose(tangent, function(other) - rest, atol=1e-12)


def test_ends_of_the_env_hold_for_every_agent(float64):
    reward, value, next_value, *_ = map(jnp.asarray, _random((20, 4, 3)))
    *_, discount, last = map(jnp.asarray, _random((20, 4), seed=2))
    result = generalized_advantage_estimation(
        reward, value, next_value, discount[..., None], last[..., None], 0.9, 0.8
    )
    assert result.shape == (20, 4, 3)
    for agent in range(3):
        alone = generalized_advantage_estimation(
            reward[..., agent], value[..., agent], next_value[..., agent], discount, last, 0.9, 0.8
        )
        np.testing.assert_allclose(result[..., agent], alone, rtol=0, atol=1e-14)


def test_refuses_what_would_broadcast_wrongly():
    x = jnp.zeros((6, 6, 2))
    with pytest.raises(AssertionError):
        generalized_advantage_estimation(
            x, x, x, jnp.ones((6, 6)), jnp.zeros((6, 6), bool), 0.9, 0.9
        )
    with pytest.raises(AssertionError):
        generalized_advantage_estimation(x, x[..., :1], x, x, x > 0, 0.9, 0.9)
    with pytest.raises(AssertionError):
        generalized_advantage_estimation(x.astype(int), x, x, x, x > 0, 0.9, 0.9)
