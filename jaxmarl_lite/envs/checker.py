"""Checks that an object follows the environment protocol, and names the field that does not.

Every error says what the field is and what is expected.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxmarl_lite.types import Array, Environment, EnvSpec, Observation, PyTree, TimeStep
from jaxmarl_lite.validation import check_bool, check_key, check_number, one_line, show, to_python

LONGEST = 2000
"""Number of steps after which the check stops an episode that is still under way."""


def check_environment(env: Any, key: Array | None = None) -> EnvSpec:
    """Checks an environment by tracing its functions and by playing one random episode.

    Tracing ``reset`` and ``step`` checks shapes and dtypes without compiling; the episode, of
    random legal actions, checks values. It stops after 2000 steps if the environment's episodes
    are longer.

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
    # shapes and dtypes by tracing first; values need a played episode
    state, timestep = _trace("reset", env.reset, key)
    _check_pure("reset", env)
    _check_shapes("reset", timestep, spec)
    action = _random_action(
        spec, np.ones((spec.num_agents, spec.action_size), bool), np.random.default_rng(0)
    )
    next_state, timestep = _trace("step", env.step, state, action)
    _check_pure("step", env)
    _check_shapes("step", timestep, spec)
    _check_same_form(state, next_state)
    _check_episode_flags(env, spec, next_state)
    _play_episode(env, spec, key)
    return spec


def _wrong(field: str, actual: object, expected: str) -> ValueError:
    return ValueError(f"{field} is {actual}, but must be {expected}")


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
        raise _wrong(
            "spec",
            f"a {type(spec).__name__}",
            "a jaxmarl_lite.types.EnvSpec (a value, not a method)",
        )
    for name in ("num_agents", "obs_size", "global_state_size", "action_size", "max_episode_steps"):
        value = getattr(spec, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise _wrong(f"spec.{name}", repr(value), "a positive int")
    for name, allowed in (
        ("action_type", ("discrete", "continuous")),
        ("reward_type", ("team", "individual")),
    ):
        if getattr(spec, name) not in allowed:
            raise _wrong(f"spec.{name}", repr(getattr(spec, name)), " or ".join(map(repr, allowed)))
    if not isinstance(spec.cost_names, tuple) or len(set(spec.cost_names)) != len(spec.cost_names):
        raise _wrong("spec.cost_names", repr(spec.cost_names), "a tuple of different names")
    for name in spec.cost_names:
        # a name must be a word that --cost-limit can take
        if not isinstance(name, str) or not name or set(name) & set("*=,/ "):
            raise _wrong(
                "spec.cost_names", repr(spec.cost_names), "words, without spaces or any of * = , /"
            )
    names, size = spec.action_names, spec.action_size if spec.action_type == "discrete" else 0
    if (
        not isinstance(names, tuple)
        or len(names) not in (0, size)
        or not all(isinstance(x, str) and x for x in names)
    ):
        raise _wrong(
            "spec.action_names",
            repr(names),
            f"() or a tuple of {size} words, one per discrete action",
        )
    for name, may_be_empty in (
        ("name", False),
        ("return_description", False),
        ("win_condition", True),
    ):
        value = getattr(spec, name)
        if not isinstance(value, str) or not (value.strip() or may_be_empty):
            raise _wrong(f"spec.{name}", show(value), "text")
    if spec.max_return is not None:
        check_number("spec.max_return", spec.max_return)
    check_bool("spec.can_diverge", spec.can_diverge)
    _check_costs(spec)
    _check_bounds(spec)


def _check_costs(spec: EnvSpec) -> None:
    descriptions = spec.cost_descriptions
    if (
        not isinstance(descriptions, tuple)
        or len(descriptions) not in (0, spec.num_costs)
        or not all(isinstance(x, str) for x in descriptions)
    ):
        raise _wrong(
            "spec.cost_descriptions",
            repr(spec.cost_descriptions),
            f"() or a tuple of {spec.num_costs}, one per cost",
        )
    if spec.cost_limits is None:
        return
    if not isinstance(spec.cost_limits, tuple) or len(spec.cost_limits) != spec.num_costs:
        raise _wrong(
            "spec.cost_limits",
            repr(spec.cost_limits),
            f"None or a tuple of {spec.num_costs}, one per cost",
        )
    for name, limit in zip(spec.cost_names, spec.cost_limits, strict=True):
        agent_limits = limit if isinstance(limit, tuple) else (limit,) * spec.num_agents
        if len(agent_limits) != spec.num_agents or not all(
            _is_number(x) and x >= 0 for x in agent_limits
        ):
            expected = f"a number from 0 up, or a tuple of {spec.num_agents}, one per agent"
            raise _wrong(f"spec.cost_limits of {name!r}", repr(limit), expected)


def _check_bounds(spec: EnvSpec) -> None:
    for name in ("action_low", "action_high"):
        bound = getattr(spec, name)
        if bound is None:
            continue
        if spec.action_type == "discrete":
            raise _wrong(f"spec.{name}", repr(bound), "None for discrete actions")
        if (
            not isinstance(bound, tuple)
            or len(bound) != spec.action_size
            or not all(_is_number(x) and math.isfinite(x) for x in bound)
        ):
            expected = f"a tuple of {spec.action_size} finite numbers, one per action dimension"
            raise _wrong(f"spec.{name}", repr(bound), expected)
    if (spec.action_low is None) != (spec.action_high is None):
        name, other = ("low", "high") if spec.action_low is None else ("high", "low")
        raise _wrong(
            f"spec.action_{name}", "None", f"given together with spec.action_{other}, or both None"
        )
    if spec.action_low is None or spec.action_high is None:
        return
    for i, (low, high) in enumerate(zip(spec.action_low, spec.action_high, strict=True)):
        if not low < high:
            raise _wrong(
                f"spec.action_low[{i}]", f"{low:g}", f"below spec.action_high[{i}] = {high:g}"
            )


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
    for owner in (env, *vars(env).values()) if hasattr(env, "__dict__") else ():
        for field, value in (
            vars(owner).items()
            if hasattr(owner, "__dict__") and not isinstance(owner, type)
            else ()
        ):
            if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value)):
                raise ValueError(
                    f"{name} keeps traced numbers in the environment's own field {field!r}; "
                    "allowed is a pure "
                    "function: what later steps need belongs in the state that `reset` and `step` "
                    "return"
                )


def _trace(name: str, function: Callable[..., PyTree], *args: PyTree) -> tuple[PyTree, TimeStep]:
    """Returns the traced pair (state, TimeStep), or raises ValueError for any other result."""
    result = _eval_shape(name, function, *args)
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], TimeStep):
        kind = f"a {type(result).__name__}"
        if isinstance(result, tuple):
            kind = f"a tuple of {len(result)}: {', '.join(type(part).__name__ for part in result)}"
        raise _wrong(f"{name}'s answer", kind, "the pair (state, TimeStep)")
    if not isinstance(result[1].obs, Observation):
        raise _wrong(
            f"{name}'s obs", f"a {type(result[1].obs).__name__}", "a jaxmarl_lite.types.Observation"
        )
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
            raise _wrong(
                f"{name}'s {field}", f"a {type(value).__name__}", f"an array {shape} {letters}"
            )
        if value.shape != shape:
            raise _wrong(f"{name}'s {field}", f"of shape {value.shape}", f"{shape} {letters}")
        if value.dtype != dtype:
            raise _wrong(f"{name}'s {field}", f"of dtype {value.dtype}", f"{dtype}")


def _check_same_form(state: PyTree, next_state: PyTree) -> None:
    """Checks that ``step`` keeps the state's structure, shapes and dtypes.

    A loop that carries the state (``lax.scan``) requires it.
    """
    reset_form, step_form = jax.tree.structure(state), jax.tree.structure(next_state)
    if reset_form != step_form:
        raise _wrong(
            "the state after step", f"of the form {step_form}", f"of reset's form {reset_form}"
        )
    for (path, leaf), (_, next_leaf) in zip(
        jax.tree_util.tree_leaves_with_path(state),
        jax.tree_util.tree_leaves_with_path(next_state),
        strict=True,
    ):
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
            actual = (
                f"{flag.dtype}{flag.shape}"
                if hasattr(flag, "shape")
                else f"a {type(flag).__name__}"
            )
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
    """Plays one episode of random legal actions, and checks the values of every step."""
    generator = np.random.default_rng(0)
    step = jax.jit(env.step)
    state, timestep = jax.jit(env.reset)(key)
    timestep = jax.device_get(timestep)
    _check_values("reset", timestep, spec)
    for field, value in (("reward", timestep.reward), ("cost", timestep.cost)):
        if np.any(value != 0):
            raise _wrong(f"reset's {field}", value.tolist(), "0: nothing has been done yet")
    if timestep.last or timestep.discount != 1:
        actual = f"{timestep.discount} with last {bool(timestep.last)}"
        raise _wrong(
            "reset's discount", actual, "1 with last False: an episode has at least one step"
        )
    for _ in range(min(spec.max_episode_steps, LONGEST)):
        state, timestep = step(state, _random_action(spec, timestep.obs.action_mask, generator))
        timestep = jax.device_get(timestep)
        _check_values("step", timestep, spec)
        if timestep.last:
            return
    # a longer episode was cut short by this check, so that its end was not observed
    if spec.max_episode_steps <= LONGEST:
        limit = f"True at the latest after spec.max_episode_steps = {spec.max_episode_steps} steps"
        raise _wrong("step's last", f"still False after {spec.max_episode_steps} steps", limit)


def _check_values(name: str, timestep: TimeStep, spec: EnvSpec) -> None:
    """Checks finite numbers, legal actions, discounts and team rewards of one time step."""
    for field, value, _, dtype, _ in _fields(timestep, spec):
        if dtype != np.dtype(bool) and not np.isfinite(value).all():
            raise _wrong(f"{name}'s {field}", "not finite", "finite everywhere")
    # dead agents need no legal action
    stuck = timestep.obs.alive & ~timestep.obs.action_mask.any(-1)
    if stuck.any():
        agents = np.flatnonzero(stuck).tolist()
        actual = f"False for every action of living agents {agents}"
        raise _wrong(f"{name}'s obs.action_mask", actual, "True somewhere for each")
    if timestep.discount not in (0.0, 1.0):
        raise _wrong(
            f"{name}'s discount",
            f"{timestep.discount:g}",
            "0 or 1 (the discount factor is the algorithm's)",
        )
    if timestep.discount == 0 and not timestep.last:
        raise _wrong(f"{name}'s discount", "0 with last False", "1 while the episode goes on")
    if spec.reward_type == "team" and np.ptp(timestep.reward) > 0:
        text = "the same for all agents, as spec.reward_type is 'team'"
        raise _wrong(f"{name}'s reward", timestep.reward.tolist(), text)
