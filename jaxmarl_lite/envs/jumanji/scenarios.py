"""Names of the scenarios used in the literature, and the Jumanji environment of each.

Reading a name costs nothing: Jumanji is imported only when an environment is built.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from jaxmarl_lite.envs.errors import check_names
from jaxmarl_lite.validation import (
    MOST,
    check_bool,
    check_int,
    check_number,
    invalid,
    one_line,
    show,
)

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


def examples() -> list[tuple[str, str]]:
    """Returns the literature's scenario names, each with its agents, actions and episode limit."""
    return [(name, describe(family, name)) for family in FAMILIES for name in family.examples]


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


def build(name: str, keywords: Mapping[str, Any], other_keywords: Iterable[str] = ()) -> Any | None:
    """Builds the Jumanji environment of a scenario name.

    Args:
        name: the scenario's name.
        keywords: any keywords of the environment or its generator; they override those that the
            name stands for.
        other_keywords: names that the caller takes itself, to be listed with the allowed ones in an
            error.

    Returns:
        The Jumanji environment, or None when the name follows no pattern.

    Raises:
        ValueError: for an unknown keyword, or sizes that Jumanji refuses.
    """
    for family in FAMILIES:
        if re.fullmatch(family.regex, name):
            return _construct(family, name, dict(keywords), other_keywords)
    return None


def _settings(family: ScenarioFamily, name: str) -> tuple[Settings, Settings]:
    """Returns the keywords of generator and environment that a name stands for."""
    match = re.fullmatch(family.regex, name)
    assert match is not None
    return family.settings(match)


def _construct(
    family: ScenarioFamily, name: str, keywords: Settings, other_keywords: Iterable[str]
) -> Any:
    environment_class, generator_class = load(family.environment), load(family.generator)
    generator_names, environment_names = (
        keywords_of(generator_class),
        keywords_of(environment_class),
    )
    check_names(
        name, keywords, [*ADAPTER_KEYWORDS, *other_keywords, *environment_names, *generator_names]
    )
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
        environment = check_arguments(environment_class, environment)
        if not has_generator:
            generator = check_arguments(generator_class, generator)
            family.fits(generator)
        if not has_generator:
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


def check_arguments(constructor: type, arguments: Mapping[str, Any]) -> Settings:
    """Returns checked arguments, with numbers converted to Python's.

    Whole numbers are sizes, 1 or more.

    Args:
        constructor: the class that takes the arguments; the annotations of its ``__init__`` are the
            rule.
        arguments: values by name.

    Returns:
        The arguments.

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


def load(path: str) -> Any:
    """Returns the object at ``module:name``, importing the module.

    Args:
        path: the module's dotted name, a colon, and the name inside it.

    Returns:
        The object.
    """
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


def keywords_of(constructor: Callable[..., Any]) -> list[str]:
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
