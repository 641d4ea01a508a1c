"""Environments by name."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import jaxmarl_lite.envs.jaxmarl.scenarios as jaxmarl
import jaxmarl_lite.envs.jumanji.cost_functions as cost_functions
import jaxmarl_lite.envs.mujoco.scenarios as robots
from jaxmarl_lite.envs.errors import UnknownKeyword, check_names, unknown_name_error
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
    """Build an environment from its name.

    env_id: ``toy/<name>``, ``jumanji/<scenario>`` (``lbf-2s-8x8-2p-2f-coop``, ``rware-tiny-4ag``
        and so on), ``jumanji/<Jumanji's own id>`` (``LevelBasedForaging-v0``), or
        ``safe/<scenario>``: a scenario with costs; ``safe-mujoco/<robot>-<partition>``
        (``ant-2x4``, ``manyagent-ant-3x2``), ``safe-velocity/...``, and ``mujoco/...`` without
        costs, which need the extra ``mujoco``; ``smax/<map>``, ``mpe/...``, ``safe-mpe/...`` and
        ``overcooked/<kitchen>``, which need the extra ``smax``; ``delayed/<any of these>``: its
        reward is paid in one sum when the episode ends.
    keywords: for a toy, its fields; for Jumanji, ``reward`` ("team" or "individual"), ``agent_id``
        (bool), and any keyword of the Jumanji environment, or of the scenario's generator; with
        costs also those of the task (see ``jaxmarl_lite.envs.jumanji.cost_functions``) and
        ``cost_limit``, a mapping from costs to limits, or the limit of a single cost; for robots
        see ``jaxmarl_lite.envs.mujoco``, for the last four ``jaxmarl_lite.envs.jaxmarl``.

    The same call answers the same object where the keywords can be hashed, so that what was
    compiled for it is reused. Raises ValueError for a wrong name, naming the nearest ones and what
    is allowed.
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
        return _make_or_say(env_id, keywords)
    return _make_cached(env_id, items)


def keywords_of(env_id: str) -> list[str]:
    """The keywords that `make` takes for an environment; ValueError for a wrong name, as there."""
    try:
        _make(env_id, {"": None})  # which no environment takes
    except UnknownKeyword as error:
        return error.allowed
    raise AssertionError(f"{env_id} takes any keyword")


def list_environments() -> list[tuple[str, str]]:
    """Names to start from, each with its agents, actions and episode limit in words; nothing is
    built or compiled.
    """
    toy_rows = [(f"toy/{name}", summary(name)) for name in TOYS]
    jumanji_rows = [(f"jumanji/{name}", words) for name, words in scenarios.examples()]
    safe_rows = [(f"safe/{name}", words) for name, words in cost_functions.examples()]
    return toy_rows + jumanji_rows + safe_rows + jaxmarl.examples() + robots.examples()


def _cost_limit(value: Any) -> Any:
    """A limit, or limits by the names of costs; ValueError for what is no limit."""
    if not isinstance(value, Mapping):
        return None if value is None else check_limit("cost_limit", value)
    return _CostLimit(
        {name: check_limit(f"cost_limit of {name!r}", limit) for name, limit in value.items()}
    )


class _CostLimit(dict[str, Any]):
    """Limits by the names of costs, which can be hashed, so that the same call of `make` is known
    again.
    """

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


@functools.lru_cache(maxsize=256)
def _make_cached(env_id: str, keywords: tuple[tuple[str, Any], ...]) -> Environment:
    return _make_or_say(env_id, dict(keywords))


def _make_or_say(env_id: str, keywords: dict[str, Any]) -> Environment:
    """`_make`, with what a simulator says of a size or keyword it cannot take in one line that
    names them.
    """
    try:
        return _make(env_id, keywords)
    except ImportError:
        raise
    except Exception as error:
        shown = show(env_id)[1:-1]
        if (
            isinstance(error, ValueError)
            and shown.rpartition("/")[2] in str(error)
            and "\n" not in str(error)
        ):
            raise
        given = ", ".join(f"{name}={show(value)}" for name, value in keywords.items())
        which = f"{shown} with {given}" if given else shown
        text = " ".join(str(error).split()) if isinstance(error, ValueError) else one_line(error)
        raise ValueError(f"env is {which}, which cannot be made: {text}") from error


def _make(env_id: str, keywords: dict[str, Any]) -> Environment:
    room, slash, name = env_id.partition("/")
    room = room if slash else ""
    if room == "delayed":
        return DelayedRewardWrapper(_make(name, keywords))
    if room == "toy" and name in TOYS:
        return _make_toy(name, keywords)
    if room == "jumanji":
        return _make_jumanji(name, keywords)
    if room == "safe":
        return _make_safe(name, keywords)
    if room in robots.SUITES:
        return robots.build(room, name, keywords)
    if room in jaxmarl.SUITES:
        return jaxmarl.build(room, name, keywords)
    patterns = ", ".join(f"jumanji/{family.template}" for family in scenarios.FAMILIES)
    patterns += ", " + ", ".join(
        f"safe/{family.template}" for family, _ in cost_functions.families()
    )
    patterns += ", " + ", ".join([*robots.name_patterns(), *jaxmarl.name_patterns()])
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
        env = _registered(name, for_jumanji)
    return _traced(JumanjiEnvironment(env, name=f"jumanji/{name}", **for_adapter))


def _for_adapter(env_id: str, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The adapter's own keywords, checked before Jumanji builds anything."""
    if "reward" in keywords:
        check_choice(f"reward of {env_id}", keywords["reward"], ("team", "individual"))
    if "agent_id" in keywords:
        check_bool(f"agent_id of {env_id}", keywords["agent_id"])
    return {k: v for k, v in keywords.items() if k in scenarios.ADAPTER_KEYWORDS}


def _traced(env: Environment) -> Environment:
    """The environment, once its sizes are known: sizes that cannot be are found by tracing it."""
    env.spec  # noqa: B018
    return env


def _make_safe(name: str, keywords: dict[str, Any]) -> Environment:
    _import.import_jumanji()
    from jaxmarl_lite.envs.jumanji.adapter import JumanjiEnvironment

    its = cost_functions.task_of(name).keywords
    for_adapter = _for_adapter(f"safe/{name}", keywords)
    for_costs = {k: v for k, v in keywords.items() if k in its}
    for_jumanji = {k: v for k, v in keywords.items() if k not in for_adapter and k not in for_costs}
    env = JumanjiEnvironment(
        scenarios.build(name, for_jumanji, its), name=f"safe/{name}", **for_adapter
    )
    return _traced(cost_functions.constrain(env, name, for_costs))


def _registered(name: str, keywords: dict[str, Any]) -> Any:
    """The environment of one of Jumanji's own ids."""
    patterns = ", ".join(family.template for family in scenarios.FAMILIES)
    if not re.fullmatch(
        r"\w+-v\d+", name
    ):  # no id of Jumanji's: said before its environments are imported
        raise unknown_name_error(
            "Jumanji scenario",
            name,
            [n for n, _ in scenarios.examples()],
            f"Allowed: {patterns}, or one of Jumanji's own ids, such as Connector-v3.",
        )
    from jumanji import registration

    from jaxmarl_lite.envs.jumanji.adapter import ADAPTER_SPECS

    own = {env_id: env_id.rsplit("-v", 1)[0] for env_id in registration.registered_environments()}
    classes = {kind.__name__: kind for kind in ADAPTER_SPECS}
    allowed = sorted(env_id for env_id, short in own.items() if short in classes)
    if name not in allowed:
        known = [*(n for n, _ in scenarios.examples()), *allowed]
        raise unknown_name_error(
            "Jumanji scenario", name, known, f"Allowed: {patterns}, or {', '.join(allowed)}."
        )
    kind = classes[own[name]]
    check_names(
        f"jumanji/{name}", keywords, [*scenarios.ADAPTER_KEYWORDS, *scenarios.keywords_of(kind)]
    )
    return registration.make(name, **scenarios.check_arguments(kind, keywords))
