"""Directives that draw and tabulate the reference results which come with the package.

    ```{learning-curve} toy/budget macpo mappo-lagrangian
    ```
    ```{reference-results}
    ```

The first word of a curve is the environment, the others are labels (default: all). Figures and
tables are made from the stored curves in every build, so that they always agree with them.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

FOLDER = Path("images") / "curves"
"""Folder of the figures inside the documentation; git ignores it."""


class LearningCurve(SphinxDirective):
    """The learning curves of an environment's reference results, with what was run."""

    required_arguments = 1
    optional_arguments = 20

    def run(self) -> list[nodes.Node]:
        """Draws the figure and writes the caption."""
        env, *labels = self.arguments
        return self.parse_text_to_nodes(figure(Path(self.env.srcdir), env, tuple(labels)))


class ReferenceResults(SphinxDirective):
    """The reference results of each environment: a table of all labels, and the figure."""

    def run(self) -> list[nodes.Node]:
        """Writes the tables and the figures."""
        parts: list[nodes.Node] = []
        for env in environments():
            parts += [nodes.rubric(env, env)]
            parts += self.parse_text_to_nodes(table(env))
            parts += self.parse_text_to_nodes(figure(Path(self.env.srcdir), env, ()))
        return parts


def table(env: str) -> str:
    """Returns the scores and costs of an environment's results as a table in Markdown."""
    rows = comparison(env).rows()
    has_costs = any(row["costs"] for row in rows)
    heads = ("label", "steps", "score at the end", *(["costs at the end"] if has_costs else []))
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        score = row["final_win_rate"] or row["final_return"]
        costs = [
            f"{cost['cost']} {_interval(cost['mean'])} of {cost['limit']:g}"
            for cost in row["costs"] or ()
        ]
        unit = " wins" if row["final_win_rate"] else ""
        cells = (
            f"`{row['label']}`",
            f"{row['steps'][-1]:,}",
            _interval(score) + unit,
            *(["<br>".join(dict.fromkeys(costs))] if has_costs else []),  # agents may pay the same
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def environments() -> list[str]:
    """Returns the environments that have reference results."""
    from jaxmarl_lite.experiment import reference_results

    return reference_results.environments()


@functools.cache
def comparison(env: str, labels: tuple[str, ...] = ()) -> Any:
    """Returns stored runs in an environment side by side, and what papers publish for it."""
    import jaxmarl_lite as jml
    from jaxmarl_lite.experiment import reference_results
    from jaxmarl_lite.experiment.comparison import Comparison

    results = reference_results.results(env, jml.make(env))
    labels = labels or tuple(results)
    if missing := [label for label in labels if label not in results]:
        raise ValueError(f"{env} has no {missing[0]}; allowed is one of {', '.join(results)}")
    chosen = {label: results[label] for label in labels}
    algorithms = {result.algorithm for result in chosen.values()}
    published = [x for x in reference_results.published_values(env) if x.algorithm in algorithms]
    return Comparison({env: chosen}, labels[0], published={env: published})


@functools.cache
def figure(docs: Path, env: str, labels: tuple[str, ...]) -> str:
    """Draws the curves of an environment; returns the figure in Markdown."""
    from jaxmarl_lite.experiment import reference_results

    drawn = comparison(env, labels)
    runs = {
        run.label: run for run in reference_results.load(env) if run.label in drawn.results[env]
    }
    path = docs / FOLDER / ("-".join([env.replace("/", "-"), *labels]) + ".svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.plot(env, path)
    results = drawn.results[env].values()
    seeds = sorted({len(result.seeds) for result in results})
    steps = " or ".join(f"{x:,}" for x in sorted({int(run.steps[-1]) for run in results}))
    devices = sorted({run.versions["device_kind"] for run in runs.values()})
    commands = "\n".join(run.command for run in runs.values())
    names = ", ".join(runs)
    return (
        f":::{{figure}} /{(FOLDER / path.name).as_posix()}\n"
        f":alt: Learning curves of {names} in {env}\n\n"
        f"`{env}`: {' or '.join(map(str, seeds))} seeds, {steps} environment steps each, "
        f"measured on {' and '.join(devices)}. The data: `jml.reference_results({env!r})`.\n:::\n\n"
        f":::{{dropdown}} Commands\n```text\n{commands}\n```\n:::\n"
    )


def _interval(interval: dict[str, float]) -> str:
    """Returns an estimate with its interval, in four significant digits."""
    return "{estimate:.4g} [{low:.4g}, {high:.4g}]".format_map(interval)


def setup(app: Sphinx) -> dict[str, Any]:
    """Adds the directives."""
    app.add_directive("learning-curve", LearningCurve)
    app.add_directive("reference-results", ReferenceResults)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
