"""The outcome of a run: curves as arrays, final states, and policies to play with."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxmarl_lite.experiment import compilation, playback, run_logger, summary
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment import constraint_stats as cost_rules
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.experiment.fingerprint import Fingerprint, fingerprint, notice_changes
from jaxmarl_lite.report import checkpoint, loggers, run_dir, statistics, tables
from jaxmarl_lite.types import Algorithm, Environment, EnvSpec, PyTree, TrainState
from jaxmarl_lite.validation import check_bool, check_int, check_path, invalid, to_python


class Timings(NamedTuple):
    """How long a run took; wall-clock seconds."""

    compile_seconds: float = 0.0
    """Tracing and compiling, in the session that trained last."""
    training_seconds: float = 0.0
    """Training alone, over all sessions."""
    elapsed_seconds: float = 0.0
    """Everything but compiling, over all sessions."""
    steps_per_second: float = float("nan")
    """Environment steps of all seeds together per second of training."""


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """What `run` gives back, and `load_run`. ``S`` seeds, ``E`` evaluations, the one at the start
    among them.
    """

    plan: RunConfig
    """What was to be done."""
    env: Environment
    """The environment."""
    steps: np.ndarray
    """Environment steps of each seed before each evaluation, ``[E]``."""
    returns: np.ndarray
    """Mean return of each evaluation's episodes, ``[S, E]``; NaN from where a seed has diverged."""
    metrics: dict[str, np.ndarray]
    """Every metric, ``[S, E]`` and then the axes it has of ``N, K``; those of training are means
    since the evaluation before."""
    random_returns: np.ndarray | None
    """Mean return of the random policy, once for each seed, ``[S]``."""
    timings: Timings
    """How long it took."""
    path: Path | None
    """The run's folder."""
    _states: Callable[[], TrainState]

    @property
    def algorithm(self) -> str:
        """Name of the algorithm."""
        return self.plan.algorithm

    @property
    def config(self) -> Any:
        """Its settings."""
        return self.plan.config

    @property
    def seeds(self) -> tuple[int, ...]:
        """Which seeds."""
        return self.plan.seeds

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings of the environment."""
        return self.env.spec

    @property
    def diverged(self) -> tuple[int, ...]:
        """The seeds that came to numbers that are not finite, and are left out of every statistic
        from then on.
        """
        lost = (self.metrics["finite"] == 0).any(1)
        return tuple(seed for seed, each in zip(self.seeds, lost, strict=True) if each)

    @functools.cached_property
    def states(self) -> TrainState:
        """The last training states, every leaf ``[S, ...]``; read from the newest checkpoint when
        first asked for.
        """
        return self._states()

    @functools.cached_property
    def limits(self) -> np.ndarray:
        """The limit of every agent and cost, ``[N, K]``, in cost per episode: the config's over the
        environment's own; inf where there is none.
        """
        return cost_rules.limits_of(self.config, self.spec)

    @property
    def costs(self) -> np.ndarray | None:
        """Mean cost per episode of each evaluation, ``[S, E, N, K]``, NaN from where a seed has
        diverged; None where the environment has no costs.
        """
        return self.metrics.get("eval_cost")

    @property
    def win_rates(self) -> np.ndarray | None:
        """Share of won episodes of each evaluation, ``[S, E]``, NaN from where a seed has diverged;
        None where the environment has no wins.
        """
        return self.metrics.get("eval_win_rate")

    def final_win_rate(self) -> statistics.Interval:
        """IQM of the last evaluation's win rates over seeds, with its 95 % interval.

        Raises:
            ValueError: episodes of the environment cannot be won.
        """
        if self.win_rates is None:
            raise ValueError(
                f"{self.plan.env} has no wins; allowed is a run in an environment that tells of "
                "them"
            )
        return statistics.bootstrap_interval(self.win_rates[:, -1])

    def final_costs(self) -> statistics.Interval:
        """Mean over seeds of the last evaluation's costs per episode, ``[N, K]``, with its 95 %
        bootstrap interval.

        Raises:
            ValueError: the environment has no costs.
        """
        return statistics.bootstrap_interval(self._known_costs()[:, -1], statistics.mean)

    def satisfaction_rate(self) -> np.ndarray:
        """Estimated probability that an episode keeps its limit: the share of the last evaluation's
        episodes whose cost is at or under it, mean over seeds, ``[N, K]``; NaN where there is no
        limit.

        Raises:
            ValueError: the environment has no costs.
        """
        return self._at_the_end("eval_satisfaction_rate", self._known_costs())

    def num_violations(self) -> np.ndarray:
        """Updates so far whose episodes cost more than the limit on average, mean over seeds, ``[N,
        K]``; NaN where there is no limit. They are out of `updates_with_cost`: without an ended
        episode an update's cost is not known.

        Raises:
            ValueError: the environment has no costs.
        """
        return self._at_the_end("violations", self._known_costs())

    def updates_with_cost(self) -> float:
        """Updates so far in which episodes ended, so that their cost is known, mean over seeds; NaN
        without limits.

        Raises:
            ValueError: the environment has no costs.
        """
        self._known_costs()
        counts = self.metrics.get("updates_with_cost")
        return float("nan") if counts is None else float(statistics.mean(counts[:, -1], axis=0))

    def _known_costs(self) -> np.ndarray:
        if self.costs is None:
            raise ValueError(
                f"{self.plan.env} has no costs; allowed is a run in an environment with some"
            )
        return self.costs

    def _at_the_end(self, name: str, like: np.ndarray) -> np.ndarray:
        """A metric after the last evaluation, mean over seeds, ``[N, K]``; NaN where it was not
        measured.
        """
        found = self.metrics.get(name)
        return (
            np.full(like.shape[2:], np.nan)
            if found is None
            else statistics.mean(found[:, -1], axis=0)
        )

    def final_return(self) -> statistics.Interval:
        """IQM of the last evaluation's returns over seeds, with its 95 % interval."""
        return statistics.bootstrap_interval(self.returns[:, -1])

    def plot(self, path: str | Path | None = None) -> Any:
        """The learning curve as a matplotlib figure: IQM and 95 % interval over seeds; a notebook
        shows it.

        Where the environment has costs, every cost has a panel beside it, with the limits.

        Args:
            path: where to write it as well, in the format of its suffix, such as .png or .pdf.
        """
        path = None if path is None else check_path("path", path)
        run = self.steps, self.returns, self.costs
        return run_logger.plot_run(
            self.plan, self.spec, run, self.random_returns, path, self.win_rates
        )

    def table(self) -> Table:
        """The last evaluation of every seed, IQM and random policy with intervals, the costs, and
        what the run took.
        """
        return summary.table(self)

    def summary(self) -> str:
        """`table` as text."""
        console = Console(width=100, no_color=True)
        with console.capture() as captured:
            console.print(self.table())
        return captured.get()

    def policy(self, seed: int | None = None, greedy: bool | None = None) -> playback.TrainedPolicy:
        """The trained policy of one seed, ready to act.

        Args:
            seed: of the run; by default the first that did not diverge.
            greedy: take the likeliest actions (True) or sampled ones (False); by default as the
                run's evaluations.

        Raises:
            ValueError: for a seed that the run did not have, or that diverged.
        """
        return playback.TrainedPolicy(
            self._algorithm, self.learner(self._check_seed(seed)), self._is_greedy(greedy)
        )

    def _is_greedy(self, greedy: bool | None) -> bool:
        """Whether the likeliest actions are played: as said, or as in the run's evaluations."""
        return self.plan.greedy if greedy is None else check_bool("greedy", greedy)

    def episode(
        self, seed: int | None = None, episode_seed: int = 0, greedy: bool | None = None
    ) -> playback.Episode:
        """One episode of one seed's policy: states, views, actions, rewards, and with LIIR what
        each agent's learned reward says to every step.

        Args:
            seed: of the run.
            episode_seed: what the episode is drawn from.
            greedy: play the likeliest actions (True) or sampled ones (False); by default as the
                run's evaluations.

        Raises:
            ValueError: for a seed that the run did not have, or that diverged.
        """
        greedy = self._is_greedy(greedy)
        learner = self.learner(self._check_seed(seed))
        notice_changes(self.env)
        now = fingerprint(self.env)
        if greedy not in self._players or not now.same(self._players[greedy][1]):
            self._players[greedy] = playback.make_episode_fn(self._algorithm, self.env, greedy), now
        return self._players[greedy][0](learner, episode_seed)

    def plot_intrinsic_rewards(
        self,
        path: str | Path | None = None,
        seed: int | None = None,
        episode: playback.Episode | None = None,
        greedy: bool | None = None,
    ) -> Any:
        """Each agent's learned reward over an episode beside what it did, as a matplotlib figure.

        Args:
            path: where to write it as well, in the format of its suffix, such as .png or .pdf.
            seed: of the run; by default the first that did not diverge.
            episode: one of `episode`; by default one is played.
            greedy: for the episode that is played, as for `episode`.

        Raises:
            ValueError: the algorithm learns no reward.
        """
        from jaxmarl_lite.report import drawing, reward_plots

        drawing.check_path(path)
        if self.algorithm != "liir" if episode is None else episode.intrinsic_reward is None:
            raise ValueError(f"{self.algorithm} learns no reward; allowed is a run of liir")
        path = None if path is None else check_path("path", path)
        episode = self.episode(seed, greedy=greedy) if episode is None else episode
        return reward_plots.plot_intrinsic_rewards(
            episode.intrinsic_reward,
            episode.action,
            episode.team_reward,
            episode.alive,
            action_names=self.spec.action_names,
            title=f"{self.algorithm} on {self.plan.env}",
            path=path,
        )

    @functools.cached_property
    def _players(self) -> dict[bool, tuple[playback.EpisodeFn, Fingerprint]]:
        """What was compiled to play episodes, greedy and not, and the content of the environment
        that it holds for.
        """
        return {}

    @functools.cached_property
    def _algorithm(self) -> Algorithm:
        return compilation.algorithm_of(self.plan, self.env)

    def _check_seed(self, seed: int | None) -> int:
        sound = [each for each in self.seeds if each not in self.diverged]
        seed = next(iter(sound), None) if seed is None else to_python(seed)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed not in sound:
            why = " (it diverged)" if seed in self.diverged else ""
            allowed = f"one of {', '.join(map(str, sound))}" if sound else "none: all were left out"
            raise ValueError(f"seed is {seed!r}{why}; allowed is {allowed}")
        return seed

    def learner(self, seed: int) -> PyTree:
        """What one seed has learned, as the algorithm's functions take it.

        Raises:
            ValueError: for a seed that the run did not have.
        """
        seed = check_int("seed", seed, 0)
        if seed not in self.seeds:
            raise invalid("seed", seed, f"one of {', '.join(map(str, self.seeds))}")
        place = self.seeds.index(seed)
        return jax.tree.map(lambda x: x[place], self.states.learner_state)

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
) -> Result:
    """A result from the rows of a run."""
    metrics = run_logger.to_arrays(rows, plan.seeds)
    steps = np.asarray(sorted({row["step"] for row in rows}))
    return Result(plan, env, steps, metrics["eval_return"], metrics, random, timings, path, states)


def load_run(path: str | Path, env: Environment | None = None) -> Result:
    """A run from its folder, finished or not; its states are read when they are asked for.

    Args:
        path: the folder.
        env: the environment, where `run` was given an object.

    Raises:
        RunFolderError: the folder holds no run, a damaged one, or one without an evaluation.
        CheckpointError: there is no checkpoint, or all are damaged; where an older one is whole, it
            is read, with a warning.
    """
    path = check_path("path", path)
    plan = experiment_config.read(path)
    found = run_dir.load(path)
    if not any("eval_return" in row for row in found.rows):
        raise run_dir.RunFolderError(
            f"{path} holds no evaluation yet; continue it with --resume {path}"
        )
    folder = found.folder
    run_logger.check_rows(plan, found.rows, folder.metrics)
    world = experiment_config.env_of_run(plan, path, env)
    intact = checkpoint.find_intact(folder.checkpoints, fallback=True)
    _warn_of_damage(intact.damages, intact.step)
    saved = read_meta(intact)
    experiment_config.check_resumable(plan, saved.plan, folder.checkpoints)

    def states() -> TrainState:
        template = compilation.abstract_states(_on_these_devices(plan), world)
        restored = checkpoint.restore(folder.checkpoints, template, fallback=True)
        if restored.step != intact.step:  # else it was said above
            _warn_of_damage(restored.damages, restored.step)
        return restored.state

    return from_rows(
        plan,
        world,
        found.rows,
        run_logger.read_random_returns(folder),
        saved.timings,
        folder.path,
        states,
    )


def _warn_of_damage(damages: Sequence[str], step: int) -> None:
    """Say which checkpoints were passed over, if any."""
    if damages:
        message = f"{'; '.join(damages)}; the checkpoint of update {step} is read instead"
        warnings.warn(message, run_dir.RunFolderWarning, stacklevel=3)


def _on_these_devices(plan: RunConfig) -> RunConfig:
    """The plan on one device where there are fewer now than it trained on, which playing can do
    without.
    """
    if (plan.devices or 1) <= jax.device_count():
        return plan
    return dataclasses.replace(plan, devices=None, shard_over="envs")


class Saved(NamedTuple):
    """What a run keeps beside the states of a checkpoint."""

    plan: RunConfig
    diverged: np.ndarray  # [seeds] int: the update at which a seed diverged, or 0
    timings: Timings
    rows: loggers.Mark | None  # None in a checkpoint of an earlier version
    environment: (
        dict[str, str] | None
    )  # `fingerprint.data_by_field`; None where the run's config says all
    reasons: dict[str, str]  # seed -> why it is left out
    partial: (
        dict[str, Any] | None
    )  # sums since the last evaluation; None in a checkpoint of an evaluation


def read_meta(intact: checkpoint.Intact) -> Saved:
    """What a run kept beside the states of a checkpoint; CheckpointError where something else is
    there.
    """
    meta = intact.meta
    try:
        diverged = np.asarray(meta["diverged"], np.int32)
        saved_plan = experiment_config.from_dict(meta["plan"], intact.path)
        environment = meta.get("environment") if isinstance(meta.get("environment"), dict) else None
        reasons, partial = dict(meta.get("reasons", {})), meta.get("partial")
        rows = run_dir.mark_of(meta)
        return Saved(
            saved_plan, diverged, Timings(**meta["timings"]), rows, environment, reasons, partial
        )
    except (KeyError, TypeError, OverflowError) as error:
        raise checkpoint.CheckpointError(
            f"{intact.path} is no checkpoint of a run: {error!r} in its meta"
        ) from error
