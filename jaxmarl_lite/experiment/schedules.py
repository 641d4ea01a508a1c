"""Schedules that end with the run, such as annealed learning rates, when a run is extended."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxmarl_lite import sharding
from jaxmarl_lite.algorithms import base_config
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.types import Array, TrainState

_MEANING = {"lr_anneal_steps": "the learning rates", "epsilon_steps": "exploration"}


def stretch(states: TrainState, plan: RunConfig) -> tuple[TrainState, list[str]]:
    """Adapts the schedules in restored states to the length of the run that continues.

    The config may define a schedule as a share of the run, which may be longer than when the states
    were saved.

    Args:
        states: restored states of all seeds, every leaf ``[S, ...]``.
        plan: plan of the run that continues.

    Returns:
        The states with updated configs, and a sentence for every schedule that changed.
    """
    stored, changed, sentences = states.learner_state.config, {}, []
    done = float(_first_seed(states.num_updates)) * plan.batch_steps
    for share, steps in base_config.shares_of(type(plan.config)).items():
        stored_steps, new_steps = (
            _first_seed(getattr(stored, steps)),
            float(getattr(plan.learner_config, steps)),
        )
        # compared in the precision in which the states hold the config
        if getattr(plan.config, share) and stored_steps != np.asarray(
            new_steps, stored_steps.dtype
        ):
            changed[steps] = new_steps
            sentences.append(
                f"{_MEANING[steps]} ({share}): the schedule of {stored_steps:,.0f} steps is "
                f"stretched to {new_steps:,.0f}; it goes on at a factor of "
                f"{_factor(done, new_steps):.3g}, where it stood at "
                f"{_factor(done, float(stored_steps)):.3g}"
            )

    def updated(path: Any, leaf: Any) -> Any:
        if len(path) > 1 or path[0].name not in changed:
            return leaf
        return jax.device_put(np.full(leaf.shape, changed[path[0].name], leaf.dtype), leaf.sharding)

    if not changed:
        return states, []
    config = jax.tree_util.tree_map_with_path(updated, stored)
    return states._replace(learner_state=states.learner_state._replace(config=config)), sentences


def warnings(plan: RunConfig) -> list[str]:
    """Returns a sentence, in a list, if the learning rates are 0 for a part of the run.

    Args:
        plan: plan of the run.
    """
    steps, total = plan.learner_config.lr_anneal_steps, plan.num_updates * plan.batch_steps
    if not 0 < steps < total - plan.batch_steps:
        return []
    return [
        f"lr_anneal_steps is {steps:,.0f}: nothing is learned in the last {total - steps:,.0f} of "
        f"{total:,} steps"
    ]


def _factor(done: float, steps: float) -> float:
    """Returns the factor after ``done`` steps of a schedule that falls linearly over ``steps``."""
    return max(0.0, 1.0 - done / max(steps, 1.0))


def _first_seed(leaf: Array) -> np.ndarray:
    """Returns the value of the first seed in a leaf ``[S]``."""
    return np.ravel(sharding.fetch(leaf))[0]
