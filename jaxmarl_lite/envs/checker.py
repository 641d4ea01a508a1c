"""Checks that an object follows the environment protocol, and names the field that does not.

Every error says what the field is and what is expected.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Container, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxmarl_lite.envs import auto_reset
from jaxmarl_lite.types import Array, Environment, EnvSpec, Observation, PyTree, TimeStep
from jaxmarl_lite.validation import check_bool, check_key, check_number, one_line, show, to_python

LONGEST = 2000
"""Number of steps after which the check stops an episode that is still under way."""


def check_environment(env: Any, key: Array | None = None) -> EnvSpec:
    """Checks an environment by tracing its functions and by playing one random episode.

    Tracing ``reset`` and ``step`` checks shapes and dtypes without compiling; the episode, of
    random legal actions, checks values. It stops after 2000 steps if the environment's episodes
    are longer. If the episode seems to end in a reset, two more are played: an environment must not
    reset itself (`jaxmarl_lite.envs.auto_reset` says which resets cannot be detected).

    Args:
        env: any object with ``spec``, ``reset`` and ``step``; see
            ``jaxmarl_lite.types.Environment``.
        key: random key of the episode's reset; default ``jax.random.key(0)``.

    Returns:
        The environment's spec.

    Raises:
        ValueError: that names the field that is wrong and says what is expected.

    Example:
        >>> from jaxmarl_lite.envs import check_environment, make
        >>> env = make("toy/memory", delay=2)
        >>> check_environment(env).max_episode_steps
        3
        >>> class OneReward:
        ...     spec, reset = env.spec, env.reset
        ...
        ...     def step(self, state, action):
        ...         state, timestep = env.step(state, action)
        ...         return state, timestep._replace(reward=timestep.reward.sum())
        >>> check_environment(OneReward())
        Traceback (most recent call last):
            ...
        ValueError: step's reward is of shape (), but must be (2,) [N]
    """
    if isinstance(env, type):
        raise _wrong("the environment", f"the class {env.__name__}", "an instance of it")
    if isinstance(env, str):
        raise _wrong("the environment", f"the text {show(env)}", f"an object: make({show(env)})")
    for name in ("spec", "reset", "step"):
        if not hasattr(env, name):
            raise ValueError(
                f"{type(env).__name__} has no `{name}`; an environment has `spec`, `reset` and "
                "`step`"
            )
    spec = env.spec
    check_spec(spec)
    if key is not None:
        check_key("key", key)
    key = jax.random.key(0) if key is None else key
    _check_arguments("reset", env.reset, ("key",))
    _check_arguments("step", env.step, ("state", "action"))
    # shapes and dtypes by tracing first; values need a played episode
    state, timestep = _trace("reset", env.reset, key)
    _check_pure("reset", env)
    _check_shapes("reset", timestep, spec)
    mask = np.ones((spec.num_agents, spec.action_size), bool)
    action = _random_action(spec, mask, np.random.default_rng(0))
    next_state, timestep = _trace("step", env.step, state, action)
    _check_pure("step", env)
    _check_shapes("step", timestep, spec)
    _check_same_form(state, next_state)
    _check_episode_flags(env, spec, next_state)
    _play_episode(env, spec, key)
    return spec


def _wrong(field: str, actual: object, expected: str) -> ValueError:
    return ValueError(f"{field} is {actual}, but must be {expected}")


def _is_tuple(value: object, lengths: Container[int], holds: Callable[[Any], bool]) -> bool:
    """Returns whether a value is a tuple of an allowed length whose entries all pass a test."""
    return isinstance(value, tuple) and len(value) in lengths and all(map(holds, value))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: object) -> bool:
    number = to_python(value)
    return isinstance(number, (int, float)) and not isinstance(number, bool)


def check_spec(spec: Any) -> None:
    """Checks the sizes, names, bounds and cost limits of an environment's spec.

    Args:
        spec: the value of an environment's ``spec``.

    Raises:
        ValueError: that names the field that is wrong and says what is expected.
    """
    if not isinstance(spec, EnvSpec):
        expected = "a jaxmarl_lite.types.EnvSpec (a value, not a method)"
        raise _wrong("spec", f"a {type(spec).__name__}", expected)

    def require(holds: bool, field: str, expected: str) -> None:
        if not holds:
            raise _wrong(f"spec.{field}", show(getattr(spec, field)), expected)

    for field in (
        "num_agents",
        "obs_size",
        "global_state_size",
        "action_size",
        "max_episode_steps",
    ):
        size = getattr(spec, field)
        is_size = isinstance(size, int) and not isinstance(size, bool) and size >= 1
        require(is_size, field, "a positive int")
    discrete = spec.action_type == "discrete"
    types = "discrete", "continuous"
    require(spec.action_type in types, "action_type", " or ".join(map(repr, types)))
    types = "team", "individual"
    require(spec.reward_type in types, "reward_type", " or ".join(map(repr, types)))
    names = spec.cost_names
    names_differ = isinstance(names, tuple) and len(set(names)) == len(names)
    require(names_differ, "cost_names", "a tuple of different names")
    num_costs = len(names)
    # a name must be a word that --cost-limit can take
    are_words = all(isinstance(x, str) and x and not set(x) & set("*=,/ ") for x in names)
    require(are_words, "cost_names", "words, without spaces or any of * = , /")
    size = spec.action_size if discrete else 0
    are_names = _is_tuple(spec.action_names, (0, size), lambda x: isinstance(x, str) and x != "")
    require(are_names, "action_names", f"() or a tuple of {size} words, one per discrete action")
    for field in ("name", "return_description"):
        require(_is_text(getattr(spec, field)), field, "text")
    require(isinstance(spec.win_condition, str), "win_condition", "text")
    if spec.max_return is not None:
        check_number("spec.max_return", spec.max_return)
    check_bool("spec.can_diverge", spec.can_diverge)
    are_texts = _is_tuple(spec.cost_descriptions, (0, num_costs), lambda x: isinstance(x, str))
    require(are_texts, "cost_descriptions", f"() or a tuple of {num_costs}, one per cost")
    has_limits = spec.cost_limits is None or _is_tuple(
        spec.cost_limits, (num_costs,), lambda x: True
    )
    require(has_limits, "cost_limits", f"None or a tuple of {num_costs}, one per cost")
    for name, limit in zip(spec.cost_names, spec.cost_limits or (), strict=False):
        limits = limit if isinstance(limit, tuple) else (limit,) * spec.num_agents
        if not _is_tuple(limits, (spec.num_agents,), lambda x: _is_number(x) and x >= 0):
            expected = f"a number from 0 up, or a tuple of {spec.num_agents}, one per agent"
            raise _wrong(f"spec.cost_limits of {name!r}", repr(limit), expected)
    bounds = f"a tuple of {spec.action_size} finite numbers, one per action dimension"
    for field, other in (("action_low", "action_high"), ("action_high", "action_low")):
        bound, other_bound = getattr(spec, field), getattr(spec, other)
        require(not discrete or bound is None, field, "None for discrete actions")
        is_bound = bound is None or _is_tuple(
            bound, (spec.action_size,), lambda x: _is_number(x) and math.isfinite(x)
        )
        require(is_bound, field, bounds)
        both = bound is not None or other_bound is None
        require(both, field, f"given together with spec.{other}, or both None")
    pairs = zip(spec.action_low or (), spec.action_high or (), strict=True)
    for i, (low, high) in enumerate(pairs):
        if not low < high:
            expected = f"below spec.action_high[{i}] = {high:g}"
            raise _wrong(f"spec.action_low[{i}]", f"{low:g}", expected)


def _eval_shape(name: str, function: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """Returns the shapes of a function's result, or raises ValueError where tracing fails."""
    try:
        return jax.eval_shape(function, *args)
    except Exception as error:
        text = f"{name} cannot be traced, as `jit` and `vmap` need ({one_line(error)})"
        raise ValueError(text) from error


def _check_pure(name: str, env: Environment) -> None:
    """Raises ValueError where a traced call left its tracers on the environment.

    Tracers have no meaning once the trace has ended. The check looks at the environment's fields
    and, one level down, at the fields of the objects that it holds.
    """
    owners = [
        owner
        for owner in (env, *getattr(env, "__dict__", {}).values())
        if hasattr(owner, "__dict__") and not isinstance(owner, type)
    ]
    for field, value in (item for owner in owners for item in vars(owner).items()):
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value)):
            raise ValueError(
                f"{name} keeps traced numbers in the environment's own field {field!r}; allowed "
                "is a pure function: what later steps need belongs in the state that `reset` and "
                "`step` return"
            )


def _check_arguments(name: str, function: Callable[..., PyTree], expected: tuple[str, ...]) -> None:
    """Checks that a function takes its arguments by position, in the protocol's order.

    Their names tell an order apart that has the right number of arguments.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # no function, or one without a readable signature
        return
    call = f"{name}({', '.join(expected)})"
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = [p.name for p in signature.parameters.values() if p.kind in kinds]
    roles = [_role_of(x) for x in names[: len(expected)]]
    swapped = any(role not in (None, right) for role, right in zip(roles, expected, strict=False))
    try:
        signature.bind(*expected)
    except TypeError:
        swapped = True
    if swapped:
        hint = ": a random key that `step` needs belongs in the state" if name == "step" else ""
        raise ValueError(f"{name} takes {name}{signature}; allowed is {call}{hint}")


def _role_of(parameter: str) -> str | None:
    """Returns the argument of the protocol that a parameter's name stands for, if it is clear."""
    word = parameter.strip("_").lower()
    roles = {"key": ("key", "rng", "rng_key", "prng_key"), "state": ("state", "env_state")}
    roles["action"] = ("action", "actions")
    return next((role for role, names in roles.items() if word in names), None)


def _trace(name: str, function: Callable[..., PyTree], *args: PyTree) -> tuple[PyTree, TimeStep]:
    """Returns the traced pair (state, TimeStep), or raises ValueError for any other result."""
    result = _eval_shape(name, function, *args)
    pair = isinstance(result, tuple) and len(result) == 2
    if not pair or not isinstance(result[1], TimeStep):
        kind = f"a {type(result).__name__}"
        if isinstance(result, TimeStep):
            kind = "a TimeStep alone"
        elif pair and isinstance(result[0], TimeStep):
            kind = "the pair (TimeStep, state)"
        elif isinstance(result, tuple):
            kind = f"a tuple of {len(result)}: {', '.join(type(x).__name__ for x in result)}"
        raise _wrong(f"{name}'s answer", kind, "the pair (state, TimeStep), in this order")
    if not isinstance(result[1].obs, Observation):
        kind = type(result[1].obs).__name__
        raise _wrong(f"{name}'s obs", f"a {kind}", "a jaxmarl_lite.types.Observation")
    return result


def _fields(
    timestep: TimeStep, spec: EnvSpec
) -> list[tuple[str, Array, tuple[int, ...], np.dtype, str]]:
    """Returns every field: name, value, expected shape, expected dtype, and shape in letters."""
    n, obs, float_dtype = spec.num_agents, timestep.obs, jnp.result_type(float)
    return [
        ("obs.agents_view", obs.agents_view, (n, spec.obs_size), float_dtype, "[N, O]"),
        ("obs.global_state", obs.global_state, (spec.global_state_size,), float_dtype, "[S]"),
        ("obs.action_mask", obs.action_mask, (n, spec.action_size), np.dtype(bool), "[N, A]"),
        ("obs.alive", obs.alive, (n,), np.dtype(bool), "[N]"),
        ("reward", timestep.reward, (n,), float_dtype, "[N]"),
        ("cost", timestep.cost, (n, spec.num_costs), float_dtype, "[N, K], K from spec.cost_names"),
        ("discount", timestep.discount, (), float_dtype, "[]"),
        ("last", timestep.last, (), np.dtype(bool), "[]"),
    ]


def _check_shapes(name: str, timestep: TimeStep, spec: EnvSpec) -> None:
    for field, value, shape, dtype, letters in _fields(timestep, spec):
        if not hasattr(value, "shape"):
            kind = type(value).__name__
            raise _wrong(f"{name}'s {field}", f"a {kind}", f"an array {shape} {letters}")
        if value.shape != shape:
            raise _wrong(f"{name}'s {field}", f"of shape {value.shape}", f"{shape} {letters}")
        if value.dtype != dtype:
            raise _wrong(f"{name}'s {field}", f"of dtype {value.dtype}", f"{dtype}")


def _check_same_form(state: PyTree, next_state: PyTree) -> None:
    """Checks that ``step`` keeps the state's structure, shapes and dtypes.

    A loop that carries the state (``lax.scan``) requires it.
    """
    (leaves, form), (next_leaves, next_form) = map(
        jax.tree_util.tree_flatten_with_path, (state, next_state)
    )
    if form != next_form:
        actual = f"of the form {next_form}"
        raise _wrong("the state after step", actual, f"of reset's form {form}")
    for (path, leaf), (_, next_leaf) in zip(leaves, next_leaves, strict=True):
        if leaf.shape != next_leaf.shape or leaf.dtype != next_leaf.dtype:
            entry = jax.tree_util.keystr(path) or "itself"
            actual = f"{next_leaf.dtype}{next_leaf.shape}"
            expected = f"as after reset, {leaf.dtype}{leaf.shape}"
            raise _wrong(f"the state's {entry} after step", actual, expected)


def _check_episode_flags(env: Environment, spec: EnvSpec, state: PyTree) -> None:
    """Checks ``is_non_finite`` and ``is_win``, where the spec promises them."""
    for field, name in (("can_diverge", "is_non_finite"), ("win_condition", "is_win")):
        if not getattr(spec, field):
            continue
        method = getattr(env, name, None)
        if not callable(method):
            raise ValueError(
                f"spec.{field} is {getattr(spec, field)!r}, but there is no method `{name}(state)`"
            )
        flag = _eval_shape(name, method, state)
        if getattr(flag, "shape", None) != () or flag.dtype != np.dtype(bool):
            is_array = hasattr(flag, "shape")
            actual = f"{flag.dtype}{flag.shape}" if is_array else f"a {type(flag).__name__}"
            raise _wrong(f"{name}'s answer", actual, "one bool, of shape ()")


def _random_action(spec: EnvSpec, mask: np.ndarray, generator: np.random.Generator) -> Array:
    """Returns a random legal joint action, ``[N]`` int or ``[N, A]`` float.

    Padded dimensions of continuous actions get random numbers too.
    """
    if spec.action_type == "discrete":
        return jnp.asarray((generator.random(mask.shape) * mask).argmax(-1), jnp.int32)
    low = -1.0 if spec.action_low is None else np.array(spec.action_low)
    high = 1.0 if spec.action_high is None else np.array(spec.action_high)
    return jnp.asarray(generator.uniform(low, high, mask.shape), float)


def _play_episode(env: Environment, spec: EnvSpec, key: Array) -> None:
    """Plays one episode of random legal actions, and checks the values of every step.

    More episodes are played if it ends as if the environment reset itself.
    """
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    generator = np.random.default_rng(0)
    starts = auto_reset.find_starts(reset, key)

    def random_step(state: PyTree, timestep: TimeStep) -> tuple[PyTree, TimeStep]:
        action = _random_action(spec, np.asarray(timestep.obs.action_mask), generator)
        state, timestep = step(state, action)
        return state, jax.device_get(timestep)

    for episode in range(auto_reset.EPISODES):
        first = reset(key if episode == 0 else jax.random.fold_in(key, episode))
        steps = _episode(first, random_step, spec)
        if not auto_reset.ends_in_reset(starts, steps, lambda *last: random_step(*last)[1]):
            return
    raise ValueError(
        "step resets the environment: where `last` is True, state and observation are those of a "
        "new episode; allowed is the true last state and observation, without an auto-reset "
        "(training begins the next episode itself). jml.from_gymnax, from_jaxmarl, from_jumanji "
        "and from_brax adapt environments that reset themselves"
    )


def _episode(
    first: tuple[PyTree, TimeStep],
    random_step: Callable[[PyTree, TimeStep], tuple[PyTree, TimeStep]],
    spec: EnvSpec,
) -> Iterator[tuple[PyTree, TimeStep]]:
    """Yields the state and time step after every step of an episode, and checks their values."""
    state, timestep = first
    timestep = jax.device_get(timestep)
    _check_reset_values(timestep, spec)
    for _ in range(min(spec.max_episode_steps, LONGEST)):
        state, timestep = random_step(state, timestep)
        _check_values("step", timestep, spec)
        yield state, timestep
        if timestep.last:
            return
    # a longer episode was cut short by this check, so that its end was not observed
    if spec.max_episode_steps <= LONGEST:
        limit = f"True at the latest after spec.max_episode_steps = {spec.max_episode_steps} steps"
        raise _wrong("step's last", f"still False after {spec.max_episode_steps} steps", limit)


def _check_reset_values(timestep: TimeStep, spec: EnvSpec) -> None:
    """Checks the values of an episode's first time step."""
    _check_values("reset", timestep, spec)
    for field, value in (("reward", timestep.reward), ("cost", timestep.cost)):
        if np.any(value != 0):
            raise _wrong(f"reset's {field}", value.tolist(), "0: nothing has been done yet")
    if timestep.last or timestep.discount != 1:
        actual = f"{timestep.discount} with last {bool(timestep.last)}"
        expected = "1 with last False: an episode has at least one step"
        raise _wrong("reset's discount", actual, expected)


def _check_values(name: str, timestep: TimeStep, spec: EnvSpec) -> None:
    """Checks finite numbers, legal actions, discounts and team rewards of one time step."""
    for field, value, _, dtype, _ in _fields(timestep, spec):
        if dtype != np.dtype(bool) and not np.isfinite(value).all():
            raise _wrong(f"{name}'s {field}", "not finite", "finite everywhere")
    if np.any(timestep.cost < 0):
        expected = "0 or more: a cost is what limits keep low, and a limit is 0 or more"
        raise _wrong(f"{name}'s cost", timestep.cost.tolist(), expected)
    # dead agents need no legal action
    stuck = timestep.obs.alive & ~timestep.obs.action_mask.any(-1)
    if stuck.any():
        agents = np.flatnonzero(stuck).tolist()
        actual = f"False for every action of living agents {agents}"
        raise _wrong(f"{name}'s obs.action_mask", actual, "True somewhere for each")
    if timestep.discount not in (0.0, 1.0):
        expected = "0 or 1 (the discount factor is the algorithm's)"
        raise _wrong(f"{name}'s discount", f"{timestep.discount:g}", expected)
    if timestep.discount == 0 and not timestep.last:
        raise _wrong(f"{name}'s discount", "0 with last False", "1 while the episode goes on")
    if spec.reward_type == "team" and np.ptp(timestep.reward) > 0:
        text = "the same for all agents, as spec.reward_type is 'team'"
        raise _wrong(f"{name}'s reward", timestep.reward.tolist(), text)
