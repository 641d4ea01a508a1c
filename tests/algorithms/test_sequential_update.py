"""Agents in turn: the order and the product of ratios, and what the turns reduce to with one
agent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_rollouts import B, T, batch, spec

from jaxmarl_lite.algorithms import (
    gradient_update,
    happo,
    hatrpo,
    ppo,
    registry,
    sequential_update,
    trust_region_update,
)
from jaxmarl_lite.networks import actor_critic


class TestInTurn:
    """`turns.sequential_update` against a Python loop."""

    def _run(self, key, agents=4):
        draw = np.random.default_rng(0)
        carried, data = (
            jnp.asarray(draw.normal(size=(agents, 2))),
            jnp.asarray(draw.normal(size=(agents, T, B))),
        )
        alive = jnp.asarray(draw.uniform(size=(agents, T, B)) < 0.7)

        def turn_fn(turn):
            log_ratio = 0.1 * turn.batch * turn.state[0] * turn.factor
            return (
                turn.state + turn.factor.sum(),
                log_ratio,
                {"noise": jax.random.uniform(turn.key), "seen": turn.factor[0, 0]},
            )

        result, info = jax.jit(
            lambda key: sequential_update.sequential_update(key, carried, data, alive, turn_fn)
        )(key)
        return carried, data, alive, result, info

    def test_is_a_loop_over_the_order(self, float64):
        carried, data, alive, result, info = self._run(jax.random.key(1))
        order = np.argsort(info["update_order"])
        factor = np.ones((T, B))
        for agent in order:
            np.testing.assert_allclose(info["ratio_product_mean"][agent], factor.mean(), rtol=1e-12)
            np.testing.assert_allclose(info["seen"][agent], factor[0, 0], rtol=1e-12)
            np.testing.assert_allclose(result[agent], carried[agent] + factor.sum(), rtol=1e-12)
            ratio = np.exp(0.1 * data[agent] * carried[agent, 0] * factor)
            factor = factor * np.where(alive[agent], ratio, 1.0)
        assert len(np.unique(info["noise"])) == 4  # each turn has a key of its own

    def test_the_order_is_random_and_whole(self):
        orders = {
            tuple(np.asarray(self._run(jax.random.key(seed), 3)[-1]["update_order"]))
            for seed in range(40)
        }
        assert len(orders) == 6
        assert all(sorted(order) == [0, 1, 2] for order in orders)


@pytest.mark.ci_cases("True-*")
@pytest.mark.parametrize("kind", ["discrete", "continuous"])
@pytest.mark.parametrize("recurrent", [False, True])
def test_happo_with_one_agent_is_ppo(float64, kind, recurrent):
    settings = dict(
        hidden_sizes=(6,),
        num_minibatches=1,
        num_epochs=3,
        lr=0.01,
        normalize_values=True,
    )
    settings |= {"recurrent": True, "rnn_hidden_size": 4} if recurrent else {}
    ours = registry.make_algorithm("happo", spec(1, kind), happo.HAPPOConfig(**settings))
    plain = registry.make_algorithm(
        "mappo", spec(1, kind), ppo.MAPPOConfig(parameter_sharing=False, **settings)
    )
    learner = plain.init(jax.random.key(0), B)
    rollout = batch(1, kind, hidden_state=plain.init_hidden_state(B))
    learner_state = ours.init(jax.random.key(0), B)
    same, info = jax.jit(ours.update)(jax.random.key(5), learner_state, rollout)
    expected, expected_info = jax.jit(plain.update)(jax.random.key(6), learner, rollout)
    for name in (
        "actor_params",
        "actor_opt_state",
        "critic_params",
        "critic_opt_state",
        "critic_hidden_state",
        "value_statistics",
        "env_steps",
    ):
        one, other = getattr(same, name), getattr(expected, name)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), one, other
        )
    for name in (
        "policy_loss",
        "value_loss",
        "entropy",
        "approx_kl",
        "clip_fraction",
        "explained_variance",
    ):
        np.testing.assert_allclose(np.squeeze(info[name]), expected_info[name], rtol=1e-9)
    updated = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()), same.actor_params, learner_state.actor_params
    )
    assert max(jax.tree.leaves(updated)) > 1e-3


def test_happo_is_ppo_of_each_agent_on_the_others_ratios(float64):
    """A Python loop in the order that was drawn, each agent by the plain objective written out."""
    config = happo.HAPPOConfig(
        hidden_sizes=(6,),
        num_minibatches=1,
        num_epochs=2,
        lr=0.02,
        optimizer="sgd",
        max_grad_norm=1e6,
    )
    ours = registry.make_algorithm("happo", spec(3), config)
    learner = ours.init(jax.random.key(0), B)
    rollout = batch(3)
    result, info = jax.jit(ours.update)(jax.random.key(3), learner, rollout)
    critic = actor_critic.make_critic(spec(3), config.network_spec, "global_state", shared=False)
    estimate = gradient_update.reward_advantages(critic, learner, rollout.transitions)
    actor, data = (
        actor_critic.single_agent_actor(spec(3), config.network_spec),
        sequential_update.split_by_agent(gradient_update.to_policy_batch(rollout.transitions)),
    )
    factor = jnp.ones((T, B))
    for agent in np.argsort(info["update_order"]):
        theta, agent_batch = jax.tree.map(lambda x, i=agent: x[i], (learner.actor_params, data))
        alive = agent_batch.obs.alive
        raw = estimate.advantage[..., agent]
        mean = (raw * alive).sum() / alive.sum()
        deviation = jnp.sqrt((((raw - mean) ** 2) * alive).sum() / alive.sum())
        met = factor * (raw - mean) / deviation

        def loss(theta, agent_batch=agent_batch, met=met, alive=alive):
            pi = actor.unroll(theta, (), agent_batch.obs, agent_batch.is_first)
            ratio = jnp.exp(pi.log_prob(agent_batch.action) - agent_batch.log_prob)
            gain = jnp.minimum(ratio * met, jnp.clip(ratio, 0.8, 1.2) * met) + 0.01 * pi.entropy()
            return -(gain * alive).sum() / alive.sum()

        for _ in range(2):
            theta = jax.tree.map(lambda x, g: x - 0.02 * g, theta, jax.grad(loss)(theta))
        expected = jax.tree.map(lambda x, i=agent: x[i], result.actor_params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), theta, expected
        )
        ratio = jnp.exp(sequential_update.log_ratio(actor, theta, (), agent_batch))
        factor = factor * jnp.where(alive, ratio, 1.0)


def test_individual_rewards_are_summed_for_all():
    reward = jnp.asarray(np.random.default_rng(0).normal(size=(T, B, 3)))
    np.testing.assert_array_equal(actor_critic.to_team_reward("team", reward), reward)
    for agent in range(3):
        np.testing.assert_allclose(
            actor_critic.to_team_reward("individual", reward)[..., agent], reward.sum(-1), rtol=1e-6
        )


def trust_problem(kind="discrete", recurrent=False, **settings):
    """HATRPO of one agent, its learner, and a rollout whose log-probabilities are the policy's
    own."""
    settings |= {"recurrent": True, "rnn_hidden_size": 4} if recurrent else {}
    config = hatrpo.HATRPOConfig(
        hidden_sizes=(6,), activation="tanh", num_minibatches=1, num_epochs=1, **settings
    )
    ours = registry.make_algorithm("hatrpo", spec(1, kind), config)
    learner = ours.init(jax.random.key(0), B)
    grown = jax.tree.map(
        lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), learner.actor_params
    )
    learner = learner._replace(actor_params=grown)
    rollout = batch(1, kind, hidden_state=ours.init_hidden_state(B))
    actor = actor_critic.make_actor(spec(1, kind), config.network_spec, False)
    first = actor_critic.is_first_step(rollout.transitions.last)
    log_prob = actor.unroll(
        learner.actor_params, rollout.initial_hidden_state, rollout.transitions.obs, first
    ).log_prob(rollout.transitions.action)
    return (
        ours,
        learner,
        rollout._replace(transitions=rollout.transitions._replace(log_prob=log_prob)),
    )


@pytest.mark.ci_cases("*-0.3")
@pytest.mark.parametrize("target_kl", [1e-3, 0.3])
@pytest.mark.parametrize(
    ("kind", "recurrent"), [("discrete", False), ("continuous", False), ("discrete", True)]
)
def test_hatrpo_with_one_agent_is_trpo(float64, kind, recurrent, target_kl):
    """TRPO written plainly: a dense Hessian of the mean KL, a dense solve, a loop over shrinking
    steps."""
    settings = dict(
        target_kl=target_kl, cg_iters=400, cg_tol=1e-13, cg_damping=1e-3, accept_ratio=0.5
    )
    ours, learner, rollout = trust_problem(kind, recurrent, **settings)
    result, info = jax.jit(ours.update)(jax.random.key(5), learner, rollout)

    config, steps = learner.config, rollout.transitions
    actor = actor_critic.make_actor(spec(1, kind), config.network_spec, False)
    critic = actor_critic.make_critic(
        spec(1, kind), config.network_spec, "global_state", shared=False
    )
    estimate = gradient_update.reward_advantages(critic, learner, steps)
    alive, raw = steps.obs.alive, estimate.advantage
    mean = (raw * alive).sum() / alive.sum()
    advantage = (raw - mean) / jnp.sqrt((((raw - mean) ** 2) * alive).sum() / alive.sum())
    theta, back = jax.flatten_util.ravel_pytree(learner.actor_params)
    first = actor_critic.is_first_step(steps.last)

    def pi(x):
        return actor.unroll(back(x), rollout.initial_hidden_state, steps.obs, first)

    def surrogate(x):
        ratio = jnp.exp(pi(x).log_prob(steps.action) - steps.log_prob)
        return (ratio * advantage * alive).sum() / alive.sum()

    def mean_kl(x):
        return (pi(theta).kl(pi(x)) * alive).sum() / alive.sum()

    g = jax.grad(surrogate)(theta)
    h = jax.jit(jax.jacrev(jax.grad(mean_kl)))(theta) + 1e-3 * jnp.eye(len(theta))
    natural = jnp.linalg.solve(h, g)
    full = jnp.sqrt(2 * target_kl / (g @ natural)) * natural
    expected = theta
    for j in range(10):
        candidate = theta + 0.5**j * full
        gained = surrogate(candidate) - surrogate(theta)
        if (
            mean_kl(candidate) <= target_kl
            and gained >= 0.5 * g @ (candidate - theta)
            and gained > 0
        ):
            expected = candidate
            break
    np.testing.assert_allclose(
        jax.flatten_util.ravel_pytree(result.actor_params)[0], expected, rtol=1e-6, atol=1e-8
    )
    assert 0 < info["kl"][0] <= target_kl
    np.testing.assert_allclose(info["kl"][0], mean_kl(expected), rtol=1e-5)
    np.testing.assert_allclose(
        info["surrogate_improvement"][0], surrogate(expected) - surrogate(theta), rtol=1e-5
    )
    np.testing.assert_allclose(info["expected_improvement"][0], g @ full, rtol=1e-6)
    assert info["line_search_step_size"][0] == 0.5**j


@pytest.mark.parametrize("recurrent", [False, True])
def test_parts_and_strides_of_the_fisher_product(float64, recurrent, monkeypatch):
    """In parts it is the same; with a stride it is that of the chosen worlds alone."""
    _, learner, rollout = trust_problem(recurrent=recurrent)
    config = learner.config
    actor, data = (
        actor_critic.single_agent_actor(spec(1), config.network_spec),
        sequential_update.split_by_agent(gradient_update.to_policy_batch(rollout.transitions)),
    )
    data, start = jax.tree.map(
        lambda x: x[0],
        (data, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), rollout.initial_hidden_state)),
    )
    theta = jax.tree.map(lambda x: x[0], learner.actor_params)
    v = jax.tree.map(lambda x: jax.random.normal(jax.random.key(3), x.shape), theta)
    monkeypatch.setattr(trust_region_update, "_CHUNK_ROWS", 1)
    assert trust_region_update.num_chunks(T, B) == 4
    parted = trust_region_update.fisher(actor, theta, data, start, config)(v)
    monkeypatch.setattr(trust_region_update, "_CHUNK_ROWS", 10**6)
    assert trust_region_update.num_chunks(T, B) == 1
    full = trust_region_update.fisher(actor, theta, data, start, config)(v)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14), parted, full
    )
    strided = hatrpo.HATRPOConfig(fvp_stride=2, hidden_sizes=(6,), activation="tanh")
    subset = trust_region_update.fisher(actor, theta, data, start, strided)(v)
    picked = jax.tree.map(lambda x: x[:, ::2], data)
    alone = trust_region_update.fisher(
        actor, theta, picked, jax.tree.map(lambda x: x[::2], start), config
    )(v)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14), subset, alone
    )


@pytest.mark.parametrize("why", ["not converged", "not finite"])
def test_a_step_that_cannot_be_trusted_is_refused(why):
    broken = {
        "not converged": dict(cg_iters=1, cg_max_residual=1e-6, cg_tol=0.0),
        "not finite": {},
    }[why]
    ours, learner, rollout = trust_problem(**broken)
    if why == "not finite":
        steps = rollout.transitions
        rollout = rollout._replace(
            transitions=steps._replace(reward=steps.reward.at[0, 0].set(jnp.inf))
        )
    result, info = ours.update(jax.random.key(5), learner, rollout)
    jax.tree.map(np.testing.assert_array_equal, result.actor_params, learner.actor_params)
    assert info["line_search_success"][0] == info["kl"][0] == info["line_search_step_size"][0] == 0
    assert info["line_search_steps"][0] == 10


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target_kl", 0.0),
        ("target_kl", float("nan")),
        ("cg_damping", -1.0),
        ("cg_iters", 0),
        ("line_search_steps", 0),
        ("backtrack_coeff", 1.0),
        ("fvp_stride", 0),
    ],
)
def test_wrong_settings_of_a_trust_region(field, value):
    with pytest.raises(ValueError, match=f"HATRPOConfig.{field} is .*; allowed is"):
        hatrpo.HATRPOConfig(**{field: value})
