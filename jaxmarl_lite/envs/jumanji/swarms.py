"""Adapter specification of Jumanji's continuous environment, search and rescue."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jumanji.environments.swarms.search_and_rescue.reward import IndividualRewardFn

from jaxmarl_lite.envs.jumanji.adapter_spec import (
    AdapterSpec,
    Env,
    NativeObs,
    State,
    concat_features,
    flatten,
)
from jaxmarl_lite.types import Array

# Search and rescue. Jumanji calls its time limit a termination. Its default reward falls with time
# to 0 at the limit, so time is part of the observation, and a critic can learn that the return to
# come is 0 there.


def _progress(env: Env, native_obs: NativeObs) -> Array:
    """Returns the share of targets still missing and the share of the time elapsed, ``[2]``."""
    return jnp.stack(
        [jnp.asarray(native_obs.targets_remaining, float), native_obs.step / env.time_limit]
    )


def _search_view(env: Env, state: State, native_obs: NativeObs) -> Array:
    """Returns each searcher's distances along its rays, then the progress, ``[N, O]``.

    The distances are scaled as in Jumanji: the share of the range; -1 for an empty ray.
    """
    return concat_features([native_obs.searcher_views], [_progress(env, native_obs)])


def _search_state(env: Env, state: State, native_obs: NativeObs) -> Array:
    """Returns positions, headings and speeds of the searchers, the targets, and progress, ``[S]``.

    Positions are shares of the arena's side, headings are cosine and sine, and speeds shares of the
    highest one.
    """
    searchers, targets = state.searchers, state.targets
    size, max_speed = env.generator.env_size, env.searcher_params.max_speed
    heading = (jnp.cos(searchers.heading), jnp.sin(searchers.heading))
    searcher_features = (searchers.pos / size, *heading, searchers.speed / max_speed)
    return flatten(
        *searcher_features,
        targets.pos / size,
        targets.vel / max_speed,
        targets.found,
        _progress(env, native_obs),
    )


def _search_mask(env: Env, state: State, native_obs: NativeObs) -> Array:
    return jnp.ones(env.action_spec.shape, bool)


def _search_bounds(env: Env) -> tuple[np.ndarray, np.ndarray]:
    spec = env.action_spec
    low, high = (
        np.broadcast_to(np.asarray(x), spec.shape)[0] for x in (spec.minimum, spec.maximum)
    )
    return low, high


def _search_return_description(env: Env) -> str:
    reward = env._reward_fn
    if type(reward) is not IndividualRewardFn:
        return f"sum over agents and steps of Jumanji's {type(reward).__name__}"
    worth = (
        "each worth 1 at first, falling to 0 at the time limit"
        if reward.scale_rewards
        else "each worth 1"
    )
    shared = "" if reward.split_rewards else ", counted once for every finder"
    return f"targets found by the team per episode, {worth}{shared}"


search_and_rescue = AdapterSpec(
    agents_view=_search_view,
    global_state=_search_state,
    action_mask=_search_mask,
    is_terminal=lambda env, state, action, next_state: next_state.targets.found.all(),
    return_description=_search_return_description,
    individual=True,
    bounds=_search_bounds,
)
