"""Builds and lists environments by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from importlib import metadata
from types import ModuleType
from typing import Any, NamedTuple

import jaxmarl_lite.envs.jaxmarl.scenarios as jaxmarl
import jaxmarl_lite.envs.jumanji.scenarios as jumanji
import jaxmarl_lite.envs.mujoco.scenarios as mujoco
from jaxmarl_lite import references
from jaxmarl_lite.envs import _import, toys
from jaxmarl_lite.envs.checker import check_environment
from jaxmarl_lite.envs.errors import UnknownKeywordError, unknown_name_error
from jaxmarl_lite.envs.jumanji import cost_functions as safe_jumanji
from jaxmarl_lite.envs.wrappers import DelayedRewardWrapper
from jaxmarl_lite.types import Environment, EnvSpec
from jaxmarl_lite.validation import check_limit, invalid, one_line, show, to_plain


class Suite(NamedTuple):
    """Environments whose names begin alike.

    Attributes:
        prefix: first part of their names, before the slash.
        module: module with ``build(prefix, name, keywords)``, ``examples(prefix)``, which lists
            names and descriptions, and ``name_patterns(prefix)``, for messages.
        extra: the extra of this package that installs what they need; "" for none.
    """

    prefix: str
    module: ModuleType
    extra: str = ""


SUITES = (
    Suite("toy", toys),
    Suite("jumanji", jumanji),
    Suite("safe", safe_jumanji),
    Suite("smax", jaxmarl, extra="smax"),
    Suite("mpe", jaxmarl, extra="smax"),
    Suite("safe-mpe", jaxmarl, extra="smax"),
    Suite("overcooked", jaxmarl, extra="smax"),
    Suite("safe-mujoco", mujoco, extra="mujoco"),
    Suite("safe-velocity", mujoco, extra="mujoco"),
    Suite("mujoco", mujoco, extra="mujoco"),
)
"""Every suite; a new one is one line. ``delayed/`` goes before the name of any."""


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
              need the extra ``smax``;
            - ``module:name``, a user's class or function that returns an environment, or an
              environment; it must pass `check_environment`;
            - the name of an entry point of the group ``jaxmarl_lite.envs`` of an installed package,
              which refers to any of these three.
        **keywords: for a user's class or function, its arguments; for a toy, its fields; for
            Jumanji, ``reward`` ("team" or "individual"), ``agent_id`` (bool), and any keyword of
            the Jumanji environment or of the scenario's generator; for ``safe`` also those of the
            task (see ``jaxmarl_lite.envs.jumanji.cost_functions``) and ``cost_limit``, a mapping
            from costs to limits, or the limit of a single cost; for robots see
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
        ValueError: environment is 'toy/climbng'; allowed is ...; nearest: toy/climbing...
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
    reference = _reference_of(env_id)
    if reference is not None:
        target = references.load("env", reference)
        return list(inspect.signature(target).parameters) if callable(target) else []
    try:
        _make(env_id, {"": None})  # no environment takes this keyword, and the error has the list
    except UnknownKeywordError as error:
        return error.allowed
    raise AssertionError(f"{env_id} takes any keyword")


def list_environments() -> list[tuple[str, str]]:
    """Returns names to start from, each with its agents, actions and episode limit in words.

    No environment is built and no program compiled.

    Returns:
        Pairs (name, description), in the order toys, ``jumanji``, ``safe``, JaxMARL's suites,
        robots, and environments of installed packages.

    Example:
        >>> from jaxmarl_lite.envs import list_environments
        >>> list_environments()[1]
        ('toy/climbing', '2 agents, 3 actions, at most 1 steps')
    """
    rows = [row for suite in SUITES for row in suite.module.examples(suite.prefix)]
    return [*rows, *((name, f"{value}, an entry point") for name, value in _installed().items())]


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


_ENTRY_POINTS = "jaxmarl_lite.envs"
"""Group of entry points by which an installed package adds environments."""


def _installed() -> dict[str, str]:
    """Returns the environments of installed packages: name -> reference."""
    return {entry.name: entry.value for entry in metadata.entry_points(group=_ENTRY_POINTS)}


def _reference_of(env_id: str) -> str | None:
    """Returns the reference of a user's or an installed environment; None for one of the suites."""
    return env_id if references.is_reference(env_id) else _installed().get(env_id)


def _make_loaded(env_id: str, reference: str, keywords: dict[str, Any]) -> Environment:
    """Builds the environment that a reference names, and checks it."""
    target: Any = references.load("env", reference)
    env: Any = target
    # a class may have its spec as an attribute of the class
    if isinstance(target, type) or (
        callable(target) and not isinstance(getattr(target, "spec", None), EnvSpec)
    ):
        env = target(**keywords)
    elif keywords:
        raise invalid("env_args", keywords, f"nothing: {env_id} is an object, made already")
    check_environment(env)
    return env


def _make(env_id: str, keywords: dict[str, Any]) -> Environment:
    prefix, _, name = env_id.partition("/")
    if prefix == "delayed" and name:
        return DelayedRewardWrapper(_make(name, keywords))
    reference = _reference_of(env_id)
    if reference is not None:
        return _make_loaded(env_id, reference, keywords)
    for suite in SUITES:
        if suite.prefix == prefix and name:
            try:
                return suite.module.build(prefix, name, keywords)
            except _import.MissingPackageError as error:
                extra = f"install 'jaxmarl-lite[{error.extra or suite.extra}]'"
                raise ImportError(f"{env_id} needs {error}: {extra}") from None
    patterns = [pattern for suite in SUITES for pattern in suite.module.name_patterns(suite.prefix)]
    allowed = f"Allowed: {', '.join(patterns)}, delayed/<any of these>, module:name."
    known = [known for known, _ in list_environments()]
    raise unknown_name_error("environment", env_id, known, allowed)
