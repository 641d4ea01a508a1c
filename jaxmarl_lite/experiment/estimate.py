"""Estimates the memory, steps, files and compile time of a run, without training it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from rich.table import Table

from jaxmarl_lite import rollout
from jaxmarl_lite.experiment import compilation, memory
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.experiment.memory import ProgramMemory, in_words
from jaxmarl_lite.report import tables
from jaxmarl_lite.train import make_train
from jaxmarl_lite.types import Array, Environment, Observation, PyTree
from jaxmarl_lite.validation import unknown_name


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a run will need, returned by `estimate`.

    Attributes:
        plan: plan of the run.
        programs: name of a compiled program -> its memory on one device.
        peak_bytes: the most bytes of one device that the run needs at one time.
        device_bytes: memory of the device; None where it is not known.
        device_kind: the device.
        rollout_bytes: bytes of the rollout of one seed, which training keeps for one update.
        checkpoint_bytes: bytes of the states of all seeds, the most that a checkpoint takes.
        compile_seconds: seconds in which the programs were compiled, or found in the cache.
    """

    plan: RunConfig
    programs: dict[str, ProgramMemory]
    peak_bytes: int
    device_bytes: int | None
    device_kind: str
    rollout_bytes: int
    checkpoint_bytes: int
    compile_seconds: float

    @property
    def fits(self) -> bool | None:
        """Whether the device has the memory; None where it is not known."""
        return None if self.device_bytes is None else self.peak_bytes <= self.device_bytes

    def rows(self) -> list[tuple[str, str]]:
        """Returns what the run needs as pairs of texts: what, and how much."""
        plan = self.plan
        seeds, evaluations = len(plan.seeds), len(plan.evaluation_updates)
        train = self.programs["train_chunk"]
        per_step = self.rollout_bytes / (plan.num_envs * plan.num_steps)
        size = share = ""
        if self.device_bytes is not None:
            size = f", {in_words(self.device_bytes)}"
            share = f", {self.peak_bytes / self.device_bytes:.1%} of the device's"
        return [
            ("device", self.device_kind + size),
            ("memory at most", in_words(self.peak_bytes) + share),
            ("- training: states", in_words(train.arguments)),
            ("- training: temporaries", in_words(train.temporaries)),
            (
                "- rollout of a seed",
                f"{in_words(self.rollout_bytes)}: {plan.num_steps} steps x {plan.num_envs} "
                f"environments x {in_words(per_step)}",
            ),
            ("- evaluation: temporaries", in_words(self.programs["evaluate"].temporaries)),
            ("seeds", f"{seeds}, of which {compilation.seeds_at_once(plan)} train side by side"),
            (
                "updates of a seed",
                f"{plan.num_updates:,} of {plan.batch_steps:,} environment steps",
            ),
            (
                "evaluations",
                f"{evaluations} of {plan.eval_episodes} episodes, each with a checkpoint",
            ),
            ("a checkpoint, not compressed", in_words(self.checkpoint_bytes)),
            ("rows of metrics.jsonl", f"{seeds * evaluations:,}"),
            ("compiling took", f"{self.compile_seconds:.1f} s"),
        ]

    def table(self) -> Table:
        """Returns what the run needs as a table, which a notebook shows."""
        title = f"{self.plan.algorithm} on {self.plan.env}: nothing was trained"
        return tables.make_table(("what", "how much"), self.rows(), title)

    def summary(self) -> str:
        """Returns `table` as text."""
        return tables.to_text(self.table())

    def _repr_html_(self) -> str:
        """Returns `table` as HTML, which notebooks ask for by this name."""
        return tables.to_html(self.table())


def estimate(
    algorithm: Any, env: str | Environment, *, config: Any = None, **settings: Any
) -> Estimate:
    """Compiles the programs of a run for the present device and estimates its needs.

    Nothing is trained or written. The programs stay in the cache: a run of the same settings that
    follows in this process compiles nothing.

    Args:
        algorithm: as for `run`.
        env: as for `run`.
        config: as for `run`.
        **settings: arguments of `run` that its numbers depend on, such as ``num_envs``, ``seeds``
            or ``networks``.

    Returns:
        The `Estimate`.

    Raises:
        ValueError: a setting is invalid.

    Example:
        >>> import jaxmarl_lite as jml
        >>> needed = jml.estimate(
        ...     "ippo", "toy/counter", config={"hidden_sizes": (8,)}, seeds=2, total_steps=64,
        ...     num_envs=4, num_steps=8, eval_episodes=4,
        ... )
        >>> needed.plan.num_updates, needed.peak_bytes < 10_000_000
        (2, True)
    """
    for name in settings:
        if name not in experiment_config.RUN_ARGUMENTS:
            raise unknown_name("argument", name, sorted(experiment_config.RUN_ARGUMENTS))
    plan, environment = experiment_config.make_run_config(algorithm, env, config=config, **settings)
    return of_plan(plan, environment)


def of_plan(plan: RunConfig, env: Environment) -> Estimate:
    """Returns the `Estimate` of a plan.

    Args:
        plan: the plan.
        env: its environment.
    """
    compiled, seconds = compilation.compile_run(plan, env)
    programs = memory.of_run(compiled)
    return Estimate(
        plan,
        programs,
        memory.peak(programs),
        memory.device_bytes(),
        jax.devices()[0].device_kind,
        _bytes(_rollout_shapes(plan, env)),
        _bytes(compiled.states),
        seconds,
    )


def _rollout_shapes(plan: RunConfig, env: Environment) -> PyTree:
    """Returns shapes and types of the rollout of one seed."""
    algorithm = compilation.algorithm_of(plan, env)
    init, _ = make_train(algorithm, env, plan.num_envs, plan.num_steps)

    def collect(key: Array) -> PyTree:
        state = init(key)

        def act(key: Array, obs: Observation, hidden_state: PyTree) -> tuple[Array, Array, PyTree]:
            return algorithm.act(state.learner_state, key, obs, hidden_state)

        return rollout.rollout(env, act, state.rollout_state, key, plan.num_steps)[1]

    return jax.eval_shape(collect, jax.random.key(0))


def _bytes(shapes: PyTree) -> int:
    """Returns the bytes of all arrays of a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def arguments_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those arguments of `run` that `estimate` takes.

    Args:
        settings: arguments of `run` by name.
    """
    known = {*experiment_config.RUN_ARGUMENTS, "config"}
    return {name: value for name, value in settings.items() if name in known}
