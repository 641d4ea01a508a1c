"""Limits on costs: what MACPO and MAPPO-Lagrangian reduce to, and their parts against what is
written out."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_rollouts import B, T, batch, spec

from jaxmarl_lite.algorithms import (
    constraints,
    cost_limits,
    gradient_update,
    macpo,
    registry,
    sequential_update,
    trust_region_update,
)
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.types import EpisodeStats

K = 2
NAMES = ("a", "b")
CONVERGED = dict(cg_iters=400, cg_tol=1e-13)
SMALL = dict(hidden_sizes=(6,), num_minibatches=1, num_epochs=2, normalize_values=True)


def with_costs(env_spec, names=NAMES, limits=None):
    return dataclasses.replace(env_spec, cost_names=names, cost_limits=limits)


def rollout(
    agents, kind="discrete", seed=0, count=3.0, episode_cost=((4.0, 2.0),), k=K, hidden_state=()
):
    """The random rollout of the turns, with costs of it, and the episodes that ended in it."""
    result = batch(agents, kind, seed, hidden_state)
    draw = np.random.default_rng(seed + 100)
    cost = jnp.asarray(draw.uniform(size=(T, B, agents, k)))
    mean = jnp.broadcast_to(jnp.asarray(episode_cost, float), (agents, k))
    steps = jnp.asarray(10.0 * count)
    ended = EpisodeStats(
        jnp.asarray(count), jnp.zeros(agents), count * mean, steps, jnp.full(agents, steps)
    )
    return result._replace(transitions=result.transitions._replace(cost=cost), episode_stats=ended)


def grown(learner, scale=0.3):
    """Policies that are far from their small beginning."""
    keys = iter(jax.random.split(jax.random.key(9), 99))
    policy = jax.tree.map(
        lambda x: x + scale * jax.random.normal(next(keys), x.shape), learner.actor_params
    )
    return learner._replace(actor_params=policy)


def own_log_probs(env_spec, config, learner, result):
    """The rollout with the log-probabilities of the learner's own policies."""
    actor = actor_critic.make_actor(env_spec, config.network_spec, False)
    first = actor_critic.is_first_step(result.transitions.last)
    log_prob = actor.unroll(
        learner.actor_params, result.initial_hidden_state, result.transitions.obs, first
    ).log_prob(result.transitions.action)
    return result._replace(transitions=result.transitions._replace(log_prob=log_prob))


def assert_close(one, other, rtol=1e-9, atol=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), one, other)


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_macpo_with_slack_limits_is_hatrpo(float64, kind):
    env_spec = with_costs(spec(3, kind))
    settings = SMALL | CONVERGED | dict(target_kl=0.02)
    ours = registry.make_algorithm("macpo", env_spec, macpo.MACPOConfig(cost_limit=1e6, **settings))
    plain = registry.make_algorithm("hatrpo", env_spec, registry.config_of("hatrpo")(**settings))
    begun, other = (grown(x.init(jax.random.key(0), B)) for x in (ours, plain))
    result = own_log_probs(env_spec, plain.config, other, rollout(3, kind))
    later, info = jax.jit(ours.update)(jax.random.key(1), begun, result)
    expected, expected_info = jax.jit(plain.update)(jax.random.key(1), other, result)
    for name in ("actor_params", "critic_params", "critic_opt_state", "value_statistics"):
        assert_close(getattr(later, name), getattr(expected, name), 1e-7, 1e-9)
    assert (info["case_unconstrained"] == 1).all() and (info["line_search_success"] == 1).any()
    np.testing.assert_allclose(info["kl"], expected_info["kl"], rtol=1e-6)
    np.testing.assert_allclose(info["cost_dual"], 0.0)


@pytest.mark.slow
def test_unlimited_costs_are_hatrpos_as_well(float64):
    env_spec = with_costs(spec(2))
    ours = registry.make_algorithm(
        "macpo", env_spec, macpo.MACPOConfig(cost_limit=math.inf, **SMALL | CONVERGED)
    )
    plain = registry.make_algorithm(
        "hatrpo", env_spec, registry.config_of("hatrpo")(**SMALL | CONVERGED)
    )
    for count in (0.0, 3.0):
        result = rollout(2, count=count)
        later, info = jax.jit(ours.update)(
            jax.random.key(1), ours.init(jax.random.key(0), B), result
        )
        expected, _ = jax.jit(plain.update)(
            jax.random.key(1), plain.init(jax.random.key(0), B), result
        )
        assert_close(later.actor_params, expected.actor_params, 1e-7, 1e-9)
        assert (info["cost_violation"] == 0).all()


@pytest.mark.ci_cases("relative-False", "reward-True")
@pytest.mark.parametrize("simultaneous", [False, True])
@pytest.mark.parametrize("unit", ["relative", "reward"])
def test_lagrangian_with_multipliers_held_at_zero_is_happo(float64, simultaneous, unit):
    agents = 1 if simultaneous else 3
    env_spec = with_costs(spec(agents))
    held = dict(
        multiplier_ki=0.0,
        multiplier_kp=0.0,
        multiplier_scaling=unit,
        simultaneous=simultaneous,
        cost_limit=0.5,
    )
    ours = registry.make_algorithm(
        "mappo-lagrangian", env_spec, registry.config_of("mappo-lagrangian")(**SMALL | held)
    )
    plain = registry.make_algorithm("happo", env_spec, registry.config_of("happo")(**SMALL))
    result = rollout(agents)
    later, info = jax.jit(ours.update)(jax.random.key(1), ours.init(jax.random.key(0), B), result)
    expected, expected_info = jax.jit(plain.update)(
        jax.random.key(1), plain.init(jax.random.key(0), B), result
    )
    for name in (
        "actor_params",
        "actor_opt_state",
        "critic_params",
        "critic_opt_state",
        "value_statistics",
    ):
        assert_close(getattr(later, name), getattr(expected, name))
    np.testing.assert_allclose(info["policy_loss"], expected_info["policy_loss"], rtol=1e-9)
    assert (info["lagrange_multiplier"] == 0).all() and (info["cost_violation"] > 0).all()


def plain_estimate(config, learner, env_spec, result):
    """Costs' advantages by a loop over time, written out; ``[T, B, N, K]``, centred."""
    critic = constraints.make_cost_critic(env_spec, config)
    steps = result.transitions
    value, later, _ = map(
        np.asarray,
        (
            *critic.values_and_bootstrap(
                learner.costs.critic_params, learner.costs.critic_hidden_state, steps
            )[:2],
            0.0,
        ),
    )
    advantage, ahead = np.zeros_like(value), np.zeros_like(value[0])
    gamma, lam = float(config.cost_gamma), float(config.cost_gae_lambda)
    for t in reversed(range(T)):
        over, last = (np.asarray(x[t])[:, None, None] for x in (steps.discount, steps.last))
        delta = np.asarray(steps.cost[t]) + gamma * over * later[t] - value[t]
        ahead = delta + gamma * lam * (1 - last) * ahead
        advantage[t] = ahead
    alive = np.asarray(steps.obs.alive)[..., None]
    return advantage - (advantage * alive).sum((0, 1)) / alive.sum((0, 1))


def test_the_estimate_of_costs(float64):
    env_spec = with_costs(spec(2), limits=(3.0, (1.0, 7.0)))
    config = macpo.MACPOConfig(
        hidden_sizes=(6,), cost_limit={"a": 4.5, "b": (0.9, 6.3)}, cost_gamma=0.9
    )
    ours = registry.make_algorithm("macpo", env_spec, config)
    learner, result = ours.init(jax.random.key(0), B), rollout(2)
    critic = constraints.make_cost_critic(env_spec, config)
    state, of_costs, info = constraints.estimate_costs(
        critic, env_spec, learner.config, learner.costs, result, result.transitions
    )
    np.testing.assert_allclose(
        of_costs.advantage, plain_estimate(config, learner, env_spec, result), rtol=1e-9
    )
    excess = np.array([[4.0 - 4.5, 2.0 - 0.9], [4.0 - 4.5, 2.0 - 6.3]])
    np.testing.assert_allclose(of_costs.violation, excess, rtol=1e-12)
    assert state.episode_length == 10
    np.testing.assert_allclose(info["cost_violation"], excess)
    theirs = dataclasses.replace(learner.config, standardize_cost_advantages=True)
    _, theirs, _ = constraints.estimate_costs(
        critic, env_spec, theirs, learner.costs, result, result.transitions
    )
    alive = result.transitions.obs.alive[..., None]
    spread = (theirs.advantage**2 * alive).sum((0, 1)) / alive.sum((0, 1))
    np.testing.assert_allclose(spread, 1.0, rtol=1e-6)


def test_before_an_episode_has_ended_nothing_is_left_of_a_limit_and_later_the_last_ones_count(
    float64,
):
    env_spec = with_costs(spec(2))
    ours = registry.make_algorithm(
        "macpo", env_spec, macpo.MACPOConfig(hidden_sizes=(6,), cost_limit=100.0)
    )
    learner = ours.init(jax.random.key(0), B)
    update = jax.jit(ours.update)
    learner, info = update(jax.random.key(1), learner, rollout(2, count=0.0))
    assert (info["cost_violation"] == 0).all() and info["has_cost_estimate"] == 0
    accepted = info["line_search_success"] > 0
    assert (info["cost_surrogate_change"][accepted] <= 0).all()
    learner, info = update(jax.random.key(2), learner, rollout(2, count=3.0))
    np.testing.assert_allclose(info["cost_violation"], [[-96.0, -98.0]] * 2)
    learner, info = update(jax.random.key(3), learner, rollout(2, count=0.0, seed=5))
    np.testing.assert_allclose(info["cost_violation"], [[-96.0, -98.0]] * 2)
    assert info["has_cost_estimate"] == 1 and learner.costs.episode_length == 10


def test_what_unfinished_episodes_have_cost_so_far_counts_against_a_limit_and_never_for_it(float64):
    env_spec = with_costs(spec(2))
    ours = registry.make_algorithm(
        "macpo", env_spec, macpo.MACPOConfig(hidden_sizes=(6,), cost_limit={"a": 1.0, "b": 100.0})
    )
    result = rollout(2, count=0.0)
    begun = EpisodeStats(
        jnp.asarray(4.0),
        jnp.zeros(2),
        4.0 * jnp.array([[3.0, 3.0], [0.5, 3.0]]),
        jnp.asarray(20.0),
        jnp.asarray([20.0, 10.0]),
    )
    learner = ours.init(jax.random.key(0), B)
    learner, info = jax.jit(ours.update)(
        jax.random.key(1), learner, result._replace(first_episodes=begun)
    )
    np.testing.assert_allclose(info["cost_violation"], [[2.0, 0.0], [0.0, 0.0]])
    assert info["has_cost_estimate"] == 0 and learner.costs.episode_length == 5
    np.testing.assert_allclose(learner.costs.living_share, [1.0, 0.5])
    learner, info = jax.jit(ours.update)(
        jax.random.key(2), learner, rollout(2, count=3.0)._replace(first_episodes=begun)
    )
    np.testing.assert_allclose(info["cost_violation"], [[3.0, -98.0]] * 2)


def test_a_step_that_mends_one_limit_does_not_break_another(float64):
    """Far steps, so that a limit which the linear model keeps is often broken by the policy
    itself."""
    env_spec = with_costs(spec(1))
    config = macpo.MACPOConfig(
        hidden_sizes=(4,),
        activation="tanh",
        target_kl=0.2,
        cg_damping=1e-3,
        cost_limit=1.0,
        **CONVERGED,
    )
    learner = grown(registry.make_algorithm("macpo", env_spec, config).init(jax.random.key(0), B))
    result = own_log_probs(env_spec, config, learner, rollout(1))
    first = actor_critic.is_first_step(result.transitions.last)
    obs = result.transitions.obs._replace(
        global_state=result.transitions.obs.agents_view
    )  # an axis of agents everywhere
    individual = jax.tree.map(
        lambda x: x[:, :, 0], (obs, result.transitions.action, result.transitions.log_prob)
    )
    data, actor = (
        gradient_update.PolicyBatch(*individual, first),
        actor_critic.single_agent_actor(env_spec, config.network_spec),
    )
    theta = jax.tree.map(lambda x: x[0], learner.actor_params)
    draws = jnp.asarray(np.random.default_rng(3).normal(size=(60, K + 1, T, B)))
    broken, retained = 0.3, -0.02

    def step(draw):
        problem = trust_region_update.TrustRegionProblem(
            data, (), draw[0], draw[1:], jnp.array([broken, retained])
        )
        return trust_region_update.policy_step(actor, theta, problem, config)[1]

    info = jax.jit(jax.vmap(step))(draws)
    taken = (info["line_search_success"] == 1) & (info["case_infeasible"] == 0)
    assert taken.sum() >= 20
    assert (info["cost_surrogate_change"][taken, 1] <= -retained).all()
    assert (info["cost_surrogate_change"][taken, 0] < 0).all()


@pytest.mark.ci_cases("0.7")
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_recovery_asks_for_its_share_of_the_fall_and_leaves_the_rest_to_the_reward(
    float64, share
):
    """Small steps, whose surrogates change as the linear model says. In the metric of the trust
    region all have one length: that of the fastest fall, that of the fastest gain, and the one
    between, at the angle from the first whose cosine is the share."""
    env_spec = with_costs(spec(1))
    config = macpo.MACPOConfig(
        hidden_sizes=(4,), activation="tanh", target_kl=1e-8, cg_damping=1e-3, cost_limit=1.0,
        **CONVERGED,
    )  # fmt: skip
    learner = grown(registry.make_algorithm("macpo", env_spec, config).init(jax.random.key(0), B))
    result = own_log_probs(env_spec, config, learner, rollout(1))
    individual = jax.tree.map(
        lambda x: x[:, :, 0],
        (
            result.transitions.obs._replace(global_state=result.transitions.obs.agents_view),
            result.transitions.action,
            result.transitions.log_prob,
        ),
    )
    first = actor_critic.is_first_step(result.transitions.last)
    data = gradient_update.PolicyBatch(*individual, first)
    actor = actor_critic.single_agent_actor(env_spec, config.network_spec)
    theta = jax.tree.map(lambda x: x[0], learner.actor_params)
    draws = jnp.asarray(np.random.default_rng(3).normal(size=(40, 2, T, B)))

    def changes(violation, recovery_share):
        """Gains of reward and cost, ``[draws]``, and whether the whole step was taken."""

        def step(draw):
            problem = trust_region_update.TrustRegionProblem(
                data, (), draw[0], draw[1:], jnp.array([violation]), recovery_share=recovery_share
            )
            return trust_region_update.policy_step(actor, theta, problem, config)[1]

        info = jax.jit(jax.vmap(step))(draws)
        whole = (info["line_search_success"] == 1) & (info["line_search_step_size"] == 1)
        return info["surrogate_improvement"], info["cost_surrogate_change"][:, 0], np.asarray(whole)

    _, fastest_fall, recovered = changes(9.0, 1.0)
    fastest_gain, its_cost, gained = changes(-jnp.inf, 1.0)
    reward, cost, taken = changes(9.0, share)
    from_the_fall = np.arccos(np.clip(its_cost / fastest_fall, -1.0, 1.0))
    used = recovered & gained & taken & (from_the_fall > np.arccos(share) + 0.05)
    assert used.sum() >= 15
    np.testing.assert_allclose(cost[used], share * fastest_fall[used], rtol=0.02)
    expected = fastest_gain * np.cos(from_the_fall - np.arccos(share))
    np.testing.assert_allclose(
        reward[used] / fastest_gain[used], (expected / fastest_gain)[used], atol=0.02
    )


def one_agent(**settings):
    """MACPO of one agent with its own log-probabilities, and all that its step is made of, dense
    and plain."""
    env_spec = with_costs(spec(1), NAMES[:1])
    config = macpo.MACPOConfig(
        hidden_sizes=(4,),
        activation="tanh",
        num_epochs=1,
        num_minibatches=1,
        **CONVERGED | settings,
    )
    ours = registry.make_algorithm("macpo", env_spec, config)
    learner = grown(ours.init(jax.random.key(0), B))
    return env_spec, config, ours, learner


@pytest.mark.ci_cases("*doubt0", "*doubt1", "*doubt2", "*doubt3")
@pytest.mark.parametrize(
    ("excess", "case", "doubt"),
    [
        (-0.02, "constrained", (0.0, 0.0)),
        (-0.2, "unconstrained", (0.0, 0.0)),
        (0.02, "recoverable", (0.0, 0.0)),
        (5.0, "infeasible", (0.0, 0.0)),
        (0.02, "recoverable", (1.0, 3.0)),  # of a violation of 0.2 / 8.2
        (0.02, "infeasible", (9.0, 90.0)),
        (-0.2, "unconstrained", (0.5, 3.0)),
    ],
)
def test_macpo_of_one_agent_is_the_constrained_step_written_out(float64, excess, case, doubt):
    """Dense Fisher matrix, the cases of Achiam et al. 2017 by their formulas, a loop over shrinking
    steps."""
    delta, damping = 0.01, 1e-3
    doubts = dict(zip(("pessimism_ki", "pessimism_kp"), doubt, strict=True))
    env_spec, config, ours, learner = one_agent(
        target_kl=delta, cg_damping=damping, cost_limit=4.0, accept_ratio=0.1, **doubts
    )
    result = rollout(1, k=1, episode_cost=((4.0 + excess * 10,),))
    result = own_log_probs(env_spec, config, learner, result)
    next_state, info = jax.jit(ours.update)(jax.random.key(1), learner, result)

    steps = result.transitions
    actor, alive = actor_critic.make_actor(env_spec, config.network_spec, False), steps.obs.alive
    critic = actor_critic.make_critic(env_spec, config.network_spec, "global_state", shared=False)
    estimate = gradient_update.reward_advantages(critic, learner, steps)
    mean = (estimate.advantage * alive).sum() / alive.sum()
    spread = jnp.sqrt((((estimate.advantage - mean) ** 2) * alive).sum() / alive.sum())
    advantage, cost = (
        (estimate.advantage - mean) / spread,
        plain_estimate(config, learner, env_spec, result)[..., 0],
    )
    theta, back = jax.flatten_util.ravel_pytree(learner.actor_params)
    first = actor_critic.is_first_step(steps.last)

    def pi(x):
        return actor.unroll(back(x), (), steps.obs, first)

    def surrogate(x, advantage):
        ratio = jnp.exp(pi(x).log_prob(steps.action) - steps.log_prob)
        return (ratio * advantage * alive).sum() / alive.sum()

    def kl(x):
        return (pi(theta).kl(pi(x)) * alive).sum() / alive.sum()

    g, b = (jax.grad(surrogate)(theta, x) for x in (advantage, cost))
    h = jax.jit(jax.jacrev(jax.grad(kl)))(theta) + damping * jnp.eye(len(theta))
    hg, hb = jnp.linalg.solve(h, g), jnp.linalg.solve(h, b)
    share = 10 * excess / (4.0 + 10 * excess + 4.0)
    mu = min(max(max(doubt[0] * share, 0.0) + doubt[1] * share, 0.0), 1.0)
    q, r, s, c = g @ hg, g @ hb, b @ hb, excess + mu * np.sqrt(2 * delta * b @ hb)
    free = jnp.sqrt(2 * delta / q) * hg
    room = 2 * delta - c**2 / s
    if c + b @ free <= 0:
        full = free
    elif room > 0:
        full = -c / s * hb + jnp.sqrt(room / (q - r**2 / s)) * (hg - r / s * hb)
    else:
        full = -jnp.sqrt(2 * delta / s) * hb
    recovery = room <= 0 and c > 0
    expected = theta
    for j in range(10):
        x = 0.5**j * full
        gained, grew = (surrogate(theta + x, a) - surrogate(theta, a) for a in (advantage, cost))
        better = gained > 0 and gained >= 0.1 * g @ x
        fell = max(c, 0) - max(c + grew, 0) >= 0.1 * max(max(c, 0) - max(c + b @ x, 0), 0)
        if kl(theta + x) <= delta and (better or c > 0) and fell:
            expected = theta + x
            break
    np.testing.assert_allclose(
        jax.flatten_util.ravel_pytree(next_state.actor_params)[0], expected, rtol=1e-6, atol=1e-8
    )
    assert recovery == (case == "infeasible") and info[f"case_{case}"][0] == 1
    assert (info["line_search_success"][0] == 1) == bool((expected != theta).any())
    np.testing.assert_allclose(info["cost_violation"], [[10 * excess]], rtol=1e-9)
    np.testing.assert_allclose(info["cost_pessimism"], [[mu]], rtol=1e-9)


def test_a_doubt_sums_up_what_was_broken_and_falls_again(float64):
    env_spec, config, ours, learner = one_agent(
        cost_limit=2.0, pessimism_ki=0.5, pessimism_kp=1.0, recovery_share=0.6
    )
    update, doubts = jax.jit(ours.update), []
    for count, cost in [
        (0.0, 9.0),
        (3.0, 6.0),
        (3.0, 6.0),
        (3.0, 2.0),
        (3.0, 6.0),
        (3.0, 6.0),
        (3.0, 0.0),
    ]:
        batch = own_log_probs(
            env_spec, config, learner, rollout(1, k=1, count=count, episode_cost=((cost,),))
        )
        learner, info = update(jax.random.key(1), learner, batch)
        doubts.append((float(learner.costs.multiplier[0, 0]), float(info["cost_pessimism"][0, 0])))
    # violations as shares: unknown, 4 / 8 twice, 0, 4 / 8 twice, -2 / 2; no more than 0.6
    expected = [(0, 0), (0.25, 0.6), (0.5, 0.6), (0.5, 0.5), (0.6, 0.6), (0.6, 0.6), (0.1, 0)]
    np.testing.assert_allclose(doubts, expected)


def test_lagrangian_is_happo_on_the_priced_advantage(float64):
    """One agent, one step of plain gradient: the multiplier in reward per cost, and what it
    does."""
    env_spec = with_costs(spec(1))
    fixed = dict(
        optimizer="sgd",
        max_grad_norm=1e6,
        num_epochs=1,
        num_minibatches=1,
        hidden_sizes=(5,),
        entropy_coef=0.0,
        lr=0.1,
    )
    fixed |= dict(
        multiplier_init=0.7, multiplier_ki=0.2, multiplier_scaling="reward", multiplier_kp=0.1
    )
    fixed |= dict(normalize_by_multipliers=False)
    config = registry.config_of("mappo-lagrangian")(
        cost_limit=[1.0], normalize_advantages=False, **fixed
    )
    ours = registry.make_algorithm("mappo-lagrangian", env_spec, config)
    learner = ours.init(jax.random.key(0), B)
    result = own_log_probs(env_spec, config, learner, rollout(1))
    next_state, info = jax.jit(ours.update)(jax.random.key(1), learner, result)
    actor, alive = (
        actor_critic.make_actor(env_spec, config.network_spec, False),
        result.transitions.obs.alive,
    )
    critic = actor_critic.make_critic(env_spec, config.network_spec, "global_state", shared=False)
    estimate = gradient_update.reward_advantages(critic, learner, result.transitions)
    prices = np.array(
        [0.7 + 0.2 * 3.0 + 0.1 * 3.0, 0.7 + 0.2 * 1.0 + 0.1 * 1.0]
    )  # violated by 3 and 1
    priced = estimate.advantage - plain_estimate(config, learner, env_spec, result) @ prices
    first = actor_critic.is_first_step(result.transitions.last)

    def gain(theta):
        log_prob = actor.unroll(theta, (), result.transitions.obs, first).log_prob(
            result.transitions.action
        )
        return (log_prob * priced * alive).sum() / alive.sum()

    expected = jax.tree.map(
        lambda x, g: x + 0.1 * g, learner.actor_params, jax.grad(gain)(learner.actor_params)
    )
    assert_close(next_state.actor_params, expected)
    np.testing.assert_allclose(info["lagrange_multiplier"], prices[None])
    np.testing.assert_allclose(
        next_state.costs.multiplier.integral, [[0.7 + 0.2 * 3.0, 0.7 + 0.2 * 1.0]]
    )


def test_prices_relative_to_the_advantages_deviations(float64):
    """Priced, divided and reported: a standardized advantage less relative prices times
    standardized costs."""
    env_spec = with_costs(spec(1))
    fixed = dict(
        optimizer="sgd",
        max_grad_norm=1e6,
        num_epochs=1,
        num_minibatches=1,
        hidden_sizes=(5,),
        entropy_coef=0.0,
        lr=0.1,
    )
    config = registry.config_of("mappo-lagrangian")(
        cost_limit=[1.0], multiplier_init=0.5, multiplier_ki=0.2, multiplier_kp=0.0, **fixed
    )
    ours = registry.make_algorithm("mappo-lagrangian", env_spec, config)
    learner = ours.init(jax.random.key(0), B)
    result = own_log_probs(env_spec, config, learner, rollout(1))
    next_state, info = jax.jit(ours.update)(jax.random.key(1), learner, result)
    actor, alive = (
        actor_critic.make_actor(env_spec, config.network_spec, False),
        np.asarray(result.transitions.obs.alive),
    )
    critic = actor_critic.make_critic(env_spec, config.network_spec, "global_state", shared=False)
    estimate = gradient_update.reward_advantages(critic, learner, result.transitions)
    costly = plain_estimate(config, learner, env_spec, result)

    def deviation(x):
        return np.sqrt(((x - (x * alive).sum() / alive.sum()) ** 2 * alive).sum() / alive.sum())

    spreads = np.array([deviation(costly[..., k]) for k in range(K)])
    relative = 0.5 + 0.2 * np.array([3.0 / 5.0, 1.0 / 3.0])  # costs of 4 and 2 over limits of 1
    np.testing.assert_allclose(next_state.costs.multiplier.integral, relative[None], rtol=1e-9)
    prices = relative * deviation(np.asarray(estimate.advantage)) / spreads
    np.testing.assert_allclose(info["lagrange_multiplier"], prices[None], rtol=1e-9)
    raw = np.asarray(estimate.advantage)
    centred = (raw - (raw * alive).sum() / alive.sum()) / deviation(raw)
    priced = (centred - (costly / spreads) @ relative) / (1.0 + relative.sum())
    first = actor_critic.is_first_step(result.transitions.last)

    def gain(theta):
        log_prob = actor.unroll(theta, (), result.transitions.obs, first).log_prob(
            result.transitions.action
        )
        return (log_prob * priced * alive).sum() / alive.sum()

    expected = jax.tree.map(
        lambda x, g: x + 0.1 * g, learner.actor_params, jax.grad(gain)(learner.actor_params)
    )
    assert_close(next_state.actor_params, expected, 1e-6, 1e-9)


@pytest.mark.parametrize("rule", ["plain", "adam"])
@pytest.mark.parametrize("unit", ["relative", "reward"])
def test_multipliers_rise_where_a_limit_is_broken_and_fall_to_zero_where_it_is_kept(
    float64, rule, unit
):
    env_spec = with_costs(spec(2))
    config = registry.config_of("mappo-lagrangian")(
        cost_limit={"a": (3.0, 5.0), "b": math.inf},
        multiplier_init=0.2,
        multiplier_ki=0.3,
        hidden_sizes=(4,),
        num_epochs=1,
        multiplier_optimizer=rule,
        multiplier_scaling=unit,
    )
    ours = registry.make_algorithm("mappo-lagrangian", env_spec, config)
    learner, result = ours.init(jax.random.key(0), B), rollout(2)
    update = jax.jit(ours.update)
    learner, info = update(jax.random.key(0), learner, rollout(2, count=0.0))
    np.testing.assert_allclose(learner.costs.multiplier.integral, 0.2)  # no episode has ended
    for i in range(5):
        learner, info = update(jax.random.key(i), learner, result)
    assert (
        learner.costs.multiplier.integral[0, 0] > 0.25
        and learner.costs.multiplier.integral[1, 0] < 0.15
    )
    assert (info["lagrange_multiplier"][:, 1] == 0).all()  # no limit: no price


def test_how_the_others_enter_a_cost(float64):
    """The violation and the cost's advantage that a step is given, by the three settings."""
    draw = np.random.default_rng(0)
    env_spec = with_costs(spec(1))
    inputs = {}
    scales = {"episode_length": 0.1, "discount": 0.01}

    def spy(actor, theta, problem, config):
        inputs[config.cost_ratio, config.cost_scale] = problem
        return theta, {}

    result = rollout(1)
    data = jax.tree.map(
        lambda x: x[0],
        sequential_update.split_by_agent(gradient_update.to_policy_batch(result.transitions)),
    )
    raw, factor = (
        jnp.asarray(draw.normal(size=(K, T, B))),
        jnp.asarray(draw.uniform(0.5, 1.5, size=(T, B))),
    )
    limited = constraints.AgentConstraints(
        raw, jnp.asarray([1.0, -2.0]), jnp.asarray(10.0), jnp.asarray(0.5), jnp.zeros(K)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(macpo.trust_region_update, "policy_step", spy)
        for choice, scale in itertools.product(("own", "corrected", "product"), scales):
            config = macpo.MACPOConfig(hidden_sizes=(4,), cost_ratio=choice, cost_scale=scale)
            actor = actor_critic.single_agent_actor(env_spec, config.network_spec)
            theta = actor.net.init(jax.random.key(0))
            advantage = jnp.asarray(draw.normal(size=(T, B)))
            with jax.disable_jit():
                macpo.update_agent(
                    actor,
                    config,
                    sequential_update.Turn(
                        jax.random.key(0),
                        gradient_update.ModelState(theta, ()),
                        sequential_update.AgentBatch(data, (), advantage, limited),
                        factor,
                    ),
                )
    updated = (raw * (factor - 1.0)[None]).sum((1, 2)) / (T * B)
    for (choice, scale), problem in inputs.items():
        np.testing.assert_allclose(
            problem.cost_advantage, 0.5 * (raw if choice == "own" else raw * factor[None])
        )
        level = updated if choice == "corrected" else jnp.zeros(K)
        np.testing.assert_allclose(
            problem.violation, scales[scale] * np.array([1.0, -2.0]) + level, rtol=1e-9
        )
    assert len(inputs) == 6


def _updated(ours, learner, result):
    learner = learner._replace(
        config=dataclasses.replace(learner.config, per_dim_ratio=ours.config.per_dim_ratio)
    )
    return jax.jit(ours.update)(jax.random.key(1), learner, result)


def test_ratios_by_dimension(float64):
    """For discrete actions they are the ratios themselves; for several dimensions their gains are
    summed."""
    env_spec = with_costs(spec(2))
    built = [
        registry.make_algorithm(
            "macpo",
            env_spec,
            macpo.MACPOConfig(cost_limit=1.0, per_dim_ratio=by, **SMALL | CONVERGED),
        )
        for by in (False, True)
    ]
    learner = grown(built[0].init(jax.random.key(0), B))
    result = own_log_probs(env_spec, built[0].config, learner, rollout(2))
    one, other = (_updated(x, learner, result)[0].actor_params for x in built)
    assert_close(one, other, 1e-7, 1e-9)
    env_spec = with_costs(spec(2, "continuous"))
    built = [
        registry.make_algorithm(
            "macpo",
            env_spec,
            macpo.MACPOConfig(cost_limit=1.0, per_dim_ratio=by, **SMALL | CONVERGED),
        )
        for by in (False, True)
    ]
    learner = grown(built[0].init(jax.random.key(0), B))
    result = own_log_probs(env_spec, built[0].config, learner, rollout(2, "continuous"))
    (one, order), (other, _) = (
        (i["policy_grad_norm"], i["update_order"])
        for _, i in (_updated(x, learner, result) for x in built)
    )
    first = int(order.argmin())
    # where every ratio is one, the gradient of the sum is that of the product
    np.testing.assert_allclose(one[first], other[first], rtol=1e-9)
    assert abs(one[1 - first] - other[1 - first]) > 1e-6


def test_the_authors_settings_run_on_parts_of_the_envs(float64):
    env_spec = with_costs(spec(2, "continuous"))
    config = macpo.MACPOConfig.reference(
        hidden_sizes=(6,), num_policy_minibatches=2, cost_limit=3.0
    )
    ours = registry.make_algorithm("macpo", env_spec, config)
    ours.check_sizes(B, T)
    with pytest.raises(
        ValueError,
        match="num_policy_minibatches is 2; allowed is a num_envs that num_policy_minibatches div",
    ):
        ours.check_sizes(3, T)
    learner = ours.init(jax.random.key(0), B)
    later, info = jax.jit(ours.update)(jax.random.key(1), learner, rollout(2, "continuous"))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((later, info)))
    step = jax.tree.map(lambda a, b: a - b, later.actor_params, learner.actor_params)
    lengths = jnp.sqrt(sum((x**2).reshape(2, -1).sum(-1) for x in jax.tree.leaves(step)))
    assert (lengths <= 2 * 0.27 * 0.5 + 1e-9).all() and (lengths > 0).any()
    lagrangian = registry.config_of("mappo-lagrangian").reference(
        hidden_sizes=(6,), num_minibatches=2, cost_limit=3.0
    )
    other = registry.make_algorithm("mappo-lagrangian", env_spec, lagrangian)
    updated, info = jax.jit(other.update)(
        jax.random.key(1), other.init(jax.random.key(0), B), rollout(2, "continuous")
    )
    np.testing.assert_allclose(updated.costs.multiplier.integral[:, 0], 0.78, atol=1e-5)


def test_costs_that_are_all_zero_are_free(float64):
    """Cost critics that say zero, as they should here, leave no gradient: the step is HATRPO's, and
    says so."""
    env_spec = with_costs(spec(2))
    ours = registry.make_algorithm(
        "macpo", env_spec, macpo.MACPOConfig(cost_limit=0.0, **SMALL | CONVERGED)
    )
    plain = registry.make_algorithm(
        "hatrpo", env_spec, registry.config_of("hatrpo")(**SMALL | CONVERGED)
    )
    learner = ours.init(jax.random.key(0), B)
    silent = jax.tree.map(jnp.zeros_like, learner.costs.critic_params)
    learner = learner._replace(costs=learner.costs._replace(critic_params=silent))
    result = rollout(2, episode_cost=((0.0, 0.0),))
    result = result._replace(transitions=result.transitions._replace(cost=jnp.zeros((T, B, 2, K))))
    later, info = jax.jit(ours.update)(jax.random.key(1), learner, result)
    expected, _ = jax.jit(plain.update)(jax.random.key(1), plain.init(jax.random.key(0), B), result)
    assert (info["case_zero_cost_gradient"] == 1).all()
    assert_close(later.actor_params, expected.actor_params, 1e-7, 1e-9)


def test_limits_may_be_swept_in_one_compilation():
    env_spec = with_costs(spec(2))
    ours = registry.make_algorithm(
        "macpo", env_spec, macpo.MACPOConfig(hidden_sizes=(4,), cost_limit=1.0)
    )

    def excess(limit):
        config = dataclasses.replace(
            ours.config, cost_limit=cost_limits.parse_cost_limits(limit, "cost_limit")
        )
        return ours.update(jax.random.key(1), ours.init(jax.random.key(0), B, config), rollout(2))[
            1
        ]["cost_violation"]

    result = jax.jit(jax.vmap(excess))(jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(result, [[[3.0, 1.0]] * 2, [[1.0, -1.0]] * 2], rtol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"a": -1.0},
            r"MACPOConfig.cost_limit of 'a' is -1.0; allowed is a number from 0 up \(inf for no "
            r"limit\)",
        ),
        ({"a": float("nan")}, "cost_limit of 'a' is nan; allowed"),
        ({"a": True}, "cost_limit of 'a' is True; allowed"),
        ({"a": "5"}, "cost_limit of 'a' is '5'; allowed"),
        ({"a": np.float32(-1)}, "cost_limit of 'a' is -1.0; allowed"),
        (
            {"a": jnp.array([1.0, jnp.nan])},
            "cost_limit of 'a' is Array.* allowed is a number from 0 up",
        ),
        ({"a": ()}, r"cost_limit of 'a' is \(\); allowed"),
        ({1: 2.0}, "cost in .*cost_limit is 1; allowed is a cost's name"),
    ],
)
def test_wrong_limits(inputs, message):
    with pytest.raises(ValueError, match=message):
        macpo.MACPOConfig(cost_limit=inputs)


@pytest.mark.parametrize("name", ["macpo", "mappo-lagrangian"])
def test_limits_that_do_not_fit_the_environment(name):
    kind = registry.config_of(name)
    env_spec = with_costs(spec(2))
    for inputs, message in [
        ({"a": 1.0, "c": 2.0}, "cost in .*cost_limit is 'c'; allowed is one of a, b"),
        (
            {"a": (1.0, 2.0, 3.0), "b": 1.0},
            "of 'a' is .*; allowed is a number from 0 up .*, or one for each of 2 agents",
        ),
        ({"a": 1.0}, "lacks the cost 'b'; allowed is a limit for each cost of test"),
    ]:
        with pytest.raises(ValueError, match=message):
            registry.make_algorithm(name, env_spec, kind(cost_limit=inputs))
    with pytest.raises(
        ValueError, match="but test has no costs; allowed is an environment with costs"
    ):
        registry.make_algorithm(name, spec(2), kind(cost_limit=1.0))
    for field, value in [
        ("cost_confidence", 1.0),
        ("cost_confidence", 0.4),
        ("cost_gamma", 2.0),
        ("cost_average_episodes", -1.0),
    ]:
        with pytest.raises(ValueError, match=f"{kind.__name__}.{field} is .*; allowed"):
            kind(**{field: value})


def test_more_costs_than_a_step_can_take_are_refused():
    env_spec = with_costs(spec(2), tuple("abcde"))
    with pytest.raises(ValueError, match="test has 5 costs; allowed for MACPO are 1 to 4"):
        registry.make_algorithm("macpo", env_spec, macpo.MACPOConfig(cost_limit=1.0))
    registry.make_algorithm(
        "mappo-lagrangian", env_spec, registry.config_of("mappo-lagrangian")(cost_limit=1.0)
    )


def play_episodes(config, counts, costs):
    """The state of the costs after rollouts in which ``counts`` episodes of some costs ended."""
    env_spec = with_costs(spec(1), ("a",))
    ours = registry.make_algorithm("macpo", env_spec, config)
    state = ours.init(jax.random.key(0), B).costs
    ends, unused = np.cumsum(counts), rollout(1, k=1, episode_cost=((0.0,),))
    for begin, end in zip(ends - counts, ends, strict=True):
        ended = costs[begin:end]
        stats = EpisodeStats(
            jnp.asarray(float(len(ended))),
            jnp.zeros(1),
            jnp.full((1, 1), ended.sum()),
            jnp.asarray(10.0 * len(ended)),
            jnp.full(1, 10.0 * len(ended)),
            squared_costs=jnp.full((1, 1), (ended**2).sum()),
        )
        batch = unused._replace(episode_stats=stats)
        state = constraints.update_episode_costs(state, batch, config)
    return state


@pytest.mark.parametrize("earlier", [0.0, 6.0])
def test_the_standard_error_is_that_of_a_weighted_mean(float64, earlier):
    config = macpo.MACPOConfig(
        cost_limit=1.0, hidden_sizes=(4,), cost_average_episodes=earlier, cost_confidence=0.9
    )
    counts, draw = np.array([3, 0, 2, 5]), np.random.default_rng(0)
    costs = draw.exponential(4.0, counts.sum())
    state = play_episodes(config, counts, costs)
    # the weights of the episodes: a rollout's share of J, times what later rollouts left of it
    shares = [1.0, 2 / (2 + earlier), 5 / (5 + earlier)]
    by_rollout = [(1 - shares[1]) * (1 - shares[2]), shares[1] * (1 - shares[2]), shares[2]]
    weights = np.concatenate(
        [np.full(n, share / n) for n, share in zip([3, 2, 5], by_rollout, strict=True)]
    )
    used = weights > 0
    variance = np.cov(costs[used], aweights=weights[used])  # of one episode
    expected = np.sqrt(variance * (weights**2).sum())
    np.testing.assert_allclose(constraints.standard_error(state), [[expected]], rtol=1e-9)
    np.testing.assert_allclose(state.episode_cost, [[(weights * costs).sum()]])


def test_the_upper_end_is_above_the_true_mean_as_often_as_it_is_to_be(float64):
    config = macpo.MACPOConfig(cost_limit=1.0, hidden_sizes=(4,), cost_average_episodes=30.0)
    counts = np.full(12, 8)
    costs = np.random.default_rng(1).normal(6.0, 2.0, (4000, counts.sum()))
    state = jax.vmap(lambda costs: play_episodes(config, counts, costs))(jnp.asarray(costs))
    error = jax.vmap(constraints.standard_error)(state)
    for confidence, z in [(0.5, 0.0), (0.9, 1.2816), (0.98, 2.0537)]:
        covered = np.mean(state.episode_cost + z * error >= 6.0)
        assert abs(covered - confidence) < 0.02, confidence


@pytest.mark.ci_cases("macpo")
@pytest.mark.parametrize("name", ["macpo", "mappo-lagrangian"])
def test_a_limit_holds_for_the_upper_end_of_the_mean_cost(float64, name):
    env_spec = with_costs(spec(1))
    result = rollout(1)  # three episodes; costs of 4 and 2
    ended = result.episode_stats
    squares = 3.0 * jnp.array([[4.0**2 + 6.0, 2.0**2]])  # variances of 9 and 0
    result = result._replace(episode_stats=ended._replace(squared_costs=squares))
    excess = {}
    for confidence in (0.5, 0.9, 0.975):
        ours = registry.make_algorithm(
            name,
            env_spec,
            registry.config_of(name)(cost_limit=3.0, cost_confidence=confidence, hidden_sizes=(4,)),
        )
        _, info = jax.jit(ours.update)(jax.random.key(1), ours.init(jax.random.key(0), B), result)
        np.testing.assert_allclose(info["episode_cost_error"], [[3.0**0.5, 0.0]])
        excess[confidence] = info["cost_violation"][0]
    np.testing.assert_allclose(excess[0.5], [1.0, -1.0], atol=1e-12)
    np.testing.assert_allclose(excess[0.9], [1.0 + 1.28155 * 3.0**0.5, -1.0], rtol=1e-5)
    np.testing.assert_allclose(excess[0.975], [1.0 + 1.95996 * 3.0**0.5, -1.0], rtol=1e-5)


@pytest.mark.parametrize("earlier", [0.0, 6.0])
def test_the_mean_cost_remembers_earlier_episodes(float64, earlier):
    env_spec = with_costs(spec(1))
    ours = registry.make_algorithm(
        "macpo",
        env_spec,
        registry.config_of("macpo")(
            cost_limit=3.0, cost_average_episodes=earlier, hidden_sizes=(4,)
        ),
    )
    learner, excess = grown(ours.init(jax.random.key(0), B)), []
    for count, item in [(3.0, (4.0, 2.0)), (2.0, (20.0, 2.0)), (0.0, (9.0, 9.0))]:
        batch = own_log_probs(
            env_spec, ours.config, learner, rollout(1, count=count, episode_cost=(item,))
        )
        learner, info = jax.jit(ours.update)(jax.random.key(1), learner, batch)
        excess.append(info["cost_violation"][0])
    second = 4.0 + (20.0 - 4.0) * (2.0 / (2.0 + earlier))  # 20, or 8
    np.testing.assert_allclose(excess, [[1.0, -1.0], [second - 3.0, -1.0], [second - 3.0, -1.0]])


def test_limits_are_those_given_over_the_environments():
    env_spec = with_costs(spec(2), limits=(3.0, (1.0, 7.0)))

    def matrix(values):
        return cost_limits.as_array(cost_limits.parse_cost_limits(values, "x"), env_spec)

    np.testing.assert_array_equal(matrix({}), [[3.0, 1.0], [3.0, 7.0]])
    np.testing.assert_array_equal(matrix({"b": 2}), [[3.0, 2.0], [3.0, 2.0]])
    np.testing.assert_array_equal(matrix({"a": (1, math.inf)}), [[1.0, 1.0], [math.inf, 7.0]])
    np.testing.assert_array_equal(matrix(4), np.full((2, 2), 4.0))
    np.testing.assert_array_equal(matrix({"a": np.array([3, 4])}), [[3.0, 1.0], [4.0, 7.0]])
    assert cost_limits.parse_cost_limits({"a": [1, math.inf]}, "x").to_dict() == {
        "a": [1.0, math.inf]
    }
