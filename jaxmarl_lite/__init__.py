"""Cooperative and safe multi-agent reinforcement learning in JAX, compiled end to end.

A name is imported when it is first used, so that ``import jaxmarl_lite`` costs nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxmarl_lite import algorithms as algorithms
    from jaxmarl_lite import envs as envs
    from jaxmarl_lite import networks as networks
    from jaxmarl_lite import ops as ops
    from jaxmarl_lite import report as report
    from jaxmarl_lite import rollout as rollout
    from jaxmarl_lite import sharding as sharding
    from jaxmarl_lite import types as types
    from jaxmarl_lite.algorithms.coma import COMAConfig as COMAConfig
    from jaxmarl_lite.algorithms.happo import HAPPOConfig as HAPPOConfig
    from jaxmarl_lite.algorithms.hatrpo import HATRPOConfig as HATRPOConfig
    from jaxmarl_lite.algorithms.iac import CentralVConfig as CentralVConfig
    from jaxmarl_lite.algorithms.iac import IACConfig as IACConfig
    from jaxmarl_lite.algorithms.liir import LIIRConfig as LIIRConfig
    from jaxmarl_lite.algorithms.macpo import MACPOConfig as MACPOConfig
    from jaxmarl_lite.algorithms.mappo_lagrangian import (
        MAPPOLagrangianConfig as MAPPOLagrangianConfig,
    )
    from jaxmarl_lite.algorithms.ppo import IPPOConfig as IPPOConfig
    from jaxmarl_lite.algorithms.ppo import MAPPOConfig as MAPPOConfig
    from jaxmarl_lite.algorithms.qmix import QMIXConfig as QMIXConfig
    from jaxmarl_lite.algorithms.registry import ALGORITHMS as ALGORITHMS
    from jaxmarl_lite.algorithms.registry import make_algorithm as make_algorithm
    from jaxmarl_lite.envs import Cost as Cost
    from jaxmarl_lite.envs import check_environment as check_environment
    from jaxmarl_lite.envs import list_environments as list_environments
    from jaxmarl_lite.envs import make as make
    from jaxmarl_lite.envs import with_costs as with_costs
    from jaxmarl_lite.evaluate import make_evaluate as make_evaluate
    from jaxmarl_lite.evaluate import make_play as make_play
    from jaxmarl_lite.experiment.api import resume_run as resume_run
    from jaxmarl_lite.experiment.api import run as run
    from jaxmarl_lite.experiment.compare import Comparison as Comparison
    from jaxmarl_lite.experiment.compare import compare as compare
    from jaxmarl_lite.experiment.compare import compare_runs as compare_runs
    from jaxmarl_lite.experiment.result import Result as Result
    from jaxmarl_lite.experiment.result import load_run as load_run
    from jaxmarl_lite.experiment.runner import RunError as RunError
    from jaxmarl_lite.train import make_train as make_train

_MODULES = ("algorithms", "envs", "networks", "ops", "report", "rollout", "sharding", "types")
_NAMES = {
    "ALGORITHMS": "algorithms.registry",
    "COMAConfig": "algorithms.coma",
    "CentralVConfig": "algorithms.iac",
    "Comparison": "experiment.compare",
    "Cost": "envs",
    "HAPPOConfig": "algorithms.happo",
    "HATRPOConfig": "algorithms.hatrpo",
    "IACConfig": "algorithms.iac",
    "IPPOConfig": "algorithms.ppo",
    "LIIRConfig": "algorithms.liir",
    "MACPOConfig": "algorithms.macpo",
    "MAPPOConfig": "algorithms.ppo",
    "MAPPOLagrangianConfig": "algorithms.mappo_lagrangian",
    "QMIXConfig": "algorithms.qmix",
    "Result": "experiment.result",
    "RunError": "experiment.runner",
    "check_environment": "envs",
    "compare": "experiment.compare",
    "compare_runs": "experiment.compare",
    "list_environments": "envs",
    "load_run": "experiment.result",
    "make": "envs",
    "make_algorithm": "algorithms.registry",
    "make_evaluate": "evaluate",
    "make_play": "evaluate",
    "make_train": "train",
    "resume_run": "experiment.api",
    "run": "experiment.api",
    "with_costs": "envs",
}
"""Public name -> the module that defines it."""

__version__ = metadata.version("jaxmarl-lite")
__all__ = [*_MODULES, *_NAMES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Imports a public name, or a module of the package, when it is first used."""
    if name not in _NAMES:
        return _submodule(__name__, name)
    value = getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns all names, those not yet imported included."""
    return sorted({*globals(), *__all__})


def _submodule(package: str, name: str) -> ModuleType:
    """Imports and returns a module of a package.

    Raises:
        AttributeError: The package has no module of this name.
    """
    full_name = f"{package}.{name}"
    if name.startswith("__") or importlib.util.find_spec(full_name) is None:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return importlib.import_module(full_name)


class _Subpackage(ModuleType):
    """A package that imports its modules at first use, as in ``jaxmarl_lite.ops.returns``."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        _make_lazy(self, name, value)

    def __getattr__(self, name: str) -> ModuleType:
        return _submodule(self.__name__, name)

    def __dir__(self) -> list[str]:
        return sorted(
            {*vars(self), *(module.name for module in pkgutil.iter_modules(self.__path__))}
        )


def _make_lazy(package: ModuleType, name: str, value: object) -> None:
    """Makes an attribute a `_Subpackage`, with the packages in it, if it is a package below this.

    Args:
        package: The package that has the attribute.
        name: Name of the attribute.
        value: Its value, of any kind.
    """
    if (
        isinstance(value, ModuleType)
        and value.__name__ == f"{package.__name__}.{name}"
        and "__path__" in vars(value)
    ):
        # a module keeps its content when its class changes
        value.__class__ = _Subpackage
        for attribute in list(vars(value).items()):
            _make_lazy(value, *attribute)


sys.modules[__name__].__class__ = _Subpackage
