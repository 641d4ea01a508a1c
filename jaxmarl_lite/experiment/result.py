"""The outcome of a run: curves as arrays, final states, and trained policies."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from rich.table import Table

from jaxmarl_lite.algorithms import cost_limits
from jaxmarl_lite.experiment import (
    compilation,
    dataframe,
    evaluation,
    playback,
    policies,
    run_logger,
)
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment.config import Objects, RunConfig
from jaxmarl_lite.experiment.evaluation import PolicyEvaluation
from jaxmarl_lite.experiment.fingerprint import Fingerprint, fingerprint, notice_changes
from jaxmarl_lite.experiment.ranking import Ranking
from jaxmarl_lite.report import checkpoint as checkpoints
from jaxmarl_lite.report import loggers, run_dir, statistics, tables
from jaxmarl_lite.types import Algorithm, Environment, EnvSpec, PyTree, TrainState
from jaxmarl_lite.validation import check_bool, check_int, check_path, invalid, to_python

if TYPE_CHECKING:
    from pandas import DataFrame


class Timings(NamedTuple):
    """Durations of a run, in wall-clock seconds.

    Attributes:
        compile_seconds: tracing and compiling, in the session that trained last.
        training_seconds: training alone, over all sessions.
        elapsed_seconds: everything except compiling, over all sessions.
        steps_per_second: environment steps of all seeds together per second of training.
    """

    compile_seconds: float = 0.0
    training_seconds: float = 0.0
    elapsed_seconds: float = 0.0
    steps_per_second: float = float("nan")


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """The result of a run, returned by `run`, `resume_run` and `load_run`.

    ``S`` is the number of seeds and ``E`` that of evaluations, including the one at the start.

    Every method that plays a policy (`policy`, `episode`, `evaluate`, `render` and
    `plot_intrinsic_rewards`) takes ``greedy``: True plays the likeliest actions, False sampled
    ones, and None, the default, those that the evaluations of the run played.

    Attributes:
        plan: plan of the run.
        env: the environment.
        steps: ``[E]`` environment steps of each seed before each evaluation.
        returns: ``[S, E]`` mean return of the episodes of each evaluation; NaN from where a seed
            has diverged.
        metrics: every metric, ``[S, E]`` followed by its axes ``N`` and ``K``, if it has them.
            Metrics of training are means since the previous evaluation.
        random_returns: ``[S]`` mean return of the random policy, measured once for each seed; None
            where it was not measured.
        timings: durations of the run.
        path: folder of the run; None where nothing was kept.
        stopped: why ``on_evaluation`` ended the run before its last update; None where it did not.
            `resume_run` goes on with it.

    Example:
        >>> import jax, jaxmarl_lite as jml
        >>> result = jml.run(
        ...     "ippo", "toy/counter", config={"hidden_sizes": (8,)}, seeds=2, total_steps=64,
        ...     num_envs=4, num_steps=8, num_evaluations=2, eval_episodes=4, quiet=True,
        ... )
        >>> result.returns.shape, result.metrics["entropy"].shape  # [S, E]
        ((2, 3), (2, 3))
        >>> final = result.final_return()  # IQM over seeds with its 95 % interval
        >>> bool(final.low <= final.estimate <= final.high)
        True
        >>> episode = result.episode(seed=0)
        >>> episode.reward.shape == (episode.length, result.spec.num_agents)
        True
        >>> state, timestep = result.env.reset(jax.random.key(0))
        >>> result.policy(seed=1)(timestep.obs).shape  # one action for each agent
        (2,)
    """

    plan: RunConfig
    env: Environment
    steps: np.ndarray
    returns: np.ndarray
    metrics: dict[str, np.ndarray]
    random_returns: np.ndarray | None
    timings: Timings
    path: Path | None
    _states: Callable[[], TrainState]
    stopped: str | None = None

    @property
    def algorithm(self) -> str:
        """Name of the algorithm."""
        return self.plan.algorithm

    @property
    def config(self) -> Any:
        """Settings of the algorithm."""
        return self.plan.config

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the run."""
        return self.plan.seeds

    @property
    def spec(self) -> EnvSpec:
        """Spec of the environment."""
        return self.env.spec

    @property
    def diverged(self) -> tuple[int, ...]:
        """The seeds whose numbers became non-finite, left out of every statistic from then on."""
        diverged = (self.metrics["is_finite"] == 0).any(1)
        return tuple(itertools.compress(self.seeds, diverged))

    @functools.cached_property
    def states(self) -> TrainState:
        """The last training states, every leaf ``[S, ...]``.

        A loaded run reads them from its newest checkpoint at the first access.
        """
        return self._states()

    @functools.cached_property
    def limits(self) -> np.ndarray:
        """The limit of every agent and cost, ``[N, K]``, in cost per episode.

        Limits in the config take precedence over the environment's own; inf where there is none.
        """
        return cost_limits.limits_of(self.config, self.spec)

    @property
    def costs(self) -> np.ndarray | None:
        """Mean cost per episode of each evaluation, ``[S, E, N, K]``.

        NaN from where a seed has diverged; None where the environment has no costs.
        """
        return self.metrics.get("eval_cost")

    @property
    def win_rates(self) -> np.ndarray | None:
        """Share of won episodes of each evaluation, ``[S, E]``, 0 to 1.

        NaN from where a seed has diverged; None where the environment has no wins.
        """
        return self.metrics.get("eval_win_rate")

    def final_win_rate(self) -> statistics.Interval:
        """Computes the IQM of the last evaluation's win rates over seeds, with its 95 % interval.

        Returns:
            An `Interval` of scalars.

        Raises:
            ValueError: episodes of the environment cannot be won.
        """
        if self.win_rates is None:
            raise ValueError(
                f"{self.plan.env} has no wins; allowed is a run in an environment that reports wins"
            )
        return statistics.bootstrap_interval(self.win_rates[:, -1])

    def final_costs(self) -> statistics.Interval:
        """Computes the mean over seeds of the last evaluation's costs, with its 95 % interval.

        Returns:
            An `Interval` of costs per episode, ``[N, K]``; the interval is a bootstrap's.

        Raises:
            ValueError: the environment has no costs.
        """
        return statistics.bootstrap_interval(self._known_costs()[:, -1], statistics.mean)

    def satisfaction_rate(self) -> np.ndarray:
        """Estimates the probability that the cost of an episode is at most its limit.

        It is the share of such episodes in the last evaluation, averaged over seeds.

        Returns:
            ``[N, K]``, 0 to 1; NaN where there is no limit.

        Raises:
            ValueError: the environment has no costs.
        """
        return self._final_mean("eval_satisfaction_rate", self._known_costs())

    def num_violations(self) -> np.ndarray:
        """Computes the number of updates so far whose episodes cost more than the limit on average.

        It is a count out of `updates_with_cost`: the cost of an update in which no episode ended is
        unknown.

        Returns:
            ``[N, K]``, mean over seeds; NaN where there is no limit.

        Raises:
            ValueError: the environment has no costs.
        """
        return self._final_mean("num_violations", self._known_costs())

    def updates_with_cost(self) -> float:
        """Computes the number of updates so far in which episodes ended, so that the cost is known.

        Returns:
            The mean over seeds; NaN where no cost has a limit.

        Raises:
            ValueError: the environment has no costs.
        """
        self._known_costs()
        counts = self.metrics.get("updates_with_cost")
        return float("nan") if counts is None else float(statistics.mean(counts[:, -1], axis=0))

    def _known_costs(self) -> np.ndarray:
        """Returns `costs`; raises ValueError where the environment has none."""
        if self.costs is None:
            raise ValueError(
                f"{self.plan.env} has no costs; allowed is a run in an environment with some"
            )
        return self.costs

    def _final_mean(self, name: str, costs: np.ndarray) -> np.ndarray:
        """Returns a metric of the last evaluation, mean over seeds, ``[N, K]``.

        It is NaN where it was not measured; ``costs [S, E, N, K]`` gives the shape.
        """
        values = self.metrics.get(name)
        return (
            np.full(costs.shape[2:], np.nan)
            if values is None
            else statistics.mean(values[:, -1], axis=0)
        )

    def final_return(self) -> statistics.Interval:
        """Computes the IQM of the last evaluation's returns over seeds, with its 95 % interval.

        Returns:
            An `Interval` of scalars.
        """
        return statistics.bootstrap_interval(self.returns[:, -1])

    def plot(self, path: str | Path | None = None) -> Any:
        """Draws the learning curve: IQM and 95 % interval over seeds.

        Where the environment has costs, every cost has a panel beside it, with the limits.

        Args:
            path: file to write the figure to as well, in the format of its suffix, such as .png or
                .pdf.

        Returns:
            A matplotlib figure, which a notebook shows.

        Raises:
            ValueError: ``path`` is no path.
        """
        path = None if path is None else check_path("path", path)
        run = self.steps, self.returns, self.costs
        return run_logger.plot_run(
            self.plan, self.spec, run, self.random_returns, path, self.win_rates
        )

    def table(self) -> Table:
        """Returns a table of the last evaluation: seeds, IQM, random policy, costs, durations."""
        final, won, timings = self.returns[:, -1].tolist(), self.win_rates, self.timings
        speed = timings.steps_per_second
        facts = {
            "steps per second": "-" if np.isnan(speed) else f"{speed:,.0f}",
            "minutes": f"{timings.elapsed_seconds / 60:.1f}",
            "compiling, seconds": f"{timings.compile_seconds:.1f}",
        }
        if self.path is not None:
            facts["curve"] = str(run_dir.RunFolder(self.path).curve)
        extra = {}
        if won is not None:
            extra["win rate"] = dict(zip(self.seeds, won[:, -1].tolist(), strict=True))
        overview = tables.result_table(
            dict(zip(self.seeds, final, strict=True)),
            random=self.random_returns,
            best=self.spec.max_return,
            meaning=self.spec.return_description,
            title=f"{self.algorithm} on {self.plan.env}, {int(self.steps[-1]):,} steps a seed",
            extra=extra,
            facts=facts,
        )
        if self.costs is None:
            return overview
        grid = (
            tables.NotebookTable.grid()
        )  # one below the other, as one table, which a notebook can show
        grid.add_row(overview)
        grid.add_row(
            tables.cost_table(
                self.costs[:, -1],
                self.limits,
                self.satisfaction_rate(),
                self.num_violations(),
                self.updates_with_cost(),
                self.spec.cost_names,
            )
        )
        return grid

    def summary(self) -> str:
        """Returns `table` as text."""
        return tables.to_text(self.table())

    def _repr_html_(self) -> str:
        """Returns `table` as HTML, which notebooks ask for by this name."""
        return tables.to_html(self.table())

    def report(self, path: str | Path | None = None) -> Path:
        """Writes the run as one web page with everything inside: curves, costs, tables, settings.

        Videos and figures of episodes that are in the run's folder, as `render` writes them, are
        part of the page.

        Args:
            path: file to write, which ends in .html; None: report.html in the run's folder.

        Returns:
            The file.

        Raises:
            ValueError: ``path`` has another suffix or cannot be written, or it is None and the run
                has no folder.
        """
        from jaxmarl_lite.experiment import web_report
        from jaxmarl_lite.report import html

        if path is None and self.path is None:
            raise invalid("path", path, "a file such as report.html: the run has no folder")
        path = self.path / "report.html" if path is None else path  # type: ignore[operator]
        return web_report.write_run(self, html.check_path(check_path("path", path)))

    def to_dataframe(self) -> DataFrame:
        """Returns the metrics as a pandas data frame, one row for each seed and evaluation.

        Returns:
            A frame with the columns ``algorithm``, ``env``, ``seed``, ``update`` and ``step``, and
            one for each metric. Metrics of agents and costs have one for each of them, named as in
            metrics.jsonl: ``eval_cost/agent_0/cost_1``. Evaluations that a seed lacks, because the
            run was interrupted, have no row. `load_runs` puts several runs into one frame.

        Raises:
            ImportError: pandas, of the extra ``dataframe``, is not installed.

        Example:
            >>> import jaxmarl_lite as jml
            >>> result = jml.run(
            ...     "ippo", "toy/counter", config={"hidden_sizes": (8,)}, seeds=2, total_steps=64,
            ...     num_envs=4, num_steps=8, num_evaluations=2, eval_episodes=4, quiet=True,
            ... )
            >>> frame = result.to_dataframe()
            >>> frame[["algorithm", "env", "seed", "step"]].tail(2)
              algorithm          env  seed  step
            4      ippo  toy/counter     1    32
            5      ippo  toy/counter     1    64
            >>> frame.groupby("step")["eval_return"].mean().shape
            (3,)
        """
        return dataframe.of_result(self)

    def policy(self, seed: int | None = None, greedy: bool | None = None) -> policies.TrainedPolicy:
        """Returns the trained policy of one seed.

        Args:
            seed: a seed of the run; None: the first that did not diverge.
            greedy: whether to take the likeliest actions; None: as in the run's evaluations.

        Returns:
            A function from observations to actions, see `policies.TrainedPolicy`.

        Raises:
            ValueError: for a seed that the run did not have, or that diverged.
        """
        return policies.TrainedPolicy(
            self.built_algorithm,
            self.learner(self.check_seed(seed)),
            self.is_greedy(greedy),
            config=self.config,
            networks=self.plan.networks,
            reference=self.algorithm,
        )

    def is_greedy(self, greedy: bool | None) -> bool:
        """Returns whether the likeliest actions are played.

        Args:
            greedy: whether they are; None: as in the run's evaluations.

        Raises:
            ValueError: ``greedy`` is something else.
        """
        return self.plan.greedy if greedy is None else check_bool("greedy", greedy)

    def episode(
        self, seed: int | None = None, episode_seed: int = 0, greedy: bool | None = None
    ) -> playback.Episode:
        """Plays one episode with the policy of one seed.

        Args:
            seed: a seed of the run; None: the first that did not diverge.
            episode_seed: seed of the episode's random numbers.
            greedy: whether to play the likeliest actions; None: as in the run's evaluations.

        Returns:
            States, observations, actions, rewards and costs of the episode, and each agent's
            intrinsic reward where the algorithm learns one.

        Raises:
            ValueError: for a seed that the run did not have, or that diverged.
        """
        greedy = self.is_greedy(greedy)
        learner = self.learner(self.check_seed(seed))

        def make() -> playback.EpisodeFn:
            return playback.make_episode_fn(self.built_algorithm, self.env, greedy)

        return self.compiled(("episode", greedy), self.env, make)(learner, episode_seed)

    def evaluate(
        self,
        episodes: int = 128,
        *,
        seed: int | None = None,
        greedy: bool | None = None,
        episode_seed: int = 0,
        env: str | Environment | None = None,
    ) -> PolicyEvaluation:
        """Plays fresh episodes with the trained policies, as ``jaxmarl-lite evaluate`` does.

        Args:
            episodes: episodes of each seed.
            seed: a seed of the run; None: all of them, where those that diverged are NaN.
            greedy: whether to play the likeliest actions; None: as in the run's evaluations.
            episode_seed: seed of the random numbers of the episodes.
            env: another environment to play in, an id or an object, with as many agents and the
                same sizes of observations, global state and actions; None: that of the run.

        Returns:
            The returns, costs, lengths and wins of every episode, with their statistics.

        Raises:
            ValueError: an argument is invalid, the run has no such seed or it diverged, or ``env``
                has other sizes.

        Example:
            >>> import jaxmarl_lite as jml
            >>> result = jml.run(
            ...     "ippo", "toy/counter", config={"hidden_sizes": (8,)}, seeds=2, total_steps=64,
            ...     num_envs=4, num_steps=8, num_evaluations=2, eval_episodes=4, quiet=True,
            ... )
            >>> evaluation = result.evaluate(episodes=16)
            >>> evaluation.returns.shape, evaluation.lengths.shape  # [seeds, episodes]
            ((2, 16), (2, 16))
            >>> interval = evaluation.iqm_return()
            >>> bool(interval.low <= interval.estimate <= interval.high)
            True
        """
        return evaluation.evaluate(self, episodes, seed, greedy, episode_seed, env)

    def compiled(self, key: tuple[Any, ...], env: Environment, make: Callable[[], Any]) -> Any:
        """Returns a function that plays in an environment, compiled once while that is the same.

        Args:
            key: name and settings of the function.
            env: the environment, whose content is part of the function.
            make: makes the function.
        """
        notice_changes(env)
        # The compiled function is valid only while the content of the environment is the same.
        current = fingerprint(env)
        if key not in self._players or not current.same(self._players[key][1]):
            self._players[key] = make(), current
        return self._players[key][0]

    def render(
        self,
        path: str | Path | None = None,
        *,
        seed: int | None = None,
        episode_seed: int = 0,
        greedy: bool | None = None,
    ) -> playback.Rendering:
        """Writes one episode as a video, and its intrinsic rewards as a figure.

        Args:
            path: file of the video, such as episode.gif; None: episode.gif in the run's folder. The
                figure has the same name with the suffix .rewards.png.
            seed: a seed of the run; None: the first that did not diverge.
            episode_seed: seed of the episode's random numbers.
            greedy: whether to play the likeliest actions; None: as in the run's evaluations.

        Returns:
            The files and the episode.

        Raises:
            ValueError: the environment has no method ``animate`` and the algorithm learns no
                reward, ``path`` has no suffix, or the seed is invalid.
        """
        return playback.render(self, path, seed, episode_seed, greedy)

    def plot_intrinsic_rewards(
        self,
        path: str | Path | None = None,
        seed: int | None = None,
        episode: playback.Episode | None = None,
        greedy: bool | None = None,
    ) -> Any:
        """Plots each agent's learned reward over an episode, together with its actions.

        Args:
            path: file to write the figure to as well, in the format of its suffix, such as .png or
                .pdf.
            seed: a seed of the run; None: the first that did not diverge.
            episode: a result of `episode`; None: an episode is played.
            greedy: as for `episode`, where an episode is played.

        Returns:
            A matplotlib figure.

        Raises:
            ValueError: the algorithm learns no reward, or the suffix of ``path`` is not supported.
        """
        from jaxmarl_lite.report import plotting

        plotting.check_path(path)
        learned = self.built_algorithm if episode is None else episode
        if learned.intrinsic_reward is None:
            raise ValueError(
                f"{self.algorithm} learns no reward; allowed is a run of an algorithm that does"
            )
        path = None if path is None else check_path("path", path)
        episode = self.episode(seed, greedy=greedy) if episode is None else episode
        return plotting.plot_intrinsic_rewards(
            episode.intrinsic_reward,
            episode.action,
            episode.team_reward,
            episode.alive,
            action_names=self.spec.action_names,
            title=f"{self.algorithm} on {self.plan.env}",
            path=path,
        )

    @functools.cached_property
    def _players(self) -> dict[tuple[Any, ...], tuple[Any, Fingerprint]]:
        """Name and settings -> compiled function that plays, and the environment it fits."""
        return {}

    @functools.cached_property
    def built_algorithm(self) -> Algorithm:
        """The algorithm as a record of functions, with the floats of its config at defaults."""
        return compilation.algorithm_of(self.plan, self.env)

    def check_seed(self, seed: int | None) -> int:
        """Returns a seed of the run that did not diverge.

        Args:
            seed: the seed; None: the first.

        Raises:
            ValueError: the run has no such seed, or it diverged.
        """
        healthy = [candidate for candidate in self.seeds if candidate not in self.diverged]
        seed = next(iter(healthy), None) if seed is None else to_python(seed)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed not in healthy:
            why = " (it diverged)" if seed in self.diverged else ""
            allowed = (
                f"one of {', '.join(map(str, healthy))}" if healthy else "none: all were left out"
            )
            raise ValueError(f"seed is {seed!r}{why}; allowed is {allowed}")
        return seed

    def learner(self, seed: int) -> PyTree:
        """Returns the learner's state of one seed, as the algorithm's functions accept it.

        Args:
            seed: a seed of the run.

        Raises:
            ValueError: for a seed that the run did not have.
        """
        seed = check_int("seed", seed, 0)
        if seed not in self.seeds:
            raise invalid("seed", seed, f"one of {', '.join(map(str, self.seeds))}")
        index = self.seeds.index(seed)
        return jax.tree.map(lambda x: x[index], self.states.learner_state)

    def __repr__(self) -> str:
        final = tables.format_interval(self.final_return())
        return (
            f"Result({self.algorithm} on {self.plan.env}, {len(self.seeds)} seeds, final "
            f"return {final})"
        )


def from_rows(
    plan: RunConfig,
    env: Environment,
    rows: list[loggers.Row],
    random: np.ndarray | None,
    timings: Timings,
    path: Path | None,
    states: Callable[[], TrainState],
    stopped: str | None = None,
) -> Result:
    """Returns the result of a run from its rows.

    Args:
        plan: plan of the run.
        env: the environment.
        rows: rows of all seeds and evaluations.
        random: mean return of the random policy for each seed, ``[S]``, or None.
        timings: durations of the run.
        path: folder of the run, or None.
        states: function that returns the last training states.
        stopped: why the run ended before its last update, or None.
    """
    metrics = run_logger.to_arrays(rows, plan.seeds)
    steps = np.asarray(sorted({row["step"] for row in rows}))
    returns = metrics["eval_return"]
    return Result(plan, env, steps, returns, metrics, random, timings, path, states, stopped)


def load_run(
    path: str | Path,
    env: Environment | None = None,
    checkpoint: str | int = "latest",
    *,
    algorithm: Any = None,
    networks: Any = None,
    config: Mapping[str, Any] | None = None,
) -> Result:
    """Loads a run from its folder, finished or not.

    The training states are read from a checkpoint at their first access. Where the latest is
    damaged, an intact older one is read, with a warning. Curves and tables need none of the objects
    that `run` was given; policies and episodes need all of them.

    Args:
        path: folder of the run.
        env: the environment of the run, where `run` was given an object.
        checkpoint: the checkpoint of the states, and so of policies and episodes: ``latest``;
            ``best`` by the ``best_metric`` of the run; or the number of an update. The curves are
            those of the whole run.
        algorithm: the algorithm of the run, where `run` was given an object.
        networks: the networks of the run, where `run` was given an object.
        config: fields of the config that were objects, such as ``{"optimizer": ...}``.

    Returns:
        The `Result`.

    Raises:
        RunFolderError: the folder holds no run, a damaged one, or one without an evaluation.
        CheckpointError: there is no checkpoint, or all are damaged.
        ValueError: ``env`` is missing, or another environment than the run's; or there is no such
            checkpoint.

    Example:
        >>> import jaxmarl_lite as jml
        >>> result = jml.run(
        ...     "ippo", "toy/counter", config={"hidden_sizes": (8,)}, seeds=2, total_steps=64,
        ...     num_envs=4, num_steps=8, num_evaluations=2, eval_episodes=4, quiet=True,
        ...     out="counter",
        ... )
        >>> loaded = jml.load_run("counter")
        >>> bool((loaded.returns == result.returns).all())
        True
        >>> loaded.plan == result.plan
        True
    """
    path = check_path("path", path)
    plan = experiment_config.read(path, Objects(algorithm, networks, config))
    experiment_config.check_complete(plan, path, curves_alone=True)
    stored = run_dir.load(path)
    if not any("eval_return" in row for row in stored.rows):
        raise run_dir.RunFolderError(
            f"{path} holds no evaluation yet; continue it with --resume {path}"
        )
    folder = stored.folder
    run_logger.check_rows(plan, stored.rows, folder.metrics)
    environment = experiment_config.env_of_run(plan, path, env)
    intact = checkpoints.find_intact(folder.checkpoints, fallback=True)
    _warn_of_damage(intact.damages, intact.step)
    saved = read_meta(intact)
    experiment_config.check_resumable(plan, saved.plan, folder.checkpoints)
    limits = cost_limits.limits_of(plan.config, environment.spec)
    update = _find_update(checkpoint, folder, saved.ranking, stored.rows, limits)

    def states() -> TrainState:
        experiment_config.check_complete(plan, path)
        template = compilation.abstract_states(_on_these_devices(plan), environment)
        restored = checkpoints.restore(folder.checkpoints, template, update, update is None)
        if update is None and restored.step != intact.step:  # else the warning above names it
            _warn_of_damage(restored.damages, restored.step)
        return restored.state

    return from_rows(
        plan,
        environment,
        stored.rows,
        run_logger.read_random_returns(folder),
        saved.timings,
        folder.path,
        states,
        run_dir.read_status(folder).get("stopped"),
    )


def _find_update(
    name: object,
    folder: run_dir.RunFolder,
    ranking: Ranking | None,
    rows: list[loggers.Row],
    limits: np.ndarray,
) -> int | None:
    """Returns the update of the checkpoint that a name stands for; None for the latest."""
    updates = checkpoints.steps(folder.checkpoints)
    name = to_python(name)
    if name == "latest":
        return None
    best = None if ranking is None else ranking.best(rows, limits, updates)
    if name == "best" and best is not None:
        return best
    if not isinstance(name, bool) and isinstance(name, int) and name in updates:
        return name
    allowed = ["latest", *(["best"] if best is not None else []), *map(str, updates)]
    why = "" if best is not None or name != "best" else " (the run has no best_metric)"
    raise ValueError(f"checkpoint is {name!r}{why}; allowed is one of {', '.join(allowed)}")


def _warn_of_damage(damages: Sequence[str], step: int) -> None:
    """Warns of the checkpoints that were skipped because they are damaged, if any."""
    if damages:
        message = f"{'; '.join(damages)}; the checkpoint of update {step} is read instead"
        warnings.warn(message, run_dir.RunFolderWarning, stacklevel=3)


def _on_these_devices(plan: RunConfig) -> RunConfig:
    """Returns the plan, on one device where fewer are present than it was trained on.

    Playing episodes does not need the devices of the training.
    """
    if (plan.devices or 1) <= jax.device_count():
        return plan
    return dataclasses.replace(plan, devices=None, shard_over="envs")


class Saved(NamedTuple):
    """Data that a run saves beside the states of a checkpoint.

    Attributes:
        plan: plan of the run.
        diverged: ``[seeds]`` int, the update at which a seed diverged, or 0.
        timings: durations of the run so far.
        rows: position in the rows of the run; None in a checkpoint of an earlier version.
        environment: hashes of the environment, see `fingerprint.data_by_field`; None where the
            run's config defines it completely.
        reasons: seed -> why it is left out.
        partial: sums since the last evaluation; None in a checkpoint of an evaluation.
        ranking: order of evaluations, of which the best one's checkpoint is kept, or None.
    """

    plan: RunConfig
    diverged: np.ndarray
    timings: Timings
    rows: loggers.Mark | None
    environment: dict[str, str] | None
    reasons: dict[str, str]
    partial: dict[str, Any] | None
    ranking: Ranking | None


def read_meta(intact: checkpoints.Checkpoint) -> Saved:
    """Returns the data that a run saved beside the states of a checkpoint.

    Args:
        intact: an intact checkpoint.

    Raises:
        CheckpointError: the checkpoint holds other data.
        ValueError: the plan in it is invalid.
    """
    meta = intact.meta
    try:
        diverged = np.asarray(meta["diverged"], np.int32)
        saved_plan = experiment_config.from_dict(meta["plan"], intact.path)
        environment = meta.get("environment") if isinstance(meta.get("environment"), dict) else None
        reasons, partial = dict(meta.get("reasons", {})), meta.get("partial")
        rows = run_dir.mark_of(meta)
        ranking = Ranking(**meta["ranking"]) if meta.get("ranking") else None
        timings = Timings(**meta["timings"])
        return Saved(saved_plan, diverged, timings, rows, environment, reasons, partial, ranking)
    except (KeyError, TypeError, OverflowError) as error:
        raise checkpoints.CheckpointError(
            f"{intact.path} is no checkpoint of a run: {error!r} in its meta"
        ) from error
