"""The plan of a run: one record, checked before anything is compiled and stored as config.json."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxmarl_lite import envs, validation
from jaxmarl_lite.algorithms import base_config, cost_limits, registry
from jaxmarl_lite.algorithms.cost_limits import CostLimits
from jaxmarl_lite.experiment import presets
from jaxmarl_lite.experiment.fingerprint import notice_changes
from jaxmarl_lite.report import run_dir
from jaxmarl_lite.types import Environment, EnvSpec
from jaxmarl_lite.validation import (
    MOST,
    check_bool,
    check_choice,
    check_int,
    check_mapping,
    invalid,
)

RESUME_FIELDS = (
    "algorithm",
    "env",
    "env_args",
    "config",
    "seeds",
    "num_envs",
    "num_steps",
    "stagger_episodes",
    "eval_episodes",
    "greedy",
)
"""Fields in which a resumed run must equal the run that it continues."""

_HIGHEST_SEED = 2**32 - 1
_MOST_SEEDS = 10_000
_MOST_EVALUATIONS = 1_000_000
_MOST_STEPS = 10**15


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The plan of a run: everything its numbers depend on, besides versions and device."""

    algorithm: str
    """Name of the algorithm."""
    env: str
    """Id of the environment, or the name in the `spec` of an environment object."""
    env_args: dict[str, Any] | None
    """Keyword arguments of `make`; None where the caller passed an environment object."""
    config: Any
    """Settings of the algorithm: its config."""
    seeds: tuple[int, ...]
    """Seeds; each is an independent training run."""
    total_steps: int
    """Environment steps of each seed, rounded up to whole updates."""
    num_envs: int
    """Parallel environments of a rollout, B."""
    num_steps: int
    """Steps of a rollout, T."""
    num_evaluations: int
    """Number of evaluations after the one at the start."""
    eval_episodes: int
    """Episodes of an evaluation."""
    greedy: bool
    """Evaluate the likeliest actions instead of sampled ones; policies and episodes of the result
    play the same by default."""
    seeds_in_parallel: int | None = None
    """Seeds that train side by side, the others after them; None: one on a CPU, else all."""
    devices: int | None = None
    """Number of devices to use; None: one, or all where several processes joined."""
    shard_over: Literal["envs", "seeds"] = "envs"
    """The axis that is spread over the devices: environments or seeds."""
    stagger_episodes: bool = False
    """Cut the first episode of every environment at a random step, so that episodes of different
    environments end at different times."""

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

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as plain data, as in config.json.

        Limits on costs become the mapping that a config accepts for them.
        """
        data = dataclasses.asdict(self)
        for name, value in vars(self.config).items():
            if isinstance(value, CostLimits):
                data["config"][name] = value.to_dict()
        return data


def make_run_config(
    algorithm: str,
    env: str | Environment,
    *,
    env_args: Mapping[str, Any] | None = None,
    config: Any = None,
    seeds: int | Sequence[int] = 3,
    num_envs: int | None = None,
    num_steps: int | None = None,
    stagger_episodes: bool | None = None,
    greedy: bool | None = None,
    seeds_in_parallel: int | None = None,
    devices: int | None = None,
    shard_over: Literal["envs", "seeds"] = "envs",
    **counts: int,
) -> tuple[RunConfig, Environment]:
    """Returns the plan that the arguments of `run` describe, and its environment.

    Args:
        algorithm: name of the algorithm.
        env: an environment id, or an environment object.
        env_args: keyword arguments of `make`.
        config: a config, a mapping from some of its fields to values, or None.
        seeds: number of seeds, or a sequence of them.
        num_envs: parallel environments, B; None: tuned, or 64.
        num_steps: steps of a rollout, T; None: tuned, or 64.
        stagger_episodes: whether first episodes are cut at random steps; None: tuned, or False.
        greedy: whether evaluations play the likeliest actions; None: the algorithm's default.
        seeds_in_parallel: seeds that train side by side; None: one on a CPU, else all.
        devices: number of devices; None: one, or all where several processes joined.
        shard_over: the axis that is spread over the devices.
        **counts: ``total_steps``, ``num_evaluations`` and ``eval_episodes`` of the plan.

    Returns:
        The checked plan, with the values tuned for the environment and with its present limits on
        costs, and the environment.

    Raises:
        ValueError: a value is invalid; the message names the field, its value and what is allowed.
    """
    config_class = registry.config_of(algorithm)
    arguments = {} if env_args is None else validation.to_plain(check_mapping("env_args", env_args))
    numbers = _numbers(
        seeds=seeds,
        seeds_in_parallel=seeds_in_parallel,
        devices=devices,
        shard_over=shard_over,
        **counts,
        **{
            name: value
            for name, value in (("num_envs", num_envs), ("num_steps", num_steps))
            if value is not None
        },
    )
    environment, env_id = resolve_env(env, arguments)
    tuned = presets.lookup(algorithm, env_id)
    plan = RunConfig(
        algorithm=algorithm,
        env=env_id,
        env_args=arguments if isinstance(env, str) else None,
        config=_make_config(config_class, tuned.fields, config),
        stagger_episodes=check_bool(
            "stagger_episodes",
            tuned.stagger_episodes if stagger_episodes is None else stagger_episodes,
        ),
        greedy=check_bool("greedy", config_class.evaluated_greedily if greedy is None else greedy),
        **({"num_envs": tuned.num_envs, "num_steps": tuned.num_steps} | numbers),  # type: ignore[arg-type]
    )
    _check_sizes(plan)
    built = registry.make_algorithm(algorithm, environment.spec, plan.learner_config)
    built.check_sizes(plan.num_envs, plan.num_steps)
    # An algorithm that learns from a replay cannot update before the replay is filled.
    first_update = built.first_learning_update(plan.num_envs, plan.num_steps)
    if plan.num_updates < first_update:
        raise ValueError(
            f"total_steps is {plan.total_steps}, in which {algorithm} has no batch to learn from; "
            f"allowed is more than {(first_update - 1) * plan.batch_steps} with these sizes"
        )
    return _with_limits(plan, environment), environment


_RANGES: dict[str, tuple[int, int]] = {
    "total_steps": (1, _MOST_STEPS),
    "num_evaluations": (1, _MOST_EVALUATIONS),
}
"""Smallest and largest value of the integers of a plan that do not range from 1 to `MOST`."""


def _numbers(**fields: Any) -> dict[str, Any]:
    """Returns the fields of a plan that are numbers, or may be None, as Python numbers.

    Raises:
        ValueError: a value is invalid.
    """
    checked: dict[str, Any] = {}
    for name, value in fields.items():
        if name == "seeds":
            checked[name] = parse_seeds(value)
        elif name == "shard_over":
            checked[name] = check_choice(name, value, ("envs", "seeds"))
        elif value is None and name in ("seeds_in_parallel", "devices"):
            checked[name] = None
        else:
            checked[name] = check_int(name, value, *_RANGES.get(name, (1, MOST)))
    return checked


def _check_sizes(plan: RunConfig) -> None:
    """Raises ValueError for numbers whose combination is too large."""
    if plan.batch_steps > MOST:
        raise ValueError(
            f"num_envs times num_steps is {plan.batch_steps}; allowed is {MOST} at most"
        )
    if plan.num_updates > MOST:
        raise ValueError(
            f"total_steps is {plan.total_steps}; allowed is {MOST * plan.batch_steps} at most, "
            f"{MOST} updates of {plan.batch_steps}"
        )


def _make_config(config_class: type, tuned: Mapping[str, Any], config: Any) -> Any:
    """Returns the config of a plan, checked.

    Args:
        config_class: class of the algorithm's config.
        tuned: values tuned for the environment, by field.
        config: a complete config, which is returned; a mapping from some fields to values, which
            replace the tuned values; or None.
    """
    if isinstance(config, config_class):
        return base_config.checked(config)
    if config is not None and not isinstance(config, Mapping):
        raise invalid(
            "config",
            config,
            f"{config_class.__name__}(...), or a mapping from some of its fields to values",
        )
    names = [field.name for field in dataclasses.fields(config_class)]
    _check_fields("config", config or {}, names, ())
    return base_config.override(config_class, tuned, config or {})


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


def from_dict(data: Mapping[str, Any], source: Path | str) -> RunConfig:
    """Returns the plan that the content of a config.json describes.

    Args:
        data: content of the file. Where it holds every retired field of the algorithm's config, as
            files of an older version do, those fields are ignored.
        source: path of the file, for messages.

    Raises:
        ValueError: a field is missing, unknown or out of range; the message names it and the file.
    """
    names = [field.name for field in dataclasses.fields(RunConfig)]
    required = [f.name for f in dataclasses.fields(RunConfig) if f.default is dataclasses.MISSING]
    _check_fields(f"{source}", data, names, required)
    config_class = registry.config_of(data["algorithm"])
    data = dict(data)
    # A file that holds all retired fields was written by an older version.
    if isinstance(data["config"], Mapping) and set(config_class.retired) <= set(data["config"]):
        data["config"] = {
            name: value
            for name, value in data["config"].items()
            if name not in config_class.retired
        }
    _check_fields(
        f"{source}: config", data["config"], [f.name for f in dataclasses.fields(config_class)], ()
    )
    env_args = data["env_args"]
    numbers = (
        "seeds",
        "total_steps",
        "num_envs",
        "num_steps",
        "num_evaluations",
        "eval_episodes",
        "seeds_in_parallel",
        "devices",
        "shard_over",
    )
    try:
        if not isinstance(data["env"], str):
            raise invalid("env", data["env"], "the name of an environment")
        plan = RunConfig(
            algorithm=data["algorithm"],
            env=data["env"],
            env_args=None
            if env_args is None
            else validation.to_plain(check_mapping("env_args", env_args)),
            config=config_from(config_class, data["config"]),
            greedy=check_bool("greedy", data["greedy"]),
            stagger_episodes=check_bool("stagger_episodes", data.get("stagger_episodes", False)),
            **_numbers(**{name: data[name] for name in numbers if name in data}),
        )
        _check_sizes(plan)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return plan


def config_from(config_class: type, fields: Mapping[str, Any]) -> Any:
    """Returns a config from plain data.

    Args:
        config_class: class of the config.
        fields: field -> value, as in config.json.
    """
    return config_class(**fields)


def read(path: Path | str) -> RunConfig:
    """Returns the plan that a run's folder holds.

    Args:
        path: folder of the run.

    Raises:
        RunFolderError: the folder holds no run.
        ValueError: a field of the plan is missing, unknown or out of range.
    """
    return from_dict(run_dir.read_config(path), run_dir.find(path).config)


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
    plan: RunConfig, stored: RunConfig, path: Path | str, fields: Sequence[str] = RESUME_FIELDS
) -> None:
    """Checks that a plan may continue a stored run.

    Args:
        plan: plan of the run that continues.
        stored: plan of the stored run.
        path: where the stored run is, for messages.
        fields: fields in which the plans must be equal; configs are compared in the fields that
            both have.

    Raises:
        ValueError: the plans differ; the message names the fields.
    """
    differences = []
    for name in fields:
        value, stored_value = getattr(plan, name), getattr(stored, name)
        pairs = [(name, value, stored_value)]
        if name == "config":
            shared = [
                field.name
                for field in dataclasses.fields(value)
                if hasattr(stored_value, field.name)
            ]
            pairs = [
                (f"config.{field}", getattr(value, field), getattr(stored_value, field))
                for field in shared
            ]
        differences += [pair for pair in pairs if pair[1] != pair[2]]
    if differences:
        field, value, stored_value = differences[0]
        others = "".join(f", {name}" for name, _, _ in differences[1:])
        raise ValueError(
            f"{field} is {value!r}, but the run in {path} has {stored_value!r}; allowed on "
            "resuming is the same value "
            f"(total_steps alone may grow){others and '. These differ too: ' + others[2:]}"
        )


def extend(stored: RunConfig, total_steps: int) -> RunConfig:
    """Returns the stored plan with more steps, and evaluations as far apart as before.

    Args:
        stored: plan of the stored run.
        total_steps: environment steps of each seed, at least as many as planned.

    Raises:
        ValueError: ``total_steps`` is no whole number, too large, or less than planned.
    """
    total_steps = check_int("total_steps", total_steps, 1, _MOST_STEPS)
    if total_steps < stored.total_steps:
        raise invalid("total_steps", total_steps, f"{stored.total_steps}, as planned, or more")
    if total_steps == stored.total_steps:
        return stored
    longer = dataclasses.replace(stored, total_steps=total_steps)
    # evaluations per update, at most one
    share = min(stored.num_evaluations, stored.num_updates) / stored.num_updates
    return dataclasses.replace(longer, num_evaluations=max(1, round(share * longer.num_updates)))


def _check_fields(source: str, data: Any, names: Sequence[str], required: Sequence[str]) -> None:
    """Raises ValueError for data that are no mapping, or have unknown or missing fields."""
    if not isinstance(data, Mapping):
        raise invalid(source, data, f"an object with the fields {', '.join(names)}")
    for name in data:
        if name not in names:
            near = validation.nearest_names(name, names, 1)
            hint = f"; nearest: {near[0]}" if near else f"; allowed are {', '.join(names)}"
            raise ValueError(f"{source} has the unknown field {name!r}{hint}")
    if missing := [name for name in required if name not in data]:
        raise ValueError(f"{source} lacks the field {missing[0]!r}")
