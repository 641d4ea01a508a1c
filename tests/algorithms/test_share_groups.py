"""Agents that share their weights by groups, between one set for all and one for each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_rollouts

import jaxmarl_lite as jml
from jaxmarl_lite.algorithms import base_config, registry
from jaxmarl_lite.networks import actor_critic, recurrent, torsos

N = 3
SHARING = [name for name, (kind, _) in registry.ALGORITHMS.items() if hasattr(kind, "share_groups")]
CASES = [(name, {}) for name in ("mappo", "iac", "coma", "liir")] + [("ippo", {"recurrent": True})]
SMALL = {"hidden_sizes": (6,), "num_epochs": 1, "critic_epochs": 1, "rnn_hidden_size": 4}


def _config(name, settings, **more):
    kind = registry.config_of(name)
    names = {field.name for field in dataclasses.fields(kind)}
    small = {key: value for key, value in SMALL.items() if key in names}
    if not settings.get("recurrent", kind.recurrent):
        small.pop("rnn_hidden_size")
    return kind(**small | settings | more)


def _learned(name, config, as_learner=None):
    """The learner before and after one update, from the numbers of another learner."""
    spec, batch = random_rollouts.spec(N), random_rollouts.batch(N)
    algorithm = jml.make_algorithm(name, spec, config)
    learner = algorithm.init(jax.random.key(0), random_rollouts.B)
    if as_learner is not None:
        learner = jax.tree.map(lambda x, y: y.reshape(x.shape), learner, as_learner)
    batch = batch._replace(initial_hidden_state=algorithm.init_hidden_state(random_rollouts.B))
    return learner, jax.jit(algorithm.update)(jax.random.key(1), learner, batch)


def _assert_like(trees, expected):
    for x, y in zip(*map(jax.tree.leaves, (trees, expected)), strict=True):
        np.testing.assert_allclose(x, np.reshape(y, x.shape), rtol=2e-4, atol=2e-6)


@pytest.mark.ci_cases("mappo*")
@pytest.mark.parametrize(("name", "settings"), CASES)
def test_one_group_of_all_agents_is_one_set_of_weights(name, settings, monkeypatch):
    config = _config(name, settings)
    start, expected = _learned(name, config)
    monkeypatch.setattr(base_config.SharingConfig, "sharing", (0,) * N)
    _, result = _learned(name, config, start)
    _assert_like(result, expected)


@pytest.mark.ci_cases("liir*")
@pytest.mark.parametrize(
    ("name", "settings"), [("ippo", {"recurrent": True}), ("liir", {"critic_input": "local"})]
)
def test_a_group_for_each_agent_is_a_set_of_weights_for_each(name, settings, monkeypatch):
    if name == "liir":
        settings = settings | {"extrinsic_critic_input": "local"}
    config = _config(name, settings, parameter_sharing=False)
    start, expected = _learned(name, config)
    monkeypatch.setattr(base_config.SharingConfig, "sharing", tuple(range(N)))
    _, result = _learned(name, config, start)
    _assert_like(result, expected)


class Cell(torsos.nn.Module):
    @torsos.nn.nowrap
    def initial_state(self, num_rows):
        return jnp.zeros((num_rows, 5))

    @torsos.nn.compact
    def step(self, hidden_state, x):
        hidden_state = jnp.tanh(torsos.nn.Dense(5)(x) + torsos.nn.Dense(5)(hidden_state))
        return hidden_state, hidden_state


@pytest.mark.parametrize("gaussian_head", [True, False])
@pytest.mark.parametrize(
    "body",
    [
        recurrent.NetworkSpec(hidden_sizes=(8,)),
        recurrent.NetworkSpec(hidden_sizes=(8,), recurrent=True, rnn_hidden_size=5),
        torsos.as_torso("actor", Cell()),
    ],
    ids=["dense", "gru", "users"],
)
def test_every_agent_has_the_weights_of_its_group(body, gaussian_head):
    groups = (1, 0, 1)
    sizes = dict(num_agents=N, gaussian_head=gaussian_head)
    grouped = recurrent.make_network(body, 4, 2, shared=groups, **sizes)
    separate = recurrent.make_network(body, 4, 2, shared=False, **sizes)
    params = grouped.init(jax.random.key(0))
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(params))
    each = jax.tree.map(lambda x: jnp.stack([x[group] for group in groups]), params)
    x = jax.random.normal(jax.random.key(1), (5, 2, N, 4))
    first = jnp.zeros((5, 2), bool).at[3, 0].set(True)
    hidden_state = grouped.init_hidden_state(2)
    for result, expected in (
        (grouped.step(params, hidden_state, x[0]), separate.step(each, hidden_state, x[0])),
        (
            grouped.unroll(params, hidden_state, x, first),
            separate.unroll(each, hidden_state, x, first),
        ),
    ):
        jax.tree.map(np.testing.assert_array_equal, result, expected)


def test_a_critic_of_the_state_has_a_network_for_each_group_and_a_value_for_each_agent():
    spec, groups = random_rollouts.spec(N), (0, 0, 1)
    body = recurrent.NetworkSpec(hidden_sizes=(8,))
    make = lambda shared: actor_critic.make_critic(spec, body, "global_state", shared)  # noqa: E731
    grouped, joint = make(groups), make(True)
    params = grouped.net.init(jax.random.key(0))
    obs, first = random_rollouts.batch(N).transitions.obs, random_rollouts.batch(N).transitions.last
    values, _ = grouped.unroll(params, (), obs, first)
    for agent, group in enumerate(groups):
        expected, _ = joint.unroll(jax.tree.map(lambda x, g=group: x[g], params), (), obs, first)
        np.testing.assert_allclose(values[..., agent], expected[..., agent], atol=1e-6)
    assert (values[..., 0] != values[..., 1]).any()


@pytest.mark.ci_cases("mappo", "liir")
@pytest.mark.parametrize("name", SHARING)
def test_groups_learn_apart_and_their_agents_alike(name):
    settings = {"sequence_length": 5, "batch_size": 2, "buffer_size": 8} if name == "qmix" else {}
    start, (after, info) = _learned(name, _config(name, settings, share_groups=(0, 1, 0)))
    field = "params" if name == "qmix" else "actor_params"
    before, now = (getattr(x, field) for x in (start, after))
    before, now = (x.agents if name == "qmix" else x for x in (before, now))
    for x, y in zip(*map(jax.tree.leaves, (before, now)), strict=True):
        assert x.shape == y.shape and x.shape[0] == 2
    kernels = [x for x in jax.tree.leaves(now) if x.ndim == 3]
    assert all((x[0] != x[1]).any() for x in kernels)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((after, info)))


def test_a_group_does_not_learn_from_the_others():
    config = _config(
        "ippo", {}, share_groups=(0, 0, 1), max_grad_norm=1e9, normalize_advantages=True
    )
    spec, batch = random_rollouts.spec(N), random_rollouts.batch(N)
    algorithm = jml.make_algorithm("ippo", spec, config)
    learner = algorithm.init(jax.random.key(0), random_rollouts.B)
    update = jax.jit(algorithm.update)
    steps = batch.transitions
    other = steps._replace(log_prob=steps.log_prob.at[..., 2].add(-0.1))
    first, second = (
        update(jax.random.key(1), learner, batch._replace(transitions=x))[0].actor_params
        for x in (steps, other)
    )
    for x, y in zip(*map(jax.tree.leaves, (first, second)), strict=True):
        np.testing.assert_array_equal(x[0], y[0])
    assert any(
        (x[1] != y[1]).any() for x, y in zip(*map(jax.tree.leaves, (first, second)), strict=True)
    )


def test_groups_of_all_or_of_one_are_the_setting_for_all():
    assert jml.IPPOConfig(share_groups=(0, 0)).sharing is True
    assert jml.IPPOConfig(share_groups=[0, 2, 1]).sharing is False
    assert jml.IPPOConfig(share_groups=[0, 1, 0]).sharing == (0, 1, 0)
    assert jml.IPPOConfig().sharing is True
    assert jml.IPPOConfig(parameter_sharing=False).sharing is False


def test_wrong_groups_are_refused():
    for groups in ((0, 2), (1, 1), (-1, 0), (0.5, 0), "01", (True, False), 3):
        with pytest.raises(ValueError, match="IPPOConfig.share_groups is .*; allowed is a "):
            jml.IPPOConfig(share_groups=groups)
    with pytest.raises(ValueError, match="parameter_sharing is False, which has no effect with sh"):
        jml.IPPOConfig(share_groups=(0, 1, 0), parameter_sharing=False)
    for groups in ((0, 0), (0, 1), (0, 1, 0, 1)):
        with pytest.raises(ValueError, match=r"share_groups is .*; allowed is \(\) or 3 numbers"):
            jml.make_algorithm("ippo", random_rollouts.spec(N), jml.IPPOConfig(share_groups=groups))


def test_groups_survive_a_runs_folder(tmp_path):
    config = jml.IPPOConfig(hidden_sizes=(4,), share_groups=(0, 1), num_epochs=1)
    sizes = dict(seeds=1, total_steps=32, num_envs=4, num_steps=4, eval_episodes=2, quiet=True)
    jml.run("ippo", "toy/counter", config=config, out=tmp_path / "run", **sizes)
    assert jml.load_run(tmp_path / "run").config.share_groups == (0, 1)
