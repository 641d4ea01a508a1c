"""Costs of Jumanji's scenarios: hand-made states, and random play against plain formulas."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_envs import ENVS, SAFE_ENVS, compiled, get_env, legal_action, play

from jaxmarl_lite.envs import check_environment, make

LBF, RWARE, CLEANER, SEARCH = SAFE_ENVS
NOOP, FORWARD, LOAD = 0, 1, 5


def begin(env_id, seed=0):
    return compiled(env_id)[1](jax.random.key(seed))[0]


def costs_after(env, state, action):
    """The costs ``[N, K]`` of one step."""
    return np.asarray(env.step(state, jnp.asarray(action))[1].cost)


@pytest.mark.parametrize("env_id", SAFE_ENVS)
def test_they_keep_the_protocol(env_id):
    spec = check_environment(get_env(env_id))
    assert len(spec.cost_descriptions) == spec.num_costs == (2 if env_id == SEARCH else 1)
    assert spec.cost_limits is not None and min(spec.cost_limits) > 0


# Cleaner


def cleaner_with(cells, **keywords):
    """An environment without walls, agents on these cells, and its state."""
    env = get_env(CLEANER, **keywords)
    state = begin(CLEANER)
    grid = jnp.zeros_like(state.grid)
    cells = jnp.array(cells)
    return env, state.replace(
        grid=grid, agents_locations=cells, action_mask=jnp.ones_like(state.action_mask)
    )


UP, RIGHT, DOWN, LEFT = range(4)


@pytest.mark.parametrize(
    ("cells", "action", "keywords", "cost"),
    [
        # after the move (2, 2), (2, 3), (3, 3): a chain, its middle has two neighbors
        ([[2, 1], [1, 3], [3, 4]], [RIGHT, DOWN, LEFT], {}, [1, 2, 1]),
        # all on (3, 3)
        ([[2, 3], [3, 2], [4, 3]], [DOWN, RIGHT, UP], {}, [2, 2, 2]),
        # (2, 2) and (3, 3) are two moves apart, (0, 4) is far
        ([[2, 1], [3, 2], [1, 4]], [RIGHT, RIGHT, UP], {}, [0, 0, 0]),
        ([[2, 1], [3, 2], [1, 4]], [RIGHT, RIGHT, UP], {"distance": 2}, [1, 1, 0]),
        # (0, 1), (1, 1) in the start corner are free, and (1, 2) beside it counts neither
        ([[0, 0], [1, 0], [1, 3]], [RIGHT, RIGHT, LEFT], {}, [0, 0, 0]),
        ([[0, 0], [1, 0], [1, 3]], [RIGHT, RIGHT, LEFT], {"start": 1}, [0, 1, 1]),
        ([[0, 0], [1, 0], [1, 3]], [RIGHT, RIGHT, LEFT], {"start": -1}, [1, 2, 1]),
        ([[0, 1], [0, 1], [0, 1]], [LEFT, LEFT, LEFT], {"start": 0}, [0, 0, 0]),
        ([[0, 1], [0, 1], [0, 1]], [LEFT, LEFT, LEFT], {"start": -1}, [2, 2, 2]),
    ],
)
def test_crowding(cells, action, keywords, cost):
    env, state = cleaner_with(cells, **keywords)
    assert costs_after(env, state, action)[:, 0].tolist() == cost


# Robot warehouse


def robots_at(cells, directions):
    """Robots on these cells (row, column), facing 0 up, 1 right, 2 down, 3 left, without shelves in
    the way."""
    state = begin(RWARE)
    rows, columns = jnp.array(cells).T
    floor = jnp.zeros_like(state.grid[1]).at[rows, columns].set(jnp.arange(3) + 1)
    agents = state.agents._replace(
        position=type(state.agents.position)(x=rows, y=columns), direction=jnp.array(directions)
    )
    return state.replace(
        agents=agents, grid=state.grid.at[1].set(floor), action_mask=jnp.ones((3, 5), bool)
    )


@pytest.mark.parametrize(
    ("cells", "action", "cost", "over"),
    [
        ([[0, 0], [0, 1], [0, 5]], [NOOP] * 3, [1, 1, 0], False),
        ([[0, 0], [0, 2], [0, 5]], [NOOP] * 3, [0, 0, 0], False),
        ([[0, 0], [1, 1], [0, 5]], [NOOP] * 3, [0, 0, 0], False),  # a diagonal is two cells
        ([[0, 0], [0, 2], [0, 3]], [FORWARD, NOOP, NOOP], [1, 1, 1], False),
        ([[0, 0], [0, 1], [0, 5]], [FORWARD, NOOP, NOOP], [1, 1, 0], True),  # a collision
        ([[0, 0], [0, 1], [0, 5]], [NOOP, FORWARD, NOOP], [0, 0, 0], False),  # driven apart
    ],
)
def test_near_collision(cells, action, cost, over):
    _env, _, step = compiled(RWARE)
    _, timestep = step(robots_at(cells, [1, 1, 1]), jnp.array(action))
    assert timestep.cost[:, 0].tolist() == cost
    assert (timestep.discount == 0) == over


def test_near_collision_at_a_distance():
    (cost,) = get_env(RWARE, distance=2).costs
    previous, state = (
        robots_at(cells, [1] * 3) for cells in ([[0, 0]] * 3, [[0, 0], [1, 1], [0, 5]])
    )
    assert cost.fn(previous, None, state).tolist() == [True, True, False]


# Level-based foraging


def around_the_food(levels, food_level):
    """Agent 0 left of the only food, agent 1 right of it."""
    state = begin(LBF)
    row, column = state.food_items.position[0]
    agents = state.agents.replace(
        position=jnp.array([[row, column - 1], [row, column + 1]]),
        level=jnp.array(levels, jnp.int32),
    )
    return state.replace(
        agents=agents, food_items=state.food_items.replace(level=jnp.array([food_level], jnp.int32))
    )


@pytest.mark.parametrize(
    ("levels", "food_level", "action", "cost"),
    [
        ([1, 2], 3, [LOAD, LOAD], [0, 0]),
        ([1, 2], 3, [LOAD, NOOP], [1, 0]),
        ([1, 2], 3, [NOOP, LOAD], [0, 1]),
        ([1, 2], 3, [NOOP, NOOP], [0, 0]),
        ([1, 2], 4, [LOAD, LOAD], [1, 1]),
        ([1, 2], 2, [LOAD, LOAD], [0, 0]),
        ([1, 2], 2, [NOOP, LOAD], [0, 0]),
    ],
)
def test_failed_loading(levels, food_level, action, cost):
    _, _, step = compiled(LBF)
    _, timestep = step(around_the_food(levels, food_level), jnp.array(action))
    assert timestep.cost[:, 0].tolist() == cost


def test_food_eaten_elsewhere_or_before_is_no_fruit():
    env = make("safe/lbf-8x8-2p-2f")
    state = jax.jit(env.reset)(jax.random.key(0))[0]
    agents = state.agents.replace(position=jnp.array([[0, 1], [5, 4]]))

    def foods(*eaten):
        food = state.food_items.replace(
            position=jnp.array([[1, 1], [5, 5]]), eaten=jnp.array(eaten)
        )
        return state.replace(agents=agents, food_items=food)

    (cost,) = env.costs
    both = jnp.array([LOAD, LOAD])
    assert cost.fn(foods(False, False), both, foods(False, True)).tolist() == [True, False]
    assert cost.fn(foods(False, True), both, foods(False, True)).tolist() == [True, True]
    assert cost.fn(foods(False, False), both, foods(True, True)).tolist() == [False, False]


# Search and rescue


def searchers_at(places, headings):
    """Searchers at rest but for the least speed, 0.005 along their headings, which one step
    adds."""
    state = begin(SEARCH)
    searchers = state.searchers.replace(
        pos=jnp.array(places), heading=jnp.array(headings, float), speed=jnp.full(3, 0.005, float)
    )
    return state.replace(searchers=searchers)


STILL = np.array([[0.0, -1.0]] * 3)


@pytest.mark.parametrize(
    ("places", "cost"),
    [
        ([[0.5, 0.02], [0.5, 0.98], [0.5, 0.3]], [1, 1, 0]),  # across the lower edge
        ([[0.97, 0.97], [0.03, 0.03], [0.5, 0.0]], [1, 1, 0]),  # across the corner: 0.085
        ([[0.92, 0.92], [0.08, 0.08], [0.5, 0.0]], [0, 0, 0]),  # across the corner: 0.226
        ([[0.5, 0.1], [0.69, 0.1], [0.88, 0.1]], [1, 1, 1]),
        ([[0.5, 0.1], [0.71, 0.1], [0.92, 0.1]], [0, 0, 0]),
    ],
)
def test_separation(places, cost):
    _, _, step = compiled(SEARCH)
    _, timestep = step(searchers_at(places, [0.0] * 3), jnp.asarray(STILL, float))
    assert timestep.cost[:, 0].tolist() == cost


@pytest.mark.parametrize(
    ("zones", "places", "inside"),
    [
        (((0.5, 0.5, 0.1),), [[0.5, 0.41], [0.5, 0.39], [0.39, 0.5]], [True, False, False]),
        (((0.5, 0.5, 0.1),), [[0.41, 0.5], [0.59, 0.5], [0.61, 0.5]], [True, True, False]),
        (
            ((0.02, 0.98, 0.1),),
            [[0.95, 0.05], [0.94, 0.98], [0.9, 0.9]],
            [True, True, False],
        ),  # over the corner
        (
            ((0.2, 0.2, 0.05), (0.8, 0.8, 0.1)),
            [[0.2, 0.2], [0.8, 0.72], [0.5, 0.5]],
            [True, True, False],
        ),
    ],
)
def test_closed_zones(zones, places, inside):
    cost = get_env(SEARCH, zones=zones).costs[1]
    elsewhere, state = searchers_at([[0.5, 0.5]] * 3, [0.0] * 3), searchers_at(places, [0.0] * 3)
    assert cost.fn(elsewhere, None, state).tolist() == inside
    assert (cost.extra_obs(state)[:, -1] < 0).tolist() == inside
    np.testing.assert_array_equal(cost.extra_global_state(state), cost.extra_obs(state)[:, -1])


def test_zones_are_seen_from_the_searchers_heading():
    env = get_env(SEARCH, zones=((0.1, 0.5, 0.05), (0.6, 0.5, 0.2)))
    state = searchers_at([[0.95, 0.5], [0.6, 0.75], [0.1, 0.4]], [0.0, -np.pi / 2, np.pi])
    # 0: zone 0 over the edge of the world, straight ahead; 1: zone 1 straight ahead, although it
    # looks downwards; 2: zone 0 to its right, since it looks to the left and the zone is above.
    expected = [[0.15, 0, 0.1], [0.25, 0, 0.05], [0, -0.1, 0.05]]
    np.testing.assert_allclose(env.costs[1].extra_obs(state), expected, atol=1e-6)


def test_a_zone_at_an_angle():
    cost = get_env(SEARCH, zones=((0.5, 0.5, 0.05),)).costs[1]
    bearing = np.arctan2(0.4, 0.3)
    view = cost.extra_obs(
        searchers_at([[0.2, 0.1]] * 3, [bearing, bearing - np.pi / 6, bearing + np.pi / 3])
    )
    # 0.5 away: straight ahead, 30 degrees to the left, 60 degrees to the right
    expected = [[0.5, 0, 0.45], [0.25 * np.sqrt(3), 0.25, 0.45], [0.25, -0.25 * np.sqrt(3), 0.45]]
    np.testing.assert_allclose(view, expected, atol=1e-6)


def test_the_zones_are_appended_to_view_and_state():
    env, _, step = compiled(SEARCH)
    state, timestep = step(searchers_at([[0.495, 0.5]] * 3, [0.0] * 3), jnp.asarray(STILL, float))
    np.testing.assert_allclose(state.searchers.pos, [[0.5, 0.5]] * 3, atol=1e-6)
    edge = 0.25 - 0.15  # to the centre (0.7, 0.65)
    np.testing.assert_allclose(timestep.obs.agents_view[:, -3:], [[0.2, 0.15, edge]] * 3, atol=1e-6)
    np.testing.assert_allclose(timestep.obs.global_state[-3:], [edge] * 3, atol=1e-6)
    plain = make("jumanji/search-and-rescue-3s-3t").spec
    assert (
        env.spec.obs_size == plain.obs_size + 6
        and env.spec.global_state_size == plain.global_state_size + 6
    )


def test_the_nearest_other_searcher_is_seen_in_every_direction():
    env, _, step = compiled(SEARCH)
    places, headings = [[0.495, 0.98], [0.495, 0.02], [0.8, 0.02]], [0.0, np.pi / 2, 0.75 * np.pi]
    state = searchers_at(places, headings)
    cost = env.costs[0]
    # 0: the next one is 0.04 to its left, over the edge; 1: 0.04 behind; 2: number 1 is half ahead,
    # half left
    expected = [[0, 0.04, 0.04], [-0.04, 0, 0.04], [0.305 / 2**0.5, 0.305 / 2**0.5, 0.305]]
    np.testing.assert_allclose(cost.extra_obs(state), expected, atol=1e-6)
    np.testing.assert_allclose(cost.extra_global_state(state), [0.04, 0.04, 0.305], atol=1e-6)
    next_state, timestep = step(state, jnp.asarray(STILL, float))
    np.testing.assert_allclose(
        timestep.obs.agents_view[:, -6:-3], cost.extra_obs(next_state), atol=1e-6
    )
    np.testing.assert_allclose(
        timestep.obs.global_state[-6:-3], cost.extra_global_state(next_state), atol=1e-6
    )
    alone = make("safe/search-and-rescue-1s-3t")
    np.testing.assert_array_equal(
        alone.costs[0].extra_obs(alone.reset(jax.random.key(0))[0]), [[0, 0, 0]]
    )


def test_the_nearest_zone_is_the_one_with_the_nearest_edge():
    env = get_env(SEARCH, zones=((0.5, 0.8, 0.05), (0.5, 0.1, 0.3)))
    view = env.costs[1].extra_obs(searchers_at([[0.5, 0.5]] * 3, [0.0] * 3))
    np.testing.assert_allclose(view, [[0, -0.4, 0.1]] * 3, atol=1e-6)


def test_lengths_are_shares_of_the_side_of_the_area():
    small, large = get_env(SEARCH), get_env(SEARCH, env_size=2.0)
    places = np.array([[0.25, 0.25], [0.31, 0.25], [0.5, 0.02]])
    one, two = searchers_at(places, [0.0] * 3), searchers_at(2 * places, [0.0] * 3)
    for cost, same in zip(small.costs, large.costs, strict=True):
        assert (
            cost.fn(one, None, one).tolist()
            == same.fn(two, None, two).tolist()
            == [True, True, False]
        )
    np.testing.assert_allclose(
        small.costs[1].extra_obs(one), large.costs[1].extra_obs(two), atol=1e-6
    )


# Random play against plain formulas


def plain_cleaner(previous, action, next_state):
    cells = next_state.agents_locations
    free = [sum(cell) <= 2 for cell in cells]
    separate = lambda a, b: sum(abs(a - b))  # noqa: E731
    return [
        [
            sum(
                j != i and not free[i] and not free[j] and separate(a, cells[j]) <= 1
                for j in range(3)
            )
        ]
        for i, a in enumerate(cells)
    ]


def plain_warehouse(previous, action, next_state):
    x, y = next_state.agents.position
    return [
        [float(any(j != i and abs(x[i] - x[j]) + abs(y[i] - y[j]) <= 1 for j in range(3)))]
        for i in range(3)
    ]


def plain_foraging(previous, action, next_state):
    def fruit(position):
        new = next_state.food_items.eaten & ~previous.food_items.eaten
        return any(
            new[f] and abs(p - position).sum() == 1
            for f, p in enumerate(next_state.food_items.position)
        )

    return [
        [float(action[i] == LOAD and not fruit(next_state.agents.position[i]))] for i in range(2)
    ]


def torus(a, b):
    gap = np.abs(a - b)
    return np.linalg.norm(np.minimum(gap, 1 - gap))


def plain_search(previous, action, next_state):
    pos = next_state.searchers.pos
    near = [any(j != i and torus(pos[i], pos[j]) < 0.2 for j in range(3)) for i in range(3)]
    zones = [any(torus(p, np.array(c)) < 0.15 for c in ((0.25, 0.25), (0.7, 0.65))) for p in pos]
    return np.stack([near, zones], -1).astype(float)


PLAIN = dict(
    zip(SAFE_ENVS, (plain_foraging, plain_warehouse, plain_cleaner, plain_search), strict=True)
)


@pytest.mark.parametrize("env_id", SAFE_ENVS)
def test_random_play_costs_what_the_plain_formulas_say(env_id):
    env, reset, step = compiled(env_id)
    random = np.random.default_rng(0)
    observed = 0.0
    for seed in range(25):
        state, timestep = reset(jax.random.key(seed))
        assert not timestep.cost.any()
        while not timestep.last:
            action = legal_action(env.spec, timestep.obs.action_mask, random)
            next_state, timestep = step(state, action)
            previous, plain = (
                jax.tree.map(np.asarray, x.replace(key=0)) for x in (state, next_state)
            )
            np.testing.assert_array_equal(
                timestep.cost, PLAIN[env_id](previous, np.asarray(action), plain)
            )
            observed, state = observed + np.asarray(timestep.cost).sum(0), next_state
    assert (observed > 0).all(), "every cost was met"


def test_costs_of_a_batch_equal_those_of_single_envs():
    env, _reset, step = compiled(CLEANER)
    states = [
        cleaner_with(cells)[1] for cells in ([[2, 1], [1, 3], [3, 4]], [[2, 3], [3, 2], [4, 3]])
    ]
    actions = jnp.array([[RIGHT, DOWN, LEFT], [DOWN, RIGHT, UP]])
    together = jax.tree.map(lambda *x: jnp.stack(x), *states)
    _, timesteps = jax.jit(jax.vmap(env.step))(together, actions)
    assert timesteps.cost[:, :, 0].tolist() == [[1, 2, 1], [2, 2, 2]]
    for state, action, cost in zip(states, actions, timesteps.cost, strict=True):
        np.testing.assert_array_equal(step(state, action)[1].cost, cost)


def test_play_is_the_scenarios():
    same = LBF.replace("safe", "jumanji")
    assert SAFE_ENVS[LBF] == ENVS[same]
    for (_, mine), (_, other) in zip(play(LBF, 4), play(same, 4), strict=True):
        for x, y in zip(
            jax.tree.leaves(mine._replace(cost=0)),
            jax.tree.leaves(other._replace(cost=0)),
            strict=True,
        ):
            np.testing.assert_array_equal(x, y)


def test_limits_can_be_given():
    assert make("safe/cleaner-5x5x3a", cost_limit=4).spec.cost_limits == (4.0,)
    assert make("safe/cleaner-5x5x3a", cost_limit=[1, 2, 3]).spec.cost_limits == ((1.0, 2.0, 3.0),)
    individual = make("safe/search-and-rescue-2s-3t").spec.cost_limits
    inputs = make("safe/search-and-rescue-2s-3t", cost_limit={"closed_zone": (1, 2)})
    assert inputs.spec.cost_limits == (individual[0], (1.0, 2.0))
    assert (
        dataclasses.replace(inputs.spec, cost_limits=individual)
        == make("safe/search-and-rescue-2s-3t").spec
    )


def test_limits_grow_with_the_episode():
    short, long = (make("safe/cleaner-5x5x3a", time_limit=t).spec.cost_limits[0] for t in (10, 40))
    assert long == pytest.approx(4 * short)


def test_a_video_of_search_and_rescue_shows_its_zones(tmp_path):
    """A zone tints a circle at its place, in proportion to its area."""

    def tinted(zone):
        env = make("safe/search-and-rescue-2s-40t", zones=(zone,))
        state, _ = jax.jit(env.reset)(jax.random.key(0))
        with Image.open(env.animate([state], tmp_path / "zones.gif")) as film:
            pixels = np.asarray(film.convert("RGB"), int)
        shade = np.abs(pixels - np.array([247, 223, 204])).max(-1) < 12  # a fifth orange on white
        rows, columns = np.nonzero(shade)
        return len(rows), rows.mean() / shape, columns.mean() / shape

    shape = 500  # pixels of a side; the arena is the part from 1/12 to 11/12, and y points up
    large, small, elsewhere = map(tinted, ((0.2, 0.2, 0.16), (0.2, 0.2, 0.08), (0.7, 0.8, 0.08)))
    assert 3.5 < large[0] / small[0] < 4.5
    for zone, (x, y) in ((large, (0.2, 0.2)), (small, (0.2, 0.2)), (elsewhere, (0.7, 0.8))):
        place = (1 + 10 * (1 - y)) / 12, (1 + 10 * x) / 12
        np.testing.assert_allclose(zone[1:], place, atol=0.03)
