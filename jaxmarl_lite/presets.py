"""Settings that were tuned for an algorithm in one environment; they stand wherever the user gives none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NUM_ENVS, NUM_STEPS = 64, 64
"""Worlds and steps of a rollout where nothing was tuned."""

DEFAULTS: dict[tuple[str, str], Mapping[str, Any]] = {}
"""(algorithm, environment id) -> ``num_envs``, ``num_steps`` and any field of the algorithm's config."""


def lookup(algorithm: str, env_id: str) -> tuple[int, int, dict[str, Any]]:
    """Worlds, steps of a rollout, and config fields for an algorithm in an environment."""
    found = dict(DEFAULTS.get((algorithm, env_id), {}))
    return found.pop("num_envs", NUM_ENVS), found.pop("num_steps", NUM_STEPS), found
