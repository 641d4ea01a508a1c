"""Environments by name."""

import re

import jax
import pytest
from jumanji.environments.routing.connector.reward import SharedDenseRewardFn
from jumanji.environments.routing.lbf.generator import RandomGenerator

from jaxmarl_lite.envs import keywords_of, list_environments, make


def count_compilations(action):
    """How many programs were compiled while ``action`` ran."""
    observed = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: observed.append(event) if "backend_compile" in event else None
    )
    try:
        action()
    finally:
        jax.monitoring.clear_event_listeners()
    return len(observed)


def test_the_list_and_the_specs_compile_nothing():
    assert count_compilations(lambda: jax.jit(lambda x: x * 3.7)(1.0)) > 0, "the counter counts"
    assert count_compilations(list_environments) == 0
    env = make("jumanji/lbf-2s-6x6-2p-1f", time_limit=7)
    assert count_compilations(lambda: env.spec) == 0
    assert env.spec.max_episode_steps == 7


@pytest.mark.parametrize(("env_id", "message"), list_environments())
def test_every_listed_name_is_what_the_list_says(env_id, message):
    spec = make(env_id).spec
    assert spec.name == env_id
    assert message.startswith(f"{spec.num_agents} agents") and message.endswith(
        f"at most {spec.max_episode_steps} steps"
    )
    number = re.search(r"(\d+) (actions|continuous)", message)
    if number:
        assert int(number[1]) == spec.action_size
        assert ("continuous" in number[2]) == (spec.action_type == "continuous")


def test_foraging_names():
    inside = make("jumanji/lbf-2s-10x10-3p-4f").unwrapped
    assert (inside.grid_size, inside.fov, inside.num_agents, inside.num_food) == (10, 2, 3, 4)
    assert not inside._generator.force_coop and inside.time_limit == 100
    full = make("jumanji/lbf-8x8-2p-2f-coop").unwrapped
    assert full.fov == 8 and full._generator.force_coop


@pytest.mark.parametrize(
    ("name", "rows", "columns", "agents", "queue"),
    [
        ("tiny-2ag", 1, 3, 2, 2),
        ("tiny-4ag-easy", 1, 3, 4, 8),
        ("small-4ag-hard", 2, 3, 4, 2),
        ("medium-3ag-hard", 2, 5, 3, 1),
        ("large-6ag", 3, 5, 6, 6),
    ],
)
def test_warehouse_names(name, rows, columns, agents, queue):
    generator = make(f"jumanji/rware-{name}").unwrapped._generator
    result = (
        generator.shelf_rows,
        generator.shelf_columns,
        generator.num_agents,
        generator.request_queue_size,
    )
    assert result == (rows, columns, agents, queue)
    assert (generator.column_height, generator.sensor_range) == (8, 1)


def test_the_fields_short_names():
    assert (
        make("jumanji/con-5x5x3a").spec.num_agents
        == make("jumanji/clean-5x5x3a").spec.num_agents
        == 3
    )


def test_keywords_reach_jumanji():
    env = make("jumanji/lbf-8x8-2p-2f", max_agent_level=4, time_limit=9, normalize_reward=False)
    assert env.unwrapped._generator.max_agent_level == 4
    assert (
        env.spec.max_episode_steps == 9
        and env.spec.max_return is None
        and "levels" in env.spec.return_description
    )
    generator = RandomGenerator(grid_size=6, num_agents=3, num_food=1, fov=6)
    custom = make(
        "jumanji/LevelBasedForaging-v0", generator=generator, time_limit=5, reward="individual"
    )
    assert (custom.spec.num_agents, custom.spec.max_episode_steps, custom.spec.reward_type) == (
        3,
        5,
        "individual",
    )


@pytest.mark.parametrize(
    ("env_id", "subset"),
    [
        ("smax/3m", {"reward", "enemy_shoots"}),
        ("mpe/spread-3a", {"action_type", "local_ratio"}),
        ("overcooked/cramped-room", {"shaping"}),
        ("toy/relay", {"steps"}),
        ("delayed/toy/relay", {"steps"}),
        ("jumanji/lbf-2s-8x8-2p-2f-coop", {"reward", "time_limit"}),
        ("jumanji/LevelBasedForaging-v0", {"reward"}),
        ("safe/search-and-rescue-2s-40t", {"cost_limit"}),
        ("safe-mujoco/ant-2x4", {"cost_limit"}),
    ],
)
def test_the_keywords_of_a_name(env_id, subset):
    assert subset <= set(keywords_of(env_id))
    with pytest.raises(ValueError, match="environment is"):
        keywords_of(env_id.replace("/", ""))


def test_the_same_call_gives_the_same_object():
    assert make("toy/memory", delay=2) is make("toy/memory", delay=2)
    assert make("jumanji/lbf-8x8-2p-2f", time_limit=9) is make(
        "jumanji/lbf-8x8-2p-2f", time_limit=9
    )
    assert make("toy/memory", delay=2) is not make("toy/memory", delay=3)
    limit = {"separation": [1.0, 2.0], "closed_zone": 3}
    assert make("safe/search-and-rescue-2s-3t", cost_limit=limit) is make(
        "safe/search-and-rescue-2s-3t", cost_limit=dict(limit)
    )
    assert make("safe/cleaner-5x5x2a", distance=2) is not make("safe/cleaner-5x5x2a")
    table = [[1.0, 0.0], [0.0, 1.0]]
    assert (
        make("toy/payoff", payoff=table).spec.max_return == 1.0
    )  # cannot be hashed, and is not cached


@pytest.mark.parametrize(
    ("env_id", "keywords", "message"),
    [
        ("toy/memroy", {}, "environment is 'toy/memroy'.*nearest: .*toy/memory"),
        ("lbf-8x8-2p-2f", {}, r"environment is .*jumanji/lbf-\[<sight>s-\]<grid>x<grid>"),
        (
            "jumanji/connector-5x5x99a",
            {},
            "connector-5x5x99a: num_agents is 99; allowed is 12 at most on 25 cells",
        ),
        (
            "jumanji/rware-tiny-0ag",
            {},
            "rware-tiny-0ag: num_agents is 0; allowed is a whole number, 1 or more",
        ),
        (
            "jumanji/lbf-8x8-2p-2f",
            {"grid_size": "x"},
            "grid_size is 'x'; allowed is a whole number",
        ),
        ("jumanji/lbf-8x8-2p-2f", {"time_limit": 0}, "time_limit is 0; allowed is a whole number"),
        ("jumanji/lbf-8x8-2p-2f", {"viewer": 1}, "viewer is 1; allowed is a jumanji.viewer.Viewer"),
        (
            "jumanji/lbf-8x8-2p-2f",
            {"generator": 1},
            "generator is 1; allowed is a jumanji.*RandomGenerator",
        ),
        ("toy/counter", {"goal": 3.5}, "toy/counter: goal is 3.5; allowed is a whole number"),
        (
            "toy/climbing",
            {"payoff": 5},
            "toy/climbing: payoff is 5; allowed is rows of equally many numbers",
        ),
        (
            "jumanji/rware-tinny-2ag",
            {},
            "Jumanji scenario is 'rware-tinny-2ag'.*nearest: .*rware-tiny-2ag",
        ),
        ("jumanji/LevelBasedForaging-v9", {}, "nearest: .*LevelBasedForaging-v0"),
        ("jumanji/Snake-v1", {}, "Jumanji scenario is 'Snake-v1'.*Connector-v3"),
        (
            "toy/memory",
            {"dealy": 1},
            "keyword of toy/memory is 'dealy'.*cues, delay.*nearest: .*delay",
        ),
        ("jumanji/lbf-8x8-2p-2f", {"rewrd": "team"}, "nearest: .*reward"),
        ("jumanji/lbf-8x8-2p-2f", {"max_level": 3}, "time_limit.*nearest: .*max_agent_level"),
        ("jumanji/Connector-v3", {"timelimit": 3}, "nearest: .*time_limit"),
        ("jumanji/lbf-8x9-2p-2f", {}, "the grid must be square, not 8x9"),
        ("jumanji/lbf-4x4-2p-1f", {}, "lbf-4x4-2p-1f: Grid size must be greater than 5"),
        ("jumanji/multi-cvrp-2v-7c", {}, r"num_customers must be one of \[6, 20, 50, 100, 150\]"),
        (
            "jumanji/rware-tiny-2ag",
            {"reward": "individual"},
            "'individual'; allowed is team .*one number for the whole team",
        ),
        (
            "jumanji/lbf-8x8-2p-2f",
            {"reward": "shared"},
            "reward of .* is 'shared'; allowed is one of team, individual",
        ),
        ("jumanji/cleaner-5x5x2a", {"num_cols": 7}, "5 rows and 7 columns: .*only square grids"),
        ("jumanji/connector-5x5x2a", {"reward_fn": SharedDenseRewardFn()}, "leave 'Shared' away"),
        (
            "jumanji/mmst-2a-12n",
            {"time_limit": 99},
            "time_limit=99 is above the generator's max_step=70",
        ),
        ("saef/cleaner-10x10x3a", {}, "safe/rware-{tiny.*nearest: .*safe/cleaner-10x10x3a"),
        (
            "safe/connector-5x5x2a",
            {},
            "scenario with costs is 'connector-5x5x2a'.*allowed: cleaner-",
        ),
        ("safe/cleaner-5x5x2a", {"distanse": 2}, "cost_limit.*time_limit.*nearest: .*distance"),
        (
            "jumanji/cleaner-5x5x2a",
            {"distance": 2},
            "keyword of cleaner-5x5x2a is 'distance'",
        ),
        (
            "safe/cleaner-5x5x2a",
            {"distance": -1},
            "safe/cleaner-5x5x2a: distance is -1; allowed is a whole number",
        ),
        (
            "safe/cleaner-5x5x2a",
            {"cost_limit": -1.0},
            "cost_limit.* is -1.0; allowed is a number from 0",
        ),
        ("safe/cleaner-5x5x2a", {"cost_limit": {"crwding": 1}}, "nearest: .*crowding"),
        (
            "safe/cleaner-5x5x2a",
            {"cost_limit": (1, 2, 3)},
            "but must be one number or 2, one per agent",
        ),
        (
            "safe/search-and-rescue-2s-3t",
            {"cost_limit": 1.0},
            "a mapping from any of separation, closed_zone",
        ),
        (
            "safe/search-and-rescue-2s-3t",
            {"zones": ()},
            r"zones is \(\), but must be a tuple of \(x, y, radius\)",
        ),
        ("safe/search-and-rescue-2s-3t", {"zones": ((0.1, 0.1, 0.6),)}, "radius between 0 and 0.5"),
        (
            "safe/search-and-rescue-2s-3t",
            {"separation": 0.5},
            "separation is 0.5, but must lie between 0 and 0.5",
        ),
        (
            "jumanji/lbf-8x8-2p-2f",
            {"generator": RandomGenerator(6, 2, 1, 6), "num_food": 2},
            "num_food would be ignored, as generator is given",
        ),
    ],
)
def test_errors_say_what_is_wrong_and_what_is_allowed(env_id, keywords, message):
    with pytest.raises(ValueError, match=message):
        make(env_id, **keywords)


def test_a_single_agent_environment_is_refused():
    from jumanji.environments.routing.snake.env import Snake

    from jaxmarl_lite.envs.jumanji.adapter import JumanjiEnvironment

    with pytest.raises(
        ValueError,
        match="Snake is not one of Jumanji's multi-agent environments; allowed: LevelBased",
    ):
        JumanjiEnvironment(Snake())


def test_names_that_are_none_and_words_for_no_are_refused():
    with pytest.raises(ValueError, match="env_id is None; allowed is a name"):
        make(None)
    with pytest.raises(ValueError, match="agent_id of .* is 'false'; allowed is True or False"):
        make("jumanji/lbf-2s-8x8-2p-2f-coop", agent_id="false")
