"""Times a baseline of a checkout of JaxMARL, its own and unchanged, on request. Started by
`compare_speed.py`; `serving.py` has the protocol.

    python jaxmarl_driver.py --checkout DIR --system mappo --map 3m --updates 4
    python jaxmarl_driver.py --only-env --map 3m --num-envs 128 --num-steps 64

For every request it trains from the start for the ``--updates`` it was compiled for, and one more.
With ``--only-env`` an update is a rollout of SMAX alone with random legal actions.

Nothing of JaxMARL is copied here. A clock takes the place of W&B, which the baseline calls after
every update; environments come from the installed package, the baseline and its settings from the
checkout.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import serving

SYSTEMS = {
    "ippo": ("IPPO/ippo_rnn_smax.py", "IPPO/config/ippo_rnn_smax.yaml"),
    "mappo": ("MAPPO/mappo_rnn_smax.py", "MAPPO/config/mappo_homogenous_rnn_smax.yaml"),
}


def build(
    checkout: Path, system: str, name: str, updates: int, num_envs: int | None, ends: list[float]
) -> tuple[Any, dict[str, Any]]:
    """Returns the training function and its settings; it appends each update's end to ``ends``."""
    from omegaconf import OmegaConf

    clock: Any = ModuleType("wandb")
    clock.log = lambda *_, **__: ends.append(time.perf_counter())
    sys.modules["wandb"] = clock
    file, settings = (checkout / "baselines" / part for part in SYSTEMS[system])
    spec = importlib.util.spec_from_file_location("baseline", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["baseline"] = module
    spec.loader.exec_module(module)
    config: Any = OmegaConf.to_container(OmegaConf.load(settings))
    config |= {} if num_envs is None else {"NUM_ENVS": num_envs}
    batch = config["NUM_ENVS"] * config["NUM_STEPS"]
    config |= {"MAP_NAME": name, "TOTAL_TIMESTEPS": batch * (updates + 1)}
    return module.make_train(config), config


def serve_training(args: argparse.Namespace, answers: Any) -> None:
    """Compiles the baseline and answers requests."""
    import jax

    ends: list[float] = []
    if os.environ.get(serving.CHIP):  # the chip that is compiled for cannot call this process
        jax.experimental.io_callback = jax.debug.callback = lambda *_, **__: None
    train, config = build(args.checkout, args.system, args.map, args.updates, args.num_envs, ends)
    key = jax.random.PRNGKey(0)
    compiled, facts = serving.compile_program(jax.jit(train), key)
    facts |= {
        "env_steps_per_update": config["NUM_ENVS"] * config["NUM_STEPS"],
        "sizes": f"{config['NUM_ENVS']} environments x {config['NUM_STEPS']} steps, "
        f"{config['UPDATE_EPOCHS']} epochs x {config['NUM_MINIBATCHES']} minibatches, "
        f"dense {config['FC_DIM_SIZE']}, GRU {config['GRU_HIDDEN_DIM']}, dense "
        f"{config['GRU_HIDDEN_DIM']}",
        "versions": serving.versions("jax", "flax", "jaxmarl"),
    }
    # Kernels of one update: the initialisation adds few.
    facts["kernels"] //= args.updates + 1

    def measure(number: int) -> list[float]:
        ends.clear()
        jax.block_until_ready(compiled(key))
        jax.effects_barrier()
        return [end - begin for begin, end in itertools.pairwise(ends)]

    serving.serve(answers, facts, measure)


def serve_environment(args: argparse.Namespace, answers: Any) -> None:
    """Compiles a rollout of random legal actions and answers requests."""
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


def main() -> None:
    """Builds, compiles, then answers requests until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkout", type=Path)
    parser.add_argument("--system", choices=SYSTEMS, default="mappo")
    parser.add_argument("--map", default="3m")
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--num-envs", type=int, help="default: that of its settings file")
    parser.add_argument("--num-steps", type=int, default=64, help="of a rollout of --only-env")
    parser.add_argument("--only-env", action="store_true", help="random legal actions, no learning")
    args = parser.parse_args()
    (serve_environment if args.only_env else serve_training)(args, serving.take_stdout())


if __name__ == "__main__":
    main()
