"""Times the learner of a checkout of Mava, its own and unchanged, on request. Started by
`compare_speed.py`.

    python mava_driver.py --checkout DIR --system ff_ippo --env lbf

After compiling, prints one JSON line of facts; then, for every line with a number on its standard
input, makes so many updates and prints their seconds as a JSON list.

Nothing of Mava is copied here. Its snapshots expect a fork of Jumanji from before 1.0, whose specs
are methods: the adapter below makes them methods again over Jumanji 1.x, and stands in for packages
that Mava imports for other environments and for logging. Evaluation is left out: only the learner
is compiled and timed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
import hlo

ABSENT = ("matrax", "gigastep", "neptune", "tensorboard_logger", "marl_eval", "pandas")
"""Packages that the learner does not need."""
SPECS = ("observation_spec", "action_spec", "reward_spec", "discount_spec")


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers the import of any of `ABSENT` with a mock."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The spec of a mock, or None for other packages."""
        wanted = name.split(".")[0] in ABSENT
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if wanted else None

    def create_module(self, spec: Any) -> ModuleType:
        """The mock."""
        module = mock.MagicMock(name=spec.name)
        module.__spec__, module.__path__ = spec, []
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is to be run."""


def adapt_jumanji() -> None:
    """Specs as methods, and the one class that Mava knows by another name."""
    import jumanji
    import jumanji.wrappers as wrappers
    from jumanji.environments.routing import connector

    connector.MaConnector = getattr(connector, "MaConnector", connector.Connector)
    make, plain = jumanji.make, wrappers.Wrapper

    def method(name: str, inner: bool) -> Callable[[Any], Any]:
        def spec(self: Any) -> Any:
            found = getattr(self._env, name)
            return (
                found
                if inner or not callable(found) or hasattr(found, "generate_value")
                else found()
            )

        return spec

    def init(self: Any, env: Any) -> None:
        self._env = env

    innermost = type(
        "Innermost", (plain,), {"__init__": init, **{name: method(name, True) for name in SPECS}}
    )
    wrappers.Wrapper = type(
        "Wrapper", (plain,), {"__init__": init, **{name: method(name, False) for name in SPECS}}
    )
    jumanji.make = lambda *args, **keywords: innermost(make(*args, **keywords))


def build(checkout: str, system: str, env: str, worlds: int | None) -> tuple[Any, Any, Any, Any]:
    """Mava's learner, its first state, its environment, and the config, at the peer's own sizes."""
    os.chdir(checkout)
    sys.path.insert(0, str(Path.cwd()))
    sys.meta_path.append(StandIns())
    adapt_jumanji()
    import jax
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    module = importlib.import_module(f"mava.systems.ppo.anakin.{system}")
    make_env = importlib.import_module("mava.utils.make_env")
    with initialize_config_dir(
        config_dir=str(Path("mava/configs/default").resolve()), version_base="1.2"
    ):
        config = compose(system, overrides=[f"env={env}"])
    OmegaConf.set_struct(config, False)
    config.logger.system_name = system
    config.system.num_updates, config.system.num_updates_per_eval = (
        1_000_000,
        1,
    )  # updates of one call: 1
    if worlds is not None:
        config.arch.num_envs = worlds // config.system.update_batch_size
    world, _ = make_env.make(config, add_global_state="mappo" in system)
    keys = jax.random.split(jax.random.PRNGKey(0), 3)
    learn, _, state = module.learner_setup(world, tuple(keys), config)
    return learn, state, world, config


def facts(compiling: float, world: Any, config: Any) -> dict[str, Any]:
    """What was built."""
    import flax
    import jax
    import jumanji

    system = config.system
    worlds = config.arch.num_envs * system.update_batch_size
    view = world.observation_spec().agents_view.shape
    return {
        "compile_seconds": compiling,
        "env_steps_per_update": worlds * system.rollout_length * len(jax.devices()),
        "agents": int(world.num_agents),
        "view": int(view[-1]),
        "time_limit": int(config.env.kwargs.time_limit),
        "sizes": f"{config.arch.num_envs} x {system.update_batch_size} worlds x "
        f"{system.rollout_length} steps, "
        f"{system.ppo_epochs} epochs x {system.num_minibatches} minibatches, "
        f"dense {'-'.join(map(str, config.network.actor_network.pre_torso.layer_sizes))}",
        "device": jax.devices()[0].device_kind,
        "versions": {
            "jax": jax.__version__,
            "flax": flax.__version__,
            "jumanji": jumanji.__version__,
        },
    }


def main() -> None:
    """Build, compile, then answer requests until the input ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkout", required=True)
    parser.add_argument("--system", choices=("ff_ippo", "ff_mappo"), default="ff_ippo")
    parser.add_argument("--env", default="lbf")
    parser.add_argument(
        "--num-envs", type=int, help="of all its batches of worlds together; default: its own"
    )
    chosen = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the peer prints is not an answer
    learn, state, world, config = build(chosen.checkout, chosen.system, chosen.env, chosen.num_envs)
    import jax

    began = time.perf_counter()
    compiled = learn.lower(state).compile()
    compiling = time.perf_counter() - began
    print(
        json.dumps(facts(compiling, world, config) | hlo.facts(compiled)), file=answers, flush=True
    )
    for line in sys.stdin:
        taken = []
        for _ in range(int(line)):
            began = time.perf_counter()
            out = compiled(state)
            jax.block_until_ready(out)
            taken.append(time.perf_counter() - began)
            state = out.learner_state
        print(json.dumps(taken), file=answers, flush=True)


if __name__ == "__main__":
    main()
