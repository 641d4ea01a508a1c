"""The host loop of a run: trains in chunks, reports, evaluates and saves.

`ProgressBar` shows the user how far it is; a `StopRequest` ends it at a signal.
"""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from numpy.typing import ArrayLike

from jaxmarl_lite import references, rollout, sharding
from jaxmarl_lite.algorithms import cost_limits
from jaxmarl_lite.experiment import initial_weights, run_logger
from jaxmarl_lite.experiment.callbacks import Callbacks, EvaluationReport
from jaxmarl_lite.experiment.compilation import (
    CompiledRun,
    MetricAccumulator,
    join_metrics,
    split_metrics,
)
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.experiment.fingerprint import data_by_field
from jaxmarl_lite.experiment.progress import ProgressBar
from jaxmarl_lite.experiment.ranking import Ranking
from jaxmarl_lite.experiment.result import Result, Saved, Timings, from_rows, load_run
from jaxmarl_lite.report import checkpoint, loggers, metrics, run_dir, statistics
from jaxmarl_lite.types import Environment, TrainState

_CHUNK_SECONDS = 1.0  # between two movements of the progress bar

# Checkpoints store this text: another one would not be recognized in those that exist.
_NOT_LEARNED = "a number that it learned is not finite"


class RunError(RuntimeError):
    """Error that ends a run: no seed is left, or its folder cannot be written.

    The folder and the checkpoints of the run are kept.
    """


class ResumePoint(NamedTuple):
    """The state from which a run continues, as a checkpoint holds it.

    Attributes:
        states: training states, every leaf ``[S, ...]``.
        update: updates done.
        used_older_checkpoint: whether a newer checkpoint was damaged.
        saved: data that the run saved beside the states.
    """

    states: TrainState
    update: int
    used_older_checkpoint: bool
    saved: Saved


class Runner:
    """The host loop of one run.

    Args:
        plan: plan of the run.
        env: the environment.
        programs: programs compiled for plan and environment.
        run_logger: receives the rows.
        display: shows progress.
        checkpoints: folder of the checkpoints; None saves none.
        max_checkpoints: number of checkpoints to keep.
        checkpoint_seconds: longest time between two checkpoints, in seconds.
        stop: the signals that end the run.
        callbacks: called after every evaluation; None: there are none.
        ranking: order of evaluations, of which the best one's checkpoint is kept; None: that of
            the resumed run, if it has one.

    Attributes:
        update: updates done.
        stopped: why a callback ended the run before its last update, or None.
    """

    def __init__(
        self,
        plan: RunConfig,
        env: Environment,
        programs: CompiledRun,
        run_logger: run_logger.RunLogger,
        display: ProgressBar,
        checkpoints: Path | None,
        max_checkpoints: int,
        checkpoint_seconds: float = np.inf,
        stop: StopRequest | None = None,
        callbacks: Callbacks | None = None,
        ranking: Ranking | None = None,
    ):
        self._plan, self._spec, self._env, self._programs = plan, env.spec, env, programs
        self._run_logger, self._display = run_logger, display
        self._checkpoints, self._max_checkpoints = checkpoints, max_checkpoints
        self._checkpoint_seconds, self._stop = checkpoint_seconds, stop or StopRequest()
        self._callbacks, self._ranking = callbacks, ranking
        self._seeds = np.asarray(plan.random_seeds, np.uint32)
        self._accumulator: MetricAccumulator = programs.empty
        self._diverged = np.zeros(len(plan.seeds), np.int32)
        self._reasons: dict[str, str] = {}
        self._since_row = (0, 0.0)  # updates and seconds of training since the last row
        self._limits = cost_limits.limits_of(plan.config, env.spec)
        self._limited = bool(np.isfinite(self._limits).any())
        self._violations = np.zeros((len(plan.seeds), *self._limits.shape))
        self._updates_with_cost = np.zeros(len(plan.seeds))
        # config.json defines an environment of this library completely
        is_users = plan.env_args is None or references.is_reference(plan.env)
        self._environment = data_by_field(env) if is_users else None
        self._random: np.ndarray | None = None
        self._current = float("nan")
        self.update = 0
        self.stopped: str | None = None

    def run(self, start: ResumePoint | None, compile_seconds: float) -> Result:
        """Trains to the end of the plan and shows the result.

        Args:
            start: the state from which the run continues; None to begin with the first update.
            compile_seconds: seconds that compiling took.

        Returns:
            The result of the run.

        Raises:
            RunError: no seed is left.
            KeyboardInterrupt: after Ctrl-C, once the run is saved.
            SystemExit: after another signal, once the run is saved.
            Exception: whatever a callback raises, once the run is saved.
        """
        self._compile_seconds, self._trained = compile_seconds, 0.0
        self._clock = self._saved = time.perf_counter()
        self._stop.deferred = True
        if start is None:
            self._start()
        else:
            self._resume(start)
        for update in self._plan.evaluation_updates:
            if self.stopped is not None:
                break
            # A run that is extended may have an evaluation at the update of a checkpoint that was
            # saved between two evaluations.
            if update > self.update or (update == self.update and self._since_row[0]):
                self._train_until(update)
                self._evaluate()
        self._run_logger.refresh(immediately=True)
        folder = self._run_logger.folder
        result = from_rows(
            self._plan,
            self._env,
            self._run_logger.rows,
            self._random,
            self._timings(),
            None if folder is None else folder.path,
            lambda: self._states,
            self.stopped,
        )
        show_result(result, self._display)
        return result

    def _start(self) -> None:
        """Begins a new run: initial states, the random policy, and the first evaluation."""
        self._display.print(f"compiled in {self._compile_seconds:.1f} s")
        self._states = self._programs.init(self._seeds, self._plan.config_arrays)
        if (weights := initial_weights.find(self._plan, self._env)) is not None:
            for sentence in weights.sentences:
                self._display.print(sentence)
            self._states = weights.apply(self._states)
        self._random = self._random_returns()
        self._run_logger.save_random_returns(self._random)
        self._stop_if(_agree(self._stop.signum))
        self._reset_metrics()
        self._evaluate()

    def _resume(self, start: ResumePoint) -> None:
        """Restores the state of a resumed run."""
        self._display.print(
            f"continuing at update {start.update} of {self._plan.num_updates}; "
            f"compiled in {self._compile_seconds:.1f} s"
            + (
                "; a newer checkpoint is damaged and was left out"
                if start.used_older_checkpoint
                else ""
            )
        )
        self._states, self.update, saved = start.states, start.update, start.saved
        self._diverged, self._reasons = saved.diverged, dict(saved.reasons)
        self._ranking = self._ranking or saved.ranking
        for i in np.flatnonzero(self._diverged).tolist():
            self._display.print(self._exclusion_message(i))
        # With several processes only one can read the folder, and all must run the same programs.
        self._random = self._run_logger.read_random_returns() if jax.process_count() == 1 else None
        if self._random is None:
            self._random = self._random_returns()
            self._run_logger.save_random_returns(self._random)
        self._clock -= saved.timings.elapsed_seconds
        self._trained = saved.timings.training_seconds
        rows, seeds = self._run_logger.rows, self._plan.seeds
        counts = metrics.latest(rows, seeds, "num_violations", self._limits.shape)
        self._violations = np.where(np.isfinite(self._limits), counts, 0.0)
        self._updates_with_cost = metrics.latest(rows, seeds, "updates_with_cost")
        self._reset_metrics()
        if saved.partial is not None:
            self._restore_metrics(saved.partial)

    def _random_returns(self) -> np.ndarray:
        """Plays the random policy and returns its mean return for each seed, ``[S]``.

        It is NaN where the environment returned numbers that are not finite.
        """
        played = self._play(is_random=True)
        returns = np.asarray(self._spec.team_return(played.returns), float).mean(-1)
        wrong = self._non_finite_errors(played, range(len(returns)), "the random policy's episodes")
        for i, text in wrong.items():
            returns[i] = np.nan
            self._display.print(f"{text}; the random policy's return of this seed is left out")
        if len(wrong) == len(returns):
            raise RunError(f"{wrong[0]}; allowed are finite numbers")
        return returns

    def _play(self, is_random: bool = False) -> Any:
        """Returns the `Evaluation` of all seeds after the updates that are done."""
        learners = self._states.learner_state
        return sharding.fetch(
            self._programs.evaluate(
                learners, self._seeds, np.int32(self.update), np.bool_(is_random)
            )
        )

    def _by_name(
        self, sums: MetricAccumulator
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Returns the sums of the metrics and the numbers of entries, name -> ``[S, ...]``."""
        total, count = (
            split_metrics(np.asarray(x), self._programs.metric_shapes)
            for x in (sums.total, sums.count)
        )
        return total, count

    def _non_finite_errors(self, played: Any, seeds: Iterable[int], where: str) -> dict[int, str]:
        """Returns the faults in the environment's numbers in episodes of some seeds.

        Args:
            played: an `Evaluation` of all seeds.
            seeds: indices of the seeds to look at.
            where: the episodes, for the message.

        Returns:
            Index of a seed -> message; nothing for seeds without a fault.
        """
        errors = {}
        for i in seeds:
            # a mask without a legal action is a fault only where it makes learned numbers not
            # finite
            bits = int(np.bitwise_or.reduce(np.asarray(played.faults)[i]))
            bits &= ~(1 << rollout.ENV_FIELDS.index("action_mask"))
            if bits:
                errors[i] = self._fault_message(i, bits, where)
            elif not (np.isfinite(played.returns[i]).all() and np.isfinite(played.costs[i]).all()):
                seed = self._plan.seed_name(i)
                errors[i] = f"{seed} has a return or cost that is not finite in {where}"
        return errors

    def _fault_message(self, i: int, bits: int, where: str) -> str:
        """Returns the message for the faults that ``bits`` encode, see `rollout.env_faults`."""
        fields = [name for bit, name in enumerate(rollout.ENV_FIELDS) if bits >> bit & 1]
        numbers = [
            f"{'an' if name[0] == 'a' else 'a'} {name}" for name in fields if name != "action_mask"
        ]
        wrong = ["an action_mask without a legal action"] if "action_mask" in fields else []
        if numbers:
            verb = "is" if len(numbers) == 1 else "are"
            wrong = [f"{' and '.join(numbers)} that {verb} not finite", *wrong]
        return (
            f"environment {self._plan.env} gave {' and '.join(wrong)} to "
            f"{self._plan.seed_name(i)} in {where}"
        )

    def _exclusion_message(self, i: int) -> str:
        """Returns the message that a seed is left out, since which update, and why."""
        name, update = self._plan.seed_name(i), self._diverged[i]
        reason = self._reasons.get(str(self._plan.seeds[i]), _NOT_LEARNED)
        if reason == _NOT_LEARNED:
            return f"{name} diverged at update {update}: {reason}"
        return f"{name} is left out from update {update} on: {reason}"

    def _exclude_seeds(self, reasons: Mapping[int, str]) -> None:
        """Reports seeds that are left out, index -> reason; raises RunError when none is left."""
        for i, reason in reasons.items():
            self._reasons[str(self._plan.seeds[i])] = reason
            self._display.print(self._exclusion_message(i))
        if not reasons or not self._diverged.all():
            return
        count, last = len(self._plan.seeds), self._diverged.max()
        others = [text for text in dict.fromkeys(self._reasons.values()) if text != _NOT_LEARNED]
        if others:
            raise RunError(
                f"no seed is left of {count}, the last was left out at update {last}: "
                f"{'; '.join(others[:3])}" + ("; ..." if len(others) > 3 else "")
            )
        raise RunError(
            f"all {count} seeds have diverged, the last at update {last}; allowed are settings "
            "that keep learned numbers finite, such as a smaller lr"
        )

    def _reset_metrics(self) -> None:
        """Empties the accumulated metrics, but keeps limits and excluded seeds."""
        limits: Any = np.broadcast_to(self._limits, (len(self._plan.seeds), *self._limits.shape))
        changed: dict[str, Any] = dict(diverged=self._diverged, limits=limits)
        self._accumulator = self._programs.empty._replace(**changed)
        self._since_row = (0, 0.0)

    def _train_until(self, target: int) -> None:
        """Trains up to ``target`` updates in chunks of about a second each."""
        pace = 0.0
        while self.update < target:
            # all processes must run chunks of the same length: that of process 0
            updates = _agree(self._chunk_updates(pace, target - self.update), first=True)
            start_time = time.perf_counter()
            accumulator = sharding.place(self._accumulator, self._programs.accumulator_sharding)
            self._states, self._accumulator = self._programs.train_chunk(
                self._states, accumulator, np.int32(updates)
            )
            sums = sharding.fetch(self._accumulator)
            total, count = self._by_name(sums)
            seconds = time.perf_counter() - start_time
            pace = seconds / updates
            self.update += updates
            self._trained += seconds
            self._since_row = (self._since_row[0] + updates, self._since_row[1] + seconds)
            self._check(sums.diverged, sums.env_fault_update, sums.env_faults)
            self._current = _mean(
                _ratio(total["episode_return"], count["episode_return"])[self._diverged == 0]
            )
            self._display.update(self.update, self._speed(*self._since_row), self._current)
            # at the target, the evaluation comes first: its results belong to the checkpoint
            if self.update < target:
                self._save_between()

    def _save_between(self) -> None:
        """Saves between two evaluations after a signal, or where the last checkpoint is too old."""
        # read once: a signal that arrives later would end the run without saving
        signum = _agree(self._stop.signum)
        due = _agree(time.perf_counter() - self._saved >= self._checkpoint_seconds)
        if self._checkpoints is not None and (signum or due):
            total, count = self._by_name(sharding.fetch(self._accumulator))
            updates, seconds = self._since_row
            # Rows hold means since the last evaluation: a resumed run must continue with the same
            # sums.
            self._checkpoint(
                partial={"total": total, "count": count, "updates": updates, "seconds": seconds}
            )
        self._stop_if(signum)

    def _restore_metrics(self, partial: Mapping[str, Any]) -> None:
        """Restores the sums that `_save_between` saved."""
        sums, shapes, seeds = self._accumulator, self._programs.metric_shapes, len(self._seeds)
        try:
            restored: dict[str, Any] = {
                part: join_metrics(
                    {
                        name: np.reshape(np.array(partial[part][name]), (seeds, *shape))
                        for name, shape in shapes.items()
                    },
                    shapes,
                ).astype(getattr(sums, part).dtype)
                for part in ("total", "count")
            }
            self._since_row = int(partial["updates"]), float(partial["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise checkpoint.CheckpointError(
                f"{self._checkpoints}: the sums beside the state of update {self.update} cannot "
                f"be read: {error!r}"
            ) from error
        self._accumulator = sums._replace(**restored)

    def _stop_if(self, signum: int) -> None:
        """Ends the run as a signal asks, possibly one of another process; 0: goes on."""
        if signum:
            self._stop.signum = signum
            self._stop.leave()

    def _chunk_updates(self, pace: float, remaining: int) -> int:
        """Returns the number of updates to run at once.

        Args:
            pace: seconds that one update takes; 0: not known yet.
            remaining: updates up to the next evaluation.
        """
        return min(remaining, max(1, int(_CHUNK_SECONDS / pace))) if pace else 1

    def _check(self, diverged: np.ndarray, faulty: np.ndarray, faults: np.ndarray) -> None:
        """Leaves out the seeds that failed since the last check; raises RunError when none is left.

        Args:
            diverged: ``[S]`` int, the update that left learned numbers not finite, or 0.
            faulty: ``[S]`` int, the update in which the environment returned wrong numbers, or 0.
            faults: ``[S]`` int, bits that say which numbers were wrong.
        """
        reasons = {}
        for i, excluded_at in enumerate(self._diverged):
            if excluded_at:
                continue
            # The environment comes first: the effect of its wrong numbers on the learner is not the
            # learner's fault.
            if faulty[i]:
                reasons[i] = self._fault_message(i, int(faults[i]), f"update {faulty[i]}")
            elif diverged[i]:
                reasons[i] = _NOT_LEARNED
        failed_at = np.where(np.asarray(faulty) > 0, faulty, diverged)
        self._diverged = np.where(self._diverged > 0, self._diverged, failed_at).astype(np.int32)
        self._exclude_seeds(reasons)

    def _evaluate(self) -> None:
        """Plays episodes with every seed's policy, writes a row for each seed, and saves."""
        played = self._play()
        totals, counts = self._by_name(sharding.fetch(self._accumulator))
        speed = self._speed(*self._since_row)
        values = self._evaluation_row(played)
        where = f"the evaluation after update {self.update}"
        wrong = self._non_finite_errors(played, np.flatnonzero(self._diverged == 0).tolist(), where)
        self._diverged[list(wrong)] = max(1, self.update)
        self._exclude_seeds(wrong)
        if self._limited:
            self._violations += totals["violation_rate"]
            self._updates_with_cost += counts["violation_rate"].max((1, 2))
        rows: list[loggers.Row] = []
        for i, seed in enumerate(self._plan.seeds):
            healthy = self._diverged[i] == 0
            row = {
                "elapsed_seconds": self._elapsed(),
                "steps_per_second": speed,
                "is_finite": float(healthy),
            }
            row |= {
                name: value[i] if healthy else np.full_like(value[i], np.nan)
                for name, value in values.items()
            }
            if self.update:
                row |= {name: _ratio(total[i], counts[name][i]) for name, total in totals.items()}
            rate = {"violation_rate": row.pop("violation_rate")} if "violation_rate" in row else {}
            if self._limited:
                by_limit = {"num_violations": self._violations[i]} | rate
                row |= {
                    name: statistics.mask_unlimited(value, self._limits)
                    for name, value in by_limit.items()
                }
                row["updates_with_cost"] = self._updates_with_cost[i]
            broken = totals["non_finite_episodes"][i] if "non_finite_episodes" in totals else 0
            if broken > 0:
                self._display.print(
                    f"{self._plan.seed_name(i)}: {broken:g} episodes ended because the "
                    "environment's numbers were not finite"
                )
            self._run_logger.write(self.update, seed, metrics.flatten(row))
            rows.append(self._run_logger.rows[-1])
        self._run_logger.flush()
        self._checkpoint()
        self._run_logger.refresh()
        self._display.log_evaluation(
            self.update, speed, self._current, _mean(values["eval_return"][self._diverged == 0])
        )
        self._reset_metrics()
        self._call_back(rows)
        self._stop_if(_agree(self._stop.signum))

    def _call_back(self, rows: list[loggers.Row]) -> None:
        """Calls the callbacks, in process 0 alone, and ends the run where one of them asks to."""
        if not self._callbacks:
            return
        reason = None
        if sharding.is_primary():
            folder = self._run_logger.folder
            reason = self._callbacks.call(
                EvaluationReport(
                    self._plan,
                    self.update,
                    rows,
                    self._run_logger.rows,
                    self._limits,
                    None if folder is None else folder.path,
                )
            )
        error = self._callbacks.error
        # all processes must end at the same update
        answer = _agree(2 if error is not None else reason is not None, first=True)
        if answer == 2:
            raise error or RunError("on_evaluation raised an exception in process 0")
        if answer and self.update < self._plan.num_updates:
            self.stopped = reason or "on_evaluation ended the run in process 0"

    def _evaluation_row(self, played: Any) -> dict[str, np.ndarray]:
        """Returns the metrics of an evaluation, means over its episodes, ``[S, ...]``."""
        values = {
            "eval_return": self._spec.team_return(played.returns),
            "eval_episode_length": played.lengths,
        }
        if self._spec.num_costs:
            values["eval_cost"] = played.costs
        if self._spec.win_condition:
            values["eval_win_rate"] = played.wins
        row = {name: np.asarray(value, float).mean(1) for name, value in values.items()}
        if self._limited:
            row["eval_satisfaction_rate"] = statistics.satisfaction_rate(played.costs, self._limits)
        return row

    def _checkpoint(self, **more: Any) -> None:
        """Saves the states, and other data that a resumed run needs."""
        if self._checkpoints is not None:
            meta = {
                "plan": self._plan.to_dict(),
                "diverged": self._diverged,
                "environment": self._environment,
                "reasons": self._reasons,
                "timings": self._timings()._asdict(),
                "rows": self._run_logger.mark(),
            }
            if self._ranking is not None:
                meta["ranking"] = dataclasses.asdict(self._ranking)
            checkpoint.save(
                self._checkpoints,
                self.update,
                self._states,
                meta | more,
                self._max_checkpoints,
                self._best_update(),
            )
            self._saved = time.perf_counter()

    def _best_update(self) -> tuple[int, ...]:
        """Returns the update of the best checkpoint, the one to be written among them."""
        if self._ranking is None or self._checkpoints is None:
            return ()
        candidates = {*checkpoint.steps(self._checkpoints), self.update}
        best = self._ranking.best(self._run_logger.rows, self._limits, candidates)
        return () if best is None else (best,)

    def _elapsed(self) -> float:
        """Returns the seconds of the run over all sessions, without compiling."""
        return time.perf_counter() - self._clock

    def _speed(self, updates: int, seconds: float) -> float:
        """Returns the environment steps per second of all seeds together; NaN without training."""
        return (
            updates * self._plan.batch_steps * len(self._plan.seeds) / seconds
            if seconds
            else np.nan
        )

    def _timings(self) -> Timings:
        return Timings(
            self._compile_seconds,
            self._trained,
            self._elapsed(),
            self._speed(self.update, self._trained),
        )


def finished_result(
    plan: RunConfig,
    env: Environment,
    folder: run_dir.RunFolder,
    display: ProgressBar,
    update: int,
    mark: loggers.Mark | None,
) -> Result:
    """Returns the result of a run that needs no more training, and shows it.

    Its rows are restored and its figures drawn again where a kill or something else removed them.

    Args:
        plan: plan of the run.
        env: the environment.
        folder: folder of the run.
        display: shows the result.
        update: update of the last checkpoint.
        mark: position in the rows that this checkpoint holds; None in one of an earlier version.
    """
    if sharding.is_primary():
        if mark is not None and (complaint := run_logger.restore_rows(plan, folder, update, mark)):
            warnings.warn(complaint, run_dir.RunFolderWarning, stacklevel=2)
        run_logger.rebuild(plan, env.spec, folder, display.print)
    result = load_run(folder.path, None if isinstance(plan.env_args, dict) else env)
    show_result(result, display)
    return result


def show_result(result: Result, display: ProgressBar) -> None:
    """Shows the table of a finished run, but not that of several points of a sweep together.

    Args:
        result: result of the run.
        display: shows it.
    """
    if result.plan.lanes is None:
        display.show(result.table)


def _agree(value: int, first: bool = False) -> int:
    """Returns the largest of the processes' values, or with ``first`` that of process 0.

    All processes must take the same branches, so that they run the same programs.
    """
    if jax.process_count() == 1:
        return int(value)
    values = multihost_utils.process_allgather(np.asarray(value, np.int32))
    return int(values[0] if first else values.max())


def _ratio(total: ArrayLike, count: ArrayLike) -> np.ndarray:
    """Returns ``total / count``, NaN where nothing was counted."""
    total, count = np.asarray(total, float), np.asarray(count)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _mean(x: np.ndarray) -> float:
    """Returns the mean over the entries that are not NaN; NaN if there is none."""
    return float(np.nanmean(x)) if np.isfinite(x).any() else float("nan")


_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # some platforms lack the last two


class StopRequest:
    """Context manager that records the first signal that asks the process to end.

    Until `deferred` is set, a signal ends the process immediately. From then on the run must read
    `signum` at points where its state is consistent, save, and call `leave`. A second Ctrl-C ends
    the process at once, unless XLA compiles, which nothing can interrupt. Outside the main thread
    Python installs no handlers, and no signal is recorded.

    Attributes:
        signum: number of the recorded signal, or 0.
        deferred: whether the run reads `signum` itself.
    """

    def __init__(self) -> None:
        self.signum = 0
        self.deferred = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for signum in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
                previous = signal.getsignal(signum)
                # An ignored signal stays ignored, as SIGHUP under nohup; None stands for a handler
                # that Python cannot restore.
                if previous is not None and previous != signal.SIG_IGN:
                    self._previous[signum] = previous
                    signal.signal(signum, self._record)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for signum, previous in self._previous.items():
            signal.signal(signum, previous)
        if self.signum and kind is None:  # the signal came after the last save
            self.leave()

    def leave(self) -> None:
        """Ends the process as the recorded signal asks, after the handler that this replaced.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: after another signal, with the code 128 + its number.
        """
        if self.signum == signal.SIGINT:
            raise KeyboardInterrupt
        previous = self._previous.get(self.signum)
        if callable(previous):  # the caller's own handler may end the process in another way
            previous(self.signum, None)
        raise SystemExit(128 + self.signum)

    def _record(self, signum: int, frame: FrameType | None) -> None:
        """Handles a signal: records the first one, and ends the process unless it is deferred."""
        # Only SIGINT may end the process at its second arrival: closing a terminal and `timeout`
        # send the other signals twice within a moment.
        if signum == signal.SIGINT:
            signal.signal(signum, self._previous[signum])
        self.signum = self.signum or signum
        if not self.deferred:
            self.leave()
