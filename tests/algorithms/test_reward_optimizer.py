"""LIIR's intrinsic reward moves at the speed that its learning rate says, whatever the scale of its
meta-gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_rollouts import B, batch, spec

import jaxmarl_lite as jml
from jaxmarl_lite.algorithms import optimizers, registry

RATE = 1e-3


def reward_steps(updates=1, **changes):
    """The steps of η's weights over some updates on one random rollout, each as one vector, and the
    last metrics."""
    settings = dict(
        hidden_sizes=(8,),
        num_epochs=1,
        num_minibatches=1,
        intrinsic_lr=RATE,
        intrinsic_init_scale=1e-3,
        intrinsic_bound=1.0,
    )
    algorithm = registry.make_algorithm(
        "liir", spec(2), registry.config_of("liir")(**settings | changes)
    )
    learner = algorithm.init(jax.random.key(0), B)
    update, result, steps = jax.jit(algorithm.update), batch(2), []
    for i in range(updates):
        previous = learner.intrinsic_params
        learner, info = update(jax.random.key(i), learner, result)
        updated = jax.tree.map(jnp.subtract, learner.intrinsic_params, previous)
        steps.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(updated)]))
    return np.asarray(steps), info


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
@pytest.mark.parametrize("meta_gradient", ["exact", "reference"])
def test_ten_times_the_weight_of_the_reward_makes_its_step_no_longer(optimizer, meta_gradient):
    """In single precision, at a weight so small that the meta-gradient is far below 1e-8."""
    choice = dict(optimizer=optimizer, meta_gradient=meta_gradient)
    one, small = reward_steps(2, intrinsic_coef=1e-6, **choice)
    other, large = reward_steps(2, intrinsic_coef=1e-5, **choice)
    assert (
        0 < small["meta_gradient_norm"] < 1e-6
        and large["meta_gradient_norm"] > 9 * small["meta_gradient_norm"]
    )
    assert np.linalg.norm(one - other) < 0.01 * np.linalg.norm(one)


def test_the_step_is_a_full_one_and_its_share_is_reported():
    """The first step of Adam moves every weight with a gradient by the learning rate."""
    steps, info = reward_steps(optimizer="adam")
    moving = np.abs(steps[0]) > 0
    assert moving.mean() > 0.5
    np.testing.assert_allclose(np.abs(steps[0][moving]).max(), RATE, rtol=1e-3)
    np.testing.assert_allclose(
        info["intrinsic_step_share"], np.sqrt(np.mean(steps[0] ** 2)) / RATE, rtol=1e-4
    )
    assert info["intrinsic_step_share"] > 0.5


def test_exact_and_reference_move_at_one_speed():
    speeds = [
        np.linalg.norm(reward_steps(5, meta_gradient=x)[0], axis=1).mean()
        for x in ("exact", "reference")
    ]
    assert 0.5 < speeds[0] / speeds[1] < 2.0


def test_a_reward_without_a_rate_or_a_weight_stays():
    for changes in ({"intrinsic_lr": 0.0}, {"intrinsic_coef": 0.0}):
        steps, info = reward_steps(**changes)
        assert not steps.any() and info["intrinsic_step_share"] == 0


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
@pytest.mark.parametrize("scale", [1e-26, 1e-18, 1e-12, 1.0, 1e6])
def test_no_step_is_longer_where_the_square_of_a_gradient_is_no_number(name, scale):
    """Gradients of three decades, in single precision: their squares would be 0 from 1e-19 on."""
    draw = np.random.default_rng(0)
    grads = jnp.asarray(10 ** draw.uniform(-3, 0, 1000), jnp.float32)
    ours, params = optimizers.make_scale_free_optimizer(name, 1e-5), jnp.zeros(1000)
    state, plain = ours.init(params), ours.init(params)
    for _ in range(3):
        one, state = ours.step(params, state, scale * grads, 1.0, 1.0)
        other, plain = ours.step(params, plain, grads, 1.0, 1.0)
        moving = scale * grads > 1e-24
        np.testing.assert_allclose(one[moving], other[moving], rtol=1e-3)
        assert jnp.abs(one).max() <= 2.0 * jnp.abs(other).max()


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_scale_free_steps_are_optaxs_without_its_epsilon(float64, name):
    """In double precision, where an epsilon of 1e-30 is none; agents each have their own scale."""
    import optax

    plain = (
        optax.scale_by_adam(eps=1e-30)
        if name == "adam"
        else optax.scale_by_rms(0.99, 1e-30, bias_correction=True)
    )
    draw = np.random.default_rng(0)
    params = {
        "w": jnp.asarray(draw.normal(size=(2, 3, 4))),
        "b": jnp.asarray(draw.normal(size=(2, 4))),
    }
    ours = optimizers.make_scale_free_optimizer(name, 1e-12, per_agent=True)
    here, state, theirs, their_state = params, ours.init(params), params, plain.init(params)
    for _ in range(4):
        grads = jax.tree.map(lambda x: 1e-9 * jnp.asarray(draw.normal(size=x.shape)), params)
        here, state = ours.step(here, state, grads, 0.1, 1e-12)
        direction, their_state = plain.update(grads, their_state)
        theirs = jax.tree.map(lambda x, d: x - 0.1 * d, theirs, direction)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8), here, theirs)


@pytest.mark.parametrize(("name", "expected"), [("adam", 0.23), ("rmsprop", 1.0)])
def test_pure_noise_gives_the_step_share_that_the_guide_names(name, expected):
    ours, params = optimizers.make_scale_free_optimizer(name, 1e-5), jnp.zeros(2000)
    state, shares = ours.init(params), []
    for key in jax.random.split(jax.random.key(0), 600):
        before = params
        params, state = ours.step(params, state, 1e-9 * jax.random.normal(key, (2000,)), RATE, 1e-5)
        shares.append(float(jnp.sqrt(jnp.mean((params - before) ** 2))) / RATE)
    assert np.mean(shares[400:]) == pytest.approx(expected, abs=0.02)


@pytest.mark.slow
@pytest.mark.guard
def test_with_the_default_settings_the_reward_moves_and_stays_within_its_bound():
    """At five times the rate it reaches its bound and stops: saturation 0.7, share 0.2."""
    sizes = dict(seeds=1, total_steps=150_000, num_evaluations=3, eval_episodes=4, quiet=True)
    metrics = jml.run("liir", "toy/relay", **sizes).metrics
    share, saturation = (
        metrics[name][0, 1:] for name in ("intrinsic_step_share", "intrinsic_saturation")
    )
    assert share.min() > 0.3
    assert saturation.max() < 0.05
