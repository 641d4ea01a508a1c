"""Tiny environments whose best return is known, for tests and first steps.

All have two agents (``pursuit`` may have more) and give every agent the team's reward unless
configured otherwise. ``budget``, ``budget-two`` and ``risky`` have costs and limits, and a method
that computes the best return within the limits; the others cost nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxmarl_lite.envs.errors import check_names, unknown_name_error
from jaxmarl_lite.envs.toys.constrained import Budget, Risky
from jaxmarl_lite.envs.toys.games import (
    Counter,
    HeterogeneousActions,
    MatrixGame,
    Memory,
    Pursuit,
    Reach,
    Relay,
)
from jaxmarl_lite.types import Environment, EnvSpec

TOYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "coordination": (MatrixGame, {"payoff": ((1.0, 0.0), (0.0, 0.5)), "agent_id": True}),
    "climbing": (
        MatrixGame,
        {"payoff": ((11.0, -30.0, 0.0), (-30.0, 7.0, 6.0), (0.0, 0.0, 5.0)), "agent_id": True},
    ),
    "payoff": (MatrixGame, {"payoff": ((1.0, 0.0), (0.0, 0.5))}),
    "memory": (Memory, {}),
    "reach": (Reach, {}),
    "reach-heterogeneous": (Reach, {"dims": (2, 1)}),
    "counter": (Counter, {}),
    "pursuit": (Pursuit, {}),
    "relay": (Relay, {}),
    "heterogeneous": (HeterogeneousActions, {}),
    "early-death": (HeterogeneousActions, {"lifetimes": (4, 2)}),
    "budget": (Budget, {}),
    "budget-two": (
        Budget,
        {
            "rewards": ((0.0, 2.0, 1.5, 3.0), (0.0, 1.5, 2.0, 3.0)),
            "costs": ((0.0, 2.0, 1.0, 4.0), (0.0, 1.0, 2.0, 4.0)),
            "limits": (5.0, (5.0, 4.0)),
            "cost_names": ("energy", "noise"),
        },
    ),
    "risky": (Risky, {}),
}
"""Toy's name -> its class, and the fields that differ from the class's defaults."""


def examples(suite: str) -> list[tuple[str, str]]:
    """Returns the names of the toys, each with its agents, actions and episode limit in words.

    Args:
        suite: ``toy``.
    """
    rows = []
    for name, (toy, fields) in TOYS.items():
        spec: EnvSpec = toy(**fields).spec
        kind = "actions" if spec.action_type == "discrete" else "continuous dimensions"
        sizes = f"{spec.num_agents} agents, {spec.action_size} {kind}"
        rows.append((f"{suite}/{name}", f"{sizes}, at most {spec.max_episode_steps} steps"))
    return rows


def name_patterns(suite: str) -> list[str]:
    """Returns the names of the toys, for messages.

    Args:
        suite: ``toy``.
    """
    return [f"{suite}/{name}" for name in TOYS]


def build(suite: str, name: str, keywords: Mapping[str, Any]) -> Environment:
    """Builds a toy.

    Args:
        suite: ``toy``.
        name: a key of `TOYS`.
        keywords: fields of its class.

    Returns:
        The toy.

    Raises:
        ValueError: for an unknown name or field, or a value that is not allowed.
    """
    env_id = f"{suite}/{name}"
    if name not in TOYS:
        raise unknown_name_error("environment", env_id, name_patterns(suite))
    toy, fixed = TOYS[name]
    fields = [field.name for field in dataclasses.fields(toy) if field.name != "name"]
    check_names(env_id, keywords, fields)
    return toy(name=env_id, **{**fixed, **keywords})
