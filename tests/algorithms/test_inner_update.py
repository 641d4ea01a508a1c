"""LIIR through a user's own update of the policy, and what a meta-gradient cannot go through."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_runs import assert_same_bits
from toy_envs import algorithm, env_for

import jaxmarl_lite as jml
from algorithms import test_liir as cases
from jaxmarl_lite.algorithms import gradient_update, inner_update, liir, liir_gradient
from jaxmarl_lite.ops import tree_math
from jaxmarl_lite.train import make_train

SMOOTH = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.05, eps_root=1e-8))


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def descent(loss, params, state, lr):
    """One plain step, which is what LIIR does with the word sgd."""
    return tree_math.add_scaled(-lr, jax.grad(loss)(params), params), state


def three_steps(loss, params, state, lr):
    """Several passes of PPO's clipped loss over a minibatch, with momentum carried on."""

    def step(carry, _):
        params, momentum = carry
        momentum = tree_math.add_scaled(0.5, momentum, jax.grad(loss)(params))
        return (tree_math.add_scaled(-lr, momentum, params), momentum), None

    return jax.lax.scan(step, (params, state), None, 3)[0]


MOMENTUM = inner_update.InnerUpdate(
    lambda params: jax.tree.map(jnp.zeros_like, params), three_steps
)


def settings(**changes):
    base = dict(hidden_sizes=(6,), activation="tanh", intrinsic_coef=0.3, intrinsic_bound=2.0)
    return liir.LIIRConfig(**(base | changes))


def outer_loss(eta, networks, cfg, theta, state, data, inputs, hidden_states):
    """-J_ex after the user's update, straight from the definition."""
    advantage, _ = liir_gradient.proxy_advantage(
        eta, networks.reward, data, hidden_states[1], inputs, cfg
    )

    def loss(theta):
        return cases.policy_loss(theta, networks.actor, data, hidden_states[0], advantage, cfg)[0]

    if cfg.inner_update == "optimizer":
        grads = jax.grad(loss)(theta)
        updates, _ = SMOOTH.update(grads, state, theta)
        new = optax.apply_updates(theta, updates)
    else:
        inner = inner_update.load("inner_update", cfg.inner_update)
        new, _ = inner.update(loss, theta, state, cfg.lr)
    return liir_gradient.extrinsic_loss(
        new, networks.actor, data, hidden_states[0], inputs.extrinsic_advantage, cfg
    )


@pytest.mark.parametrize(
    "changes",
    [{"inner_update": MOMENTUM, "lr": 0.05}, {"optimizer": SMOOTH}],
    ids=["own update", "optax"],
)
def test_the_meta_gradient_is_that_of_finite_differences(float64, changes):
    cfg = settings(**changes)
    networks, eta, theta, _, data, inputs, hidden_states = cases.problem(cases.config())
    state = liir_gradient.init_inner_state(cfg, theta)
    case = (theta, state, data, inputs, hidden_states)
    meta = cases.meta_step(networks, cfg, eta, *case)
    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), eta)
    at = jax.jit(lambda eta: outer_loss(eta, networks, cfg, *case))
    slope = float(cases.central_difference(at, eta, direction))
    exact = float(tree_math.vdot(meta.meta_gradient, direction))
    assert abs(slope) > 1e-6
    np.testing.assert_allclose(exact, slope, rtol=1e-5)


def trained(**fields):
    env = env_for("liir", "toy/early-death")
    init, train = make_train(algorithm("liir", env, **fields), env, num_envs=4, num_steps=6)
    start = init(jax.random.key(0))
    end, info = jax.jit(train, static_argnums=1)(start, 2)
    return start.learner_state, end.learner_state, info


def test_a_plain_step_of_the_user_is_the_word_sgd():
    fields = dict(lr=0.1, max_grad_norm=1e9, critic_optimizer="sgd", intrinsic_optimizer="adam")
    word = trained(optimizer="sgd", **fields)
    own = trained(optimizer="sgd", inner_update=descent, **fields)
    for name in ("actor_params", "intrinsic_params"):
        pair = (getattr(word[1], name), getattr(own[1], name))
        for a, b in zip(*map(jax.tree.leaves, pair), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert word[2].keys() == own[2].keys()


@pytest.mark.slow
def test_an_update_with_a_state_carries_it_and_agents_may_have_own_weights():
    start, end, info = trained(inner_update=MOMENTUM, parameter_sharing=False)
    momentum = jax.tree.leaves(end.actor_opt_state)
    assert all(np.isfinite(x).all() for x in momentum) and any(x.any() for x in momentum)
    assert jax.tree.structure(end.actor_opt_state) == jax.tree.structure(end.actor_params)
    assert (info["meta_gradient_norm"] > 0).all()
    with pytest.raises(AssertionError):
        assert_same_bits(start.intrinsic_params, end.intrinsic_params)


def test_an_agent_without_any_gradient_spoils_no_other():
    grads = {"a": jnp.array([[3.0, 4.0], [0.0, 0.0]])}

    def length(grads, guarded):
        grads = inner_update.guard(grads, per_agent=True) if guarded else grads
        clipped, _ = jax.vmap(lambda g: optax.clip_by_global_norm(1.0).update(g, None))(grads)
        return (clipped["a"] * jnp.array([[1.0, 2.0], [1.0, 2.0]])).sum()

    bare, guarded = (jax.grad(length)(grads, flag)["a"] for flag in (False, True))
    assert np.isnan(bare[1]).all() and not guarded[1].any()
    np.testing.assert_array_equal(bare[0], guarded[0])


def stopped(loss, params, state, lr):
    return tree_math.add_scaled(-lr, jax.lax.stop_gradient(jax.grad(loss)(params)), params), state


def with_while(loss, params, state, lr):
    def step(carry):
        return carry[0] + 1, tree_math.add_scaled(-lr, jax.grad(loss)(carry[1]), carry[1])

    return jax.lax.while_loop(lambda carry: carry[0] < 3, step, (0, params))[1], state


@pytest.mark.parametrize(
    "fields,text",
    [
        ({"optimizer": optax.lion(1e-3)}, "LIIRConfig.optimizer is Gradient.*gradient is zero, as"),
        ({"optimizer": optax.adam(1e-3)}, "not finite where the gradient of a weight is zero"),
        ({"inner_update": stopped}, "LIIRConfig.inner_update is <function stopped.* is zero, as"),
        ({"inner_update": with_while}, "no meta-gradient can go: ValueError: Reverse-mode"),
        ({"inner_update": lambda loss: loss}, "no meta-gradient can go: TypeError"),
        ({"inner_update": "no_such_module:f"}, "module no_such_module cannot be imported"),
    ],
)
def test_what_no_meta_gradient_can_go_through_is_refused(fields, text):
    with pytest.raises(ValueError, match=text):
        jml.make_algorithm("liir", jml.make("toy/relay").spec, settings(**fields))


def test_what_is_accepted():
    spec = jml.make("toy/relay").spec
    warm_up = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 1000, 10_000)
    for fields in [
        {"optimizer": optax.adam(warm_up, eps_root=1e-8)},
        {"optimizer": optax.lion(1e-3), "meta_gradient": "reference"},  # goes through no step
        {"critic_optimizer": optax.lion(1e-3), "intrinsic_optimizer": optax.lion(1e-3)},
        {"inner_update": descent, "eps_root": 0.0},
    ]:
        assert jml.make_algorithm("liir", spec, settings(**fields)).name == "liir"
    with pytest.raises(ValueError, match="inner_update is 'sgd'; allowed is 'optimizer', a func"):
        settings(inner_update="sgd")
    assert gradient_update.optimizer_of(settings(optimizer=SMOOTH), "intrinsic_optimizer")
