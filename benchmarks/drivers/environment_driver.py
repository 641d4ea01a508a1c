"""Times JaxMARL's SMAX alone with random legal actions, on request. Started by `compare_speed.py`.

    python environment_driver.py --map 3m --num-envs 128 --num-steps 64

After compiling, prints one JSON line of facts; then, for every number on its standard input, makes
so many rollouts and prints their seconds as a JSON list. Our driver does the same with
``--only-env``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import hlo


def main() -> None:
    """Builds, compiles, then answers requests until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--map", default="3m")
    parser.add_argument("--num-envs", type=int, default=128)
    parser.add_argument("--num-steps", type=int, default=64)
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the peer's own output is not an answer
    import jax
    import jax.numpy as jnp
    from jaxmarl import make
    from jaxmarl.environments.smax import map_name_to_scenario

    env = make("HeuristicEnemySMAX", scenario=map_name_to_scenario(args.map))

    def step_one(key: Any, state: Any) -> Any:
        act_key, step_key = jax.random.split(key)
        legal = env.get_avail_actions(state)
        keys = jax.random.split(act_key, len(env.agents))
        action = {
            agent: jax.random.categorical(keys[i], jnp.where(legal[agent] == 1, 0.0, -jnp.inf))
            for i, agent in enumerate(env.agents)
        }
        obs, state, *_ = env.step(step_key, state, action)
        return state, obs

    def rollout(key: Any, state: Any, obs: Any) -> Any:
        def step(carry: Any, _: None) -> Any:
            key, state, _ = carry
            key, step_key = jax.random.split(key)
            state, obs = jax.vmap(step_one)(jax.random.split(step_key, args.num_envs), state)
            return (key, state, obs), None

        return jax.lax.scan(step, (key, state, obs), None, args.num_steps)[0]

    key = jax.random.key(0)
    obs, state = jax.vmap(env.reset)(jax.random.split(key, args.num_envs))
    began = time.perf_counter()
    compiled = jax.jit(rollout).lower(key, state, obs).compile()
    facts = {
        "compile_seconds": time.perf_counter() - began,
        "env_steps_per_update": args.num_envs * args.num_steps,
        "device": jax.devices()[0].device_kind,
        "versions": {name: metadata.version(name) for name in ("jax", "jaxmarl")},
    } | hlo.facts(compiled)
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            began = time.perf_counter()
            key, state, obs = jax.block_until_ready(compiled(key, state, obs))
            seconds.append(time.perf_counter() - began)
        print(json.dumps(seconds), file=answers, flush=True)


if __name__ == "__main__":
    main()
