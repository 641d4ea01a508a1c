"""LIIR's meta-gradient against finite differences, written-out sums and a closed form, in float64."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmarl_lite.algorithms import configs, fitting, liir, models, ppo, registry
from jaxmarl_lite.maths import returns, trees
from jaxmarl_lite.types import EnvSpec, Observation

T, B, N, VIEW, A = 5, 3, 2, 4, 3


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def spec(kind="discrete"):
    bounds = {"action_low": (-1.0, -2.0, 0.0), "action_high": (1.0, 1.0, 3.0)} if kind == "continuous" else {}
    return EnvSpec("test", N, VIEW, N * VIEW, kind, A, 10, **bounds)


def config(**changes):
    base = dict(hidden=(6,), activation="tanh", lam=0.3, reward_bound=2.0, lr=0.05)
    base |= {} if changes.get("optimiser") == "sgd" else {"eps_root": 1e-4}
    base |= {"memory_size": 5} if changes.get("memory") == "gru" else {}
    return liir.LIIRConfig(**(base | changes))


def problem(cfg, kind="discrete", seed=0):
    """Networks, weights and a minibatch of random data with ends and cuts in it, some agents dead."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
    of = liir.parts(spec(kind), cfg)

    def weights(net):
        shapes = jax.eval_shape(net.init, jax.random.key(0))
        return jax.tree.map(lambda x: normal(*x.shape) / np.sqrt(x.shape[-2] if x.ndim > 1 else 4), shapes)

    theta, eta = weights(of.actor.net), weights(of.reward.net)
    view = normal(T, B, N, VIEW)
    mask = jnp.ones((T, B, N, A), bool).at[:, 0, 0, 1].set(False)
    alive = jnp.ones((T, B, N), bool).at[3:, 1, 1].set(False)
    obs = Observation(view, view.reshape(T, B, N * VIEW), mask, alive)
    last = jnp.zeros((T, B), bool).at[1, 0].set(True).at[2, 2].set(True)
    discount = jnp.ones((T, B)).at[1, 0].set(0.0)
    empty = [net.initial_memory(B) for net in (of.actor.net, of.reward.net)]
    memory = tuple(jax.tree.map(lambda x: normal(*x.shape), empty))
    first = models.episode_starts(last)
    action = jnp.asarray(rng.choice([0, 2], (T, B, N)) if kind == "discrete" else rng.uniform(0, 0.9, (T, B, N, A)))
    unroll = jax.jit(lambda theta: of.actor.unroll(theta, memory[0], obs, first).log_prob(action))
    data = ppo.PolicyData(obs, action, unroll(theta) + 0.05 * normal(T, B, N), first)
    value, following, advantage, reward = normal(4, T, B, N)
    given = liir.Returns(reward, discount[..., None], last[..., None], value, following, advantage)
    rule = ppo.rule(cfg)
    _, opt = rule.step(theta, rule.init(theta), jax.tree.map(lambda x: normal(*x.shape), theta), 0.0, 1e9)
    return of, eta, theta, opt, data, given, memory


def meta_step(of, cfg, eta, theta, opt, data, given, memory):
    """`liir.meta_step`, compiled: the tests run on two cores."""
    return jax.jit(lambda *args: liir.meta_step(of, cfg, *args, cfg.lr))(eta, theta, opt, data, given, memory)


def outer_loss(eta, of, cfg, theta, opt, data, given, memory):
    """-J_ex(θ'(η)), straight from the definition; `meta_step` must give its gradient."""
    advantage, _ = liir.proxy_advantage(eta, of.reward, data, memory[1], given, cfg)
    grads = jax.grad(lambda th: ppo.policy_loss(th, of.actor, data, memory[0], advantage, cfg)[0])(theta)
    new, _ = ppo.rule(cfg).step(theta, opt, grads, cfg.lr, cfg.max_grad_norm)
    return liir.extrinsic_loss(new, of.actor, data, memory[0], given.extrinsic_advantage, cfg)


def central_difference(function, x, direction, h=1e-4):
    """Fourth-order central difference of a scalar function along a direction."""
    at = lambda t: function(trees.axpy(t, direction, x))  # noqa: E731
    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)


CASES = [
    *itertools.product([True, False], ["none", "gru"], ["sgd", "rmsprop", "adam"], ["discrete"], ["agent"]),
    (True, "none", "adam", "continuous", "agent"),
    (False, "gru", "adam", "continuous", "joint"),
    (True, "none", "sgd", "discrete", "joint"),
]


@pytest.mark.parametrize("shared,memory,optimiser,kind,ratio", CASES)
def test_exact_meta_gradient_agrees_with_finite_differences(shared, memory, optimiser, kind, ratio):
    cfg = config(share_weights=shared, memory=memory, optimiser=optimiser, meta_ratio=ratio)
    of, eta, theta, opt, data, given, memories = problem(cfg, kind)
    step = meta_step(of, cfg, eta, theta, opt, data, given, memories)
    loss = jax.jit(lambda eta: outer_loss(eta, of, cfg, theta, opt, data, given, memories))
    for seed in range(3):
        normal = np.random.default_rng(seed).normal
        direction = jax.tree.map(lambda x, normal=normal: jnp.asarray(normal(size=x.shape)), eta)
        expected = central_difference(loss, eta, direction)
        found = trees.dot(step.meta_gradient, direction)
        assert abs(expected) > 1e-7
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_exact_meta_gradient_is_autodiff_of_the_definition():
    cfg = config(memory="gru", optimiser="adam", share_weights=False)
    of, eta, theta, opt, data, given, memories = problem(cfg)
    step = meta_step(of, cfg, eta, theta, opt, data, given, memories)
    naive = jax.jit(jax.grad(lambda eta: outer_loss(eta, of, cfg, theta, opt, data, given, memories)))(eta)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14), step.meta_gradient, naive)


@pytest.mark.parametrize("shared", [True, False])
def test_immediate_equals_equation_9_written_out(shared):
    """Σ over samples of α λ <∇_θ log π(u|o), ∇_θ' J_ex> ∇_η r_in(o, u), one sample at a time."""
    cfg = config(
        optimiser="sgd", meta_gradient="immediate", normalise_advantage=False, entropy_coef=0.0, max_grad_norm=1e9,
        clip=1e6, share_weights=shared,
    )  # fmt: skip
    of, eta, theta, opt, data, given, memories = problem(cfg)
    data = data._replace(log_prob=of.actor.unroll(theta, (), data.obs, data.first).log_prob(data.action))
    step = meta_step(of, cfg, eta, theta, opt, data, given, memories)
    g2 = jax.grad(lambda th: -liir.extrinsic_loss(th, of.actor, data, (), given.extrinsic_advantage, cfg))(step.policy)
    alive = np.asarray(data.obs.alive)
    share = 1 / alive.sum((0, 1)) if not shared else np.full(N, 1 / alive.sum())
    total = jax.tree.map(jnp.zeros_like, eta)
    score = jax.jit(
        lambda t, b, i: jax.grad(
            lambda th: of.actor.unroll(th, (), data.obs, data.first).log_prob(data.action)[t, b, i]
        )(theta)
    )
    curiosity = jax.jit(
        lambda t, b, i: jax.grad(lambda e: of.reward.unroll(e, (), data, cfg.reward_bound)[0][t, b, i])(eta)
    )
    for t, b, i in zip(*np.nonzero(alive), strict=True):
        weight = cfg.lr * cfg.lam * share[i] * trees.dot(score(t, b, i), g2)
        total = trees.axpy(-weight, curiosity(t, b, i), total)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14), step.meta_gradient, total)
    assert trees.norm(total) > 1e-5


def test_immediate_is_not_exact():
    gradients = {}
    for mode in ("exact", "immediate"):
        cfg = config(meta_gradient=mode, optimiser="sgd")
        of, eta, theta, opt, data, given, memories = problem(cfg)
        gradients[mode] = meta_step(of, cfg, eta, theta, opt, data, given, memories).meta_gradient
    assert abs(trees.cosine(gradients["exact"], gradients["immediate"])) < 0.999


def test_official_is_one_scalar_times_the_gradient_of_the_mean_return():
    cfg = config(meta_gradient="official", optimiser="sgd")
    of, eta, theta, opt, data, given, memories = problem(cfg)
    step = meta_step(of, cfg, eta, theta, opt, data, given, memories)

    def mean_return(eta):
        r_in, _ = of.reward.unroll(eta, memories[1], data, cfg.reward_bound)
        raw = returns.generalised_advantage(
            given.reward + cfg.lam * r_in, given.proxy_value, given.next_proxy_value, given.discount, given.last,
            cfg.gamma, cfg.gae_lambda,
        )  # fmt: skip
        return (raw * data.obs.alive).sum() / data.obs.alive.sum()

    direction = jax.grad(mean_return)(eta)
    assert abs(trees.cosine(step.meta_gradient, direction)) == pytest.approx(1.0, abs=1e-12)

    def joint(th):
        ratio = jnp.exp(((of.actor.unroll(th, (), data.obs, data.first).log_prob(data.action) - data.log_prob)
                         * data.obs.alive).sum(-1))  # fmt: skip
        alive = data.obs.alive
        return (ratio[..., None] * given.extrinsic_advantage * alive).sum() / alive.sum()

    def score(th):
        log_prob = of.actor.unroll(th, (), data.obs, data.first).log_prob(data.action)
        return (log_prob * data.obs.alive).sum() / data.obs.alive.sum()

    scalar = trees.dot(jax.grad(score)(theta), jax.grad(joint)(step.policy))
    np.testing.assert_allclose(trees.dot(step.meta_gradient, direction), scalar * trees.dot(direction, direction))


@pytest.mark.parametrize("mode", ["exact", "immediate"])
@pytest.mark.parametrize("optimiser", ["sgd", "rmsprop", "adam"])
def test_lambda_zero_gives_exactly_zero_meta_gradient(mode, optimiser):
    cfg = config(lam=0.0, meta_gradient=mode, optimiser=optimiser, eps_root=liir.LIIRConfig.eps_root)
    of, eta, theta, _, data, given, memories = problem(cfg)
    opt = ppo.rule(cfg).init(theta)
    step = meta_step(of, cfg, eta, theta, opt, data, given, memories)
    assert all((g == 0).all() for g in jax.tree.leaves(step.meta_gradient))


def batch_of(data, given, policy_memory):
    from jaxmarl_lite.types import Batch, Episodes, Transition

    zero = jnp.zeros(())
    steps = Transition(
        data.obs, data.action, data.log_prob, given.reward, jnp.zeros((T, B, N, 0)), given.discount[..., 0],
        given.last[..., 0], data.obs,
    )  # fmt: skip
    return Batch(steps, policy_memory, Episodes(zero, jnp.zeros(N), jnp.zeros((N, 0)), zero, jnp.zeros(N)))


@pytest.mark.parametrize("shared,memory", [(True, "none"), (False, "gru")])
def test_with_lambda_zero_the_policy_update_is_ippos(shared, memory):
    changes = dict(share_weights=shared, memory=memory, epochs=2, num_minibatches=3)
    cfg = config(lam=0.0, **changes)
    of, _, _, _, data, given, memories = problem(cfg)
    batch = batch_of(data, given, memories[0])
    common = {f.name: getattr(cfg, f.name) for f in dataclasses.fields(ppo.ActorCriticConfig)}
    learned = registry.make_algorithm("liir", spec(), cfg)
    plain = registry.make_algorithm("ippo", spec(), ppo.IPPOConfig(**common))
    ours, theirs = learned.init(jax.random.key(1), B), plain.init(jax.random.key(2), B)
    update, plain_update = jax.jit(learned.update), jax.jit(plain.update)
    theirs = theirs._replace(policy=ours.policy, critic=ours.proxy)
    for key in jax.random.split(jax.random.key(3), 2):
        ours, _ = update(key, ours, batch)
        theirs, _ = plain_update(key, theirs, batch)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)  # noqa: E731
    jax.tree.map(same, ours.policy, theirs.policy)
    jax.tree.map(same, ours.proxy, theirs.critic)
    fresh = learned.init(jax.random.key(1), B)
    assert all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (ours.reward, fresh.reward)), strict=True))


@pytest.mark.parametrize("mode", ["exact", "official"])
def test_an_update_moves_policy_and_reward_by_the_meta_step(mode):
    """The reward goes down the gradient of -J_ex, from advantages by the critics as they were."""
    cfg = config(meta_gradient=mode, optimiser="sgd", reward_lr=0.7, epochs=1, num_minibatches=1, reward_init=1.0)
    of, _, _, _, data, given, memories = problem(cfg)
    ours, batch = registry.make_algorithm("liir", spec(), cfg), batch_of(data, given, memories[0])
    learner = ours.init(jax.random.key(1), B)
    after, info = jax.jit(ours.update)(jax.random.key(2), learner, batch)
    proxy, next_proxy, _ = of.proxy.evaluate(learner.proxy, (), batch.steps)
    value, next_value, _ = of.extrinsic.evaluate(learner.extrinsic, (), batch.steps)
    ends = given.discount, given.last
    advantage = returns.generalised_advantage(given.reward, value, next_value, *ends, cfg.gamma, cfg.gae_lambda)
    ready = models.standardised(advantage, data.obs.alive, True)
    given = liir.Returns(given.reward, *ends, proxy, next_proxy, ready)
    start = learner.reward, learner.policy, learner.policy_opt
    step = meta_step(of, cfg, *start, data, given, ((), ()))
    down = trees.axpy(-cfg.reward_lr, trees.clip_by_norm(step.meta_gradient, cfg.max_grad_norm), learner.reward)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)  # noqa: E731
    jax.tree.map(same, after.reward, down)
    jax.tree.map(same, after.policy, step.policy)
    assert info["reward_net_update_norm"] > 1e-6


def test_who_is_out_of_play_is_paid_no_intrinsic_reward():
    cfg = config()
    of, eta, _, _, data, _, memories = problem(cfg)
    r_in, _ = of.reward.unroll(eta, memories[1], data, cfg.reward_bound)
    np.testing.assert_array_equal(r_in != 0, data.obs.alive)


def test_a_bad_eps_root_is_refused():
    with pytest.raises(ValueError, match="LIIRConfig.eps_root is 0.0 with optimiser 'adam'; allowed is a positive"):
        liir.LIIRConfig(eps_root=0.0)
    with pytest.raises(ValueError, match="LIIRConfig.eps_root is 0.0, which has no effect with optimiser 'sgd'"):
        liir.LIIRConfig(eps_root=0.0, optimiser="sgd")


def test_outer_step_raises_the_extrinsic_objective():
    """One step along minus the meta-gradient must lower -J_ex after the same inner step."""
    cfg = config(optimiser="adam")
    of, eta, theta, opt, data, given, memories = problem(cfg)
    step = meta_step(of, cfg, eta, theta, opt, data, given, memories)
    before = outer_loss(eta, of, cfg, theta, opt, data, given, memories)
    after = outer_loss(trees.axpy(-1.0, step.meta_gradient, eta), of, cfg, theta, opt, data, given, memories)
    assert after < before


def test_config_floats_are_leaves_and_sizes_are_static():
    cfg = liir.LIIRConfig()
    assert all(isinstance(x, float) for x in jax.tree.leaves(cfg))
    assert jax.tree.structure(cfg) == jax.tree.structure(liir.LIIRConfig(lam=0.5, lr=1e-3))
    assert jax.tree.structure(cfg) != jax.tree.structure(liir.LIIRConfig(epochs=7))
    assert configs.as_arrays(cfg).lam.dtype == jnp.float64
    assert fitting.optimiser("adam", 1e-8).init is not None


def test_a_reward_may_begin_larger_and_stay_as_it_was_drawn():
    small, large = (registry.make_algorithm("liir", spec(), config(reward_init=gain)) for gain in (0.01, 1.0))
    a, b = (algorithm.init(jax.random.key(0), B).reward for algorithm in (small, large))
    np.testing.assert_allclose(100 * a["head"]["kernel"], b["head"]["kernel"], rtol=1e-12)
    np.testing.assert_array_equal(a["layers_0"]["kernel"], b["layers_0"]["kernel"])
    fixed = registry.make_algorithm("liir", spec(), config(reward_init=1.0, reward_lr=0.0, num_minibatches=1))
    of, _, _, _, data, given, memories = problem(fixed.config)
    batch, learner = batch_of(data, given, memories[0]), fixed.init(jax.random.key(0), B)
    after, info = jax.jit(fixed.update)(jax.random.key(1), learner, batch)
    assert all((x == y).all() for x, y in zip(*map(jax.tree.leaves, (after.reward, b)), strict=True))
    assert (info["intrinsic_reward_std"] > 0.05).all()
    plain = registry.make_algorithm("liir", spec(), config(lam=0.0, num_minibatches=1))
    without, _ = jax.jit(plain.update)(jax.random.key(1), plain.init(jax.random.key(0), B), batch)
    assert (after.policy["head"]["kernel"] != without.policy["head"]["kernel"]).any()  # it is followed


def test_the_authors_settings():
    theirs = liir.LIIRConfig.authors()
    assert (theirs.meta_gradient, theirs.optimiser, theirs.gae_lambda, theirs.lam) == ("official", "rmsprop", 0.8, 0.01)
    assert liir.LIIRConfig.authors(meta_gradient="exact", lam=0.5) != theirs
    assert liir.LIIRConfig.authors(memory="none").memory == "none"
    rule = fitting.optimiser("rmsprop", theirs.eps_root)
    weights, grads, lr = jnp.zeros(3), jnp.array([1e-5, 1e-3, -1.0]), theirs.lr
    moved, _ = rule.step(weights, rule.init(weights), grads, lr, theirs.max_grad_norm)
    np.testing.assert_allclose(moved, -lr * grads / (np.sqrt(0.01 * np.square(grads)) + 1e-5), rtol=0.5)  # torch's rule
    with pytest.raises(ValueError, match="LIIRConfig.lam is -1.0; allowed"):
        liir.LIIRConfig.authors(lam=-1)
