"""LIIR's meta-gradient against finite differences, written-out sums and a closed form, in
float64."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmarl_lite.algorithms import (
    base_config,
    gradient_update,
    liir,
    liir_gradient,
    optimizers,
    ppo,
    registry,
)
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.ops import returns, tree_math
from jaxmarl_lite.types import EnvSpec, Observation

T, B, N, VIEW, A = 5, 3, 2, 4, 3


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def spec(kind="discrete"):
    bounds = (
        {"action_low": (-1.0, -2.0, 0.0), "action_high": (1.0, 1.0, 3.0)}
        if kind == "continuous"
        else {}
    )
    return EnvSpec("test", N, VIEW, N * VIEW, kind, A, 10, **bounds)


def config(**changes):
    base = dict(
        hidden_sizes=(6,), activation="tanh", intrinsic_coef=0.3, intrinsic_bound=2.0, lr=0.05
    )
    base |= {} if changes.get("optimizer") == "sgd" else {"eps_root": 1e-4}
    base |= {"rnn_hidden_size": 5} if changes.get("recurrent") else {}
    return liir.LIIRConfig(**(base | changes))


def optimizer_of(cfg):
    return optimizers.make_optimizer(
        cfg.optimizer, cfg.eps_root, per_agent=not cfg.parameter_sharing
    )


def policy_loss(theta, actor, data, hidden_state, advantage, cfg):
    pi = actor.unroll(theta, hidden_state, data.obs, data.is_first)
    return gradient_update.clipped_policy_loss(pi, data, advantage, cfg, cfg.parameter_sharing)


def problem(cfg, kind="discrete", seed=0):
    """Networks, weights and a minibatch of random data with ends and cuts in it, some agents
    dead."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
    networks = liir_gradient.make_liir_networks(spec(kind), cfg)

    def weights(net):
        shapes = jax.eval_shape(net.init, jax.random.key(0))
        return jax.tree.map(
            lambda x: normal(*x.shape) / np.sqrt(x.shape[-2] if x.ndim > 1 else 4), shapes
        )

    theta, eta = weights(networks.actor.net), weights(networks.reward.net)
    view = normal(T, B, N, VIEW)
    mask = jnp.ones((T, B, N, A), bool).at[:, 0, 0, 1].set(False)
    alive = jnp.ones((T, B, N), bool).at[3:, 1, 1].set(False)
    obs = Observation(view, view.reshape(T, B, N * VIEW), mask, alive)
    last = jnp.zeros((T, B), bool).at[1, 0].set(True).at[2, 2].set(True)
    discount = jnp.ones((T, B)).at[1, 0].set(0.0)
    empty = [net.init_hidden_state(B) for net in (networks.actor.net, networks.reward.net)]
    hidden_states = tuple(jax.tree.map(lambda x: normal(*x.shape), empty))
    first = actor_critic.is_first_step(last)
    action = jnp.asarray(
        rng.choice([0, 2], (T, B, N)) if kind == "discrete" else rng.uniform(0, 0.9, (T, B, N, A))
    )
    unroll = jax.jit(
        lambda theta: networks.actor.unroll(theta, hidden_states[0], obs, first).log_prob(action)
    )
    data = gradient_update.PolicyBatch(obs, action, unroll(theta) + 0.05 * normal(T, B, N), first)
    value, following, advantage, reward = normal(4, T, B, N)
    advantage_inputs = liir_gradient.AdvantageInputs(
        reward, discount[..., None], last[..., None], value, following, advantage
    )
    rule = optimizer_of(cfg)
    _, opt = rule.step(
        theta, rule.init(theta), jax.tree.map(lambda x: normal(*x.shape), theta), 0.0, 1e9
    )
    return networks, eta, theta, opt, data, advantage_inputs, hidden_states


def meta_step(networks, cfg, eta, theta, opt, data, advantage_inputs, hidden_states):
    """`liir_gradient.meta_step`, compiled: the tests run on two cores."""
    policy = gradient_update.ModelState(theta, opt)
    batch = liir_gradient.MetaBatch(data, advantage_inputs, *hidden_states)
    return jax.jit(lambda *args: liir_gradient.meta_step(networks, cfg, *args, cfg.lr))(
        eta, policy, batch
    )


def outer_loss(eta, networks, cfg, theta, opt, data, advantage_inputs, hidden_states):
    """-J_ex(θ'(η)), straight from the definition; `meta_step` must give its gradient."""
    advantage, _ = liir_gradient.proxy_advantage(
        eta, networks.reward, data, hidden_states[1], advantage_inputs, cfg
    )
    grads = jax.grad(
        lambda th: policy_loss(th, networks.actor, data, hidden_states[0], advantage, cfg)[0]
    )(theta)
    new, _ = optimizer_of(cfg).step(theta, opt, grads, cfg.lr, cfg.max_grad_norm)
    return liir_gradient.extrinsic_loss(
        new, networks.actor, data, hidden_states[0], advantage_inputs.extrinsic_advantage, cfg
    )


def central_difference(networks, x, direction, h=1e-4):
    """Fourth-order central difference of a scalar function along a direction."""
    at = lambda t: networks(tree_math.add_scaled(t, direction, x))  # noqa: E731
    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)


CASES = [
    *itertools.product(
        [True, False], [False, True], ["sgd", "rmsprop", "adam"], ["discrete"], ["agent"]
    ),
    (True, False, "adam", "continuous", "agent"),
    (False, True, "adam", "continuous", "joint"),
    (True, False, "sgd", "discrete", "joint"),
]


@pytest.mark.ci_cases("*-adam-*")
@pytest.mark.parametrize("shared,recurrent,optimizer,kind,ratio", CASES)
def test_exact_meta_gradient_agrees_with_finite_differences(
    shared, recurrent, optimizer, kind, ratio
):
    cfg = config(
        parameter_sharing=shared, recurrent=recurrent, optimizer=optimizer, outer_ratio=ratio
    )
    networks, eta, theta, opt, data, advantage_inputs, memories = problem(cfg, kind)
    step = meta_step(networks, cfg, eta, theta, opt, data, advantage_inputs, memories)
    loss = jax.jit(
        lambda eta: outer_loss(eta, networks, cfg, theta, opt, data, advantage_inputs, memories)
    )
    for seed in range(3):
        normal = np.random.default_rng(seed).normal
        direction = jax.tree.map(lambda x, normal=normal: jnp.asarray(normal(size=x.shape)), eta)
        expected = central_difference(loss, eta, direction)
        result = tree_math.vdot(step.meta_gradient, direction)
        assert abs(expected) > 1e-7
        np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_exact_meta_gradient_is_autodiff_of_the_definition():
    cfg = config(recurrent=True, optimizer="adam", parameter_sharing=False)
    networks, eta, theta, opt, data, advantage_inputs, memories = problem(cfg)
    step = meta_step(networks, cfg, eta, theta, opt, data, advantage_inputs, memories)
    naive = jax.jit(
        jax.grad(
            lambda eta: outer_loss(eta, networks, cfg, theta, opt, data, advantage_inputs, memories)
        )
    )(eta)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14),
        step.meta_gradient,
        naive,
    )


@pytest.mark.parametrize("shared", [True, False])
def test_immediate_equals_equation_9_written_out(shared):
    """Σ over samples of α λ <∇_θ log π(u|o), ∇_θ' J_ex> ∇_η r_in(o, u), one sample at a time."""
    cfg = config(
        optimizer="sgd",
        meta_gradient="immediate",
        normalize_advantages=False,
        entropy_coef=0.0,
        max_grad_norm=1e9,
        clip_eps=1e6,
        parameter_sharing=shared,
    )
    networks, eta, theta, opt, data, advantage_inputs, memories = problem(cfg)
    data = data._replace(
        log_prob=networks.actor.unroll(theta, (), data.obs, data.is_first).log_prob(data.action)
    )
    step = meta_step(networks, cfg, eta, theta, opt, data, advantage_inputs, memories)
    g2 = jax.grad(
        lambda th: (
            -liir_gradient.extrinsic_loss(
                th, networks.actor, data, (), advantage_inputs.extrinsic_advantage, cfg
            )
        )
    )(step.actor_params)
    alive = np.asarray(data.obs.alive)
    share = 1 / alive.sum((0, 1)) if not shared else np.full(N, 1 / alive.sum())
    total = jax.tree.map(jnp.zeros_like, eta)
    score = jax.jit(
        lambda t, b, i: jax.grad(
            lambda th: networks.actor.unroll(th, (), data.obs, data.is_first).log_prob(data.action)[
                t, b, i
            ]
        )(theta)
    )
    curiosity = jax.jit(
        lambda t, b, i: jax.grad(
            lambda e: networks.reward.unroll(e, (), data, cfg.intrinsic_bound)[0][t, b, i]
        )(eta)
    )
    for t, b, i in zip(*np.nonzero(alive), strict=True):
        weight = cfg.lr * cfg.intrinsic_coef * share[i] * tree_math.vdot(score(t, b, i), g2)
        total = tree_math.add_scaled(-weight, curiosity(t, b, i), total)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14),
        step.meta_gradient,
        total,
    )
    assert tree_math.norm(total) > 1e-5


def test_immediate_is_not_exact():
    gradients = {}
    for mode in ("exact", "immediate"):
        cfg = config(meta_gradient=mode, optimizer="sgd")
        networks, eta, theta, opt, data, advantage_inputs, memories = problem(cfg)
        gradients[mode] = meta_step(
            networks, cfg, eta, theta, opt, data, advantage_inputs, memories
        ).meta_gradient
    assert abs(tree_math.cosine(gradients["exact"], gradients["immediate"])) < 0.999


def test_reference_is_one_scalar_times_the_gradient_of_the_mean_return():
    cfg = config(meta_gradient="reference", optimizer="sgd")
    networks, eta, theta, opt, data, advantage_inputs, memories = problem(cfg)
    step = meta_step(networks, cfg, eta, theta, opt, data, advantage_inputs, memories)

    def mean_return(eta):
        r_in, _ = networks.reward.unroll(eta, memories[1], data, cfg.intrinsic_bound)
        raw = returns.generalized_advantage_estimation(
            advantage_inputs.reward + cfg.intrinsic_coef * r_in,
            advantage_inputs.proxy_value,
            advantage_inputs.next_proxy_value,
            advantage_inputs.discount,
            advantage_inputs.last,
            cfg.gamma,
            cfg.gae_lambda,
        )
        return (raw * data.obs.alive).sum() / data.obs.alive.sum()

    direction = jax.grad(mean_return)(eta)
    assert abs(tree_math.cosine(step.meta_gradient, direction)) == pytest.approx(1.0, abs=1e-12)

    def joint(th):
        ratio = jnp.exp(
            (
                (
                    networks.actor.unroll(th, (), data.obs, data.is_first).log_prob(data.action)
                    - data.log_prob
                )
                * data.obs.alive
            ).sum(-1)
        )
        alive = data.obs.alive
        return (ratio[..., None] * advantage_inputs.extrinsic_advantage * alive).sum() / alive.sum()

    def score(th):
        log_prob = networks.actor.unroll(th, (), data.obs, data.is_first).log_prob(data.action)
        return (log_prob * data.obs.alive).sum() / data.obs.alive.sum()

    scalar = tree_math.vdot(jax.grad(score)(theta), jax.grad(joint)(step.actor_params))
    np.testing.assert_allclose(
        tree_math.vdot(step.meta_gradient, direction), scalar * tree_math.vdot(direction, direction)
    )


@pytest.mark.parametrize("mode", ["exact", "immediate"])
@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam"])
def test_lambda_zero_gives_exactly_zero_meta_gradient(mode, optimizer):
    cfg = config(
        intrinsic_coef=0.0,
        meta_gradient=mode,
        optimizer=optimizer,
        eps_root=liir.LIIRConfig.eps_root,
    )
    networks, eta, theta, _, data, advantage_inputs, memories = problem(cfg)
    opt = optimizer_of(cfg).init(theta)
    step = meta_step(networks, cfg, eta, theta, opt, data, advantage_inputs, memories)
    assert all((g == 0).all() for g in jax.tree.leaves(step.meta_gradient))


def batch_of(data, advantage_inputs, policy_memory):
    from jaxmarl_lite.types import EpisodeStats, Rollout, Transition

    zero = jnp.zeros(())
    steps = Transition(
        data.obs,
        data.action,
        data.log_prob,
        advantage_inputs.reward,
        jnp.zeros((T, B, N, 0)),
        advantage_inputs.discount[..., 0],
        advantage_inputs.last[..., 0],
        data.obs,
    )
    return Rollout(
        steps,
        policy_memory,
        EpisodeStats(zero, jnp.zeros(N), jnp.zeros((N, 0)), zero, jnp.zeros(N)),
    )


@pytest.mark.parametrize("shared,recurrent", [(True, False), (False, True)])
def test_with_lambda_zero_the_policy_update_is_ippos(shared, recurrent):
    changes = dict(parameter_sharing=shared, recurrent=recurrent, num_epochs=2, num_minibatches=3)
    cfg = config(intrinsic_coef=0.0, **changes)
    _of, _, _, _, data, advantage_inputs, memories = problem(cfg)
    batch = batch_of(data, advantage_inputs, memories[0])
    common = {
        f.name: getattr(cfg, f.name)
        for f in dataclasses.fields(cfg)
        if hasattr(ppo.IPPOConfig, f.name)
    }
    learned = registry.make_algorithm("liir", spec(), cfg)
    plain = registry.make_algorithm("ippo", spec(), ppo.IPPOConfig(**common))
    ours, theirs = learned.init(jax.random.key(1), B), plain.init(jax.random.key(2), B)
    update, plain_update = jax.jit(learned.update), jax.jit(plain.update)
    theirs = theirs._replace(actor_params=ours.actor_params, critic_params=ours.proxy_critic_params)
    for key in jax.random.split(jax.random.key(3), 2):
        ours, _ = update(key, ours, batch)
        theirs, _ = plain_update(key, theirs, batch)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)  # noqa: E731
    jax.tree.map(same, ours.actor_params, theirs.actor_params)
    jax.tree.map(same, ours.proxy_critic_params, theirs.critic_params)
    fresh = learned.init(jax.random.key(1), B)
    assert all(
        (a == b).all()
        for a, b in zip(
            *map(jax.tree.leaves, (ours.intrinsic_params, fresh.intrinsic_params)), strict=True
        )
    )


@pytest.mark.parametrize("mode", ["exact", "reference"])
def test_an_update_moves_policy_and_reward_by_the_meta_step(mode):
    """The reward goes down the gradient of -J_ex, from advantages by the critics as they were."""
    cfg = config(
        meta_gradient=mode,
        optimizer="sgd",
        intrinsic_lr=0.7,
        num_epochs=1,
        num_minibatches=1,
        intrinsic_init_scale=1.0,
    )
    networks, _, _, _, data, advantage_inputs, memories = problem(cfg)
    ours, batch = (
        registry.make_algorithm("liir", spec(), cfg),
        batch_of(data, advantage_inputs, memories[0]),
    )
    learner = ours.init(jax.random.key(1), B)
    later, info = jax.jit(ours.update)(jax.random.key(2), learner, batch)
    proxy, next_proxy, _ = networks.proxy.values_and_bootstrap(
        learner.proxy_critic_params, (), batch.transitions
    )
    value, next_value, _ = networks.extrinsic.values_and_bootstrap(
        learner.extrinsic_critic_params, (), batch.transitions
    )
    ends = advantage_inputs.discount, advantage_inputs.last
    advantage = returns.generalized_advantage_estimation(
        advantage_inputs.reward, value, next_value, *ends, cfg.gamma, cfg.gae_lambda
    )
    standardized = actor_critic.standardize_advantages(advantage, data.obs.alive, True)
    advantage_inputs = liir_gradient.AdvantageInputs(
        advantage_inputs.reward, *ends, proxy, next_proxy, standardized
    )
    start = learner.intrinsic_params, learner.actor_params, learner.actor_opt_state
    step = meta_step(networks, cfg, *start, data, advantage_inputs, ((), ()))
    down = tree_math.add_scaled(
        -cfg.intrinsic_lr,
        tree_math.clip_by_norm(step.meta_gradient, cfg.max_grad_norm),
        learner.intrinsic_params,
    )
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)  # noqa: E731
    jax.tree.map(same, later.intrinsic_params, down)
    jax.tree.map(same, later.actor_params, step.actor_params)
    assert info["intrinsic_update_norm"] > 1e-6


def test_who_is_out_of_play_is_paid_no_intrinsic_reward():
    cfg = config()
    networks, eta, _, _, data, _, memories = problem(cfg)
    r_in, _ = networks.reward.unroll(eta, memories[1], data, cfg.intrinsic_bound)
    np.testing.assert_array_equal(r_in != 0, data.obs.alive)


def test_a_bad_eps_root_is_refused():
    with pytest.raises(
        ValueError, match="LIIRConfig.eps_root is 0.0 with optimizer 'adam'; allowed is a positive"
    ):
        liir.LIIRConfig(eps_root=0.0)
    with pytest.raises(
        ValueError, match="LIIRConfig.eps_root is 0.0, which has no effect with optimizer 'sgd'"
    ):
        liir.LIIRConfig(eps_root=0.0, optimizer="sgd")


def test_outer_step_raises_the_extrinsic_objective():
    """One step along minus the meta-gradient must lower -J_ex after the same inner step."""
    cfg = config(optimizer="adam")
    networks, eta, theta, opt, data, advantage_inputs, memories = problem(cfg)
    step = meta_step(networks, cfg, eta, theta, opt, data, advantage_inputs, memories)
    previous = outer_loss(eta, networks, cfg, theta, opt, data, advantage_inputs, memories)
    later = outer_loss(
        tree_math.add_scaled(-1.0, step.meta_gradient, eta),
        networks,
        cfg,
        theta,
        opt,
        data,
        advantage_inputs,
        memories,
    )
    assert later < previous


def test_config_floats_are_leaves_and_sizes_are_static():
    cfg = liir.LIIRConfig()
    assert all(isinstance(x, float) for x in jax.tree.leaves(cfg))
    assert jax.tree.structure(cfg) == jax.tree.structure(
        liir.LIIRConfig(intrinsic_coef=0.5, lr=1e-3)
    )
    assert jax.tree.structure(cfg) != jax.tree.structure(liir.LIIRConfig(num_epochs=7))
    assert base_config.as_arrays(cfg).intrinsic_coef.dtype == jnp.float64
    assert optimizers.make_optimizer("adam", 1e-8).init is not None


def test_a_reward_may_begin_larger_and_stay_as_it_was_drawn():
    small, large = (
        registry.make_algorithm("liir", spec(), config(intrinsic_init_scale=gain))
        for gain in (0.01, 1.0)
    )
    a, b = (algorithm.init(jax.random.key(0), B).intrinsic_params for algorithm in (small, large))
    np.testing.assert_allclose(100 * a["head"]["kernel"], b["head"]["kernel"], rtol=1e-12)
    np.testing.assert_array_equal(a["layers_0"]["kernel"], b["layers_0"]["kernel"])
    fixed = registry.make_algorithm(
        "liir", spec(), config(intrinsic_init_scale=1.0, intrinsic_lr=0.0, num_minibatches=1)
    )
    _of, _, _, _, data, advantage_inputs, memories = problem(fixed.config)
    batch, learner = batch_of(data, advantage_inputs, memories[0]), fixed.init(jax.random.key(0), B)
    later, info = jax.jit(fixed.update)(jax.random.key(1), learner, batch)
    assert all(
        (x == y).all()
        for x, y in zip(*map(jax.tree.leaves, (later.intrinsic_params, b)), strict=True)
    )
    assert (info["intrinsic_reward_std"] > 0.05).all()
    plain = registry.make_algorithm("liir", spec(), config(intrinsic_coef=0.0, num_minibatches=1))
    without, _ = jax.jit(plain.update)(jax.random.key(1), plain.init(jax.random.key(0), B), batch)
    assert (
        later.actor_params["head"]["kernel"] != without.actor_params["head"]["kernel"]
    ).any()  # it is followed


def test_the_authors_settings():
    theirs = liir.LIIRConfig.reference()
    assert (theirs.meta_gradient, theirs.optimizer, theirs.gae_lambda, theirs.intrinsic_coef) == (
        "reference",
        "rmsprop",
        0.8,
        0.01,
    )
    assert liir.LIIRConfig.reference(meta_gradient="exact", intrinsic_coef=0.5) != theirs
    assert not liir.LIIRConfig.reference(recurrent=False).recurrent
    rule = optimizers.make_optimizer("rmsprop", theirs.eps_root)
    weights, grads, lr = jnp.zeros(3), jnp.array([1e-5, 1e-3, -1.0]), theirs.lr
    updated, _ = rule.step(weights, rule.init(weights), grads, lr, theirs.max_grad_norm)
    np.testing.assert_allclose(
        updated, -lr * grads / (np.sqrt(0.01 * np.square(grads)) + 1e-5), rtol=0.5
    )  # torch's rule
    with pytest.raises(ValueError, match="LIIRConfig.intrinsic_coef is -1.0; allowed"):
        liir.LIIRConfig.reference(intrinsic_coef=-1)
