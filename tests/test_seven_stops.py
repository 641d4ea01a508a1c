"""Seven ways to stop a run: each is continued to the bits of an undisturbed run."""

from __future__ import annotations

import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import SIZES, assert_same_bits, config, rows, updates

import jaxmarl_lite as jml
from jaxmarl_lite.cli.main import main
from jaxmarl_lite.report import checkpoint

RUN: dict[str, Any] = dict(
    SIZES, seeds=2, config=config("ippo"), total_steps=updates(6), num_evaluations=6
)

MODULE = """
import os
signum = 9
def send(report):  # when the evaluation after update 3 is saved
    if report.update == 3:
        os.kill(os.getpid(), signum)
"""
COMMAND = (
    "train ippo --env toy/counter --hidden-sizes 4 --num-envs 4 --num-steps 4 --eval-episodes 4 "
    f"--seeds 2 --total-steps {updates(6)} --num-evaluations 6 --on-evaluation user_signal:send"
).split()
SIGNALS = {"SIGTERM": 143, "SIGUSR1": 138, "SIGINT": 130, "SIGKILL": -9}
"""Exit codes: 128 + the signal, as a shell and Slurm count; -9: ended by it."""
PROGRAM = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import conftest  # XLA is asked to compile as fast as in this process
from jaxmarl_lite.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def start_to_kill(folder: Path) -> subprocess.Popen[bytes]:
    """Starts a process that kills itself."""
    (folder / "user_signal.py").write_text(MODULE)
    arguments = [str(Path(__file__).parent), *COMMAND, "--out", str(folder / "SIGKILL")]
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], cwd=folder)


def user_signal(signum: int) -> types.ModuleType:
    """Returns the user's module, which sends this signal (0 is none)."""
    module: Any = types.ModuleType("user_signal")
    exec(MODULE, vars(module))
    module.signum = signum
    return module


def stop_by_signal(name: str, folder: Path) -> int:
    """Returns the exit code of the command line after a signal to this process."""
    signum = getattr(signal, name)
    # a background job may ignore some of the signals
    usual = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    previous = signal.signal(signum, usual)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "user_signal", user_signal(signum))
            patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder / "cache"))
            return main([*COMMAND, "--out", str(folder / name)])
    except SystemExit as error:
        assert isinstance(error.code, int)
        return error.code
    finally:
        signal.signal(signum, previous)


def stop_by_callback(report: jml.EvaluationReport) -> bool:
    return report.update == 3


def prune(report: jml.EvaluationReport) -> None:
    """As an objective of Optuna does."""
    optuna = pytest.importorskip("optuna")
    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=2.5))
    trial = study.ask()
    trial.report(float(report.update), report.update)
    if trial.should_prune():
        raise optuna.TrialPruned(f"at {report.update}")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the runs that were stopped, by the way in which they were."""
    folder = tmp_path_factory.mktemp("stopped")
    killed = start_to_kill(folder)
    for name in ("SIGTERM", "SIGUSR1", "SIGINT"):
        assert stop_by_signal(name, folder) == SIGNALS[name]
    early = jml.EarlyStopping("eval_return", patience=3, min_delta=100.0)
    ways: dict[str, Callable[..., Any]] = {"callback": stop_by_callback, "early stop": early}
    for name, callback in ways.items():
        result = jml.run("ippo", "toy/counter", out=folder / name, on_evaluation=callback, **RUN)
        assert result.stopped is not None and result.steps[-1] == updates(3), name
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with pytest.raises(optuna.TrialPruned):
        jml.run("ippo", "toy/counter", out=folder / "prune", on_evaluation=prune, **RUN)
    assert killed.wait(timeout=300) == SIGNALS["SIGKILL"]
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole")
    jml.run("ippo", "toy/counter", out=path, **RUN)
    return path


@pytest.mark.parametrize("way", [*SIGNALS, "callback", "prune", "early stop"])
def test_every_stopped_run_ends_in_the_same_bits(
    way: str, stopped: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the runs of the command line take the callback that they name again
    monkeypatch.setitem(sys.modules, "user_signal", user_signal(0))
    path = stopped / way
    assert checkpoint.latest(path / "checkpoints") == 3
    result = jml.resume_run(path, quiet=True)
    assert result.steps.tolist() == [updates(i) for i in range(7)] and result.stopped is None
    assert_same_bits(result.states, jml.load_run(undisturbed).states)
    assert rows(path) == rows(undisturbed)
