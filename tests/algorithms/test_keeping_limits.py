"""What is learned under limits, in worlds whose constrained optimum is known; who ignores costs
fails here."""

import functools

import jax
import numpy as np
import pytest
from toy_envs import get_env

from jaxmarl_lite import envs, evaluate, train
from jaxmarl_lite.algorithms import registry

SMALL = dict(hidden_sizes=(16,), critic_lr=2e-3, num_minibatches=1)


@functools.cache
def _learned(name, env_id, updates, **settings):
    """Costs ``[N, K]`` and return of the policy after some updates, by many episodes; and the
    metrics of training."""
    env = get_env(env_id)
    ours = registry.make_algorithm(name, env.spec, registry.config_of(name)(**SMALL | settings))
    init, go = train.make_train(ours, env, num_envs=128, num_steps=20)
    state, metrics = jax.jit(go, static_argnums=1)(init(jax.random.key(0)), updates)
    play = jax.jit(evaluate.make_evaluate(ours, env, 8192))
    played = play(state.learner_state, jax.random.key(1))
    return np.asarray(played.costs.mean(0)), float(played.returns.mean(0)[0]), metrics


LIMITS = np.array([[5.0, 5.0], [5.0, 4.0]])


def test_macpo_finds_the_best_policy_within_two_limits_for_each_agent():
    cost, gained, _ = _learned("macpo", "toy/budget-two", 150, cost_critic_lr=2e-3)
    best = envs.make("toy/budget-two").constrained_best()
    assert (cost <= 1.03 * LIMITS).all()
    assert 0.95 * best <= gained <= 1.03 * best


def test_macpo_with_confidence_stays_within_the_limits_once_it_keeps_them():
    cost, gained, metrics = _learned(
        "macpo", "toy/budget-two", 150, cost_critic_lr=2e-3, cost_confidence=0.995
    )
    within = (np.asarray(metrics["episode_cost"]) <= LIMITS[None]).all((1, 2))
    assert within[10:].mean() >= 0.95 and not within[0]
    assert (cost <= LIMITS).all() and gained > 0.85 * envs.make("toy/budget-two").constrained_best()


def test_the_prices_of_mappo_lagrangian_are_those_of_the_linear_program():
    _cost, _gained, metrics = _learned(
        "mappo-lagrangian",
        "toy/budget-two",
        400,
        cost_critic_lr=2e-3,
        multiplier_ki=0.1,
        multiplier_kp=2.0,
    )
    prices = np.asarray(metrics["lagrange_multiplier"])[-100:].mean(0)
    np.testing.assert_allclose(
        prices, [[5 / 6, 1 / 3], [1 / 3, 5 / 6]], rtol=0.1
    )  # the dual's solution
    np.testing.assert_allclose(
        np.asarray(metrics["episode_cost"])[-100:].mean(0), LIMITS, rtol=0.05
    )


@pytest.mark.ci_cases("hatrpo")
@pytest.mark.parametrize("name", ["happo", "hatrpo"])
def test_who_ignores_costs_breaks_the_limits(name):
    cost, gained, _ = _learned(
        name, "toy/budget-two", 60, **({"lr": 2e-3} if name == "happo" else {})
    )
    assert (cost.max(-1) >= 2 * np.array([5.0, 5.0])).all()
    assert gained > 1.5 * envs.make("toy/budget-two").constrained_best()
