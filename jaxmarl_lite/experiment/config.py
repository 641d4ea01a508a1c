"""The plan of a run: one record, checked before anything is compiled and stored as config.json."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxmarl_lite import envs, validation
from jaxmarl_lite.algorithms import base_config, cost_limits, registry
from jaxmarl_lite.algorithms.cost_limits import CostLimits
from jaxmarl_lite.experiment import presets
from jaxmarl_lite.experiment.fingerprint import notice_changes
from jaxmarl_lite.report import loggers, run_dir
from jaxmarl_lite.types import Environment, EnvSpec
from jaxmarl_lite.validation import MOST, check_int, check_mapping, invalid

_ADDED_FIELDS = ("seeds_in_parallel", "devices", "shard_over", "stagger_episodes")
"""Fields that a stored run may lack, because earlier versions had none of them."""
_HIGHEST_SEED = 2**32 - 1
_MOST_SEEDS = 10_000


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
    """Name of the algorithm."""
    env: str
    """Id of the environment, see `jaxmarl-lite list`."""
    env_args: dict[str, Any] | None = None
    """Keyword arguments of the environment, such as reward=individual agent_id=False."""
    config: Any = None
    """Settings of the algorithm."""
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
    seeds_in_parallel: int | None = None
    """Seeds that train side by side; None: one on a CPU, else all."""
    devices: int | None = None
    """Number of devices to use; None: one, or all where several processes join."""
    shard_over: Literal["envs", "seeds"] = "envs"
    """Axis that is spread over several devices: the environments of every seed, or the seeds."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", parse_seeds(self.seeds))
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

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as plain data, as in config.json.

        Limits on costs become the mapping that a config accepts for them.
        """
        data = dataclasses.asdict(self)
        for name, value in vars(self.config).items():
            if isinstance(value, CostLimits):
                data["config"][name] = value.to_dict()
        return data


FREE_FIELDS = frozenset(
    ("total_steps", "num_evaluations", "seeds_in_parallel", "devices", "shard_over")
)
"""Fields in which a resumed run may differ from the run that it continues."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SessionConfig:
    """Settings of one call of `run` that change no number of the run.

    Raises:
        ValueError: a value is invalid; the message names the field, its value and what is allowed.
        ImportError: ``wandb`` is set, but W&B is not installed.
    """

    out: Path | None = None
    """Folder of the run, for all of its files; without it nothing is written."""
    resume: Path | None = None
    """Folder of a run to continue, bit for bit, from its newest checkpoint."""
    max_checkpoints: int = 2
    """Number of checkpoints to keep."""
    checkpoint_minutes: float = 5.0
    """Longest time between two checkpoints, in minutes; each evaluation saves one too."""
    wandb: str | None = None
    """Name of a W&B project to write to as well."""
    quiet: bool = False
    """Print nothing."""

    def __post_init__(self) -> None:
        minutes = validation.to_python(self.checkpoint_minutes)
        if isinstance(minutes, bool) or not isinstance(minutes, (int, float)) or not minutes > 0:
            raise invalid(
                "checkpoint_minutes", minutes, "a number above 0 (inf: save at evaluations alone)"
            )
        validation.check_fields(self, infinite=("checkpoint_minutes",))
        if self.wandb is not None:
            loggers.check_project(self.wandb)
            loggers.import_wandb()
        if self.out and self.resume and self.out.absolute() != self.resume.absolute():
            raise ValueError(
                f"out is {str(self.out)!r} and resume is {str(self.resume)!r}; allowed is one of "
                "them"
            )


def tuned_run_config(algorithm: str, env_id: str) -> RunConfig:
    """Returns the settings of a run of which the user sets nothing but algorithm and environment.

    Args:
        algorithm: name of the algorithm.
        env_id: id of the environment.

    Returns:
        Settings tuned for the environment, and defaults for all others.

    Raises:
        ValueError: there is no such algorithm.
    """
    config_class = registry.config_of(algorithm)
    tuned = presets.lookup(algorithm, env_id)
    return RunConfig(
        algorithm=algorithm,
        env=env_id,
        env_args={},
        config=config_class(**tuned.fields),
        greedy=config_class.evaluated_greedily,
        **tuned.run_settings,
    )


def make_run_config(
    algorithm: str,
    env: str | Environment,
    *,
    env_args: Mapping[str, Any] | None = None,
    config: Any = None,
    **settings: Any,
) -> tuple[RunConfig, Environment]:
    """Returns the settings of a run that the arguments of `run` describe, and its environment.

    Args:
        algorithm: name of the algorithm.
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
    registry.config_of(algorithm)  # an unknown name is the first error
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
    _check_fields("config", config or {}, _field_names(kind))
    return base_config.override(kind, vars(tuned), config or {})


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


def from_dict(data: Mapping[str, Any], source: Path | str) -> RunConfig:
    """Returns the plan that the content of a config.json describes.

    Args:
        data: content of the file.
        source: path of the file, for messages.

    Raises:
        ValueError: a field is missing, unknown or out of range; the message names it and the file.
    """
    names = _field_names(RunConfig)
    _check_fields(f"{source}", data, names, [name for name in names if name not in _ADDED_FIELDS])
    kind, config = registry.config_of(data["algorithm"]), data["config"]
    _check_fields(f"{source}: config", config, _field_names(kind))
    env_args = data["env_args"]
    try:
        if not isinstance(data["env"], str):
            raise invalid("env", data["env"], "the name of an environment")
        if env_args is not None:
            env_args = validation.to_plain(check_mapping("env_args", env_args))
        return RunConfig(**(dict(data) | {"config": kind(**config), "env_args": env_args}))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


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
    pairs = {name: (x, getattr(stored, name)) for name, x in vars(plan).items() if name not in free}
    config, stored_config = pairs.pop("config")
    pairs |= {
        f"config.{name}": (value, getattr(stored_config, name))
        for name, value in vars(config).items()
        if hasattr(stored_config, name)
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
