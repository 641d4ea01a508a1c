"""The algorithms by name, and algorithms of the user.

A new algorithm of this library is one entry here, and every common test covers it.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

from jaxmarl_lite import references, validation
from jaxmarl_lite.algorithms import (
    base_config,
    coma,
    gradient_update,
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
from jaxmarl_lite.networks.torsos import Networks
from jaxmarl_lite.types import Algorithm, EnvSpec

Make = Callable[..., Algorithm]
"""A function that makes an algorithm, called with those of the keywords ``name``, ``spec``,
``config`` and ``networks`` that it has as parameters."""


class AlgorithmEntry(NamedTuple):
    """What makes an algorithm.

    Attributes:
        config_class: class of its config.
        make: function that makes it, see `Make`.
    """

    config_class: type[LearnerConfig]
    make: Make


ALGORITHMS: dict[str, AlgorithmEntry] = {
    "ippo": AlgorithmEntry(ppo.IPPOConfig, ppo.make_ppo),
    "mappo": AlgorithmEntry(ppo.MAPPOConfig, ppo.make_ppo),
    "happo": AlgorithmEntry(happo.HAPPOConfig, happo.make_happo),
    "hatrpo": AlgorithmEntry(hatrpo.HATRPOConfig, hatrpo.make_hatrpo),
    "macpo": AlgorithmEntry(macpo.MACPOConfig, macpo.make_macpo),
    "mappo-lagrangian": AlgorithmEntry(
        mappo_lagrangian.MAPPOLagrangianConfig,
        mappo_lagrangian.make_mappo_lagrangian,
    ),
    "liir": AlgorithmEntry(liir.LIIRConfig, liir.make_liir),
    "iac": AlgorithmEntry(iac.IACConfig, iac.make_iac),
    "central-v": AlgorithmEntry(iac.CentralVConfig, iac.make_iac),
    "coma": AlgorithmEntry(coma.COMAConfig, coma.make_coma),
    "qmix": AlgorithmEntry(qmix.QMIXConfig, qmix.make_qmix),
}
"""Name of an algorithm -> its config class and the function that makes it; `register_algorithm`
adds to it."""


_LIBRARY_CONFIGS = frozenset(entry.config_class for entry in ALGORITHMS.values())

_ENTRY_POINTS = "jaxmarl_lite.algorithms"
"""Group of entry points by which an installed package adds algorithms."""


def _is_instance(value: object, kind: type) -> bool:
    """Returns whether a user's value has the type that its annotation promises."""
    return isinstance(value, kind)


@dataclasses.dataclass(frozen=True)
class _Ready:
    """The ``make`` of an algorithm that was passed as an object."""

    algorithm: Algorithm

    def __call__(self, config: LearnerConfig) -> Algorithm:
        return self.algorithm


def register_algorithm(
    name: str, config_class: type[Any], make: Make, *, replace: bool = False
) -> None:
    """Adds an algorithm under a name, for this process.

    An installed package adds algorithms to every process by an entry point of the group
    ``jaxmarl_lite.algorithms``, which refers to a ``(Config, make)`` pair or to ``make``.

    Args:
        name: the name, in which no ``:`` or ``/`` may occur.
        config_class: class of the config, a `config_record`; usually one that extends
            `LearnerConfig` or the config of another algorithm.
        make: ``make(spec, config) -> Algorithm``; with a parameter ``networks`` it receives the
            user's `Networks` or None, and with a parameter ``name`` the name.
        replace: whether an algorithm of this name may be replaced.

    Raises:
        ValueError: the name is taken or no name, the class is no config, or the function has
            parameters that nobody gives it.

    Example:
        An algorithm that is MAPPO with another default:

        >>> import jaxmarl_lite as jml
        >>> @jml.config_record
        ... class PatientConfig(jml.MAPPOConfig):
        ...     gamma: float = 0.999
        >>> def make_patient(spec, config):
        ...     algorithm = jml.make_algorithm("mappo", spec, config)
        ...     return algorithm._replace(name="patient")
        >>> jml.register_algorithm("patient", PatientConfig, make_patient, replace=True)
        >>> result = jml.run(
        ...     "patient", "toy/counter", config={"hidden_sizes": (8,)}, seeds=2, total_steps=64,
        ...     num_envs=4, num_steps=8, num_evaluations=2, eval_episodes=4, quiet=True,
        ... )
        >>> result.config.gamma
        0.999
        >>> del jml.ALGORITHMS["patient"]
    """
    if not _is_instance(name, str) or not name or any(sign in name for sign in ":/<> "):
        raise validation.invalid("name", name, "a word without any of : / < > and spaces")
    if name in ALGORITHMS and not replace:
        raise validation.invalid(
            "name", name, "a name that no algorithm has; pass replace=True to replace it"
        )
    ALGORITHMS[name] = _checked_entry(name, config_class, make)


def _checked_entry(field: str, config_class: object, make: object) -> AlgorithmEntry:
    """Returns an entry after checks of what the user gave."""
    if not isinstance(config_class, type) or not base_config.is_config_record(config_class):
        raise ValueError(
            f"{field}: the config is {validation.show(config_class)}; allowed is a class under "
            "@jaxmarl_lite.config_record, such as one that extends jaxmarl_lite.LearnerConfig"
        )
    if not callable(make):
        raise validation.invalid(f"{field}: make", make, "a function make(spec, config)")
    _accepted(field, make)
    return AlgorithmEntry(typing.cast("type[LearnerConfig]", config_class), typing.cast(Make, make))


_KEYWORDS = ("name", "spec", "config", "networks")


def _accepted(field: str, make: Callable[..., object]) -> list[str]:
    """Returns those of the keywords that a ``make`` receives; refuses other parameters."""
    parameters = inspect.signature(make).parameters.values()
    unknown = [
        p.name
        for p in parameters
        if p.name not in _KEYWORDS and p.default is p.empty and p.kind not in (2, 4)  # *a, **k
    ]
    if unknown or any(p.kind == p.POSITIONAL_ONLY for p in parameters):
        raise ValueError(
            f"{field}: make has the parameters {', '.join(p.name for p in parameters)}; allowed "
            f"are {', '.join(_KEYWORDS)}, and others with defaults"
        )
    if any(p.kind == p.VAR_KEYWORD for p in parameters):
        return list(_KEYWORDS)
    return [p.name for p in parameters if p.name in _KEYWORDS]


def resolve(algorithm: object) -> tuple[str, AlgorithmEntry]:
    """Returns the name of an algorithm and what makes it.

    Args:
        algorithm: a name of `ALGORITHMS` or of an installed entry point; a text ``module:name`` of
            any of the following; a ``(Config, make)`` pair; a ``make`` whose parameter ``config``
            is annotated with the config's class; an `Algorithm`.

    Returns:
        The name, which for an object is a text by which a run's folder keeps it, see
        `references.describe`; and the entry.

    Raises:
        ValueError: there is no such algorithm, or the object is none.

    Example:
        >>> from jaxmarl_lite.algorithms import registry
        >>> registry.resolve("mappo")[1].config_class.__name__
        'MAPPOConfig'
        >>> registry.resolve("jaxmarl_lite.algorithms.liir:make_liir")[1].config_class.__name__
        'LIIRConfig'
    """
    if _is_instance(algorithm, str):
        name = typing.cast(str, algorithm)
        if name in ALGORITHMS:
            return name, AlgorithmEntry(*ALGORITHMS[name])  # a pair will do
        if references.is_reference(name):
            return name, _entry_of(f"algorithm {name!r}", references.load("algorithm", name))
        for entry_point in metadata.entry_points(group=_ENTRY_POINTS, name=name):
            loaded = references.load(f"algorithm {name!r}", entry_point.value)
            return name, _entry_of(f"algorithm {name!r}", loaded)
    elif _is_object(algorithm):
        return _describe(algorithm), _entry_of("algorithm", algorithm)
    allowed = ", ".join(names())
    raise validation.unknown_name(
        "algorithm",
        algorithm,
        names(),
        allowed=f"allowed is one of {allowed}, module:name, a (Config, make) pair or an Algorithm",
    )


def names() -> list[str]:
    """Returns the names of all algorithms, with those of installed packages.

    Returns:
        The names, this library's first.
    """
    installed = [entry.name for entry in metadata.entry_points(group=_ENTRY_POINTS)]
    return list(dict.fromkeys([*ALGORITHMS, *installed]))


def _is_object(algorithm: object) -> bool:
    """Returns whether a value is an algorithm in a form other than a text."""
    return isinstance(algorithm, (Algorithm, tuple)) or callable(algorithm)


def _describe(algorithm: object) -> str:
    """Returns the text by which a run's folder keeps an algorithm that was given as an object."""
    if isinstance(algorithm, Algorithm):
        return f"<{algorithm.name}>"
    if isinstance(algorithm, tuple):
        make = typing.cast("tuple[object, ...]", algorithm)[-1:]
        return f"<{getattr(make[0], '__qualname__', 'make') if make else 'empty'}>"
    return references.describe(algorithm)


def _entry_of(field: str, value: object) -> AlgorithmEntry:
    """Returns the entry of an algorithm that is an object."""
    if isinstance(value, Algorithm):
        kind = typing.cast("type[object]", type(value.config))
        return _checked_entry(field, kind, _Ready(value))
    if isinstance(value, tuple):
        pair = typing.cast("tuple[object, ...]", value)
        if len(pair) != 2:
            raise ValueError(f"{field} is a tuple of {len(pair)}; allowed is (Config, make)")
        return _checked_entry(field, pair[0], pair[1])
    if not callable(value) or isinstance(value, type):
        raise validation.invalid(
            field, value, "a (Config, make) pair, a function make(spec, config) or an Algorithm"
        )
    hints: dict[str, Any]
    try:
        hints = typing.get_type_hints(value)
    except (NameError, TypeError):
        hints = {}
    if "config" not in hints:
        raise ValueError(
            f"{field} is the function {getattr(value, '__qualname__', value)}, whose parameter "
            "config says no class; allowed is def make(spec, config: MyConfig), or the pair "
            "(MyConfig, make)"
        )
    return _checked_entry(field, hints["config"], value)


def ready_algorithm(entry: AlgorithmEntry) -> Algorithm | None:
    """Returns the algorithm of an entry that was passed as an object; None for any other entry.

    Args:
        entry: the entry.
    """
    return entry.make.algorithm if isinstance(entry.make, _Ready) else None


def config_of(name: object) -> type[LearnerConfig]:
    """Returns the config class of an algorithm.

    Args:
        name: an algorithm, as for `resolve`.

    Returns:
        The class, whose fields are the algorithm's settings.

    Raises:
        ValueError: for an unknown name; the message gives the nearest known ones.
    """
    return resolve(name)[1].config_class


def make_algorithm(
    algorithm: object,
    spec: EnvSpec,
    config: LearnerConfig | None = None,
    networks: object = None,
) -> Algorithm:
    """Returns an algorithm for an environment of given sizes.

    Args:
        algorithm: a name of `ALGORITHMS`, or an algorithm of the user, see `resolve`.
        spec: the environment's ``spec``.
        config: an instance of the algorithm's config class, or of a user's class that extends it;
            its defaults when None.
        networks: a user's own networks by role, a `Networks`; a function from ``spec`` to them;
            or a text ``module:name`` of either. None: the layers of the config.

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
    name, entry = resolve(algorithm)
    return make_entry(name, entry, spec, config, networks)


def make_entry(
    name: str,
    entry: AlgorithmEntry,
    spec: EnvSpec,
    config: LearnerConfig | None = None,
    networks: object = None,
) -> Algorithm:
    """Returns the algorithm of an entry, as `make_algorithm` does for a name.

    Args:
        name: name of the algorithm.
        entry: what makes it.
        spec: the environment's ``spec``.
        config: an instance of the entry's config class; its defaults when None.
        networks: as for `make_algorithm`.

    Returns:
        The algorithm as a record of pure functions.

    Raises:
        ValueError: as for `make_algorithm`; ``networks`` is given to an algorithm without them; or
            an algorithm that was passed as an object does not fit ``spec``; or ``make`` returned no
            `Algorithm`.
        TypeError: as for `make_algorithm`.
    """
    kind = entry.config_class
    config = kind() if config is None else config
    # a user's class may extend that of the algorithm; another algorithm's may not stand for it
    extends = isinstance(config, kind) and type(config) not in _LIBRARY_CONFIGS
    if type(config) is not kind and not extends:
        raise TypeError(
            f"config is {validation.show(config)}; allowed for {name!r} is a {kind.__name__}"
        )
    if not _is_instance(spec, EnvSpec):
        raise TypeError(f"spec is {validation.show(spec)}; allowed is an EnvSpec, such as env.spec")
    config = base_config.checked(config)
    base_config.check_resolved(config)
    if isinstance(config, base_config.SharingConfig):
        config.check_agents(spec.num_agents)
    values = {
        "name": name,
        "spec": spec,
        "config": config,
        "networks": resolve_networks(networks, spec),
    }
    accepted = _accepted(f"algorithm {name}", entry.make)
    if values["networks"] is not None and "networks" not in accepted:
        raise ValueError(
            f"networks is given, but the algorithm {name} makes its networks itself; allowed is "
            "None, or a make with a parameter networks"
        )
    result = entry.make(**{keyword: values[keyword] for keyword in accepted})
    if not _is_instance(result, Algorithm):
        raise ValueError(
            f"algorithm {name}: make returned {validation.show(result)}; allowed is a "
            "jaxmarl_lite.types.Algorithm"
        )
    if result.spec is not None:
        validation.check_spec(result, spec)
    gradient_update.check_objects(result)
    return result


def resolve_networks(networks: Any, spec: EnvSpec) -> Networks | None:
    """Returns a user's networks for an environment.

    Args:
        networks: as for `make_algorithm`.
        spec: the environment's ``spec``.

    Raises:
        ValueError: the text names no object; or a run was given an object, which must be passed
            again.
    """
    if isinstance(networks, references.Unavailable):
        raise references.missing("networks", networks, "networks=...")
    if isinstance(networks, str):
        networks = references.load("networks", networks)
    # a Linen module can be called too, but is no function
    if inspect.isfunction(networks):
        networks = networks(spec)
    if networks is not None and not isinstance(networks, Networks):
        raise validation.invalid(
            "networks", networks, "a jaxmarl_lite.Networks, such as Networks(actor=MyEncoder())"
        )
    return networks
