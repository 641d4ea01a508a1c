"""IAC, central-V, COMA and QMIX: against explicit sums, hand-worked targets, and one another."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_rollouts

import jaxmarl_lite as jml
from jaxmarl_lite.algorithms import coma, gradient_update, iac, ppo, qmix, registry, replay_buffer
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.ops import baselines, monotonic_mixing, tree_math

N = 3
SMALL = dict(hidden_sizes=(8, 8), num_minibatches=1)


def policies(draw, *lead, actions=5):
    logits = draw.normal(size=(*lead, actions)) * 2
    probs = np.exp(logits) * (draw.uniform(size=logits.shape) < 0.8) + 1e-12 * (
        np.arange(actions) == 0
    )
    return probs / probs.sum(-1, keepdims=True)


def test_the_counterfactual_baseline_is_a_sum_over_actions():
    draw = np.random.default_rng(0)
    q, probs = draw.normal(size=(4, N, 5)), policies(draw, 4, N)
    result = baselines.counterfactual_baseline(jnp.asarray(q), jnp.asarray(probs))
    for i in np.ndindex(4, N):
        assert result[i] == pytest.approx(sum(probs[i][u] * q[i][u] for u in range(5)), rel=1e-5)


def gradient_variance(q, probs, b):
    """Of ∇_ψ log π(u) (Q(u) - b) over u ~ π, summed over the logits ψ, written out."""
    scores = np.eye(len(q)) - probs  # [u, ψ]
    samples = scores * (q - b)[:, None]
    mean = (probs[:, None] * samples).sum(0)
    return (probs[:, None] * (samples - mean) ** 2).sum()


def test_the_optimal_baseline_has_the_least_variance():
    draw = np.random.default_rng(1)
    better = 0
    for _ in range(200):
        q, probs = draw.normal(size=5) * 3, policies(draw)
        best = float(baselines.optimal_baseline(jnp.asarray(q), jnp.asarray(probs)))
        mean = float(baselines.counterfactual_baseline(jnp.asarray(q), jnp.asarray(probs)))
        least = gradient_variance(q, probs, best)
        scale = 1e-5 * (1.0 + gradient_variance(q, probs, mean))
        assert least <= gradient_variance(q, probs, mean) + scale
        assert all(
            least <= gradient_variance(q, probs, best + step) + scale for step in (-0.1, 0.1)
        )
        better += least < 0.9 * gradient_variance(q, probs, mean)
    assert better > 20  # it is another number, and matters


def test_the_optimal_baseline_of_a_certain_policy_is_its_value():
    q, certain = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, 1.0, 0.0])
    result, slope = jax.value_and_grad(baselines.optimal_baseline)(q, certain)
    assert result == 2.0 and np.isfinite(slope).all()


@pytest.fixture(scope="module")
def critic():
    spec = random_rollouts.spec(N)
    config = coma.COMAConfig(**SMALL)
    networks = coma.COMANetworks(
        actor_critic.make_actor(spec, config.network_spec, True),
        coma.JointCritic(config.hidden_sizes, spec.action_size, "relu"),
    )
    learner = coma.make_coma("coma", spec, config).init(jax.random.key(0), random_rollouts.B)
    return networks, learner, random_rollouts.batch(N).transitions


def test_q_knows_the_others_actions_and_answers_for_every_own_one(critic):
    networks, learner, steps = critic
    q = np.asarray(networks.q(learner.critic_params, steps.obs, steps.action))
    assert q.shape == (*steps.action.shape, 3)
    for i in range(N):
        other = steps.action.at[..., i].set((steps.action[..., i] + 1) % 3)
        changed = np.asarray(networks.q(learner.critic_params, steps.obs, other))
        np.testing.assert_allclose(
            changed[..., i, :], q[..., i, :], rtol=1e-4, atol=1e-5
        )  # its own does not matter
        for j in set(range(N)) - {i}:
            assert np.abs(changed[..., j, :] - q[..., j, :]).max() > 1e-3


def test_comas_targets_by_hand(critic):
    networks, learner, steps = critic
    config = dataclasses.replace(coma.COMAConfig(**SMALL), gamma=0.9, gae_lambda=0.7)
    steps = steps._replace(
        next_obs=jax.tree.map(
            lambda current, next_state: tree_math.where(
                steps.last, next_state, jnp.concatenate([current[1:], next_state[-1:]])
            ),
            steps.obs,
            steps.next_obs,
        )
    )  # as in a rollout: what is seen next is what was seen after
    following = coma.next_actions(
        networks.actor, learner.actor_params, (), steps, jax.random.key(1)
    )
    time, envs = steps.last.shape
    last, discount = np.asarray(steps.last), np.asarray(steps.discount)
    assert (last & (discount == 1)).any() and (
        last & (discount == 0)
    ).any()  # a truncation and a true end
    for t, b in np.ndindex(time - 1, envs):
        if not last[t, b]:
            np.testing.assert_array_equal(following[t, b], steps.action[t + 1, b])
    legal = np.take_along_axis(
        np.asarray(steps.next_obs.action_mask), np.asarray(following)[..., None], -1
    )
    assert legal[last].all()
    value = coma._select_action(
        networks.q(learner.target_params, steps.obs, steps.action), steps.action
    )
    next_state = coma._select_action(
        networks.q(learner.target_params, steps.next_obs, following), following
    )
    expected = np.zeros(value.shape)
    for b in range(envs):
        for i in range(N):
            g = 0.0
            for t in reversed(range(time)):
                step = float(steps.reward[t, b, i])
                if t == time - 1 or last[t, b]:
                    g = step + 0.9 * discount[t, b] * float(next_state[t, b, i])
                else:
                    g = step + 0.9 * (0.3 * float(next_state[t, b, i]) + 0.7 * g)
                expected[t, b, i] = g
    result = coma.targets(networks, learner.target_params, steps, following, config)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_the_policy_gradient_is_ppos_first_step():
    spec, batch = random_rollouts.spec(N), random_rollouts.batch(N)
    actor = actor_critic.make_actor(spec, ppo.IPPOConfig(hidden_sizes=(8,)).network_spec, True)
    theta = actor.net.init(jax.random.key(0))
    data = gradient_update.to_policy_batch(batch.transitions)
    pi = actor.unroll(theta, (), data.obs, data.is_first)
    data = data._replace(log_prob=pi.log_prob(data.action))
    advantage = jnp.asarray(np.random.default_rng(3).normal(size=data.action.shape))
    config = ppo.IPPOConfig(hidden_sizes=(8,))
    step = iac.PolicyGradientBatch(data, (), advantage)
    ours = jax.grad(
        lambda theta: iac.policy_gradient_loss(theta, actor, step, config.entropy_coef, True)[0]
    )(theta)

    def clipped_loss(theta):
        pi = actor.unroll(theta, (), data.obs, data.is_first)
        return gradient_update.clipped_policy_loss(pi, data, advantage, config, True)[0]

    theirs = jax.grad(clipped_loss)(theta)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def same(ours, theirs, **tolerance):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, **({"rtol": 1e-4, "atol": 1e-6} | tolerance))


def updated(before, after):
    return any(
        (np.asarray(a) != b).any()
        for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True)
    )


@pytest.mark.parametrize(
    ("name", "critic_input"), [("iac", "local"), ("central-v", "global_state")]
)
def test_an_update_of_iac_is_ppos_of_one_step(name, critic_input):
    """Where the policy is still the one that acted, PPO's first gradient is the policy gradient."""
    spec, batch = random_rollouts.spec(N), random_rollouts.batch(N)
    changes = dict(SMALL, optimizer="sgd", lr=0.1, critic_lr=0.1, entropy_coef=0.1)
    changes |= dict(normalize_advantages=True, gae_lambda=0.9)
    ours = jml.make_algorithm(name, spec, registry.config_of(name)(**changes, critic_epochs=1))
    theirs = ppo.make_ppo(
        "ippo", spec, ppo.PPOConfig(**changes, num_epochs=1, critic_input=critic_input)
    )
    learner = theirs.init(jax.random.key(0), random_rollouts.B)
    data, actor = (
        gradient_update.to_policy_batch(batch.transitions),
        actor_critic.make_actor(spec, theirs.config.network_spec, True),
    )
    log_prob = actor.unroll(learner.actor_params, (), data.obs, data.is_first).log_prob(data.action)
    batch = batch._replace(transitions=batch.transitions._replace(log_prob=log_prob))
    plain = ours.init(jax.random.key(0), random_rollouts.B)
    same(plain.actor_params, learner.actor_params, rtol=0)
    pairs = (ours, plain), (theirs, learner)
    by_ours, by_theirs = (
        jax.jit(item.update)(jax.random.key(1), state, batch)[0] for item, state in pairs
    )
    same(by_ours.actor_params, by_theirs.actor_params)
    same(by_ours.critic_params, by_theirs.critic_params)
    assert updated(plain.actor_params, by_ours.actor_params)


@pytest.mark.parametrize("baseline", ["mean", "optimal"])
def test_an_update_of_coma_climbs_the_counterfactual_gradient(baseline):
    spec, batch = random_rollouts.spec(N), random_rollouts.batch(N)
    config = coma.COMAConfig(
        **SMALL,
        optimizer="sgd",
        lr=0.5,
        critic_lr=0.1,
        baseline=baseline,
        entropy_coef=0.0,
        max_grad_norm=1e9,
    )
    algorithm = coma.make_coma("coma", spec, config)
    learner = algorithm.init(jax.random.key(0), random_rollouts.B)
    next_state, _ = jax.jit(algorithm.update)(jax.random.key(1), learner, batch)
    networks = coma.COMANetworks(
        actor_critic.make_actor(spec, config.network_spec, True),
        coma.JointCritic(config.hidden_sizes, spec.action_size, "relu"),
    )
    obs, action = batch.transitions.obs, batch.transitions.action
    q = np.asarray(networks.q(next_state.critic_params, obs, action))  # the critic learns first
    probs = np.exp(
        networks.actor.unroll(learner.actor_params, (), obs, batch.transitions.last).logits
    )
    weight = probs * (
        1.0 + (baseline == "optimal") * ((probs**2).sum(-1, keepdims=True) - 2 * probs)
    )
    weight = np.where(
        weight.sum(-1, keepdims=True) > 1e-6, weight, probs
    )  # one legal action: no choice to weigh
    gain = np.take_along_axis(q, np.asarray(action)[..., None], -1)[..., 0] - (weight * q).sum(
        -1
    ) / weight.sum(-1)

    def objective(theta):
        log_prob = networks.actor.unroll(theta, (), obs, batch.transitions.last).log_prob(action)
        return (log_prob * gain * obs.alive).sum() / obs.alive.sum()

    same(
        next_state.actor_params,
        tree_math.add_scaled(0.5, jax.grad(objective)(learner.actor_params), learner.actor_params),
    )
    assert updated(learner.actor_params, next_state.actor_params)


@pytest.mark.parametrize("name", ["coma", "liir"])
def test_agents_that_are_paid_apart_serve_the_sum(name):
    """COMA's Q and LIIR's extrinsic critic are the team's; LIIR's policies learn from their own
    part."""
    batch = random_rollouts.batch(N)
    paid = jnp.asarray(np.random.default_rng(1).normal(size=batch.transitions.reward.shape))
    together = jnp.broadcast_to(paid.sum(-1, keepdims=True), paid.shape)
    result = {}
    for kind, reward in (("individual", paid), ("team", together)):
        spec = dataclasses.replace(random_rollouts.spec(N), reward_type=kind)
        algorithm = jml.make_algorithm(name, spec, registry.config_of(name)(**SMALL))
        learner = algorithm.init(jax.random.key(0), random_rollouts.B)
        rollout = batch._replace(transitions=batch.transitions._replace(reward=reward))
        result[kind], _ = jax.jit(algorithm.update)(jax.random.key(1), learner, rollout)
    part = {"coma": "critic_params", "liir": "extrinsic_critic_params"}[name]
    same(getattr(result["individual"], part), getattr(result["team"], part), rtol=1e-5, atol=1e-6)
    assert updated(getattr(learner, part), getattr(result["team"], part))
    assert updated(result["individual"].actor_params, result["team"].actor_params) == (
        name == "liir"
    )


def test_comas_critic_has_the_layers_of_the_heads():
    spec, plain = random_rollouts.spec(N), coma.COMAConfig(**SMALL)
    init = coma.make_coma("coma", spec, dataclasses.replace(plain, head_hidden_sizes=(16,))).init
    critic = jax.eval_shape(
        lambda key: init(key, random_rollouts.B), jax.random.key(0)
    ).critic_params
    assert critic["head"]["kernel"].shape == (16, 3)


@pytest.mark.parametrize("kind", ["coma", "qmix"])
def test_the_copy_is_renewed_every_target_interval_updates(kind):
    spec = random_rollouts.spec(N)
    if kind == "coma":
        algorithm = coma.make_coma("coma", spec, coma.COMAConfig(**SMALL, target_update_interval=2))
    else:
        sizes = dict(sequence_length=5, batch_size=4, buffer_size=8, mixing_embed_dim=4)
        algorithm = qmix.make_qmix(
            "qmix",
            spec,
            qmix.QMIXConfig(hidden_sizes=(8,), recurrent=False, target_update_interval=2, **sizes),
        )
    learner = algorithm.init(jax.random.key(0), random_rollouts.B)
    live = (
        (lambda learner: learner.critic_params)
        if kind == "coma"
        else (lambda learner: learner.params)
    )
    update = jax.jit(algorithm.update)
    for number in range(1, 5):
        previous = learner
        learner, _ = update(jax.random.key(number), learner, random_rollouts.batch(N, seed=number))
        assert updated(live(previous), live(learner))
        same(
            learner.target_params,
            live(learner) if number % 2 == 0 else previous.target_params,
            rtol=0,
            atol=0,
        )


def random_mixer(draw, *lead, hidden=4):
    shapes = (*lead, N, hidden), (*lead, hidden), (*lead, hidden), lead
    return monotonic_mixing.Mixer(*(jnp.asarray(draw.normal(size=shape)) for shape in shapes))


def test_the_mixer_grows_with_every_agents_value():
    draw = np.random.default_rng(0)
    q, mixer = jnp.asarray(3 * draw.normal(size=(500, N))), random_mixer(draw, 500)
    slopes = jax.grad(lambda q: monotonic_mixing.mix(mixer, q).sum())(q)
    assert (slopes >= 0).all() and (slopes > 0).mean() > 0.9
    assert (np.asarray(mixer.w1) < 0).any()  # though the weights are of either sign


def test_the_mixer_by_hand_and_as_a_sum():
    draw = np.random.default_rng(1)
    q, mixer = draw.normal(size=N), random_mixer(draw)
    hidden = [
        sum(abs(float(mixer.w1[i, m])) * q[i] for i in range(N)) + float(mixer.b1[m])
        for m in range(4)
    ]
    expected = sum(
        abs(float(w)) * (h if h > 0 else np.exp(h) - 1)
        for w, h in zip(mixer.w2, hidden, strict=True)
    )
    assert float(monotonic_mixing.mix(mixer, jnp.asarray(q))) == pytest.approx(
        expected + float(mixer.b2), rel=1e-4
    )
    ones = monotonic_mixing.Mixer(jnp.ones((N, 1)), jnp.zeros(1), jnp.ones(1), jnp.zeros(()))
    positive = jnp.asarray(np.abs(q))
    assert float(monotonic_mixing.mix(ones, positive)) == pytest.approx(
        float(monotonic_mixing.sum_mixing(positive)), rel=1e-6
    )


def test_the_mixers_first_gain_does_not_grow_with_its_width():
    spec, gains = random_rollouts.spec(N), []
    states = jnp.asarray(np.random.default_rng(0).normal(size=(200, spec.global_state_size)))
    for width in (8, 128):
        networks = qmix.make_qmix_networks(spec, qmix.QMIXConfig(mixing_embed_dim=width))
        weights = networks.init(jax.random.key(0), spec)
        slopes = jax.grad(
            lambda q, networks=networks, weights=weights: networks.mix(weights, states, q).sum()
        )(jnp.zeros((200, N)))
        gains.append(float(slopes.mean()))
    assert min(gains) > 0.01 and max(gains) < 1.0 and max(gains) < 1.5 * min(gains)


@pytest.mark.parametrize("double_q", [True, False])
@pytest.mark.parametrize("mixer", ["qmix", "vdn"])
def test_qmixs_targets_by_hand(double_q, mixer):
    spec, batch = random_rollouts.spec(N), random_rollouts.batch(N)
    config = qmix.QMIXConfig(
        hidden_sizes=(8,),
        recurrent=False,
        mixer=mixer,
        double_q=double_q,
        gamma=0.9,
        sequence_length=5,
        buffer_size=4,
        batch_size=4,
        **({"mixing_embed_dim": 4} if mixer == "qmix" else {}),
    )
    algorithm = qmix.make_qmix("qmix", spec, config)
    live, copy = (algorithm.init(jax.random.key(seed), 4).params for seed in (0, 1))
    networks = qmix.make_qmix_networks(spec, config)
    net = networks.net
    steps = batch.transitions
    _, following = qmix.agent_q_values(networks, live, steps, ())
    result = np.asarray(qmix.targets(networks, copy, following, steps, (), config))
    assert (np.asarray(steps.last) & (np.asarray(steps.discount) == 1)).any()
    for t, b in np.ndindex(result.shape):
        chosen = []
        for i in range(N):
            view = steps.next_obs.agents_view[t, b]
            of_live = np.asarray(net.step(live.agents, (), view)[0])[i]
            of_copy = np.asarray(net.step(copy.agents, (), view)[0])[i]
            legal = np.asarray(steps.next_obs.action_mask[t, b, i])
            by = of_live if double_q else of_copy
            best = max((u for u in range(3) if legal[u]), key=lambda u: by[u])
            chosen.append(of_copy[best] * bool(steps.next_obs.alive[t, b, i]))
        next_state = float(
            networks.mix(copy, steps.next_obs.global_state[t, b], jnp.asarray(chosen))
        )
        expected = float(steps.reward[t, b, 0]) + 0.9 * float(steps.discount[t, b]) * next_state
        assert result[t, b] == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_what_is_replayed_are_pieces_of_the_rollout_with_the_memory_before_them():
    spec, batch = random_rollouts.spec(N), random_rollouts.batch(N)
    steps = jax.tree.map(lambda x: jnp.concatenate([x, x[:1]]), batch.transitions)  # six steps
    config = qmix.QMIXConfig(
        hidden_sizes=(4,),
        rnn_hidden_size=6,
        sequence_length=2,
        buffer_size=16,
        batch_size=2,
        mixing_embed_dim=2,
    )
    algorithm = qmix.make_qmix("qmix", spec, config)
    learner = algorithm.init(jax.random.key(0), 4)
    hidden_state = jnp.asarray(np.random.default_rng(0).normal(size=(4, N, 6)))
    networks = qmix.make_qmix_networks(spec, config)
    net = networks.net
    pieces = replay_buffer.to_sequences(
        net,
        learner.params.agents,
        (),
        batch._replace(transitions=steps, initial_hidden_state=hidden_state),
        config.sequence_length,
    )
    assert pieces.hidden_state.shape == (12, N, 6)
    for b in range(4):
        m = hidden_state[b][None]
        for t in range(6):
            if t % 2 == 0:
                np.testing.assert_allclose(
                    pieces.hidden_state[b * 3 + t // 2], m[0], rtol=1e-4, atol=1e-5
                )
            np.testing.assert_array_equal(
                pieces.steps.action[b * 3 + t // 2, t % 2], steps.action[t, b]
            )
            _, m = net.step(learner.params.agents, m, steps.obs.agents_view[t, b][None])
            m = jnp.zeros_like(m) if steps.last[t, b] else m


def test_exploration_falls_to_its_end():
    config = qmix.QMIXConfig(epsilon_start=0.9, epsilon_end=0.1, epsilon_steps=100.0)
    result = [
        float(qmix.epsilon_schedule(config, jnp.asarray(observed)))
        for observed in (0.0, 50.0, 100.0, 1e6)
    ]
    np.testing.assert_allclose(result, [0.9, 0.5, 0.1, 0.1], rtol=1e-6)
    none = dataclasses.replace(config, epsilon_steps=0.0)
    assert float(qmix.epsilon_schedule(none, jnp.asarray(0.0))) == pytest.approx(0.1)


def test_a_share_of_actions_explores():
    draw = np.random.default_rng(0)
    q, mask = (
        jnp.asarray(draw.normal(size=(4000, N, 5))),
        jnp.asarray(draw.uniform(size=(4000, N, 5)) < 0.7),
    )
    mask = mask.at[..., 0].set(True)
    best = np.asarray(jnp.where(mask, q, -jnp.inf).argmax(-1))
    none, subset, every = (
        np.asarray(qmix.epsilon_greedy(jax.random.key(1), q, mask, share))
        for share in (0.0, 0.3, 1.0)
    )
    np.testing.assert_array_equal(none, best)
    by_chance = float((1 / mask.sum(-1)).mean())  # that any legal action is the best one
    for result, share in ((subset, 0.3), (every, 1.0)):
        assert np.take_along_axis(np.asarray(mask), result[..., None], -1).all()
        assert (result == best).mean() == pytest.approx(1 - share * (1 - by_chance), abs=0.02)


def test_nothing_is_learned_before_the_replay_holds_a_batch():
    spec = random_rollouts.spec(N)
    config = qmix.QMIXConfig(
        hidden_sizes=(4,), recurrent=False, sequence_length=5, batch_size=6, buffer_size=8
    )
    algorithm = qmix.make_qmix("qmix", spec, config)
    learner = algorithm.init(jax.random.key(0), random_rollouts.B)
    update = jax.jit(algorithm.update)
    updated = []
    for i in range(2):
        previous = learner.params
        learner, _ = update(jax.random.key(i), learner, random_rollouts.batch(N, seed=i))
        pairs = zip(jax.tree.leaves(previous), jax.tree.leaves(learner.params), strict=True)
        updated.append(any((np.asarray(a) != np.asarray(b)).any() for a, b in pairs))
    assert updated == [False, True]  # four sequences, then eight


@pytest.mark.parametrize(
    ("make", "config"), [(coma.make_coma, coma.COMAConfig()), (qmix.make_qmix, qmix.QMIXConfig())]
)
def test_continuous_actions_are_refused(make, config):
    with pytest.raises(
        ValueError, match="algorithm 'it' compares .* of test are continuous; allowed is"
    ):
        make("it", random_rollouts.spec(N, "continuous"), config)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (
            qmix.QMIXConfig,
            {"buffer_size": 8, "batch_size": 16},
            "buffer_size is 8; allowed is batch_size, 16, or",
        ),
        (
            qmix.QMIXConfig,
            {"mixer": "sum"},
            "QMIXConfig.mixer is 'sum'; allowed is one of qmix, vdn",
        ),
        (
            qmix.QMIXConfig,
            {"epsilon_end": 1.5},
            "QMIXConfig.epsilon_end is 1.5; allowed is a number from 0 to 1",
        ),
        (
            coma.COMAConfig,
            {"baseline": "best"},
            "COMAConfig.baseline is 'best'; allowed is one of mean, optimal",
        ),
        (
            coma.COMAConfig,
            {"target_update_interval": 0},
            "COMAConfig.target_update_interval is 0; allowed is a whole number",
        ),
        (
            iac.IACConfig,
            {"critic_epochs": 0},
            "IACConfig.critic_epochs is 0; allowed is a whole number, 1 or more",
        ),
    ],
)
def test_settings_that_cannot_be(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        kind(**changes)


def test_sizes_that_do_not_fit_the_replay_are_named():
    env = jml.make("toy/counter")
    algorithm = qmix.make_qmix(
        "qmix", env.spec, qmix.QMIXConfig(sequence_length=4, buffer_size=8, batch_size=8)
    )
    with pytest.raises(
        ValueError, match="num_steps is 6 and sequence_length is 4; allowed is a num_steps that"
    ):
        jml.make_train(algorithm, env, 4, 6)
    with pytest.raises(ValueError, match="buffer_size is 8; allowed is 16, a rollout, or more"):
        jml.make_train(algorithm, env, 8, 8)


def test_qmix_says_when_it_has_no_batch_and_is_evaluated_without_exploring():
    """Two sequences a rollout and a batch of four: the first update learns nothing."""
    config = {
        "hidden_sizes": (4,),
        "rnn_hidden_size": 4,
        "sequence_length": 4,
        "batch_size": 4,
        "buffer_size": 8,
        "epsilon_end": 1.0,
    }
    sizes = dict(
        num_envs=2,
        num_steps=4,
        total_steps=16,
        num_evaluations=2,
        eval_episodes=4,
        seeds=1,
        quiet=True,
    )
    result = jml.run("qmix", "toy/counter", config=config, **sizes)
    assert (result.metrics["value_loss"][0, 1:] > 0).tolist() == [False, True]
    assert result.metrics["gradient_steps"][0, 1:].tolist() == [0, 8]
    with pytest.raises(
        ValueError,
        match="total_steps is 8, in which qmix has no batch.*allowed is more than 8 with",
    ):
        jml.run("qmix", "toy/counter", config=config, **sizes | {"total_steps": 8})
    assert result.plan.greedy and not jml.run("iac", "toy/counter", **sizes).plan.greedy
    assert not jml.run("qmix", "toy/counter", config=config, greedy=False, **sizes).plan.greedy
