"""Settings that were tuned for an algorithm in one environment; they stand wherever the user gives none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NUM_ENVS, NUM_STEPS = 64, 64
"""Worlds and steps of a rollout where nothing was tuned."""

_FORAGING = {
    "num_envs": 64,
    "num_steps": 64,
    "hidden": (64, 64),
    "critic_lr": 1e-3,
    "entropy_coef": 0.002,
    "num_minibatches": 4,
}

DEFAULTS: dict[tuple[str, str], Mapping[str, Any]] = {
    ("ippo", "jumanji/lbf-2s-8x8-2p-2f-coop"): _FORAGING,
    ("mappo", "jumanji/lbf-2s-8x8-2p-2f-coop"): _FORAGING,
    ("liir", "jumanji/lbf-2s-8x8-2p-2f-coop"): _FORAGING | {"reward_lr": 1e-4},
}
"""(algorithm, environment id) -> ``num_envs``, ``num_steps`` and any field of the algorithm's config."""


def lookup(algorithm: str, env_id: str) -> tuple[int, int, dict[str, Any]]:
    """Worlds, steps of a rollout, and config fields for an algorithm in an environment."""
    found = dict(DEFAULTS.get((algorithm, env_id), {}))
    return found.pop("num_envs", NUM_ENVS), found.pop("num_steps", NUM_STEPS), found
