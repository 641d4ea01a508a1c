"""The commands ``evaluate``, ``plot``, ``render`` and ``list``, which train nothing."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from rich.console import Console

from jaxmarl_lite import envs, keys
from jaxmarl_lite.algorithms import registry
from jaxmarl_lite.cli import arguments, cost_plot
from jaxmarl_lite.envs import errors
from jaxmarl_lite.evaluate import make_evaluate
from jaxmarl_lite.experiment import compilation, constraint_stats, run_logger
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment.result import load_run
from jaxmarl_lite.report import cost_tables, run_dir, statistics, tables
from jaxmarl_lite.report.text import printable
from jaxmarl_lite.types import EnvSpec
from jaxmarl_lite.validation import MOST, check_int

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
    seed: int = 0
    """Seed of the random numbers of the episodes."""


@dataclasses.dataclass(frozen=True)
class Plot:
    """Plot a metric of one or several runs: IQM and 95 % interval over seeds.

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

    A run of LIIR, in any environment, also writes a figure of each agent's learned reward in it.
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
    out: Path | None = None
    """File to write; by default episode.gif in the run's folder. The figure of LIIR's rewards has
    the same name with the suffix .rewards.png."""


@dataclasses.dataclass(frozen=True)
class List:
    """List algorithms and environments."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Algorithms or environments to show in detail."""
    sizes: bool = False
    """Build every environment to show its sizes."""


def evaluate(args: list[str]) -> None:
    """Runs the command ``evaluate RUN``.

    Args:
        args: arguments of the command.

    Raises:
        ValueError: an argument is invalid.
    """
    options = tyro.cli(
        Evaluate, prog="jaxmarl-lite evaluate", args=args, registry=arguments.REGISTRY
    )
    check_int("--seed", options.seed, -(2**31), 2**32 - 1)
    check_int("--episodes", options.episodes, 1, MOST)
    result = load_run(options.run)
    algorithm = compilation.algorithm_of(result.plan, result.env)
    chosen = _chosen_greedy(options)
    greedy = result.plan.greedy if chosen is None else chosen
    play = jax.jit(make_evaluate(algorithm, result.env, options.episodes, greedy))
    means, texts, costs, wins = {}, [], {}, {}
    for seed in result.seeds:
        key = jax.random.fold_in(keys.for_purpose(options.seed, keys.AFTERWARDS), seed)
        played = jax.device_get(play(result.learner(seed), key))
        if seed in result.diverged:  # its policy may still act, but without meaning
            played = jax.tree.map(lambda x: np.full(x.shape, np.nan), played)
        returns = np.asarray(result.spec.team_return(played.returns), float)
        means[seed], costs[seed], wins[seed] = (
            float(returns.mean()),
            played.costs,
            np.asarray(played.wins),
        )
        interval = (
            statistics.bootstrap_interval(returns, np.mean) if np.isfinite(returns).all() else None
        )
        length = None if interval is None else round(float(played.lengths.mean()), 1)
        texts.append(
            (f"seed {seed}", "left out" if interval is None else _interval(interval), length)
        )
    table = tables.list_table(
        (
            "",
            f"{result.spec.return_description}: mean [95 % interval] over {options.episodes} "
            "episodes",
            "episode length",
        ),
        texts,
        title=f"{result.algorithm} on {result.plan.env}, {'greedy' if greedy else 'sampled'}",
    )
    table.add_section()
    overall = statistics.bootstrap_interval(np.asarray(list(means.values())))
    table.add_row("IQM [95 % interval] over seeds", tables.format_interval(overall), "")
    _console().print(table)
    if result.spec.win_condition:
        _console().print(_wins(wins, result.spec.win_condition))
    if result.spec.num_costs:
        title = f"costs over {options.episodes} episodes of each seed, together"
        for part in cost_tables.evaluation_tables(
            costs, result.limits, result.spec.cost_names, title
        ):
            _console().print(part)


def _chosen_greedy(options: Evaluate | Render) -> bool | None:
    """Returns the choice of --greedy and --sampled; None where neither is given."""
    if options.greedy and options.sampled:
        raise ValueError("--greedy and --sampled are both given; allowed is one of them")
    return True if options.greedy else False if options.sampled else None


def _wins(wins: dict[int, np.ndarray], meaning: str) -> Any:
    """Returns a table of the share of won episodes of every seed, with Wilson's interval."""
    rows = []
    for seed, seed_wins in wins.items():
        text = "left out"
        if np.isfinite(seed_wins).all():
            interval = statistics.proportion_interval(int(seed_wins.sum()), len(seed_wins))
            text = f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
        rows.append((f"seed {seed}", text))
    return tables.list_table(("", "win rate [95 % interval]"), rows, title=f"wins: {meaning}")


def plot(args: list[str]) -> None:
    """Runs the command ``plot RUN...``.

    Args:
        args: arguments of the command.

    Raises:
        ValueError: an argument is invalid, or a run lacks the metric.
        RunFolderError: a folder holds no run, or a damaged one.
    """
    options = tyro.cli(Plot, prog="jaxmarl-lite plot", args=args, registry=arguments.REGISTRY)
    if not options.runs:
        raise ValueError("no run is given; allowed are the folders of one or several runs")
    from jaxmarl_lite.report import drawing, plotting

    drawing.check_path(options.out, "--out")
    runs = {}
    for path in options.runs:
        run = run_dir.load(path)
        run_logger.check_rows(
            experiment_config.from_dict(run.config, run.folder.config), run.rows, run.folder.metrics
        )
        runs[
            f"{run.config.get('algorithm', '')} ({path})" if len(options.runs) > 1 else path.name
        ] = run
    name = options.metric.replace("/", "_")
    folder = options.runs[0] if len(options.runs) == 1 else Path()
    out = options.out or folder / f"{name}.png"
    title = " and ".join(dict.fromkeys(str(run.config.get("env", "")) for run in runs.values()))
    if all(cost_plot.has_costs(run, options.metric) for run in runs.values()):
        cost_plot.draw(runs, options.metric, title, out)
    else:
        curves = {
            label + suffix: curve
            for label, run in runs.items()
            for suffix, curve in _curves(run, options.metric).items()
        }
        plotting.learning_curve(
            curves, ylabel=options.metric.replace("_", " "), title=title, path=out
        )
    print(printable(out))


def _curves(run: run_dir.Run, metric: str) -> dict[str, Any]:
    """Returns a metric's curve, or those of its agents and costs.

    Returns:
        Suffix of the label -> steps ``[E]`` and values ``[S, E]``.

    Raises:
        ValueError: the run has no such metric.
    """
    names = [name for name in run.names() if name == metric or name.startswith(f"{metric}/")]
    if not names:
        raise ValueError(
            f"metric is {metric!r}; the run in {run.folder.path} has "
            f"{', '.join(run.names()) or 'none'}"
        )
    series_by_suffix = {
        name[len(metric) :].replace("/", " ").replace("_", " "): run.series(name) for name in names
    }
    return {suffix: (series.steps, series.values) for suffix, series in series_by_suffix.items()}


def render(args: list[str]) -> None:
    """Runs the command ``render RUN``.

    Args:
        args: arguments of the command.

    Raises:
        ValueError: an argument is invalid, or the environment cannot be drawn.
    """
    options = tyro.cli(Render, prog="jaxmarl-lite render", args=args, registry=arguments.REGISTRY)
    greedy = _chosen_greedy(options)
    result = load_run(options.run)
    animate = getattr(result.env, "animate", None)
    if animate is None and result.algorithm != "liir":
        raise ValueError(f"environment {result.plan.env} cannot be drawn: it has no `animate`")
    video = options.out or options.run / "episode.gif"
    if not video.suffix or video.is_dir():
        raise ValueError(
            f"out is {str(video)!r}; allowed is a file name with a suffix, such as episode.gif"
        )
    episode = result.episode(options.seed, options.episode_seed, greedy)
    paths = []
    if animate is not None:
        shows = "rewards" in inspect.signature(animate).parameters
        rewards = (
            {"rewards": episode.intrinsic_reward}
            if shows and episode.intrinsic_reward is not None
            else {}
        )
        paths.append(animate(episode.states, video, **rewards))
    if episode.intrinsic_reward is not None:
        paths.append(video.with_suffix(".rewards.png"))
        result.plot_intrinsic_rewards(paths[-1], episode=episode)
    missing = "; no video: the environment has no `animate`" if animate is None else ""
    played = "greedy" if (result.plan.greedy if greedy is None else greedy) else "sampled"
    print(*map(printable, paths), f"({episode.length} steps, {played} actions{missing})")


def list_names(args: list[str]) -> None:
    """Runs the command ``list``.

    Args:
        args: arguments of the command.

    Raises:
        ValueError: a name is unknown.
    """
    options = tyro.cli(List, prog="jaxmarl-lite list", args=args, registry=arguments.REGISTRY)
    console = _console()
    for name in options.names:
        if name in registry.ALGORITHMS:
            console.print(_algorithm(name))
            continue
        if "/" not in name:
            known = [*registry.ALGORITHMS, *(env_id for env_id, _ in envs.list_environments())]
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
                tables.list_table(("environment", "agents, actions, episode limit"), listed)
            )
            console.print(
                "delayed/NAME is environment NAME with the sum of its rewards paid at the end of "
                "an episode."
            )
            console.print(
                "list --sizes builds every environment and shows N, O, S and A; list NAME shows "
                "one."
            )


def _algorithms() -> Any:
    """Returns a table of the algorithms with their most important settings."""
    names = ("hidden_sizes", "recurrent", "critic_input", "num_epochs", "lr")
    columns = {name: name.replace("_", " ") for name in names}
    rows = []
    for name in registry.ALGORITHMS:
        kind = registry.config_of(name)
        values = kind()
        rows.append(
            (
                name,
                len(dataclasses.fields(kind)),
                *(_plain(getattr(values, field, "")) for field in columns),
            )
        )
    return tables.list_table(("algorithm", "settings", *columns.values()), rows)


def _algorithm(name: str) -> Any:
    """Returns a table of all settings of one algorithm with their defaults."""
    values = registry.config_of(name)()
    rows = [(f.name, f.type, _plain(getattr(values, f.name))) for f in dataclasses.fields(values)]
    return tables.list_table(
        ("setting", "kind", "default"), rows, title=f"{name}; for meanings see train {name} --help"
    )


def _environments(names: list[str], where_possible: bool = False) -> Any:
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
            rows.append((name, *[""] * 7, str(error).partition(": ")[2]))
            continue
        actions = f"{spec.action_size} {spec.action_type}"
        best = "" if spec.max_return is None else f"{spec.max_return:g}"
        sizes = (
            spec.num_agents,
            spec.obs_size,
            spec.global_state_size,
            actions,
            spec.max_episode_steps,
            best,
        )
        rows.append((name, *sizes, spec.num_costs, _costs(spec)))
    title = (
        "N agents, O entries of an observation, S of the global state, A actions; longest episode; "
        "highest return; K costs per agent and the environment's limits, in cost per episode"
    )
    return tables.list_table(
        ("environment", "N", "O", "S", "A", "steps", "best", "K", "limits"), rows, title=title
    )


def _costs(spec: EnvSpec) -> str:
    """Returns the names of an environment's costs with its own limits."""
    bounds = constraint_stats.limits_of(None, spec)
    return "; ".join(
        f"{name} {cost_tables.format_limit(bounds[:, k])}" for k, name in enumerate(spec.cost_names)
    )


def _console() -> Console:
    """Returns a console for tables, wide enough for them in a file or a pipe."""
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 110)
    return console


def _plain(value: object) -> str:
    """Returns a setting's value as text, a tuple as its entries."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _interval(interval: statistics.Interval) -> str:
    """Returns an estimate with its interval as text."""
    numbers = [float(interval.estimate), float(interval.low), float(interval.high)]
    centre, low, high = (tables.format_number(value, numbers) for value in numbers)
    return f"{centre} [{low}, {high}]"
