"""Names of JaxMARL's environments: ``smax/...``, ``mpe/...``, ``safe-mpe/...``, ``overcooked/...``.

Reading a name costs nothing: JaxMARL is imported only when an environment is built.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from jaxmarl_lite.envs.errors import check_names, unknown_name_error
from jaxmarl_lite.envs.jaxmarl import _import

SUITES = ("smax", "mpe", "safe-mpe", "overcooked")

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
"""SMAX's maps -> allies and enemies."""
LAYOUTS = ("cramped-room", "asymm-advantages", "coord-ring", "forced-coord", "counter-circuit")

_NAMES = {
    "smax": tuple(MAPS),
    "mpe": ("spread-3a", "reference", "speaker-listener"),
    "safe-mpe": ("spread-3a",),
    "overcooked": LAYOUTS,
}
_FORMS = {
    **{room: ", ".join(names) for room, names in _NAMES.items()},
    "safe-mpe": "spread-<agents>a",
}
_FORMS["mpe"] = "spread-<agents>a, reference, speaker-listener"

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
_CHOICES: dict[str, tuple[Any, ...]] = {
    "reward": ("team", "individual"),
    "action_type": ("discrete", "continuous"),
    "attack_mode": ("closest", "random"),
    "observation_type": ("unit_list", "conic"),
    **dict.fromkeys(("agent_id", "enemy_shoots", "see_enemy_actions"), (True, False)),
    **dict.fromkeys(("walls_cause_death", "random_reset"), (True, False)),
}
_WHOLE = ("max_steps", "world_steps_per_env_step", "map_width", "map_height")


def examples() -> list[tuple[str, str]]:
    """Names to start from, each with its agents and actions in words."""
    return [(f"{room}/{name}", _describe(room, name)) for room in SUITES for name in _NAMES[room]]


def name_patterns() -> list[str]:
    """The patterns of the names, as a person reads them."""
    return [
        "smax/<map>",
        "mpe/{" + _FORMS["mpe"].replace(", ", ",") + "}",
        "safe-mpe/spread-<agents>a",
        "overcooked/<kitchen>",
    ]


def _describe(room: str, name: str) -> str:
    if room == "smax":
        allies, enemies = MAPS[name]
        return f"{allies} agents, {5 + enemies} actions, at most 100 steps"
    if room == "overcooked":
        return "2 agents, 6 actions, at most 400 steps"
    agents, actions = {
        "reference": (2, "50 actions"),
        "speaker-listener": (2, "3 and 5 actions"),
    }.get(name, (3, "5 actions"))
    return f"{agents} agents, {actions}, at most 25 steps"


def build(room: str, name: str, keywords: Mapping[str, Any]) -> Any:
    """The environment of a name; ValueError for an unknown name or keyword, ImportError without
    JaxMARL.
    """
    env_id, maker = (
        f"{room}/{name}",
        {"smax": _battle, "overcooked": _kitchen}.get(room, _particles),
    )
    agents = _agents(room, name)
    if name not in _NAMES[room] and agents is None:
        raise unknown_name_error(
            "environment",
            env_id,
            [f"{room}/{known}" for known in _NAMES[room]],
            f"Allowed in {room}: {_FORMS[room]}.",
        )
    check_names(env_id, keywords, _allowed(room, name))
    for field, value in keywords.items():
        _check(env_id, field, value)
    _import.require(env_id)
    with _import.quietly():
        return maker(env_id, name, dict(keywords))


def _agents(room: str, name: str) -> int | None:
    """The number in ``spread-<agents>a``; None for other names."""
    found = re.fullmatch(r"spread-(\d+)a", name) if room in ("mpe", "safe-mpe") else None
    if found and int(found[1]) < 1:
        raise ValueError(f"agents of {room}/{name} is {found[1]}; allowed is 1 or more")
    return int(found[1]) if found else None


def _allowed(room: str, name: str) -> list[str]:
    if room == "smax":
        return [*_COMMON, *_BATTLE]
    if room == "overcooked":
        return [*_COMMON, "shaping", "random_reset"]
    own = ["local_ratio"] if room == "mpe" and name != "speaker-listener" else []
    return [*_COMMON, "action_type", *own, *(["cost_limit"] if room == "safe-mpe" else [])]


def _check(env_id: str, field: str, value: Any) -> None:
    """Raise ValueError, naming the field, the value and what is allowed."""
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    wrong = f"{field} of {env_id} is {value!r}; allowed is "
    choices = _CHOICES.get(field, ())
    if choices and not any(
        value is choice or (isinstance(value, str) and value == choice) for choice in choices
    ):
        raise ValueError(wrong + f"one of {', '.join(map(str, choices))}")
    if field in _WHOLE and not (isinstance(number, int) and 1 <= number <= 10**9):
        raise ValueError(wrong + "a whole number from 1 up")
    if field == "local_ratio" and not 0 <= number <= 1:
        raise ValueError(wrong + "a share from 0 to 1: of the agents' own part in the reward")
    if field in ("shaping", "won_battle_bonus") and not 0 <= number < math.inf:
        raise ValueError(wrong + "a number from 0 up")
    if field == "time_per_step" and not 0 < number < math.inf:
        raise ValueError(wrong + "seconds above 0")


def _for_adapter(env_id: str, keywords: dict[str, Any], shared: bool) -> dict[str, Any]:
    if shared and keywords.get("reward") == "individual":
        raise ValueError(
            f"reward of {env_id} is 'individual'; allowed is team (JaxMARL gives one number to all)"
        )
    return {
        name: keywords.pop(name) for name in ("reward", "agent_id", "shaping") if name in keywords
    }


def _battle(env_id: str, name: str, keywords: dict[str, Any]) -> Any:
    package, maps = _import.load("smax"), _import.load("smax.smax_env")
    from jaxmarl_lite.envs.jaxmarl import smax_environment
    from jaxmarl_lite.envs.jaxmarl.env_specs import smax

    given = _for_adapter(env_id, keywords, smax.team_reward_only)
    env = package.HeuristicEnemySMAX(scenario=maps.map_name_to_scenario(name), **keywords)
    return smax_environment.SMAXEnvironment(env, smax, env_id, **given)


def _kitchen(env_id: str, name: str, keywords: dict[str, Any]) -> Any:
    package = _import.load("overcooked")
    from jaxmarl_lite.envs.jaxmarl.adapter import JaxMARLEnvironment
    from jaxmarl_lite.envs.jaxmarl.env_specs import overcooked

    given = _for_adapter(env_id, keywords, overcooked.team_reward_only)
    env = package.Overcooked(layout=package.overcooked_layouts[name.replace("-", "_")], **keywords)
    return JaxMARLEnvironment(env, overcooked, env_id, **given)


def _particles(env_id: str, name: str, keywords: dict[str, Any]) -> Any:
    package = _import.load("mpe")
    from jaxmarl_lite.envs.jaxmarl import env_specs
    from jaxmarl_lite.envs.jaxmarl.adapter import JaxMARLEnvironment

    room = env_id.partition("/")[0]
    agents = _agents(room, name)
    maker, its = {
        "reference": (package.SimpleReferenceMPE, env_specs.reference),
        "speaker-listener": (package.SimpleSpeakerListenerMPE, env_specs.speaker_listener),
    }.get(name, (package.SimpleSpreadMPE, env_specs.spread))
    limit = keywords.pop("cost_limit", None)
    if room == "safe-mpe":
        its, keywords["local_ratio"] = env_specs.spread_apart, 0.0
    given = _for_adapter(env_id, keywords, its.team_reward_only)
    keywords["action_type"] = keywords.get("action_type", "discrete").capitalize()
    sizes = {} if agents is None else {"num_agents": agents, "num_landmarks": agents}
    env = JaxMARLEnvironment(maker(**sizes, **keywords), its, env_id, **given)
    return env if room == "mpe" else _with_collisions(env, limit)


def _with_collisions(env: Any, limit: Any) -> Any:
    """Collisions as a cost instead of a part of the reward.

    ``c_i`` counts the other agents that touch agent i after the step. Default limit: 1 per episode
    and agent.
    """
    import jax
    import jax.numpy as jnp

    from jaxmarl_lite.envs.jumanji.cost_functions import with_limits
    from jaxmarl_lite.envs.wrappers.costs import Cost, CostWrapper

    def of(state: Any, action: Any, after: Any) -> Any:
        inside, each = env.unwrapped, jnp.arange(env.spec.num_agents)
        touch = jax.vmap(jax.vmap(inside.is_collision, (None, 0, None)), (0, None, None))(
            each, each, after.inner
        )
        return touch.sum(-1)

    cost = Cost(
        "collisions", "other agents that an agent touches, summed over steps", of, limit=1.0
    )
    try:
        return CostWrapper(env, with_limits((cost,), limit))
    except ValueError as error:
        raise ValueError(f"{env.spec.name}: {error}") from error
