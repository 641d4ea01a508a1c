"""Environments of other libraries as ours, checked against the other library's own play; and ours
as PettingZoo's, by its own tests."""

import dataclasses
import warnings

import gymnax
import jax
import jax.numpy as jnp
import jaxmarl
import jumanji
import numpy as np
import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test

import jaxmarl_lite as jml


def play(env, action_fn, key=0, limit=10_000):
    """Time steps of one episode, the first included."""
    state, timestep = jax.jit(env.reset)(jax.random.key(key))
    step, timesteps = jax.jit(env.step), [jax.device_get(timestep)]
    while not timesteps[-1].last and len(timesteps) < limit:
        state, timestep = step(state, action_fn(timesteps[-1]))
        timesteps.append(jax.device_get(timestep))
    return timesteps


def test_a_gymnax_episode_that_fails_is_over_and_one_that_times_out_is_cut():
    always_left = lambda _: jnp.zeros(1, jnp.int32)  # noqa: E731
    fallen = play(jml.from_gymnax(*gymnax.make("CartPole-v1")), always_left)
    assert 5 < len(fallen) < 20 and fallen[-1].last and fallen[-1].discount == 0
    assert all(t.discount == 1 and not t.last for t in fallen[:-1])
    stuck = play(jml.from_gymnax(*gymnax.make("MountainCar-v0")), lambda _: jnp.ones(1, jnp.int32))
    assert len(stuck) == 201 and stuck[-1].last and stuck[-1].discount == 1
    assert sum(t.reward[0] for t in stuck) == -200


def test_a_gymnax_episode_has_the_numbers_of_gymnax():
    env, params = gymnax.make("Pendulum-v1")
    bridge = jml.from_gymnax(env, params)
    assert (bridge.spec.action_low, bridge.spec.action_high) == ((-1.0,), (1.0,)) or (
        bridge.spec.action_high[0] == 2.0
    )
    state, timestep = bridge.reset(jax.random.key(3))
    inner, reward = state.inner, None
    for i in range(3):
        action = jnp.full((1, 1), 0.3 * i)
        _, inner, reward, *_ = env.step_env(jax.random.key(0), inner, action[0], params)
        state, timestep = bridge.step(state, action)
        np.testing.assert_allclose(timestep.reward[0], reward, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "agents", "reward_type"),
    [
        ("Cleaner-v0", 3, "team"),
        ("LevelBasedForaging-v0", 2, "individual"),
        ("SearchAndRescue-v0", 2, "individual"),
        ("Maze-v0", 1, "team"),
    ],
)
def test_a_jumanji_environment_of_one_agent_or_many(name, agents, reward_type):
    env = jml.from_jumanji(jumanji.make(name))
    assert (env.spec.num_agents, env.spec.reward_type) == (agents, reward_type)
    jml.check_environment(env)


def test_a_jumanji_episode_has_the_rewards_of_jumanji():
    native = jumanji.make("Cleaner-v0")
    env = jml.from_jumanji(native)
    state, timestep = jax.jit(env.reset)(jax.random.key(0))
    inner, step, native_step = state.inner, jax.jit(env.step), jax.jit(native.step)
    for _ in range(100):
        action = jnp.argmax(timestep.obs.action_mask, -1).astype(jnp.int32)
        inner, expected = native_step(inner, action)
        state, timestep = step(state, action)
        assert timestep.reward.tolist() == [float(expected.reward)] * 3
        np.testing.assert_array_equal(timestep.obs.action_mask, expected.observation.action_mask)
        assert timestep.last == expected.last()
    # a time limit is a truncation here, although Jumanji's discount is 0
    assert timestep.last and timestep.discount == 1 and expected.discount == 0


def test_own_views_of_a_jumanji_environment():
    env = jml.from_jumanji(
        jumanji.make("Cleaner-v0"),
        agents_view=lambda obs: obs.agents_locations,
        global_state=lambda obs: obs.grid.reshape(-1),
        max_episode_steps=7,
    )
    sizes = env.spec.obs_size, env.spec.global_state_size, env.spec.max_episode_steps
    assert sizes == (2, 100, 7)
    last = play(env, lambda t: jnp.argmax(t.obs.action_mask, -1).astype(jnp.int32))[-1]
    assert last.last and last.discount == 1


def test_jaxmarl_through_the_bridge_and_through_make_is_one_game():
    bridge = jml.from_jaxmarl(jaxmarl.make("MPE_simple_spread_v3"))
    ours = jml.make("mpe/spread-3a", agent_id=False)
    act = lambda _: jnp.array([1, 2, 3])  # noqa: E731
    a, b = play(bridge, act), play(ours, act)
    assert len(a) == len(b) == 26
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x.obs.agents_view, y.obs.agents_view, atol=1e-6)
    assert a[-1].last and a[-1].discount == 1


def test_jaxmarl_unequal_agents_are_padded():
    env = jml.from_jaxmarl(jaxmarl.make("MPE_simple_tag_v3"), reward="individual")
    jml.check_environment(env)
    assert env.spec.reward_type == "individual" and env.spec.num_agents == 4


def test_jaxmarl_masks_and_world_state():
    env = jml.from_jaxmarl(jaxmarl.make("HeuristicEnemySMAX"))
    _, timestep = env.reset(jax.random.key(0))
    assert not timestep.obs.action_mask.all() and timestep.obs.action_mask.any(-1).all()
    assert env.spec.global_state_size != env.spec.num_agents * env.spec.obs_size


@dataclasses.dataclass
class BraxState:
    obs: object
    reward: jax.Array
    done: jax.Array
    metrics: dict


jax.tree_util.register_dataclass(BraxState, ["obs", "reward", "done", "metrics"], [])


class Slider:
    """Brax's protocol, with its habit of writing into the state's dictionaries."""

    action_size = 3

    def reset(self, key):
        x = jax.random.normal(key, (3,))
        return BraxState(
            {"state": x[:2], "privileged_state": x}, jnp.sum(x), jnp.zeros(()), {"s": 0.0}
        )

    def step(self, state, action):
        x = state.obs["privileged_state"] + action
        state.metrics.update(s=jnp.float32(1.0))
        obs = {"state": x[:2], "privileged_state": x}
        return dataclasses.replace(state, obs=obs, reward=action @ jnp.arange(3.0), done=x[0] > 5)


def test_brax_actuators_by_agent():
    env = jml.from_brax(Slider(), max_episode_steps=9, agents=((2,), (0, 1)))
    jml.check_environment(env)
    spec = env.spec
    assert (spec.num_agents, spec.action_size, spec.obs_size, spec.global_state_size) == (
        2,
        2,
        4,
        3,
    )
    state, timestep = env.reset(jax.random.key(0))
    assert timestep.obs.action_mask.tolist() == [[True, False], [True, True]]
    # agent 0 moves actuator 2 (worth 2), agent 1 actuators 0 and 1 (worth 0 and 1)
    _, timestep = env.step(state, jnp.array([[0.5, 9.0], [1.0, 0.25]]))
    assert timestep.reward.tolist() == [1.25, 1.25]
    ended = play(env, lambda _: jnp.ones((2, 2)))[-1]
    assert ended.last and ended.discount == 0
    cut = play(env, lambda _: jnp.zeros((2, 2)))
    assert len(cut) == 10 and cut[-1].discount == 1


@pytest.mark.parametrize("agents", [((0, 1),), ((0, 1), (1, 2)), ((0, 1, 2), ()), ((0, 1, 3),)])
def test_groups_that_do_not_name_each_actuator_once_are_refused(agents):
    with pytest.raises(ValueError, match="agents is .* each actuator 0 to 2 once"):
        jml.from_brax(Slider(), agents=agents)


@pytest.mark.parametrize(
    ("function", "argument", "message"),
    [
        (jml.from_gymnax, object(), "env is .* allowed is an environment of gymnax"),
        (jml.from_jumanji, Slider, "env is the class Slider; allowed is an object"),
        (jml.from_jaxmarl, Slider(), "allowed is an environment of JaxMARL"),
        (jml.from_brax, object(), "allowed is an environment of Brax"),
    ],
)
def test_what_is_not_an_environment_is_refused(function, argument, message):
    with pytest.raises(TypeError, match=message):
        function(argument)


def test_a_limit_that_is_missing_is_asked_for():
    with pytest.raises(ValueError, match="max_episode_steps is None; allowed is the time limit"):
        jml.from_jumanji(jumanji.make("Game2048-v1"))


def test_a_bridge_trains():
    env = jml.from_gymnax(*gymnax.make("CartPole-v1"))
    result = jml.run(
        "ippo", env, seeds=1, total_steps=512, num_envs=4, num_steps=16, eval_episodes=4, quiet=True
    )
    assert np.isfinite(result.returns).all()


@pytest.mark.parametrize("mask", ["observation", "info"])
@pytest.mark.parametrize(
    "name", ["toy/budget", "safe/search-and-rescue-2s-40t", "safe-mpe/spread-3a"]
)
def test_pettingzoo_accepts_ours(name, mask):
    env = jml.make(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        parallel_api_test(jml.to_pettingzoo(env, action_mask=mask), 150)
    parallel_seed_test(lambda: jml.to_pettingzoo(env, action_mask=mask), 30)


def test_pettingzoo_tells_costs_masks_and_the_end():
    env = jml.make("toy/budget")
    zoo = jml.to_pettingzoo(env)
    observations, _ = zoo.reset(seed=1)
    assert set(observations["agent_0"]) == {"observation", "action_mask"}
    last_action = env.spec.action_size - 1
    state, _ = env.reset(jax.random.key(0))
    total, expected = 0.0, 0.0
    for _ in range(env.spec.max_episode_steps):
        state, timestep = env.step(state, jnp.full(env.spec.num_agents, last_action))
        expected += float(timestep.cost.sum())
        *_, terminations, truncations, infos = zoo.step(dict.fromkeys(zoo.agents, last_action))
        total += sum(sum(info["cost"].values()) for info in infos.values())
        if timestep.last:
            break
    assert total == pytest.approx(expected) and total > 0
    assert all(terminations.values()) != all(truncations.values()) and not zoo.agents
    assert zoo.state().shape == (env.spec.global_state_size,)
    with pytest.raises(RuntimeError, match="allowed is `reset`"):
        zoo.step({})


def test_pettingzoo_refuses_other_masks_and_missing_actions():
    with pytest.raises(ValueError, match="env is 'toy/memory'; allowed is an environment, an ins"):
        jml.to_pettingzoo("toy/memory")
    with pytest.raises(ValueError, match="action_mask is 'both'; allowed is"):
        jml.to_pettingzoo(jml.make("toy/budget"), action_mask="both")
    zoo = jml.to_pettingzoo(jml.make("toy/budget"))
    zoo.reset(seed=0)
    with pytest.raises(ValueError, match="no entry for agent_1"):
        zoo.step({"agent_0": 0})


def test_an_action_out_of_range_is_refused():
    env = jml.to_pettingzoo(jml.make("toy/budget"))
    env.reset(seed=0)
    actions = {agent: 0 for agent in env.agents} | {env.agents[1]: 7}
    with pytest.raises(ValueError, match="the action of agent_1 is 7; allowed is 0 to"):
        env.step(actions)
