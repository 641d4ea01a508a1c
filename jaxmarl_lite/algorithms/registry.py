"""The algorithms by name; a new algorithm is one entry here, and every common test covers it."""

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
    liir,
    macpo,
    mappo_lagrangian,
    ppo,
    qmix,
)
from jaxmarl_lite.algorithms.base_config import LearnerConfig
from jaxmarl_lite.types import Algorithm, EnvSpec

Make = Callable[[str, EnvSpec, Any], Algorithm]
"""``(name, spec, config) -> algorithm``, where the config is of the algorithm's own class."""

ALGORITHMS: dict[str, tuple[type[LearnerConfig], Make]] = {
    "ippo": (ppo.IPPOConfig, ppo.make_ppo),
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
"""Name of an algorithm -> its config class and the function that makes it."""


def _is_instance(value: object, kind: type) -> bool:
    """Returns whether a user's value has the type that its annotation promises."""
    return isinstance(value, kind)


def config_of(name: str) -> type[LearnerConfig]:
    """Returns the config class of an algorithm.

    Args:
        name: one of `ALGORITHMS`.

    Returns:
        The class, whose fields are the algorithm's settings.

    Raises:
        ValueError: for an unknown name; the message gives the nearest known ones.
    """
    if not _is_instance(name, str) or name not in ALGORITHMS:
        raise validation.unknown_name("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name][0]


def make_algorithm(name: str, spec: EnvSpec, config: LearnerConfig | None = None) -> Algorithm:
    """Returns an algorithm by its name, for an environment of given sizes.

    Args:
        name: one of `ALGORITHMS`.
        spec: the environment's ``spec``.
        config: an instance of the algorithm's config class; its defaults when None.

    Returns:
        The algorithm as a record of pure functions.

    Raises:
        ValueError: for an unknown name, or a config with a share of a run.
        TypeError: for another algorithm's config, or a ``spec`` that is not an `EnvSpec`.

    Example:
        Four copies of an environment, and one action of each agent in each of them:

        >>> import jax
        >>> import jaxmarl_lite as jml
        >>> env = jml.make("toy/relay")
        >>> algorithm = make_algorithm("mappo", env.spec, jml.MAPPOConfig(hidden_sizes=(8,)))
        >>> init_key, env_key, act_key = jax.random.split(jax.random.key(0), 3)
        >>> learner_state = algorithm.init(init_key, 4)
        >>> _, timestep = jax.vmap(env.reset)(jax.random.split(env_key, 4))
        >>> action, log_prob, _ = algorithm.act(
        ...     learner_state, act_key, timestep.obs, algorithm.init_hidden_state(4)
        ... )
        >>> env.spec.num_agents, action.shape, log_prob.shape
        (2, (4, 2), (4, 2))
    """
    kind = config_of(name)
    config = kind() if config is None else config
    if type(config) is not kind:
        raise TypeError(
            f"config is {validation.show(config)}; allowed for {name!r} is a {kind.__name__}"
        )
    if not _is_instance(spec, EnvSpec):
        raise TypeError(f"spec is {validation.show(spec)}; allowed is an EnvSpec, such as env.spec")
    config = base_config.checked(config)
    base_config.check_resolved(config)
    return ALGORITHMS[name][1](name, spec, config)
