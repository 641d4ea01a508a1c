"""Times training of this library on request, as `mava_driver.py` does that of Mava. Started by
`beside_mava.py`, and `beside_jaxmarl.py`.

    python own_driver.py --algorithm ippo --env jumanji/lbf-2s-8x8-2p-2f-coop

After compiling, prints one JSON line of facts; then, for every line with a number on its standard
input, makes so many updates and prints their seconds as a JSON list.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib import metadata
from pathlib import Path

import jax

import jaxmarl_lite as jml
from jaxmarl_lite.algorithms import registry

sys.path.insert(0, str(Path(__file__).parents[1]))
import hlo


def main() -> None:
    """Build, compile, then answer requests until the input ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--algorithm", default="ippo")
    parser.add_argument("--env", default="jumanji/lbf-2s-8x8-2p-2f-coop")
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--num-steps", type=int, default=128)
    parser.add_argument("--num-minibatches", type=int, default=2)
    parser.add_argument("--hidden-sizes", type=int, nargs="+", default=[128, 128])
    parser.add_argument("--recurrent", action="store_true", help="a GRU after the dense layers")
    parser.add_argument(
        "--head-hidden-sizes", type=int, nargs="*", default=[], help="dense layers before each head"
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="the algorithm's default settings, but for its networks",
    )
    parser.add_argument(
        "--shared-torso", action="store_true", help="one network with two heads (IPPO)"
    )
    chosen = parser.parse_args()
    env = jml.make(chosen.env)
    rates = {"lr": 2.5e-4, "num_epochs": 4, "num_minibatches": chosen.num_minibatches}
    rates |= {} if chosen.shared_torso else {"critic_lr": 2.5e-4}
    config = registry.config_of(chosen.algorithm)(
        hidden_sizes=tuple(chosen.hidden_sizes),
        recurrent=chosen.recurrent,
        head_hidden_sizes=tuple(chosen.head_hidden_sizes),
        **({} if chosen.plain else rates),
        **({"shared_torso": True} if chosen.shared_torso else {}),
    )
    algorithm = jml.make_algorithm(chosen.algorithm, env.spec, config)
    init, train = jml.make_train(algorithm, env, chosen.num_envs, chosen.num_steps)
    state = jax.jit(init)(jax.random.key(0))
    began = time.perf_counter()
    compiled = jax.jit(lambda state: train(state, 1), donate_argnums=0).lower(state).compile()
    facts = {
        "compile_seconds": time.perf_counter() - began,
        "env_steps_per_update": chosen.num_envs * chosen.num_steps,
        "agents": env.spec.num_agents,
        "view": env.spec.obs_size,
        "time_limit": env.spec.max_episode_steps,
        "sizes": f"{chosen.num_envs} worlds x {chosen.num_steps} steps, {config.num_epochs} "
        "epochs x "
        f"{config.num_minibatches} minibatches, dense {'-'.join(map(str, config.hidden_sizes))}"
        + (f", GRU {config.rnn_hidden_size}" if config.recurrent else "")
        + (
            f", dense {'-'.join(map(str, config.head_hidden_sizes))}"
            if config.head_hidden_sizes
            else ""
        ),
        "device": jax.devices()[0].device_kind,
        "versions": {
            name: metadata.version(name) for name in ("jax", "flax", "jumanji", "jaxmarl-lite")
        },
    } | hlo.facts(compiled)
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        taken = []
        for _ in range(int(line)):
            began = time.perf_counter()
            state, metrics = compiled(state)
            jax.block_until_ready((state, metrics))
            taken.append(time.perf_counter() - began)
        print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    main()
