"""Particulars of Jumanji's continuous world, search and rescue."""

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
# to 0 at the limit, so time is part of the view, and a critic can learn that nothing is left there.


def _progress(env: Env, seen: NativeObs) -> Array:
    """Share of targets still missing and share of the time gone, ``[2]``."""
    return jnp.stack([jnp.asarray(seen.targets_remaining, float), seen.step / env.time_limit])


def _search_view(env: Env, state: State, seen: NativeObs) -> Array:
    """Distances along the rays as Jumanji scales them (share of the range; -1 for nothing), then
    the progress.
    """
    return concat_features([seen.searcher_views], [_progress(env, seen)])


def _search_state(env: Env, state: State, seen: NativeObs) -> Array:
    """Places over the world's side, headings as cosine and sine, speeds over the highest one,
    targets, progress.
    """
    searchers, targets = state.searchers, state.targets
    size, fastest = env.generator.env_size, env.searcher_params.max_speed
    heading = (jnp.cos(searchers.heading), jnp.sin(searchers.heading))
    moving = (searchers.pos / size, *heading, searchers.speed / fastest)
    return flatten(
        *moving, targets.pos / size, targets.vel / fastest, targets.found, _progress(env, seen)
    )


def _search_mask(env: Env, state: State, seen: NativeObs) -> Array:
    return jnp.ones(env.action_spec.shape, bool)


def _search_bounds(env: Env) -> tuple[np.ndarray, np.ndarray]:
    spec = env.action_spec
    low, high = (
        np.broadcast_to(np.asarray(x), spec.shape)[0] for x in (spec.minimum, spec.maximum)
    )
    return low, high


def _search_meaning(env: Env) -> str:
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
    is_terminal=lambda env, before, action, after: after.targets.found.all(),
    return_description=_search_meaning,
    individual=True,
    bounds=_search_bounds,
)
