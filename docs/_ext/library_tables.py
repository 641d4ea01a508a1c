"""Directives that write what the library itself knows: settings, metrics, environments, names.

    ```{config-fields} MACPOConfig
    ```
    ```{algorithm-metrics} macpo
    ```
    ```{environments} smax mpe
    ```
    ```{public-names}
    ```

Nothing here is a copy: a field that is added to a config is on its page after the next build.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def field_docs(cls: type) -> dict[str, str]:
    """Returns field -> the string below it, of one class and not of its bases."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            docs[statement.target.id] = inspect.cleandoc(after.value.value)
    return docs


def fields_of(cls: type) -> list[tuple[str, str, str]]:
    """Returns name, default and meaning of all fields of a config; own fields come first."""
    docs: dict[str, str] = {}
    for kind in cls.__mro__:
        if dataclasses.is_dataclass(kind):
            docs = docs | {k: v for k, v in field_docs(kind).items() if k not in docs}
    defaults = cls()
    names = {field.name for field in dataclasses.fields(cls)}
    missing = names - set(docs)
    if missing:
        raise ValueError(f"{cls.__name__}: no meaning is written below {sorted(missing)}")
    return [
        (name, value_text(getattr(defaults, name)), text)
        for name, text in docs.items()
        if name in names
    ]


def value_text(value: Any) -> str:
    """Returns a default as a user would write it."""
    return getattr(value, "__name__", None) or repr(value)


@functools.cache
def metrics_of(algorithm: str) -> list[str]:
    """Returns the names of the metrics of an algorithm's training, without training it."""
    import jax

    import jaxmarl_lite as jml

    env = jml.make("toy/budget")
    algo = jml.make_algorithm(algorithm, env.spec)
    init, train = jml.make_train(algo, env, num_envs=4, num_steps=32)
    _, metrics = jax.eval_shape(lambda key: train(init(key), 1), jax.random.key(0))
    return sorted(metrics)


class Table(SphinxDirective):
    """A table whose cells are Markdown."""

    required_arguments = 0
    optional_arguments = 99
    final_argument_whitespace = False

    def rows(self) -> tuple[Sequence[str], Iterable[Sequence[str]]]:
        """Returns the heads and the rows."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Writes the table."""
        heads, rows = self.rows()
        lines = [heads, [":--"] * len(heads), *rows]
        text = "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)
        parsed = self.parse_text_to_nodes(text)
        for table in parsed:
            table["classes"].append(self.name)
        return parsed


def cell(text: str) -> str:
    """Returns a text as a cell of a Markdown table; a space that does not break stays one."""
    return re.sub(r"[ \t\n]+", " ", str(text)).strip(" ").replace("|", "\\|")


class ConfigFields(Table):
    """All fields of a config."""

    required_arguments = 1

    def rows(self) -> tuple[Sequence[str], Iterable[Sequence[str]]]:
        """Returns a row for each field."""
        import jaxmarl_lite as jml

        cls = getattr(jml, self.arguments[0])
        rows = [(f"`{name}`", f"`{default}`", text) for name, default, text in fields_of(cls)]
        return ("field", "default", "meaning"), rows


class AlgorithmMetrics(Table):
    """All metrics of an algorithm."""

    required_arguments = 1

    def rows(self) -> tuple[Sequence[str], Iterable[Sequence[str]]]:
        """Returns a row for each metric."""
        from jaxmarl_lite.report import metrics

        names = metrics_of(self.arguments[0])
        return ("metric", "meaning"), [(f"`{name}`", metrics.describe(name)) for name in names]


class Environments(Table):
    """Environments of some suites, with their sizes; columns that are empty are left out."""

    def rows(self) -> tuple[Sequence[str], Iterable[Sequence[str]]]:
        """Returns a row for each environment."""
        import jaxmarl_lite as jml
        from jaxmarl_lite.experiment import random_results

        names = [
            name
            for name in random_results.load()
            if not self.arguments or name.split("/")[0] in self.arguments
        ]
        rows: list[dict[str, str]] = []
        for name in names:
            spec = jml.make(name).spec
            random = random_results.load()[name]
            costs = [
                f"{cost} {random_results.cost_text(random, k)}".replace(" ", "\u00a0")
                for k, cost in enumerate(spec.cost_names)
            ]
            best = "" if spec.max_return is None else f"{spec.max_return:g}"
            actions = f"{spec.action_size}\u00a0{spec.action_type}"
            row = {  # what most readers look for comes first: the table may be wider than a screen
                "environment": f"`{name}`",
                "agents": str(spec.num_agents),
                "random": random_results.return_text(random),
                "best": best,
                "costs": "; ".join(costs),
                "steps": str(spec.max_episode_steps),
                "actions": actions,
                "view": str(spec.obs_size),
                "state": str(spec.global_state_size),
            }
            rows.append(row)
        heads = [head for head in rows[0] if any(row[head] for row in rows)]
        return heads, [[row[head] for head in heads] for row in rows]


def setup(app: Sphinx) -> dict[str, Any]:
    """Adds the directives."""
    app.add_directive("config-fields", ConfigFields)
    app.add_directive("algorithm-metrics", AlgorithmMetrics)
    app.add_directive("environments", Environments)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
