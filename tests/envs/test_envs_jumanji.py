"""The Jumanji adapter: ends of episodes, rewards, views."""

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from jumanji.environments.routing.robot_warehouse.constants import _AGENTS, _SHELVES
from PIL import Image
from small_envs import JUMANJI_ENVS, compiled, get_env, play

LBF, RWARE, CONNECTOR, CLEANER, SEARCH, MMST, CVRP = JUMANJI_ENVS
NOOP, FORWARD, LOAD = 0, 1, 5


def stand_still(env_id, state):
    """A legal joint action that changes as little as possible."""
    _env, _, _ = compiled(env_id)
    if env_id == SEARCH:
        return jnp.zeros((2, 2))
    if env_id == CLEANER:
        return jnp.argmax(state.action_mask, axis=-1)
    if env_id == MMST:
        return state.positions
    return jnp.zeros(2, jnp.int32)


def at_limit(env_id, state):
    """The state with the clock one step before the limit."""
    limit = compiled(env_id)[0].spec.max_episode_steps
    if env_id == SEARCH:
        return state.replace(step=jnp.int32(limit - 1))
    first = 1 if env_id == CVRP else 0
    return state.replace(step_count=jnp.asarray(limit - 1 + first, state.step_count.dtype))


def about_to_be_over(env_id, state):
    """A state and an action that truly end the episode."""
    action = stand_still(env_id, state)
    if env_id == LBF:
        eaten = state.food_items.replace(eaten=jnp.ones_like(state.food_items.eaten))
        return state.replace(food_items=eaten), action
    if env_id == RWARE:
        return collision(state)
    if env_id == CONNECTOR:
        return state.replace(agents=state.agents.replace(position=state.agents.target)), action
    if env_id == CLEANER:
        return state, jnp.array([0, 1])  # agent 0 in the upper left corner moves up
    if env_id == SEARCH:
        result = state.targets.replace(found=jnp.ones_like(state.targets.found))
        return state.replace(targets=result), action
    if env_id == MMST:
        expected = state.nodes_to_connect
        return state.replace(
            connected_nodes=state.connected_nodes.at[:, : expected.shape[1]].set(expected)
        ), action
    served = state.nodes.replace(demands=jnp.zeros_like(state.nodes.demands))
    return state.replace(nodes=served), action


def collision(state):
    """Agent 0 in the upper left corner faces agent 1 to its right, and drives."""
    position = type(state.agents.position)(x=jnp.array([0, 0]), y=jnp.array([0, 1]))
    direction = jnp.ones_like(state.agents.direction)  # to the right
    floor = jnp.zeros_like(state.grid[_AGENTS]).at[0, 0].set(1).at[0, 1].set(2)
    agents = state.agents._replace(position=position, direction=direction)
    return state.replace(agents=agents, grid=state.grid.at[_AGENTS].set(floor)), jnp.array(
        [FORWARD, NOOP]
    )


@pytest.mark.parametrize("env_id", JUMANJI_ENVS)
def test_a_time_limit_cuts_off_and_does_not_end(env_id):
    _, reset, step = compiled(env_id)
    state, _ = reset(jax.random.key(3))
    state = at_limit(env_id, state)
    _, timestep = step(state, stand_still(env_id, state))
    assert timestep.last
    # MultiCVRP charges the worst case for what is left, so its limit is a true end.
    assert timestep.discount == (0 if env_id == CVRP else 1)


@pytest.mark.parametrize("env_id", JUMANJI_ENVS)
@pytest.mark.parametrize("late", [False, True], ids=["early", "at the limit"])
def test_a_true_end(env_id, late):
    _, reset, step = compiled(env_id)
    state, _ = reset(jax.random.key(3))
    state, action = about_to_be_over(env_id, state)
    _, timestep = step(at_limit(env_id, state) if late else state, action)
    assert timestep.last and timestep.discount == 0


@pytest.mark.parametrize("env_id", [LBF, CONNECTOR])
def test_ends_agree_with_jumanji_where_it_is_right(env_id):
    env, _, _ = compiled(env_id)
    its_step = jax.jit(env.unwrapped.step)
    for seed in range(3):
        moments = play(env_id, seed)
        (state, previous), (_, timestep) = moments[-2:]
        random = np.random.default_rng(seed)
        for _ in moments[1:]:  # the same draws as in play
            draw = random.random(previous.obs.action_mask.shape)
        _, mine = its_step(
            state, jnp.asarray((draw * np.asarray(previous.obs.action_mask)).argmax(-1))
        )
        assert mine.last() and mine.discount.max() == timestep.discount


def next_to_the_food(state, levels):
    """Agents left and right of the only food, which needs both."""
    row, column = state.food_items.position[0]
    agents = state.agents.replace(
        position=jnp.array([[row, column - 1], [row, column + 1]]),
        level=jnp.array(levels, jnp.int32),
    )
    food = state.food_items.replace(level=jnp.array([sum(levels)], jnp.int32))
    return state.replace(agents=agents, food_items=food)


def test_foraging_pays_one_for_all_the_food():
    team, reset, step = compiled(LBF)
    item = get_env(LBF, reward="individual")
    state, _ = reset(jax.random.key(0))
    state = next_to_the_food(state, [1, 2])
    _, shared = step(state, jnp.array([LOAD, LOAD]))
    _, individual = jax.jit(item.step)(state, jnp.array([LOAD, LOAD]))
    np.testing.assert_allclose(individual.reward, [1 / 3, 2 / 3], rtol=1e-6)
    np.testing.assert_allclose(shared.reward, [1.0, 1.0], rtol=1e-6)
    assert shared.discount == 0 and shared.last
    assert (
        team.spec.team_return(shared.reward)
        == pytest.approx(item.spec.team_return(individual.reward))
        == 1.0
    )
    assert (team.spec.max_return, item.spec.reward_type) == (1.0, "individual")
    _, alone = step(state, jnp.array([LOAD, NOOP]))
    assert not alone.reward.any() and alone.discount == 1


def test_team_reward_is_the_sum_of_the_individual_ones():
    _team, reset, step = compiled(CONNECTOR)
    step_each = jax.jit(get_env(CONNECTOR, reward="individual").step)
    state, timestep = reset(jax.random.key(0))
    for seed in range(4):
        draw = np.random.default_rng(seed).random(timestep.obs.action_mask.shape)
        action = jnp.asarray((draw * np.asarray(timestep.obs.action_mask)).argmax(-1))
        _, individual = step_each(state, action)
        state, timestep = step(state, action)
        np.testing.assert_allclose(timestep.reward, np.full(2, individual.reward.sum()), rtol=1e-6)


def test_warehouse_pays_the_team_for_a_delivery():
    env, reset, step = compiled(RWARE)
    state, _ = reset(jax.random.key(0))
    column, row = env.unwrapped.goals[0]
    requested = state.request_queue[0] + 1
    state = state.replace(grid=state.grid.at[_SHELVES, row, column].set(requested))
    _, timestep = step(state, jnp.zeros(2, jnp.int32))
    np.testing.assert_array_equal(timestep.reward, [1.0, 1.0])


def test_foraging_view_is_scaled_and_names_the_agent():
    env, reset, _ = compiled(LBF)
    state, timestep = reset(jax.random.key(0))
    raw = np.asarray(
        jax.jit(env.unwrapped._observer.state_to_observation)(state).agents_view, float
    ).reshape(2, 3, 3)
    expected = raw.copy()
    expected[..., :2] = np.where(
        raw[..., :2] < 0, -1, raw[..., :2] / 4
    )  # sight 2 shows 5 cells: 0 to 4
    expected[..., 2] = raw[..., 2] / 2  # agents have level 1 or 2
    np.testing.assert_allclose(timestep.obs.agents_view[:, :9], expected.reshape(2, 9), rtol=1e-6)
    np.testing.assert_array_equal(timestep.obs.agents_view[:, 9:], np.eye(2))
    np.testing.assert_array_equal(
        timestep.obs.global_state, timestep.obs.agents_view[:, :9].reshape(-1)
    )
    bare = get_env(LBF, agent_id=False)
    assert (env.spec.obs_size, bare.spec.obs_size, bare.spec.global_state_size) == (11, 9, 18)


def test_foraging_grid_view_is_accepted():
    env = get_env(LBF, grid_observation=True, agent_id=False)
    assert env.spec.obs_size == 3 * 5 * 5


def test_warehouse_view_scales_only_the_place():
    env, reset, _ = compiled(RWARE)
    state, timestep = reset(jax.random.key(0))
    rows, columns = env.unwrapped.grid_size
    position = state.agents.position
    np.testing.assert_allclose(timestep.obs.agents_view[:, 0], position.x / (rows - 1), rtol=1e-6)
    np.testing.assert_allclose(
        timestep.obs.agents_view[:, 1], position.y / (columns - 1), rtol=1e-6
    )
    assert set(np.unique(timestep.obs.agents_view[:, 2:])) <= {0.0, 1.0}


def test_connector_view_is_the_agents_own():
    _, reset, _ = compiled(CONNECTOR)
    state, timestep = reset(jax.random.key(0))
    grids = np.asarray(timestep.obs.agents_view[:, :-2]).reshape(2, 5, 5, 5)
    for agent in range(2):
        mine, other = state.agents.position[agent], state.agents.position[1 - agent]
        assert grids[agent, 0][tuple(mine)] == 1 and grids[agent, 0].sum() == 1
        assert grids[agent, 2][tuple(other)] == 1 and grids[agent, 2].sum() == 1
        assert grids[agent, 1][tuple(state.agents.target[agent])] == 1
        np.testing.assert_array_equal(grids[agent, 4], np.asarray(state.grid) % 3 == 1)
    heads = np.asarray(timestep.obs.global_state).reshape(3, 5, 5)[0]
    assert (
        heads[tuple(state.agents.position[1])] == 1.0
        and heads[tuple(state.agents.position[0])] == 0.5
    )


def test_connected_agents_no_longer_act():
    _, reset, step = compiled(CONNECTOR)
    state, timestep = reset(jax.random.key(0))
    assert timestep.obs.alive.all()
    position = state.agents.position.at[0].set(state.agents.target[0])
    _, timestep = step(
        state.replace(agents=state.agents.replace(position=position)), jnp.zeros(2, jnp.int32)
    )
    np.testing.assert_array_equal(timestep.obs.alive, [False, True])
    assert timestep.obs.action_mask[0].tolist() == [True, False, False, False, False]


def test_cleaner_view_shows_own_place():
    _, reset, _ = compiled(CLEANER)
    state, timestep = reset(jax.random.key(0))
    grids = np.asarray(timestep.obs.agents_view[:, :-2]).reshape(2, 4, 5, 5)
    assert (grids[:, 0, 0, 0] == 1).all() and (grids[:, 1, 0, 0] == 0.5).all()
    np.testing.assert_array_equal(grids[0, 2], np.asarray(state.grid) == 0)
    np.testing.assert_array_equal(grids[1, 3], np.asarray(state.grid) == 2)


def test_spanning_tree_gives_a_stuck_agent_its_own_node():
    _, reset, step = compiled(MMST)
    state, _ = reset(jax.random.key(0))
    expected = state.nodes_to_connect
    done = state.replace(
        connected_nodes=state.connected_nodes.at[0, : expected.shape[1]].set(expected[0])
    )
    next_state, timestep = step(done, state.positions)
    np.testing.assert_array_equal(timestep.obs.alive, [False, True])
    later, timestep = step(next_state, next_state.positions)
    assert timestep.obs.action_mask[0].tolist() == [
        node == next_state.positions[0] for node in range(12)
    ]
    np.testing.assert_array_equal(later.positions, next_state.positions)


def test_search_has_bounds_and_sees_the_clock():
    env, reset, step = compiled(SEARCH)
    assert env.spec.action_low == (-1.0, -1.0) and env.spec.action_high == (1.0, 1.0)
    state, timestep = reset(jax.random.key(0))
    assert timestep.obs.agents_view[0, -4:].tolist() == [
        1.0,
        0.0,
        1.0,
        0.0,
    ]  # all targets left, no time gone, agent 0
    _, timestep = step(state, jnp.zeros((2, 2)))
    assert timestep.obs.agents_view[0, -3] == pytest.approx(0.1)


WAYS = {
    "up": (-1, 0),
    "down": (1, 0),
    "left": (0, -1),
    "right": (0, 1),
    "stay": (0, 0),
    "load": (0, 0),
}


@pytest.mark.parametrize("env_id", [LBF, CONNECTOR, CLEANER])
def test_the_names_of_actions_are_what_they_do(env_id):
    env, reset, step = compiled(env_id)
    observed = set()

    def places(state):
        return np.asarray(state.agents_locations if env_id == CLEANER else state.agents.position)

    for seed in range(4):
        state, timestep = reset(jax.random.key(seed))
        for action, name in enumerate(env.spec.action_names):
            if timestep.obs.action_mask[0, action]:
                next_state, _ = step(
                    state,
                    jnp.asarray(stand_still(env_id, state)).at[0].set(action).astype(jnp.int32),
                )
                np.testing.assert_array_equal((places(next_state) - places(state))[0], WAYS[name])
                observed.add(name)
    assert len(observed - {"stay", "load"}) >= 2


def test_vehicles_see_themselves_first():
    _, reset, step = compiled(CVRP)
    state, timestep = reset(jax.random.key(0))
    first, second = (int(np.flatnonzero(timestep.obs.action_mask[0])[i]) for i in (1, 2))
    _, timestep = step(state, jnp.array([first, second]))
    individual = np.asarray(timestep.obs.agents_view[:, :8]).reshape(2, 2, 4)
    np.testing.assert_allclose(individual[0, 0], individual[1, 1])
    np.testing.assert_allclose(individual[0, 0, :2], state.nodes.coordinates[first] / 10, rtol=1e-6)


@pytest.mark.parametrize("env_id", [LBF, CLEANER, MMST])
def test_animate_writes_a_gif_and_leaves_matplotlib_alone(env_id, tmp_path):
    env, _, _ = compiled(env_id)
    backend, figures, interactive = matplotlib.get_backend(), plt.get_fignums(), plt.isinteractive()
    states = [state for state, _ in play(env_id)][:4]
    path = env.animate(states, tmp_path / "films" / "episode.gif")
    with Image.open(path) as film:
        assert film.format == "GIF" and film.n_frames > 1 and min(film.size) > 100
        assert len(film.convert("RGB").getcolors(100_000)) > 1
    with Image.open(env.animate(states[:1], tmp_path / "still.gif")) as still:
        assert len(still.convert("RGB").getcolors(100_000)) > 1
    assert (matplotlib.get_backend(), plt.get_fignums(), plt.isinteractive()) == (
        backend,
        figures,
        interactive,
    )


def test_animate_errors(tmp_path):
    env, _, _ = compiled(LBF)
    with pytest.raises(ValueError, match="states is empty"):
        env.animate([], tmp_path / "a.gif")
    with pytest.raises(ValueError, match=r"path must end in .gif, not 'a.mp4'"):
        env.animate([play(LBF)[0][0]], tmp_path / "a.mp4")
