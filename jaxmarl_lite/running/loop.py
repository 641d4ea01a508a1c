"""The host loop of a run: train a chunk, report, evaluate, save."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmarl_lite import parallel
from jaxmarl_lite.algorithms import configs
from jaxmarl_lite.report import checkpoint, metrics, runfolder, writers
from jaxmarl_lite.running import costs, record
from jaxmarl_lite.running.fingerprint import data_by_field
from jaxmarl_lite.running.plan import Plan
from jaxmarl_lite.running.programs import Programs, Tally
from jaxmarl_lite.running.progress import Display
from jaxmarl_lite.running.result import Result, Timings, from_rows, load_run
from jaxmarl_lite.types import Environment, TrainState

_CHUNK_SECONDS = 1.0  # between two movements of the progress bar


class RunError(RuntimeError):
    """A run cannot go on: a fault of its environment, or no seed left. Its folder and checkpoints are kept."""


class Start(NamedTuple):
    """Where a resumed run stands."""

    states: TrainState
    update: int
    diverged: np.ndarray  # [seeds] int: the update at which a seed diverged, or 0
    timings: Timings
    fell_back: bool
    """Whether a newer checkpoint was damaged."""
    rows: writers.Mark | None
    """What the checkpoint remembers of the rows; None in one of an earlier version."""


class Loop:
    """One run on its way.

    Args:
        plan, world: what to do, and where.
        programs: compiled for them.
        kept: takes the rows.
        display: shows progress.
        checkpoints: folder for them; None saves none.
        keep: how many to keep.
    """

    def __init__(
        self,
        plan: Plan,
        world: Environment,
        programs: Programs,
        kept: record.Record,
        display: Display,
        checkpoints: Path | None,
        keep: int,
    ):
        self._plan, self._spec, self._world, self._programs = plan, world.spec, world, programs
        self._kept, self._display, self._checkpoints, self._keep = kept, display, checkpoints, keep
        self._seeds = np.asarray(plan.seeds, np.uint32)
        self._tally: Tally = programs.blank
        self._diverged = np.zeros(len(plan.seeds), np.int32)
        self._since = (0, 0.0)  # updates and seconds of training since the last row
        self._limits = costs.limits_of(plan.config, world.spec)
        self._limited = bool(np.isfinite(self._limits).any())
        self._violations = np.zeros((len(plan.seeds), *self._limits.shape))
        self._updates_with_cost = np.zeros(len(plan.seeds))
        # of an environment that make() builds, config.json says all
        self._environment = data_by_field(world) if plan.env_args is None else None
        self._random: np.ndarray | None = None
        self._current = float("nan")
        self.update = 0
        """Updates done."""

    def go(self, start: Start | None, compile_seconds: float) -> Result:
        """Train to the end of the plan and show the result."""
        self._compile_seconds, self._trained = compile_seconds, 0.0
        self._clock = time.perf_counter()
        if start is None:
            self._begin()
        else:
            self._take_up(start)
        for update in self._plan.schedule:
            if update > self.update:
                self._advance(update)
                self._evaluate()
        self._kept.draw()
        result = self._result()
        self._display.say(result.table())
        return result

    def _begin(self) -> None:
        """A new run: initial states, the random policy, and the first evaluation."""
        self._display.say(f"compiled in {self._compile_seconds:.1f} s")
        self._states = self._programs.init(self._seeds, configs.as_arrays(self._plan.learner_config))
        self._random = self._random_returns()
        self._kept.keep_random(self._random)
        self._renew_tally()
        self._evaluate()

    def _take_up(self, start: Start) -> None:
        """A resumed run."""
        self._display.say(
            f"continuing at update {start.update} of {self._plan.updates}; compiled in {self._compile_seconds:.1f} s"
            + ("; a newer checkpoint is damaged and was left out" if start.fell_back else "")
        )
        self._states, self.update, self._diverged = start.states, start.update, start.diverged
        self._random = self._kept.random() if jax.process_count() == 1 else None  # all processes must do the same
        if self._random is None:
            self._random = self._random_returns()
            self._kept.keep_random(self._random)
        self._clock -= start.timings.elapsed_seconds
        self._trained = start.timings.training_seconds
        self._violations = costs.violations(self._kept.rows, self._plan.seeds, self._limits)
        self._updates_with_cost = costs.updates_with_cost(self._kept.rows, self._plan.seeds)
        self._renew_tally()

    def _random_returns(self) -> np.ndarray:
        """``[seeds]``."""
        played = parallel.to_host(self._programs.random(self._seeds))
        returns = np.asarray(self._spec.team_return(played.returns), float).mean(-1)
        for seed, value in zip(self._plan.seeds, returns, strict=True):
            if not np.isfinite(value):
                raise self._fault(seed, "episodes of the random policy")
        return returns

    def _fault(self, seed: int, where: str) -> RunError:
        return RunError(
            f"environment {self._plan.env} gave a reward or cost that is not finite to seed {seed} in {where}; "
            "allowed are finite ones"
        )

    def _renew_tally(self) -> None:
        limits: Any = np.broadcast_to(self._limits, (len(self._plan.seeds), *self._limits.shape))
        self._tally = self._programs.blank._replace(diverged=self._diverged, limits=limits)  # type: ignore[arg-type]
        self._since = (0, 0.0)

    def _advance(self, target: int) -> None:
        """Train up to ``target`` updates in chunks of about a second each."""
        pace = 0.0
        while self.update < target:
            updates = self._chunk(pace, target - self.update)
            began = time.perf_counter()
            self._states, self._tally = self._programs.advance(self._states, self._tally, np.int32(updates))
            t = self._tally
            seen = parallel.to_host((t.diverged, t.faulty, t.total["return"], t.count["return"]))
            seconds = time.perf_counter() - began
            pace = seconds / updates
            self.update += updates
            self._trained += seconds
            self._since = (self._since[0] + updates, self._since[1] + seconds)
            self._check(*seen[:2])
            self._current = _mean(_ratio(*seen[2:])[self._diverged == 0])
            self._display.moved(self.update, self._speed(*self._since), self._current)

    def _chunk(self, pace: float, left: int) -> int:
        """How many updates to run at once, of ``left``, when one takes ``pace`` seconds (0: not known yet)."""
        if jax.process_count() > 1:
            return left  # the processes must agree, and their clocks do not
        return min(left, max(1, int(_CHUNK_SECONDS / pace))) if pace else 1

    def _check(self, diverged: np.ndarray, faulty: np.ndarray) -> None:
        """Report seeds that diverged since the last look; raise RunError when the run cannot go on."""
        for seed, update in zip(self._plan.seeds, faulty, strict=True):
            if update:
                raise self._fault(seed, f"update {update}")
        for seed, update, before in zip(self._plan.seeds, diverged, self._diverged, strict=True):
            if update and not before:
                self._display.say(f"seed {seed} diverged at update {update}: a number that it learned is not finite")
        self._diverged = np.asarray(diverged, np.int32)
        if self._diverged.all():
            raise RunError(
                f"all {len(self._plan.seeds)} seeds have diverged, the last at update {self._diverged.max()}; allowed "
                "are settings that keep learned numbers finite, such as a smaller lr"
            )

    def _evaluate(self) -> None:
        """Play episodes with every seed's policy, write a row for each, and save."""
        played = parallel.to_host(self._programs.evaluate(self._states.learner, self._seeds, np.int32(self.update)))
        means, speed = parallel.to_host((self._tally.total, self._tally.count)), self._speed(*self._since)
        values = self._evaluation(played)
        if self._limited:
            self._violations += means[0]["violation_share"]
            self._updates_with_cost += means[1]["violation_share"].max((1, 2))
        for i, seed in enumerate(self._plan.seeds):
            well = self._diverged[i] == 0
            if well and not all(np.isfinite(values[x][i]).all() for x in ("eval_return", "eval_cost") if x in values):
                raise self._fault(seed, f"the evaluation after update {self.update}")
            row = {"elapsed_seconds": self._elapsed(), "steps_per_second": speed, "finite": float(well)}
            row |= {name: value[i] if well else np.full_like(value[i], np.nan) for name, value in values.items()}
            if self.update:
                row |= {name: _ratio(total[i], means[1][name][i]) for name, total in means[0].items()}
            row |= self._broken(i, row.pop("violation_share", None))
            lost = means[0]["broken_episodes"][i] if "broken_episodes" in means[0] else 0
            if lost > 0:
                self._display.say(f"seed {seed}: {lost:g} episodes ended because the world's numbers were not finite")
            self._kept.write(self.update, seed, metrics.flatten(row))
        self._kept.flush()
        self._save()
        self._display.evaluated(self.update, speed, self._current, _mean(values["eval_return"][self._diverged == 0]))
        self._renew_tally()

    def _evaluation(self, played: Any) -> dict[str, np.ndarray]:
        """Means over episodes, ``[seeds, ...]``."""
        values = {"eval_return": self._spec.team_return(played.returns), "eval_episode_length": played.lengths}
        if self._spec.num_costs:
            values["eval_cost"] = played.costs
        if self._spec.win_meaning:
            values["eval_win_rate"] = played.won
        found = {name: np.asarray(value, float).mean(1) for name, value in values.items()}
        return found | ({"eval_kept": costs.kept(played.costs, self._limits)} if self._limited else {})

    def _broken(self, seed: int, share: Any) -> dict[str, np.ndarray]:
        """What a seed's row says of the limits that its updates broke; ``share`` of those since the last row."""
        if not self._limited:
            return {}
        found = {"violations": self._violations[seed]} | ({} if share is None else {"violation_share": share})
        by_limit = {name: costs.where_limited(value, self._limits) for name, value in found.items()}
        return by_limit | {"updates_with_cost": self._updates_with_cost[seed]}

    def _save(self) -> None:
        if self._checkpoints is not None:
            meta = {
                "plan": self._plan.to_dict(),
                "diverged": self._diverged,
                "environment": self._environment,
                "timings": self._timings()._asdict(),
                "rows": self._kept.mark(),
            }
            checkpoint.save(self._checkpoints, self.update, self._states, meta, self._keep)

    def _elapsed(self) -> float:
        return time.perf_counter() - self._clock

    def _speed(self, updates: int, seconds: float) -> float:
        """Environment steps per second of all seeds together."""
        return updates * self._plan.batch * len(self._plan.seeds) / seconds if seconds else np.nan

    def _timings(self) -> Timings:
        return Timings(self._compile_seconds, self._trained, self._elapsed(), self._speed(self.update, self._trained))

    def _result(self) -> Result:
        folder = self._kept.folder
        return from_rows(
            self._plan, self._world, self._kept.rows, self._random, self._timings(),
            None if folder is None else folder.path, lambda: self._states,
        )  # fmt: skip


def finished(
    plan: Plan,
    world: Environment,
    folder: runfolder.RunFolder,
    display: Display,
    update: int,
    mark: writers.Mark | None,
) -> Result:
    """The result of a run that needs no more training; its rows are restored and its picture drawn where a kill or
    something else took them.

    Args:
        plan, world, folder: of the run.
        display: shows the result.
        update, mark: of the last checkpoint, and what it remembers of the rows.
    """
    if parallel.is_writer():
        if mark is not None and (complaint := record.restore_rows(plan, folder, update, mark)):
            warnings.warn(complaint, runfolder.RunFolderWarning, stacklevel=2)
        record.draw(plan, world.spec, folder, runfolder.load(folder.path).rows)
    result = load_run(folder.path, None if isinstance(plan.env_args, dict) else world)
    display.say(result.table())
    return result


def _ratio(total: Any, count: Any) -> np.ndarray:
    """Their quotient, NaN where nothing was counted."""
    total, count = np.asarray(total, float), np.asarray(count)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _mean(x: np.ndarray) -> float:
    """Mean over the entries that are not NaN."""
    return float(np.nanmean(x)) if np.isfinite(x).any() else float("nan")
