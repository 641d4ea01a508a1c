"""MJX-Warp as the engine of the robots: its errors, which need no Warp, and its steps against
MJX's."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmarl_lite as jml
from jaxmarl_lite import platforms
from jaxmarl_lite.envs import _import, keywords_of, make, registry

pytest.importorskip("mujoco")

LENIENT_RANKS = True  # MJX's
NUM_ENVS, STEPS = 32, 20
needs_warp = pytest.mark.skipif(
    importlib.util.find_spec("warp") is None, reason="needs the extra `warp`"
)


def test_the_keyword_is_listed_and_its_values_are_named():
    assert "impl" in keywords_of("safe-mujoco/halfcheetah-2x3")
    with pytest.raises(
        ValueError,
        match="impl of safe-mujoco/halfcheetah-2x3 is 'cuda'; allowed is one of jax, warp",
    ):
        make("safe-mujoco/halfcheetah-2x3", impl="cuda")


def test_a_missing_warp_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(_import, "is_installed", lambda name: name != "warp")
    with pytest.raises(
        ImportError,
        match=r"^mujoco/hopper-3x1 needs warp: install 'jaxmarl-lite\[warp\]'$",
    ):
        registry._make("mujoco/hopper-3x1", {"impl": "warp"})
    assert registry._make("mujoco/hopper-3x1", {"impl": "jax"}).impl == "jax"


def test_a_tpu_is_refused(monkeypatch):
    monkeypatch.setattr(_import, "is_installed", lambda name: True)
    with (
        platforms.compile_for("tpu"),
        pytest.raises(
            ValueError, match="impl of mujoco/hopper-3x1 is 'warp'; allowed is 'jax' on a TPU"
        ),
    ):
        registry._make("mujoco/hopper-3x1", {"impl": "warp"})


def engines(env_id):
    """The same environment on both engines, their compiled steps, and a common start."""
    envs = make(env_id), make(env_id, impl="warp")
    start = jax.jit(jax.vmap(lambda key: envs[0].reset(key)[0]))(
        jax.random.split(jax.random.key(0), NUM_ENVS)
    )
    return envs[0].spec, [jax.jit(jax.vmap(env.step)) for env in envs], start


def draw_actions(spec, scale):
    shape = STEPS, NUM_ENVS, spec.num_agents, spec.action_size
    return np.random.default_rng(0).uniform(-scale, scale, shape).astype(np.float32)


@needs_warp
@pytest.mark.parametrize(
    "env_id",
    ["safe-mujoco/hopper-3x1", "safe-mujoco/halfcheetah-2x3", "safe-mujoco/coupled-halfcheetah"],
)
def test_warp_moves_robots_as_mjx_does(env_id):
    """More environments than the buffer of contacts holds that Warp makes by default."""
    spec, (mjx_step, warp_step), start = engines(env_id)
    mjx_state = warp_state = start
    for action in draw_actions(spec, 0.1):
        mjx_state, _ = mjx_step(mjx_state, action)
        warp_state, _ = warp_step(warp_state, action)
    np.testing.assert_allclose(warp_state.qpos, mjx_state.qpos, atol=2e-5)
    # at full strength single trajectories diverge where feet strike, so each step begins anew
    mjx_state = start
    for action in draw_actions(spec, 1.0):
        warp_state, warp_timestep = warp_step(mjx_state, action)
        mjx_state, mjx_timestep = mjx_step(mjx_state, action)
        np.testing.assert_allclose(warp_state.qpos, mjx_state.qpos, atol=5e-5)
        np.testing.assert_allclose(warp_timestep.reward, mjx_timestep.reward, atol=2e-4)
        np.testing.assert_array_equal(warp_timestep.cost, mjx_timestep.cost)


@needs_warp
def test_contact_forces_are_paid_as_by_mjx():
    spec, (mjx_step, warp_step), state = engines("mujoco/ant-2x4")
    for action in draw_actions(spec, 1.0):
        warp_state, warp_timestep = warp_step(state, action)
        state, mjx_timestep = mjx_step(state, action)
        np.testing.assert_allclose(warp_state.qpos, state.qpos, atol=2e-4)
        np.testing.assert_allclose(warp_timestep.reward, mjx_timestep.reward, atol=2e-3)


@needs_warp
def test_batches_of_any_depth_are_the_same_and_a_broken_env_stays_alone():
    env = make("safe-mujoco/hopper-3x1", impl="warp")
    state = jax.vmap(lambda key: env.reset(key)[0])(jax.random.split(jax.random.key(0), 6))
    action = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (6, 3, 1)), jnp.float32)
    flat, _ = jax.jit(jax.vmap(env.step))(state, action)
    for leaf in jax.tree.leaves(flat):
        assert isinstance(leaf, jax.Array) and leaf.shape[0] == 6
    split = lambda tree: jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), tree)  # noqa: E731
    nested, _ = jax.jit(jax.vmap(jax.vmap(env.step)))(split(state), split(action))
    jax.tree.map(np.testing.assert_array_equal, nested, split(flat))
    single, _ = jax.jit(env.step)(jax.tree.map(lambda x: x[0], state), action[0])
    np.testing.assert_allclose(single.qpos, flat.qpos[0], atol=1e-6)
    broken = state._replace(qvel=state.qvel.at[2].set(1e30), qpos=state.qpos.at[4].set(jnp.nan))
    after, timestep = jax.jit(jax.vmap(env.step))(broken, action)
    assert after.non_finite.tolist() == [False, False, True, False, True, False]
    sound = np.array([0, 1, 3, 5])
    np.testing.assert_allclose(after.qpos[sound], flat.qpos[sound], atol=1e-6)
    assert np.isfinite(timestep.reward).all()


@needs_warp
def test_a_run_trains_and_resumes_on_warp(tmp_path):
    """Seeds side by side, several episodes per rollout, checkpoints."""
    settings = dict(
        env_args={"impl": "warp", "max_episode_steps": 5},
        config={"hidden_sizes": (4,)},
        seeds=2,
        seeds_in_parallel=2,
        num_envs=4,
        num_steps=8,
        num_evaluations=1,
        eval_episodes=2,
        quiet=True,
    )
    result = jml.run("mappo", "mujoco/hopper-3x1", total_steps=32, out=tmp_path / "run", **settings)
    assert np.isfinite(result.returns).all()
    for leaf in jax.tree.leaves(result.states.learner_state):
        assert not jnp.issubdtype(leaf.dtype, jnp.floating) or np.isfinite(leaf).all()
    qpos = [x for x in jax.tree.leaves(result.states.rollout_state) if x.shape == (2, 4, 6)]
    assert qpos and all(np.isfinite(x).all() and np.asarray(x).std() > 0 for x in qpos)
    longer = jml.resume_run(tmp_path / "run", total_steps=64, quiet=True)
    assert longer.steps[-1] == 64 and np.isfinite(longer.returns).all()
