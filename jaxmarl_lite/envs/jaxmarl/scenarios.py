"""JaxMARL's environments: their names, how each is built, and the adapter's description of each.

The suites are ``smax/...``, ``mpe/...``, ``safe-mpe/...`` and ``overcooked/...``.

Reading a name costs nothing: JaxMARL is imported only when an environment is built.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxmarl_lite.envs import _import
from jaxmarl_lite.envs.errors import (
    Rule,
    at_least,
    check_keywords,
    one_of,
    positive,
    unchecked,
    unknown_name_error,
)
from jaxmarl_lite.envs.jaxmarl.adapter import AdapterSpec, JaxMARLEnvironment
from jaxmarl_lite.envs.jaxmarl.videos import (
    KitchenEnvironment,
    ParticleEnvironment,
    SMAXEnvironment,
)
from jaxmarl_lite.envs.wrappers import Cost, CostWrapper, with_limits
from jaxmarl_lite.types import Array, Environment, PyTree
from jaxmarl_lite.validation import check_bool, check_number

MAPS: dict[str, tuple[int, int]] = {
    "3m": (3, 3),
    "8m": (8, 8),
    "25m": (25, 25),
    "2s3z": (5, 5),
    "3s5z": (8, 8),
    "5m_vs_6m": (5, 6),
    "10m_vs_11m": (10, 11),
    "27m_vs_30m": (27, 30),
    "3s5z_vs_3s6z": (8, 9),
    "3s_vs_5z": (3, 5),
    "6h_vs_8z": (6, 8),
    "smacv2_5_units": (5, 5),
    "smacv2_10_units": (10, 10),
    "smacv2_20_units": (20, 20),
}
"""The numbers of allies and enemies of each of SMAX's maps."""
LAYOUTS = ("cramped-room", "asymm-advantages", "coord-ring", "forced-coord", "counter-circuit")
"""Overcooked's kitchens."""

OLDEST_VERSION = (0, 2)
"""The first version of JaxMARL whose states have the fields that the adapters read."""

_NAMES = {
    "smax": tuple(MAPS),
    "mpe": ("spread-3a", "reference", "speaker-listener"),
    "safe-mpe": ("spread-3a",),
    "overcooked": LAYOUTS,
}
_PATTERNS = _NAMES | {
    "mpe": ("spread-<agents>a", "reference", "speaker-listener"),
    "safe-mpe": ("spread-<agents>a",),
}
_ADAPTER_KEYWORDS = ("reward", "agent_id", "shaping")

_nonnegative = functools.partial(check_number, low=0.0)
_COMMON: dict[str, Rule] = {
    "reward": one_of("team", "individual"),
    "agent_id": check_bool,
    "max_steps": at_least(1),
}
_ACTION_TYPE: dict[str, Rule] = {"action_type": one_of("discrete", "continuous")}
_LOCAL_RATIO: dict[str, Rule] = {"local_ratio": functools.partial(check_number, low=0.0, high=1.0)}
_BATTLE: dict[str, Rule] = {
    "enemy_shoots": check_bool,
    "attack_mode": one_of("closest", "random"),
    "see_enemy_actions": check_bool,
    "walls_cause_death": check_bool,
    "won_battle_bonus": _nonnegative,
    "observation_type": one_of("unit_list", "conic"),
    "world_steps_per_env_step": at_least(1),
    "time_per_step": positive,
    "map_width": at_least(1),
    "map_height": at_least(1),
}
_KITCHEN: dict[str, Rule] = {"shaping": _nonnegative, "random_reset": check_bool}


def examples(suite: str) -> list[tuple[str, str]]:
    """Returns names to start from, each with its agents, actions and episode limit in words.

    Args:
        suite: first part of the names.
    """
    return [(f"{suite}/{name}", _describe(suite, name)) for name in _NAMES[suite]]


def name_patterns(suite: str) -> list[str]:
    """Returns the patterns of the names in a readable form, for messages.

    Args:
        suite: first part of the names.
    """
    return [f"{suite}/{{{','.join(_PATTERNS[suite])}}}"]


def _describe(suite: str, name: str) -> str:
    if suite == "smax":
        allies, enemies = MAPS[name]
        return f"{allies} agents, {5 + enemies} actions, at most 100 steps"
    if suite == "overcooked":
        return "2 agents, 6 actions, at most 400 steps"
    agents, actions = {
        "reference": (2, "50 actions"),
        "speaker-listener": (2, "3 and 5 actions"),
    }.get(name, (3, "5 actions"))
    return f"{agents} agents, {actions}, at most 25 steps"


def build(suite: str, name: str, keywords: Mapping[str, Any]) -> Environment:
    """Builds the environment of a name.

    Args:
        suite: first part of the name.
        name: the part of the name after the suite and the slash.
        keywords: see the package's docstring.

    Returns:
        The environment.

    Raises:
        ValueError: for an unknown name or keyword, or a value that is not allowed.
        MissingPackageError: where JaxMARL is missing or too old.
    """
    env_id = f"{suite}/{name}"
    agents = _num_agents(suite, name)
    if name not in _NAMES[suite] and agents is None:
        known = [f"{suite}/{known}" for known in _NAMES[suite]]
        allowed = f"Allowed in {suite}: {', '.join(_PATTERNS[suite])}."
        raise unknown_name_error("environment", env_id, known, allowed)
    settings = check_keywords(env_id, keywords, _rules(suite, name))
    limit = settings.pop("cost_limit", None)
    for_adapter = {field: settings.pop(field) for field in _ADAPTER_KEYWORDS if field in settings}
    # names and values are checked first, so that their errors do not depend on JaxMARL
    _import.require({"jaxmarl": OLDEST_VERSION})
    with _import.quietly():
        if suite == "smax":
            scenario = _load("smax.smax_env").map_name_to_scenario(name)
            battle = _load("smax").HeuristicEnemySMAX(scenario=scenario, **settings)
            return SMAXEnvironment(battle, smax, env_id, **for_adapter)
        if suite == "overcooked":
            package = _load("overcooked")
            layout = package.overcooked_layouts[name.replace("-", "_")]
            kitchen = package.Overcooked(layout=layout, **settings)
            return KitchenEnvironment(kitchen, overcooked, env_id, **for_adapter)
        class_name, adapter_spec = {
            "reference": ("SimpleReferenceMPE", reference),
            "speaker-listener": ("SimpleSpeakerListenerMPE", speaker_listener),
        }.get(name, ("SimpleSpreadMPE", spread))
        if suite == "safe-mpe":
            # JaxMARL's collision penalty is the agents' own part of the reward: ratio 0 removes it
            adapter_spec, settings["local_ratio"] = spread_without_collisions, 0.0
        settings["action_type"] = settings.get("action_type", "discrete").capitalize()
        if agents is not None:
            settings |= dict(num_agents=agents, num_landmarks=agents)
        particles = getattr(_load("mpe"), class_name)(**settings)
        env = ParticleEnvironment(particles, adapter_spec, env_id, **for_adapter)
        return env if suite == "mpe" else _with_collisions(env, limit)


def _num_agents(suite: str, name: str) -> int | None:
    """Returns the number in ``spread-<agents>a``; None for other names."""
    match = re.fullmatch(r"spread-(\d+)a", name) if suite in ("mpe", "safe-mpe") else None
    if match and int(match[1]) < 1:
        raise ValueError(f"agents of {suite}/{name} is {match[1]}; allowed is 1 or more")
    return int(match[1]) if match else None


def _rules(suite: str, name: str) -> dict[str, Rule]:
    """Returns the keywords that an environment takes, each with the check of its value."""
    if suite == "overcooked":
        return _COMMON | _KITCHEN
    rules = _COMMON | _ACTION_TYPE
    if suite == "smax":
        return rules | _BATTLE
    if suite == "safe-mpe":
        return rules | {"cost_limit": unchecked}
    return rules if name == "speaker-listener" else rules | _LOCAL_RATIO


def _load(module: str) -> Any:
    """Returns a module inside ``jaxmarl.environments``."""
    return _import.load(f"jaxmarl.environments.{module}")


def _with_collisions(env: JaxMARLEnvironment, limit: Any) -> Environment:
    """Returns the environment with collisions as a cost instead of a part of the reward.

    ``c_i`` counts the other agents that touch agent i after the step. Default limit: 1 per episode
    and agent.
    """

    def count_collisions(state: PyTree, action: Array, next_state: PyTree) -> Array:
        agents = jnp.arange(env.spec.num_agents)
        # JaxMARL's `is_collision` is False for an agent with itself
        touches = jax.vmap(jax.vmap(env.unwrapped.is_collision, (None, 0, None)), (0, None, None))(
            agents, agents, next_state.inner
        )
        return touches.sum(-1)

    description = "other agents that an agent touches, summed over steps"
    cost = Cost("collisions", description, count_collisions, limit=1.0)
    try:
        return CostWrapper(env, with_limits((cost,), limit))
    except ValueError as error:
        raise ValueError(f"{env.spec.name}: {error}") from error


def _battle_mask(env: Any, state: PyTree) -> Array:
    legal = env.get_avail_actions(state)
    return jnp.stack([legal[agent] for agent in env.agents]).astype(bool)


def _allies_alive(env: Any, state: PyTree) -> Array:
    return state.state.unit_alive[: env.num_allies]


def _enemies_alive(env: Any, state: PyTree) -> Array:
    return state.state.unit_alive[env.num_allies :]


def _battle_state(env: Any, state: PyTree, obs: dict[str, Array]) -> Array:
    """Returns JaxMARL's state, with positions, cooldowns and types scaled as in observations.

    JaxMARL's vector has the features of every unit, then a team and a type per unit.
    """
    battle, native_state = state.state, obs["world_state"]
    num_units = len(battle.unit_types)
    num_features = len(env.own_features)
    units = native_state[: num_units * num_features].reshape(num_units, num_features)
    # columns 1 and 2 are the position, column 3 is the weapon's cooldown
    cooldown = jnp.clip(
        units[:, 3] / jnp.asarray(env.unit_type_weapon_cooldowns)[battle.unit_types], 0.0, 1.0
    )
    units = (
        units.at[:, 1:3]
        .divide(jnp.asarray([env.map_width, env.map_height], units.dtype))
        .at[:, 3]
        .set(cooldown)
    )
    teams, types = jnp.split(native_state[num_units * num_features :], 2)
    return jnp.concatenate([units.reshape(-1), teams, types / (env.unit_type_bits - 1)])


def _battle_actions(env: Any) -> tuple[str, ...]:
    moves = tuple(f"move {direction}" for direction in ("north", "east", "south", "west"))
    return (*moves, "stop", *(f"attack {i}" for i in range(env.num_enemies)))


smax = AdapterSpec(
    return_description="share of the enemies' health taken, plus the bonus of a win, per episode",
    global_state=_battle_state,
    team_reward_only=True,
    action_mask=_battle_mask,
    alive=_allies_alive,
    is_terminal=lambda env, state: (
        ~_allies_alive(env, state).any() | ~_enemies_alive(env, state).any()
    ),
    is_win=lambda env, state: _allies_alive(env, state).any() & ~_enemies_alive(env, state).any(),
    win_condition="every enemy is dead and an ally alive",
    action_names=_battle_actions,
)
"""Battles; the time limit is no loss, but a truncation."""


def _join_observations(env: Any, state: PyTree, obs: dict[str, Array]) -> Array:
    return jnp.concatenate([obs[agent] for agent in env.agents])


def _particles(team_return: str, team_reward_only: bool, only_moves: bool = False) -> AdapterSpec:
    """Returns a description of particles whose state is the observations of all agents.

    ``team_return`` says in words what the reward sums, and ``only_moves`` that an agent's only
    actions are moves.
    """
    names = (lambda env: ("stay", "left", "right", "down", "up")) if only_moves else None
    return AdapterSpec(
        f"team reward per episode: {team_return}, negative",
        _join_observations,
        team_reward_only,
        action_names=names,
    )


spread = _particles(
    "distances from landmarks to the nearest agent, and collisions",
    team_reward_only=False,
    only_moves=True,
)
spread_without_collisions = _particles(
    "distances from landmarks to the nearest agent", team_reward_only=True, only_moves=True
)
reference = _particles("distances from agents to their landmarks", team_reward_only=False)
speaker_listener = _particles(
    "squared distance from the listener to the landmark", team_reward_only=True
)


def _shaped_reward(infos: dict[str, Any]) -> Array:
    shaped = infos["shaped_reward"]
    return jnp.stack([jnp.asarray(shaped[agent], float) for agent in sorted(shaped)])


overcooked = AdapterSpec(
    return_description="reward of the team per episode, 20 per soup served",
    global_state=lambda env, state, obs: jnp.asarray(obs[env.agents[0]], float).reshape(-1),
    team_reward_only=True,
    shaped_reward=_shaped_reward,
    action_names=lambda env: ("up", "down", "right", "left", "stay", "interact"),
)
"""Overcooked; a cook observes the entire kitchen, itself first, so the first cook's observation is
the state."""
