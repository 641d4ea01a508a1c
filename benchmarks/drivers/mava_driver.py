"""Times the learner of a checkout of Mava, its own and unchanged, on request. Started by
`compare_speed.py`; `serving.py` has the protocol.

    python mava_driver.py --checkout DIR --system ff_ippo --env lbf

Nothing of Mava is copied here. Its snapshots expect a fork of Jumanji from before 1.0, whose specs
are methods: the adapter below makes methods of the specs of Jumanji 1.x, and mocks the packages
that Mava imports for other environments and for logging. Only the learner is compiled and timed,
not the evaluation.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import serving

ABSENT = ("matrax", "gigastep", "neptune", "tensorboard_logger", "marl_eval", "pandas")
"""Packages that the learner does not need."""
SPECS = ("observation_spec", "action_spec", "reward_spec", "discount_spec")


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a mock for each package of `ABSENT`."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Returns the spec of a mock, or None for other packages."""
        is_absent = name.split(".")[0] in ABSENT
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if is_absent else None

    def create_module(self, spec: Any) -> ModuleType:
        """Returns the mock."""
        module = mock.MagicMock(name=spec.name)
        module.__spec__, module.__path__ = spec, []
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Does nothing: a mock has no code."""


def adapt_jumanji() -> None:
    """Makes Jumanji's specs methods, and gives a class the name that Mava knows it by."""
    import jumanji
    import jumanji.wrappers as wrappers
    from jumanji.environments.routing import connector

    connector.MaConnector = getattr(connector, "MaConnector", connector.Connector)
    make, plain = jumanji.make, wrappers.Wrapper

    def method(name: str, inner: bool) -> Callable[[Any], Any]:
        def spec(self: Any) -> Any:
            value = getattr(self._env, name)
            is_method = not inner and callable(value) and not hasattr(value, "generate_value")
            return value() if is_method else value

        return spec

    def init(self: Any, env: Any) -> None:
        self._env = env

    def wrapper(name: str, inner: bool) -> type:
        methods = {spec: method(spec, inner) for spec in SPECS}
        return type(name, (plain,), {"__init__": init, **methods})

    innermost, wrappers.Wrapper = wrapper("Innermost", True), wrapper("Wrapper", False)
    jumanji.make = lambda *args, **keywords: innermost(make(*args, **keywords))


def build(checkout: str, system: str, name: str, num_envs: int | None) -> tuple[Any, Any, Any]:
    """Returns Mava's learner, its first state, and the config, at Mava's sizes."""
    os.chdir(checkout)
    sys.path.insert(0, str(Path.cwd()))
    sys.meta_path.append(StandIns())
    adapt_jumanji()
    import jax
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    module = importlib.import_module(f"mava.systems.ppo.anakin.{system}")
    make_env = importlib.import_module("mava.utils.make_env")
    folder = str(Path("mava/configs/default").resolve())
    with initialize_config_dir(config_dir=folder, version_base="1.2"):
        config = compose(system, overrides=[f"env={name}"])
    OmegaConf.set_struct(config, False)
    config.logger.system_name = system
    config.system.num_updates = 1_000_000
    config.system.num_updates_per_eval = 1  # updates of one call
    if num_envs is not None:
        config.arch.num_envs = num_envs // config.system.update_batch_size
    env, _ = make_env.make(config, add_global_state="mappo" in system)
    keys = jax.random.split(jax.random.PRNGKey(0), 3)
    learn, _, state = module.learner_setup(env, tuple(keys), config)
    return learn, state, config


def map_devices_in_one_program() -> None:
    """Makes `jax.pmap`, which knows this process's devices alone, a `vmap` over the one device."""
    import jax

    def pmap(function: Any, axis_name: str, **_: Any) -> Any:
        return jax.jit(jax.vmap(function, axis_name=axis_name))

    jax.pmap = pmap


def facts(config: Any) -> dict[str, Any]:
    """Returns the sizes of the learner, and versions."""
    import jax

    system = config.system
    num_envs = config.arch.num_envs * system.update_batch_size
    layers = "-".join(map(str, config.network.actor_network.pre_torso.layer_sizes))
    return {
        "env_steps_per_update": num_envs * system.rollout_length * len(jax.devices()),
        "sizes": f"{config.arch.num_envs} x {system.update_batch_size} environments x "
        f"{system.rollout_length} steps, {system.ppo_epochs} epochs x {system.num_minibatches} "
        f"minibatches, dense {layers}",
        "versions": serving.versions("jax", "flax", "jumanji"),
    }


def main() -> None:
    """Builds, compiles, then answers requests until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkout", required=True)
    parser.add_argument("--system", choices=("ff_ippo", "ff_mappo"), default="ff_ippo")
    parser.add_argument("--env", default="lbf")
    parser.add_argument(
        "--num-envs", type=int, help="of all its update batches together; default: its settings'"
    )
    args = parser.parse_args()
    answers = serving.take_stdout()
    if os.environ.get(serving.CHIP):
        map_devices_in_one_program()
    learn, state, config = build(args.checkout, args.system, args.env, args.num_envs)
    compiled, compiled_facts = serving.compile_program(learn, state)

    def step(carry: Any) -> Any:
        output = compiled(carry[0])
        return output.learner_state, output

    measure = serving.timed_steps(step, (state, None))
    serving.serve(answers, facts(config) | compiled_facts, measure)


if __name__ == "__main__":
    main()
