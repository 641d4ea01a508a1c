"""Agents in turn: the order and the product of ratios, and what the turns reduce to with one agent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_rollouts import B, T, batch, spec

from jaxmarl_lite.algorithms import happo, hatrpo, models, ppo, registry, trust_step, turns


class TestInTurn:
    """`turns.in_turn` against a Python loop."""

    def _run(self, key, agents=4):
        draw = np.random.default_rng(0)
        carried, data = jnp.asarray(draw.normal(size=(agents, 2))), jnp.asarray(draw.normal(size=(agents, T, B)))
        alive = jnp.asarray(draw.uniform(size=(agents, T, B)) < 0.7)

        def turn(key, model, data, factor):
            log_ratio = 0.1 * data * model[0] * factor
            return model + factor.sum(), log_ratio, {"noise": jax.random.uniform(key), "seen": factor[0, 0]}

        found, info = jax.jit(lambda key: turns.in_turn(key, carried, data, alive, turn))(key)
        return carried, data, alive, found, info

    def test_is_a_loop_over_the_order(self, float64):
        carried, data, alive, found, info = self._run(jax.random.key(1))
        order = np.argsort(info["turn"])
        factor = np.ones((T, B))
        for agent in order:
            np.testing.assert_allclose(info["factor_mean"][agent], factor.mean(), rtol=1e-12)
            np.testing.assert_allclose(info["seen"][agent], factor[0, 0], rtol=1e-12)
            np.testing.assert_allclose(found[agent], carried[agent] + factor.sum(), rtol=1e-12)
            ratio = np.exp(0.1 * data[agent] * carried[agent, 0] * factor)
            factor = factor * np.where(alive[agent], ratio, 1.0)
        assert len(np.unique(info["noise"])) == 4  # each turn has a key of its own

    def test_the_order_is_random_and_whole(self):
        orders = {tuple(np.asarray(self._run(jax.random.key(seed), 3)[-1]["turn"])) for seed in range(40)}
        assert len(orders) == 6
        assert all(sorted(order) == [0, 1, 2] for order in orders)


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
@pytest.mark.parametrize("memory", ["none", "gru"])
def test_happo_with_one_agent_is_ppo(float64, kind, memory):
    settings = dict(hidden=(6,), num_minibatches=1, epochs=3, share_weights=False, lr=0.01, normalise_value=True)
    settings |= {"memory": "gru", "memory_size": 4} if memory == "gru" else {}
    ours = registry.make_algorithm("happo", spec(1, kind), happo.HAPPOConfig(**settings))
    plain = registry.make_algorithm("mappo", spec(1, kind), ppo.MAPPOConfig(**settings))
    learner = plain.init(jax.random.key(0), B)
    rollout = batch(1, kind, memory=plain.initial_memory(B))
    given = ours.init(jax.random.key(0), B)
    same, info = jax.jit(ours.update)(jax.random.key(5), given, rollout)
    wanted, wanted_info = jax.jit(plain.update)(jax.random.key(6), learner, rollout)
    for name in ("policy", "policy_opt", "critic", "critic_opt", "memory", "value_moments", "seen"):
        one, other = getattr(same, name), getattr(wanted, name)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), one, other)
    for name in ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "explained_variance"):
        np.testing.assert_allclose(np.squeeze(info[name]), wanted_info[name], rtol=1e-9)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), same.policy, given.policy)
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_happo_is_ppo_of_each_agent_on_the_others_ratios(float64):
    """A Python loop in the order that was drawn, each agent by the plain objective written out."""
    config = happo.HAPPOConfig(hidden=(6,), num_minibatches=1, epochs=2, lr=0.02, optimiser="sgd", max_grad_norm=1e6)
    ours = registry.make_algorithm("happo", spec(3), config)
    learner = ours.init(jax.random.key(0), B)
    rollout = batch(3)
    found, info = jax.jit(ours.update)(jax.random.key(3), learner, rollout)
    of = ppo.Parts(None, models.critic(spec(3), config.form, "state", shared=False))
    _, estimate, _ = ppo.estimate(of, learner, rollout.steps)
    actor, data = models.lone_actor(spec(3), config.form), turns.by_agent(ppo.policy_data(rollout.steps))
    factor = jnp.ones((T, B))
    for agent in np.argsort(info["turn"]):
        theta, own = jax.tree.map(lambda x, i=agent: x[i], (learner.policy, data))
        alive = own.obs.alive
        raw = estimate.advantage[..., agent]
        mean = (raw * alive).sum() / alive.sum()
        deviation = jnp.sqrt((((raw - mean) ** 2) * alive).sum() / alive.sum())
        met = factor * (raw - mean) / deviation

        def loss(theta, own=own, met=met, alive=alive):
            pi = actor.unroll(theta, (), own.obs, own.first)
            ratio = jnp.exp(pi.log_prob(own.action) - own.log_prob)
            gain = jnp.minimum(ratio * met, jnp.clip(ratio, 0.8, 1.2) * met) + 0.01 * pi.entropy()
            return -(gain * alive).sum() / alive.sum()

        for _ in range(2):
            theta = jax.tree.map(lambda x, g: x - 0.02 * g, theta, jax.grad(loss)(theta))
        wanted = jax.tree.map(lambda x, i=agent: x[i], found.policy)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), theta, wanted)
        ratio = jnp.exp(turns.log_ratio(actor, theta, (), own))
        factor = factor * jnp.where(alive, ratio, 1.0)


def test_individual_rewards_are_summed_for_all():
    reward = jnp.asarray(np.random.default_rng(0).normal(size=(T, B, 3)))
    np.testing.assert_array_equal(models.team_reward("team", reward), reward)
    for agent in range(3):
        np.testing.assert_allclose(models.team_reward("individual", reward)[..., agent], reward.sum(-1), rtol=1e-6)


def test_shared_weights_are_refused():
    with pytest.raises(ValueError, match="HAPPOConfig.share_weights is True; allowed is False"):
        happo.HAPPOConfig(share_weights=True)


def trust_problem(kind="discrete", memory="none", **settings):
    """HATRPO of one agent, its learner, and a rollout whose log-probabilities are the policy's own."""
    settings |= {"memory": "gru", "memory_size": 4} if memory == "gru" else {}
    config = hatrpo.HATRPOConfig(hidden=(6,), activation="tanh", num_minibatches=1, epochs=1, **settings)
    ours = registry.make_algorithm("hatrpo", spec(1, kind), config)
    learner = ours.init(jax.random.key(0), B)
    grown = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), learner.policy)
    learner = learner._replace(policy=grown)
    rollout = batch(1, kind, memory=ours.initial_memory(B))
    actor = models.actor(spec(1, kind), config.form, False)
    first = models.episode_starts(rollout.steps.last)
    log_prob = actor.unroll(learner.policy, rollout.memory, rollout.steps.obs, first).log_prob(rollout.steps.action)
    return ours, learner, rollout._replace(steps=rollout.steps._replace(log_prob=log_prob))


@pytest.mark.parametrize("delta", [1e-3, 0.3])
@pytest.mark.parametrize(("kind", "memory"), [("discrete", "none"), ("continuous", "none"), ("discrete", "gru")])
def test_hatrpo_with_one_agent_is_trpo(float64, kind, memory, delta):
    """TRPO written plainly: a dense Hessian of the mean KL, a dense solve, a loop over shrinking steps."""
    settings = dict(delta=delta, cg_iterations=400, cg_tolerance=1e-13, damping=1e-3, accept_ratio=0.5)
    ours, learner, rollout = trust_problem(kind, memory, **settings)
    found, info = jax.jit(ours.update)(jax.random.key(5), learner, rollout)

    config, steps = learner.config, rollout.steps
    actor = models.actor(spec(1, kind), config.form, False)
    critic = models.critic(spec(1, kind), config.form, "state", shared=False)
    _, estimate, _ = ppo.estimate(ppo.Parts(actor, critic), learner, steps)
    alive, raw = steps.obs.alive, estimate.advantage
    mean = (raw * alive).sum() / alive.sum()
    advantage = (raw - mean) / jnp.sqrt((((raw - mean) ** 2) * alive).sum() / alive.sum())
    theta, back = jax.flatten_util.ravel_pytree(learner.policy)
    first = models.episode_starts(steps.last)

    def pi(x):
        return actor.unroll(back(x), rollout.memory, steps.obs, first)

    def surrogate(x):
        ratio = jnp.exp(pi(x).log_prob(steps.action) - steps.log_prob)
        return (ratio * advantage * alive).sum() / alive.sum()

    def mean_kl(x):
        return (pi(theta).kl(pi(x)) * alive).sum() / alive.sum()

    g = jax.grad(surrogate)(theta)
    h = jax.jit(jax.jacrev(jax.grad(mean_kl)))(theta) + 1e-3 * jnp.eye(len(theta))
    natural = jnp.linalg.solve(h, g)
    whole = jnp.sqrt(2 * delta / (g @ natural)) * natural
    wanted = theta
    for j in range(10):
        candidate = theta + 0.5**j * whole
        gained = surrogate(candidate) - surrogate(theta)
        if mean_kl(candidate) <= delta and gained >= 0.5 * g @ (candidate - theta) and gained > 0:
            wanted = candidate
            break
    np.testing.assert_allclose(jax.flatten_util.ravel_pytree(found.policy)[0], wanted, rtol=1e-6, atol=1e-8)
    assert 0 < info["kl"][0] <= delta
    np.testing.assert_allclose(info["kl"][0], mean_kl(wanted), rtol=1e-5)
    np.testing.assert_allclose(info["surrogate_gain"][0], surrogate(wanted) - surrogate(theta), rtol=1e-5)
    np.testing.assert_allclose(info["predicted_gain"][0], g @ whole, rtol=1e-6)
    assert info["step_fraction"][0] == 0.5**j


@pytest.mark.parametrize("memory", ["none", "gru"])
def test_parts_and_strides_of_the_fisher_product(float64, memory, monkeypatch):
    """In parts it is the same; with a stride it is that of the chosen worlds alone."""
    _, learner, rollout = trust_problem(memory=memory)
    config = learner.config
    actor, data = models.lone_actor(spec(1), config.form), turns.by_agent(ppo.policy_data(rollout.steps))
    data, start = jax.tree.map(lambda x: x[0], (data, turns.memory_by_agent(rollout.memory)))
    theta = jax.tree.map(lambda x: x[0], learner.policy)
    v = jax.tree.map(lambda x: jax.random.normal(jax.random.key(3), x.shape), theta)
    monkeypatch.setattr(trust_step, "_ROWS", 1)
    assert trust_step.parts_of(T, B) == 4
    parted = trust_step.fisher(actor, theta, data, start, config)(v)
    monkeypatch.setattr(trust_step, "_ROWS", 10**6)
    assert trust_step.parts_of(T, B) == 1
    whole = trust_step.fisher(actor, theta, data, start, config)(v)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14), parted, whole)
    strided = hatrpo.HATRPOConfig(fisher_stride=2, hidden=(6,), activation="tanh")
    some = trust_step.fisher(actor, theta, data, start, strided)(v)
    picked = jax.tree.map(lambda x: x[:, ::2], data)
    alone = trust_step.fisher(actor, theta, picked, jax.tree.map(lambda x: x[::2], start), config)(v)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14), some, alone)


@pytest.mark.parametrize("why", ["not converged", "not finite"])
def test_a_step_that_cannot_be_trusted_is_refused(why):
    broken = {"not converged": dict(cg_iterations=1, cg_worst=1e-6, cg_tolerance=0.0), "not finite": {}}[why]
    ours, learner, rollout = trust_problem(**broken)
    if why == "not finite":
        steps = rollout.steps
        rollout = rollout._replace(steps=steps._replace(reward=steps.reward.at[0, 0].set(jnp.inf)))
    found, info = ours.update(jax.random.key(5), learner, rollout)
    jax.tree.map(np.testing.assert_array_equal, found.policy, learner.policy)
    assert info["step_accepted"][0] == info["kl"][0] == info["step_fraction"][0] == 0
    assert info["line_search_tries"][0] == 10


@pytest.mark.parametrize(
    ("field", "value"),
    [("delta", 0.0), ("delta", float("nan")), ("damping", -1.0), ("cg_iterations", 0), ("tries", 0), ("backtrack", 1.0),
     ("fisher_stride", 0), ("share_weights", True)],
)  # fmt: skip
def test_wrong_settings_of_a_trust_region(field, value):
    with pytest.raises(ValueError, match=f"HATRPOConfig.{field} is .*; allowed is"):
        hatrpo.HATRPOConfig(**{field: value})
