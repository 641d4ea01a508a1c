"""JaxMARL's environments behind the protocol: the same numbers, ends of episodes, wins, padding,
words."""

import importlib.metadata
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxmarl_lite as jml
from jaxmarl_lite import rollout
from jaxmarl_lite.envs import _import, registry
from jaxmarl_lite.envs.checker import check_environment
from jaxmarl_lite.envs.jaxmarl import scenarios

STOP = 4


@pytest.fixture(scope="module")
def battle():
    env = jml.make("smax/3m")
    state, timestep = jax.jit(env.reset)(jax.random.key(0))
    return env, jax.jit(env.step), state, timestep


def last_legal(mask):
    """To shoot at the enemy of the highest number in reach, else to stop: a team that does wins now
    and then."""
    mask = np.asarray(mask)
    return mask.shape[-1] - 1 - mask[..., ::-1].argmax(-1)


def with_health(state, health):
    """The state with other units' health; who has none is dead."""
    env = state.inner.state
    health = jnp.asarray(health, env.unit_health.dtype)
    return state._replace(
        inner=state.inner.replace(state=env.replace(unit_health=health, unit_alive=health > 0))
    )


def scaled(inside, env):
    """JaxMARL's state of marines with places over the map's size, cooldowns over 0.61 s, and types
    over the last."""
    env = np.array(env)
    for unit in range(6):
        health, x, y, cooldown = env[10 * unit : 10 * unit + 4]
        env[10 * unit : 10 * unit + 4] = health, x / 32, y / 32, np.clip(cooldown / 0.61, 0, 1)
    env[66:] /= 5
    return env


def test_a_battle_is_jaxmarls_own(battle):
    env, step, state, timestep = battle
    inside = env.unwrapped
    inner, key = state.inner, state.key
    for _ in range(12):
        action = last_legal(timestep.obs.action_mask)
        state, timestep = step(state, jnp.asarray(action))
        current, key = jax.random.split(key)
        acts = {agent: jnp.int32(action[i]) for i, agent in enumerate(inside.agents)}
        obs, inner, rewards, _, _ = inside.step_env(current, inner, acts)
        legal = inside.get_avail_actions(inner)
        np.testing.assert_allclose(
            timestep.reward, [rewards[agent] for agent in inside.agents], rtol=1e-6
        )
        np.testing.assert_allclose(
            timestep.obs.global_state, scaled(inside, obs["world_state"]), rtol=1e-5, atol=1e-6
        )
        assert np.abs(timestep.obs.global_state).max() <= 1
        for i, agent in enumerate(inside.agents):
            np.testing.assert_allclose(
                timestep.obs.agents_view[i, :-3], obs[agent], rtol=1e-5, atol=1e-6
            )
            np.testing.assert_array_equal(timestep.obs.action_mask[i], legal[agent])
        np.testing.assert_array_equal(timestep.obs.agents_view[:, -3:], np.eye(3))
        np.testing.assert_array_equal(timestep.obs.alive, inner.state.unit_alive[:3])
        assert not timestep.last


def test_a_battle_ends_in_a_win_a_defeat_or_a_draw(battle):
    env, step, state, _ = battle
    still = jnp.full(3, STOP)
    for health, over, win in (
        ([45, 45, 45, 45, 45, 45], False, False),
        ([45, 0, 0, 0, 0, 0], True, True),
        ([0, 0, 0, 45, 0, 0], True, False),
        ([0, 0, 0, 0, 0, 0], True, False),
    ):
        next_state, timestep = step(with_health(state, health), still)
        assert bool(timestep.last) == over and float(timestep.discount) == 1.0 - over
        assert bool(env.is_win(next_state)) == win
        bonus = env.unwrapped.won_battle_bonus
        assert float(timestep.reward[0]) == pytest.approx(bonus * win, abs=1e-6)


def test_the_dead_can_only_stop_and_are_not_alive(battle):
    _, step, state, _ = battle
    _, timestep = step(with_health(state, [45, 0, 45, 45, 45, 45]), jnp.full(3, STOP))
    assert timestep.obs.alive.tolist() == [True, False, True]
    assert np.flatnonzero(timestep.obs.action_mask[1]).tolist() == [STOP]
    assert (np.asarray(timestep.obs.agents_view[1, :-3]) == 0).all()


def test_time_is_a_truncation_in_every_room():
    for name, keywords in (("smax/3m", {}), ("mpe/reference", {}), ("overcooked/cramped-room", {})):
        env = jml.make(name, max_steps=2, **keywords)
        step = jax.jit(env.step)
        state, timestep = jax.jit(env.reset)(jax.random.key(0))
        for last in (False, True):
            state, timestep = step(state, jnp.asarray(timestep.obs.action_mask.argmax(-1)))
            assert bool(timestep.last) == last and timestep.discount == 1
        assert env.spec.max_episode_steps == 2


def test_maps_and_kitchens_are_all_that_jaxmarl_has():
    known = scenarios._load("smax.smax_env").MAP_NAME_TO_SCENARIO
    assert {
        name: (one.num_allies, one.num_enemies) for name, one in known.items()
    } == scenarios.MAPS
    kitchens = scenarios._load("overcooked").overcooked_layouts
    assert {name.replace("_", "-") for name in kitchens} == set(scenarios.LAYOUTS)
    message = dict(scenarios.examples("smax"))
    for name, (allies, enemies) in scenarios.MAPS.items():
        assert (
            message[f"smax/{name}"] == f"{allies} agents, {5 + enemies} actions, at most 100 steps"
        )


@pytest.mark.parametrize(
    ("name", "keywords", "sizes"),
    [
        ("smax/3s_vs_5z", {"action_type": "continuous", "agent_id": False}, (3, 4, "continuous")),
        (
            "mpe/spread-2a",
            {"action_type": "continuous", "reward": "individual"},
            (2, 5, "continuous"),
        ),
        ("mpe/speaker-listener", {}, (2, 5, "discrete")),
        ("mpe/speaker-listener", {"action_type": "continuous"}, (2, 5, "continuous")),
        ("mpe/reference", {}, (2, 50, "discrete")),
        ("safe-mpe/spread-3a", {"cost_limit": (2.0, 1.0, 0.5)}, (3, 5, "discrete")),
        ("overcooked/forced-coord", {"shaping": 1.0}, (2, 6, "discrete")),
    ],
)
def test_rooms_keep_the_protocol(name, keywords, sizes):
    spec = check_environment(jml.make(name, **keywords))
    assert (spec.num_agents, spec.action_size, spec.action_type) == sizes


def test_what_a_speaker_lacks_is_padded():
    env = jml.make("mpe/speaker-listener", agent_id=False)
    state, timestep = env.reset(jax.random.key(3))
    assert timestep.obs.action_mask.sum(-1).tolist() == [3, 5]
    assert (np.asarray(timestep.obs.agents_view[0, 3:]) == 0).all() and (
        np.asarray(timestep.obs.agents_view[0, :3]) > 0
    ).all()
    assert timestep.obs.global_state.shape == (3 + 11,)
    _, timestep = env.step(state, jnp.array([2, 0]))
    np.testing.assert_array_equal(
        timestep.obs.agents_view[1, -3:], [0, 0, 1]
    )  # the listener hears the word


def test_collisions_leave_the_reward_and_cost_instead():
    places = jnp.array([[0.0, 0.0], [0.2, 0.0], [0.35, 0.0], [2.0, 0.0], [0.0, 2.0], [-2.0, 0.0]])

    def placed(name, **keywords):
        env = jml.make(name, **keywords)
        state, _ = env.reset(jax.random.key(0))
        inner = state.inner.replace(p_pos=places, p_vel=jnp.zeros_like(places))
        return env.step(state._replace(inner=inner), jnp.zeros(3, jnp.int32))

    next_state, safe = placed("safe-mpe/spread-3a")
    where = np.asarray(next_state.inner.p_pos)
    agents, landmarks = where[:3], where[3:]
    gaps = np.linalg.norm(agents[:, None] - agents[None], axis=-1) + 9 * np.eye(3)
    touching = (gaps < 0.3).sum(-1)
    assert touching.sum() > 0
    np.testing.assert_array_equal(safe.cost[:, 0], touching)
    far = -np.linalg.norm(agents[:, None] - landmarks[None], axis=-1).min(0).sum()
    np.testing.assert_allclose(safe.reward, np.full(3, far), rtol=1e-5)
    _, team = placed("mpe/spread-3a")
    _, individual = placed("mpe/spread-3a", reward="individual")
    np.testing.assert_allclose(individual.reward, 0.5 * far - 0.5 * touching, rtol=1e-5)
    np.testing.assert_allclose(
        team.reward, np.full(3, np.asarray(individual.reward).sum()), rtol=1e-5
    )


def test_shaping_is_added_to_the_soups():
    plain, shaped = (
        jml.make("overcooked/cramped-room"),
        jml.make("overcooked/cramped-room", shaping=0.5),
    )
    steps, theirs = (
        [jax.jit(env.step) for env in (plain, shaped)],
        jax.jit(plain.unwrapped.step_env),
    )
    state, _ = plain.reset(jax.random.key(0))
    random, earned = np.random.default_rng(0), 0.0
    for _ in range(200):
        action = random.integers(0, 6, 2)
        current, _ = jax.random.split(state.key)
        *_, infos = theirs(
            current, state.inner, {f"agent_{i}": jnp.int32(action[i]) for i in range(2)}
        )
        bonus = sum(float(x) for x in infos["shaped_reward"].values())
        (next_state, without), (_, added) = (step(state, jnp.asarray(action)) for step in steps)
        np.testing.assert_allclose(added.reward - without.reward, [0.5 * bonus] * 2, atol=1e-6)
        state, earned = next_state, earned + bonus
    assert earned > 0
    assert "plus 0.5 times JaxMARL's shaped reward" in shaped.spec.return_description
    assert "shaped" not in plain.spec.return_description


def test_wins_are_counted_in_rollouts(battle):
    env = battle[0]

    def act(key, obs, hidden_state):
        action = 7 - obs.action_mask[..., ::-1].argmax(-1)  # `last_legal`
        return action, jnp.zeros(obs.action_mask.shape[:2]), hidden_state

    begun = rollout.init_rollout_state(env, jax.random.key(0), 16, ())
    _, batch = jax.jit(lambda begun, key: rollout.rollout(env, act, begun, key, 150))(
        begun, jax.random.key(1)
    )
    last, reward = np.asarray(batch.transitions.last), np.asarray(batch.transitions.reward[..., 0])
    wins = (last & (reward >= 1.0)).sum()  # nothing else gives the bonus
    assert batch.episode_stats.wins == wins and 0 < wins < batch.episode_stats.count


def test_the_names_of_actions_are_what_they_do(battle):
    env, step, state, _timestep = battle
    names = env.spec.action_names
    assert len(names) == env.spec.action_size and names[4] == "stop" and names[-1] == "attack 2"
    ways = {
        "move north": (0, 1),
        "move east": (1, 0),
        "move south": (0, -1),
        "move west": (-1, 0),
        "stop": (0, 0),
    }
    for name, way in ways.items():
        next_state, _ = step(state, jnp.full(3, names.index(name)))
        updated = np.asarray(
            next_state.inner.state.unit_positions - state.inner.state.unit_positions
        )[:3]
        np.testing.assert_array_equal(np.sign(updated.round(3)), [way] * 3)


def test_the_names_of_what_particles_and_cooks_do():
    env = jml.make("mpe/spread-3a")
    state, _ = env.reset(jax.random.key(0))
    still = state._replace(inner=state.inner.replace(p_vel=jnp.zeros((6, 2))))
    ways = {"stay": (0, 0), "left": (-1, 0), "right": (1, 0), "down": (0, -1), "up": (0, 1)}
    assert (
        set(ways)
        == set(env.spec.action_names)
        == set(jml.make("safe-mpe/spread-3a").spec.action_names)
    )
    for name, way in ways.items():
        separate = still._replace(
            inner=still.inner.replace(p_pos=9.0 * jnp.arange(6)[:, None] * jnp.ones(2))
        )
        next_state, _ = env.step(separate, jnp.full(3, env.spec.action_names.index(name)))
        np.testing.assert_array_equal(
            np.sign(np.asarray(next_state.inner.p_vel)[:3].round(4)), [way] * 3
        )
    assert jml.make("mpe/spread-3a", action_type="continuous").spec.action_names == ()

    env = jml.make("overcooked/cramped-room")
    state, _ = env.reset(jax.random.key(0))
    west = jnp.array([[-1, 0]] * 2, state.inner.agent_dir.dtype)  # of the first cook lie the onions
    places = jnp.array([[1, 1], [3, 1]], state.inner.agent_pos.dtype)
    state = state._replace(
        inner=state.inner.replace(agent_pos=places, agent_dir=west, agent_dir_idx=jnp.array([3, 3]))
    )

    def function(name):
        next_state = env.step(state, jnp.full(2, env.spec.action_names.index(name)))[0].inner
        return np.asarray(next_state.agent_dir)[0].tolist(), int(next_state.agent_inv[0]) != int(
            state.inner.agent_inv[0]
        )

    rows_go_down = {
        "up": [0, -1],
        "down": [0, 1],
        "right": [1, 0],
        "left": [-1, 0],
        "stay": [-1, 0],
    }
    assert {name: function(name) for name in rows_go_down} == {
        name: (way, False) for name, way in rows_go_down.items()
    }
    assert (
        function("interact") == ([-1, 0], True)
        and len(env.spec.action_names) == env.spec.action_size
    )


def test_a_film_of_a_battle(battle, tmp_path):
    env, step, state, timestep = battle
    states = [state]
    for _ in range(3):
        state, timestep = step(state, jnp.asarray(timestep.obs.action_mask.argmax(-1)))
        states.append(state)
    film = Image.open(env.animate(states, tmp_path / "battle.gif"))
    assert film.n_frames == 4
    rewards = jnp.array([[1.0, -0.5, 0.25]] * 3)
    ringed = Image.open(env.animate(states, tmp_path / "rings.gif", rewards=rewards))
    assert ringed.n_frames == 4

    def changed(ours, theirs):
        pixels = []
        for frame in range(4):
            for item in (ours, theirs):
                item.seek(frame)
            a, b = (np.asarray(item.convert("RGB"), int) for item in (ours, theirs))
            pixels.append((a != b).any(-1).sum())
        return pixels

    rings = changed(film, ringed)
    assert rings[0] == 0 and min(rings[1:]) > 100
    other = Image.open(
        env.animate(states, tmp_path / "other.gif", rewards=rewards.at[1].multiply(-1))
    )
    pixels = changed(ringed, other)
    assert (
        pixels[2] > 100 and pixels[:2] == [0, 0] and pixels[3] == 0
    )  # of the step that led to what is seen
    assert [message for _, message in env._rings(rewards)[0]] == ["0: +1", "1: -0.5", "2: +0.25"]
    with pytest.raises(ValueError, match="rewards are of 1 steps, states of 3"):
        env.animate(states, tmp_path / "few.gif", rewards=rewards[:1])
    with pytest.raises(ValueError, match="states is empty"):
        env.animate([], tmp_path / "none.gif")
    with pytest.raises(ValueError, match="path must end in .gif, not 'battle.mp4'"):
        env.animate(states, tmp_path / "battle.mp4")


@pytest.mark.parametrize("name", ["mpe/reference", "safe-mpe/spread-2a", "overcooked/cramped-room"])
def test_films_of_particles_and_kitchens_show_what_moves(name, tmp_path):
    env = jml.make(name, agent_id=False)
    step = jax.jit(env.step)
    states = [jax.jit(env.reset)(jax.random.key(3))[0]]
    stay = {"mpe/reference": 0, "safe-mpe/spread-2a": 0, "overcooked/cramped-room": 4}[name]
    # the first agent moves, in the last step alone
    for action in (stay, stay, 1):
        states.append(step(states[-1], jnp.array([action, stay]))[0])
    with Image.open(env.animate(states, tmp_path / "films" / "film.gif", fps=10)) as film:
        # Pillow writes a picture once that stands for several frames
        first, last = (_frame(film, index) for index in (0, film.n_frames - 1))
        durations = sum(_duration(film, index) for index in range(film.n_frames))
    assert durations == 3 * 100 + 1500
    below_title = len(first) // 10  # the title counts the steps, whatever moves
    changed = (first != last).any(-1)[below_title:]
    assert 20 < changed.sum() < 0.3 * changed.size
    with pytest.raises(ValueError, match="states is empty"):
        env.animate([], tmp_path / "none.gif")
    with pytest.raises(ValueError, match="path must end in .gif, not 'film.mp4'"):
        env.animate(states, tmp_path / "film.mp4")


@pytest.mark.parametrize("name", ["smax/3m", "mpe/reference"])
def test_the_title_of_a_still_has_the_step_of_its_state(name, tmp_path):
    env = jml.make(name)
    state = jax.jit(env.reset)(jax.random.key(3))[0]
    frames = []
    for time in (0, 7, 7):
        later = state._replace(time=jnp.asarray(time))
        with Image.open(env.animate([later], tmp_path / "still.gif")) as film:
            frames.append(_frame(film, 0))
    title = len(frames[0]) // 10
    assert (frames[0] != frames[1])[:title].any()
    assert (frames[1] == frames[2]).all()


def _frame(film, index):
    film.seek(index)
    return np.asarray(film.convert("RGB"), int)


def _duration(film, index):
    film.seek(index)
    return film.info["duration"]


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        (
            "smax/3n",
            {},
            "environment is 'smax/3n'.*allowed in smax: 3m, 8m.*nearest: .*smax/3m",
        ),
        (
            "mpe/spread",
            {},
            "allowed in mpe: spread-<agents>a, reference.*nearest: .*mpe/spread-3a",
        ),
        ("mpe/spread-0a", {}, "agents of mpe/spread-0a is 0; allowed is 1 or more"),
        (
            "safe-mpe/reference",
            {},
            "environment is 'safe-mpe/reference'.*allowed in safe-mpe: spread-<agents>a",
        ),
        ("overcooked/cramped_room", {}, "nearest: .*overcooked/cramped-room"),
        (
            "smax/3m",
            {"max_steps": 0},
            "max_steps of smax/3m is 0; allowed is a whole number, 1 or more",
        ),
        (
            "smax/3m",
            {"attack_mode": "weakest"},
            "attack_mode of smax/3m is 'weakest'; allowed is one of closest",
        ),
        (
            "smax/3m",
            {"enemy_shoots": 1},
            "enemy_shoots of smax/3m is 1; allowed is True or False",
        ),
        ("smax/3m", {"scenario": "8m"}, "keyword of smax/3m is 'scenario'"),
        ("smax/3m", {"reward": "individual"}, "reward of smax/3m is 'individual'; allowed is team"),
        (
            "mpe/reference",
            {"action_type": "both"},
            "action_type of mpe/reference is 'both'; allowed is one of",
        ),
        (
            "mpe/spread-3a",
            {"local_ratio": 2.0},
            "local_ratio of mpe/spread-3a is 2.0; allowed is a number from 0 to 1",
        ),
        (
            "overcooked/coord-ring",
            {"shaping": -1.0},
            "shaping of overcooked/coord-ring is -1.0; allowed is a number",
        ),
        (
            "safe-mpe/spread-3a",
            {"cost_limit": -1.0},
            "cost_limit is -1.0; allowed is a number from 0 up",
        ),
        (
            "safe-mpe/spread-3a",
            {"cost_limit": {"bumps": 1.0}},
            "cost in cost_limit is 'bumps'",
        ),
    ],
)
def test_bad_names_and_keywords(name, keywords, message):
    with pytest.raises(ValueError, match=message):
        jml.make(name, **keywords)


def test_without_jaxmarl_names_are_listed_and_making_one_says_what_to_install(monkeypatch):
    jml.make("smax/8m")

    monkeypatch.setattr(
        registry, "_make_cached", registry._make_cached.__wrapped__
    )  # another test may have made it
    message = r"smax/8m needs jaxmarl: install 'jaxmarl-lite\[smax\]'"
    with monkeypatch.context() as missing, pytest.raises(ImportError, match=message):
        missing.setattr(_import, "is_installed", lambda name: name != "jaxmarl")
        jml.make("smax/8m")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1.9")
    with pytest.raises(ImportError, match="needs jaxmarl 0.2 or newer, not 0.1.9"):
        jml.make("smax/8m")
    assert "smax/8m" in dict(jml.list_environments())


def test_importing_is_quiet_and_leaves_the_streams_alone():
    program = (
        "import io, sys; sys.stdout = mine = io.StringIO(); import jaxmarl_lite as jml; "
        "jml.make('mpe/reference');"
        "assert sys.stdout is mine and not mine.getvalue(); sys.__stdout__.write('well')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "well" and "ubmodule" not in done.stderr
