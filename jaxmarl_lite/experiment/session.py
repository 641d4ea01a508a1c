"""Settings of one call of `run` or `resume_run` that change no number of the run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from jaxmarl_lite import validation
from jaxmarl_lite.experiment.callbacks import EarlyStopping, parse_callbacks
from jaxmarl_lite.experiment.ranking import Ranking
from jaxmarl_lite.report import run_dir, tracking
from jaxmarl_lite.validation import invalid


@dataclasses.dataclass(frozen=True, kw_only=True)
class SessionConfig:
    """Settings of one call of `run` that change no number of the run.

    Raises:
        ValueError: a value is invalid; the message names the field, its value and what is allowed.
        ImportError: a logger needs a package that is not installed.
    """

    out: Path | None = None
    """Folder of the run, for all of its files; without it nothing is written."""
    resume: Path | None = None
    """Folder of a run to continue, bit for bit, from its newest checkpoint."""
    max_checkpoints: int = 2
    """Number of checkpoints to keep."""
    checkpoint_minutes: float = 5.0
    """Longest time between two checkpoints, in minutes; each evaluation saves one too."""
    loggers: Any = None
    """Loggers beside metrics.jsonl."""
    on_evaluation: Any = None
    """Functions of an EvaluationReport, MODULE:NAME, that are called after every evaluation."""
    best_metric: str | None = None
    """Metric by which the checkpoint of the best evaluation is kept beside the newest ones."""
    best_mode: Literal["max", "min"] = "max"
    """Whether a higher or a lower best_metric is better."""
    quiet: bool = False
    """Print nothing."""

    texts: dict[str, Any] = dataclasses.field(init=False, repr=False, default_factory=dict)
    """Loggers and callbacks as plain data, for the run's folder."""

    @property
    def ranking(self) -> Ranking | None:
        """The order of evaluations by ``best_metric``; None without one."""
        return None if self.best_metric is None else Ranking(self.best_metric, self.best_mode)

    def __post_init__(self) -> None:
        minutes = validation.to_python(self.checkpoint_minutes)
        if isinstance(minutes, bool) or not isinstance(minutes, (int, float)) or not minutes > 0:
            raise invalid(
                "checkpoint_minutes", minutes, "a number above 0 (inf: save at evaluations alone)"
            )
        validation.check_fields(self, infinite=("checkpoint_minutes",))
        self._take_stored()
        object.__setattr__(self, "on_evaluation", parse_callbacks(self.on_evaluation))
        if self.out and self.resume and self.out.absolute() != self.resume.absolute():
            raise ValueError(
                f"out is {str(self.out)!r} and resume is {str(self.resume)!r}; allowed is one of "
                "them"
            )
        has_folder = bool(self.out or self.resume)
        if self.best_metric is not None and not has_folder:
            raise invalid("best_metric", self.best_metric, "None for a run without a folder (out)")
        object.__setattr__(self, "loggers", tracking.parse_loggers(self.loggers, has_folder))

    def _take_stored(self) -> None:
        """Takes loggers and callbacks of the resumed run, where the caller gives none.

        Those that a text names, and `EarlyStopping`, are stored in the run's status.json. A run
        that a callback ended goes on without callbacks, or it would end again.
        """
        stored: dict[str, Any] = {}
        if self.resume is not None:
            status = run_dir.read_status(run_dir.RunFolder(self.resume))
            stored = dict(status.get("session") or {})
            if "stopped" in status:
                stored.pop("on_evaluation", None)
        for name in ("loggers", "on_evaluation"):
            if getattr(self, name) is None and isinstance(stored.get(name), list):
                object.__setattr__(self, name, [_revive(entry) for entry in stored[name]])
        texts = {}
        for name in ("loggers", "on_evaluation"):
            value = getattr(self, name)
            if value is not None:
                entries = list(value) if isinstance(value, (list, tuple)) else [value]
                texts[name] = [x for x in map(_to_plain, entries) if x is not None]
        object.__setattr__(self, "texts", texts)


def _to_plain(entry: Any) -> Any:
    """Returns a logger or callback as plain data; None for an object that no text names."""
    if isinstance(entry, EarlyStopping):
        return dataclasses.asdict(entry)
    return entry if isinstance(entry, str) else None


def _revive(entry: Any) -> Any:
    """Returns a logger or callback from plain data."""
    return EarlyStopping(**entry) if isinstance(entry, dict) else entry
