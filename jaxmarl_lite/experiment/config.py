"""The plan of a run: one record, checked before anything is compiled and stored as config.json."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite import envs, references, validation
from jaxmarl_lite.algorithms import base_config, cost_limits, registry
from jaxmarl_lite.algorithms.cost_limits import CostLimits
from jaxmarl_lite.experiment import presets
from jaxmarl_lite.experiment.fingerprint import notice_changes
from jaxmarl_lite.report import run_dir
from jaxmarl_lite.types import Algorithm, Environment, EnvSpec
from jaxmarl_lite.validation import MOST, check_int, check_mapping, invalid

_ADDED_FIELDS = (
    "seeds_in_parallel",
    "devices",
    "shard_over",
    "stagger_episodes",
    "init_from",
    "networks",
    "lanes",
)
"""Fields that a stored run may lack, because earlier versions had none of them."""
_HIGHEST_SEED = 2**32 - 1
_MOST_SEEDS = 10_000


class Lane(NamedTuple):
    """One seed of one point of a sweep.

    Attributes:
        seed: number from which it derives its random keys.
        values: (field of the config, float) of the point.
    """

    seed: int
    values: tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings of a run: everything its numbers depend on, besides versions and device.

    The command line has an option for every field, config.json stores them, and the fields that
    decide the compiled programs are the key by which these are found again. Values are checked
    when an instance is made.

    Raises:
        ValueError: a value is invalid; the message names the field, its value and what is allowed.
    """

    algorithm: str
    """Name of the algorithm, or module:name of one."""
    env: str
    """Id of the environment, see `jaxmarl-lite list`, or module:name of a class or function."""
    env_args: dict[str, Any] | None = None
    """Keyword arguments of the environment, such as reward=individual agent_id=False."""
    config: Any = None
    """Settings of the algorithm."""
    networks: Any = None
    """Networks of the user, as module:name of a `Networks` or of a function from the environment's
    spec to them."""
    lanes: tuple[Lane, ...] | None = None
    """Points of a sweep that train as one program; None in an ordinary run."""
    entry: Any = dataclasses.field(default=None, repr=False)
    """What makes an algorithm that was passed as an object, which no file can hold."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One number: how many seeds, 0 .. n-1; several numbers: the seeds themselves."""
    total_steps: int = 1_000_000
    """Environment steps of each seed, rounded up to whole updates."""
    num_envs: int = 64
    """Parallel environments of a rollout; tuned for some environments."""
    num_steps: int = 64
    """Steps of a rollout; tuned for some environments."""
    stagger_episodes: bool = False
    """Cut the first episode of every parallel environment at a random step, so that episodes end at
    different times; tuned for some environments."""
    num_evaluations: int = 20
    """Number of evaluations, each with a checkpoint, after the one at the start."""
    eval_episodes: int = 32
    """Episodes of an evaluation."""
    greedy: bool = False
    """Evaluate, and later play and render, the likeliest actions instead of sampled ones."""
    init_from: str | None = None
    """Folder of another run, from whose weights this one starts where their shapes agree."""
    seeds_in_parallel: int | None = None
    """Seeds that train side by side; None: one on a CPU, else all."""
    devices: int | None = None
    """Number of devices to use; None: one, or all where several processes join."""
    shard_over: Literal["envs", "seeds"] = "envs"
    """Axis that is spread over several devices: the environments of every seed, or the seeds."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", parse_seeds(self.seeds))
        if self.lanes is not None:
            lanes = tuple(
                Lane(int(seed), tuple((name, value) for name, value in values))
                for seed, values in self.lanes
            )
            object.__setattr__(self, "lanes", lanes)
        if self.init_from is not None:
            path = validation.check_path("init_from", self.init_from).absolute()
            object.__setattr__(self, "init_from", str(path))
        validation.check_fields(self, highest={"total_steps": 10**15, "num_evaluations": 1_000_000})
        if self.batch_steps > MOST:
            raise ValueError(
                f"num_envs times num_steps is {self.batch_steps}; allowed is {MOST} at most"
            )
        if self.num_updates > MOST:
            raise ValueError(
                f"total_steps is {self.total_steps}; allowed is {MOST * self.batch_steps} at most, "
                f"{MOST} updates of {self.batch_steps}"
            )

    @property
    def batch_steps(self) -> int:
        """Environment steps of one update of one seed, ``num_envs * num_steps``."""
        return self.num_envs * self.num_steps

    @property
    def num_updates(self) -> int:
        """Number of updates of each seed, at least 1."""
        return max(1, math.ceil(self.total_steps / self.batch_steps))

    @property
    def evaluation_updates(self) -> tuple[int, ...]:
        """The updates after which every seed is evaluated and saved.

        They are 0, the last update, and evenly spaced ones between.
        """
        parts = min(self.num_evaluations, self.num_updates)
        return tuple(round(i * self.num_updates / parts) for i in range(parts + 1))

    @property
    def learner_config(self) -> Any:
        """The config that a learner starts with: shares of the run as environment steps."""
        return base_config.resolve_shares(self.config, self.num_updates * self.batch_steps)

    @property
    def random_seeds(self) -> tuple[int, ...]:
        """The number from which each entry of ``seeds`` derives its random keys."""
        return self.seeds if self.lanes is None else tuple(lane.seed for lane in self.lanes)

    def seed_name(self, i: int) -> str:
        """Returns the words by which messages name a seed.

        Args:
            i: its place in ``seeds``.

        Returns:
            Such as ``seed 3``; in a sweep the settings that vary are named as well.
        """
        if self.lanes is None:
            return f"seed {self.seeds[i]}"
        lane = self.lanes[i]
        same = set(lane.values).intersection(*(other.values for other in self.lanes))
        settings = ", ".join(f"{k}={v:g}" for k, v in lane.values if (k, v) not in same)
        return f"seed {lane.seed}" + (f" with {settings}" if settings else "")

    @property
    def config_arrays(self) -> Any:
        """The config with which the learners start, as arrays; ``[S]`` in a sweep."""
        if self.lanes is None:
            return base_config.as_arrays(self.learner_config)
        length = self.num_updates * self.batch_steps
        configs = [
            base_config.resolve_shares(dataclasses.replace(self.config, **dict(x.values)), length)
            for x in self.lanes
        ]
        return jax.tree.map(lambda *x: jnp.stack(x), *map(base_config.as_arrays, configs))

    def make_algorithm(self, spec: EnvSpec, config: Any) -> Algorithm:
        """Returns the plan's algorithm for an environment.

        Args:
            spec: spec of the environment.
            config: config of the algorithm, without shares of a run.

        Raises:
            ValueError: as for `make_algorithm`.
        """
        entry = self.entry or registry.resolve(self.algorithm)[1]
        return registry.make_entry(self.algorithm, entry, spec, config, self.networks)

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as plain data, as in config.json.

        Limits on costs become the mapping that a config accepts for them. Objects of the user
        become texts, see `references.describe`.
        """
        data = dict(vars(self))
        del data["entry"]
        if self.lanes is None:
            del data["lanes"]
        if self.networks is not None:
            data["networks"] = references.describe(self.networks)
        data["config"] = vars(self.config) | base_config.describe_objects(self.config)
        for name, value in data["config"].items():
            if isinstance(value, CostLimits):
                data["config"][name] = value.to_dict()
        return data


RUN_ARGUMENTS = frozenset(
    field.name
    for field in dataclasses.fields(RunConfig)
    if field.name not in ("algorithm", "env", "config", "entry", "lanes")
)
"""Fields that are arguments of `run`, besides algorithm, environment and config."""

LAYOUT_FIELDS = ("seeds_in_parallel", "devices", "shard_over")
"""Fields that distribute seeds and environments, and change no more than rounding."""

FREE_FIELDS = frozenset(("total_steps", "num_evaluations", *LAYOUT_FIELDS))
"""Fields in which a resumed run may differ from the run that it continues."""


def tuned_run_config(algorithm: object, env_id: str) -> RunConfig:
    """Returns the settings of a run of which the user sets nothing but algorithm and environment.

    Args:
        algorithm: the algorithm, as for `run`.
        env_id: id of the environment.

    Returns:
        Settings tuned for the environment, and defaults for all others.

    Raises:
        ValueError: there is no such algorithm.
    """
    name, entry = registry.resolve(algorithm)
    tuned = presets.lookup(name, env_id)
    return RunConfig(
        algorithm=name,
        env=env_id,
        env_args={},
        config=_initial_config(entry, tuned.fields),
        entry=None if isinstance(algorithm, str) else entry,
        greedy=getattr(entry.config_class, "evaluated_greedily", False),
        **tuned.run_settings,
    )


def _initial_config(entry: registry.AlgorithmEntry, tuned: Mapping[str, Any]) -> Any:
    """Returns the config that a run begins from, before the user's settings."""
    ready = registry.ready_algorithm(entry)
    return entry.config_class(**tuned) if ready is None else ready.config


def tuned(
    algorithm: Any, env: str | Environment, *, total_steps: int | None = None
) -> dict[str, Any]:
    """Returns the settings that `run` and the command line use where the user sets none.

    They are arguments of `run`: ``run(**tuned(algorithm, env))`` is ``run(algorithm, env)``. Seeds,
    ``total_steps`` and evaluations are not among them, so that they can be passed beside.

    Args:
        algorithm: name of the algorithm.
        env: an id that `make` accepts, or an environment object.
        total_steps: environment steps of the run; settings that are shares of a run, such as
            ``lr_anneal_share``, are returned in steps, as `make_algorithm` needs them. None: they
            stay shares, which `run` takes.

    Returns:
        ``algorithm``, ``env``, the complete ``config``, ``num_envs``, ``num_steps``,
        ``stagger_episodes`` and ``greedy``: tuned for the environment where someone tuned them,
        defaults elsewhere.

    Raises:
        ValueError: there is no such algorithm or environment, or ``total_steps`` is not positive.

    Example:
        >>> import dataclasses, jaxmarl_lite as jml
        >>> settings = jml.tuned("macpo", "toy/budget")
        >>> settings["num_envs"], settings["config"].cost_confidence, settings["greedy"]
        (64, 0.95, False)
        >>> settings = jml.tuned("qmix", "toy/counter") | {"num_envs": 4, "num_steps": 8}
        >>> small = dict(sequence_length=2, buffer_size=16, batch_size=8, mixing_embed_dim=2)
        >>> settings["config"] = dataclasses.replace(settings["config"], **small)
        >>> result = jml.run(**settings, seeds=1, total_steps=64, num_evaluations=1, quiet=True)
        >>> result.steps
        array([ 0, 64])
    """
    registry.config_of(algorithm)  # an unknown name is the first error
    plan = tuned_run_config(algorithm, resolve_env(env)[1])
    names = ("config", "num_envs", "num_steps", "stagger_episodes", "greedy")
    settings = {"algorithm": algorithm, "env": env} | {name: getattr(plan, name) for name in names}
    if total_steps is not None:
        settings["config"] = dataclasses.replace(plan, total_steps=total_steps).learner_config
    return settings


def make_run_config(
    algorithm: object,
    env: str | Environment,
    *,
    env_args: Mapping[str, Any] | None = None,
    config: Any = None,
    **settings: Any,
) -> tuple[RunConfig, Environment]:
    """Returns the settings of a run that the arguments of `run` describe, and its environment.

    Args:
        algorithm: the algorithm, as for `run`.
        env: an environment id, or an environment object.
        env_args: keyword arguments of `make`.
        config: a config, a mapping from some of its fields to values, or None.
        **settings: fields of `RunConfig`; None stands for the tuned or default value where `run`
            documents it.

    Returns:
        The checked settings, with the values tuned for the environment and with its present limits
        on costs, and the environment.

    Raises:
        ValueError: a value is invalid; the message names the field, its value and what is allowed.
    """
    _, entry = registry.resolve(algorithm)  # an unknown name is the first error
    ready = registry.ready_algorithm(entry)
    if ready is not None and config is not None and config != ready.config:
        raise invalid(
            "config", config, "None: the algorithm was passed as an object, which has its config"
        )
    arguments = {} if env_args is None else validation.to_plain(check_mapping("env_args", env_args))
    environment, env_id = resolve_env(env, arguments)
    tuned = tuned_run_config(algorithm, env_id)
    optional = ("num_envs", "num_steps", "stagger_episodes", "greedy")
    plan = dataclasses.replace(
        tuned,
        env_args=arguments if isinstance(env, str) else None,
        config=_make_config(tuned.config, config),
        **{k: v for k, v in settings.items() if v is not None or k not in optional},
    )
    built = plan.make_algorithm(environment.spec, plan.learner_config)
    built.check_sizes(plan.num_envs, plan.num_steps)
    # An algorithm that learns from a replay cannot update before the replay is filled.
    first_update = built.first_learning_update(plan.num_envs, plan.num_steps)
    if plan.num_updates < first_update:
        raise ValueError(
            f"total_steps is {plan.total_steps}, in which {plan.algorithm} has no batch to learn "
            f"from; allowed is more than {(first_update - 1) * plan.batch_steps} with these sizes"
        )
    return _with_limits(plan, environment), environment


def with_config(plan: RunConfig, fields: Mapping[str, Any], env: Environment) -> RunConfig:
    """Returns a plan with other values in some fields of its config, checked.

    Args:
        plan: the plan.
        fields: field of the config -> value.
        env: the environment.

    Raises:
        ValueError: a field or a value is invalid.
    """
    kind = type(plan.config)
    _check_fields("config", fields, _field_names(kind))
    config = base_config.override(kind, vars(plan.config), fields)
    changed = _with_limits(dataclasses.replace(plan, config=config), env)
    changed.make_algorithm(env.spec, changed.learner_config).check_sizes(
        changed.num_envs, changed.num_steps
    )
    return changed


def _make_config(tuned: Any, config: Any) -> Any:
    """Returns the config of a plan, checked.

    Args:
        tuned: the config tuned for the environment.
        config: a complete config, which is returned; a mapping from some fields to values, which
            replace the tuned values; or None.
    """
    kind = type(tuned)
    if isinstance(config, kind):
        return base_config.checked(config)
    if config is not None and not isinstance(config, Mapping):
        raise invalid(
            "config",
            config,
            f"{kind.__name__}(...), or a mapping from some of its fields to values",
        )
    if "cost_limit" in (config or {}):
        check_keeps_limits("config.cost_limit", kind)
    _check_fields("config", config or {}, _field_names(kind))
    return base_config.override(kind, vars(tuned), config or {})


def check_keeps_limits(field: str, kind: type) -> None:
    """Checks that an algorithm has limits on costs to set.

    Args:
        field: name of the setting, for the message.
        kind: config class of the algorithm.

    Raises:
        ValueError: it has none; the message names the algorithms that do.
    """
    if "cost_limit" in _field_names(kind):
        return
    kinds = {name: registry.config_of(name) for name in registry.ALGORITHMS}
    allowed = " or ".join(name for name, x in kinds.items() if "cost_limit" in _field_names(x))
    raise ValueError(
        f"{field} is set, but the algorithm of {kind.__name__} keeps no limits; allowed with "
        f"{allowed}. Every run is measured against the limits of its environment"
    )


def _field_names(kind: type) -> list[str]:
    """Returns the names of the fields of a config class."""
    return [field.name for field in dataclasses.fields(kind)]


def _with_limits(plan: RunConfig, env: Environment) -> RunConfig:
    """Returns the plan with the environment's present limits where its config has none.

    The run then keeps these limits even if those of the environment change later.
    """
    limits = getattr(plan.config, "cost_limit", None)
    if not isinstance(limits, CostLimits):
        return plan
    limits = cost_limits.with_defaults(limits, env.spec)
    return dataclasses.replace(plan, config=dataclasses.replace(plan.config, cost_limit=limits))


def resolve_env(
    env: str | Environment, env_args: Mapping[str, Any] | None = None
) -> tuple[Environment, str]:
    """Returns the environment of an id, or an environment object after checks, and its name.

    Args:
        env: an environment id, or an object that follows the `Environment` protocol.
        env_args: keyword arguments of `make`, allowed where ``env`` is an id.

    Returns:
        The environment, and its id or the name in its spec.

    Raises:
        ValueError: ``env_args`` is given with an object, or the object violates the protocol.
    """
    if isinstance(env, str):
        return envs.make(env, **dict(env_args or {})), env
    if env_args:
        raise invalid(
            "env_args",
            dict(env_args),
            "nothing where env is an object: pass keywords to its constructor",
        )
    notice_changes(env)
    return env, envs.check_environment(env).name


def parse_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """Returns the seeds as a tuple: ``n`` stands for ``0 .. n-1``, a sequence for itself.

    Args:
        seeds: a number from 1 to 10,000, or a sequence of 1 to 10,000 different seeds from 0 to
            2**32 - 1.

    Raises:
        ValueError: for anything else.
    """
    seeds = validation.to_plain(seeds)
    if not isinstance(seeds, (tuple, range)):
        return tuple(range(check_int("seeds", seeds, 1, _MOST_SEEDS)))
    if not 1 <= len(seeds) <= _MOST_SEEDS:
        raise ValueError(f"seeds has {len(seeds)} entries; allowed are 1 to {_MOST_SEEDS}")
    parsed = tuple(check_int("seeds", seed, 0, _HIGHEST_SEED) for seed in seeds)
    if len(set(parsed)) < len(parsed):
        raise invalid("seeds", seeds, "different whole numbers")
    return parsed


class Objects(NamedTuple):
    """Objects that a run was given and that its folder cannot hold, passed again.

    Attributes:
        algorithm: the algorithm, or None.
        networks: the networks, or None.
        config: fields of the config, such as an optimizer.
    """

    algorithm: object = None
    networks: object = None
    config: Mapping[str, Any] | None = None


NO_OBJECTS = Objects()


class _Unread(types.SimpleNamespace):
    """The config of an algorithm that is not at hand: its fields as the file has them."""


def from_dict(
    data: Mapping[str, Any], source: Path | str, objects: Objects = NO_OBJECTS
) -> RunConfig:
    """Returns the plan that the content of a config.json describes.

    Where the run was given an object that is not passed again, the plan can be shown, but its
    algorithm cannot be made.

    Args:
        data: content of the file.
        source: path of the file, for messages.
        objects: objects that the run was given.

    Raises:
        ValueError: a field is missing, unknown or out of range, or an object is none that the run
            was given; the message names it and the file.
    """
    names = [name for name in _field_names(RunConfig) if name != "entry"]
    _check_fields(f"{source}", data, names, [name for name in names if name not in _ADDED_FIELDS])
    env_args, networks = data["env_args"], data.get("networks")
    try:
        if not isinstance(data["env"], str):
            raise invalid("env", data["env"], "the name of an environment")
        if env_args is not None:
            env_args = validation.to_plain(check_mapping("env_args", env_args))
        entry = _entry_of(data["algorithm"], objects.algorithm)
        changes = {
            "config": _config_of(entry, data, source, objects.config),
            "env_args": env_args,
            "entry": None if objects.algorithm is None else entry,
            "networks": networks
            and _object("networks", references.from_description(networks), objects.networks),
        }
        return RunConfig(**(dict(data) | changes))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _object(field: str, stored: Any, passed: Any) -> Any:
    """Returns what a stored text stands for, or the object that was passed again for it."""
    if passed is None:
        return stored
    if references.describe(passed) != references.describe(stored):
        raise invalid(field, passed, f"{references.describe(stored)}, which the run was given")
    return passed


def _entry_of(stored: Any, passed: object) -> registry.AlgorithmEntry | None:
    """Returns what makes a stored algorithm; None where it was an object and is not passed again.

    Args:
        stored: the text in config.json.
        passed: the algorithm, passed again, or its entry, or None.
    """
    if isinstance(passed, registry.AlgorithmEntry):
        return passed
    if passed is not None:
        name, entry = registry.resolve(passed)
        if name != stored:
            raise invalid("algorithm", passed, f"{stored}, which the run was given")
        return entry
    if isinstance(stored, str) and isinstance(
        references.from_description(stored), references.Unavailable
    ):
        return None
    return registry.resolve(stored)[1]


def _config_of(
    entry: registry.AlgorithmEntry | None,
    data: Mapping[str, Any],
    source: Path | str,
    passed: Mapping[str, Any] | None,
) -> Any:
    """Returns the config that a config.json describes."""
    fields = validation.to_plain(data["config"])
    if entry is None:
        return _Unread(**check_mapping("config", fields))
    _check_fields(f"{source}: config", fields, _field_names(entry.config_class))
    restored = base_config.restore_objects(fields)
    for name, value in (passed or {}).items():
        if not isinstance(restored.get(name), references.Unavailable):
            objects = [n for n, x in restored.items() if isinstance(x, references.Unavailable)]
            raise invalid(
                f"config.{name}",
                value,
                f"one of the fields that the run was given as an object: {objects or 'none'}",
            )
        restored[name] = _object(f"config.{name}", restored[name], value)
    return entry.config_class(**restored)


def read(path: Path | str, objects: Objects = NO_OBJECTS) -> RunConfig:
    """Returns the plan that a run's folder holds.

    Args:
        path: folder of the run.
        objects: objects that the run was given, see `from_dict`.

    Raises:
        RunFolderError: the folder holds no run.
        ValueError: a field of the plan is missing, unknown or out of range.
    """
    return from_dict(run_dir.read_config(path), run_dir.find(path).config, objects)


def check_complete(plan: RunConfig, path: Path | str, curves_alone: bool = False) -> None:
    """Checks that the objects of a stored run are at hand.

    Args:
        plan: plan of the run.
        path: folder of the run, for messages.
        curves_alone: whether the algorithm, which has the config's class, is enough.

    Raises:
        ValueError: an object is missing; the message says how to pass it again.
    """
    missing = {}
    if isinstance(plan.config, _Unread):
        missing["algorithm"] = plan.algorithm
    if isinstance(plan.networks, references.Unavailable) and not curves_alone:
        missing["networks"] = plan.networks.description
    for name, value in vars(plan.config).items():
        if isinstance(value, references.Unavailable) and not curves_alone:
            missing[f"config.{name}"] = value.description
    for field, description in missing.items():
        section, _, name = field.partition(".")
        again = f"{section}={{{name!r}: ...}}" if name else f"{field}=..."
        raise ValueError(
            f"the run in {path} was given its {field}, {description}, as an object; give it again "
            f"as {again}, or pass it as 'module:name' from the start"
        )


def env_of_run(plan: RunConfig, path: Path | str, env: Environment | None) -> Environment:
    """Returns the environment of a stored run.

    Args:
        plan: plan of the run.
        path: folder of the run, for messages.
        env: the environment object, required where `run` was given one; else None.

    Raises:
        ValueError: ``env`` is missing, no environment, or one of another name; or the plan limits
            costs that the environment does not have.
    """
    if env is not None and not isinstance(getattr(env, "spec", None), EnvSpec):
        raise invalid(
            "env",
            env,
            "the environment object that was passed to run, or None where its id was passed",
        )
    if plan.env_args is None and env is None:
        raise ValueError(
            f"the run in {path} was given its environment, {plan.env}, as an object; give it "
            "again as env"
        )
    if env is not None and env.spec.name != plan.env:
        raise ValueError(
            f"env is {env.spec.name}, but the run in {path} has {plan.env}; allowed is the same"
        )
    environment, _ = resolve_env(plan.env, plan.env_args) if env is None else resolve_env(env)
    if isinstance(getattr(plan.config, "cost_limit", None), CostLimits):
        cost_limits.check(
            plan.config.cost_limit, environment.spec, f"cost_limit of the run in {path}"
        )
    return environment


def check_resumable(
    plan: RunConfig, stored: RunConfig, path: Path | str, free: Collection[str] = FREE_FIELDS
) -> None:
    """Checks that a plan may continue a stored run.

    Args:
        plan: plan of the run that continues.
        stored: plan of the stored run.
        path: where the stored run is, for messages.
        free: fields in which the plans may differ; configs are compared in the fields that both
            have.

    Raises:
        ValueError: the plans differ; the message names the fields.
    """
    # as plain data, in which an object of the user is its description
    data, stored_data = plan.to_dict(), stored.to_dict()
    pairs = {name: (x, stored_data.get(name)) for name, x in data.items() if name not in free}
    config, stored_config = data["config"], stored_data["config"]
    pairs.pop("config")
    pairs |= {
        f"config.{name}": (value, stored_config[name])
        for name, value in config.items()
        if name in stored_config
    }
    different = [name for name, (value, stored_value) in pairs.items() if value != stored_value]
    if different:
        value, stored_value = pairs[different[0]]
        others = ", ".join(different[1:])
        raise ValueError(
            f"{different[0]} is {value!r}, but the run in {path} has {stored_value!r}; allowed on "
            "resuming is the same value (total_steps alone may grow)"
            f"{others and f'. These differ too: {others}'}"
        )


def extend(stored: RunConfig, total_steps: int) -> RunConfig:
    """Returns the stored plan with more steps, and evaluations as far apart as before.

    Args:
        stored: plan of the stored run.
        total_steps: environment steps of each seed, at least as many as planned.

    Raises:
        ValueError: ``total_steps`` is no whole number, too large, or less than planned.
    """
    longer = dataclasses.replace(stored, total_steps=total_steps)
    if longer.total_steps < stored.total_steps:
        raise invalid("total_steps", total_steps, f"{stored.total_steps}, as planned, or more")
    if longer.total_steps == stored.total_steps:
        return stored
    # evaluations per update, at most one
    share = min(stored.num_evaluations, stored.num_updates) / stored.num_updates
    return dataclasses.replace(longer, num_evaluations=max(1, round(share * longer.num_updates)))


def _check_fields(
    source: str, data: Any, names: Sequence[str], required: Sequence[str] = ()
) -> None:
    """Raises ValueError for data that are no mapping, or have unknown or missing fields."""
    if not isinstance(data, Mapping):
        raise invalid(source, data, f"an object with the fields {', '.join(names)}")
    for name in data:
        if name not in names:
            raise validation.unknown_name(f"field of {source}", name, names)
    if missing := [name for name in required if name not in data]:
        raise ValueError(f"{source} lacks the field {missing[0]!r}")
