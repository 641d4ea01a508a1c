"""Compares runs: variants of algorithms that are trained alike, or runs that exist already.

`compare` trains every variant in every environment with the same settings; `compare_runs` reads
runs from their folders. Both return a `Comparison`: tables and plots of returns, win rates and
costs with their intervals, and the probability that one run is better than another.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxmarl_lite.algorithms import registry
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment import joining, reference_results
from jaxmarl_lite.experiment.api import RunError, resume_run
from jaxmarl_lite.experiment.comparison import Comparison, PublishedValue, folder_name
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.experiment.memory import DeviceMemoryError
from jaxmarl_lite.experiment.result import Result, load_run
from jaxmarl_lite.experiment.runner import StopRequest
from jaxmarl_lite.references import describe
from jaxmarl_lite.report import run_dir
from jaxmarl_lite.types import Environment
from jaxmarl_lite.validation import (
    MOST,
    check_bool,
    check_choice,
    check_environment_object,
    check_int,
    check_path,
    invalid,
    parse_value,
)


class Variant(NamedTuple):
    """An algorithm with changed settings, under a label of its own.

    Attributes:
        label: name of its runs.
        algorithm: name of the algorithm, or module:name of one.
        reference: whether the settings begin from those of the reference implementation instead of
            the tuned ones.
        fields: changed settings, by field; ``networks`` may be among them, as module:name.
    """

    label: str
    algorithm: str
    reference: bool = False
    fields: Mapping[str, Any] = {}

    @property
    def config(self) -> Any:
        """The argument ``config`` of `run`.

        Raises:
            ValueError: the algorithm has no settings of a reference implementation.
        """
        fields = {name: value for name, value in self.fields.items() if name != "networks"}
        if not self.reference:
            return fields or None
        configs = {name: registry.config_of(name) for name in registry.ALGORITHMS}
        known = [name for name, kind in configs.items() if hasattr(kind, "reference")]
        if self.algorithm not in known:
            allowed = " or ".join(f"{name}.reference" for name in known)
            raise ValueError(f"algorithm is '{self.algorithm}.reference'; allowed is {allowed}")
        return configs[self.algorithm].reference(**fields)  # type: ignore[attr-defined]


def parse_variant(text: str) -> Variant:
    """Parses a variant.

    Args:
        text: ``ALGORITHM``, or ``LABEL=ALGORITHM:FIELD=VALUE,FIELD=VALUE``. The algorithm is a
            name, or ``module:name`` of a user's, and ``networks`` may stand among the fields.
            ``LABEL=ALGORITHM.reference`` begins from the settings of the reference implementation.

    Returns:
        The variant; values are true, false, Python literals, or else text.

    Raises:
        ValueError: the text is neither.

    Example:
        >>> parse_variant("lambda-0=liir:intrinsic_coef=0")
        Variant(label='lambda-0', algorithm='liir', reference=False, fields={'intrinsic_coef': 0})
        >>> parse_variant("mine=my_module:make_mine:lr=0.01").algorithm
        'my_module:make_mine'
    """
    algorithm = r"[\w.]+:[A-Za-z_][\w.]*(?=$|:)|[\w-]+"
    match = re.fullmatch(rf"(?:([\w.-]+)=)?({algorithm})(\.reference)?(?::(.+))?", text)
    if (
        match is None
        or set(match[1] or "") == {"."}
        or (match[1] is None and (match[3] or match[4]))
    ):
        allowed = "ALGORITHM or LABEL=ALGORITHM[.reference][:FIELD=VALUE,FIELD=VALUE]"
        raise ValueError(f"variant is {text!r}; allowed is {allowed}")
    pairs = re.split(r",(?=\w+=)", match[4]) if match[4] else []
    fields = {name: parse_value(value) for name, _, value in (p.partition("=") for p in pairs)}
    label = match[1] or match[2].rpartition(":")[2]
    return Variant(label, match[2], bool(match[3]), fields)


def compare(
    variants: Sequence[str | Variant],
    envs: str | Environment | Sequence[str | Environment],
    *,
    out: str | Path,
    env_args: Mapping[str, Any] | None = None,
    networks: Any = None,
    seeds: int | Sequence[int] = 3,
    total_steps: int = 1_000_000,
    num_envs: int | None = None,
    num_steps: int | None = None,
    num_evaluations: int = 20,
    eval_episodes: int = 32,
    greedy: bool | None = None,
    against: str | None = None,
    workers: int | None = None,
    quiet: bool = False,
) -> Comparison:
    """Trains variants of algorithms in environments, with the same settings, and compares them.

    Every run is kept in ``OUT/ENV/LABEL``. After each environment the comparison of all complete
    runs in ``out`` is written to ``OUT/comparison.*``, see `Comparison.save`. When the call is
    interrupted, the same call continues: complete runs stay as they are, the others continue from
    their newest checkpoints. A call with more variants or environments adds to the comparison, and
    one with a larger ``total_steps`` extends its runs.

    Args:
        variants: algorithms, or variants of them with changed settings, see `parse_variant`.
        envs: ids that `make` accepts, or environment objects; one or several.
        out: folder of the runs and of the comparison.
        env_args: as for `run`, the same for all environments.
        networks: as for `run`, for all variants that name none of their own.
        seeds: as for `run`.
        total_steps: as for `run`, in environment steps of each seed.
        num_envs: as for `run`; None: the value tuned for each variant and environment.
        num_steps: as for `run`; None: the value tuned for each variant and environment.
        num_evaluations: as for `run`.
        eval_episodes: as for `run`.
        greedy: as for `run`.
        against: label of the run with which all others are compared; None: the first.
        workers: number of processes that train at once, each on a core of its own, for ids of
            environments; None trains in this process, one run after another.
        quiet: whether to print nothing.

    Returns:
        The `Comparison` of all complete runs in ``out``; runs that failed are named in it.

    Raises:
        ValueError: a variant or a setting is invalid, or ``out`` holds runs with other settings.
            Raised before anything is trained.
        RunError: no run is complete.

    Example:
        >>> import jaxmarl_lite as jml
        >>> comparison = jml.compare(
        ...     ["small=ippo:hidden_sizes=(4,)", "large=ippo:hidden_sizes=(8,)"], "toy/counter",
        ...     out="sizes", seeds=2, total_steps=64, num_envs=4, num_steps=8, num_evaluations=2,
        ...     eval_episodes=4, quiet=True,
        ... )
        >>> comparison.results["toy/counter"]["large"].returns.shape  # [seeds, evaluations]
        (2, 3)
        >>> row = comparison.rows()[1]
        >>> 0.0 <= row["against_final"]["estimate"] <= 1.0  # P(small is better than large)
        True
    """
    out = check_path("out", out)
    parsed = [parse_variant(x) if isinstance(x, str) else x for x in variants]
    labels = [variant.label for variant in parsed]
    if not labels or len(set(labels)) < len(labels):
        raise ValueError(
            f"variants have the labels {labels}; allowed are one or more, all different"
        )
    workers = None if workers is None else check_int("workers", workers, 1, MOST)
    settings = dict(
        networks=networks,
        env_args=env_args,
        seeds=seeds,
        total_steps=total_steps,
        num_envs=num_envs,
        num_steps=num_steps,
        num_evaluations=num_evaluations,
        eval_episodes=eval_episodes,
        greedy=greedy,
    )
    several = isinstance(envs, Sequence) and not isinstance(envs, str)
    plans: dict[str, dict[str, RunConfig]] = {}
    objects: dict[str, Environment] = {}
    for env in envs if several else [envs]:  # type: ignore[union-attr]
        for variant in parsed:
            plan = _make_plan(variant, env, settings)  # type: ignore[arg-type]
            plans.setdefault(plan.env, {})[variant.label] = plan
            if plan.env_args is None:
                objects[plan.env] = env  # type: ignore[assignment]
    if workers is not None and objects:
        raise ValueError(
            f"workers is {workers} with {', '.join(objects)} as an object; allowed are ids of "
            "environments, or None"
        )
    if workers is not None and _is_object(networks):
        raise invalid(
            "workers", workers, "None with networks as an object; module:name is for processes"
        )
    if not plans:
        raise ValueError("envs is empty; allowed is at least one environment")
    stored = {label for env in plans for label in _check_folder(out, env, plans[env], greedy)}
    known = dict.fromkeys([*labels, *sorted(stored)])
    against = check_choice("against", labels[0] if against is None else against, known)
    failed: dict[str, dict[str, str]] = {}
    comparison = None
    for env, env_plans in plans.items():
        folders = {label: _folder(out, env) / label for label in env_plans}
        for label, folder in folders.items():
            _create(run_dir.RunFolder(folder), env_plans[label])
        if workers is None:
            failed[env] = _train(folders, env_plans, objects.get(env), quiet)
        else:
            failed[env] = _train_in_processes(folders, total_steps, workers, quiet)
        results = _complete_results(out, plans, failed, objects)
        if results:
            comparison = Comparison(results, against, {e: f for e, f in failed.items() if f})
            comparison.save(out / "comparison")
    if comparison is None:
        reasons = "; ".join(f"{label}: {x}" for f in failed.values() for label, x in f.items())
        raise RunError(f"no run in {out} is complete: {reasons}")
    return comparison


def compare_runs(
    runs: Sequence[str | Path],
    *,
    against: str | None = None,
    env: Environment | Sequence[Environment] = (),
    reference: bool = False,
) -> Comparison:
    """Compares runs that exist already.

    Args:
        runs: folders of runs, or ``LABEL=FOLDER``. Without a label it is the name of the folder.
            Runs with one label in several environments are runs of the same variant. Runs with one
            label, or without, that differ in nothing but their seeds are one run of several seeds.
        against: label of the run with which all others are compared; None: the first.
        env: the environments of those runs that were given an object, one or several; each serves
            the runs that have its name.
        reference: whether to set the reference results in the same environments beside the runs, as
            ``reference LABEL``, and the values that papers publish; see `reference_results`.

    Returns:
        The `Comparison`.

    Raises:
        ValueError: there are no runs, two in one environment have the same label, or an environment
            is missing; or runs that differ in nothing but their seeds have a seed twice, or other
            evaluations; or ``reference`` is no bool, or there
            is nothing stored or published for their environments.
        RunFolderError: a folder holds no run, or one without an evaluation.

    Example:
        >>> import jaxmarl_lite as jml
        >>> for width in (4, 8):
        ...     result = jml.run(
        ...         "ippo", "toy/counter", config={"hidden_sizes": (width,)}, seeds=2,
        ...         total_steps=64, num_envs=4, num_steps=8, num_evaluations=2, eval_episodes=4,
        ...         quiet=True, out=f"width-{width}",
        ...     )
        >>> comparison = jml.compare_runs(["width-4", "wide=width-8"])
        >>> list(comparison.results["toy/counter"])
        ['width-4', 'wide']
    """
    results: dict[str, dict[str, Result]] = {}
    runs = [runs] if isinstance(runs, (str, Path)) else runs
    several = list(env) if isinstance(env, Sequence) else [env]
    objects = {check_environment_object(x).name: x for x in several}
    for label, path, result in _joined(runs, objects):
        env_results = results.setdefault(result.plan.env, {})
        if label in env_results:
            raise ValueError(
                f"two runs in {result.plan.env} have the label {label!r}; allowed is one, and "
                f"LABEL={path} sets another"
            )
        env_results[label] = result
    if not results:
        raise ValueError("runs is empty; allowed are the folders of one or several runs")
    published = _add_references(results) if check_bool("reference", reference) else {}
    known = dict.fromkeys(label for env_results in results.values() for label in env_results)
    against = check_choice("against", next(iter(known)) if against is None else against, known)
    return Comparison(results, against, published=published)


def _add_references(results: dict[str, dict[str, Result]]) -> dict[str, list[PublishedValue]]:
    """Adds the reference results to those of runs; returns what papers publish.

    Raises:
        ValueError: no environment has either, or a run has the label of a reference result.
    """
    published = {}
    has_reference = False
    for env, env_results in results.items():
        algorithms = {result.algorithm for result in env_results.values()}
        environment = next(iter(env_results.values())).env
        for label, result in reference_results.results(env, environment).items():
            name = f"reference {label}"
            if name in env_results:
                raise ValueError(
                    f"a run in {env} has the label {name!r}, which is that of a reference result; "
                    "allowed is another"
                )
            env_results[name] = result
            algorithms.add(result.algorithm)
            has_reference = True
        values = reference_results.published_values(env)
        published[env] = [value for value in values if value.algorithm in algorithms]
    if not has_reference and not any(published.values()):
        known = ", ".join(reference_results.environments())
        raise ValueError(
            f"reference is True, but nothing is stored for {', '.join(results)}; allowed are runs "
            f"in {known}"
        )
    return published


def _joined(
    runs: Sequence[str | Path], objects: Mapping[str, Environment]
) -> Iterator[tuple[str, str, Result]]:
    """Yields label, first folder and result of runs; those of single seeds are joined."""
    by_label: dict[str | None, list[str]] = {}
    order: list[str] = []
    for run in runs:
        label, separator, path = str(run).partition("=")
        if not separator or run_dir.RunFolder(Path(run)).exists():
            by_label.setdefault(None, []).append(str(run))
            order.append(str(run))
        else:
            by_label.setdefault(label, []).append(path)
            order.append(path)
    joined = []
    for label, paths in by_label.items():
        results = [load_run(path, objects.get(experiment_config.read(path).env)) for path in paths]
        for group in joining.groups([result.plan for result in results]):
            folders = [paths[i] for i in group]
            name = joining.common_name([Path(path) for path in folders])
            result = joining.join_results([results[i] for i in group], folders)
            joined.append((label if label is not None else name, folders[0], result))
    yield from sorted(joined, key=lambda entry: order.index(entry[1]))


def _make_plan(variant: Variant, env: str | Environment, settings: dict[str, Any]) -> RunConfig:
    """Returns the plan of a run; raises ValueError, with the label, where it is impossible."""
    try:
        networks = variant.fields.get("networks", settings.get("networks"))
        return experiment_config.make_run_config(
            variant.algorithm, env, config=variant.config, **(settings | {"networks": networks})
        )[0]
    except (ValueError, ImportError) as error:
        raise ValueError(f"{variant.label}: {error}") from error


def _folder(out: Path, env: str) -> Path:
    """Returns the folder of an environment's runs."""
    return out / folder_name(env)


def _runs_in(folder: Path) -> list[Path]:
    """Returns the folders of the runs in a folder, by name."""
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if run_dir.RunFolder(path).config.exists()]


def _check_folder(
    out: Path, env: str, plans: Mapping[str, RunConfig], greedy: bool | None
) -> list[str]:
    """Checks that the runs in a folder can be continued by, or compared with, new ones.

    Returns:
        Their labels.

    Raises:
        ValueError: a run has other settings, or more steps.
    """
    new = next(iter(plans.values()))
    shared = [
        "seeds",
        "env_args",
        "total_steps",
        "eval_episodes",
        *(["greedy"] if greedy is not None else []),
    ]
    runs = _runs_in(_folder(out, env))
    for path in runs:
        label, stored = path.name, experiment_config.read(path)
        if label not in plans:
            for name in shared:
                if getattr(stored, name) != getattr(new, name):
                    raise ValueError(
                        f"{path} holds a run with {name} {getattr(stored, name)}, not "
                        f"{getattr(new, name)}; allowed is the same, or another out"
                    )
            continue
        networks = plans[label].networks
        if _is_object(networks) and describe(networks) == describe(stored.networks):
            stored = dataclasses.replace(stored, networks=networks)
        try:
            experiment_config.check_resumable(plans[label], stored, path)
        except ValueError as error:
            raise ValueError(f"{label}: {error}; or another out") from error
        if stored.total_steps > new.total_steps:
            raise ValueError(
                f"{label}: total_steps is {new.total_steps}, but the run in {path} has "
                f"{stored.total_steps}; allowed is as many or more, or another out"
            )
    return [path.name for path in runs]


def _create(folder: run_dir.RunFolder, plan: RunConfig) -> None:
    """Makes the folder of a run that has not begun, from which it can be resumed."""
    if not folder.exists():
        folder.make()
        with folder.lock_for_writing():
            run_dir.create(folder.path, plan.to_dict())


def _is_object(networks: Any) -> bool:
    """Returns whether networks are an object, which no file can hold."""
    return networks is not None and describe(networks).startswith("<")


def _train(
    folders: Mapping[str, Path],
    plans: Mapping[str, RunConfig],
    env: Environment | None,
    quiet: bool,
) -> dict[str, str]:
    """Trains runs one after another; returns why some failed."""
    failed = {}
    for label, folder in folders.items():
        plan = plans[label]
        networks = plan.networks if _is_object(plan.networks) else None
        try:
            resume_run(
                folder, env=env, networks=networks, total_steps=plan.total_steps, quiet=quiet
            )
        except (RunError, DeviceMemoryError) as error:
            failed[label] = str(error)
    return failed


def _train_in_processes(
    folders: Mapping[str, Path], total_steps: int, workers: int, quiet: bool
) -> dict[str, str]:
    """Trains runs in processes, each pinned to a core; returns why some failed.

    A signal that ends this process ends the others too.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    free = list(range(min(workers, len(cores)) if cores else workers))
    waiting, failed = list(folders), {}
    running: dict[str, tuple[subprocess.Popen[bytes], int]] = {}
    with StopRequest():
        try:
            while waiting or running:
                while waiting and free:
                    label, slot = waiting.pop(0), free.pop(0)
                    process = _start(folders[label], total_steps)
                    running[label] = process, slot
                    if cores:  # before JAX starts the threads of the process
                        os.sched_setaffinity(process.pid, {cores[slot]})
                    if not quiet:
                        print(f"{label}: see {_log(folders[label])}", flush=True)
                time.sleep(0.2)
                for label, (process, slot) in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[label]
                    free.append(slot)
                    if process.returncode:
                        lines = _log(folders[label]).read_text(errors="replace").split("\n")
                        last_line = next((line for line in reversed(lines) if line.strip()), "")
                        failed[label] = f"ended with code {process.returncode}: {last_line}"
                    if not quiet:
                        print(f"{label}: {failed.get(label, 'done')}", flush=True)
        finally:
            for process, _ in running.values():
                process.terminate()
    return failed


def _start(folder: Path, total_steps: int) -> subprocess.Popen[bytes]:
    """Starts a process that continues the run in a folder."""
    command = [sys.executable, "-m", "jaxmarl_lite", "train", "--resume", str(folder)]
    with _log(folder).open("ab") as log:
        return subprocess.Popen(
            [*command, "--total-steps", str(total_steps)], stdout=log, stderr=subprocess.STDOUT
        )


def _log(folder: Path) -> Path:
    """Returns the file that the process of a run prints to."""
    return folder.with_name(f"{folder.name}.log")


def _complete_results(
    out: Path,
    plans: Mapping[str, Mapping[str, RunConfig]],
    failed: Mapping[str, Mapping[str, str]],
    objects: Mapping[str, Environment],
) -> dict[str, dict[str, Result]]:
    """Loads the complete runs in a folder, those of this call first, as in `Comparison`."""
    failed_paths = {_folder(out, env) / label for env in failed for label in failed[env]}
    asked = [_folder(out, env) / label for env in plans for label in plans[env]]
    others = [path for folder in sorted(out.iterdir()) for path in _runs_in(folder)]
    results: dict[str, dict[str, Result]] = {}
    for path in dict.fromkeys([*asked, *others]):
        if path in failed_paths or not run_dir.RunFolder(path).config.exists():
            continue
        plan = experiment_config.read(path)
        steps = [row["step"] for row in run_dir.load(path).rows if "eval_return" in row]
        is_complete = max(steps, default=0) >= plan.num_updates * plan.batch_steps
        if is_complete and (plan.env_args is not None or plan.env in objects):
            result = load_run(path, objects.get(plan.env))
            results.setdefault(plan.env, {})[path.name] = result
    return results
