"""Compiled programs of a run: initialization, training and evaluation.

Programs are cached: a second run that differs only in floats, values of seeds or length compiles
nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from jaxmarl_lite import keys, platforms, rollout, sharding
from jaxmarl_lite.algorithms import base_config, cost_limits
from jaxmarl_lite.algorithms.random_policy import random_policy
from jaxmarl_lite.evaluate import Evaluation, make_evaluate
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.experiment.fingerprint import fingerprint
from jaxmarl_lite.ops import tree_math
from jaxmarl_lite.train import Train, make_train
from jaxmarl_lite.types import (
    Algorithm,
    Array,
    Environment,
    EnvSpec,
    Observation,
    PyTree,
    TrainState,
)

NAN_WITHOUT_EPISODES = ("episode_return", "episode_length", "episode_cost", "win_rate")
"""Metrics that are NaN where no episode ended; in all others a NaN is a fault."""

PROGRAMS = ("train_chunk", "evaluate", "init")
"""Names of the programs of a run, the one that takes longest to compile first."""

_RUN_ONCE_OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""For programs that take longer to compile than to run."""

_QUICK_LOOPS = {"xla_cpu_use_fusion_emitters": False}
"""Compiles in less time, to slower code."""

_OPTIONS: dict[str, dict[str, dict[str, int | bool]]] = {
    # LLVM's levels above the first take longer and made no update faster that was measured
    "cpu": {
        "train_chunk": {"xla_backend_optimization_level": 1},
        "evaluate": {"xla_backend_optimization_level": 1, **_QUICK_LOOPS},
        "init": _RUN_ONCE_OPTIONS | _QUICK_LOOPS,
    },
    "gpu": {"init": _RUN_ONCE_OPTIONS},
    "tpu": {},
}
"""Platform -> program -> options of its compiler."""

_UNKNOWN_OPTION = re.compile(r"No such compile option: '(\w+)'")


class MetricAccumulator(NamedTuple):
    """Metrics and faults of one seed, accumulated on the device until the host reads them.

    The sums cover the updates since the host last reset them. In a compiled program every leaf
    leads with ``[seeds]``. All metrics are one vector, so that an update adds to one array; see
    `split_metrics`.

    Attributes:
        total: ``[F]`` sums of the entries of all metrics that are not NaN.
        count: ``[F]`` int, number of those entries.
        diverged: ``[]`` int, the first update that left a learned number or a metric not finite;
            0: none.
        env_fault_update: ``[]`` int, the first update in which a finite policy met numbers of the
            environment that no learner can use; 0: none.
        env_faults: ``[]`` int, bits that say which numbers these were, see `rollout.env_faults`.
        limits: ``[N, K]`` limits of the costs, in cost per episode. They are data, so that other
            limits compile nothing.
    """

    total: Array
    count: Array
    diverged: Array
    env_fault_update: Array
    env_faults: Array
    limits: Array


@dataclasses.dataclass(frozen=True)
class CompiledRun:
    """Compiled functions of all seeds at once; every leaf leads with ``[seeds]``."""

    init: Callable[[ArrayLike, PyTree], TrainState]
    """``(seeds, config) -> states``."""
    train_chunk: Callable[
        [TrainState, MetricAccumulator, ArrayLike], tuple[TrainState, MetricAccumulator]
    ]
    """``(states, accumulator, updates) -> (states, accumulator)`` for any number of updates; the
    buffers of the states passed in are donated."""
    evaluate: Callable[[PyTree, ArrayLike, ArrayLike, ArrayLike], Evaluation]
    """``(learners, seeds, update, is_random) -> episodes`` of the learned policies, or of the
    uniformly random one; the random key of a seed's episodes derives from the seed and the update.
    """
    states: TrainState
    """Shapes, dtypes and shardings of the states, for restoring them."""
    empty: MetricAccumulator
    """An empty accumulator, as NumPy arrays."""
    accumulator_sharding: NamedSharding | None
    """Sharding of the accumulator that `train_chunk` takes, see `sharding.place`; None: one device.
    """
    metric_shapes: dict[str, tuple[int, ...]]
    """Name -> shape of each accumulated metric of one seed, in the order of the vectors."""


def split_metrics(
    vectors: np.ndarray, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Returns the metrics of a vector of the accumulator by name.

    Args:
        vectors: ``[..., F]``.
        shapes: name -> shape of each metric, as `CompiledRun.metric_shapes`.

    Returns:
        Name -> ``[..., *shape]``.
    """
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = np.split(np.asarray(vectors), ends[:-1], -1)
    return {
        name: part.reshape(*part.shape[:-1], *shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def join_metrics(
    values: Mapping[str, ArrayLike], shapes: Mapping[str, tuple[int, ...]]
) -> np.ndarray:
    """Returns the inverse of `split_metrics`, for metrics of all seeds.

    Args:
        values: name -> ``[seeds, *shape]``.
        shapes: name -> shape of each metric.

    Returns:
        ``[seeds, F]``.

    Raises:
        KeyError: a metric is missing.
    """
    parts = [np.asarray(values[name]) for name in shapes]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], -1)


class _TracedOnce:
    """An environment whose functions are traced once, however many programs call them."""

    def __init__(self, env: Environment):
        self._env = env
        # functions of their own: JAX would take the trace of a method from before its environment
        # was changed
        self.reset = jax.jit(lambda key: env.reset(key))
        self.step = jax.jit(lambda state, action: env.step(state, action))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)


class _ByContent:
    """An environment that is hashed and compared by its content at one moment.

    Two are equal if the environments are the same object, or compare equal, and nothing in them has
    changed since their fingerprints were taken.
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


def _equal(a: object, b: object) -> bool:
    """Returns whether two objects compare equal; False where they cannot be compared."""
    try:
        return bool(a == b)
    except Exception:  # such as dataclasses that hold arrays
        return False


class _ProgramKey(NamedTuple):
    """Cache key of a run's programs.

    Attributes:
        plan: the plan with everything that no program depends on at one value: floats, the values
            of the seeds, the length, the environment's name.
        env: the environment.
        precision: name of the type of floats.
        platform: platform that the programs are traced for.
    """

    plan: RunConfig
    env: _ByContent
    precision: str
    platform: str


def compile_run(plan: RunConfig, env: Environment) -> tuple[CompiledRun, float]:
    """Returns the compiled programs of a plan, from the cache where possible.

    Args:
        plan: plan of the run.
        env: the environment.

    Returns:
        The programs, and the seconds that this call took: tracing and compiling, or the look-up.
    """
    start_time = time.perf_counter()
    compiled = _compile(_program_key(plan, env))
    return compiled, time.perf_counter() - start_time


def abstract_states(plan: RunConfig, env: Environment) -> TrainState:
    """Returns shapes, dtypes and shardings of the states of all seeds, without compiling anything.

    Args:
        plan: plan of the run.
        env: the environment.

    Returns:
        A `TrainState` of `jax.ShapeDtypeStruct`; every leaf leads with ``[seeds]``.
    """
    mesh = sharding.make_mesh(plan.devices, plan.shard_over)
    return _abstract_states(_program_key(plan, env), mesh)


def metric_shapes(plan: RunConfig, env: Environment) -> dict[str, tuple[int, ...]]:
    """Returns the metrics that training reports, without compiling anything.

    Args:
        plan: plan of the run.
        env: the environment.

    Returns:
        Name -> shape of the metric of one seed.
    """
    key = _program_key(plan, env)
    return _metric_shapes(key, jax.eval_shape(_functions(key).init, *_arguments(key.plan)))


def algorithm_of(plan: RunConfig, env: Environment) -> Algorithm:
    """Returns the plan's algorithm, with the floats of its config at their defaults.

    The learner's state carries the actual floats.

    Args:
        plan: plan of the run.
        env: the environment.
    """
    return plan.make_algorithm(env.spec, _static(plan.config))


def _program_key(plan: RunConfig, env: Environment) -> _ProgramKey:
    """Returns the cache key of a plan, with the number of parallel seeds resolved."""
    static_plan = dataclasses.replace(
        plan,
        env="",
        env_args=None,
        init_from=None,
        config=_static(plan.config),
        seeds=tuple(range(len(plan.seeds))),
        lanes=plan.lanes and (),
        total_steps=1,
        num_evaluations=1,
        seeds_in_parallel=seeds_at_once(plan),
    )
    return _ProgramKey(
        static_plan, _ByContent(env), str(jnp.result_type(float)), platforms.current()
    )


def seeds_at_once(plan: RunConfig) -> int:
    """Returns how many seeds of a plan train side by side.

    Args:
        plan: the plan.
    """
    at_once = plan.seeds_in_parallel
    if at_once is None:
        # With seeds side by side, a rollout resets every environment at every step: under `vmap`
        # the `cond` that avoids the reset becomes a `select`.
        at_once = 1 if platforms.current() == "cpu" else len(plan.seeds)
    return len(plan.seeds) if plan.shard_over == "seeds" else min(at_once, len(plan.seeds))


def _static(config: Any) -> Any:
    """Returns the config with its floats at their defaults and the numbers in other fields at 0.

    The other fields that hold numbers are limits on costs.
    """
    default = type(config)()
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(default, path[0].name) if len(path) == 1 else 0.0, config
    )


def _arguments(plan: RunConfig) -> tuple[PyTree, PyTree]:
    """Returns shapes and dtypes of the arguments of `init`: seeds and config."""
    seeds = jax.ShapeDtypeStruct((len(plan.seeds),), jnp.uint32)
    config = jax.eval_shape(base_config.as_arrays, plan.config)
    if plan.lanes is not None:  # a config for each of them
        config = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((*seeds.shape, *x.shape), x.dtype), config
        )
    return seeds, config


def _map_over_seeds(function: Callable[..., PyTree], at_once: int) -> Callable[..., PyTree]:
    """Returns a function of one seed as a function of several, ``at_once`` of them side by side."""

    def of_seeds(*args: PyTree) -> PyTree:
        seeds = len(jax.tree.leaves(args)[0])
        if at_once == 1 or seeds == 1:
            return jax.lax.map(lambda single: function(*single), args)
        if at_once >= seeds:
            return jax.vmap(function)(*args)
        return _in_groups(jax.vmap(function), args, at_once, seeds)

    return of_seeds


def _in_groups(function: Callable[..., PyTree], args: PyTree, at_once: int, seeds: int) -> PyTree:
    """Maps groups of ``at_once`` seeds one after the other, then the remaining seeds.

    This is `lax.map` with a batch size, except that it accepts empty arrays, which `lax.map` does
    not (there are some wherever nothing is constrained).
    """
    groups = seeds // at_once
    num_grouped = groups * at_once
    grouped = jax.tree.map(lambda x: x[:num_grouped].reshape(groups, at_once, *x.shape[1:]), args)
    results = jax.lax.map(lambda group: function(*group), grouped)
    results = jax.tree.map(lambda x: x.reshape(num_grouped, *x.shape[2:]), results)
    if num_grouped == seeds:
        return results
    remainder = function(*jax.tree.map(lambda x: x[num_grouped:], args))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), results, remainder)


class _Functions(NamedTuple):
    """Functions of all seeds, before compilation."""

    init: Callable[..., PyTree]
    train_chunk: Callable[..., PyTree]
    evaluate: Callable[..., PyTree]
    info: Callable[..., PyTree]
    """The metrics of one update of one seed."""


@functools.lru_cache(maxsize=16)
def _functions(key: _ProgramKey) -> _Functions:
    """Returns the functions of a cache key: the same objects each time, so that JAX traces once."""
    plan = key.plan
    env = cast(Environment, _TracedOnce(key.env.env))
    algorithm = plan.make_algorithm(env.spec, plan.config)
    init, train = make_train(algorithm, env, plan.num_envs, plan.num_steps, plan.stagger_episodes)
    train = jax.jit(train, static_argnums=1)
    play = make_evaluate(
        _with_random_policy(algorithm, env.spec), env, plan.eval_episodes, plan.greedy
    )

    def for_all_seeds(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
        assert plan.seeds_in_parallel is not None  # as in every key
        return _map_over_seeds(function, plan.seeds_in_parallel)

    def begin(seeds: Array, config: PyTree) -> TrainState:
        if plan.lanes is None:
            states = for_all_seeds(lambda seed: init(jax.random.key(seed), config))(seeds)
        else:
            states = for_all_seeds(lambda seed, config: init(jax.random.key(seed), config))(
                seeds, config
            )
        # A checkpoint does not keep weak types, and a program accepts only the types that it was
        # compiled for.
        return jax.tree.map(
            lambda x: x if _is_key(x) else jax.lax.convert_element_type(x, x.dtype), states
        )

    def advance(
        states: TrainState, accumulator: MetricAccumulator, updates: Array
    ) -> tuple[TrainState, MetricAccumulator]:
        return for_all_seeds(
            lambda state, accumulator: _train_chunk(train, state, accumulator, updates)
        )(states, accumulator)

    def evaluate(learners: PyTree, seeds: Array, update: Array, is_random: Array) -> Evaluation:
        def of_one_seed(learner: PyTree, seed: Array) -> Evaluation:
            seed_key = jax.random.key(seed)
            random_key = keys.for_purpose(seed_key, keys.RANDOM_POLICY)
            learned_key = jax.random.fold_in(keys.for_purpose(seed_key, keys.EVALUATION), update)
            return play((learner, is_random), jnp.where(is_random, random_key, learned_key))

        return for_all_seeds(of_one_seed)(learners, seeds)

    return _Functions(jax.jit(begin), advance, evaluate, lambda state: train(state, 1)[1])


def _with_random_policy(algorithm: Algorithm, spec: EnvSpec) -> Algorithm:
    """Returns an algorithm that acts by its policy or at random, so that one program plays both.

    Args:
        algorithm: the algorithm.
        spec: the environment's sizes and action bounds.

    Returns:
        The algorithm, whose ``act`` takes ``(learner_state, is_random)`` in place of the learner's
        state; where ``is_random`` (``[]`` bool) is true it acts as `random_policy`.
    """
    random = random_policy(spec)

    def act(
        learner: PyTree, key: Array, obs: Observation, hidden_state: PyTree, greedy: bool = False
    ) -> tuple[Array, Array, PyTree]:
        learner_state, is_random = learner
        learned = lambda: algorithm.act(learner_state, key, obs, hidden_state, greedy)  # noqa: E731
        form = jax.eval_shape(learned)

        def at_random() -> tuple[Array, Array, PyTree]:
            action, log_prob, _ = random.act((), key, obs, ())
            return action.astype(form[0].dtype), log_prob.astype(form[1].dtype), hidden_state

        return jax.lax.cond(is_random, at_random, learned)

    return algorithm._replace(act=act)


def _train_chunk(
    train: Train, state: TrainState, accumulator: MetricAccumulator, updates: Array
) -> tuple[TrainState, MetricAccumulator]:
    """Returns state and accumulator of one seed after ``updates`` more updates."""

    def step(
        _: Array, carry: tuple[TrainState, MetricAccumulator]
    ) -> tuple[TrainState, MetricAccumulator]:
        state, info = train(carry[0], 1)
        return state, _accumulate(carry[1], state, {name: value[0] for name, value in info.items()})

    # The bound is known only at run time: one program serves every number of updates, with the same
    # results.
    return jax.lax.fori_loop(0, updates, step, (state, accumulator))


def _accumulate(
    accumulator: MetricAccumulator, state: TrainState, info: Mapping[str, Array]
) -> MetricAccumulator:
    """Returns the accumulator of one seed after one more update."""
    healthy = accumulator.diverged == 0
    values = {name: value.astype(float) for name, value in info.items() if name != "env_faults"}
    if "episode_cost" in values:
        values["violation_rate"] = cost_limits.exceeds_limit(
            values["episode_cost"], accumulator.limits
        )
    vector = jnp.concatenate([values[name].reshape(-1) for name in sorted(values)])
    may_be_nan = np.repeat(
        [name in (*NAN_WITHOUT_EPISODES, "violation_rate") for name in sorted(values)],
        [values[name].size for name in sorted(values)],
    )
    is_finite = _is_finite(state.learner_state) & tree_math.all_finite(
        jnp.where(may_be_nan, 0.0, vector)
    )
    # A mask without a legal action counts as a fault only where it made learned numbers not finite:
    # some algorithms never read the mask.
    harmless = jnp.where(is_finite, 1 << rollout.ENV_FIELDS.index("action_mask"), 0)
    faults = info["env_faults"] & ~harmless
    fault = healthy & (faults != 0) & (accumulator.env_fault_update == 0)
    is_nan = jnp.isnan(vector)
    return MetricAccumulator(
        accumulator.total + jnp.where(is_nan, 0.0, vector),
        accumulator.count + ~is_nan,
        jnp.where(healthy & ~is_finite, state.num_updates, accumulator.diverged),
        jnp.where(fault, state.num_updates, accumulator.env_fault_update),
        jnp.where(fault, faults, accumulator.env_faults),
        accumulator.limits,
    )


def _is_finite(learner: PyTree) -> Array:
    """Returns whether all numbers that a learner of one seed has learned are finite."""
    hidden_states = [getattr(learner, name, ()) for name in sharding.PER_ENVIRONMENT]
    by_env: list[Array] = jax.tree.leaves(hidden_states)
    others = [
        x for x in cost_limits.learned_leaves(learner) if not any(x is other for other in by_env)
    ]
    # Environments may be spread over devices: joined with the rest, their arrays would be gathered.
    return functools.reduce(
        jnp.logical_and, [tree_math.all_finite(x) for x in by_env], tree_math.all_finite(others)
    )


def _metric_shapes(key: _ProgramKey, states: TrainState) -> dict[str, tuple[int, ...]]:
    """Returns name -> shape of each accumulated metric of one seed, in the order of the vectors."""
    info = jax.eval_shape(_functions(key).info, _of_one_seed(states))
    shapes = {name: value.shape[1:] for name, value in info.items() if name != "env_faults"}
    if "episode_cost" in shapes:
        shapes["violation_rate"] = shapes["episode_cost"]
    return dict(sorted(shapes.items()))


def _of_one_seed(states: TrainState) -> TrainState:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), states)


def _empty_accumulator(key: _ProgramKey, states: TrainState) -> MetricAccumulator:
    """Returns an accumulator of all seeds without updates and without limits."""
    num_seeds = len(key.plan.seeds)
    width = sum(math.prod(shape) for shape in _metric_shapes(key, states).values())
    costs = _of_one_seed(states).rollout_state.episode_stats.costs
    zeros: PyTree = np.zeros((num_seeds, width), jnp.result_type(float))
    counts: PyTree = np.zeros((num_seeds, width), np.int32)
    never: PyTree = np.zeros(num_seeds, np.int32)
    unlimited: PyTree = np.full((num_seeds, *costs.shape[1:]), np.inf, jnp.result_type(float))
    return MetricAccumulator(zeros, counts, never, never, never, unlimited)


@functools.lru_cache(maxsize=16)
def _compile(key: _ProgramKey) -> CompiledRun:
    """Traces, lowers and compiles the programs of a cache key.

    One program compiles while the next is traced; the one that takes longest comes first.
    """
    mesh = sharding.make_mesh(key.plan.devices, key.plan.shard_over)
    states = _abstract_states(key, mesh)
    with ThreadPoolExecutor(4) as pool:
        jobs = {
            program.name: pool.submit(program.compile) for program in _lowered(key, mesh, states)
        }
        programs: dict[str, Any] = {name: job.result() for name, job in jobs.items()}
    return CompiledRun(
        **programs,
        states=states,
        empty=_empty_accumulator(key, states),
        accumulator_sharding=_accumulator_sharding(key, mesh),
        metric_shapes=_metric_shapes(key, states),
    )


def compile_for(
    plan: RunConfig, env: Environment, devices: Sequence[Any], names: Sequence[str] = PROGRAMS
) -> Iterator[tuple[str, Any]]:
    """Compiles the programs of a plan for devices that need not be there.

    Args:
        plan: plan of the run; ``devices`` of the plan is not used.
        env: the environment.
        devices: JAX's devices, such as those of ``jax.experimental.topologies``.
        names: names of the programs to compile, as in `CompiledRun`.

    Yields:
        The name of a program, and what ``jax.stages.Lowered.compile`` returns for it.
    """
    with platforms.compile_for("tpu" if devices[0].platform == "tpu" else "gpu"):
        key = _program_key(plan, env)
        mesh = sharding.mesh_of(devices)
        states = _abstract_states(key, mesh)
        for program in _lowered(key, mesh, states, names):
            yield program.name, program.compile()


class _Program(NamedTuple):
    """A program that is traced and lowered, and that is to be compiled with some options."""

    name: str
    lowered: Any
    options: Mapping[str, int | bool]

    def compile(self) -> Any:
        """Compiles the program, without those options that this version of XLA does not have."""
        options = dict(self.options)
        while True:
            try:
                return self.lowered.compile(options)
            except jax.errors.JaxRuntimeError as error:
                unknown = _UNKNOWN_OPTION.search(str(error))
                if unknown is None or options.pop(unknown.group(1), None) is None:
                    raise


def _abstract_states(key: _ProgramKey, mesh: Mesh | None) -> TrainState:
    """Returns shapes, dtypes and shardings of the states of all seeds."""
    states = jax.eval_shape(_functions(key).init, *_arguments(key.plan))
    return _with_shardings(states, mesh, key.plan.shard_over)


def _lowered(
    key: _ProgramKey, mesh: Mesh | None, states: TrainState, names: Sequence[str] = PROGRAMS
) -> Iterator[_Program]:
    """Traces and lowers the programs of a cache key, one after the other."""
    functions = _functions(key)
    seeds, config = _arguments(key.plan)
    state_shardings = None if mesh is None else jax.tree.map(lambda x: x.sharding, states)
    learner_shardings = None if state_shardings is None else state_shardings.learner_state
    replicated = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    # left to the compiler, devices with different seeds would ask each other at every iteration of
    # a loop whether it has ended on all of them
    over_devices = functools.partial(sharding.map_over_seeds, mesh=mesh, layout=key.plan.shard_over)
    functions = functions._replace(
        train_chunk=over_devices(functions.train_chunk, shared=(2,)),
        evaluate=over_devices(functions.evaluate, shared=(2, 3)),
        init=over_devices(functions.init, shared=() if key.plan.lanes is not None else (1,)),
    )
    number = jax.ShapeDtypeStruct((), jnp.int32)

    def lower(
        name: str,
        arguments: PyTree,
        in_shardings: PyTree,
        out_shardings: PyTree,
        **options: Any,
    ) -> Iterator[_Program]:
        if name in names:
            jitted = jax.jit(
                getattr(functions, name),
                in_shardings=in_shardings,
                out_shardings=out_shardings,
                **options,
            )
            compiler_options = _OPTIONS[key.platform].get(name, {})
            yield _Program(name, jitted.lower(*arguments), compiler_options)

    chunk_shardings = (state_shardings, _accumulator_sharding(key, mesh), replicated)
    accumulator = jax.eval_shape(lambda: _empty_accumulator(key, states))
    yield from lower(
        "train_chunk",
        (states, accumulator, number),
        chunk_shardings,
        chunk_shardings[:2],
        donate_argnums=0,
    )
    yield from lower(
        "evaluate",
        (states.learner_state, seeds, number, jax.ShapeDtypeStruct((), jnp.bool_)),
        (learner_shardings, replicated, replicated, replicated),
        replicated,
    )
    yield from lower("init", (seeds, config), replicated, state_shardings)


def _accumulator_sharding(key: _ProgramKey, mesh: Mesh | None) -> NamedSharding | None:
    """Returns the sharding of the accumulator: along the seeds where these are spread."""
    if mesh is None:
        return None
    return NamedSharding(
        mesh, PartitionSpec(sharding.AXIS if key.plan.shard_over == "seeds" else None)
    )


def _with_shardings(
    states: TrainState, mesh: Mesh | None, layout: Literal["envs", "seeds"]
) -> TrainState:
    """Returns abstract states with the shardings of their leaves."""
    if mesh is None:
        return states
    shardings = sharding.state_shardings(states, mesh, layout)
    return jax.tree.map(
        lambda x, leaf_sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=leaf_sharding),
        states,
        shardings,
    )


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
