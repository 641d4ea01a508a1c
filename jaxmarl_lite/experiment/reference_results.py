"""Reference results: learning curves that come with the package, to compare one's own with.

Each is a run of `compare`, stored as one small file: a line that says what was run (algorithm,
environment, settings, package versions, device and the command), and a line for each seed and
evaluation. Beside them stand the values that papers publish for the same environments.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from jaxmarl_lite import references
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment import dataframe
from jaxmarl_lite.experiment.comparison import PublishedValue, folder_name
from jaxmarl_lite.experiment.result import Result, Timings, from_rows, load_run
from jaxmarl_lite.report import atomic_io, loggers, run_dir
from jaxmarl_lite.types import Environment
from jaxmarl_lite.validation import check_choice

if TYPE_CHECKING:
    from pandas import DataFrame

DATA = Path(__file__).parent.parent / "reference_data"
"""Folder of the files."""

_SUFFIX = ".jsonl.gz"
_DIGITS = 5
"""Significant digits of a stored number: its error is far below that of any evaluation."""


class ReferenceRun(NamedTuple):
    """One stored run.

    Attributes:
        label: name of the variant, such as ``macpo``.
        env: id of the environment.
        command: the command that trains it again.
        versions: packages, Python, platform and devices that it ran with.
        config: content of its config.json.
        random_returns: mean return of the random policy by seed, or None.
        timings: durations, by the fields of `Timings`.
        rows: metrics, one row for each seed and evaluation.
    """

    label: str
    env: str
    command: str
    versions: dict[str, Any]
    config: dict[str, Any]
    random_returns: list[float] | None
    timings: dict[str, float]
    rows: list[loggers.Row]


def reference_results(env: str | None = None) -> DataFrame:
    """Loads the reference results: learning curves by seed, measured with this library.

    Args:
        env: id of an environment; None: all that have reference results.

    Returns:
        A pandas data frame with a row for each run, seed and evaluation. Columns are ``label`` (the
        name of the variant), ``algorithm``, ``env``, ``seed``, ``update``, ``step``, the metrics
        (``eval_return``; ``eval_win_rate`` and ``eval_cost/agent_0/cost_0`` where there are some),
        every setting as in `load_runs`, and ``command``, ``device``, ``version.jax`` and the other
        packages: what was run, on what, with which versions.

    Raises:
        ImportError: pandas, of the extra ``dataframe``, is not installed.
        ValueError: the environment has no reference results; the message names those that have.

    Example:
        >>> import jaxmarl_lite as jml
        >>> frame = jml.reference_results("toy/budget")
        >>> last = frame[frame["step"] == frame["step"].max()]
        >>> round(float(last.groupby("label")["eval_return"].mean()["macpo"]))
        6
    """
    pandas = references.import_extra("pandas", "data frames need", "dataframe")
    return pandas.DataFrame([row for run in load(env) for row in _rows(run)])


def environments() -> list[str]:
    """Returns the ids of the environments that have reference results, by name."""
    return sorted({run.env for run in load()})


def load(env: str | None = None) -> list[ReferenceRun]:
    """Reads the stored runs.

    Args:
        env: id of an environment; None: all.

    Returns:
        The runs, by environment and label.

    Raises:
        ValueError: the environment has none.
    """
    runs = [_read(path) for path in sorted(DATA.glob(f"*/*{_SUFFIX}"))]
    if env is not None:
        check_choice("env", env, sorted({run.env for run in runs}))
    return [run for run in runs if env in (None, run.env)]


def results(env: str, environment: Environment) -> dict[str, Result]:
    """Returns the stored runs in an environment as results, for tables and plots.

    Args:
        env: id of the environment.
        environment: the environment.

    Returns:
        Label -> `Result`, without training states; empty where nothing is stored.
    """
    return {run.label: to_result(run, environment) for run in load() if run.env == env}


def to_result(run: ReferenceRun, environment: Environment) -> Result:
    """Returns a stored run as a `Result`, whose curves are there and whose policies are not.

    Args:
        run: the run.
        environment: its environment.

    Returns:
        The result; its training states raise ValueError.
    """

    def no_states() -> NoReturn:
        raise ValueError(
            f"the reference result {run.label} in {run.env} has curves alone; allowed is a run of "
            f"yours: {run.command}"
        )

    random = run.random_returns
    return from_rows(
        experiment_config.from_dict(run.config, f"the reference result {run.label}"),
        environment,
        run.rows,
        None if random is None else np.asarray(random, float),
        Timings(**run.timings),
        None,
        no_states,
    )


def published_values(env: str) -> list[PublishedValue]:
    """Returns what papers publish for an environment.

    Args:
        env: id of the environment.

    Returns:
        The values; empty where no paper has the environment.
    """
    entries = json.loads((DATA / "published.json").read_text(encoding="utf-8"))
    return [
        PublishedValue(paper["paper"], paper["source"], paper["steps"], **value)
        for paper in entries
        for value in paper["values"]
        if value["env"] == env
    ]


def record(path: Path | str, label: str, command: str, out: Path | str | None = None) -> Path:
    """Stores a finished run as a reference result.

    Args:
        path: folder of the run.
        label: name of the variant.
        command: the command that trains it again.
        out: folder of the files, None: that of the package; a result of the same environment and
            label is replaced.

    Returns:
        The file.

    Raises:
        RunFolderError: the folder holds no run, or a damaged one.
        ValueError: the run is not finished, or a seed has diverged.
    """
    result, stored = load_run(path), run_dir.load(path)
    plan = result.plan
    last = plan.num_updates * plan.batch_steps
    if int(result.steps[-1]) < last or np.isnan(result.returns).any():
        raise ValueError(
            f"the run in {path} has {int(result.steps[-1]):,} of {last:,} steps and the diverged "
            f"seeds {result.diverged}; allowed is a finished run without any"
        )
    random = result.random_returns
    header = {
        "label": label,
        "env": plan.env,
        "command": command,
        "versions": stored.versions,
        "config": stored.config,
        "random_returns": None if random is None else random.tolist(),
        "timings": result.timings._asdict(),
    }
    order = {seed: i for i, seed in enumerate(plan.seeds)}
    rows = sorted(
        (row for row in stored.rows if "eval_return" in row),
        key=lambda row: (order[row["seed"]], row["update"]),
    )
    lines = [header, *({name: _rounded(x) for name, x in row.items()} for row in rows)]
    text = "".join(atomic_io.to_json(line) + "\n" for line in lines)
    file = (DATA if out is None else Path(out)) / folder_name(plan.env) / f"{label}{_SUFFIX}"
    file.parent.mkdir(parents=True, exist_ok=True)
    # without a time of its own, the same run gives the same bytes
    atomic_io.replace_bytes(file, gzip.compress(text.encode(), mtime=0))
    return file


def _read(path: Path) -> ReferenceRun:
    """Reads the file of a stored run."""
    header, _, rows = gzip.decompress(path.read_bytes()).partition(b"\n")
    return ReferenceRun(**atomic_io.from_json(header), rows=loggers.parse_rows(rows, path))


def _rounded(value: Any) -> Any:
    """Rounds a metric to the digits that are stored; whole numbers stay as they are."""
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{_DIGITS}g}")
    return value


def _rows(run: ReferenceRun) -> Iterable[dict[str, Any]]:
    """Yields the rows of a stored run as those of a data frame."""
    plan = experiment_config.from_dict(run.config, f"the reference result {run.label}")
    about = {
        "command": run.command,
        "device": run.versions["device_kind"],
        **{f"version.{name}": text for name, text in run.versions["packages"].items()},
    }
    for row in run.rows:
        index = dataframe.row_index(plan, row["seed"], row["update"], row["step"])
        metrics = {name: x for name, x in row.items() if name not in loggers.INDEX}
        yield {"label": run.label, **index, **metrics, **dataframe.flat_settings(plan), **about}
