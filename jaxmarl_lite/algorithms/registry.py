"""The list of algorithms: a new one is one line here, and every common test takes it up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxmarl_lite import validation
from jaxmarl_lite.algorithms import (
    base_config,
    coma,
    happo,
    hatrpo,
    iac,
    ippo,
    liir,
    macpo,
    mappo_lagrangian,
    ppo,
    qmix,
)
from jaxmarl_lite.types import Algorithm, EnvSpec

Make = Callable[[str, EnvSpec, Any], Algorithm]

ALGORITHMS: dict[str, tuple[type, Make]] = {
    "ippo": (ppo.IPPOConfig, ippo.make_ippo),
    "mappo": (ppo.MAPPOConfig, ppo.make_ppo),
    "happo": (happo.HAPPOConfig, happo.make_happo),
    "hatrpo": (hatrpo.HATRPOConfig, hatrpo.make_hatrpo),
    "macpo": (macpo.MACPOConfig, macpo.make_macpo),
    "mappo-lagrangian": (
        mappo_lagrangian.MAPPOLagrangianConfig,
        mappo_lagrangian.make_mappo_lagrangian,
    ),
    "liir": (liir.LIIRConfig, liir.make_liir),
    "iac": (iac.IACConfig, iac.make_iac),
    "central-v": (iac.CentralVConfig, iac.make_iac),
    "coma": (coma.COMAConfig, coma.make_coma),
    "qmix": (qmix.QMIXConfig, qmix.make_qmix),
}
"""Name -> its config and its maker."""


def config_of(name: str) -> type:
    """The config class of an algorithm.

    Raises:
        ValueError: for an unknown name, with the nearest known ones.
    """
    if not isinstance(name, str) or name not in ALGORITHMS:
        raise validation.unknown_name("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name][0]


def make_algorithm(name: str, spec: EnvSpec, config: Any = None) -> Algorithm:
    """An algorithm, by name, for an environment of these sizes.

    Args:
        name: one of `ALGORITHMS`.
        spec: the environment's `spec`.
        config: an instance of the algorithm's config; its defaults when None.

    Raises:
        ValueError: for an unknown name, or a config with a share of a run; TypeError: for another
    algorithm's config.
    """
    kind = config_of(name)
    config = kind() if config is None else config
    if type(config) is not kind:
        raise TypeError(
            f"config is {validation.show(config)}; allowed for {name!r} is a {kind.__name__}"
        )
    if not isinstance(spec, EnvSpec):
        raise TypeError(f"spec is {validation.show(spec)}; allowed is an EnvSpec, such as env.spec")
    config = base_config.checked(config)
    base_config.check_resolved(config)
    return ALGORITHMS[name][1](name, spec, config)
