"""Schedules that end with the run, such as annealed learning rates: what a longer run makes of
them.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxmarl_lite import sharding
from jaxmarl_lite.algorithms import base_config
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.types import TrainState

_MEANING = {"lr_anneal_steps": "the learning rates", "epsilon_steps": "exploration"}


def stretch(states: TrainState, plan: RunConfig) -> tuple[TrainState, list[str]]:
    """Resolves the shares in a run's config for its length, which may be longer than when the
    states were made.

    Args:
        states: of all seeds, as restored; every leaf leads with ``[seeds]``.
        plan: of the run that goes on.

    Returns: The states, their configs brought up to date, and a sentence for every schedule that
        changed.
    """
    stored, changed, sentences = states.learner_state.config, {}, []
    done = float(_first_seed(states.num_updates)) * plan.batch_steps
    for share, steps in base_config.shares_of(type(plan.config)).items():
        before, now = (
            _first_seed(getattr(stored, steps)),
            float(getattr(plan.learner_config, steps)),
        )
        if getattr(plan.config, share) and before != np.asarray(now, before.dtype):
            changed[steps] = now
            sentences.append(
                f"{_MEANING[steps]} ({share}): the schedule of {before:,.0f} steps is stretched "
                f"to {now:,.0f}; it goes "
                f"on at a factor of {_factor(done, now):.3g}, where it stood at "
                f"{_factor(done, float(before)):.3g}"
            )

    def put(path: Any, leaf: Any) -> Any:
        if len(path) > 1 or path[0].name not in changed:
            return leaf
        return jax.device_put(np.full(leaf.shape, changed[path[0].name], leaf.dtype), leaf.sharding)

    if not changed:
        return states, []
    config = jax.tree_util.tree_map_with_path(put, stored)
    return states._replace(learner_state=states.learner_state._replace(config=config)), sentences


def warnings(plan: RunConfig) -> list[str]:
    """A sentence if the learning rates are 0 for a part of the run."""
    steps, total = plan.learner_config.lr_anneal_steps, plan.num_updates * plan.batch_steps
    if not 0 < steps < total - plan.batch_steps:
        return []
    return [
        f"lr_anneal_steps is {steps:,.0f}: nothing is learned in the last {total - steps:,.0f} of "
        f"{total:,} steps"
    ]


def _factor(done: float, steps: float) -> float:
    """What a schedule that falls linearly over ``steps`` multiplies by after ``done`` steps."""
    return max(0.0, 1.0 - done / max(steps, 1.0))


def _first_seed(leaf: Any) -> np.ndarray:
    return np.ravel(sharding.fetch(leaf))[0]
