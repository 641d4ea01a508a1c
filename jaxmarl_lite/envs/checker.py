"""Does an object keep the environment protocol? Says which field does not, and what is expected."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxmarl_lite.types import Array, EnvSpec, Observation, TimeStep
from jaxmarl_lite.validation import check_bool, check_key, check_number, one_line, show, to_python

LONGEST = 2000
"""Steps after which the check stops playing, for environments whose episodes are longer."""


def check_environment(env: Any, key: Array | None = None) -> EnvSpec:
    """Check an environment: shapes by tracing first, then one episode of random legal actions.

    env: any object with ``spec``, ``reset`` and ``step``; see ``jaxmarl_lite.types.Environment``.
    key: of the episode's reset; default ``jax.random.key(0)``. Answers the spec. Raises ValueError
    that names the field that is wrong and says what is expected.
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
    state, timestep = _trace("reset", env.reset, key)
    _check_pure("reset", env)
    _check_shapes("reset", timestep, spec)
    action = _actions(
        spec, np.ones((spec.num_agents, spec.action_size), bool), np.random.default_rng(0)
    )
    after, timestep = _trace("step", env.step, state, action)
    _check_pure("step", env)
    _check_shapes("step", timestep, spec)
    _check_same_state(state, after)
    _check_told(env, spec, after)
    _play(env, spec, key)
    return spec


def _wrong(field: str, found: Any, expected: str) -> ValueError:
    return ValueError(f"{field} is {found}, but must be {expected}")


def _is_number(value: Any) -> bool:
    number = to_python(value)
    return isinstance(number, (int, float)) and not isinstance(number, bool)


def check_spec(spec: Any) -> None:
    """Check the sizes and names of an environment; raises ValueError that names the field that is
    wrong.
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
    for name, empty in (("name", False), ("return_description", False), ("win_condition", True)):
        value = getattr(spec, name)
        if not isinstance(value, str) or not (value.strip() or empty):
            raise _wrong(f"spec.{name}", show(value), "text")
    if spec.max_return is not None:
        check_number("spec.max_return", spec.max_return)
    check_bool("spec.can_diverge", spec.can_diverge)
    _check_costs(spec)
    _check_bounds(spec)


def _check_costs(spec: EnvSpec) -> None:
    meanings = spec.cost_descriptions
    if (
        not isinstance(meanings, tuple)
        or len(meanings) not in (0, spec.num_costs)
        or not all(isinstance(x, str) for x in meanings)
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
        each = limit if isinstance(limit, tuple) else (limit,) * spec.num_agents
        if len(each) != spec.num_agents or not all(_is_number(x) and x >= 0 for x in each):
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


def _shapes(name: str, function: Any, *args: Any) -> Any:
    try:
        return jax.eval_shape(function, *args)
    except Exception as error:
        text = f"{name} cannot be traced, as `jit` and `vmap` need ({one_line(error)})"
        raise ValueError(text) from error


def _check_pure(name: str, env: Any) -> None:
    """Raise ValueError where a traced call left its numbers on the environment: they mean nothing
    afterwards.
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


def _trace(name: str, function: Any, *args: Any) -> tuple[Any, TimeStep]:
    answer = _shapes(name, function, *args)
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[1], TimeStep):
        kind = f"a {type(answer).__name__}"
        if isinstance(answer, tuple):
            kind = f"a tuple of {len(answer)}: {', '.join(type(part).__name__ for part in answer)}"
        raise _wrong(f"{name}'s answer", kind, "the pair (state, TimeStep)")
    if not isinstance(answer[1].obs, Observation):
        raise _wrong(
            f"{name}'s obs", f"a {type(answer[1].obs).__name__}", "a jaxmarl_lite.types.Observation"
        )
    return answer


def _fields(timestep: TimeStep, spec: EnvSpec) -> list[tuple[str, Any, tuple[int, ...], Any, str]]:
    """Every field: name, value, expected shape, expected dtype, and the shape in letters."""
    n, obs, number = spec.num_agents, timestep.obs, jnp.result_type(float)
    return [
        ("obs.agents_view", obs.agents_view, (n, spec.obs_size), number, "[N, O]"),
        ("obs.global_state", obs.global_state, (spec.global_state_size,), number, "[S]"),
        ("obs.action_mask", obs.action_mask, (n, spec.action_size), np.dtype(bool), "[N, A]"),
        ("obs.alive", obs.alive, (n,), np.dtype(bool), "[N]"),
        ("reward", timestep.reward, (n,), number, "[N]"),
        ("cost", timestep.cost, (n, spec.num_costs), number, "[N, K], K from spec.cost_names"),
        ("discount", timestep.discount, (), number, "[]"),
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


def _check_same_state(before: Any, after: Any) -> None:
    """A loop that carries the state needs it to keep its form."""
    first, second = jax.tree.structure(before), jax.tree.structure(after)
    if first != second:
        raise _wrong("the state after step", f"of the form {second}", f"of reset's form {first}")
    for (path, old), (_, new) in zip(
        jax.tree_util.tree_leaves_with_path(before),
        jax.tree_util.tree_leaves_with_path(after),
        strict=True,
    ):
        if old.shape != new.shape or old.dtype != new.dtype:
            where = jax.tree_util.keystr(path) or "itself"
            found, expected = f"{new.dtype}{new.shape}", f"as after reset, {old.dtype}{old.shape}"
            raise _wrong(f"the state's {where} after step", found, expected)


def _check_told(env: Any, spec: EnvSpec, state: Any) -> None:
    """What the spec promises that the environment tells of an episode's last state."""
    for field, name in (("can_diverge", "is_non_finite"), ("win_condition", "is_win")):
        if not getattr(spec, field):
            continue
        if not callable(getattr(env, name, None)):
            raise ValueError(
                f"spec.{field} is {getattr(spec, field)!r}, but there is no method `{name}(state)`"
            )
        told = _shapes(name, getattr(env, name), state)
        if getattr(told, "shape", None) != () or told.dtype != np.dtype(bool):
            found = (
                f"{told.dtype}{told.shape}"
                if hasattr(told, "shape")
                else f"a {type(told).__name__}"
            )
            raise _wrong(f"{name}'s answer", found, "one bool, of shape ()")


def _actions(spec: EnvSpec, mask: np.ndarray, random: np.random.Generator) -> Array:
    """A random legal joint action; padded dimensions of continuous actions get random numbers
    too.
    """
    if spec.action_type == "discrete":
        return jnp.asarray((random.random(mask.shape) * mask).argmax(-1), jnp.int32)
    low = -1.0 if spec.action_low is None else np.array(spec.action_low)
    high = 1.0 if spec.action_high is None else np.array(spec.action_high)
    return jnp.asarray(random.uniform(low, high, mask.shape), float)


def _play(env: Any, spec: EnvSpec, key: Array) -> None:
    """One episode with real numbers."""
    random = np.random.default_rng(0)
    step = jax.jit(env.step)
    state, timestep = jax.jit(env.reset)(key)
    timestep = jax.device_get(timestep)
    _check_values("reset", timestep, spec)
    for field, value in (("reward", timestep.reward), ("cost", timestep.cost)):
        if np.any(value != 0):
            raise _wrong(f"reset's {field}", value.tolist(), "0: nothing has been done yet")
    if timestep.last or timestep.discount != 1:
        found = f"{timestep.discount} with last {bool(timestep.last)}"
        raise _wrong(
            "reset's discount", found, "1 with last False: an episode has at least one step"
        )
    for _ in range(min(spec.max_episode_steps, LONGEST)):
        state, timestep = step(state, _actions(spec, timestep.obs.action_mask, random))
        timestep = jax.device_get(timestep)
        _check_values("step", timestep, spec)
        if timestep.last:
            return
    if spec.max_episode_steps <= LONGEST:
        limit = f"True at the latest after spec.max_episode_steps = {spec.max_episode_steps} steps"
        raise _wrong("step's last", f"still False after {spec.max_episode_steps} steps", limit)


def _check_values(name: str, timestep: TimeStep, spec: EnvSpec) -> None:
    for field, value, _, dtype, _ in _fields(timestep, spec):
        if dtype != np.dtype(bool) and not np.isfinite(value).all():
            raise _wrong(f"{name}'s {field}", "not finite", "finite everywhere")
    stuck = timestep.obs.alive & ~timestep.obs.action_mask.any(-1)
    if stuck.any():
        agents = np.flatnonzero(stuck).tolist()
        found = f"False for every action of living agents {agents}"
        raise _wrong(f"{name}'s obs.action_mask", found, "True somewhere for each")
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
