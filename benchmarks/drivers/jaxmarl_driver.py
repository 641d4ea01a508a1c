"""Times a baseline of a checkout of JaxMARL, its own and unchanged, on request. Started by
`compare_speed.py`.

    python jaxmarl_driver.py --checkout DIR --system mappo --map 3m --updates 4

After compiling, prints one JSON line of facts; then, for every line on its standard input, trains
anew for so many updates as it was compiled for, and one more, and prints the seconds between their
ends as a JSON list.

Nothing of JaxMARL is copied here. Its call of W&B after every update is answered by a clock;
environments come from the installed package, the baseline and its settings from the checkout.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import sys
import time
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import hlo

SYSTEMS = {
    "ippo": ("IPPO/ippo_rnn_smax.py", "IPPO/config/ippo_rnn_smax.yaml"),
    "mappo": ("MAPPO/mappo_rnn_smax.py", "MAPPO/config/mappo_homogenous_rnn_smax.yaml"),
}


def build(
    checkout: Path, system: str, name: str, updates: int, worlds: int | None, ends: list[float]
) -> tuple[Any, dict[str, Any]]:
    """The baseline's training function and its settings; ``ends`` gets the time at which each
    update ended.
    """
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
    config |= {} if worlds is None else {"NUM_ENVS": worlds}
    batch = config["NUM_ENVS"] * config["NUM_STEPS"]
    config |= {"MAP_NAME": name, "TOTAL_TIMESTEPS": batch * (updates + 1)}
    return module.make_train(config), config


def main() -> None:
    """Build, compile, then answer requests until the input ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--system", choices=SYSTEMS, default="mappo")
    parser.add_argument("--map", default="3m")
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--num-envs", type=int, help="default: its own")
    chosen = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the peer prints is not an answer
    ends: list[float] = []
    train, config = build(
        chosen.checkout, chosen.system, chosen.map, chosen.updates, chosen.num_envs, ends
    )
    import jax

    key = jax.random.PRNGKey(0)
    began = time.perf_counter()
    compiled = jax.jit(train).lower(key).compile()
    facts = {
        "compile_seconds": time.perf_counter() - began,
        "env_steps_per_update": config["NUM_ENVS"] * config["NUM_STEPS"],
        "agents": config["NUM_ACTORS"] // config["NUM_ENVS"],
        "sizes": f"{config['NUM_ENVS']} worlds x {config['NUM_STEPS']} steps, "
        f"{config['UPDATE_EPOCHS']} epochs x "
        f"{config['NUM_MINIBATCHES']} minibatches, dense {config['FC_DIM_SIZE']}, GRU "
        f"{config['GRU_HIDDEN_DIM']}, "
        f"dense {config['GRU_HIDDEN_DIM']}",
        "device": jax.devices()[0].device_kind,
        "versions": {name: metadata.version(name) for name in ("jax", "flax", "jaxmarl")},
    } | hlo.facts(compiled)
    # Of one update: what the initialisation starts besides is little beside it.
    facts["kernels"] //= chosen.updates + 1
    print(json.dumps(facts), file=answers, flush=True)
    for _ in sys.stdin:
        ends.clear()
        jax.block_until_ready(compiled(key))
        jax.effects_barrier()
        print(
            json.dumps([b - a for a, b in itertools.pairwise(ends)]),
            file=answers,
            flush=True,
        )


if __name__ == "__main__":
    main()
