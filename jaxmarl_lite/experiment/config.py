"""What a run is to do, as one record that is checked before anything is compiled and kept as
config.json.
"""

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
"""Fields that a resumed run must share with what it continues."""

_HIGHEST_SEED = 2**32 - 1
_MOST_SEEDS = 10_000
_MOST_EVALUATIONS = 1_000_000
_MOST_STEPS = 10**15


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A run: everything its numbers depend on besides versions and device."""

    algorithm: str
    """Name of the algorithm."""
    env: str
    """Id of the environment, or the name in the `spec` of an object."""
    env_args: dict[str, Any] | None
    """Keywords of `make`; None where the caller gave an object."""
    config: Any
    """Settings of the algorithm."""
    seeds: tuple[int, ...]
    """One independent training run each."""
    total_steps: int
    """Environment steps of each seed, at least."""
    num_envs: int
    """Parallel worlds, B."""
    num_steps: int
    """Steps of a rollout, T."""
    num_evaluations: int
    """Evaluations after the one at the start."""
    eval_episodes: int
    """Episodes of an evaluation."""
    greedy: bool
    """Evaluate the likeliest actions instead of sampled ones; what is played of the run later
    follows it."""
    seeds_in_parallel: int | None = None
    """Seeds that train side by side, the others after them; None: one on a CPU, else all."""
    devices: int | None = None
    """Devices to use; None: one, or all where several processes joined."""
    shard_over: Literal["envs", "seeds"] = "envs"
    """What is spread over the devices."""
    stagger_episodes: bool = False
    """Cut every world's first episode at a random step, so that worlds are not in step."""

    @property
    def batch_steps(self) -> int:
        """Environment steps of one update of one seed."""
        return self.num_envs * self.num_steps

    @property
    def num_updates(self) -> int:
        """Updates of each seed."""
        return max(1, math.ceil(self.total_steps / self.batch_steps))

    @property
    def evaluation_updates(self) -> tuple[int, ...]:
        """The updates after which every seed is evaluated and saved: 0, the last, and evenly
        between.
        """
        parts = min(self.num_evaluations, self.num_updates)
        return tuple(round(i * self.num_updates / parts) for i in range(parts + 1))

    @property
    def learner_config(self) -> Any:
        """The settings that a learner starts with: shares of the run as environment steps."""
        return base_config.resolve_shares(self.config, self.num_updates * self.batch_steps)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in config.json; limits as the mapping that a config takes them from."""
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
    """A plan from the arguments of `run`, and its environment.

    Raises:
        ValueError: for any value that cannot be, naming field, value and what is allowed.
    """
    kind = registry.config_of(algorithm)
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
    world, env_id = resolve_env(env, arguments)
    tuned = presets.lookup(algorithm, env_id)
    plan = RunConfig(
        algorithm=algorithm,
        env=env_id,
        env_args=arguments if isinstance(env, str) else None,
        config=_config(kind, tuned.fields, config),
        stagger_episodes=check_bool(
            "stagger_episodes",
            tuned.stagger_episodes if stagger_episodes is None else stagger_episodes,
        ),
        greedy=check_bool("greedy", kind.evaluated_greedily if greedy is None else greedy),
        **({"num_envs": tuned.num_envs, "num_steps": tuned.num_steps} | numbers),  # type: ignore[arg-type]
    )
    _check_sizes(plan)
    made = registry.make_algorithm(algorithm, world.spec, plan.learner_config)
    made.check_sizes(plan.num_envs, plan.num_steps)
    first = made.first_learning_update(plan.num_envs, plan.num_steps)
    if plan.num_updates < first:
        raise ValueError(
            f"total_steps is {plan.total_steps}, in which {algorithm} has no batch to learn from; "
            "allowed is more than "
            f"{(first - 1) * plan.batch_steps} with these sizes"
        )
    return _with_limits(plan, world), world


_RANGES: dict[str, tuple[int, int]] = {
    "total_steps": (1, _MOST_STEPS),
    "num_evaluations": (1, _MOST_EVALUATIONS),
}
"""The least and the most that a whole number of a plan may be, where it is not from 1 to `MOST`."""


def _numbers(**fields: Any) -> dict[str, Any]:
    """The fields of a plan that are numbers, or may be None, as Python's numbers; ValueError for
    what cannot be.
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
    """Raise ValueError for numbers that are too large together."""
    if plan.batch_steps > MOST:
        raise ValueError(
            f"num_envs times num_steps is {plan.batch_steps}; allowed is {MOST} at most"
        )
    if plan.num_updates > MOST:
        raise ValueError(
            f"total_steps is {plan.total_steps}; allowed is {MOST * plan.batch_steps} at most, "
            f"{MOST} updates of {plan.batch_steps}"
        )


def _config(kind: type, tuned: Mapping[str, Any], given: Any) -> Any:
    """The settings that were tuned, with those given by name in their place; or the whole config
    that was given.
    """
    if isinstance(given, kind):
        return base_config.checked(given)
    if given is not None and not isinstance(given, Mapping):
        raise invalid(
            "config", given, f"{kind.__name__}(...), or a mapping from some of its fields to values"
        )
    _check_fields("config", given or {}, [field.name for field in dataclasses.fields(kind)], ())
    return base_config.override(kind, tuned, given or {})


def _with_limits(plan: RunConfig, world: Environment) -> RunConfig:
    """The plan with the limits that the environment has now, so that the run keeps them if these
    ever change.
    """
    given = getattr(plan.config, "cost_limit", None)
    if not isinstance(given, CostLimits):
        return plan
    whole = cost_limits.with_defaults(given, world.spec)
    return dataclasses.replace(plan, config=dataclasses.replace(plan.config, cost_limit=whole))


def resolve_env(
    env: str | Environment, env_args: Mapping[str, Any] | None = None
) -> tuple[Environment, str]:
    """The environment of an id, or an object after a check of its protocol; and its name."""
    if isinstance(env, str):
        return envs.make(env, **dict(env_args or {})), env
    if env_args:
        raise invalid(
            "env_args",
            dict(env_args),
            "nothing where env is an object: give keywords to its constructor",
        )
    notice_changes(env)
    return env, envs.check_environment(env).name


def parse_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """``n`` stands for ``0 .. n-1``; a sequence for itself."""
    seeds = validation.to_plain(seeds)
    if not isinstance(seeds, (tuple, range)):
        return tuple(range(check_int("seeds", seeds, 1, _MOST_SEEDS)))
    if not 1 <= len(seeds) <= _MOST_SEEDS:
        raise ValueError(f"seeds has {len(seeds)} entries; allowed are 1 to {_MOST_SEEDS}")
    found = tuple(check_int("seeds", seed, 0, _HIGHEST_SEED) for seed in seeds)
    if len(set(found)) < len(found):
        raise invalid("seeds", seeds, "different whole numbers")
    return found


def from_dict(data: Mapping[str, Any], source: Path | str) -> RunConfig:
    """A plan from the content of a config.json.

    Raises:
        ValueError: a field is missing, unknown or out of range; names it and the file.
    """
    names = [field.name for field in dataclasses.fields(RunConfig)]
    required = [f.name for f in dataclasses.fields(RunConfig) if f.default is dataclasses.MISSING]
    _check_fields(f"{source}", data, names, required)
    kind = registry.config_of(data["algorithm"])
    data = dict(data)
    if isinstance(data["config"], Mapping) and set(kind.retired) <= set(
        data["config"]
    ):  # written by an older version
        data["config"] = {
            name: value for name, value in data["config"].items() if name not in kind.retired
        }
    _check_fields(
        f"{source}: config", data["config"], [f.name for f in dataclasses.fields(kind)], ()
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
            config=config_from(kind, data["config"]),
            greedy=check_bool("greedy", data["greedy"]),
            stagger_episodes=check_bool("stagger_episodes", data.get("stagger_episodes", False)),
            **_numbers(**{name: data[name] for name in numbers if name in data}),
        )
        _check_sizes(plan)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return plan


def config_from(kind: type, fields: Mapping[str, Any]) -> Any:
    """A config from plain data."""
    return kind(**fields)


def read(path: Path | str) -> RunConfig:
    """The plan of a run's folder; RunFolderError where it holds no run."""
    return from_dict(run_dir.read_config(path), run_dir.find(path).config)


def env_of_run(plan: RunConfig, path: Path | str, env: Environment | None) -> Environment:
    """The environment of a stored run; ``env`` is needed where the run was given an object."""
    if env is not None and not isinstance(getattr(env, "spec", None), EnvSpec):
        raise invalid(
            "env",
            env,
            "the environment object that the run was given, or None where it was given a name",
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
    world, _ = resolve_env(plan.env, plan.env_args) if env is None else resolve_env(env)
    if isinstance(getattr(plan.config, "cost_limit", None), CostLimits):
        cost_limits.check(plan.config.cost_limit, world.spec, f"cost_limit of the run in {path}")
    return world


def check_resumable(
    given: RunConfig, stored: RunConfig, path: Path | str, fields: Sequence[str] = RESUME_FIELDS
) -> None:
    """Raise ValueError naming the first of the fields in which a plan differs from the run it is to
    continue.
    """
    different = []
    for name in fields:
        one, other = getattr(given, name), getattr(stored, name)
        pairs = [(name, one, other)]
        if name == "config":
            fields = [field.name for field in dataclasses.fields(one) if hasattr(other, field.name)]
            pairs = [
                (f"config.{field}", getattr(one, field), getattr(other, field)) for field in fields
            ]
        different += [pair for pair in pairs if pair[1] != pair[2]]
    if different:
        field, have, had = different[0]
        others = "".join(f", {name}" for name, _, _ in different[1:])
        raise ValueError(
            f"{field} is {have!r}, but the run in {path} has {had!r}; allowed on resuming is the "
            "same value "
            f"(total_steps alone may grow){others and '. These differ too: ' + others[2:]}"
        )


def extend(stored: RunConfig, total_steps: int) -> RunConfig:
    """The stored plan with more steps and evaluations as far apart as before."""
    total_steps = check_int("total_steps", total_steps, 1, _MOST_STEPS)
    if total_steps < stored.total_steps:
        raise invalid("total_steps", total_steps, f"{stored.total_steps}, as planned, or more")
    if total_steps == stored.total_steps:
        return stored
    longer = dataclasses.replace(stored, total_steps=total_steps)
    share = min(stored.num_evaluations, stored.num_updates) / stored.num_updates
    return dataclasses.replace(longer, num_evaluations=max(1, round(share * longer.num_updates)))


def _check_fields(source: str, data: Any, names: Sequence[str], required: Sequence[str]) -> None:
    if not isinstance(data, Mapping):
        raise invalid(source, data, f"an object with the fields {', '.join(names)}")
    for name in data:
        if name not in names:
            near = validation.nearest_names(name, names, 1)
            hint = f"; nearest: {near[0]}" if near else f"; allowed are {', '.join(names)}"
            raise ValueError(f"{source} has the unknown field {name!r}{hint}")
    if missing := [name for name in required if name not in data]:
        raise ValueError(f"{source} lacks the field {missing[0]!r}")
