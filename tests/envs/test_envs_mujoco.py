"""Robots of several agents: dangers by hand, partitions, names; the physics is in
test_envs_mujoco_physics.py."""

import dataclasses
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmarl_lite.envs import _import, list_environments, make, registry
from jaxmarl_lite.envs.mujoco import cost_functions, tasks

T = math.tan(math.radians(30))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (-5, -5 * T),
        (0, 0),
        (10, 10 * T),
        (20, 20 * T),
        (30, 10 * T),
        (40, 0),
        (60, -20 * T),
        (80, 0),
        (100, 20 * T),
        (500, 20 * T),
    ],
)
def test_the_middle_of_the_corridor_at_every_bend(x, y):
    np.testing.assert_allclose(cost_functions.centre_line(jnp.float32(x)), y, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "off", "cost", "with_outside"),
    [
        (0, 0.0, 0, 0),
        (0, 3.19, 0, 0),
        (0, 3.21, 1, 1),
        (0, -3.21, 1, 1),
        (0, 5.0, 1, 1),
        (0, 6.79, 1, 1),
        (0, 6.81, 0, 1),
        (20, 3.21, 1, 1),
        (20, -3.19, 0, 0),
        (59.9, -3.21, 1, 1),
        (60, 3.19, 0, 0),
        (100, -3.3, 1, 1),
        (1000, 0.0, 0, 0),
        (1000, -7.0, 0, 1),
    ],
)
def test_walls_of_the_ants_corridor(x, off, cost, with_outside):
    y = float(cost_functions.centre_line(jnp.float32(x))) + off
    assert cost_functions.wall_cost(jnp.float32(x), jnp.float32(y), 5.0) == cost
    assert (
        cost_functions.wall_cost(jnp.float32(x), jnp.float32(y), 5.0, outside=True) == with_outside
    )


def plain_wall_cost(x, y, half_width):
    """The formulas of the authors' program, branch by branch."""
    walls = np.array([-half_width, half_width])
    if x < 20:
        gaps = y - x * T + walls
    elif x < 60:
        gaps = y + (x - 40) * T - walls
    elif x < 100:
        gaps = y - (x - 80) * T + walls
    else:
        gaps = y - 20 * T + walls
    return float((np.abs(gaps) < 1.8).any())


@pytest.mark.parametrize("half_width", [5.0, 4.5, 2.3])
def test_walls_against_plain_formulas(float64, half_width):
    draw = np.random.default_rng(0)
    x, y = draw.uniform(-20, 140, 10_000), draw.uniform(-20, 20, 10_000)
    ours = cost_functions.wall_cost(jnp.asarray(x), jnp.asarray(y), half_width)
    np.testing.assert_array_equal(
        ours, [plain_wall_cost(*at, half_width) for at in zip(x, y, strict=True)]
    )
    assert 0.1 < ours.mean() < 0.9


def test_the_bomb_is_mujocos(float64):
    mujoco = pytest.importorskip("mujoco")
    model = mujoco.MjModel.from_xml_string("""
    <mujoco><option timestep="0.01" gravity="0 0 0"/><worldbody><body pos="10 0 0">
      <joint name="rail" type="slide" axis="1 0 0" damping="0.2" armature="0.1"/>
      <geom type="box" size="0.1 2.3 1.3" density="0.0001" contype="0" conaffinity="0"/>
    </body></worldbody><actuator><motor joint="rail" gear="120"/></actuator></mujoco>""")
    data = mujoco.MjData(model)
    data.qvel[0] = 0.3
    bomb = cost_functions.Bomb(jnp.asarray(10.0), jnp.asarray(0.3))
    for step in range(200):
        time = 0.05 * step
        data.ctrl[0] = 0.02 * math.sin(time / 3) ** 2 - 0.004
        np.testing.assert_allclose(
            cost_functions.bomb_drive(jnp.asarray(time)), data.ctrl[0], atol=1e-12
        )
        mujoco.mj_step(model, data, 5)
        bomb = cost_functions.bomb_after(
            bomb, cost_functions.bomb_drive(jnp.asarray(time)), 0.01, 5
        )
        np.testing.assert_allclose([bomb.x, bomb.v], [10 + data.qpos[0], data.qvel[0]], rtol=1e-9)
    assert bomb.x > 30


def features(roots, **others):
    """What a danger sees, of a robot at some places on the ground."""
    features = dict(speed=(0.0, 0.0), time=0.0, hazard=()) | others
    return cost_functions.CostInputs(roots, roots, **jax.tree.map(jnp.asarray, features))


def observe(xs, **others):
    return features(jnp.array([[x, 0.0] for x in xs]), **others)


def test_bombs_boxes_and_speeds_by_hand():
    fell = jnp.zeros((), bool)
    bomb = cost_functions.BombCost(5.0)
    inputs = observe([0.9, 1.1, 19.1], hazard=cost_functions.Bomb(10.0, 3.0))
    assert bomb.cost(inputs, fell).tolist() == [0, 1, 0]  # 9.1, 8.9 and 9.1 away
    np.testing.assert_allclose(bomb.extra_obs(inputs), [3.0, -0.004, 0.91, 0.89, -0.91], atol=1e-6)
    held = cost_functions.BombCost(5.0, start=-34.0, furthest=-4.0)
    fast, slow = (cost_functions.Bomb(jnp.asarray(x), jnp.asarray(9.0)) for x in (-4.1, -30.0))
    assert tuple(map(float, held.step(fast, jnp.asarray(5.0), 0.01, 5))) == (-4.0, 0.0)
    assert -30 < held.step(slow, jnp.asarray(5.0), 0.01, 5).x < -29
    box = cost_functions.BoxCost(10.0)
    assert [float(box.cost(observe([x], time=0.0), fell)[0]) for x in (1.9, 2.1, 3.9, 4.1)] == [
        0,
        1,
        1,
        0,
    ]
    np.testing.assert_allclose(
        box.extra_obs(observe([2.0], time=np.pi)), [0.0, 0.0, np.pi + 1], atol=1e-5
    )
    along, plane = (cost_functions.VelocityCost(25.0, 5.0, plane) for plane in (False, True))
    inputs = observe([0.0], speed=np.array([4.0, 4.0]))
    assert (float(along.cost(inputs, fell)[0]), float(plane.cost(inputs, fell)[0])) == (0, 1)


def test_falling_costs_once():
    corridor, water = (
        cost_functions.CorridorCost(10.0, 5.0),
        cost_functions.CorridorCost(10.0, 5.0, falls=False),
    )
    for falls, near in ((True, True), (True, False), (False, False)):
        inputs = features(jnp.array([[0.0, 4.0 if near else 0.0]]))
        assert corridor.cost(inputs, jnp.asarray(falls)).tolist() == [float(falls or near)]
        assert water.cost(inputs, jnp.asarray(falls)).tolist() == [float(near)]


def test_segments_may_be_said_twice():
    assert make("mujoco/manyagent-swimmer-2x2", segments=4).segments == 4


def test_partitions_cover_every_joint_once():
    for robot, named in tasks.NAMED.items():
        sets = {
            frozenset(joint for agent_joints in agents for joint in agent_joints)
            for agents in named.values()
        }
        assert len(sets) == 1, robot
        for agents in named.values():
            joints = [joint for agent_joints in agents for joint in agent_joints]
            assert len(joints) == len(set(joints))


def test_diagonal_legs_are_diagonal_and_the_authors_are_not():
    legs = lambda agents: [sorted({joint[-1] for joint in agent_joints}) for agent_joints in agents]  # noqa: E731
    named = tasks.NAMED["ant"]
    assert legs(named["2x4"]) == [["1", "2"], ["3", "4"]] and legs(named["2x4d"]) == [
        ["1", "3"],
        ["2", "4"],
    ]
    order = ("hip_4", "ankle_4", "hip_1", "ankle_1", "hip_2", "ankle_2", "hip_3", "ankle_3")
    assert tasks.consecutive(named["2x4"], order) == tasks.consecutive(named["2x4d"], order)
    assert legs(tasks.consecutive(named["2x4"], order)) == [["1", "4"], ["2", "3"]]


def test_neighbourhoods():
    linked = tasks.edges("halfcheetah")
    assert tasks.joints_within(("bthigh",), linked, 0) == ("bthigh",)
    assert tasks.joints_within(("bthigh",), linked, 1) == ("bthigh", "bshin", "fthigh")
    assert tasks.joints_within(("bthigh",), linked, 2) == (
        "bthigh",
        "bshin",
        "fthigh",
        "bfoot",
        "fshin",
    )
    assert set(tasks.joints_within(("hip_1",), tasks.edges("ant"), 1)) == {
        "hip_1",
        "ankle_1",
        "hip_2",
        "hip_3",
        "hip_4",
    }
    chain = [
        ("hip1_0", "ankle1_0", "hip2_0", "ankle2_0"),
        ("hip1_1", "ankle1_1", "hip2_1", "ankle2_1"),
    ]
    result = tasks.joints_within(("hip1_0",), tasks.edges("manyagent-ant", chain), 1)
    assert set(result) == {"hip1_0", "ankle1_0", "hip2_0", "hip1_1", "hip2_1"}


def test_the_list_names_what_can_be_made():
    listed = dict(list_environments())
    assert listed["safe-mujoco/ant-2x4"] == "2 agents, 4 continuous dimensions, at most 1000 steps"
    assert (
        listed["safe-mujoco/humanoid-9|8"]
        == "2 agents, 9 continuous dimensions (9 and 8), at most 1000 steps"
    )
    assert sum(name.startswith("safe-velocity/") for name in listed) == 8


@pytest.mark.parametrize(
    ("env_id", "keywords", "message"),
    [
        (
            "safe-mujoco/ant-3x3",
            {},
            "partition of ant is '3x3'.*allowed.* 2x4, 2x4d, 4x2, 8x1",
        ),
        (
            "safe-mujoco/spider-2x4",
            {},
            r"environment is 'safe-mujoco/spider-2x4'.*allowed in safe-mujoco: ant-",
        ),
        ("safe-mujoco/walker2d-2x3", {}, "environment is 'safe-mujoco/walker2d-2x3'"),
        (
            "safe-velocity/ant-8x1",
            {},
            "environment is 'safe-velocity/ant-8x1'.*allowed is one of safe-velocity/ant-2x4",
        ),
        (
            "safe-mujoco/manyagent-ant-1x1",
            {},
            "'1x1'; allowed is <agents>x<segments of each>, with 2 segments or more",
        ),
        ("safe-mujoco/manyagent-ant-six", {}, "'six'; allowed is <agents>x<segments of each>"),
        (
            "safe-mujoco/manyagent-ant-4x2",
            {"segments": 6},
            "covers 8 segments, but segments is 6; allowed is 1x6, 2x3",
        ),
        (
            "safe-mujoco/ant-2x4",
            {"distance": -1},
            "distance of safe-mujoco/ant-2x4 is -1; allowed is a whole number",
        ),
        (
            "safe-mujoco/ant-2x4",
            {"physics": "slow"},
            "physics of .* is 'slow'; allowed is one of fast, reference",
        ),
        (
            "safe-mujoco/ant-2x4",
            {"cost_limit": -1},
            "cost_limit is -1; allowed is a number from 0 up",
        ),
        (
            "safe-mujoco/ant-2x4",
            {"cost_limit": {"bomb": 1}},
            "of safe-mujoco/ant-2x4 is 'bomb'; allowed is one of wall",
        ),
        (
            "safe-mujoco/halfcheetah-2x3",
            {"costs": "own"},
            "costs of .* is 'own'; allowed is no such keyword: only in",
        ),
        (
            "safe-mujoco/ant-2x4",
            {"standardize": "false"},
            "standardize of .* is 'false'; allowed is True or False",
        ),
        (
            "safe-mujoco/ant-2x4",
            {"agent_id": 1},
            "agent_id of .* is 1; allowed is True or False",
        ),
        (
            "safe-mujoco/ant-2x4",
            {"outside": "yes"},
            "outside of .* is 'yes'; allowed is True or False",
        ),
        (
            "safe-mujoco/ant-2x4",
            {"max_episode_steps": 2**31},
            "max_episode_steps of .*; allowed is a whole number from 1",
        ),
        (
            "safe-mujoco/manyagent-ant-2x3",
            {"segments": "abc"},
            "segments of .* is 'abc'; allowed is a whole number",
        ),
        (
            "safe-mujoco/manyagent-ant-2x3",
            {"segments": 0},
            "segments of .* is 0; allowed is a whole number, 2 or more",
        ),
        (
            "safe-mujoco/manyagent-ant-2x3",
            {"segments": 7.5},
            "segments of .* is 7.5; allowed is a whole number, 2 or more",
        ),
        (
            "safe-velocity/ant-2x4",
            {"threshold": 0},
            "threshold of .* is 0; allowed is a number above 0",
        ),
        ("mujoco/ant-2x4", {"cost_limit": 1}, "keyword of mujoco/ant-2x4 is 'cost_limit'"),
        (
            "safe-mujoco/ant-2x4",
            {"threshold": 1.0},
            "keyword of safe-mujoco/ant-2x4 is 'threshold'",
        ),
    ],
)
def test_wrong_names_and_keywords(env_id, keywords, message):
    with pytest.raises(ValueError, match=message):
        make(env_id, **keywords)


def test_limits_may_be_numpys_numbers():
    for inputs, limit in (
        (np.float32(3), 3.0),
        (np.array([1.0, 2.0]), (1.0, 2.0)),
        ({"wall": np.float64(4)}, 4.0),
    ):
        assert make("safe-mujoco/ant-2x4", cost_limit=inputs).spec.cost_limits == (limit,)


@pytest.mark.slow
def test_long_robots_begin_inside_the_corridor_in_which_each_pays_for_itself():
    env = make("safe-mujoco/manyagent-ant-6x1", costs="own")
    state = jax.jit(jax.vmap(lambda key: env.reset(key)[0]))(jax.random.split(jax.random.key(0), 8))
    assert (np.asarray(jax.jit(jax.vmap(env.cost_of))(state)) == 0).all()
    beside = state._replace(qpos=state.qpos.at[:, 1].add(env.danger.half_width - 1.0))
    assert (np.asarray(jax.jit(jax.vmap(env.cost_of))(beside)) == 1).all()
    assert make("safe-mujoco/manyagent-ant-6x1").danger == dataclasses.replace(
        env.danger, level=False
    )
    x = np.array([-3.0, 0.0, 3.0, 30.0], np.float32)
    slope = np.tan(np.pi / 6)
    np.testing.assert_allclose(
        cost_functions.centre_line(x, level=True), [0, 0, 3 * slope, 10 * slope], rtol=1e-5
    )
    np.testing.assert_allclose(
        cost_functions.centre_line(x), [-3 * slope, 0, 3 * slope, 10 * slope], rtol=1e-5
    )


def test_actions_of_another_shape_are_named():
    env = make("mujoco/halfcheetah-2x3")
    state, _ = env.reset(jax.random.key(0))
    for shape in ((3, 2), (6,), (2, 2)):
        with pytest.raises(
            ValueError, match=rf"action of mujoco/.* has shape \({shape[0]}.*allowed is \(2, 3\)"
        ):
            env.step(state, jnp.zeros(shape))


def test_neighbourhoods_end_where_the_robot_does():
    assert tasks.joints_within(["hip_1"], tasks.edges("ant"), 10**9) == tasks.joints_within(
        ["hip_1"], tasks.edges("ant"), 8
    )


def test_films_alone_need_the_opengl_that_is_asked_for():
    code = (
        "import os, jaxmarl_lite as jml; jml.make('mujoco/hopper-3x1');assert "
        "os.environ['MUJOCO_GL'] == 'bogus'"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"MUJOCO_GL": "bogus"})
    assert done.returncode == 0


def test_a_missing_extra_says_what_to_install(monkeypatch):
    monkeypatch.setattr(_import, "is_installed", lambda name: not name.startswith("mujoco"))
    with pytest.raises(
        ImportError, match=r"needs mujoco and mujoco.mjx: install 'jaxmarl-lite\[mujoco\]'"
    ):
        registry._make("safe-mujoco/ant-2x4", {})


def test_names_are_read_without_mujoco():
    code = (
        "import sys; import jaxmarl_lite as jml; jml.envs.list_environments()\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'mujoco']"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
