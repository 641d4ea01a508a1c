"""Every environment keeps the protocol."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_envs import ENVS, compiled, get_env, legal_action, play

from jaxmarl_lite.types import Environment


def assert_fields(timestep, spec):
    n, number = spec.num_agents, jnp.result_type(float)
    expected = [
        (timestep.obs.agents_view, (n, spec.obs_size), number),
        (timestep.obs.global_state, (spec.global_state_size,), number),
        (timestep.obs.action_mask, (n, spec.action_size), jnp.dtype(bool)),
        (timestep.obs.alive, (n,), jnp.dtype(bool)),
        (timestep.reward, (n,), number),
        (timestep.cost, (n, spec.num_costs), number),
        (timestep.discount, (), number),
        (timestep.last, (), jnp.dtype(bool)),
    ]
    for value, shape, dtype in expected:
        assert value.shape == shape and value.dtype == dtype
        assert np.isfinite(np.asarray(value, float)).all()
    assert timestep.obs.action_mask.any(-1).all()
    assert timestep.discount in (0.0, 1.0)


@pytest.mark.parametrize("env_id", ENVS)
def test_a_random_legal_episode(env_id):
    env, _, _ = compiled(env_id)
    spec = env.spec
    assert isinstance(env, Environment)
    for seed in range(3):
        moments = play(env_id, seed)
        first = moments[0][1]
        assert (
            not first.reward.any()
            and not first.cost.any()
            and first.discount == 1
            and not first.last
        )
        for state, timestep in moments:
            assert_fields(timestep, spec)
            assert jax.tree.structure(state) == jax.tree.structure(moments[0][0])
        for _, timestep in moments[1:-1]:
            assert timestep.discount == 1 and not timestep.last
        if len(moments) <= spec.max_episode_steps:
            assert moments[-1][1].discount == 0, "what ends before the limit is truly over"
        if spec.reward_type == "team":
            assert all(np.ptp(timestep.reward) == 0 for _, timestep in moments)
        total = sum(np.asarray(timestep.reward) for _, timestep in moments)
        if spec.max_return is not None:
            assert spec.team_return(total) <= spec.max_return + 1e-5


@pytest.mark.parametrize("env_id", ENVS)
def test_views_stay_small(env_id):
    largest = max(float(jnp.abs(timestep.obs.agents_view).max()) for _, timestep in play(env_id))
    assert 0 < largest <= 4


@pytest.mark.parametrize("env_id", ["toy/heterogeneous", "jumanji/lbf-2s-5x5-2p-1f-coop"])
def test_a_batch_of_envs_equals_single_envs(env_id):
    env, reset, step = compiled(env_id)
    random = np.random.default_rng(0)
    keys = jax.random.split(jax.random.key(1), 3)
    states, timesteps = jax.jit(jax.vmap(env.reset))(keys)
    actions = jnp.stack(
        [legal_action(env.spec, mask, random) for mask in timesteps.obs.action_mask]
    )
    _, next_state = jax.jit(jax.vmap(env.step))(states, actions)
    for i, key in enumerate(keys):
        state, first = reset(key)
        _, second = step(state, actions[i])
        for one, many in ((first, timesteps), (second, next_state)):
            for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
                np.testing.assert_allclose(x, y[i], rtol=1e-6)


def test_old_style_keys_work():
    env = get_env("jumanji/lbf-2s-5x5-2p-1f-coop")
    state, _ = jax.eval_shape(env.reset, jax.random.PRNGKey(0))
    assert state.key.dtype == jnp.uint32
    next_state, _ = jax.eval_shape(env.step, state, jax.ShapeDtypeStruct((2,), jnp.int32))
    assert next_state.key.dtype == jnp.uint32


@pytest.mark.parametrize(
    "env_id", ["toy/memory", "jumanji/lbf-2s-5x5-2p-1f-coop", "jumanji/cleaner-5x5x2a"]
)
def test_double_precision(env_id):
    with jax.enable_x64(True):
        env = get_env(env_id, agent_id=False) if env_id.startswith("jumanji") else get_env(env_id)
        key = jax.eval_shape(jax.random.key, 0)
        state, first = jax.eval_shape(env.reset, key)
        action = jax.ShapeDtypeStruct((2,), jnp.int32)
        next_state, second = jax.eval_shape(env.step, state, action)
        for timestep in (first, second):
            assert (
                timestep.obs.agents_view.dtype
                == timestep.reward.dtype
                == timestep.discount.dtype
                == jnp.float64
            )
        assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
            lambda x: (x.shape, x.dtype), next_state
        )
