"""The command ``train``, and the conversion of words to values that all commands share.

The options are the fields of `RunConfig`, of `SessionConfig` and of the algorithm's config.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import tyro

from jaxmarl_lite import determinism, references
from jaxmarl_lite.algorithms import (
    base_config,
    cost_limits,
    inner_update,
    optimizers,
    registry,
)
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment import estimate as estimating
from jaxmarl_lite.experiment.api import run
from jaxmarl_lite.experiment.callbacks import EarlyStopping
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.experiment.session import SessionConfig
from jaxmarl_lite.report import run_dir
from jaxmarl_lite.validation import check_path, parse_value, unknown_name

REGISTRY = tyro.constructors.ConstructorRegistry()


def to_int(word: str) -> int:
    """Returns the whole number that a string represents.

    Args:
        word: an integer, or a number without a fraction, such as ``1e6``.

    Raises:
        ValueError: the string represents no whole number.
    """
    try:
        return int(word)
    except ValueError:
        number = float(word)
        if not number.is_integer():
            raise ValueError(f"{word!r} is no whole number") from None
        return int(number)


def _add_rule(
    kind: Any,
    metavar: str,
    parse: Callable[[list[str]], Any],
    to_words: Callable[[Any], list[str]] = lambda value: [str(value)],
    many: bool = False,
) -> None:
    """Adds the conversion of options of one type.

    Args:
        kind: the type of the field.
        metavar: form of a value in the help.
        parse: function from the words of an option to its value.
        to_words: function from a value to its words.
        many: whether the option takes any number of words instead of one.
    """

    @REGISTRY.primitive_rule
    def _rule(info: Any) -> Any:
        if info.type != kind:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs="*" if many else 1,
            metavar=metavar,
            instance_from_str=parse,
            is_instance=lambda value: not isinstance(kind, type) or isinstance(value, kind),
            str_from_instance=to_words,
        )


_add_rule(int, "INT", lambda strings: to_int(strings[0]))
_add_rule(Path, "PATH", lambda strings: check_path("the path", strings[0]))


def _to_rate(word: str) -> float | str:
    """Returns a learning rate, or the text that names a schedule."""
    try:
        return float(word)
    except ValueError:
        return word


def _to_words(value: object) -> list[str]:
    """Returns a setting, perhaps an object, as the texts of its option."""
    is_plain = value is None or isinstance(value, float)
    return [str(value) if is_plain else references.describe(value)]


def _to_rule(word: str) -> str | None:
    """Returns the word or text of an optimizer; None stands for the one that it falls back on."""
    return None if word == "None" else word


_RULES = "|".join(optimizers.WORDS)
_add_rule(
    optimizers.LearningRate, "FLOAT|MODULE:NAME", lambda strings: _to_rate(strings[0]), _to_words
)
_add_rule(optimizers.OptimizerRule, f"{_RULES}|MODULE:NAME", lambda strings: strings[0], _to_words)
_add_rule(
    optimizers.OptimizerRule | None,
    f"{_RULES}|MODULE:NAME",
    lambda strings: _to_rule(strings[0]),
    _to_words,
)
_add_rule(
    inner_update.InnerUpdateRule, "optimizer|MODULE:NAME", lambda strings: strings[0], _to_words
)
_add_rule(
    cost_limits.CostLimits,
    "NAME=LIMIT[,LIMIT...]",
    lambda strings: cost_limits.parse_words(strings, "--cost-limit"),
    cost_limits.to_words,
    many=True,
)
_add_rule(
    dict[str, Any] | None,
    "NAME=VALUE",
    tuple,  # `train` parses the words, and refuses wrong ones in one line
    lambda value: [f"{name}={entry!r}" for name, entry in (value or {}).items()],
    many=True,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(SessionConfig, RunConfig):
    """Train an algorithm in an environment with several seeds."""

    algorithm: tyro.conf.Suppress[str]
    entry: tyro.conf.Suppress[Any] = None
    lanes: tyro.conf.Suppress[Any] = None
    networks: str | None = None
    """Networks of the user, as MODULE:NAME of a `Networks` or of a function from the environment's
    spec to them."""
    config_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """A config.json, or the folder of a run, whose values are the defaults of all other options."""
    on_evaluation: tuple[str, ...] = ()
    """Functions MODULE:NAME that are called with an EvaluationReport after every evaluation, and
    that may end the run."""
    seed: int | None = None
    """The only seed of the run, in place of --seeds; plot and compare join such runs."""
    early_stopping: dict[str, Any] | None = None
    """End the run when a metric no longer improves, such as metric=eval_return patience=5
    min_delta=0.1 mode=max; see jml.EarlyStopping."""
    loggers: tuple[str, ...] = ("tensorboard",)
    """Loggers beside metrics.jsonl: tensorboard, csv, wandb, wandb=PROJECT, mlflow,
    mlflow=EXPERIMENT, or MODULE:NAME of a class with start(run), write(rows) and close()."""
    dry_run: bool = False
    """Compile for this device, show memory, steps and files of the run, and train nothing."""
    deterministic: bool = False
    """Use operations that give the same bits in every run on a GPU; they may be slower."""
    distributed: bool = False
    """Join several processes or hosts; Slurm and similar launchers are detected."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where --distributed cannot detect it."""
    num_processes: int | None = None
    """Number of processes that join, where --distributed cannot detect it."""
    process_id: int | None = None
    """Index of this process, where --distributed cannot detect it."""

    def __post_init__(self) -> None:
        """Leaves the checks to `run`, which names the fields in one line."""


class Command(NamedTuple):
    """What the arguments of a command ask to train.

    Attributes:
        algorithm: the algorithm.
        env: id of the environment.
        settings: arguments of `run`.
        dry_run: whether to train nothing.
    """

    algorithm: str
    env: str
    settings: dict[str, Any]
    dry_run: bool = False


def train(args: list[str]) -> None:
    """Runs the command ``train``.

    Args:
        args: arguments of the command.

    Raises:
        ValueError: an argument is invalid.
        RunError: as for `run`.
        RunFolderError: as for `run`.
    """
    command = parse(args)
    if command is None:
        return
    if command.dry_run:
        settings = estimating.arguments_of(command.settings)
        print(estimating.estimate(command.algorithm, command.env, **settings).summary())
        return
    run(command.algorithm, command.env, **command.settings)


def parse(args: list[str]) -> Command | None:
    """Parses the arguments of ``train``.

    Args:
        args: arguments of the command.

    Returns:
        What they ask to train; None where they asked for the help alone.

    Raises:
        ValueError: an argument is invalid.
    """
    if "--deterministic" in args:  # before anything is computed
        determinism.use_deterministic_ops()
    stored = _stored(args)
    name, rest = _algorithm_of(args)
    if name is None:
        if stored is None:
            _without_algorithm(args)
            return None
        name = stored.algorithm
    kind = registry.config_of(name)
    if any(word.partition("=")[0] == "--cost-limit" for word in rest):
        experiment_config.check_keeps_limits("--cost-limit", kind)
    if stored is not None and stored.algorithm != name:
        raise ValueError(
            f"algorithm is {name!r}, but the config given is of {stored.algorithm!r}; allowed is "
            "the same"
        )
    defaults = _defaults(name, stored, rest)

    class Unchecked(kind):
        """The config while options are parsed, without its checks.

        Some checks depend on which settings were given and which were tuned, which is not known
        before the options are parsed.
        """

        def __post_init__(self) -> None:
            pass

    start: dict[str, Any] = vars(defaults) | {"config": Unchecked(**vars(defaults.config))}
    options = tyro.cli(
        dataclasses.make_dataclass(
            "Options", [("config", Unchecked)], bases=(Options,), frozen=True, kw_only=True
        ),
        prog=f"jaxmarl-lite train {name}",
        description=Options.__doc__,
        args=rest,
        default=Options(**start),
        config=(tyro.conf.OmitArgPrefixes,),
        registry=REGISTRY,
    )
    config = _settings(defaults.config, options.config, rest)
    if options.distributed or options.coordinator is not None:
        jax.distributed.initialize(options.coordinator, options.num_processes, options.process_id)
    elif options.num_processes is not None or options.process_id is not None:
        raise ValueError(
            "--num-processes and --process-id have no effect without --distributed; allowed is both"
        )
    if stored is not None and hasattr(config, "cost_limit"):
        # stored limits stay where the options give none
        merged = cost_limits.override(config.cost_limit, stored.config.cost_limit)
        config = dataclasses.replace(config, cost_limit=merged)
    settings = {
        field.name: getattr(options, field.name)
        for kind in (RunConfig, SessionConfig)
        for field in dataclasses.fields(kind)
        if field.init and field.name not in ("algorithm", "entry", "lanes", "env")
    }
    if options.seed is not None:
        settings["seed"] = options.seed
        if options.seeds == defaults.seeds and _value_of("--seeds", rest) is None:
            del settings["seeds"]
    # One number is how many seeds; one stored seed, such as (7,), is that seed.
    if len(options.seeds) == 1 and options.seeds != defaults.seeds:
        settings["seeds"] = options.seeds[0]
    if options.loggers == Options.loggers:
        settings["loggers"] = None  # TensorBoard where the run has a folder
    if isinstance(options.env_args, tuple):
        settings["env_args"] = parse_keywords("env_args", options.env_args)
    if options.early_stopping is not None:
        settings["on_evaluation"] += (_early_stopping(options.early_stopping),)
    settings["on_evaluation"] = settings["on_evaluation"] or None  # those of a resumed run
    if options.dry_run and options.resume is not None:
        raise ValueError("--dry-run is given with --resume; allowed is one of them")
    return Command(name, options.env, settings | {"config": config}, options.dry_run)


def _algorithm_of(args: list[str]) -> tuple[str | None, list[str]]:
    """Returns the algorithm, which stands first or behind ``--algorithm``, and the rest."""
    for i, word in enumerate(args):
        if word == "--algorithm" and i + 1 < len(args):
            return args[i + 1], [*args[:i], *args[i + 2 :]]
        if word.startswith("--algorithm="):
            return word.partition("=")[2], [*args[:i], *args[i + 1 :]]
    if args and not args[0].startswith("-"):
        return args[0], args[1:]
    return None, args


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


def _defaults(name: str, stored: RunConfig | None, args: list[str]) -> RunConfig:
    """Returns the defaults of all options: a stored plan's values, or those tuned for `--env`."""
    if stored is not None:
        return dataclasses.replace(stored, env_args=stored.env_args or {})
    env = _value_of("--env", args)
    tuned = experiment_config.tuned_run_config(name, env or "")
    return tuned if env is not None else dataclasses.replace(tuned, env=tyro.MISSING)


def _stored(args: list[str]) -> RunConfig | None:
    """Returns the plan that ``--config`` or ``--resume`` names, if either is given."""
    config, resume = _value_of("--config", args), _value_of("--resume", args)
    if config is not None and resume is not None:
        raise ValueError("--config and --resume are both given; allowed is one of them")
    if resume is not None:
        resume = check_path("--resume", resume)
        plan = experiment_config.read(resume)
        experiment_config.check_complete(plan, resume)
        experiment_config.env_of_run(plan, resume, None)
        return plan
    if config is None:
        return None
    path = check_path("--config", config)
    path = path / "config.json" if path.is_dir() else path
    plan = experiment_config.from_dict(run_dir.read_object(path), path)
    experiment_config.check_complete(plan, path)
    return plan


def _without_algorithm(args: list[str]) -> None:
    """Prints the help of ``train`` without an algorithm; raises ValueError for other arguments."""
    allowed = ", ".join([*registry.names(), "module:name"])
    if args and args[0] not in ("-h", "--help"):
        raise ValueError(
            f"algorithm is missing before {args[0]}; allowed is one of {allowed}, or --resume RUN"
        )
    if not args:
        raise ValueError(f"algorithm is missing; allowed is one of {allowed}, or --resume RUN")
    print(
        "usage: jaxmarl-lite train ALGORITHM --env ENV [options]\n       jaxmarl-lite train "
        "--resume RUN\n\n"
        f"algorithms: {allowed}; `jaxmarl-lite train ALGORITHM --help` shows all options"
    )


def _value_of(option: str, args: list[str]) -> str | None:
    """Returns the value of an option before all options are parsed, or None without it."""
    for i, word in enumerate(args):
        if word == option and i + 1 < len(args):
            return args[i + 1]
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def parse_keywords(field: str, texts: Iterable[str]) -> dict[str, Any]:
    """Parses texts ``name=value``.

    Args:
        field: name of the option, for messages.
        texts: the texts; a value is true, false, a Python literal, or else text.

    Raises:
        ValueError: a text has another form.
    """
    keywords = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ValueError(f"{field} has {text!r}; allowed is name=value")
        keywords[name] = parse_value(value)
    return keywords


def _early_stopping(texts: Any) -> EarlyStopping:
    """Returns the callback that ``--early-stopping`` describes."""
    keywords = parse_keywords("early_stopping", texts)
    names = [field.name for field in dataclasses.fields(EarlyStopping)]
    for name in keywords:
        if name not in names:
            raise unknown_name("field of early_stopping", name, names)
    return EarlyStopping(**keywords)


def keyword(text: str) -> tuple[str, Any]:
    """Returns name and value of an option ``NAME=VALUE``.

    Args:
        text: the option; its value is true, false, a Python literal, or else text.

    Raises:
        ValueError: the text has another form.
    """
    return next(iter(parse_keywords("env_args", [text]).items()))
