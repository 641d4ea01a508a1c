"""Tiny environments whose best return is known, for tests and first steps.

All have two agents (``pursuit`` may have more) and give every agent the team's reward unless
configured otherwise. ``budget``, ``budget-two`` and ``risky`` have costs and limits, and a method
that computes the best return within the limits; the others cost nothing.
"""

from __future__ import annotations

from typing import Any

from jaxmarl_lite.envs.toys.constrained import Budget, Risky
from jaxmarl_lite.envs.toys.games import Counter, MatrixGame, Memory
from jaxmarl_lite.envs.toys.heterogeneous import HeterogeneousActions, Reach
from jaxmarl_lite.envs.toys.pursuit import Pursuit
from jaxmarl_lite.envs.toys.relay import Relay
from jaxmarl_lite.types import EnvSpec

TOYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "coordination": (MatrixGame, {"payoff": ((1.0, 0.0), (0.0, 0.5)), "agent_id": True}),
    "climbing": (
        MatrixGame,
        {"payoff": ((11.0, -30.0, 0.0), (-30.0, 7.0, 6.0), (0.0, 0.0, 5.0)), "agent_id": True},
    ),
    "payoff": (MatrixGame, {"payoff": ((1.0, 0.0), (0.0, 0.5))}),
    "memory": (Memory, {}),
    "reach": (Reach, {}),
    "reach-unequal": (Reach, {"dims": (2, 1)}),
    "counter": (Counter, {}),
    "pursuit": (Pursuit, {}),
    "relay": (Relay, {}),
    "unequal": (HeterogeneousActions, {}),
    "mortal": (HeterogeneousActions, {"lifetimes": (4, 2)}),
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


def summary(name: str) -> str:
    """Describes the agents, actions and episode limit of a toy in words.

    Args:
        name: Toy's name, a key of `TOYS`.

    Returns:
        The description.
    """
    toy, fields = TOYS[name]
    spec: EnvSpec = toy(**fields).spec
    kind = "actions" if spec.action_type == "discrete" else "continuous dimensions"
    return (
        f"{spec.num_agents} agents, {spec.action_size} {kind}, at most "
        f"{spec.max_episode_steps} steps"
    )
