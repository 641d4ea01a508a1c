"""Searches settings with Optuna: every trial is a run, and bad ones end early."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxmarl_lite import references
from jaxmarl_lite.experiment import api
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment.callbacks import EvaluationReport
from jaxmarl_lite.experiment.memory import DeviceMemoryError
from jaxmarl_lite.experiment.ranking import check_metric
from jaxmarl_lite.experiment.runner import RunError
from jaxmarl_lite.experiment.sweep import final_excess, final_scores
from jaxmarl_lite.experiment.sweep_space import Range, Setting, parse_space, show_value
from jaxmarl_lite.report import atomic_io, run_dir, statistics, tables
from jaxmarl_lite.types import Environment
from jaxmarl_lite.validation import check_choice, check_int, check_path, one_line

if TYPE_CHECKING:
    from optuna import Study, Trial


def optimize(
    algorithm: Any,
    env: str | Environment,
    *,
    space: Mapping[str, Any],
    num_trials: int,
    out: str | Path,
    metric: str = "eval_return",
    mode: str = "max",
    storage: str | None = None,
    study_name: str = "jaxmarl_lite",
    sampler: Any = None,
    pruner: Any = None,
    config: Any = None,
    quiet: bool = False,
    **settings: Any,
) -> Study:
    """Searches the settings of an algorithm with Optuna.

    Every trial is a run in ``out/runs``, whose metric is reported after each evaluation, so that
    the pruner can end it. The same call goes on with a study that was interrupted, its unfinished
    trial included; several processes or hosts that share ``out`` and ``storage`` share the study.
    At the end ``out`` has the table of the best trials and a picture of all complete ones.

    Args:
        algorithm: as for `run`.
        env: as for `run`.
        space: field of the config -> ``(low, high)``, ``(low, high, "log")``,
            ``(low, high, "int")``, or a list of choices.
        num_trials: trials of the whole study, over all processes; pruned and failed ones count.
        out: folder of the runs.
        metric: metric to optimize, mean over seeds (IQM at the end).
        mode: ``max`` or ``min``.
        storage: URL of the study's storage, as Optuna takes it; None: an SQLite file in ``out``,
            which several processes of one host can share.
        study_name: name of the study in the storage.
        sampler: an Optuna sampler; None: Optuna's default, TPE.
        pruner: an Optuna pruner; None: Optuna's default, the median pruner.
        config: settings that all trials share, as for `run`.
        quiet: whether to print nothing.
        **settings: further arguments of `run`.

    Returns:
        The ``optuna.Study``; ``study.best_params`` are the best settings, and every trial's user
        attribute ``folder`` is the name of its run in ``out/runs``. Where the environment has
        costs, ``trial.constraints`` says by how much a trial exceeds its limits (`Sweep.excesses`):
        samplers look for trials that keep them, and ``study.best_trial`` is one that does, or
        raises ValueError where none does.

    Raises:
        ImportError: Optuna, of the extra ``sweep``, is not installed.
        ValueError: a setting is invalid, the storage cannot be opened, or it holds another study
            under this name.

    Example:
        >>> import jaxmarl_lite as jml
        >>> study = jml.optimize(
        ...     "ippo", "toy/counter", space={"lr": (1e-4, 1e-2, "log")}, num_trials=2,
        ...     out="study", config={"hidden_sizes": (8,)}, seeds=1, total_steps=64, num_envs=4,
        ...     num_steps=8, num_evaluations=2, eval_episodes=4, quiet=True,
        ... )
        >>> len(study.trials), sorted(study.best_params)
        (2, ['lr'])
    """
    optuna = references.import_extra("optuna", "a study of Optuna needs", "sweep")
    entries = parse_space("space", space)
    count = check_int("num_trials", num_trials)
    check_choice("mode", mode, ("max", "min"))
    folder = check_path("out", out)
    first = {name: _first_value(entry) for name, entry in entries.items()}
    if settings.get("seed") is not None:
        settings |= {"seeds": (settings["seed"],)}
    settings.pop("seed", None)
    checked = {k: v for k, v in settings.items() if k in experiment_config.RUN_ARGUMENTS}
    plan, environment = experiment_config.make_run_config(algorithm, env, config=config, **checked)
    checked_plan = experiment_config.with_config(plan, first, environment)
    check_metric("metric", metric, checked_plan, environment)
    if not quiet:
        optuna.logging.set_verbosity(optuna.logging.INFO)
    else:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    study = _open(optuna, folder, storage, study_name, mode, sampler, pruner)
    _claim(study, plan, entries, metric)
    _reclaim(optuna, study, folder)
    objective = _Objective(optuna, algorithm, env, entries, folder, metric, config, settings)
    while _finished(optuna, study) < count:
        study.optimize(objective, n_trials=1, catch=(RunError, DeviceMemoryError))
    _write_overview(study, folder, metric, mode)
    return study


def summary(study: Study, metric: str, most: int = 10) -> str:
    """Returns the best trials of a study as a table in text.

    Args:
        study: the study.
        metric: name of its metric.
        most: most rows.

    Returns:
        The text of a table.
    """
    best = _complete_trials(study)
    names = list(dict.fromkeys(name for trial in study.trials for name in trial.params))
    rows = [
        (
            trial.user_attrs.get("folder", trial.number),
            *(show_value(trial.params.get(name, "")) for name in names),
            f"{trial.value:.4g}",
        )
        for trial in best[:most]
    ]
    counts = collections.Counter(trial.state.name.lower() for trial in study.trials)
    title = ", ".join(f"{count} {state}" for state, count in counts.items())
    return tables.to_text(
        tables.make_table(("trial", *names, metric), rows, f"{len(study.trials)} trials: {title}")
    )


def _complete_trials(study: Study) -> list[Any]:
    """Returns the trials that have a value, those that keep all limits and then the best first."""
    complete = [
        trial
        for trial in study.trials
        if trial.value is not None and trial.state.name == "COMPLETE"
    ]
    sign = -1.0 if study.direction.name == "MAXIMIZE" else 1.0
    excess = {trial.number: sum(_constraints(trial)) for trial in complete}
    return sorted(complete, key=lambda x: (excess[x.number], sign * (x.value or 0.0)))


def _constraints(trial: Any) -> list[float]:
    """Returns by how much a trial exceeds its limits on costs, 0 or more; empty without costs."""
    return [max(0.0, value) for value in trial.constraints.values()]


def _write_overview(study: Study, folder: Path, metric: str, mode: str) -> None:
    """Writes table and picture of a study to its folder."""
    from jaxmarl_lite.report import sweep_plot

    atomic_io.replace_text(folder / "table.txt", summary(study, metric, most=100))
    # Optuna keeps one value a trial, so that the picture has no intervals
    complete = _complete_trials(study)
    rows = [
        dict(trial.params) | dict.fromkeys((metric, "low", "high"), trial.value)
        for trial in complete
    ]
    if rows:
        sweep_plot.plot(rows, list(complete[0].params), metric, mode, folder / "sweep.png")


def _first_value(entry: Range | tuple[Any, ...]) -> Any:
    """Returns a value of a setting, to check its name and kind before anything runs."""
    if isinstance(entry, Range):
        return int(entry.low) if entry.kind == "int" else entry.low
    return entry[0]


def _open(
    optuna: Any,
    folder: Path,
    storage: str | None,
    name: str,
    mode: str,
    sampler: Any,
    pruner: Any,
) -> Study:
    """Opens or creates the study."""
    url = f"sqlite:///{folder / 'study.db'}" if storage is None else storage
    try:
        return optuna.create_study(
            storage=url,
            study_name=name,
            direction="maximize" if mode == "max" else "minimize",
            load_if_exists=True,
            sampler=sampler,
            pruner=pruner,
        )
    except Exception as error:  # of SQLAlchemy, of a driver, or of Optuna
        raise ValueError(
            f"storage is {url!r}, which Optuna cannot open ({one_line(error)}); allowed is a URL "
            "such as sqlite:///study.db or postgresql://user:password@host/database"
        ) from error


def _claim(study: Study, plan: Any, entries: Mapping[str, Any], metric: str) -> None:
    """Stores what the study searches, or checks that the stored study is this one."""
    content = atomic_io.to_json({"plan": plan.to_dict(), "space": dict(entries), "metric": metric})
    stored = study.user_attrs.get("jaxmarl_lite")
    if stored is None and not study.trials:
        study.set_user_attr("jaxmarl_lite", content)
    elif stored != content:
        raise ValueError(
            f"study_name is {study.study_name!r}, under which the storage holds a study of other "
            "settings; allowed is the same search, or another name"
        )


def _finished(optuna: Any, study: Study) -> int:
    """Returns the number of trials that are over, whatever their end."""
    states = optuna.trial.TrialState
    trials = study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED, states.FAIL))
    return len([trial for trial in trials if not trial.user_attrs.get("interrupted")])


def _reclaim(optuna: Any, study: Study, folder: Path) -> None:
    """Queues the trials that a killed process left, so that their runs are continued."""
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        path = folder / "runs" / str(trial.user_attrs.get("folder", _folder_name(trial.number)))
        if path.is_dir():
            try:
                with run_dir.RunFolder(path).lock_for_writing():
                    pass
            except run_dir.RunFolderError:
                continue  # another process trains it
        with contextlib.suppress(Exception):  # another process was faster
            study._storage.set_trial_user_attr(trial._trial_id, "interrupted", True)
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params, user_attrs={"folder": path.name})


def _folder_name(number: int) -> str:
    """Returns the name of a trial's folder."""
    return f"trial-{number:04d}"


class _Objective:
    """The function that Optuna optimizes: one run.

    Args:
        optuna: the module.
        algorithm: as for `run`.
        env: as for `run`.
        entries: the search space.
        folder: folder of the study.
        metric: name of the metric.
        config: settings that all trials share.
        settings: further arguments of `run`.
    """

    def __init__(
        self,
        optuna: Any,
        algorithm: Any,
        env: str | Environment,
        entries: Mapping[str, Range | tuple[Any, ...]],
        folder: Path,
        metric: str,
        config: Any,
        settings: Mapping[str, Any],
    ):
        self._optuna, self._algorithm, self._env, self._entries = optuna, algorithm, env, entries
        self._folder, self._metric, self._config = folder, metric, config
        self._settings = settings

    def __call__(self, trial: Trial) -> float:
        """Trains one trial, and returns its metric at the end.

        Args:
            trial: the trial.

        Raises:
            optuna.TrialPruned: the pruner ended it.
            RunError: all seeds diverged.
        """
        setting = {name: _suggest(trial, name, entry) for name, entry in self._entries.items()}
        name = str(trial.user_attrs.get("folder", _folder_name(trial.number)))
        trial.set_user_attr("folder", name)
        path = self._folder / "runs" / name
        path.parent.mkdir(parents=True, exist_ok=True)

        def report(evaluation: EvaluationReport) -> None:
            trial.report(evaluation.mean(self._metric), evaluation.step)
            if trial.should_prune():
                raise self._optuna.TrialPruned

        where = {"resume": path} if run_dir.RunFolder(path).exists() else {"out": path}
        result = api.run(
            self._algorithm,
            self._env,
            config=self._with(setting),
            on_evaluation=report,
            quiet=True,
            **where,
            **self._settings,
        )
        if result.costs is not None:
            trial.set_constraint("costs over their limits", final_excess(result))
        return float(statistics.bootstrap_interval(final_scores(result, self._metric)).estimate)

    def _with(self, setting: Setting) -> Any:
        """Returns the argument ``config`` of a trial."""
        if self._config is None:
            return setting
        if isinstance(self._config, Mapping):
            return dict(self._config) | setting
        return dict(vars(self._config)) | setting


def _suggest(trial: Trial, name: str, entry: Range | tuple[Any, ...]) -> Any:
    """Returns the value of a setting that Optuna suggests."""
    if not isinstance(entry, Range):
        # Optuna stores plain values alone: of others, their place in the list
        plain = all(isinstance(x, (str, int, float, bool)) or x is None for x in entry)
        if plain:
            return trial.suggest_categorical(name, entry)
        return entry[trial.suggest_categorical(name, tuple(range(len(entry))))]
    if entry.kind == "int":
        return trial.suggest_int(name, int(entry.low), int(entry.high))
    return trial.suggest_float(name, entry.low, entry.high, log=entry.kind == "log")


__all__ = ["optimize", "summary"]
