"""The compiled programs of a run. They are kept: a second run that differs in floats or seeds
compiles nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite import keys, rollout, sharding
from jaxmarl_lite.algorithms import base_config, registry
from jaxmarl_lite.algorithms.random_policy import random_policy
from jaxmarl_lite.evaluate import Evaluation, make_evaluate
from jaxmarl_lite.experiment import constraint_stats
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.experiment.fingerprint import fingerprint
from jaxmarl_lite.ops import tree_math
from jaxmarl_lite.train import Train, make_train
from jaxmarl_lite.types import Algorithm, Array, Environment, PyTree, TrainState

NAN_WITHOUT_EPISODES = ("return", "episode_length", "cost", "win_rate")
"""Metrics that are NaN where no episode ended; in all others a NaN is a fault."""

_RUN_ONCE_OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""For programs that take longer to compile than to run."""


class MetricAccumulator(NamedTuple):
    """What the host is told about one seed; the sums are over the updates since it last began a new
    one.
    """

    total: dict[str, Array]  # sums of the entries that are not NaN
    count: dict[str, Array]  # how many those are
    diverged: (
        Array  # [] int: the first update that left a learned number or a metric not finite; 0: none
    )
    env_fault_update: Array  # [] int: the first update in which a finite policy met numbers that no learner can use; 0: none
    env_faults: Array  # [] int: which numbers these were, see `rollout.env_faults`
    limits: Array  # [N, K]: what the costs are measured against; data, so that other limits compile nothing


@dataclasses.dataclass(frozen=True)
class CompiledRun:
    """Functions of all seeds at once, compiled for their sizes; every leaf leads with
    ``[seeds]``.
    """

    init: Callable[[Any, Any], TrainState]
    """``(seeds, config) -> states``."""
    train_chunk: Callable[
        [TrainState, MetricAccumulator, Any], tuple[TrainState, MetricAccumulator]
    ]
    """``(states, tally, updates) -> (states, tally)``; any number of updates, the given states are
    used up."""
    evaluate: Callable[[PyTree, Any, Any], Evaluation]
    """``(learners, seeds, update) -> episodes``; the key of a seed's episodes is made of seed and
    update."""
    random: Callable[[Any], Evaluation]
    """``seeds -> episodes`` of the uniformly random policy."""
    states: TrainState
    """Shapes, dtypes and places of the states, for restoring them."""
    empty: MetricAccumulator
    """A tally of nothing, as numpy arrays."""


@dataclasses.dataclass(frozen=True)
class _ProgramKey:
    """What decides a program: everything of a plan but its floats, the values of its seeds and its
    length.
    """

    algorithm: str
    config: Any
    env: _ByContent
    num_envs: int
    num_steps: int
    stagger_episodes: bool
    eval_episodes: int
    greedy: bool
    seeds: int
    seeds_in_parallel: int
    devices: int | None
    shard_over: Any
    precision: str


class _ByContent:
    """An environment as it is now: equal to itself, or to one that says so, while nothing in it has
    changed.
    """

    def __init__(self, env: Environment):
        self.env, self.fingerprint = env, fingerprint(env)

    def __hash__(self) -> int:
        return hash(self.fingerprint.content)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _ByContent):
            return False
        return self.fingerprint.same(other.fingerprint) and (
            self.env is other.env or _equal(self.env, other.env)
        )


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # such as dataclasses that hold arrays
        return False


def compile_run(plan: RunConfig, env: Environment) -> tuple[CompiledRun, float]:
    """The programs of a plan, and the seconds that compiling them took now."""
    began = time.perf_counter()
    found = _compile(_program_key(plan, env))
    return found, time.perf_counter() - began


def abstract_states(plan: RunConfig, env: Environment) -> TrainState:
    """Shapes, dtypes and places of the states of all seeds; nothing is compiled."""
    form = _program_key(plan, env)
    states = jax.eval_shape(_functions(form).init, *_arguments(form.seeds, form.config))
    return _with_shardings(
        states, sharding.make_mesh(form.devices, form.shard_over), form.shard_over
    )


def algorithm_of(plan: RunConfig, env: Environment) -> Algorithm:
    """The plan's algorithm, with its floats at their defaults: the real ones are in the learner."""
    return registry.make_algorithm(plan.algorithm, env.spec, _static(plan.config))


def _program_key(plan: RunConfig, env: Environment) -> _ProgramKey:
    at_once = plan.seeds_in_parallel
    if at_once is None:
        # side by side, a rollout resets every world at every step: the `cond` that avoids it
        # becomes a `select`
        at_once = 1 if jax.default_backend() == "cpu" else len(plan.seeds)
    if plan.shard_over == "seeds":
        at_once = len(plan.seeds)
    return _ProgramKey(
        algorithm=plan.algorithm,
        config=_static(plan.config),
        env=_ByContent(env),
        num_envs=plan.num_envs,
        num_steps=plan.num_steps,
        stagger_episodes=plan.stagger_episodes,
        eval_episodes=plan.eval_episodes,
        greedy=plan.greedy,
        seeds=len(plan.seeds),
        seeds_in_parallel=min(at_once, len(plan.seeds)),
        devices=plan.devices,
        shard_over=plan.shard_over,
        precision=str(jnp.result_type(float)),
    )


def _static(config: Any) -> Any:
    """The config with its floats at their defaults, and the numbers inside its other fields
    (limits) at 0.
    """
    default = type(config)()
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(default, path[0].name) if len(path) == 1 else 0.0, config
    )


def _arguments(seeds: int, config: Any) -> tuple[Any, Any]:
    """Stand-ins for the arguments of `init`."""
    return jax.ShapeDtypeStruct((seeds,), jnp.uint32), jax.eval_shape(base_config.as_arrays, config)


def _over_seeds(function: Callable[..., Any], at_once: int, seeds: int) -> Callable[..., Any]:
    """``function`` of one seed as a function of all, ``at_once`` of them side by side."""
    if at_once >= seeds > 1:
        return jax.vmap(function)
    if at_once == 1:
        return lambda *args: jax.lax.map(lambda one: function(*one), args)
    return lambda *args: _in_groups(jax.vmap(function), args, at_once, seeds)


def _in_groups(function: Callable[..., Any], args: Any, at_once: int, seeds: int) -> Any:
    """Groups of ``at_once`` seeds one after the other, then the rest; `lax.map` with a batch size,
    but for empty arrays, which it cannot take (there are some wherever nothing is constrained).
    """
    groups = seeds // at_once
    whole = groups * at_once
    first = jax.tree.map(lambda x: x[:whole].reshape(groups, at_once, *x.shape[1:]), args)
    parts = jax.lax.map(lambda group: function(*group), first)
    parts = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), parts)
    if whole == seeds:
        return parts
    rest = function(*jax.tree.map(lambda x: x[whole:], args))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), parts, rest)


class _Functions(NamedTuple):
    """Functions of all seeds, not compiled."""

    init: Callable[..., Any]
    train_chunk: Callable[..., Any]
    evaluate: Callable[..., Any]
    random: Callable[..., Any]
    info: Callable[..., Any]
    """The metrics of one update of one seed."""


@functools.lru_cache(maxsize=16)
def _functions(form: _ProgramKey) -> _Functions:
    """What the form describes; the same objects each time, so that nothing is traced twice."""
    env = form.env.env
    algorithm = registry.make_algorithm(form.algorithm, env.spec, form.config)
    init, train = make_train(algorithm, env, form.num_envs, form.num_steps, form.stagger_episodes)
    play = make_evaluate(algorithm, env, form.eval_episodes, form.greedy)

    def over(function: Callable[..., Any]) -> Callable[..., Any]:
        return _over_seeds(function, form.seeds_in_parallel, form.seeds)

    def begin(seeds: Array, config: Any) -> TrainState:
        states = over(lambda seed: init(jax.random.key(seed), config))(seeds)
        # weak types would not survive the disk, and a program is compiled for one kind of argument
        return jax.tree.map(
            lambda x: x if _is_key(x) else jax.lax.convert_element_type(x, x.dtype), states
        )

    def advance(
        states: TrainState, tally: MetricAccumulator, updates: Array
    ) -> tuple[TrainState, MetricAccumulator]:
        return over(lambda state, tally: _train_chunk(train, state, tally, updates))(states, tally)

    def evaluate(learners: PyTree, seeds: Array, update: Array) -> Evaluation:
        def one(learner: PyTree, seed: Array) -> Evaluation:
            key = keys.for_purpose(jax.random.key(seed), keys.EVALUATION)
            return play(learner, jax.random.fold_in(key, update))

        return over(one)(learners, seeds)

    play_random = make_evaluate(random_policy(env.spec), env, form.eval_episodes)

    def random(seeds: Array) -> Evaluation:
        def one(seed: Array) -> Evaluation:
            return play_random((), keys.for_purpose(jax.random.key(seed), keys.RANDOM_POLICY))

        return jax.lax.map(one, seeds)

    return _Functions(jax.jit(begin), advance, evaluate, random, lambda state: train(state, 1)[1])


def _train_chunk(
    train: Train, state: TrainState, tally: MetricAccumulator, updates: Array
) -> tuple[TrainState, MetricAccumulator]:
    """Some updates of one seed, noted in its tally."""

    def step(
        _: Array, carry: tuple[TrainState, MetricAccumulator]
    ) -> tuple[TrainState, MetricAccumulator]:
        state, info = train(carry[0], 1)
        return state, _accumulate(carry[1], state, {name: value[0] for name, value in info.items()})

    # a bound known only when it runs: one program for every number of updates, and the same numbers
    return jax.lax.fori_loop(0, updates, step, (state, tally))


def _accumulate(
    tally: MetricAccumulator, state: TrainState, info: Mapping[str, Array]
) -> MetricAccumulator:
    """The tally with one more update of one seed."""
    well = tally.diverged == 0
    learned = (
        constraint_stats.learned_leaves(state.learner_state),
        {k: v for k, v in info.items() if k not in NAN_WITHOUT_EPISODES},
    )
    sound = tree_math.all_finite(learned)
    # a mask without a legal action is a fault where it broke what is learned: some algorithms never
    # look at it
    harmless = jnp.where(sound, 1 << rollout.ENV_FIELDS.index("action_mask"), 0)
    faults = info["env_faults"] & ~harmless
    fault = well & (faults != 0) & (tally.env_fault_update == 0)
    values = {name: value.astype(float) for name, value in info.items() if name != "env_faults"}
    if "cost" in values:
        values["violation_rate"] = constraint_stats.exceeds_limit(values["cost"], tally.limits)
    return MetricAccumulator(
        {
            name: tally.total[name] + jnp.where(jnp.isnan(value), 0.0, value)
            for name, value in values.items()
        },
        {name: tally.count[name] + ~jnp.isnan(value) for name, value in values.items()},
        jnp.where(well & ~sound, state.num_updates, tally.diverged),
        jnp.where(fault, state.num_updates, tally.env_fault_update),
        jnp.where(fault, faults, tally.env_faults),
        tally.limits,
    )


def _empty_accumulator(form: _ProgramKey, states: TrainState) -> MetricAccumulator:
    """A tally of nothing, without limits."""
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), states)
    info = jax.eval_shape(_functions(form).info, state)
    shapes = {
        name: (form.seeds, *value.shape[1:]) for name, value in info.items() if name != "env_faults"
    }
    if "cost" in shapes:
        shapes["violation_rate"] = shapes["cost"]
    ended = state.rollout_state.episode_stats.costs
    zeros: Any = {name: np.zeros(shape, jnp.result_type(float)) for name, shape in shapes.items()}
    none: Any = {name: np.zeros(shape, np.int32) for name, shape in shapes.items()}
    never: Any = np.zeros(form.seeds, np.int32)
    unlimited: Any = np.full((form.seeds, *ended.shape[1:]), np.inf, jnp.result_type(float))
    return MetricAccumulator(zeros, none, never, never, never, unlimited)


@functools.lru_cache(maxsize=16)
def _compile(form: _ProgramKey) -> CompiledRun:
    """Trace, lower and compile everything, one compiling while the next is traced, the longest
    first.
    """
    of = _functions(form)
    mesh = sharding.make_mesh(form.devices, form.shard_over)
    seeds, config = _arguments(form.seeds, form.config)
    states = _with_shardings(jax.eval_shape(of.init, seeds, config), mesh, form.shard_over)
    place = None if mesh is None else jax.tree.map(lambda x: x.sharding, states)
    whole = None if mesh is None else sharding.replicated(mesh)
    blank, number = _empty_accumulator(form, states), jax.ShapeDtypeStruct((), jnp.int32)
    parts = (place, whole, whole)
    learners = None if place is None else place.learner_state
    with ThreadPoolExecutor(4) as pool:

        def compiled(
            function: Any, arguments: Any, given: Any, out: Any, options: Any = None, **others: Any
        ) -> Any:
            lowered = jax.jit(function, in_shardings=given, out_shardings=out, **others).lower(
                *arguments
            )
            return pool.submit(lowered.compile, options)

        jobs = (
            compiled(of.train_chunk, (states, blank, number), parts, parts[:2], donate_argnums=0),
            compiled(of.init, (seeds, config), whole, place, _RUN_ONCE_OPTIONS),
            compiled(
                of.evaluate, (states.learner_state, seeds, number), (learners, whole, whole), whole
            ),
            compiled(of.random, (seeds,), whole, whole, _RUN_ONCE_OPTIONS),
        )
        advance, init, evaluate, random = (job.result() for job in jobs)
    return CompiledRun(init, advance, evaluate, random, states, blank)


def _with_shardings(states: TrainState, mesh: Any, layout: Any) -> TrainState:
    """Abstract states with the places that their leaves are to have."""
    if mesh is None:
        return states
    places = sharding.state_shardings(states, mesh, layout)
    return jax.tree.map(
        lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), states, places
    )


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
