"""Loggers of a run beside its record: CSV, TensorBoard, W&B, MLflow, and a user's own.

The record of a run is metrics.jsonl. A logger receives the same rows; one that fails is left out
and never ends a run. In a run of several processes only process 0 logs.
"""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxmarl_lite import references, validation
from jaxmarl_lite.report import atomic_io
from jaxmarl_lite.report.loggers import INDEX, Row


class RunInfo(NamedTuple):
    """The run that a logger logs.

    Attributes:
        id: text that no other run has, and that stays the same when the run is resumed.
        name: name of the run's folder; of algorithm and environment where it has none.
        config: settings of the run, as in config.json.
        folder: folder of the run, absolute; None where nothing is kept.
        rows: rows that earlier sessions of a resumed run kept; empty for a new run.
        resume_step: environment steps of the checkpoint from which a resumed run continues; -1
            where it begins again; None for a new run.
    """

    id: str
    name: str
    config: Mapping[str, Any]
    folder: Path | None
    rows: Sequence[Row] = ()
    resume_step: int | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the run."""
        return tuple(self.config["seeds"])


@runtime_checkable
class Logger(Protocol):
    """Interface of every logger: an object with these three methods.

    An exception in a method is reported once; the logger is closed, and the run goes on without it.
    """

    def start(self, run: RunInfo) -> None:
        """Begins to log a run, before its first row, or goes on when it is resumed.

        A resumed run repeats what came after its checkpoint. A logger that logged rows after
        ``run.rows`` before will receive them again, with the same numbers except for timings.

        Args:
            run: the run.
        """
        ...

    def write(self, rows: Sequence[Row]) -> None:
        """Logs the rows of one evaluation.

        Args:
            rows: a row for each seed: ``update``, ``step``, ``seed`` and a float for each metric,
                NaN among them.
        """
        ...

    def close(self) -> None:
        """Writes what is left and releases everything; calling it again does nothing."""
        ...


def finite_metrics(row: Row) -> dict[str, float]:
    """Returns the metrics of a row that are finite, for loggers that cannot show others.

    Args:
        row: a row.

    Returns:
        Name -> number, without ``update``, ``step`` and ``seed``.
    """
    return {
        name: float(value)
        for name, value in row.items()
        if name not in INDEX and math.isfinite(value)
    }


class CSVLogger:
    """Logger to ``metrics.csv`` in the run's folder: a line per seed and evaluation.

    Metrics that are missing at an evaluation, or not a number, are empty.
    """

    name = "CSV"
    needs_folder = True

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._columns: list[str] = []

    def start(self, run: RunInfo) -> None:
        """Begins the file with the rows of earlier sessions.

        Args:
            run: the run.
        """
        assert run.folder is not None  # `parse_loggers` makes sure
        self._path = run.folder / "metrics.csv"
        self._rows, self._columns = list(run.rows), list(INDEX)
        self._add_columns(self._rows)
        self._replace()

    def write(self, rows: Sequence[Row]) -> None:
        """Appends lines; the file is written anew where there is a new metric.

        Args:
            rows: the rows of one evaluation.
        """
        self._rows += rows
        if self._add_columns(rows):
            self._replace()
            return
        with self._path.open("a", encoding="utf-8", newline="") as file:
            file.write(self._lines(rows))

    def _add_columns(self, rows: Sequence[Row]) -> bool:
        """Adds the columns that rows have in addition; returns whether there are any."""
        names = dict.fromkeys(name for row in rows for name in row)
        added = [name for name in names if name not in set(self._columns)]
        self._columns += added
        return bool(added)

    def _lines(self, rows: Sequence[Row]) -> str:
        """Returns rows as text."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for row in rows:
            values = [row.get(name, math.nan) for name in self._columns]
            writer.writerow(["" if math.isnan(value) else repr(value) for value in values])
        return text.getvalue()

    def _replace(self) -> None:
        """Writes the whole file."""
        head = io.StringIO()
        csv.writer(head, lineterminator="\n").writerow(self._columns)
        atomic_io.replace_text(self._path, head.getvalue() + self._lines(self._rows))

    def close(self) -> None:
        """Releases the rows; every line is in the file already."""
        self._rows = []


class TensorBoardLogger:
    """Logger of TensorBoard event files in the folder ``tensorboard`` of the run.

    They hold a curve per seed (``seed_0/return``) over environment steps, and the config as text.
    When a run is resumed, TensorBoard hides what was logged beyond the checkpoint before.
    """

    name = "TensorBoard"
    needs_folder = True

    def __init__(self) -> None:
        self._writer: Any = None

    def start(self, run: RunInfo) -> None:
        """Opens a new event file.

        Args:
            run: the run.
        """
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        assert run.folder is not None  # `parse_loggers` makes sure
        records: Any = event_pb2  # its classes are made when it is imported
        self._summary, self._event = summary, records.Event
        # absolute: tensorboardX takes the part before a colon for the name of a protocol
        folder = run.folder.absolute() / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        # Not `SummaryWriter`: its thread dies when the disk is full, and the run then waits for it
        # for ever. The suffix: two sessions that begin in one second must not share a file.
        suffix = f".{os.getpid()}.{time.time_ns()}"
        self._writer = event_file_writer.EventsWriter(str(folder / "events"), suffix)
        step = 0
        if run.resume_step is not None:
            step, session = run.resume_step + 1, records.SessionLog(status=records.SessionLog.START)
            self._add(step, session_log=session)
        text = atomic_io.to_json(run.config, indent=2).splitlines()
        self._add(step, summary=summary.text("config", "\n".join(f"    {x}" for x in text)))

    def _add(self, step: int, **content: Any) -> None:
        """Writes one event at ``step``."""
        self._writer.write_event(self._event(wall_time=time.time(), step=int(step), **content))

    def write(self, rows: Sequence[Row]) -> None:
        """Adds one point per seed and metric.

        Args:
            rows: the rows of one evaluation.
        """
        for row in rows:
            for name, value in finite_metrics(row).items():
                summary = self._summary.scalar(f"seed_{row['seed']}/{name}", value)
                self._add(row["step"], summary=summary)
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file; calling it again does nothing."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


class WandbLogger:
    """Logger to Weights & Biases: one W&B run per seed, grouped under the run's name.

    A resumed run continues its W&B runs, without repeating rows. W&B's own files are in the folder
    of the run. It needs the extra ``wandb``.

    Args:
        project: W&B project; None: as the environment variable ``WANDB_PROJECT`` says.

    Raises:
        ValueError: W&B refuses such a name.
        ImportError: W&B is not installed; the message says how to install it.

    Example:
        >>> import jaxmarl_lite as jml
        >>> logger = jml.WandbLogger("lr:1e-3")
        Traceback (most recent call last):
        ValueError: wandb is 'lr:1e-3'; allowed is a project's name of up to 128 letters, ...
    """

    name = "W&B"

    def __init__(self, project: str | None = None):
        if project is not None:
            _check_project(project)
        self._wandb: Any = references.import_extra("wandb", "logging to W&B needs", "wandb")
        self._project = project
        self._runs: dict[int, Any] = {}

    def start(self, run: RunInfo) -> None:
        """Begins or continues a W&B run for each seed.

        Args:
            run: the run.
        """
        self._marks_path = None if run.folder is None else run.folder / "wandb" / "logged.json"
        self._marks = _read_marks(self._marks_path)
        self._runs, self._last_steps = {}, {}
        for seed in run.seeds:
            place = {} if run.folder is None else {"dir": str(run.folder)}
            wandb_run = self._wandb.init(
                project=self._project,
                group=run.name,
                name=f"{run.name}/seed_{seed}",
                id=f"{run.id}-seed-{seed}",
                config=dict(run.config),
                resume="allow",
                reinit="create_new",
                **place,
            )
            self._runs[seed] = wandb_run
            # W&B knows what it has where it is online, and the file where it is not
            online = wandb_run.starting_step - 1 if wandb_run.resumed else -1
            self._last_steps[seed] = max(online, self._marks.get(wandb_run.id, -1))
        self.write(run.rows)

    def write(self, rows: Sequence[Row]) -> None:
        """Logs the rows that W&B does not have yet.

        Args:
            rows: the rows of one evaluation.
        """
        for row in rows:
            seed, step = row["seed"], row["step"]
            if step > self._last_steps[seed]:
                self._runs[seed].log({"update": row["update"]} | finite_metrics(row), step=step)
                self._last_steps[seed] = self._marks[self._runs[seed].id] = step
        if self._marks_path is not None and rows:
            self._marks_path.parent.mkdir(exist_ok=True)
            atomic_io.write_json(self._marks_path, self._marks)

    def close(self) -> None:
        """Finishes all W&B runs; calling it again does nothing."""
        for run in self._runs.values():
            run.finish()
        self._runs = {}


def _read_marks(path: Path | None) -> dict[str, int]:
    """Returns the last step of each W&B run, as `WandbLogger` stored it."""
    try:
        marks = {} if path is None else atomic_io.from_json(atomic_io.read_bytes(path))
        return {str(name): int(step) for name, step in marks.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


class MLflowLogger:
    """Logger to MLflow: one MLflow run per seed, with the run's id as the tag ``run_id``.

    A resumed run continues its MLflow runs, without repeating rows. It needs the extra ``mlflow``.

    Args:
        experiment: name of the MLflow experiment; None: as the environment variable
            ``MLFLOW_EXPERIMENT_NAME`` says, or ``jaxmarl_lite``.
        tracking_uri: address of the server or store; None: as the environment variable
            ``MLFLOW_TRACKING_URI`` says, or the file mlflow.db in the run's folder.

    Raises:
        ValueError: an argument is no text.
        ImportError: MLflow is not installed; the message says how to install it.
    """

    name = "MLflow"

    def __init__(self, experiment: str | None = None, tracking_uri: str | None = None):
        for field, value in (("mlflow", experiment), ("tracking_uri", tracking_uri)):
            if value is not None and not (isinstance(value, str) and value.strip()):
                raise validation.invalid(field, value, "a text, or None")
        self._mlflow = references.import_extra("mlflow", "logging to MLflow needs", "mlflow")
        self._experiment, self._uri = experiment, tracking_uri
        self._runs: dict[int, str] = {}

    @property
    def needs_folder(self) -> bool:
        """Whether the runs are stored in the run's folder."""
        return self._uri is None and not os.environ.get("MLFLOW_TRACKING_URI")

    def start(self, run: RunInfo) -> None:
        """Begins or continues an MLflow run for each seed.

        Args:
            run: the run.
        """
        uri = self._uri or os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            assert run.folder is not None  # `parse_loggers` makes sure
            uri = f"sqlite:///{run.folder / 'mlflow.db'}"
        self._client: Any = self._mlflow.tracking.MlflowClient(tracking_uri=uri)
        name = self._experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "jaxmarl_lite"
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            # files of MLflow lie in the folder of the run, too
            place = None if run.folder is None else (run.folder / "mlartifacts").as_uri()
            experiment_id = self._client.create_experiment(name, artifact_location=place)
        else:
            experiment_id = experiment.experiment_id
        self._runs = {seed: self._begin(experiment_id, run, seed) for seed in run.seeds}
        self._last_steps = {seed: self._last_step(id_) for seed, id_ in self._runs.items()}
        self.write(run.rows)

    def _begin(self, experiment_id: str, run: RunInfo, seed: int) -> str:
        """Returns the id of the MLflow run of a seed: a new one, or the one to continue."""
        tags = {"run_id": run.id, "seed": str(seed)}
        query = " and ".join(f"tags.{name} = '{value}'" for name, value in tags.items())
        for existing in self._client.search_runs([experiment_id], query, max_results=1):
            self._client.update_run(existing.info.run_id, status="RUNNING")
            return existing.info.run_id
        new = self._client.create_run(experiment_id, tags=tags, run_name=f"{run.name}/seed_{seed}")
        Param = self._mlflow.entities.Param
        params = [Param(key, text[:6000]) for key, text in _flat(run.config)]
        for i in range(0, len(params), 100):  # the most that a server takes at once
            self._client.log_batch(new.info.run_id, params=params[i : i + 100])
        return new.info.run_id

    def _last_step(self, run_id: str) -> int:
        """Returns the last step that an MLflow run has; -1 where it has none."""
        history = self._client.get_metric_history(run_id, "update")
        return max((entry.step for entry in history), default=-1)

    def write(self, rows: Sequence[Row]) -> None:
        """Logs the rows that MLflow does not have yet.

        Args:
            rows: the rows of one evaluation.
        """
        Metric = self._mlflow.entities.Metric
        for row in rows:
            seed, step = row["seed"], row["step"]
            if step <= self._last_steps[seed]:
                continue
            now = int(1000 * time.time())
            # `update` comes last: a row that has it is complete
            values = finite_metrics(row) | {"update": float(row["update"])}
            metrics = [Metric(name, value, now, step) for name, value in values.items()]
            for i in range(0, len(metrics), 1000):  # the most that a server takes at once
                self._client.log_batch(self._runs[seed], metrics=metrics[i : i + 1000])
            self._last_steps[seed] = step

    def close(self) -> None:
        """Ends all MLflow runs; calling it again does nothing."""
        for run_id in self._runs.values():
            self._client.set_terminated(run_id)
        self._runs = {}


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields the settings of nested mappings as names with dots and texts."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def _check_project(project: object) -> None:
    """Raises ValueError where W&B refuses the name of a project."""
    if not isinstance(project, str) or not 0 < len(project) <= 128 or set(project) & set("/\\#?%:"):
        allowed = "a project's name of up to 128 letters, none of / \\ # ? % :"
        raise validation.invalid("wandb", project, allowed)


_LOGGERS: dict[str, Callable[..., Logger]] = {
    "tensorboard": TensorBoardLogger,
    "csv": CSVLogger,
    "wandb": WandbLogger,
    "mlflow": MLflowLogger,
}
_WITH_VALUE = ("wandb", "mlflow")  # project, experiment


def parse_loggers(loggers: object, has_folder: bool) -> tuple[Logger, ...]:
    """Returns the loggers of the argument ``loggers``.

    Args:
        loggers: a sequence of loggers and names: ``tensorboard``, ``csv``, ``wandb``,
            ``wandb=PROJECT``, ``mlflow``, ``mlflow=EXPERIMENT``, or the reference ``module:name``
            of a logger, or of a class or function that returns one. None: TensorBoard where the run
            has a folder.
        has_folder: whether the run has a folder.

    Raises:
        ValueError: an entry is no logger, is there twice, or needs a folder.
        ImportError: a logger needs a package that is not installed.
    """
    if loggers is None:
        loggers = ("tensorboard",) if has_folder else ()
    if not isinstance(loggers, (list, tuple)):
        raise validation.invalid("loggers", loggers, "a list of loggers and names")
    keys = [entry if isinstance(entry, str) else id(entry) for entry in loggers]
    if len(set(keys)) < len(keys):
        raise validation.invalid("loggers", loggers, "each logger once")
    parsed = tuple(map(_parse_logger, loggers))
    for entry, logger in zip(loggers, parsed, strict=True):
        if not has_folder and getattr(logger, "needs_folder", False):
            raise validation.invalid(
                "loggers", entry, "a logger that writes elsewhere, or a run with a folder, by out"
            )
    return parsed


def _parse_logger(entry: object) -> Logger:
    """Returns the logger that one entry names or is."""
    logger = entry
    if isinstance(entry, str):
        name, equals, value = entry.partition("=")
        if name in _LOGGERS and (not equals or name in _WITH_VALUE):
            return _LOGGERS[name](value) if equals else _LOGGERS[name]()
        if not references.is_reference(entry):
            names = [*_LOGGERS, "wandb=PROJECT", "mlflow=EXPERIMENT", "module:name"]
            raise validation.unknown_name("loggers", entry, names)
        logger = references.load("loggers", entry)
        if not isinstance(logger, Logger) or isinstance(logger, type):
            logger = logger() if callable(logger) else logger
    if isinstance(logger, type) or not isinstance(logger, Logger):
        raise validation.invalid(
            "loggers", entry, "an object with the methods start(run), write(rows) and close()"
        )
    return logger
