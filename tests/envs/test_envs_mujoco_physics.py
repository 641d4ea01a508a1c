"""Robots on MJX against MuJoCo's C engine and Gymnasium's environments, on states of random
play."""

import dataclasses
import subprocess
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmarl_lite.envs import make
from jaxmarl_lite.envs.mujoco import models, rendering
from jaxmarl_lite.envs.mujoco.tasks import ROBOTS

mujoco = pytest.importorskip("mujoco")
gymnasium = pytest.importorskip("gymnasium")

LENIENT_RANKS = True  # MJX's
STATES = 200
GYMNASIUM = {"safe-mujoco/halfcheetah-2x3": "HalfCheetah-v5", "safe-mujoco/ant-2x4d": "Ant-v5"}


def random_play(model, frame_skip, number, is_healthy):
    """Positions and velocities after up to 60 random steps, while the robot is healthy."""
    draw, data, states = np.random.default_rng(0), mujoco.MjData(model), []
    while len(states) < number:
        mujoco.mj_resetData(model, data)
        data.qvel[:] = 0.1 * draw.normal(size=model.nv)
        for _ in range(draw.integers(60)):
            data.ctrl[:] = draw.uniform(*model.actuator_ctrlrange.T)
            mujoco.mj_step(model, data, frame_skip)
        if is_healthy(data.qpos, data.qvel):
            states.append((data.qpos.copy(), data.qvel.copy()))
    return [np.stack(x) for x in zip(*states, strict=True)]


class Played:
    """One step of an environment from many states, and the C engine's."""

    def __init__(self, env_id):
        self.env = env = make(env_id)
        self.body = body = env._body
        self.qpos, self.qvel = random_play(
            body.model, body.frame_skip, STATES, ROBOTS[env.robot].is_healthy
        )
        shape = STATES, env.spec.num_agents, env.spec.action_size
        self.action = np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
        state = jax.vmap(lambda key: env.reset(key)[0])(
            jax.random.split(jax.random.key(0), STATES + 1)
        )
        speeds = np.concatenate(
            [self.qvel, np.full((1, body.model.nv), 1e30)]
        )  # one world more, whose physics breaks
        places = np.concatenate([self.qpos, self.qpos[:1]])
        state = state._replace(
            qpos=jnp.asarray(places, jnp.float32),
            qvel=jnp.asarray(speeds, jnp.float32),
            position=jnp.asarray(places[:, :1], jnp.float32),
        )
        actions = np.concatenate([self.action, self.action[:1]])
        self.before = state
        self.after, self.timestep = jax.jit(jax.vmap(env.step))(state, jnp.asarray(actions))
        self.driven = np.asarray(jax.vmap(env.to_ctrl)(actions))[:-1]


@pytest.fixture(scope="module", params=list(GYMNASIUM))
def played(request):
    return Played(request.param)


@pytest.mark.ci_cases("*halfcheetah*")
def test_a_step_is_the_c_engines(played):
    model, data, errors = played.body.model, mujoco.MjData(played.body.model), []
    for i in range(STATES):
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:], data.ctrl[:] = played.qpos[i], played.qvel[i], played.driven[i]
        mujoco.mj_step(model, data, played.body.frame_skip)
        for ours, theirs in ((played.after.qpos[i], data.qpos), (played.after.qvel[i], data.qvel)):
            errors.append(np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1e-2))
    errors = np.concatenate(errors)
    assert np.median(errors) <= 1e-4 and np.quantile(errors, 0.95) <= 1e-2


@pytest.mark.ci_cases("*halfcheetah*")
def test_rewards_and_ends_are_gymnasiums(played):
    theirs = gymnasium.make(GYMNASIUM[played.env.name]).unwrapped
    theirs.model = played.body.model
    theirs.data = mujoco.MjData(theirs.model)
    for i in range(STATES):
        theirs.set_state(played.qpos[i], played.qvel[i])
        _, reward, terminated, _, info = theirs.step(played.driven[i])
        way = (theirs.data.qpos[0] - played.qpos[i, 0]) / played.body.step_seconds
        speed = (
            float(played.after.position[i, 0] - played.before.position[i, 0])
            / played.body.step_seconds
        )
        rest = reward - info["reward_forward"]
        if (
            "reward_survive" in info
        ):  # theirs is paid only while the ant is healthy, the authors' always
            rest += 1.0 - info["reward_survive"]
        np.testing.assert_allclose(float(played.timestep.reward[i, 0]) - speed, rest, atol=1e-4)
        np.testing.assert_allclose(speed, way, atol=5e-3, rtol=5e-3)
        assert bool(played.timestep.discount[i] == 0) >= terminated


def test_what_is_observed_and_paid(played):
    env, next_state, timestep = played.env, played.after, played.timestep
    excluded = 1 if env.robot == "halfcheetah" else 2
    expected = np.concatenate([next_state.qpos[:, excluded:], next_state.qvel], -1)
    width = expected.shape[1]
    np.testing.assert_array_equal(timestep.obs.global_state[:, :width], expected)
    np.testing.assert_array_equal(
        timestep.obs.agents_view[:, 0, : env.spec.global_state_size], timestep.obs.global_state
    )
    np.testing.assert_array_equal(timestep.obs.agents_view[0, :, -2:], np.eye(2))
    np.testing.assert_array_equal(timestep.cost, jax.vmap(env.cost_of)(next_state))
    assert (timestep.cost[:, 0] == timestep.cost[:, 1]).all()
    assert (next_state.time == 1).all() and not timestep.last[:-1][
        timestep.discount[:-1] == 1
    ].any()


def test_an_env_whose_physics_breaks_ends_and_the_others_go_on(played):
    next_state, timestep = played.after, played.timestep
    assert next_state.non_finite[-1] and not next_state.non_finite[:-1].any()
    assert timestep.last[-1] and timestep.discount[-1] == 0 and (timestep.reward[-1] == 0).all()
    assert all(
        np.isfinite(x).all()
        for x in jax.tree.leaves((next_state.qpos, next_state.qvel, timestep.reward, timestep.cost))
    )


@pytest.mark.parametrize(
    ("field", "value", "breaks"),
    [
        ("qvel", 9e3, False),
        ("qvel", 1.1e4, True),
        ("qacc_warmstart", np.nan, True),
        ("qpos", np.inf, True),
    ],
)
def test_numbers_that_run_away_break_an_env_before_anything_is_paid(field, value, breaks):
    env = dataclasses.replace(make("mujoco/halfcheetah-2x3"))  # a copy of its own
    state, _ = env.reset(jax.random.key(0))
    result = dict(qpos=state.qpos, qvel=state.qvel, qacc_warmstart=state.warmstart)
    result[field] = result[field].at[3].set(value)
    env.__dict__["_physics_step"] = lambda state, signal: types.SimpleNamespace(**result)
    next_state, timestep = env.step(state, jnp.zeros((2, 3)))
    assert bool(next_state.non_finite) == bool(timestep.last) == breaks
    assert all(
        np.isfinite(x).all()
        for x in jax.tree.leaves((next_state.qpos, next_state.qvel, timestep.reward))
    )


@pytest.mark.slow
def test_the_band_of_the_coupled_cheetahs_has_an_end_in_float32():
    env = make("safe-mujoco/coupled-halfcheetah")
    model = env._body.model
    assert 0.01 < model.tendon_invweight0[0] < 1.0
    state, _ = env.reset(jax.random.key(0))
    along = int(model.joint("second_rootx").qposadr[0])
    state = state._replace(qpos=state.qpos.at[along].add(3.5))  # half a metre beyond the end
    data = env._physics_step(state, jnp.zeros(model.nu))
    assert np.isfinite(data.qacc_warmstart).all() and float(np.abs(data.qvel).max()) < 100
    pulled = float(
        data.qvel[model.joint("second_rootx").dofadr[0]] - data.qvel[model.joint("rootx").dofadr[0]]
    )
    assert pulled < -1.0  # back to one another


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_many_envs_do_not_wait_for_ever():
    """On two cores two batched Cholesky factorisations at once would; jaxlib's, from some hundreds
    of matrices on."""
    env, number = make("mujoco/halfcheetah-2x3"), 1024
    state = jax.jit(jax.vmap(lambda key: env.reset(key)[0]))(
        jax.random.split(jax.random.key(0), number)
    )
    data = jax.block_until_ready(
        jax.jit(jax.vmap(env._physics_step))(state, jnp.zeros((number, 6)))
    )
    assert np.isfinite(data.qpos).all()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_chain_of_links_is_computed_once():
    """Without `importing.tracing` a step of these worlds takes five seconds."""
    env, number = make("mujoco/manyagent-swimmer-3x2"), 64
    state = jax.jit(jax.vmap(lambda key: env.reset(key)[0]))(
        jax.random.split(jax.random.key(0), number)
    )
    step = jax.jit(jax.vmap(env._physics_step)).lower(state, jnp.zeros((number, 6))).compile()
    took = []
    for _ in range(3):
        began = time.perf_counter()
        assert np.isfinite(jax.block_until_ready(step(state, jnp.zeros((number, 6)))).qpos).all()
        took.append(time.perf_counter() - began)
    assert min(took) < 1.0


def test_padding_moves_nothing_and_every_joint_is_moved_once():
    env = make("safe-mujoco/humanoid-9|8")
    mask = np.asarray(env._actuator_index[1])
    assert mask.sum() == 17 and not mask[1, -1]
    action = np.random.default_rng(0).uniform(-1, 1, (2, 9))
    padded = np.where(mask, action, 0.7)
    np.testing.assert_array_equal(
        env.to_ctrl(jnp.asarray(action)), env.to_ctrl(jnp.asarray(padded))
    )
    driven = np.asarray(env.to_ctrl(jnp.asarray(action)))
    order = env._body.actuated
    for i, agent_joints in enumerate(env.agents):
        np.testing.assert_allclose(
            [driven[order.index(joint)] for joint in agent_joints],
            action[i, : len(agent_joints)],
            rtol=1e-6,
        )


def test_robots_of_any_size():
    for number in (2, 5):
        body = models.build("manyagent-ant", number)
        assert body.model.nu == 4 * number and body.model.nq == 7 + 4 * number
        assert body.joints[0] == (
            "hip1_0",
            "ankle1_0",
            "hip2_0",
            "ankle2_0",
        ) and body.actuated == sum(body.joints, ())
    swimmer = models.build("manyagent-swimmer", 4)
    assert swimmer.model.nu == 4 and swimmer.model.nq == 3 + 4


@pytest.mark.slow
def test_own_costs_are_those_of_the_own_bodies():
    env = make("safe-mujoco/manyagent-ant-2x1", costs="own")
    state, _ = env.reset(jax.random.key(0))
    # turned across the corridor: the tail's segment is nearer to the wall than the head's
    across = jnp.array([np.cos(np.pi / 4), 0, 0, np.sin(np.pi / 4)])
    qpos = (
        state.qpos.at[3:7].set(across).at[:2].set(jnp.array([10.0, 10 * np.tan(np.pi / 6) - 1.3]))
    )
    state = state._replace(qpos=qpos, position=qpos[:1])
    assert jax.jit(env.cost_of)(state).tolist() == [[0.0], [1.0]]
    assert make("safe-mujoco/manyagent-ant-2x1").cost_of(state).tolist() == [[0.0], [0.0]]


def test_near_views_hold_the_own_joints_and_the_neighbours():
    env = make("safe-mujoco/halfcheetah-6x1", observation="near", distance=1, agent_id=False)
    state, timestep = env.reset(jax.random.key(0))
    model = env._body.model
    at = {model.joint(i).name: i for i in range(model.njnt)}
    shin = env.agents.index(("bshin",))
    root = [float(state.qpos[i]) for i in (1, 2)] + [float(state.qvel[i]) for i in (0, 1, 2)]
    joints = [
        float(x[at[name]])
        for name in ("bshin", "bfoot", "bthigh")
        for x in (state.qpos, state.qvel)
    ]
    np.testing.assert_allclose(timestep.obs.agents_view[shin, :11], root + joints, rtol=1e-6)
    foot = timestep.obs.agents_view[env.agents.index(("bfoot",))]
    np.testing.assert_array_equal(foot[9:11], 0)  # it has one neighbor only
    assert (timestep.obs.agents_view[:, -3:] == timestep.obs.agents_view[0, -3:]).all()


def test_a_film_and_without_opengl_a_path(tmp_path, monkeypatch):
    assert rendering._CAMERA.is_file()  # else every machine draws a path, whatever it can do
    env = make("safe-mujoco/halfcheetah-2x3")
    states = [env.reset(jax.random.key(seed))[0] for seed in range(3)]
    try:
        film = env.animate(states, tmp_path / "film.gif")
    except subprocess.SubprocessError:  # pragma: no cover
        pytest.skip("no way to draw")
    if film.suffix == ".gif":
        from PIL import Image

        with Image.open(film) as image:
            assert image.n_frames == 3
            image.seek(0)
            assert np.asarray(image.convert("RGB")).std() > 5
    monkeypatch.setattr(rendering, "_CAMERA", tmp_path / "nothing.py")
    with pytest.warns(UserWarning, match="MuJoCo could not draw .*MUJOCO_GL=egl"):
        path = env.animate(states, tmp_path / "other.gif")
    assert path == tmp_path / "other.png" and path.exists()
    with pytest.raises(ValueError, match="must end in .gif or .mp4"):
        env.animate(states, tmp_path / "film.avi")
