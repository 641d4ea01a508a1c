"""What every algorithm must keep, from one list."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_envs import acting, algorithm, counted, env_for, get_env, of_agents, serves

import jaxmarl_lite as jml
from jaxmarl_lite import rollout, train
from jaxmarl_lite.algorithms import registry
from jaxmarl_lite.algorithms.registry import ALGORITHMS
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.ops import tree_math

B, T = 4, 6
PADDED, CONTINUOUS = "toy/early-death", "toy/reach-heterogeneous"
FORMS = {
    "own-gru": {"parameter_sharing": False, "recurrent": True},
    "own": {"parameter_sharing": False, "recurrent": False},
    "shared-gru": {"parameter_sharing": True, "recurrent": True},
    "shared": {"parameter_sharing": True, "recurrent": False},
}


def _other(name):
    """The second world of an algorithm."""
    return CONTINUOUS if serves(name, "continuous") else PADDED


OWN = [
    (name, env_id, form)
    for i, name in enumerate(ALGORITHMS)
    for env_id, form in (
        (PADDED, ("own", "own-gru")[i % 2]),
        (_other(name), ("own-gru", "own")[i % 2]),
    )
]
SHARING = [name for name, (kind, _) in ALGORITHMS.items() if hasattr(kind, "parameter_sharing")]
SHARED = [
    (
        name,
        *(
            (PADDED, "shared-gru"),
            (_other(name), "shared-gru"),
            (_other(name), "shared"),
            (PADDED, "shared"),
        )[i % 4],
    )
    for i, name in enumerate(SHARING)
]
"""Every algorithm in both worlds, with and without memory, with weights shared and not; not their
full product."""


@functools.cache
def _case(name, env_id, form):
    """An algorithm, a learner, the batch of one rollout, `update`, and how often it was traced."""
    env = env_for(name, env_id)
    faster = {"lr": 0.01} if hasattr(registry.config_of(name), "lr") else {}
    ours = algorithm(name, env, **faster, **FORMS[form])

    @jax.jit
    def begin(key):
        learner = ours.init(key, B)
        carry = rollout.init_rollout_state(env, key, B, ours.init_hidden_state(B))

        def act(key, obs, hidden_state):
            return ours.act(learner, key, obs, hidden_state)

        return learner, rollout.rollout(env, act, carry, key, T)

    learner, (carry, batch) = begin(jax.random.key(0))
    update, traces = counted(ours.update)
    return env, ours, learner, carry, batch, jax.jit(update), traces


@pytest.mark.ci_cases("mappo-toy*", "macpo*-gru", "liir*-gru", "qmix*-gru")
@pytest.mark.parametrize("case", OWN + SHARED, ids="-".join)
def test_act_and_update(case):
    env, ours, learner, carry, batch, update, traces = _case(*case)
    spec, steps = env.spec, batch.transitions
    shape = (T, B, 2) if spec.action_type == "discrete" else (T, B, 2, spec.action_size)
    assert steps.action.shape == shape and steps.log_prob.shape == (T, B, 2)
    if spec.action_type == "discrete":
        assert jnp.take_along_axis(steps.obs.action_mask, steps.action[..., None], -1).all()
    else:
        assert (jnp.abs(steps.action) <= 1).all() and (
            steps.action[~steps.obs.action_mask] == 0
        ).all()
    chex.assert_trees_all_equal_shapes_and_dtypes(carry.hidden_state, ours.init_hidden_state(B))
    assert jax.tree.leaves(carry.hidden_state) != [] or "gru" not in case[2]

    next_state, info = update(jax.random.key(1), learner, batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(next_state, learner)
    assert bool(tree_math.all_finite(next_state)) and bool(tree_math.all_finite(info))
    assert all(value.shape in ((), (2,), (2, env.spec.num_costs)) for value in info.values())
    assert all(
        (a != b).any()
        for a, b in zip(*map(jax.tree.leaves, (acting(next_state), acting(learner))), strict=True)
    )
    # Other numbers of the same shapes are the same program.
    pace = "target_kl" if hasattr(learner.config, "target_kl") else "lr"
    other = learner._replace(config=_with_zero(learner.config, pace))
    still, _ = update(jax.random.key(2), other, batch)
    chex.assert_trees_all_equal(acting(still), acting(learner))
    assert len(traces) == 1


def _with_zero(config, name):
    """A config with 0 for one of its floats, put there as tree functions do, which check
    nothing."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x * 0.0 if path[0].name == name else x, config
    )


@pytest.mark.ci_cases("mappo-toy*", "macpo*", "liir*", "qmix*")
@pytest.mark.parametrize("case", OWN, ids="-".join)
def test_what_is_padded_never_moves(case):
    _env, _ours, learner, _carry, batch, update, _ = _case(*case)
    next_state, _ = update(jax.random.key(1), learner, batch)
    exists = np.asarray(batch.transitions.obs.action_mask).any((0, 1))
    assert not exists.all()
    head, previous = (
        function["head"] | {name: function[name] for name in ("log_std",) if name in function}
        for function in map(acting, (next_state, learner))
    )
    for name in head:
        new, old = (np.moveaxis(np.asarray(x[name]), -1, 1) for x in (head, previous))
        np.testing.assert_array_equal(new[~exists], old[~exists])
        assert (new[exists] != old[exists]).any()


@pytest.mark.parametrize("case", OWN, ids="-".join)
def test_an_agent_that_is_never_alive_learns_nothing(case):
    _env, _ours, learner, _carry, batch, update, _ = _case(*case)

    def without(obs):
        return obs._replace(alive=obs.alive.at[..., 1].set(False))

    steps = batch.transitions._replace(
        obs=without(batch.transitions.obs), next_obs=without(batch.transitions.next_obs)
    )
    later, info = update(jax.random.key(1), learner, batch._replace(transitions=steps))
    assert bool(tree_math.all_finite(later)) and bool(tree_math.all_finite(info))
    names = {"actor_params", "intrinsic_params", "values"} & set(
        of_agents(learner)
    )  # not the critics, see below
    pairs = [(name, of_agents(later)[name], of_agents(learner)[name]) for name in sorted(names)]
    assert pairs
    for name, *trees_of in pairs:
        for new, old in zip(*map(jax.tree.leaves, trees_of), strict=True):
            np.testing.assert_array_equal(new[1], old[1], err_msg=name)
        assert any(
            (new[0] != old[0]).any()
            for new, old in zip(*map(jax.tree.leaves, trees_of), strict=True)
        )


def test_values_are_learned_of_agents_out_of_play():
    """The relay's first agent is in play for one step, and paid at the last."""
    env = jml.make("toy/relay", steps=4)
    mappo = jml.MAPPOConfig(
        parameter_sharing=False,
        lr=0.0,
        critic_lr=0.01,
        gamma=1.0,
        hidden_sizes=(32,),
        num_minibatches=1,
    )
    ours = jml.make_algorithm("mappo", env.spec, mappo)
    init, update = jml.make_train(ours, env, num_envs=64, num_steps=4)
    state, _ = jax.jit(update, static_argnums=1)(jax.jit(init)(jax.random.key(0)), 300)
    critic = actor_critic.make_critic(env.spec, mappo.network_spec, "global_state", shared=False)
    wish = jnp.zeros((8,)).at[4].set(1.0)
    state_of = lambda right: jnp.concatenate([wish, jnp.array([right, 3 / 4])])  # noqa: E731
    observed = jnp.stack([state_of(0.0), state_of(1.0)])
    observed = jnp.broadcast_to(observed[:, None], (2, 2, observed.shape[-1]))
    values = critic.to_values(critic.net.step(state.learner_state.critic_params, (), observed)[0])
    np.testing.assert_allclose(values, [[1 / 16] * 2, [17 / 16] * 2], atol=0.15)


@pytest.mark.parametrize("case", OWN, ids="-".join)
def test_greedy_is_the_mode_and_does_not_need_the_key(case):
    env, ours, learner, _carry, batch, *_ = _case(*case)
    obs = jax.tree.map(lambda x: x[0], batch.transitions.obs)
    act = jax.jit(functools.partial(ours.act, learner, greedy=True))
    result, log_prob, _ = act(jax.random.key(0), obs, batch.initial_hidden_state)
    again, *_ = act(jax.random.key(1), obs, batch.initial_hidden_state)
    np.testing.assert_array_equal(result, again)
    # The likeliest action is at least as likely as any that was sampled at the same moment.
    assert (
        log_prob >= batch.transitions.log_prob[0] - 1e-5
    ).all() or env.spec.action_type == "continuous"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_wrong_settings_are_named(name):
    kind = ALGORITHMS[name][0]
    for field, value in [
        ("lr", -1.0),
        ("lr", float("nan")),
        ("gamma", 1.5),
        ("clip_eps", True),
        ("num_epochs", 0),
        ("num_minibatches", 2.5),
        ("recurrent", "gru"),
        ("optimizer", "adamw"),
        ("precision", "float16"),
        ("hidden_sizes", (16, 0)),
        ("lr", "0.1"),
        ("hidden_sizes", 64),
        ("rnn_hidden_size", 7 if not kind.recurrent else 0),
    ]:
        if hasattr(kind, field):
            with pytest.raises(ValueError, match=f"{kind.__name__}.{field} is"):
                kind(**{field: value})
    assert kind(hidden_sizes=[16, 8]) == kind(hidden_sizes=(16, 8))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_another_environment_is_refused(name):
    with pytest.raises(ValueError, match="env has .*allowed is .*its spec is that of toy/counter"):
        train.make_train(algorithm(name, env_for(name, "toy/counter")), get_env("toy/memory"), 4, 4)
