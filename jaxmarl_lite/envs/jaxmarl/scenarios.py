"""Names of JaxMARL's environments, and how each is built.

The suites are ``smax/...``, ``mpe/...``, ``safe-mpe/...`` and ``overcooked/...``.

Reading a name costs nothing: JaxMARL is imported only when an environment is built.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxmarl_lite.envs.errors import check_names, unknown_name_error
from jaxmarl_lite.envs.jaxmarl import _import
from jaxmarl_lite.types import Array, Environment, PyTree

if TYPE_CHECKING:
    from jaxmarl_lite.envs.jaxmarl.adapter import JaxMARLEnvironment

SUITES = ("smax", "mpe", "safe-mpe", "overcooked")
"""The first parts of the names."""

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

_NAMES = {
    "smax": tuple(MAPS),
    "mpe": ("spread-3a", "reference", "speaker-listener"),
    "safe-mpe": ("spread-3a",),
    "overcooked": LAYOUTS,
}
_PATTERNS = {
    **{suite: ", ".join(names) for suite, names in _NAMES.items()},
    "safe-mpe": "spread-<agents>a",
}
_PATTERNS["mpe"] = "spread-<agents>a, reference, speaker-listener"

_COMMON = ("reward", "agent_id", "max_steps")
_BATTLE = (
    "action_type",
    "enemy_shoots",
    "attack_mode",
    "see_enemy_actions",
    "walls_cause_death",
    "won_battle_bonus",
    "observation_type",
    "world_steps_per_env_step",
    "time_per_step",
    "map_width",
    "map_height",
)
_CHOICES: dict[str, tuple[str | bool, ...]] = {
    "reward": ("team", "individual"),
    "action_type": ("discrete", "continuous"),
    "attack_mode": ("closest", "random"),
    "observation_type": ("unit_list", "conic"),
    **dict.fromkeys(("agent_id", "enemy_shoots", "see_enemy_actions"), (True, False)),
    **dict.fromkeys(("walls_cause_death", "random_reset"), (True, False)),
}
_POSITIVE_INTEGERS = ("max_steps", "world_steps_per_env_step", "map_width", "map_height")


def examples() -> list[tuple[str, str]]:
    """Returns names to start from, each with its agents, actions and episode limit in words."""
    return [
        (f"{suite}/{name}", _describe(suite, name)) for suite in SUITES for name in _NAMES[suite]
    ]


def name_patterns() -> list[str]:
    """Returns the patterns of the names in a readable form, for messages."""
    return [
        "smax/<map>",
        "mpe/{" + _PATTERNS["mpe"].replace(", ", ",") + "}",
        "safe-mpe/spread-<agents>a",
        "overcooked/<kitchen>",
    ]


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
        suite: one of ``SUITES``.
        name: the part of the name after the suite and the slash.
        keywords: see the package's docstring.

    Returns:
        The environment.

    Raises:
        ValueError: for an unknown name or keyword, or a value that is not allowed.
        ImportError: where JaxMARL is missing or too old.
    """
    env_id = f"{suite}/{name}"
    build_suite = {"smax": _build_battle, "overcooked": _build_kitchen}.get(suite, _build_particles)
    agents = _num_agents(suite, name)
    if name not in _NAMES[suite] and agents is None:
        raise unknown_name_error(
            "environment",
            env_id,
            [f"{suite}/{known}" for known in _NAMES[suite]],
            f"Allowed in {suite}: {_PATTERNS[suite]}.",
        )
    check_names(env_id, keywords, _allowed_keywords(suite, name))
    for field, value in keywords.items():
        _check_value(env_id, field, value)
    # names and values are checked first, so that their errors do not depend on JaxMARL
    _import.require(env_id)
    with _import.quietly():
        return build_suite(env_id, name, dict(keywords))


def _num_agents(suite: str, name: str) -> int | None:
    """Returns the number in ``spread-<agents>a``; None for other names."""
    match = re.fullmatch(r"spread-(\d+)a", name) if suite in ("mpe", "safe-mpe") else None
    if match and int(match[1]) < 1:
        raise ValueError(f"agents of {suite}/{name} is {match[1]}; allowed is 1 or more")
    return int(match[1]) if match else None


def _allowed_keywords(suite: str, name: str) -> list[str]:
    if suite == "smax":
        return [*_COMMON, *_BATTLE]
    if suite == "overcooked":
        return [*_COMMON, "shaping", "random_reset"]
    ratio = ["local_ratio"] if suite == "mpe" and name != "speaker-listener" else []
    return [*_COMMON, "action_type", *ratio, *(["cost_limit"] if suite == "safe-mpe" else [])]


def _check_value(env_id: str, field: str, value: object) -> None:
    """Raises ValueError, naming the field, the value and what is allowed."""
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    prefix = f"{field} of {env_id} is {value!r}; allowed is "
    choices = _CHOICES.get(field, ())
    # by identity, because 1 == True
    if choices and not any(
        value is choice or (isinstance(value, str) and value == choice) for choice in choices
    ):
        raise ValueError(prefix + f"one of {', '.join(map(str, choices))}")
    if field in _POSITIVE_INTEGERS and not (isinstance(number, int) and 1 <= number <= 10**9):
        raise ValueError(prefix + "a whole number from 1 up")
    if field == "local_ratio" and not 0 <= number <= 1:
        raise ValueError(prefix + "a share from 0 to 1: of the agents' own part in the reward")
    if field in ("shaping", "won_battle_bonus") and not 0 <= number < math.inf:
        raise ValueError(prefix + "a number from 0 up")
    if field == "time_per_step" and not 0 < number < math.inf:
        raise ValueError(prefix + "seconds above 0")


def _pop_adapter_keywords(
    env_id: str, keywords: dict[str, Any], team_reward_only: bool
) -> dict[str, Any]:
    """Removes the adapter's keywords from ``keywords``, and returns them."""
    if team_reward_only and keywords.get("reward") == "individual":
        raise ValueError(
            f"reward of {env_id} is 'individual'; allowed is team (JaxMARL gives one number to all)"
        )
    return {
        name: keywords.pop(name) for name in ("reward", "agent_id", "shaping") if name in keywords
    }


def _build_battle(env_id: str, name: str, keywords: dict[str, Any]) -> Environment:
    package, maps = _import.load("smax"), _import.load("smax.smax_env")
    from jaxmarl_lite.envs.jaxmarl import smax_environment
    from jaxmarl_lite.envs.jaxmarl.env_specs import smax

    for_adapter = _pop_adapter_keywords(env_id, keywords, smax.team_reward_only)
    env = package.HeuristicEnemySMAX(scenario=maps.map_name_to_scenario(name), **keywords)
    return smax_environment.SMAXEnvironment(env, smax, env_id, **for_adapter)


def _build_kitchen(env_id: str, name: str, keywords: dict[str, Any]) -> Environment:
    package = _import.load("overcooked")
    from jaxmarl_lite.envs.jaxmarl.adapter import JaxMARLEnvironment
    from jaxmarl_lite.envs.jaxmarl.env_specs import overcooked

    for_adapter = _pop_adapter_keywords(env_id, keywords, overcooked.team_reward_only)
    env = package.Overcooked(layout=package.overcooked_layouts[name.replace("-", "_")], **keywords)
    return JaxMARLEnvironment(env, overcooked, env_id, **for_adapter)


def _build_particles(env_id: str, name: str, keywords: dict[str, Any]) -> Environment:
    package = _import.load("mpe")
    from jaxmarl_lite.envs.jaxmarl import env_specs
    from jaxmarl_lite.envs.jaxmarl.adapter import JaxMARLEnvironment

    suite = env_id.partition("/")[0]
    agents = _num_agents(suite, name)
    env_class, adapter_spec = {
        "reference": (package.SimpleReferenceMPE, env_specs.reference),
        "speaker-listener": (package.SimpleSpeakerListenerMPE, env_specs.speaker_listener),
    }.get(name, (package.SimpleSpreadMPE, env_specs.spread))
    limit = keywords.pop("cost_limit", None)
    if suite == "safe-mpe":
        # JaxMARL's collision penalty is the agents' own part of the reward: ratio 0 removes it
        adapter_spec, keywords["local_ratio"] = env_specs.spread_without_collisions, 0.0
    for_adapter = _pop_adapter_keywords(env_id, keywords, adapter_spec.team_reward_only)
    keywords["action_type"] = keywords.get("action_type", "discrete").capitalize()
    sizes = {} if agents is None else {"num_agents": agents, "num_landmarks": agents}
    env = JaxMARLEnvironment(env_class(**sizes, **keywords), adapter_spec, env_id, **for_adapter)
    return env if suite == "mpe" else _with_collisions(env, limit)


def _with_collisions(env: JaxMARLEnvironment, limit: Any) -> Environment:
    """Returns the environment with collisions as a cost instead of a part of the reward.

    ``c_i`` counts the other agents that touch agent i after the step. Default limit: 1 per episode
    and agent.
    """
    import jax
    import jax.numpy as jnp

    from jaxmarl_lite.envs.jumanji.cost_functions import with_limits
    from jaxmarl_lite.envs.wrappers.costs import Cost, CostWrapper

    def count_collisions(state: PyTree, action: Array, next_state: PyTree) -> Array:
        agents = jnp.arange(env.spec.num_agents)
        # JaxMARL's `is_collision` is False for an agent with itself
        touches = jax.vmap(jax.vmap(env.unwrapped.is_collision, (None, 0, None)), (0, None, None))(
            agents, agents, next_state.inner
        )
        return touches.sum(-1)

    cost = Cost(
        "collisions",
        "other agents that an agent touches, summed over steps",
        count_collisions,
        limit=1.0,
    )
    try:
        return CostWrapper(env, with_limits((cost,), limit))
    except ValueError as error:
        raise ValueError(f"{env.spec.name}: {error}") from error
