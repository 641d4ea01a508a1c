"""Times JaxMARL's SMAX alone with random legal actions, on request. Started by `compare_speed.py`.

    python environment_driver.py --map 3m --num-envs 128 --num-steps 64

After compiling, prints one JSON line of facts; then, for every number on its standard input, times
so many rollouts and prints their seconds as a JSON list. `jaxmarl_lite_driver.py` does the same
with ``--only-env``.
"""

from __future__ import annotations

import argparse
from typing import Any

import serving


def main() -> None:
    """Builds, compiles, then answers requests until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--map", default="3m")
    parser.add_argument("--num-envs", type=int, default=128)
    parser.add_argument("--num-steps", type=int, default=64)
    args = parser.parse_args()
    answers = serving.take_stdout()
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
    compiled, facts = serving.compile_program(jax.jit(rollout), key, state, obs)
    facts |= {"env_steps_per_update": args.num_envs * args.num_steps}
    facts |= {"versions": serving.versions("jax", "jaxmarl")}
    serving.serve(
        answers, facts, serving.timed_steps(lambda carry: compiled(*carry), (key, state, obs))
    )


if __name__ == "__main__":
    main()
