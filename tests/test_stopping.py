"""Signals, checkpoints by time, and full disks: nothing that was computed is lost."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import SIZES, Closed, assert_same_bits, config, rows, updates

import jaxmarl_lite as jml
from jaxmarl_lite.experiment import progress, runner
from jaxmarl_lite.experiment.runner import StopRequest
from jaxmarl_lite.report import atomic_io, checkpoint, loggers, run_dir

RUN: dict[str, Any] = dict(
    SIZES, seeds=2, config=config("ippo"), total_steps=updates(8), num_evaluations=2
)
"""Evaluations after updates 0, 4 and 8."""


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """Those of a program in a terminal; a background job starts with some of these signals
    ignored."""
    signals = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")]
    previous = [signal.getsignal(item) for item in signals]
    for item in signals:
        signal.signal(item, signal.default_int_handler if item == signal.SIGINT else signal.SIG_DFL)
    yield
    for item, handler in zip(signals, previous, strict=True):
        signal.signal(item, handler)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole")
    jml.run("ippo", "toy/counter", out=path, **RUN)
    return path


@pytest.fixture
def at_update(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Chunks of one update, and an action when the progress of an update is shown."""
    monkeypatch.setattr(runner.Runner, "_chunk_updates", lambda self, pace, left: 1)

    def act_at(update: int, action: Callable[[], None]) -> None:
        show_update = progress.ProgressBar.update

        def act(self: Any, current: int, *rest: float) -> None:
            show_update(self, current, *rest)
            if current == update:
                action()

        monkeypatch.setattr(progress.ProgressBar, "update", act)

    return act_at


ENDS = [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 138)]


@pytest.mark.parametrize(("name", "code"), ENDS)
@pytest.mark.parametrize("update", [6, 8])
def test_a_signal_saves_and_ends_the_run(
    name: str,
    code: int,
    update: int,
    uninterrupted: Path,
    tmp_path: Path,
    at_update: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    previous = signal.getsignal(getattr(signal, name))
    at_update(update, lambda: signal.raise_signal(getattr(signal, name)))
    with pytest.raises(KeyboardInterrupt if name == "SIGINT" else SystemExit) as caught:
        jml.run("ippo", "toy/counter", out=tmp_path / "a run", **dict(RUN, quiet=False))
    assert name == "SIGINT" or caught.value.code == code
    assert signal.getsignal(getattr(signal, name)) == previous
    assert checkpoint.latest(tmp_path / "a run" / "checkpoints") == update
    command = f"jaxmarl-lite train --resume '{tmp_path}/a run'"
    assert (
        f"Stopped at update {update}; continue from update {update}: {command}"
        in capsys.readouterr().out
    )
    jml.resume_run(tmp_path / "a run", quiet=True)
    assert_same_bits(jml.load_run(tmp_path / "a run").states, jml.load_run(uninterrupted).states)
    assert rows(tmp_path / "a run") == rows(uninterrupted)


def test_what_the_command_line_answers_to_signals(tmp_path: Path) -> None:
    """In processes of their own, as a scheduler sees them: SIGTERM in the middle of a long run."""
    message = (
        "train ippo --env toy/counter --hidden-sizes 4 --num-envs 4 --num-steps 4 "
        "--total-steps 100000000 --seeds 1"
    )
    command = [
        sys.executable,
        "-m",
        "jaxmarl_lite",
        *message.split(),
        "--eval-episodes",
        "4",
        "--out",
        str(tmp_path),
    ]
    process = subprocess.Popen(
        [*command, "--checkpoint-minutes", "1e-6"], stdout=subprocess.PIPE, text=True
    )
    while not (checkpoint.latest(tmp_path / "checkpoints") or 0) and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143 and f"jaxmarl-lite train --resume {tmp_path}" in said


def test_an_environment_given_as_an_object_is_continued_from_python(
    tmp_path: Path, at_update: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    at_update(6, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit):
        jml.run("ippo", Closed(), out=tmp_path, **dict(RUN, quiet=False))
    assert f"resume_run({str(tmp_path)!r}, env=...)" in capsys.readouterr().out


def test_a_second_interrupt_ends_at_once(
    tmp_path: Path, at_update: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    at_update(6, twice)
    with pytest.raises(KeyboardInterrupt):
        jml.run("ippo", "toy/counter", out=tmp_path, **RUN)
    assert checkpoint.latest(tmp_path / "checkpoints") == 4


def test_handlers_are_the_callers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    previous = signal.signal(signal.SIGUSR1, lambda signum, frame: heard.append(signum))
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit, match="138"), StopRequest() as stop:
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, "nohup"
            stop.deferred = True
            signal.raise_signal(signal.SIGUSR1)
            assert stop.signum == signal.SIGUSR1 and not heard
        assert heard == [signal.SIGUSR1], "the caller's handler hears of it after the run has saved"
        signal.raise_signal(signal.SIGUSR1)
        assert len(heard) == 2
    finally:
        signal.signal(signal.SIGUSR1, previous)
        signal.signal(signal.SIGHUP, ignored)


def test_other_threads_install_nothing() -> None:
    observed: list[Any] = []

    def look() -> None:
        with StopRequest():
            observed.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    previous = signal.getsignal(signal.SIGTERM)
    thread.start()
    thread.join()
    assert observed == [previous]


def test_checkpoints_by_time_carry_the_sums(
    uninterrupted: Path, tmp_path: Path, at_update: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    save = checkpoint.save
    monkeypatch.setattr(
        runner.checkpoint, "save", lambda *args: (saved.append(args[1]), save(*args))[1]
    )

    cuts = [OSError(errno.EIO, "gone")]  # as hard as a kill: nothing is saved on the way out

    def cut() -> None:
        if cuts:
            raise cuts.pop()

    at_update(7, cut)
    with pytest.raises(jml.RunError, match="gone"):
        jml.run("ippo", "toy/counter", out=tmp_path, checkpoint_minutes=1e-9, **RUN)
    assert saved == [0, 1, 2, 3, 4, 5, 6]
    jml.resume_run(tmp_path, quiet=True)
    assert_same_bits(jml.load_run(tmp_path).states, jml.load_run(uninterrupted).states)
    assert rows(tmp_path) == rows(uninterrupted)


def test_a_checkpoint_between_may_become_an_evaluation_when_prolonged(
    tmp_path: Path, at_update: Any
) -> None:
    at_update(6, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit):
        jml.run("ippo", "toy/counter", out=tmp_path / "cut", **RUN)
    longer = jml.run(
        "ippo", "toy/counter", resume=tmp_path / "cut", **dict(RUN, total_steps=updates(12))
    )
    assert longer.steps.tolist() == [0, updates(4), updates(8), updates(12)]
    assert len(rows(tmp_path / "cut")) == 8


@pytest.mark.parametrize("minutes", [0, -1.0, True, "5", float("nan"), None])
def test_minutes_that_cannot_be(minutes: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"checkpoint_minutes is .*allowed is a number above 0"):
        jml.run("ippo", "toy/counter", out=tmp_path / "run", checkpoint_minutes=minutes, **RUN)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("written", ["rows", "checkpoint", "random_policy.json"])
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    written: str,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write, replace = loggers.JsonlLogger.write, atomic_io.replace_text
    with monkeypatch.context() as patch:
        if written == "rows":
            patch.setattr(
                loggers.JsonlLogger,
                "write",
                lambda self, u, *rest: full() if u == 8 else write(self, u, *rest),
            )
        elif written == "checkpoint":

            def refuse(
                *args: Any, **keywords: Any
            ) -> None:  # as tensorstore says it, over many lines
                raise ValueError("RESOURCE_EXHAUSTED: Error\nwriting: [os_error_code='28']")

            patch.setattr(runner.checkpoint.ocp.PyTreeCheckpointHandler, "save", refuse)
        else:
            patch.setattr(
                atomic_io,
                "replace_text",
                lambda p, t: full() if Path(p).name == written else replace(p, t),
            )
        with pytest.raises(
            jml.RunError,
            match="cannot be written: .*No space left.*continue with jaxmarl-lite train",
        ):
            jml.run("ippo", "toy/counter", out=tmp_path / "run", **RUN)
    if written == "rows":
        assert jml.load_run(tmp_path / "run").steps.tolist() == [0, updates(4)]
    jml.resume_run(tmp_path / "run", quiet=True)
    assert_same_bits(jml.load_run(tmp_path / "run").states, jml.load_run(uninterrupted).states)
    assert rows(tmp_path / "run") == rows(uninterrupted)


def test_a_limit_on_file_sizes_is_one_line(tmp_path: Path) -> None:
    """The kernel refuses, in a process of its own; orbax, tensorboardX and the rows each write in
    their own way."""
    program = (
        "import resource, sys\nfrom jaxmarl_lite.cli.main import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, "
        "resource.getrlimit(resource.RLIMIT_FSIZE)[1]))\nsys.exit(main(sys.argv[1:]))"
    )
    message = (
        "train ippo --env toy/counter --hidden-sizes 4 --num-envs 4 --num-steps 4 "
        "--total-steps 64 --seeds 1"
    )
    command = [sys.executable, "-c", program, *message.split(), "--out", str(tmp_path / "run")]
    cache = str(tmp_path / "cache")  # JAX warns of what it cannot write there
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"XDG_CACHE_HOME": cache}
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr + done.stdout
    (said,) = [
        line
        for line in done.stderr.splitlines()
        if "compil" not in line and "warnings.warn" not in line
    ]
    assert (
        "cannot be written" in said
        and f"continue with jaxmarl-lite train --resume {tmp_path}" in said
    )
    assert run_dir.load(tmp_path / "run").rows is not None
    assert jml.resume_run(tmp_path / "run", quiet=True).steps[-1] == 64
