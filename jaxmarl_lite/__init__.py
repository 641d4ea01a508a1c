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
    from jaxmarl_lite.algorithms.base_config import LearnerConfig as LearnerConfig
    from jaxmarl_lite.algorithms.base_config import bounded as bounded
    from jaxmarl_lite.algorithms.base_config import config_record as config_record
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
    from jaxmarl_lite.algorithms.registry import register_algorithm as register_algorithm
    from jaxmarl_lite.checking.algorithm import check_algorithm as check_algorithm
    from jaxmarl_lite.compilation_cache import (
        enable_compilation_cache as enable_compilation_cache,
    )
    from jaxmarl_lite.determinism import use_deterministic_ops as use_deterministic_ops
    from jaxmarl_lite.envs import Cost as Cost
    from jaxmarl_lite.envs import check_environment as check_environment
    from jaxmarl_lite.envs import list_environments as list_environments
    from jaxmarl_lite.envs import make as make
    from jaxmarl_lite.envs import with_costs as with_costs
    from jaxmarl_lite.envs.bridges import from_brax as from_brax
    from jaxmarl_lite.envs.bridges import from_gymnax as from_gymnax
    from jaxmarl_lite.envs.bridges import from_jaxmarl as from_jaxmarl
    from jaxmarl_lite.envs.bridges import from_jumanji as from_jumanji
    from jaxmarl_lite.envs.bridges import to_pettingzoo as to_pettingzoo
    from jaxmarl_lite.evaluate import make_evaluate as make_evaluate
    from jaxmarl_lite.evaluate import make_play as make_play
    from jaxmarl_lite.experiment.api import resume_run as resume_run
    from jaxmarl_lite.experiment.api import run as run
    from jaxmarl_lite.experiment.callbacks import EarlyStopping as EarlyStopping
    from jaxmarl_lite.experiment.callbacks import EvaluationReport as EvaluationReport
    from jaxmarl_lite.experiment.compare import compare as compare
    from jaxmarl_lite.experiment.compare import compare_runs as compare_runs
    from jaxmarl_lite.experiment.comparison import Comparison as Comparison
    from jaxmarl_lite.experiment.config import tuned as tuned
    from jaxmarl_lite.experiment.dataframe import load_runs as load_runs
    from jaxmarl_lite.experiment.estimate import Estimate as Estimate
    from jaxmarl_lite.experiment.estimate import estimate as estimate
    from jaxmarl_lite.experiment.memory import DeviceMemoryError as DeviceMemoryError
    from jaxmarl_lite.experiment.optuna_study import optimize as optimize
    from jaxmarl_lite.experiment.policies import TrainedPolicy as TrainedPolicy
    from jaxmarl_lite.experiment.policies import load_policy as load_policy
    from jaxmarl_lite.experiment.reference_results import (
        reference_results as reference_results,
    )
    from jaxmarl_lite.experiment.result import Result as Result
    from jaxmarl_lite.experiment.result import load_run as load_run
    from jaxmarl_lite.experiment.runner import RunError as RunError
    from jaxmarl_lite.experiment.sweep import Sweep as Sweep
    from jaxmarl_lite.experiment.sweep import load_sweep as load_sweep
    from jaxmarl_lite.experiment.sweep import sweep as sweep
    from jaxmarl_lite.networks.torsos import Networks as Networks
    from jaxmarl_lite.networks.torsos import Torso as Torso
    from jaxmarl_lite.report.tracking import CSVLogger as CSVLogger
    from jaxmarl_lite.report.tracking import MLflowLogger as MLflowLogger
    from jaxmarl_lite.report.tracking import TensorBoardLogger as TensorBoardLogger
    from jaxmarl_lite.report.tracking import WandbLogger as WandbLogger
    from jaxmarl_lite.train import make_train as make_train

_MODULES = ("algorithms", "envs", "networks", "ops", "report", "rollout", "sharding", "types")
_NAMES = {
    "ALGORITHMS": "algorithms.registry",
    "COMAConfig": "algorithms.coma",
    "CSVLogger": "report.tracking",
    "CentralVConfig": "algorithms.iac",
    "Comparison": "experiment.comparison",
    "Cost": "envs",
    "DeviceMemoryError": "experiment.memory",
    "EarlyStopping": "experiment.callbacks",
    "Estimate": "experiment.estimate",
    "EvaluationReport": "experiment.callbacks",
    "HAPPOConfig": "algorithms.happo",
    "HATRPOConfig": "algorithms.hatrpo",
    "IACConfig": "algorithms.iac",
    "IPPOConfig": "algorithms.ppo",
    "LIIRConfig": "algorithms.liir",
    "LearnerConfig": "algorithms.base_config",
    "MACPOConfig": "algorithms.macpo",
    "MAPPOConfig": "algorithms.ppo",
    "MAPPOLagrangianConfig": "algorithms.mappo_lagrangian",
    "MLflowLogger": "report.tracking",
    "Networks": "networks.torsos",
    "QMIXConfig": "algorithms.qmix",
    "Result": "experiment.result",
    "RunError": "experiment.runner",
    "Sweep": "experiment.sweep",
    "TensorBoardLogger": "report.tracking",
    "Torso": "networks.torsos",
    "TrainedPolicy": "experiment.policies",
    "WandbLogger": "report.tracking",
    "bounded": "algorithms.base_config",
    "check_algorithm": "checking.algorithm",
    "check_environment": "envs",
    "compare": "experiment.compare",
    "compare_runs": "experiment.compare",
    "config_record": "algorithms.base_config",
    "enable_compilation_cache": "compilation_cache",
    "estimate": "experiment.estimate",
    "from_brax": "envs.bridges",
    "from_gymnax": "envs.bridges",
    "from_jaxmarl": "envs.bridges",
    "from_jumanji": "envs.bridges",
    "list_environments": "envs",
    "load_policy": "experiment.policies",
    "load_run": "experiment.result",
    "load_runs": "experiment.dataframe",
    "load_sweep": "experiment.sweep",
    "make": "envs",
    "make_algorithm": "algorithms.registry",
    "make_evaluate": "evaluate",
    "make_play": "evaluate",
    "make_train": "train",
    "optimize": "experiment.optuna_study",
    "reference_results": "experiment.reference_results",
    "register_algorithm": "algorithms.registry",
    "resume_run": "experiment.api",
    "run": "experiment.api",
    "sweep": "experiment.sweep",
    "to_pettingzoo": "envs.bridges",
    "tuned": "experiment.config",
    "use_deterministic_ops": "determinism",
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
            {
                *vars(self),
                *vars(self).get("__all__", ()),
                *(module.name for module in pkgutil.iter_modules(self.__path__)),
            }
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
