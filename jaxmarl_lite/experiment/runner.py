"""The host loop of a run: train a chunk, report, evaluate, save."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmarl_lite import rollout, sharding
from jaxmarl_lite.algorithms import base_config
from jaxmarl_lite.experiment import constraint_stats, run_logger
from jaxmarl_lite.experiment.compilation import CompiledRun, MetricAccumulator
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.experiment.fingerprint import data_by_field
from jaxmarl_lite.experiment.progress_bar import ProgressBar
from jaxmarl_lite.experiment.result import Result, Timings, from_rows, load_run
from jaxmarl_lite.experiment.signals import StopRequest
from jaxmarl_lite.report import checkpoint, loggers, metrics, run_dir
from jaxmarl_lite.types import Environment, TrainState

_CHUNK_SECONDS = 1.0  # between two movements of the progress bar

_NOT_LEARNED = "a number that it learned is not finite"


class RunError(RuntimeError):
    """A run cannot go on: no seed is left, or its folder cannot be written. Its folder and
    checkpoints are kept.
    """


class ResumePoint(NamedTuple):
    """Where a resumed run stands."""

    states: TrainState
    update: int
    diverged: np.ndarray  # [seeds] int: the update from which on a seed is left out, or 0
    timings: Timings
    used_older_checkpoint: bool
    """Whether a newer checkpoint was damaged."""
    rows: loggers.Mark | None
    """What the checkpoint remembers of the rows; None in one of an earlier version."""
    reasons: Mapping[str, str] = {}
    """Seed -> why it is left out."""
    partial: Mapping[str, Any] | None = None
    """What was tallied since the last evaluation, as `Runner` saved it; None in a checkpoint of an
    evaluation."""


class Runner:
    """One run on its way.

    Args:
        plan, world: what to do, and where.
        programs: compiled for them.
        kept: takes the rows.
        display: shows progress.
        checkpoints: folder for them; None saves none.
        max_checkpoints: how many to keep.
        checkpoint_seconds: longest time between two checkpoints.
        stop: the signals that end the run.
    """

    def __init__(
        self,
        plan: RunConfig,
        world: Environment,
        programs: CompiledRun,
        kept: run_logger.RunLogger,
        display: ProgressBar,
        checkpoints: Path | None,
        max_checkpoints: int,
        checkpoint_seconds: float = np.inf,
        stop: StopRequest | None = None,
    ):
        self._plan, self._spec, self._world, self._programs = plan, world.spec, world, programs
        self._kept, self._display = kept, display
        self._checkpoints, self._max_checkpoints = checkpoints, max_checkpoints
        self._checkpoint_seconds, self._stop = checkpoint_seconds, stop or StopRequest()
        self._seeds = np.asarray(plan.seeds, np.uint32)
        self._tally: MetricAccumulator = programs.empty
        self._diverged = np.zeros(len(plan.seeds), np.int32)
        self._reasons: dict[str, str] = {}
        self._since = (0, 0.0)  # updates and seconds of training since the last row
        self._limits = constraint_stats.limits_of(plan.config, world.spec)
        self._limited = bool(np.isfinite(self._limits).any())
        self._violations = np.zeros((len(plan.seeds), *self._limits.shape))
        self._updates_with_cost = np.zeros(len(plan.seeds))
        # of an environment that make() builds, config.json says all
        self._environment = data_by_field(world) if plan.env_args is None else None
        self._random: np.ndarray | None = None
        self._current = float("nan")
        self.update = 0
        """Updates done."""

    def run(self, start: ResumePoint | None, compile_seconds: float) -> Result:
        """Train to the end of the plan and show the result."""
        self._compile_seconds, self._trained = compile_seconds, 0.0
        self._clock = self._saved = time.perf_counter()
        self._stop.deferred = True
        if start is None:
            self._start()
        else:
            self._resume(start)
        for update in self._plan.evaluation_updates:
            # a checkpoint between two evaluations may stand where a prolonged run has one
            if update > self.update or (update == self.update and self._since[0]):
                self._train_until(update)
                self._evaluate()
                self._stop_if_requested()
        self._kept.draw()
        result = self._result()
        self._display.show(result.table)
        return result

    def _start(self) -> None:
        """A new run: initial states, the random policy, and the first evaluation."""
        self._display.print(f"compiled in {self._compile_seconds:.1f} s")
        self._states = self._programs.init(
            self._seeds, base_config.as_arrays(self._plan.learner_config)
        )
        self._random = self._random_returns()
        self._kept.save_random_returns(self._random)
        self._stop_if_requested()
        self._reset_metrics()
        self._evaluate()
        self._stop_if_requested()

    def _resume(self, start: ResumePoint) -> None:
        """A resumed run."""
        self._display.print(
            f"continuing at update {start.update} of {self._plan.num_updates}; "
            f"compiled in {self._compile_seconds:.1f} s"
            + (
                "; a newer checkpoint is damaged and was left out"
                if start.used_older_checkpoint
                else ""
            )
        )
        self._states, self.update, self._diverged = start.states, start.update, start.diverged
        self._reasons = dict(start.reasons)
        for seed in self._lost_seeds_error():
            self._display.print(self._is_left_out(seed))
        self._random = (
            self._kept.read_random_returns() if jax.process_count() == 1 else None
        )  # all processes must do the same
        if self._random is None:
            self._random = self._random_returns()
            self._kept.save_random_returns(self._random)
        self._clock -= start.timings.elapsed_seconds
        self._trained = start.timings.training_seconds
        self._violations = constraint_stats.violations(
            self._kept.rows, self._plan.seeds, self._limits
        )
        self._updates_with_cost = constraint_stats.updates_with_cost(
            self._kept.rows, self._plan.seeds
        )
        self._reset_metrics()
        if start.partial is not None:
            self._restore_metrics(start.partial)

    def _random_returns(self) -> np.ndarray:
        """Mean return of each seed's episodes, ``[seeds]``; NaN where the environment gave wrong
        numbers.
        """
        played = sharding.fetch(self._programs.random(self._seeds))
        returns = np.asarray(self._spec.team_return(played.returns), float).mean(-1)
        wrong = [
            self._non_finite_error(played, i, "the random policy's episodes")
            for i in range(len(returns))
        ]
        for i, text in enumerate(wrong):
            if text:
                returns[i] = np.nan
                self._display.print(f"{text}; the random policy's return of this seed is left out")
        if all(wrong):
            raise RunError(f"{wrong[0]}; allowed are finite numbers")
        return returns

    def _non_finite_error(self, played: Any, i: int, where: str) -> str:
        """What was wrong with the environment's numbers in the episodes played for the seed of
        index ``i``, or ''.
        """
        bits = int(np.bitwise_or.reduce(np.asarray(played.faults)[i]))
        bits &= ~(1 << rollout.ENV_FIELDS.index("action_mask"))
        if not bits and not (
            np.isfinite(played.returns[i]).all() and np.isfinite(played.costs[i]).all()
        ):
            return f"seed {self._plan.seeds[i]} has a return or cost that is not finite in {where}"
        return self._fault_message(i, bits, where) if bits else ""

    def _fault_message(self, i: int, bits: int, where: str) -> str:
        fields = [name for bit, name in enumerate(rollout.ENV_FIELDS) if bits >> bit & 1]
        numbers = " and ".join(
            f"{'an' if name.startswith('a') else 'a'} {name}"
            for name in fields
            if name != "action_mask"
        )
        wrong = (
            [f"{numbers} that {'are' if ' and ' in numbers else 'is'} not finite"]
            if numbers
            else []
        )
        wrong += ["an action_mask without a legal action"] if "action_mask" in fields else []
        return (
            f"environment {self._plan.env} gave {' and '.join(wrong)} to seed "
            f"{self._plan.seeds[i]} in {where}"
        )

    def _lost_seeds_error(self) -> list[int]:
        """Indices of the seeds that are left out."""
        return np.flatnonzero(self._diverged).tolist()

    def _is_left_out(self, i: int) -> str:
        """Says that a seed is left out, since when, and why."""
        seed, update = self._plan.seeds[i], self._diverged[i]
        reason = self._reasons.get(str(seed), _NOT_LEARNED)
        if reason == _NOT_LEARNED:
            return f"seed {seed} diverged at update {update}: {reason}"
        return f"seed {seed} is left out from update {update} on: {reason}"

    def _leave_out(self, reasons: Mapping[int, str]) -> None:
        """Leave seeds out from now on, index -> why; raise RunError when none is left."""
        for i, reason in reasons.items():
            self._reasons[str(self._plan.seeds[i])] = reason
            self._display.print(self._is_left_out(i))
        if not reasons or not self._diverged.all():
            return
        count, last = len(self._plan.seeds), self._diverged.max()
        others = [
            reason for reason in dict.fromkeys(self._reasons.values()) if reason != _NOT_LEARNED
        ]
        if others:
            raise RunError(
                f"no seed is left of {count}, the last was left out at update {last}: "
                f"{'; '.join(others[:3])}" + ("; ..." if len(others) > 3 else "")
            )
        raise RunError(
            f"all {count} seeds have diverged, the last at update {last}; allowed are settings "
            "that keep learned "
            "numbers finite, such as a smaller lr"
        )

    def _reset_metrics(self) -> None:
        limits: Any = np.broadcast_to(self._limits, (len(self._plan.seeds), *self._limits.shape))
        self._tally = self._programs.empty._replace(diverged=self._diverged, limits=limits)  # type: ignore[arg-type]
        self._since = (0, 0.0)

    def _train_until(self, target: int) -> None:
        """Train up to ``target`` updates in chunks of about a second each."""
        pace = 0.0
        while self.update < target:
            updates = int(_agreed(self._chunk_updates(pace, target - self.update), first=True))
            began = time.perf_counter()
            self._states, self._tally = self._programs.train_chunk(
                self._states, self._tally, np.int32(updates)
            )
            t = self._tally
            seen = sharding.fetch(
                (t.diverged, t.env_fault_update, t.env_faults, t.total["return"], t.count["return"])
            )
            seconds = time.perf_counter() - began
            pace = seconds / updates
            self.update += updates
            self._trained += seconds
            self._since = (self._since[0] + updates, self._since[1] + seconds)
            self._check(*seen[:3])
            self._current = _mean(_ratio(*seen[3:])[self._diverged == 0])
            self._display.update(self.update, self._speed(*self._since), self._current)
            if (
                self.update < target
            ):  # at the target, the evaluation comes first: it belongs to the checkpoint
                self._save_between()

    def _save_between(self) -> None:
        """Save between two evaluations, if a signal asks for the end or the last checkpoint is too
        old.
        """
        signum = int(
            _agreed(self._stop.signum)
        )  # read once: a later signal would end the run without saving
        due = _agreed(time.perf_counter() - self._saved >= self._checkpoint_seconds)
        if self._checkpoints is not None and (signum or due):
            total, count = (
                {name: np.asarray(value).tobytes().hex() for name, value in each.items()}
                for each in sharding.fetch((self._tally.total, self._tally.count))
            )
            updates, seconds = self._since
            # the rows are means since the last evaluation: a resumed run must go on with the same
            # sums
            self._checkpoint(
                partial={"total": total, "count": count, "updates": updates, "seconds": seconds}
            )
        if signum:
            self._save_and_exit(signum)

    def _restore_metrics(self, partial: Mapping[str, Any]) -> None:
        """Go on with the sums that `_save_between` saved."""

        def restored(blank: Mapping[str, Any], saved: Mapping[str, str]) -> dict[str, Any]:
            return {
                name: np.frombuffer(bytes.fromhex(saved[name]), value.dtype)
                .reshape(value.shape)
                .copy()
                for name, value in blank.items()
            }

        try:
            total, count = (
                restored(self._tally.total, partial["total"]),
                restored(self._tally.count, partial["count"]),
            )
            self._since = int(partial["updates"]), float(partial["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise checkpoint.CheckpointError(
                f"{self._checkpoints}: the sums beside the state of update {self.update} cannot "
                f"be read: {error!r}"
            ) from error
        self._tally = self._tally._replace(total=total, count=count)

    def _stop_if_requested(self) -> None:
        """End the run if a signal asked for it; what was computed has been saved."""
        signum = int(_agreed(self._stop.signum))
        if signum:
            self._save_and_exit(signum)

    def _save_and_exit(self, signum: int) -> None:
        self._stop.signum = signum  # of another process, maybe
        self._stop.leave()

    def _chunk_updates(self, pace: float, left: int) -> int:
        """How many updates to run at once, of ``left``, when one takes ``pace`` seconds (0: not
        known yet).
        """
        return min(left, max(1, int(_CHUNK_SECONDS / pace))) if pace else 1

    def _check(self, diverged: np.ndarray, faulty: np.ndarray, faults: np.ndarray) -> None:
        """Leave out the seeds that are lost since the last look; raise RunError when none is
        left.
        """
        reasons = {}
        for i, before in enumerate(self._diverged):
            if before:
                continue
            if faulty[
                i
            ]:  # first: what the environment's wrong numbers do to the learner is not the learner's fault
                reasons[i] = self._fault_message(i, int(faults[i]), f"update {faulty[i]}")
            elif diverged[i]:
                reasons[i] = _NOT_LEARNED
        lost = np.where(np.asarray(faulty) > 0, faulty, diverged)
        self._diverged = np.where(self._diverged > 0, self._diverged, lost).astype(np.int32)
        self._leave_out(reasons)

    def _evaluate(self) -> None:
        """Play episodes with every seed's policy, write a row for each, and save."""
        played = sharding.fetch(
            self._programs.evaluate(self._states.learner_state, self._seeds, np.int32(self.update))
        )
        means, speed = (
            sharding.fetch((self._tally.total, self._tally.count)),
            self._speed(*self._since),
        )
        values = self._evaluation_row(played)
        where = f"the evaluation after update {self.update}"
        wrong = {
            i: self._non_finite_error(played, i, where)
            for i in np.flatnonzero(self._diverged == 0).tolist()
        }
        wrong = {i: text for i, text in wrong.items() if text}
        self._diverged[list(wrong)] = max(1, self.update)
        self._leave_out(wrong)
        if self._limited:
            self._violations += means[0]["violation_rate"]
            self._updates_with_cost += means[1]["violation_rate"].max((1, 2))
        for i, seed in enumerate(self._plan.seeds):
            well = self._diverged[i] == 0
            row = {
                "elapsed_seconds": self._elapsed(),
                "steps_per_second": speed,
                "finite": float(well),
            }
            row |= {
                name: value[i] if well else np.full_like(value[i], np.nan)
                for name, value in values.items()
            }
            if self.update:
                row |= {
                    name: _ratio(total[i], means[1][name][i]) for name, total in means[0].items()
                }
            row |= self._violation_row(i, row.pop("violation_rate", None))
            lost = means[0]["non_finite_episodes"][i] if "non_finite_episodes" in means[0] else 0
            if lost > 0:
                self._display.print(
                    f"seed {seed}: {lost:g} episodes ended because the world's numbers were not "
                    "finite"
                )
            self._kept.write(self.update, seed, metrics.flatten(row))
        self._kept.flush()
        self._save()
        self._kept.refresh()
        self._display.log_evaluation(
            self.update, speed, self._current, _mean(values["eval_return"][self._diverged == 0])
        )
        self._reset_metrics()

    def _evaluation_row(self, played: Any) -> dict[str, np.ndarray]:
        """Means over episodes, ``[seeds, ...]``."""
        values = {
            "eval_return": self._spec.team_return(played.returns),
            "eval_episode_length": played.lengths,
        }
        if self._spec.num_costs:
            values["eval_cost"] = played.costs
        if self._spec.win_condition:
            values["eval_win_rate"] = played.wins
        found = {name: np.asarray(value, float).mean(1) for name, value in values.items()}
        return found | (
            {
                "eval_satisfaction_rate": constraint_stats.satisfaction_rate(
                    played.costs, self._limits
                )
            }
            if self._limited
            else {}
        )

    def _violation_row(self, seed: int, share: Any) -> dict[str, np.ndarray]:
        """What a seed's row says of the limits that its updates broke; ``share`` of those since the
        last row.
        """
        if not self._limited:
            return {}
        found = {"violations": self._violations[seed]} | (
            {} if share is None else {"violation_rate": share}
        )
        by_limit = {
            name: constraint_stats.mask_unlimited(value, self._limits)
            for name, value in found.items()
        }
        return by_limit | {"updates_with_cost": self._updates_with_cost[seed]}

    def _save(self) -> None:
        """Save after an evaluation."""
        self._checkpoint()

    def _checkpoint(self, **more: Any) -> None:
        """Save the state, and what else a resumed run needs."""
        if self._checkpoints is not None:
            meta = {
                "plan": self._plan.to_dict(),
                "diverged": self._diverged,
                "environment": self._environment,
                "reasons": self._reasons,
                "timings": self._timings()._asdict(),
                "rows": self._kept.mark(),
            }
            checkpoint.save(
                self._checkpoints, self.update, self._states, meta | more, self._max_checkpoints
            )
            self._saved = time.perf_counter()

    def _elapsed(self) -> float:
        return time.perf_counter() - self._clock

    def _speed(self, updates: int, seconds: float) -> float:
        """Environment steps per second of all seeds together."""
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

    def _result(self) -> Result:
        folder = self._kept.folder
        return from_rows(
            self._plan,
            self._world,
            self._kept.rows,
            self._random,
            self._timings(),
            None if folder is None else folder.path,
            lambda: self._states,
        )


def finished_result(
    plan: RunConfig,
    world: Environment,
    folder: run_dir.RunFolder,
    display: ProgressBar,
    update: int,
    mark: loggers.Mark | None,
) -> Result:
    """The result of a run that needs no more training; its rows are restored and its picture drawn
    where a kill or something else took them.

    Args:
        plan, world, folder: of the run.
        display: shows the result.
        update, mark: of the last checkpoint, and what it remembers of the rows.
    """
    if sharding.is_primary():
        if mark is not None and (complaint := run_logger.restore_rows(plan, folder, update, mark)):
            warnings.warn(complaint, run_dir.RunFolderWarning, stacklevel=2)
        run_logger.rebuild(plan, world.spec, folder, display.print)
    result = load_run(folder.path, None if isinstance(plan.env_args, dict) else world)
    display.show(result.table)
    return result


def _agreed(value: Any, first: bool = False) -> Any:
    """The largest of the processes' values, or with ``first`` that of process 0: they have to take
    the same way.
    """
    if jax.process_count() == 1:
        return value
    values = multihost_utils.process_allgather(np.asarray(value, np.int32))
    return values[0] if first else values.max()


def _ratio(total: Any, count: Any) -> np.ndarray:
    """Their quotient, NaN where nothing was counted."""
    total, count = np.asarray(total, float), np.asarray(count)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _mean(x: np.ndarray) -> float:
    """Mean over the entries that are not NaN."""
    return float(np.nanmean(x)) if np.isfinite(x).any() else float("nan")
