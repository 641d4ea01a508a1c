"""The command ``train``: the arguments of `run` and all fields of a config as options."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from jaxmarl_lite import sharding
from jaxmarl_lite.algorithms import base_config, cost_limits, registry
from jaxmarl_lite.cli import arguments
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment import presets
from jaxmarl_lite.experiment.api import run
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.report import run_dir
from jaxmarl_lite.validation import check_path

Config = TypeVar("Config")


@arguments.REGISTRY.primitive_rule
def _limits_rule(info: Any) -> Any:
    """Parses ``--cost-limit NAME=LIMIT[,LIMIT...]``; a number alone is the limit of every cost."""
    if info.type is not cost_limits.CostLimits:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME=LIMIT[,LIMIT...]",
        instance_from_str=_limits,
        is_instance=lambda value: isinstance(value, cost_limits.CostLimits),
        str_from_instance=lambda value: [
            f"{name}={_limit_text(limit)}" for name, limit in value.to_dict().items()
        ],
    )


def _limits(args: list[str]) -> cost_limits.CostLimits:
    """Returns the limits that the arguments of ``--cost-limit`` describe."""
    limits: dict[str, Any] = {}
    if not args:
        raise ValueError(
            "--cost-limit is empty; allowed is NAME=LIMIT, or one number for every cost"
        )
    for word in args:
        name, equals, text = word.rpartition("=")
        if equals and not name:
            raise ValueError(
                f"--cost-limit is {word!r}; allowed is the name of a cost before the =, or a "
                "number alone"
            )
        if (name or cost_limits.ALL_COSTS) in limits or (limits and not name):
            raise ValueError(
                f"--cost-limit is {' '.join(args)!r}; allowed is each cost once, or one number "
                "for all"
            )
        try:
            numbers = [float(part) for part in text.split(",")]
        except ValueError as error:
            forms = "NAME=LIMIT, NAME=LIMIT,LIMIT... or one number for every cost"
            raise ValueError(f"--cost-limit is {word!r}; allowed is {forms}") from error
        limits[name or cost_limits.ALL_COSTS] = numbers if len(numbers) > 1 else numbers[0]
    return cost_limits.parse_cost_limits(limits, "--cost-limit")


def _limit_text(limit: object) -> str:
    """Returns a limit as ``--cost-limit`` accepts it."""
    return ",".join(map(str, limit)) if isinstance(limit, list) else str(limit)


@dataclasses.dataclass(frozen=True)
class Options(Generic[Config]):
    """Train an algorithm in an environment with several seeds."""

    env: str
    """Id of the environment, see `jaxmarl-lite list`."""
    seeds: tuple[int, ...] = (3,)
    """One number: how many seeds, 0 .. n-1; several numbers: the seeds themselves."""
    total_steps: int = 1_000_000
    """Environment steps of each seed, rounded up to whole updates."""
    out: Path | None = None
    """Folder of the run, for all of its files; without it nothing is written."""
    num_envs: int | None = None
    """Parallel environments of a rollout; None: tuned for this environment, or 64."""
    num_steps: int | None = None
    """Steps of a rollout; None: tuned for this environment, or 64."""
    stagger_episodes: bool | None = None
    """Cut the first episode of every parallel environment at a random step, so that episodes end at
    different times; None: tuned for this environment, or no."""
    num_evaluations: int = 20
    """Number of evaluations, each with a checkpoint, after the one at the start."""
    eval_episodes: int = 32
    """Episodes of an evaluation."""
    greedy: bool = False
    """Evaluate, and later play and render, the likeliest actions instead of sampled ones."""
    env_args: tuple[str, ...] = ()
    """Keyword arguments of the environment, such as reward=individual agent_id=False."""
    config: Path | None = None
    """A config.json, or the folder of a run, whose values are the defaults of all other options."""
    resume: Path | None = None
    """Folder of a run to continue, bit for bit, from its newest checkpoint."""
    seeds_in_parallel: int | None = None
    """Seeds that train side by side; None: one on a CPU, else all."""
    devices: int | None = None
    """Number of devices to use; None: one, or all where several processes join."""
    shard_over: Literal["envs", "seeds"] = "envs"
    """Axis that is spread over several devices: the environments of every seed, or the seeds."""
    distributed: bool = False
    """Join several processes or hosts; Slurm and similar launchers are detected."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where --distributed cannot detect it."""
    num_processes: int | None = None
    """Number of processes that join, where --distributed cannot detect it."""
    process_id: int | None = None
    """Index of this process, where --distributed cannot detect it."""
    max_checkpoints: int = 2
    """Number of checkpoints to keep."""
    checkpoint_minutes: float = 5.0
    """Longest time between two checkpoints, in minutes; each evaluation saves one too."""
    wandb: str | None = None
    """Name of a W&B project to write to as well."""
    quiet: bool = False
    """Print nothing."""
    settings: Annotated[Config, tyro.conf.arg(name="")] = None  # type: ignore[assignment]
    """Settings of the algorithm."""


def train(args: list[str]) -> None:
    """Runs the command ``train``.

    Args:
        args: arguments of the command.

    Raises:
        ValueError: an argument is invalid.
        RunError: as for `run`.
        RunFolderError: as for `run`.
    """
    stored = _stored(args)
    if not args or args[0].startswith("-"):
        if stored is None:
            _without_algorithm(args)
            return
        args = [stored.algorithm, *args]
    name, rest = args[0], args[1:]
    kind = registry.config_of(name)
    if stored is not None and stored.algorithm != name:
        raise ValueError(
            f"algorithm is {name!r}, but the config given is of {stored.algorithm!r}; allowed is "
            "the same"
        )
    defaults = _defaults(name, kind, stored, rest)

    class Unchecked(kind):
        """The config while options are parsed, without its checks.

        Some checks depend on which settings were given and which were tuned, which is not known
        before the options are parsed.
        """

        def __post_init__(self) -> None:
            pass

    options = tyro.cli(
        Options[Unchecked],  # type: ignore[valid-type]
        prog=f"jaxmarl-lite train {name}",
        args=rest,
        default=dataclasses.replace(defaults, settings=Unchecked(**vars(defaults.settings))),
        config=(tyro.conf.OmitArgPrefixes,),
        registry=arguments.REGISTRY,
    )
    options = dataclasses.replace(
        options, settings=_settings(defaults.settings, options.settings, rest)
    )
    if options.distributed or options.coordinator is not None:
        sharding.initialize_distributed(
            options.coordinator, options.num_processes, options.process_id
        )
    elif options.num_processes is not None or options.process_id is not None:
        raise ValueError(
            "--num-processes and --process-id have no effect without --distributed; allowed is both"
        )
    run(name, options.env, **_arguments(_with_stored_limits(options, stored), defaults, stored))


def _settings(base: Any, parsed: Any, args: list[str]) -> Any:
    """Returns the tuned or stored settings with those that the options replace."""
    # A setting counts as given if its option occurs, even with the value that it has anyway.
    names = {
        word.partition("=")[0].lstrip("-").replace("-", "_").removeprefix("no_") for word in args
    }
    changes = {
        name: x for name, x in vars(parsed).items() if name in names or x != getattr(base, name)
    }
    return base_config.override(type(base), vars(base), changes)


def _with_stored_limits(options: Options[Any], stored: RunConfig | None) -> Options[Any]:
    """Returns the options, with the stored limits of costs for which no limit is given."""
    if stored is None or not hasattr(options.settings, "cost_limit"):
        return options
    merged = cost_limits.override(options.settings.cost_limit, stored.config.cost_limit)
    return dataclasses.replace(
        options, settings=dataclasses.replace(options.settings, cost_limit=merged)
    )


def _arguments(
    options: Options[Any], defaults: Options[Any], stored: RunConfig | None
) -> dict[str, Any]:
    """Returns the keyword arguments of `run`."""
    # A single stored seed, such as (7,), would otherwise be read as a number of seeds.
    same = stored is not None and options.seeds == defaults.seeds
    seeds = stored.seeds if same and stored is not None else options.seeds
    names = (
        "total_steps",
        "out",
        "num_envs",
        "num_steps",
        "stagger_episodes",
        "num_evaluations",
        "eval_episodes",
        "greedy",
        "resume",
        "seeds_in_parallel",
        "devices",
        "shard_over",
        "max_checkpoints",
        "checkpoint_minutes",
        "wandb",
        "quiet",
    )
    return {name: getattr(options, name) for name in names} | {
        "config": options.settings,
        "seeds": seeds[0] if len(seeds) == 1 and not same else seeds,
        "env_args": dict(map(_keyword, options.env_args)),
    }


def _defaults(name: str, kind: type, stored: RunConfig | None, args: list[str]) -> Options[Any]:
    """Returns the defaults of all options: a stored plan's values, or those tuned for `--env`."""
    if stored is None:
        env = _value_of("--env", args)
        settings = kind(**presets.lookup(name, env or "").fields)
        return Options(
            env=tyro.MISSING if env is None else env,
            settings=settings,
            greedy=settings.evaluated_greedily,
        )
    values = {
        f.name: getattr(stored, f.name)
        for f in dataclasses.fields(RunConfig)
        if f.name not in ("algorithm", "config")
    }
    values["env_args"] = tuple(f"{key}={value!r}" for key, value in (stored.env_args or {}).items())
    return Options(**values, settings=stored.config)


def _stored(args: list[str]) -> RunConfig | None:
    """Returns the plan that ``--config`` or ``--resume`` names, if either is given."""
    config, resume = _value_of("--config", args), _value_of("--resume", args)
    if config is not None and resume is not None:
        raise ValueError("--config and --resume are both given; allowed is one of them")
    if resume is not None:
        resume = check_path("--resume", resume)
        plan = experiment_config.read(resume)
        experiment_config.env_of_run(plan, resume, None)
        return plan
    if config is None:
        return None
    path = check_path("--config", config)
    path = path / "config.json" if path.is_dir() else path
    return experiment_config.from_dict(run_dir.read_object(path), path)


def _without_algorithm(args: list[str]) -> None:
    """Prints the help of ``train`` without an algorithm; raises ValueError for other arguments."""
    allowed = ", ".join(registry.ALGORITHMS)
    if args and args[0] not in ("-h", "--help"):
        raise ValueError(
            f"algorithm is missing before {args[0]}; allowed is one of {allowed}, or --resume RUN"
        )
    if not args:
        raise ValueError(f"algorithm is missing; allowed is one of {allowed}, or --resume RUN")
    print(
        "usage: jaxmarl-lite train ALGORITHM --env ENV [options]\n       jaxmarl-lite train "
        "--resume RUN\n\n"
        f"algorithms: {allowed}; `jaxmarl-lite train liir --help` shows all options"
    )


def _value_of(option: str, args: list[str]) -> str | None:
    """Returns the value of an option before all options are parsed, or None without it."""
    for i, word in enumerate(args):
        if word == option and i + 1 < len(args):
            return args[i + 1]
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def _keyword(text: str) -> tuple[str, Any]:
    """Parses ``name=value``; the value is true, false, a Python literal, or else text."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"env_args has {text!r}; allowed is name=value")
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name, value
