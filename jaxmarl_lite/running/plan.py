"""What a run is to do, as one record that is checked before anything is compiled and kept as config.json."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxmarl_lite import envs
from jaxmarl_lite.algorithms import configs, limits, registry
from jaxmarl_lite.algorithms.limits import Limits
from jaxmarl_lite.report import runfolder
from jaxmarl_lite.running import presets
from jaxmarl_lite.running.fingerprint import notice_changes
from jaxmarl_lite.types import Environment

IDENTITY = (
    "algorithm", "env", "env_args", "config", "seeds", "num_envs", "num_steps", "stagger", "eval_episodes", "greedy",
)  # fmt: skip
"""Fields that a resumed run must share with what it continues."""

_HIGHEST_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Plan:
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
    evaluations: int
    """Evaluations after the one at the start."""
    eval_episodes: int
    """Episodes of an evaluation."""
    greedy: bool
    """Evaluate the likeliest actions instead of sampled ones; what is played of the run later follows it."""
    seeds_at_once: int | None = None
    """Seeds that train side by side, the others after them; None: one on a CPU, else all."""
    devices: int | None = None
    """Devices to use; None: one, or all where several processes joined."""
    layout: Literal["worlds", "seeds"] = "worlds"
    """What is spread over the devices."""
    stagger: bool = False
    """Cut every world's first episode at a random step, so that worlds are not in step."""

    @property
    def batch(self) -> int:
        """Environment steps of one update of one seed."""
        return self.num_envs * self.num_steps

    @property
    def updates(self) -> int:
        """Updates of each seed."""
        return max(1, math.ceil(self.total_steps / self.batch))

    @property
    def schedule(self) -> tuple[int, ...]:
        """The updates after which every seed is evaluated and saved: 0, the last, and evenly between."""
        parts = min(self.evaluations, self.updates)
        return tuple(round(i * self.updates / parts) for i in range(parts + 1))

    @property
    def learner_config(self) -> Any:
        """The settings that a learner starts with: shares of the run as environment steps."""
        return configs.resolve_shares(self.config, self.updates * self.batch)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in config.json; limits as the mapping that a config takes them from."""
        data = dataclasses.asdict(self)
        for name, value in vars(self.config).items():
            if isinstance(value, Limits):
                data["config"][name] = value.plain()
        return data


def make_plan(
    algorithm: str,
    env: str | Environment,
    *,
    env_args: Mapping[str, Any] | None = None,
    config: Any = None,
    seeds: int | Sequence[int] = 3,
    num_envs: int | None = None,
    num_steps: int | None = None,
    stagger: bool | None = None,
    greedy: bool | None = None,
    seeds_at_once: int | None = None,
    devices: int | None = None,
    layout: Literal["worlds", "seeds"] = "worlds",
    **counts: int,
) -> tuple[Plan, Environment]:
    """A plan from the arguments of `run`, and its environment.

    Raises:
        ValueError: for any value that cannot be, naming field, value and what is allowed.
    """
    kind = registry.config_of(algorithm)
    world, env_id = world_of(env, env_args)
    tuned = presets.lookup(algorithm, env_id)
    plan = Plan(
        algorithm=algorithm,
        env=env_id,
        env_args=dict(env_args or {}) if isinstance(env, str) else None,
        config=_config(kind, tuned.fields, config),
        seeds=seeds_of(seeds),
        num_envs=whole("num_envs", tuned.num_envs if num_envs is None else num_envs),
        num_steps=whole("num_steps", tuned.num_steps if num_steps is None else num_steps),
        stagger=flag("stagger", tuned.stagger if stagger is None else stagger),
        greedy=flag("greedy", kind.evaluated_greedily if greedy is None else greedy),
        seeds_at_once=None if seeds_at_once is None else whole("seeds_at_once", seeds_at_once),
        devices=devices,
        layout=layout,
        **{name: whole(name, value) for name, value in counts.items()},  # type: ignore[arg-type]
    )
    made = registry.make_algorithm(algorithm, world.spec, plan.learner_config)
    made.check(plan.num_envs, plan.num_steps)
    first = made.first_update(plan.num_envs, plan.num_steps)
    if plan.updates < first:
        raise ValueError(
            f"total_steps is {plan.total_steps}, in which {algorithm} has no batch to learn from; allowed is more than "
            f"{(first - 1) * plan.batch} with these sizes"
        )
    return _with_limits(plan, world), world


def _config(kind: type, tuned: Mapping[str, Any], given: Any) -> Any:
    """The settings that were tuned, with those given by name in their place; or the whole config that was given."""
    if given is not None and not isinstance(given, Mapping):
        return given
    _check_fields("config", given or {}, [field.name for field in dataclasses.fields(kind)], ())
    for field in dataclasses.fields(kind):
        value = (given or {}).get(field.name, 0.0)
        if field.type in ("float", float) and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"config.{field.name} is {value!r}; allowed is a number")
    return kind(**presets.overridden(tuned, given or {}))


def _with_limits(plan: Plan, world: Environment) -> Plan:
    """The plan with the limits that the environment has now, so that the run keeps them if these ever change."""
    given = getattr(plan.config, "cost_limit", None)
    if not isinstance(given, Limits):
        return plan
    whole = limits.complete(given, world.spec)
    return dataclasses.replace(plan, config=dataclasses.replace(plan.config, cost_limit=whole))


def world_of(env: str | Environment, env_args: Mapping[str, Any] | None = None) -> tuple[Environment, str]:
    """The environment of an id, or an object after a check of its protocol; and its name."""
    if isinstance(env, str):
        return envs.make(env, **dict(env_args or {})), env
    if env_args:
        raise ValueError(f"env_args is {dict(env_args)!r}; allowed only where env is an id, not an object")
    notice_changes(env)
    return env, envs.check_environment(env).name


def seeds_of(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """``n`` stands for ``0 .. n-1``; a sequence for itself."""
    if not hasattr(seeds, "__iter__"):
        return tuple(range(whole("seeds", seeds)))
    found = tuple(whole("seeds", seed, 0) for seed in seeds)  # type: ignore[union-attr]
    if not found or len(set(found)) < len(found) or max(found) > _HIGHEST_SEED:
        raise ValueError(f"seeds is {seeds!r}; allowed are different whole numbers from 0 to {_HIGHEST_SEED}")
    return found


def from_dict(data: Mapping[str, Any], source: Path | str) -> Plan:
    """A plan from the content of a config.json.

    Raises:
        ValueError: a field is missing, unknown or out of range; names it and the file.
    """
    names = [field.name for field in dataclasses.fields(Plan)]
    required = [f.name for f in dataclasses.fields(Plan) if f.default is dataclasses.MISSING]
    _check_fields(f"{source}", data, names, required)
    kind = registry.config_of(data["algorithm"])
    _check_fields(f"{source}: config", data["config"], [f.name for f in dataclasses.fields(kind)], ())
    values = dict(data) | {
        "config": config_from(kind, data["config"]),
        "seeds": seeds_of(data["seeds"]),
        "env_args": None if data["env_args"] is None else _tuples(data["env_args"]),
    }
    return Plan(**values)


def config_from(kind: type, fields: Mapping[str, Any]) -> Any:
    """A config from plain data: whole numbers stand for floats, lists for tuples."""
    floats = {f.name for f in dataclasses.fields(kind) if f.type in ("float", float)}

    def value(name: str, entry: Any) -> Any:
        whole = isinstance(entry, int) and not isinstance(entry, bool)
        return float(entry) if name in floats and whole else _tuples(entry)

    return kind(**{name: value(name, entry) for name, entry in fields.items()})


def read(path: Path | str) -> Plan:
    """The plan of a run's folder; RunFolderError where it holds no run."""
    return from_dict(runfolder.read_config(path), runfolder.find(path).config)


def world_of_run(plan: Plan, path: Path | str, env: Environment | None) -> Environment:
    """The environment of a stored run; ``env`` is needed where the run was given an object."""
    if plan.env_args is None and env is None:
        raise ValueError(f"the run in {path} was given its environment, {plan.env}, as an object; give it again as env")
    world, name = world_of(plan.env, plan.env_args) if env is None else world_of(env)
    if name != plan.env:
        raise ValueError(f"env is {name}, but the run in {path} has {plan.env}; allowed is the same")
    if isinstance(getattr(plan.config, "cost_limit", None), Limits):
        limits.check(plan.config.cost_limit, world.spec, f"cost_limit of the run in {path}")
    return world


def check_same(given: Plan, stored: Plan, path: Path | str) -> None:
    """Raise ValueError naming the first field in which a plan differs from the run it is to continue."""
    for name in IDENTITY:
        one, other = getattr(given, name), getattr(stored, name)
        if name == "config" and type(one) is type(other):
            fields = [field.name for field in dataclasses.fields(one)]
            pairs = [(f"config.{field}", getattr(one, field), getattr(other, field)) for field in fields]
        else:
            pairs = [(name, one, other)]
        for field, have, had in pairs:
            if have != had:
                raise ValueError(
                    f"{field} is {have!r}, but the run in {path} has {had!r}; allowed on resuming is the same value "
                    "(total_steps alone may grow)"
                )


def prolonged(stored: Plan, total_steps: int) -> Plan:
    """The stored plan with more steps and evaluations as far apart as before."""
    if total_steps <= stored.total_steps:
        return stored
    longer = dataclasses.replace(stored, total_steps=total_steps)
    share = min(stored.evaluations, stored.updates) / stored.updates
    return dataclasses.replace(longer, evaluations=max(1, round(share * longer.updates)))


def whole(name: str, value: Any, lowest: int = 1) -> int:
    """The value as a whole number; ValueError, naming it, for anything else or less."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < lowest:
        raise ValueError(f"{name} is {value!r}; allowed is a whole number, {lowest} or more")
    return value.__index__()


def flag(name: str, value: Any) -> bool:
    """The value, if it is True or False; ValueError, naming it, for anything else."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; allowed is True or False")
    return value


def _check_fields(source: str, data: Any, names: Sequence[str], required: Sequence[str]) -> None:
    if not isinstance(data, Mapping):
        raise ValueError(f"{source} is {data!r}; allowed is an object with the fields {', '.join(names)}")
    for name in data:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, 1)
            hint = f"; nearest: {near[0]}" if near else f"; allowed are {', '.join(names)}"
            raise ValueError(f"{source} has the unknown field {name!r}{hint}")
    if missing := [name for name in required if name not in data]:
        raise ValueError(f"{source} lacks the field {missing[0]!r}")


def _tuples(value: Any) -> Any:
    """Lists as tuples, at every depth."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_tuples, value))
    return {key: _tuples(entry) for key, entry in value.items()} if isinstance(value, Mapping) else value
