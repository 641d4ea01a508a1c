"""Builds and lists environments by name."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import jaxmarl_lite.envs.jaxmarl.scenarios as jaxmarl_scenarios
import jaxmarl_lite.envs.jumanji.cost_functions as cost_functions
import jaxmarl_lite.envs.mujoco.scenarios as mujoco_scenarios
from jaxmarl_lite.envs.errors import UnknownKeywordError, check_names, unknown_name_error
from jaxmarl_lite.envs.jumanji import _import, scenarios
from jaxmarl_lite.envs.toys import TOYS, summary
from jaxmarl_lite.envs.wrappers.delayed_reward import DelayedRewardWrapper
from jaxmarl_lite.types import Environment
from jaxmarl_lite.validation import (
    check_bool,
    check_choice,
    check_limit,
    invalid,
    one_line,
    show,
    to_plain,
)


def make(env_id: str, **keywords: Any) -> Environment:
    """Builds an environment from its name.

    The same call returns the same object where the keywords can be hashed, so that programs
    compiled for it are reused.

    Args:
        env_id: one of these names; ``delayed/<any of them>`` pays the reward in one sum when the
            episode ends.

            - ``toy/<name>``;
            - ``jumanji/<scenario>`` (``lbf-2s-8x8-2p-2f-coop``, ``rware-tiny-4ag`` and so on) or
              ``jumanji/<Jumanji's own id>`` (``LevelBasedForaging-v0``);
            - ``safe/<scenario>``: a Jumanji scenario with costs;
            - ``safe-mujoco/<robot>-<partition>`` (``ant-2x4``, ``manyagent-ant-3x2``),
              ``safe-velocity/...``, and ``mujoco/...`` without costs, which need the extra
              ``mujoco``;
            - ``smax/<map>``, ``mpe/...``, ``safe-mpe/...`` and ``overcooked/<kitchen>``, which
              need the extra ``smax``.
        **keywords: for a toy, its fields; for Jumanji, ``reward`` ("team" or "individual"),
            ``agent_id`` (bool), and any keyword of the Jumanji environment or of the scenario's
            generator; for ``safe`` also those of the task (see
            ``jaxmarl_lite.envs.jumanji.cost_functions``) and ``cost_limit``, a mapping from costs
            to limits, or the limit of a single cost; for robots see
            ``jaxmarl_lite.envs.mujoco``, and for the last four suites
            ``jaxmarl_lite.envs.jaxmarl``.

    Returns:
        An environment; see ``jaxmarl_lite.types.Environment``.

    Raises:
        ValueError: for a wrong name, keyword or value, naming the nearest names and what is
            allowed.
        ImportError: where the extra that the environment needs is not installed.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxmarl_lite.envs import make
        >>> env = make("toy/climbing")
        >>> env.spec.num_agents, env.spec.action_size, env.spec.max_return
        (2, 3, 11.0)
        >>> state, timestep = env.reset(jax.random.key(0))
        >>> state, timestep = env.step(state, jnp.array([0, 0]))
        >>> timestep.reward.tolist()
        [11.0, 11.0]
        >>> make("toy/climbing") is env
        True
        >>> make("toy/climbng")
        Traceback (most recent call last):
            ...
        ValueError: Unknown environment 'toy/climbng'; did you mean 'toy/climbing'...
    """
    if not isinstance(env_id, str):
        raise invalid("env_id", env_id, "a name, such as jumanji/lbf-2s-8x8-2p-2f-coop")
    keywords = to_plain(keywords)
    if "cost_limit" in keywords:
        keywords["cost_limit"] = _cost_limit(keywords["cost_limit"])
    items = tuple(sorted(keywords.items(), key=lambda item: item[0]))
    try:
        hash(items)
    except TypeError:
        return _make_with_errors(env_id, keywords)
    return _make_cached(env_id, items)


def keywords_of(env_id: str) -> list[str]:
    """Returns the keywords that `make` takes for an environment.

    Args:
        env_id: a name, as for `make`.

    Returns:
        The keywords, without their defaults.

    Raises:
        ValueError: for a wrong name, as `make` does.

    Example:
        >>> from jaxmarl_lite.envs import keywords_of
        >>> keywords_of("toy/memory")
        ['cues', 'delay']
    """
    try:
        _make(env_id, {"": None})  # no environment takes this keyword, and the error has the list
    except UnknownKeywordError as error:
        return error.allowed
    raise AssertionError(f"{env_id} takes any keyword")


def list_environments() -> list[tuple[str, str]]:
    """Returns names to start from, each with its agents, actions and episode limit in words.

    No environment is built and no program compiled.

    Returns:
        Pairs (name, description), in the order toys, ``jumanji``, ``safe``, JaxMARL's suites and
        robots.

    Example:
        >>> from jaxmarl_lite.envs import list_environments
        >>> list_environments()[1]
        ('toy/climbing', '2 agents, 3 actions, at most 1 steps')
    """
    toy_rows = [(f"toy/{name}", summary(name)) for name in TOYS]
    jumanji_rows = [(f"jumanji/{name}", text) for name, text in scenarios.examples()]
    safe_rows = [(f"safe/{name}", text) for name, text in cost_functions.examples()]
    return (
        toy_rows
        + jumanji_rows
        + safe_rows
        + jaxmarl_scenarios.examples()
        + mujoco_scenarios.examples()
    )


def _cost_limit(value: Any) -> Any:
    """Returns a checked limit, or limits by cost name; raises ValueError for any other value."""
    if not isinstance(value, Mapping):
        return None if value is None else check_limit("cost_limit", value)
    return _CostLimit(
        {name: check_limit(f"cost_limit of {name!r}", limit) for name, limit in value.items()}
    )


class _CostLimit(dict[str, Any]):
    """Limits by cost name that can be hashed, so that `make` recognises a repeated call."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


@functools.lru_cache(maxsize=256)
def _make_cached(env_id: str, keywords: tuple[tuple[str, Any], ...]) -> Environment:
    return _make_with_errors(env_id, dict(keywords))


def _make_with_errors(env_id: str, keywords: dict[str, Any]) -> Environment:
    """Builds an environment, and turns a simulator's errors into one line that names the input.

    A simulator rejects sizes and keywords with errors of its own, often of several lines.
    """
    try:
        return _make(env_id, keywords)
    except ImportError:
        raise
    except Exception as error:
        shown_id = show(env_id)[1:-1]
        # an error that names the environment in one line is passed on
        if (
            isinstance(error, ValueError)
            and shown_id.rpartition("/")[2] in str(error)
            and "\n" not in str(error)
        ):
            raise
        arguments = ", ".join(f"{name}={show(value)}" for name, value in keywords.items())
        call = f"{shown_id} with {arguments}" if arguments else shown_id
        text = " ".join(str(error).split()) if isinstance(error, ValueError) else one_line(error)
        raise ValueError(f"env is {call}, which cannot be made: {text}") from error


def _make(env_id: str, keywords: dict[str, Any]) -> Environment:
    suite, slash, name = env_id.partition("/")
    suite = suite if slash else ""
    if suite == "delayed":
        return DelayedRewardWrapper(_make(name, keywords))
    if suite == "toy" and name in TOYS:
        return _make_toy(name, keywords)
    if suite == "jumanji":
        return _make_jumanji(name, keywords)
    if suite == "safe":
        return _make_safe(name, keywords)
    if suite in mujoco_scenarios.SUITES:
        return mujoco_scenarios.build(suite, name, keywords)
    if suite in jaxmarl_scenarios.SUITES:
        return jaxmarl_scenarios.build(suite, name, keywords)
    patterns = ", ".join(f"jumanji/{family.template}" for family in scenarios.FAMILIES)
    patterns += ", " + ", ".join(
        f"safe/{family.template}" for family, _ in cost_functions.families()
    )
    patterns += ", " + ", ".join(
        [*mujoco_scenarios.name_patterns(), *jaxmarl_scenarios.name_patterns()]
    )
    listed = [known for known, _ in list_environments()]
    toy_names = ", ".join(known for known in listed if known.startswith("toy/"))
    others = "jumanji/<Jumanji's own id>, delayed/<any of these>"
    raise unknown_name_error(
        "environment", env_id, listed, f"Allowed: {toy_names}, {patterns}, {others}."
    )


def _make_toy(name: str, keywords: dict[str, Any]) -> Environment:
    toy, fixed = TOYS[name]
    check_names(
        f"toy/{name}",
        keywords,
        [field.name for field in dataclasses.fields(toy) if field.name != "name"],
    )
    return toy(name=f"toy/{name}", **{**fixed, **keywords})


def _make_jumanji(name: str, keywords: dict[str, Any]) -> Environment:
    _import.import_jumanji()
    from jaxmarl_lite.envs.jumanji.adapter import JumanjiEnvironment

    for_adapter = _for_adapter(f"jumanji/{name}", keywords)
    for_jumanji = {k: v for k, v in keywords.items() if k not in scenarios.ADAPTER_KEYWORDS}
    env = scenarios.build(name, for_jumanji)
    if env is None:
        env = _make_registered(name, for_jumanji)
    return _trace_spec(JumanjiEnvironment(env, name=f"jumanji/{name}", **for_adapter))


def _for_adapter(env_id: str, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the adapter's keywords, checked before Jumanji builds anything."""
    if "reward" in keywords:
        check_choice(f"reward of {env_id}", keywords["reward"], ("team", "individual"))
    if "agent_id" in keywords:
        check_bool(f"agent_id of {env_id}", keywords["agent_id"])
    return {k: v for k, v in keywords.items() if k in scenarios.ADAPTER_KEYWORDS}


def _trace_spec(env: Environment) -> Environment:
    """Returns the environment unchanged; tracing its spec here exposes impossible sizes early."""
    _ = env.spec
    return env


def _make_safe(name: str, keywords: dict[str, Any]) -> Environment:
    _import.import_jumanji()
    from jaxmarl_lite.envs.jumanji.adapter import JumanjiEnvironment

    task_keywords = cost_functions.task_of(name).keywords
    for_adapter = _for_adapter(f"safe/{name}", keywords)
    for_costs = {k: v for k, v in keywords.items() if k in task_keywords}
    for_jumanji = {k: v for k, v in keywords.items() if k not in for_adapter and k not in for_costs}
    env = JumanjiEnvironment(
        scenarios.build(name, for_jumanji, task_keywords), name=f"safe/{name}", **for_adapter
    )
    return _trace_spec(cost_functions.constrain(env, name, for_costs))


def _make_registered(name: str, keywords: dict[str, Any]) -> Any:
    """Returns the Jumanji environment of one of Jumanji's own ids."""
    patterns = ", ".join(family.template for family in scenarios.FAMILIES)
    # a name that cannot be an id is refused before Jumanji's environments are imported
    if not re.fullmatch(r"\w+-v\d+", name):
        raise unknown_name_error(
            "Jumanji scenario",
            name,
            [n for n, _ in scenarios.examples()],
            f"Allowed: {patterns}, or one of Jumanji's own ids, such as Connector-v3.",
        )
    from jumanji import registration

    from jaxmarl_lite.envs.jumanji.adapter import ADAPTER_SPECS

    class_names = {
        env_id: env_id.rsplit("-v", 1)[0] for env_id in registration.registered_environments()
    }
    classes = {env_class.__name__: env_class for env_class in ADAPTER_SPECS}
    allowed = sorted(env_id for env_id, class_name in class_names.items() if class_name in classes)
    if name not in allowed:
        known = [*(n for n, _ in scenarios.examples()), *allowed]
        raise unknown_name_error(
            "Jumanji scenario", name, known, f"Allowed: {patterns}, or {', '.join(allowed)}."
        )
    env_class = classes[class_names[name]]
    check_names(
        f"jumanji/{name}",
        keywords,
        [*scenarios.ADAPTER_KEYWORDS, *scenarios.keywords_of(env_class)],
    )
    return registration.make(name, **scenarios.check_arguments(env_class, keywords))
