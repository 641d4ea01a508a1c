"""Names of the scenarios used in the literature, and the Jumanji environment of each.

Reading a name costs nothing: Jumanji is imported only when an environment is built.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmarl_lite.envs._import import load
from jaxmarl_lite.envs.errors import check_names, unknown_name_error
from jaxmarl_lite.validation import (
    MOST,
    check_bool,
    check_int,
    check_number,
    invalid,
    one_line,
    show,
)

if TYPE_CHECKING:
    from jaxmarl_lite.envs.jumanji.adapter import JumanjiEnvironment

Settings = dict[str, Any]
ADAPTER_KEYWORDS = ("reward", "agent_id")
"""Keywords that the adapter takes, in addition to Jumanji's own."""
_ROUTING = "jumanji.environments.routing"
_WAREHOUSES = {"tiny": (1, 3), "small": (2, 3), "medium": (2, 5), "large": (3, 5)}
_DIFFICULTY = {"": 1.0, "-easy": 2.0, "-hard": 0.5}


@dataclasses.dataclass(frozen=True)
class ScenarioFamily:
    """All scenarios whose names follow one pattern."""

    template: str
    """The pattern in a readable form, for messages."""
    regex: str
    """The pattern as a regular expression over the whole name."""
    environment: str
    """``module:class`` of the Jumanji environment."""
    generator: str
    """``module:class`` of the generator that draws its initial states."""
    settings: Callable[[re.Match[str]], tuple[Settings, Settings]]
    """Maps a matched name to the keywords of the generator and of the environment."""
    agents_key: str
    """The generator's keyword for the number of agents."""
    actions: str
    """An agent's choices, in words."""
    examples: tuple[str, ...]
    """Names that the literature uses."""
    fits: Callable[[Settings], None] = lambda generator: None
    """Raises ValueError for impossible sizes of the generator that Jumanji itself accepts."""


def _foraging(match: re.Match[str]) -> tuple[Settings, Settings]:
    view_range, rows, columns, agents, food, coop = match.groups()
    if rows != columns:
        raise ValueError(f"the grid must be square, not {rows}x{columns}")
    size = int(rows)
    generator = dict(
        grid_size=size,
        fov=int(view_range or size),
        num_agents=int(agents),
        num_food=int(food),
        max_agent_level=2,
        force_coop=coop is not None,
    )
    return generator, dict(time_limit=100)


def _warehouse(match: re.Match[str]) -> tuple[Settings, Settings]:
    size, agents, difficulty = match.group(1), int(match.group(2)), match.group(3) or ""
    rows, columns = _WAREHOUSES[size]
    generator = dict(
        shelf_rows=rows,
        shelf_columns=columns,
        column_height=8,
        num_agents=agents,
        sensor_range=1,
        request_queue_size=max(1, int(agents * _DIFFICULTY[difficulty])),
    )
    return generator, dict(time_limit=500)


def _connector(match: re.Match[str]) -> tuple[Settings, Settings]:
    rows, columns, agents = map(int, match.groups())
    if rows != columns:
        raise ValueError(f"the grid must be square, not {rows}x{columns}")
    return dict(grid_size=rows, num_agents=agents), dict(time_limit=rows * columns)


def _connector_fits(generator: Settings) -> None:
    cells, agents = generator["grid_size"] ** 2, generator["num_agents"]
    if 2 * agents > cells:  # every agent has a start and a target
        raise invalid("num_agents", agents, f"{cells // 2} at most on {cells} cells")


def _cleaner(match: re.Match[str]) -> tuple[Settings, Settings]:
    rows, columns, agents = map(int, match.groups())
    return dict(num_rows=rows, num_cols=columns, num_agents=agents), dict(time_limit=rows * columns)


def _search(match: re.Match[str]) -> tuple[Settings, Settings]:
    searchers, targets = map(int, match.groups())
    return dict(num_searchers=searchers, num_targets=targets), dict(time_limit=400)


def _spanning_tree(match: re.Match[str]) -> tuple[Settings, Settings]:
    agents, nodes = map(int, match.groups())
    generator = dict(
        num_nodes=nodes, num_edges=2 * nodes, max_degree=5, num_agents=agents, num_nodes_per_agent=4
    )
    return generator | dict(max_step=70), dict(time_limit=70)


def _routes(match: re.Match[str]) -> tuple[Settings, Settings]:
    vehicles, customers = map(int, match.groups())
    return dict(num_vehicles=vehicles, num_customers=customers), {}


FAMILIES = (
    ScenarioFamily(
        template="lbf-[<sight>s-]<grid>x<grid>-<agents>p-<food>f[-coop]",
        regex=r"lbf-(?:(\d+)s-)?(\d+)x(\d+)-(\d+)p-(\d+)f(-coop)?",
        environment=f"{_ROUTING}.lbf.env:LevelBasedForaging",
        generator=f"{_ROUTING}.lbf.generator:RandomGenerator",
        settings=_foraging,
        agents_key="num_agents",
        actions="6 actions",
        examples=(
            "lbf-2s-8x8-2p-2f-coop",
            "lbf-8x8-2p-2f-coop",
            "lbf-2s-10x10-3p-3f",
            "lbf-10x10-3p-3f",
            "lbf-15x15-3p-5f",
            "lbf-15x15-4p-3f",
            "lbf-15x15-4p-5f",
        ),
    ),
    ScenarioFamily(
        template="rware-{tiny,small,medium,large}-<agents>ag[-easy|-hard]",
        regex=r"rware-(tiny|small|medium|large)-(\d+)ag(-easy|-hard)?",
        environment=f"{_ROUTING}.robot_warehouse.env:RobotWarehouse",
        generator=f"{_ROUTING}.robot_warehouse.generator:RandomGenerator",
        settings=_warehouse,
        agents_key="num_agents",
        actions="5 actions",
        examples=(
            "rware-tiny-2ag",
            "rware-tiny-4ag",
            "rware-tiny-4ag-easy",
            "rware-small-4ag",
            "rware-small-4ag-hard",
        ),
    ),
    ScenarioFamily(
        template="connector-<grid>x<grid>x<agents>a",
        regex=r"con(?:nector)?-(\d+)x(\d+)x(\d+)a",
        environment=f"{_ROUTING}.connector.env:Connector",
        generator=f"{_ROUTING}.connector.generator:RandomWalkGenerator",
        settings=_connector,
        agents_key="num_agents",
        actions="5 actions",
        examples=(
            "connector-5x5x3a",
            "connector-7x7x5a",
            "connector-10x10x10a",
            "connector-15x15x23a",
        ),
        fits=_connector_fits,
    ),
    ScenarioFamily(
        template="cleaner-<grid>x<grid>x<agents>a",
        regex=r"clean(?:er)?-(\d+)x(\d+)x(\d+)a",
        environment=f"{_ROUTING}.cleaner.env:Cleaner",
        generator=f"{_ROUTING}.cleaner.generator:RandomGenerator",
        settings=_cleaner,
        agents_key="num_agents",
        actions="4 actions",
        examples=("cleaner-5x5x5a", "cleaner-10x10x10a", "cleaner-15x15x15a"),
    ),
    ScenarioFamily(
        template="search-and-rescue-<searchers>s-<targets>t",
        regex=r"search-and-rescue-(\d+)s-(\d+)t",
        environment="jumanji.environments.swarms.search_and_rescue.env:SearchAndRescue",
        generator="jumanji.environments.swarms.search_and_rescue.generator:RandomGenerator",
        settings=_search,
        agents_key="num_searchers",
        actions="2 continuous dimensions",
        examples=("search-and-rescue-2s-40t", "search-and-rescue-4s-40t"),
    ),
    ScenarioFamily(
        template="mmst-<agents>a-<nodes>n",
        regex=r"mmst-(\d+)a-(\d+)n",
        environment=f"{_ROUTING}.mmst.env:MMST",
        generator=f"{_ROUTING}.mmst.generator:SplitRandomGenerator",
        settings=_spanning_tree,
        agents_key="num_agents",
        actions="one action per node",
        examples=("mmst-2a-20n", "mmst-3a-36n"),
    ),
    ScenarioFamily(
        template="multi-cvrp-<vehicles>v-<customers>c (2 or 3 vehicles with 6 or 20 customers, 2 "
        "to 5 with 50 or 100)",
        regex=r"multi-cvrp-(\d+)v-(\d+)c",
        environment=f"{_ROUTING}.multi_cvrp.env:MultiCVRP",
        generator=f"{_ROUTING}.multi_cvrp.generator:UniformRandomGenerator",
        settings=_routes,
        agents_key="num_vehicles",
        actions="one action per customer and the depot",
        examples=("multi-cvrp-2v-6c", "multi-cvrp-2v-20c"),
    ),
)
"""Every family of scenario names."""


def examples(suite: str) -> list[tuple[str, str]]:
    """Returns the literature's scenario names, each with its agents, actions and episode limit.

    Args:
        suite: ``jumanji``.
    """
    return [
        (f"{suite}/{name}", describe(family, name))
        for family in FAMILIES
        for name in family.examples
    ]


def name_patterns(suite: str) -> list[str]:
    """Returns the patterns of the names in a readable form, for messages.

    Args:
        suite: ``jumanji``.
    """
    return [*(f"{suite}/{family.template}" for family in FAMILIES), f"{suite}/<Jumanji's own id>"]


def describe(family: ScenarioFamily, name: str) -> str:
    """Returns the number of agents, the actions and the episode limit of a scenario, in words.

    Args:
        family: the family whose pattern the name follows.
        name: the scenario's name.

    Returns:
        A line such as ``"2 agents, 6 actions, at most 100 steps"``.
    """
    generator, environment = _settings(family, name)
    limit = environment.get("time_limit", 2 * generator.get("num_customers", 0))
    return f"{generator[family.agents_key]} agents, {family.actions}, at most {limit} steps"


def build(suite: str, name: str, keywords: Mapping[str, Any]) -> JumanjiEnvironment:
    """Builds the environment of a scenario's name, or of one of Jumanji's own ids.

    Args:
        suite: ``jumanji``.
        name: the part of the name after the suite and the slash.
        keywords: the adapter's, and any of the Jumanji environment or its generator.

    Returns:
        The environment.

    Raises:
        ValueError: for an unknown name or keyword, or sizes that Jumanji refuses.
    """
    native = build_native(name, keywords) or _build_registered(name, keywords)
    return adapt(native, f"{suite}/{name}", keywords)


def adapt(native: Any, env_id: str, keywords: Mapping[str, Any]) -> JumanjiEnvironment:
    """Returns a Jumanji environment behind the library's protocol.

    Args:
        native: the Jumanji environment.
        env_id: its name in ``spec``.
        keywords: those of the adapter are used.

    Returns:
        The environment.

    Raises:
        ValueError: for a value that the adapter refuses.
    """
    from jaxmarl_lite.envs.jumanji.adapter import JumanjiEnvironment

    for_adapter = {field: keywords[field] for field in ADAPTER_KEYWORDS if field in keywords}
    env = JumanjiEnvironment(native, env_id, **for_adapter)
    _ = env.spec  # tracing here exposes impossible sizes early
    return env


def build_native(
    name: str, keywords: Mapping[str, Any], other_keywords: Iterable[str] = ADAPTER_KEYWORDS
) -> Any | None:
    """Builds the Jumanji environment of a scenario name.

    Args:
        name: the scenario's name.
        keywords: any keywords of the environment or its generator; they override those that the
            name stands for.
        other_keywords: names that the caller takes itself: their values are ignored.

    Returns:
        The Jumanji environment, or None when the name follows no pattern.

    Raises:
        ValueError: for an unknown keyword, or sizes that Jumanji refuses.
    """
    load("jumanji")
    for family in FAMILIES:
        if re.fullmatch(family.regex, name):
            return _construct(family, name, keywords, list(other_keywords))
    return None


def _build_registered(name: str, keywords: Mapping[str, Any]) -> Any:
    """Returns the Jumanji environment of one of Jumanji's own ids."""
    patterns = ", ".join(family.template for family in FAMILIES)
    known = [example for family in FAMILIES for example in family.examples]
    # a name that cannot be an id is refused before Jumanji's environments are imported
    if not re.fullmatch(r"\w+-v\d+", name):
        also = f"Allowed: {patterns}, or one of Jumanji's own ids, such as Connector-v3."
        raise unknown_name_error("Jumanji scenario", name, known, also)
    from jumanji import registration

    from jaxmarl_lite.envs.jumanji.env_specs import ADAPTER_SPECS

    classes = {env_class.__name__: env_class for env_class in ADAPTER_SPECS}
    classes = {
        env_id: classes[env_id.rsplit("-v", 1)[0]]
        for env_id in sorted(registration.registered_environments())
        if env_id.rsplit("-v", 1)[0] in classes
    }
    if name not in classes:
        also = f"Allowed: {patterns}, or {', '.join(classes)}."
        raise unknown_name_error("Jumanji scenario", name, [*known, *classes], also)
    check_names(f"jumanji/{name}", keywords, [*ADAPTER_KEYWORDS, *parameters_of(classes[name])])
    arguments = {k: v for k, v in keywords.items() if k not in ADAPTER_KEYWORDS}
    return registration.make(name, **_check_arguments(classes[name], arguments))


def _settings(family: ScenarioFamily, name: str) -> tuple[Settings, Settings]:
    """Returns the keywords of generator and environment that a name stands for."""
    match = re.fullmatch(family.regex, name)
    assert match is not None
    return family.settings(match)


def _construct(
    family: ScenarioFamily, name: str, keywords: Mapping[str, Any], other_keywords: list[str]
) -> Any:
    environment_class, generator_class = (
        getattr(load(module), class_name)
        for module, class_name in (family.environment.split(":"), family.generator.split(":"))
    )
    environment_names = parameters_of(environment_class)
    generator_names = parameters_of(generator_class)
    check_names(name, keywords, [*other_keywords, *environment_names, *generator_names])
    keywords = {k: v for k, v in keywords.items() if k not in other_keywords}
    # a generator object fixes all sizes, so that keywords of a generator would have no effect
    has_generator = "generator" in keywords
    clash = sorted(set(keywords) & set(generator_names)) if has_generator else []
    if clash:
        raise ValueError(
            f"{name}: {', '.join(clash)} would be ignored, as generator is given; give one of the "
            "two"
        )
    try:
        generator, environment = _settings(family, name)
        generator |= {k: v for k, v in keywords.items() if k in generator_names}
        environment |= {k: v for k, v in keywords.items() if k in environment_names}
        environment = _check_arguments(environment_class, environment)
        if not has_generator:
            generator = _check_arguments(generator_class, generator)
            family.fits(generator)
            environment["generator"] = generator_class(**generator)
        return environment_class(**environment)
    except Exception as error:
        # Jumanji's assertions explain themselves; other errors are shown with their type
        text = (
            " ".join(str(error).split())
            if isinstance(error, (AssertionError, ValueError))
            else one_line(error)
        )
        arguments = ", ".join(
            f"{field}={show(value)}" for field, value in keywords.items() if field not in text
        )
        suffix = f" (with {arguments})" if arguments else ""
        raise ValueError(f"{name}: {text}{suffix}") from error


def _check_arguments(constructor: type, arguments: Mapping[str, Any]) -> Settings:
    """Returns checked arguments, with numbers converted to Python's.

    Whole numbers are sizes, 1 or more. The annotations of the class's ``__init__`` are the rule.

    Raises:
        ValueError: for an argument that its annotation does not allow.
    """
    checked = dict(arguments)
    for field, kind in typing.get_type_hints(constructor.__init__).items():
        if field not in arguments:
            continue
        value, options = arguments[field], typing.get_args(kind)
        if len(options) == 2 and type(None) in options:  # Optional
            if value is None:
                continue
            kind = options[0] if options[1] is type(None) else options[1]
        kind = typing.get_origin(kind) or kind
        # an annotation may also be jnp.int32, which carries a dtype
        if kind is int or getattr(kind, "dtype", None) == np.int32:
            checked[field] = check_int(field, value, 1, MOST)
        elif kind is float:
            checked[field] = check_number(field, value)
        elif kind is bool:
            checked[field] = check_bool(field, value)
        elif isinstance(kind, type) and not isinstance(value, kind):
            raise invalid(field, value, f"a {kind.__module__}.{kind.__qualname__}")
    return checked


def parameters_of(constructor: Callable[..., Any]) -> list[str]:
    """Returns the names of the arguments that a class or function takes.

    Args:
        constructor: the class or function.

    Returns:
        The names in order, without ``*args`` and ``**kwargs``.
    """
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        name for name, p in inspect.signature(constructor).parameters.items() if p.kind not in kinds
    ]
