"""The commands ``evaluate``, ``plot``, ``render``, ``report`` and ``list`` train nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from jaxmarl_lite import envs, references
from jaxmarl_lite.algorithms import cost_limits, registry
from jaxmarl_lite.cli.train import REGISTRY, keyword
from jaxmarl_lite.envs import errors
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment import joining, random_results, run_logger
from jaxmarl_lite.experiment.result import load_run
from jaxmarl_lite.report import atomic_io, run_dir, tables
from jaxmarl_lite.report.tables import printable

Runs = Annotated[tuple[Path, ...], tyro.conf.Positional]
Run = Annotated[Path, tyro.conf.Positional]


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluate the trained policy of every seed of a run."""

    run: Run
    """Folder of the run."""
    episodes: int = 128
    """Episodes to play with each seed's policy."""
    greedy: bool = False
    """Play the likeliest actions; by default as in the run's own evaluations."""
    sampled: bool = False
    """Play sampled actions; by default as in the run's own evaluations."""
    seed: int | None = None
    """Seed of the run whose policy is played; by default all."""
    episode_seed: int = 0
    """Seed of the random numbers of the episodes."""
    checkpoint: str = "latest"
    """Checkpoint to evaluate: latest, best (by the run's best_metric), or the number of an
    update."""
    env: str | None = None
    """Id of another environment to play in, with the same sizes; by default that of the run."""
    env_args: dict[str, Any] | None = None
    """Keyword arguments of that environment, such as reward=individual agent_id=False."""
    json: bool = False
    """Print one JSON object, with the returns of all episodes, instead of tables."""


@dataclasses.dataclass(frozen=True)
class Plot:
    """Plot a metric of one or several runs: IQM and 95 % interval over seeds.

    Runs that differ in nothing but their seeds are one run of several seeds.

    The metrics eval_cost and cost have a panel per cost, with the limits.
    """

    runs: Runs
    """Folders of the runs."""
    metric: str = "eval_return"
    """Metric to plot; an unknown name lists the metrics of the run."""
    out: Path | None = None
    """File to write, in the format of its suffix; by default METRIC.png, in the run's folder where
    one run is given, else in the current folder."""


@dataclasses.dataclass(frozen=True)
class Render:
    """Write one episode of a trained policy as a GIF, in SMAX, Jumanji's environments and robots.

    Where the algorithm learns intrinsic rewards, a figure shows each agent's in the episode; such
    runs need no environment that can be drawn.
    """

    run: Run
    """Folder of the run."""
    seed: int | None = None
    """Seed of the run whose policy is played; by default the first that did not diverge."""
    episode_seed: int = 0
    """Seed of the random numbers of the episode."""
    greedy: bool = False
    """Play the likeliest actions; by default as in the run's own evaluations."""
    sampled: bool = False
    """Play sampled actions; by default as in the run's own evaluations."""
    checkpoint: str = "latest"
    """Checkpoint of the policy: latest, best (by the run's best_metric), or the number of an
    update."""
    out: Path | None = None
    """File to write; by default episode.gif in the run's folder. The figure of intrinsic
    rewards has the same name with the suffix .rewards.png."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Write a run as one web page: curves, costs and limits, tables, settings, versions, videos."""

    run: Run
    """Folder of the run."""
    out: Path | None = None
    """File to write, which ends in .html; by default report.html in the run's folder."""


@dataclasses.dataclass(frozen=True)
class List:
    """List algorithms and environments."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Algorithms or environments to show in detail."""
    sizes: bool = False
    """Build every environment to show its sizes."""


_COST_METRICS = ("eval_cost", "episode_cost")
"""Metrics that have limits."""


def evaluate(args: list[str]) -> None:
    """Runs the command ``evaluate RUN``.

    Args:
        args: arguments of the command.

    Raises:
        ValueError: an argument is invalid.
    """
    options = tyro.cli(Evaluate, prog="jaxmarl-lite evaluate", args=args, registry=REGISTRY)
    greedy = _is_greedy(options)
    env = None
    if options.env is not None:
        env = envs.make(options.env, **dict(map(keyword, options.env_args or ())))
    elif options.env_args:
        raise ValueError("--env-args is without --env; allowed is both")
    result = load_run(options.run, checkpoint=_checkpoint(options.checkpoint))
    evaluation = result.evaluate(
        options.episodes,
        seed=options.seed,
        greedy=greedy,
        episode_seed=options.episode_seed,
        env=env,
    )
    if options.json:
        print(atomic_io.to_json({"run": options.run} | evaluation.to_dict(), indent=2))
        return
    if options.checkpoint != "latest":
        _console().print(f"checkpoint of update {int(result.states.num_updates[0])}")
    for part in evaluation.tables():
        _console().print(part)


def _checkpoint(text: str) -> str | int:
    """Returns the argument ``checkpoint`` of `load_run`."""
    return int(text) if text.isdecimal() else text


def _is_greedy(options: Evaluate | Render) -> bool | None:
    """Returns whether --greedy or --sampled is given; None where neither is."""
    if options.greedy and options.sampled:
        raise ValueError("--greedy and --sampled are both given; allowed is one of them")
    return True if options.greedy else False if options.sampled else None


def plot(args: list[str]) -> None:
    """Runs the command ``plot RUN...``.

    Args:
        args: arguments of the command.

    Raises:
        ValueError: an argument is invalid, or a run lacks the metric.
        RunFolderError: a folder holds no run, or a damaged one.
    """
    options = tyro.cli(Plot, prog="jaxmarl-lite plot", args=args, registry=REGISTRY)
    if not options.runs:
        raise ValueError("no run is given; allowed are the folders of one or several runs")
    from jaxmarl_lite.report import plotting

    plotting.check_path(options.out, "--out")

    runs, joined = {}, joining.join_runs(_different(options.runs))
    for run, plan, paths in joined:
        name = str(paths[0]) if len(paths) == 1 else joining.common_name(paths)
        several = f"{plan.algorithm} ({name})"
        while several in runs:  # folders of the same names elsewhere
            several += "'"
        runs[several if len(joined) > 1 else Path(name).name] = run, plan
    metric = options.metric
    folder = options.runs[0] if len(options.runs) == 1 else Path()
    out = options.out or folder / f"{metric.replace('/', '_')}.png"
    title = " and ".join(dict.fromkeys(plan.env for _, plan in runs.values()))
    entry = f"{metric}/agent_0/cost_0"
    if metric in _COST_METRICS and all(entry in run.names() for run, _ in runs.values()):
        _plot_costs(runs, metric, title, out)
    else:
        curves = {
            label + suffix: curve
            for label, (run, _) in runs.items()
            for suffix, curve in _curves(run, metric).items()
        }
        panel = plotting.Panel("", metric.replace("_", " "), curves, show_seeds=True)
        plotting.draw_panels([panel], title=title, path=out)
    print(printable(out))


def _different(paths: tuple[Path, ...]) -> list[Path]:
    """Returns the folders, each once, whatever the paths that lead to it."""
    return list({path.resolve(): path for path in reversed(paths)}.values())[::-1]


def _plot_costs(
    runs: dict[str, tuple[run_dir.Run, experiment_config.RunConfig]],
    metric: str,
    title: str,
    path: Path,
) -> None:
    """Plots a cost of runs with their limits.

    Folders of earlier versions hold no spec; where such a run was given an environment object, the
    names of its costs and their limits are unknown.
    """
    from jaxmarl_lite.report import plotting

    curves, names, descriptions = {}, (), ()
    for label, (run, plan) in runs.items():
        spec, limits = run_logger.read_spec(run.folder), None
        if spec is None and plan.env_args is not None:
            spec = experiment_config.resolve_env(plan.env, plan.env_args)[0].spec
        if spec is not None:
            limits = cost_limits.limits_of(plan.config, spec)
            names, descriptions = spec.cost_names, spec.cost_descriptions
        steps = sorted({row["step"] for row in run.rows})
        costs = run_logger.to_arrays(run.rows, plan.seeds)[metric]
        curves[label] = plotting.RunCurves(steps, costs=costs, limits=limits)
    plotting.plot_runs(
        curves, cost_names=names, cost_descriptions=descriptions, title=title, path=path
    )


def _curves(run: run_dir.Run, metric: str) -> dict[str, Any]:
    """Returns a metric's curve, or those of its agents and costs.

    Returns:
        Suffix of the label -> steps ``[E]`` and values ``[S, E]``.

    Raises:
        ValueError: the run has no such metric.
    """
    curves = {}
    for name in run.names():
        if name == metric or name.startswith(f"{metric}/"):
            series = run.series(name)
            suffix = name[len(metric) :].replace("/", " ").replace("_", " ")
            curves[suffix] = series.steps, series.values
    if not curves:
        raise ValueError(
            f"metric is {metric!r}; the run in {run.folder.path} has "
            f"{', '.join(run.names()) or 'none'}"
        )
    return curves


def render(args: list[str]) -> None:
    """Runs the command ``render RUN``.

    Args:
        args: arguments of the command.

    Raises:
        ValueError: an argument is invalid, or the environment cannot be drawn.
    """
    options = tyro.cli(Render, prog="jaxmarl-lite render", args=args, registry=REGISTRY)
    greedy = _is_greedy(options)
    result = load_run(options.run, checkpoint=_checkpoint(options.checkpoint))
    video, rewards, episode = result.render(
        options.out, seed=options.seed, episode_seed=options.episode_seed, greedy=greedy
    )
    missing = "; no video: the environment has no `animate`" if video is None else ""
    played = "greedy" if (result.plan.greedy if greedy is None else greedy) else "sampled"
    paths = [path for path in (video, rewards) if path is not None]
    print(*map(printable, paths), f"({episode.length} steps, {played} actions{missing})")


def report(args: list[str]) -> None:
    """Runs the command ``report RUN``.

    Args:
        args: arguments of the command.

    Raises:
        ValueError: the file cannot be written.
        RunFolderError: the folder holds no run.
    """
    options = tyro.cli(Report, prog="jaxmarl-lite report", args=args, registry=REGISTRY)
    print(printable(load_run(options.run).report(options.out)))


def list_names(args: list[str]) -> None:
    """Runs the command ``list``.

    Args:
        args: arguments of the command.

    Raises:
        ValueError: a name is unknown.
    """
    options = tyro.cli(List, prog="jaxmarl-lite list", args=args, registry=REGISTRY)
    console = _console()
    for name in options.names:
        if _is_algorithm(name):
            console.print(_algorithm(name))
            continue
        if "/" not in name and name not in dict(envs.list_environments()) and ":" not in name:
            known = [*registry.names(), *dict(envs.list_environments())]
            raise errors.unknown_name_error(
                "algorithm or environment", name, known, "Allowed: what jaxmarl-lite list shows."
            )
        console.print(_environments([name]))
        console.print(
            f"keywords of {name} (--env-args KEYWORD=VALUE): {', '.join(envs.keywords_of(name))}\n"
        )
    if not options.names:
        console.print(_algorithms())
        listed = envs.list_environments()
        if options.sizes:
            console.print(_environments([name for name, _ in listed], where_possible=True))
        else:
            console.print(
                tables.make_table(("environment", "agents, actions, episode limit"), listed)
            )
            console.print(
                "delayed/NAME is environment NAME with the sum of its rewards paid at the end of "
                "an episode."
            )
            console.print(
                "list --sizes builds every environment and shows N, O, S and A; list NAME shows "
                "one."
            )


def _is_algorithm(name: str) -> bool:
    """Returns whether a name is that of an algorithm, and not of an environment."""
    if not references.is_reference(name):
        return name in registry.names()
    try:
        registry.resolve(name)
    except ValueError:
        return False
    return True


def _algorithms() -> Table:
    """Returns a table of the algorithms with their most important settings."""
    names = ("hidden_sizes", "recurrent", "critic_input", "num_epochs", "lr")
    rows = []
    for name in registry.names():
        config = registry.config_of(name)()
        values = (_plain(getattr(config, field, "")) for field in names)
        rows.append((name, len(dataclasses.fields(config)), *values))
    heads = (name.replace("_", " ") for name in names)
    return tables.make_table(("algorithm", "settings", *heads), rows)


def _algorithm(name: str) -> Table:
    """Returns a table of all settings of one algorithm with their defaults."""
    values = registry.config_of(name)()
    rows = [(f.name, f.type, _plain(getattr(values, f.name))) for f in dataclasses.fields(values)]
    title = f"{name}; for meanings see train {name} --help"
    return tables.make_table(("setting", "kind", "default"), rows, title)


def _environments(names: list[str], where_possible: bool = False) -> Table:
    """Returns a table of environments with their sizes.

    Args:
        names: ids of the environments.
        where_possible: whether environments that need a missing package are listed with the name of
            the package, instead of raising ImportError.
    """
    rows = []
    for name in names:
        try:
            spec = envs.make(name).spec
        except ImportError as error:
            if not where_possible:
                raise
            rows.append((name, *[""] * 8, str(error).partition(": ")[2]))
            continue
        limits = cost_limits.limits_of(None, spec)
        random = random_results.load().get(name)
        costs = [f"{x} {tables.format_limit(limits[:, k])}" for k, x in enumerate(spec.cost_names)]
        if random is not None and spec.num_costs:
            costs = [
                f"{text} (random {random_results.cost_text(random, k)})"
                for k, text in enumerate(costs)
            ]
        rows.append(
            (
                name,
                spec.num_agents,
                spec.obs_size,
                spec.global_state_size,
                f"{spec.action_size} {spec.action_type}",
                spec.max_episode_steps,
                "" if random is None else random_results.return_text(random),
                "" if spec.max_return is None else f"{spec.max_return:g}",
                spec.num_costs,
                "; ".join(costs),
            )
        )
    title = (
        "N agents, O entries of an observation, S of the global state, A actions; longest episode; "
        "return of random actions, with the default keywords, and the highest; K costs per agent "
        "and the environment's limits, in cost per episode"
    )
    columns = ("environment", "N", "O", "S", "A", "steps", "random", "best", "K", "limits")
    return tables.make_table(columns, rows, title)


def _console() -> Console:
    """Returns a console for tables, wide enough for them in a file or a pipe."""
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 110)
    return console


def _plain(value: object) -> str:
    """Returns a setting's value as text, a tuple as its entries."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
