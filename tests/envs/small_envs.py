"""The environments that the tests run over, in their smallest sizes, each compiled once."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite.envs import make
from jaxmarl_lite.envs.toys import TOYS

TOY_ENVS = {f"toy/{name}": {} for name in TOYS}
JUMANJI_ENVS = {
    "jumanji/lbf-2s-5x5-2p-1f-coop": dict(time_limit=10),
    "jumanji/rware-tiny-2ag": dict(column_height=2, time_limit=10),
    "jumanji/connector-5x5x2a": dict(time_limit=10),
    "jumanji/cleaner-5x5x2a": dict(time_limit=10),
    "jumanji/search-and-rescue-2s-3t": dict(time_limit=10),
    "jumanji/mmst-2a-12n": dict(time_limit=10),
    "jumanji/multi-cvrp-2v-6c": {},
}
SAFE_ENVS = {
    "safe/lbf-2s-5x5-2p-1f-coop": dict(time_limit=10),
    "safe/rware-tiny-3ag": dict(column_height=2, time_limit=10),
    "safe/cleaner-5x5x3a": dict(time_limit=10),
    "safe/search-and-rescue-3s-3t": dict(time_limit=10),
}
ENVS = TOY_ENVS | JUMANJI_ENVS | SAFE_ENVS


def get_env(env_id, **more):
    """The small environment of this name."""
    return make(env_id, **{**ENVS[env_id], **more})


@functools.cache
def compiled(env_id):
    """``(env, reset, step)``, both compiled, and failing if traced twice."""
    env = get_env(env_id)
    return env, once(env.reset, f"reset {env_id}"), once(env.step, f"step {env_id}")


def once(function, name):
    """The function compiled, failing when traced a second time; chex tells functions apart by name
    and source."""

    def named(*args):
        return function(*args)

    named.__name__ = name
    return jax.jit(chex.assert_max_traces(named, n=1))


def legal_action(spec, mask, random):
    """A random legal joint action."""
    if spec.action_type == "continuous":
        return jnp.asarray(random.uniform(spec.action_low, spec.action_high, mask.shape), float)
    return jnp.asarray((random.random(mask.shape) * np.asarray(mask)).argmax(-1), jnp.int32)


def play(env_id, seed=0):
    """One episode of random legal actions: the list of ``(state, time step)``, the first from
    reset."""
    env, reset, step = compiled(env_id)
    random = np.random.default_rng(seed)
    moments = [reset(jax.random.key(seed))]
    while not moments[-1][1].last:
        assert len(moments) <= env.spec.max_episode_steps, "the episode goes on beyond its limit"
        state, timestep = moments[-1]
        moments.append(step(state, legal_action(env.spec, timestep.obs.action_mask, random)))
    return moments
