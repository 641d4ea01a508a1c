import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_envs import algorithm, get_env

from jaxmarl_lite import evaluate, train
from jaxmarl_lite.algorithms import gradient_update, optimizers, ppo
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.ops import tree_math
from jaxmarl_lite.types import EnvSpec, Observation

T, B, N, VIEW, A = 5, 3, 2, 4, 3


def _minibatch(seed=0):
    draw = np.random.default_rng(seed)
    mask = draw.random((T, B, N, A)) < 0.7
    mask[..., 0] = True
    action = np.array([draw.choice(np.flatnonzero(row)) for row in mask.reshape(-1, A)]).reshape(
        T, B, N
    )
    obs = Observation(
        draw.normal(size=(T, B, N, VIEW)),
        draw.normal(size=(T, B, 2)),
        mask,
        draw.random((T, B, N)) < 0.7,
    )
    data = gradient_update.PolicyBatch(obs, action, np.zeros((T, B, N)), np.zeros((T, B), bool))
    return jax.tree.map(jnp.asarray, data), jnp.asarray(draw.normal(size=(T, B, N)))


def _actor(shared=True, **settings):
    config = ppo.IPPOConfig(
        hidden_sizes=(6,), activation="tanh", parameter_sharing=shared, **settings
    )
    spec = EnvSpec("none", N, VIEW, 2, "discrete", A, 10)
    return config, spec, actor_critic.make_actor(spec, config.network_spec, shared)


def policy_loss(theta, actor, data, hidden_state, advantage, config):
    pi = actor.unroll(theta, hidden_state, data.obs, data.is_first)
    return gradient_update.clipped_policy_loss(
        pi, data, advantage, config, config.parameter_sharing
    )


@pytest.mark.parametrize("shared", [True, False])
def test_gradient_at_the_old_policy_is_the_plain_policy_gradient(float64, shared):
    """-E[A ∇log π] - c ∇H, with π written out as a masked softmax of two dense layers."""
    config, _, actor = _actor(shared, entropy_coef=0.3)
    data, advantage = _minibatch()
    theta = jax.tree.map(lambda p: 3.0 * p, jax.jit(actor.net.init)(jax.random.key(0)))
    data = data._replace(
        log_prob=actor.unroll(theta, (), data.obs, data.is_first).log_prob(data.action)
    )

    def plain(theta):
        total = 0.0
        for n in range(N):
            agent_params = theta if shared else jax.tree.map(lambda p, n=n: p[n], theta)
            first, head = agent_params["layers_0"], agent_params["head"]
            bias = [
                jnp.broadcast_to(layer["bias"], (T, B, layer["bias"].size))
                for layer in (first, head)
            ]
            logits = (
                jnp.tanh(data.obs.agents_view[:, :, n] @ first["kernel"] + bias[0]) @ head["kernel"]
                + bias[1]
            )
            weight = jnp.where(data.obs.action_mask[:, :, n], jnp.exp(logits), 0.0)
            pi = weight / weight.sum(-1, keepdims=True)
            taken = jnp.log(jnp.take_along_axis(pi, data.action[:, :, n, None], -1))[..., 0]
            entropy = -(pi * jnp.log(jnp.where(pi > 0, pi, 1.0))).sum(-1)
            alive = data.obs.alive[:, :, n]
            gain = jnp.where(alive, advantage[:, :, n] * taken + 0.3 * entropy, 0.0).sum()
            total += gain / (data.obs.alive.sum() if shared else alive.sum())
        return total

    result = jax.jit(jax.grad(lambda th: policy_loss(th, actor, data, (), advantage, config)[0]))(
        theta
    )
    expected = jax.jit(jax.grad(plain))(theta)
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, -b, rtol=1e-9, atol=1e-12)
    assert tree_math.norm(result) > 0.01


def test_what_the_loss_reports():
    config, _, actor = _actor()
    data, advantage = _minibatch()
    theta = jax.jit(actor.net.init)(jax.random.key(0))
    pi = actor.unroll(theta, (), data.obs, data.is_first)
    current = pi.log_prob(data.action)
    # Log-ratios of 0 at half of the samples, and of log 2 at the others.
    half = jnp.asarray(np.random.default_rng(1).random((T, B, N)) < 0.5)
    _, info = policy_loss(
        theta, actor, data._replace(log_prob=current - jnp.log(2.0) * half), (), advantage, config
    )
    alive = np.asarray(data.obs.alive)
    share = np.asarray(half)[alive].mean()
    np.testing.assert_allclose(info["clip_fraction"], share, rtol=1e-6)
    np.testing.assert_allclose(info["approx_kl"], share * (1 - np.log(2.0)), rtol=1e-5)
    np.testing.assert_allclose(info["entropy"], np.asarray(pi.entropy())[alive].mean(), rtol=1e-6)


@pytest.mark.parametrize("recurrent", [False, True])
def test_dead_samples_give_no_gradient(float64, recurrent):
    """Death lasts to the end of the episode here, so that a memory cannot carry it to the
    living."""
    config, _, actor = _actor(recurrent=recurrent, **({"rnn_hidden_size": 4} if recurrent else {}))
    data, advantage = _minibatch()
    alive = jnp.broadcast_to(jnp.arange(T)[:, None, None] < jnp.array([[[2, 5]]]), (T, B, N))
    data = data._replace(obs=data.obs._replace(alive=alive))
    theta, start = jax.jit(actor.net.init)(jax.random.key(0)), actor.net.init_hidden_state(B)

    @jax.jit
    def pull(data, advantage):
        return jax.grad(lambda th: policy_loss(th, actor, data, start, advantage, config)[0])(theta)

    def disturb(x):
        flag = alive.reshape(alive.shape + (1,) * (x.ndim - 3))
        return jnp.where(flag, x, x + jnp.asarray(np.random.default_rng(5).normal(size=x.shape)))

    disturbed = data._replace(
        obs=data.obs._replace(agents_view=disturb(data.obs.agents_view)),
        action=jnp.where(alive, data.action, 0),
        log_prob=disturb(data.log_prob),
    )
    calm = pull(data, advantage)
    for a, b in zip(
        jax.tree.leaves(calm), jax.tree.leaves(pull(disturbed, disturb(advantage))), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
    living = pull(data, advantage + 1.0 * alive)
    assert tree_math.norm(tree_math.add_scaled(-1.0, calm, living)) > 1e-6


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("recurrent", [False, True])
def test_two_heads_are_pulled_by_the_sum_of_both_losses(float64, shared, recurrent):
    settings = {"recurrent": True, "rnn_hidden_size": 4} if recurrent else {}
    config, spec, _ = _actor(shared, shared_torso=True, vf_coef=0.3, **settings)
    networks = actor_critic.shared_actor_critic(spec, config.network_spec, shared)
    data, advantage = _minibatch()
    target = jnp.asarray(np.random.default_rng(3).normal(size=advantage.shape))
    theta, start = (
        jax.jit(networks.actor.net.init)(jax.random.key(0)),
        networks.actor.net.init_hidden_state(B),
    )
    assert (
        networks.critic.net.init(jax.random.key(0))
        == networks.critic.net.init_hidden_state(B)
        == ()
    )

    batch = gradient_update.SequenceBatch((data, advantage, target), start)

    @jax.jit
    def separate(theta):
        policy = policy_loss(theta, networks.actor, data, start, advantage, config)[0]
        value, _ = networks.critic.unroll(theta, start, data.obs, data.is_first)
        return policy + 0.3 * gradient_update.value_loss(value, target, shared)

    result = jax.jit(jax.grad(lambda th: ppo.shared_torso_loss(th, networks, batch, config)[0]))(
        theta
    )
    for a, b in zip(
        jax.tree.leaves(result), jax.tree.leaves(jax.grad(separate)(theta)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert {"head", "value_head", "layers_0"} <= set(result) and all(
        tree_math.norm(x) > 1e-3 for x in result.values()
    )


def test_mappo_is_ippo_where_the_state_is_what_everyone_sees():
    env = get_env("toy/counter")
    result = []
    for name in ("ippo", "mappo"):
        init, go = train.make_train(
            algorithm(name, env, parameter_sharing=False, lr=0.01), env, num_envs=4, num_steps=6
        )
        result.append(jax.jit(lambda key, init=init, go=go: go(init(key), 3))(jax.random.key(0)))
    (ippo, ippo_metrics), (mappo, mappo_metrics) = result
    for part in ("actor_params", "critic_params"):
        for a, b in zip(
            *(jax.tree.leaves(getattr(s.learner_state, part)) for s in (ippo, mappo)), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ippo_metrics["value_loss"], mappo_metrics["value_loss"], rtol=1e-4)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_every_env_is_in_one_minibatch_with_its_full_sequence(number):
    envs = 8
    t, b = jnp.meshgrid(jnp.arange(T), jnp.arange(envs), indexing="ij")
    labels = jnp.stack([t, b], -1)
    dealt = jax.vmap(
        lambda key: gradient_update.make_minibatches(
            key, gradient_update.SequenceBatch(labels, jnp.arange(envs)), number
        )
    )(jax.random.split(jax.random.key(0), 40))
    assert dealt.steps.shape == (40, number, T, envs // number, 2)
    assert dealt.initial_states.shape == (40, number, envs // number)
    hands = np.asarray(dealt.initial_states)
    for hand in hands:
        assert sorted(hand.ravel().tolist()) == list(range(envs))
    np.testing.assert_array_equal(
        dealt.steps[..., 0], np.broadcast_to(np.arange(T)[:, None], dealt.steps.shape[:-1])
    )
    np.testing.assert_array_equal(
        dealt.steps[..., 1], np.broadcast_to(hands[:, :, None], dealt.steps.shape[:-1])
    )
    if number > 1:
        # In 40 deals every world is met in every minibatch (a miss has a chance below 8 * 4 *
        # 0.75**40 = 0.0004).
        for part in range(number):
            assert len(np.unique(hands[:, part])) == envs


def test_epochs_take_every_minibatch_in_turn_and_deal_anew():
    envs, number, rounds = 8, 2, 3
    data = gradient_update.SequenceBatch(jnp.zeros((T, envs)), jnp.arange(envs))

    def step(learner, batch):
        count, observed = learner
        observed = jax.lax.dynamic_update_index_in_dim(observed, batch.initial_states, count, 0)
        return (count + 1, observed), {"count": count.astype(float)}

    start = (jnp.zeros((), jnp.int32), jnp.zeros((number * rounds, envs // number), int))
    (count, observed), info = gradient_update.run_epochs(
        jax.random.key(0), start, data, step, rounds, number
    )
    assert count == 6 and info["count"] == 2.5
    passes = np.asarray(observed).reshape(rounds, envs)
    assert all(sorted(row.tolist()) == list(range(envs)) for row in passes)
    assert len({tuple(sorted(row[: envs // 2].tolist())) for row in passes}) > 1


def test_annealing():
    lr = jnp.float32(0.5)
    result = [
        float(optimizers.learning_rate(lr, jnp.float32(observed), jnp.float32(100.0)))
        for observed in (0, 25, 100, 300)
    ]
    assert result == [0.5, 0.375, 0.0, 0.0]
    assert optimizers.learning_rate(lr, jnp.float32(1e9), jnp.float32(0.0)) == 0.5


def test_an_annealed_run_comes_to_rest():
    env = get_env("toy/counter")
    # An update sees 24 steps: the second is at half the rate, and from the third on nothing moves.
    init, go = train.make_train(
        algorithm("ippo", env, lr_anneal_steps=48.0), env, num_envs=4, num_steps=6
    )
    go = jax.jit(go, static_argnums=1)
    states = [jax.jit(init)(jax.random.key(0))]
    for _ in range(3):
        states.append(go(states[-1], 1)[0])
    for part in ("actor_params", "critic_params"):
        updated = [
            float(
                tree_math.norm(
                    tree_math.add_scaled(
                        -1.0, getattr(a.learner_state, part), getattr(b.learner_state, part)
                    )
                )
            )
            for a, b in itertools.pairwise(states)
        ]
        assert updated[0] > 0 and updated[1] > 0 and updated[2] == 0


@pytest.mark.parametrize("name", ["adam", "rmsprop", "sgd"])
def test_optimizers_go_downhill_and_each_agent_is_clipped_on_its_own(name):
    rule = optimizers.make_optimizer(name, 1e-12)
    item = optimizers.make_optimizer(name, 1e-12, per_agent=True)
    params = {"w": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
    grads = {"w": jnp.array([[30.0, 40.0], [0.03, 0.04]])}
    step = lambda rule, p, g: rule.step(p, rule.init(p), g, jnp.float32(0.1), jnp.float32(1.0))[0]  # noqa: E731
    together = step(item, params, grads)["w"]
    for agent in range(2):
        alone = step(rule, *({"w": x["w"][agent]} for x in (params, grads)))["w"]
        np.testing.assert_allclose(together[agent], alone, rtol=1e-6)
        assert (alone < params["w"][agent]).all()
    if name == "sgd":
        # Agent 0's gradient has length 50 and is cut to 1; agent 1's has length 0.05 and is not.
        np.testing.assert_allclose(
            together, [[1 - 0.06, 2 - 0.08], [3 - 0.003, 4 - 0.004]], rtol=1e-6
        )


@functools.cache
def _trained(name, env_id, updates, num_envs, num_steps, settings):
    env = get_env(env_id)
    ours = algorithm(name, env, **dict(settings))
    init, go = train.make_train(ours, env, num_envs, num_steps)
    state, metrics = jax.jit(lambda key: go(init(key), updates))(jax.random.key(1))
    assert bool(tree_math.all_finite(state.learner_state))
    result = jax.jit(evaluate.make_evaluate(ours, env, 64, greedy=True))(
        state.learner_state, jax.random.key(2)
    )
    return state.learner_state, metrics, float(env.spec.team_return(result.returns).mean())


def _learn(name, env_id, updates=60, num_envs=32, num_steps=4, **settings):
    rates = {"lr": 0.01} if settings.get("shared_torso") else {"lr": 0.01, "critic_lr": 0.01}
    settings = rates | {"num_epochs": 4, "num_minibatches": 1} | settings
    return _trained(name, env_id, updates, num_envs, num_steps, tuple(settings.items()))


@pytest.mark.parametrize("name", ["ippo", "mappo"])
def test_a_team_learns_to_agree(name):
    _, metrics, score = _learn(name, "toy/coordination")
    assert metrics["episode_return"][0] < 0.6
    assert metrics["episode_return"][-10:].mean() > 0.95 and score > 0.95


def test_with_views_and_values_standardized_it_learns_as_well():
    learner, metrics, score = _learn(
        "mappo", "toy/coordination", normalize_observations=True, normalize_values=True
    )
    assert score > 0.95 and metrics["episode_return"][-10:].mean() > 0.9
    # 60 updates of 128 steps; the last values are those of an agreed team.
    assert (
        learner.value_statistics.count == 60 * 128 * 2
        and learner.obs_normalizer.agents_view.count == 60 * 128 * 2
    )
    assert 0.5 < learner.value_statistics.mean < 1.0
    np.testing.assert_allclose(learner.obs_normalizer.agents_view.mean, [1.0, 0.5, 0.5], rtol=1e-4)


@pytest.mark.parametrize(("recurrent", "low", "high"), [(True, 0.95, 1.0), (False, 0.3, 0.7)])
def test_what_was_seen_before_is_answered_only_with_a_memory(recurrent, low, high):
    _, _, score = _learn("ippo", "toy/memory", num_steps=8, updates=80, recurrent=recurrent)
    assert low <= score <= high


@pytest.mark.parametrize(
    "settings", [{}, {"shared_torso": True}, {"shared_torso": True, "parameter_sharing": False}]
)
def test_a_continuous_team_learns_to_reach(settings):
    _, metrics, score = _learn(
        "ippo", "toy/reach-heterogeneous", updates=80, num_steps=4, **settings
    )
    assert metrics["episode_return"][0] < -0.5 and score > -0.1


def test_one_network_with_two_heads_learns_with_a_memory_and_explains_returns():
    learner, metrics, score = _learn(
        "ippo", "toy/memory", num_steps=8, updates=80, recurrent=True, shared_torso=True
    )
    assert (
        score >= 0.95
        and learner.critic_params == learner.critic_opt_state == learner.critic_hidden_state == ()
    )
    assert (
        metrics["explained_variance"].max() > 0.7
        and metrics["value_loss"][-1] < 0.1 * metrics["value_loss"][0]
    )


def test_two_heads_must_see_the_same():
    with pytest.raises(
        ValueError,
        match="IPPOConfig.critic_input is 'global_state' with a shared torso; allowed is 'local'",
    ):
        ppo.IPPOConfig(shared_torso=True, critic_input="global_state")
