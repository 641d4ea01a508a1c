"""Times a training command from the start of its process to its first line of progress.

    python benchmarks/first_line.py                          MAPPO on level-based foraging
    python benchmarks/first_line.py --beside CHECKOUT        in turns with another checkout
    python benchmarks/first_line.py --algorithm macpo --env safe-mujoco/halfcheetah-2x3

The command is ``python -m jaxmarl_lite train ALGORITHM --env ENV --total-steps N --out FOLDER``
with its output in a pipe. The clock starts before the process does and stops at its first line
``update ...``, that of the evaluation before the first update; all programs of the run are compiled
by then. The process is then killed and its folder removed. CPU seconds are those of the process and
its descendants until then. ``--options`` are further options of ``train``.

cold    with an empty folder of compiled programs
warm    the same command once more, with the programs that the cold one has cached

With ``--beside`` the two trees take turns, in reverse order in every second round; both run in this
interpreter, and each is checked to import its own package. A row that was stopped goes on after its
last turn if its commits are still checked out unchanged; a finished row is measured anew. The other
rows with the same settings (variables of JAX and XLA among them), versions and device stay.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bench_utils

TREE = Path(__file__).resolve().parent.parent
DEFAULTS = {"algorithm": "mappo", "env": "jumanji/lbf-2s-8x8-2p-2f-coop", "rounds": 3}
QUICK = {"algorithm": "ippo", "env": "toy/counter", "rounds": 1}
QUICK_OPTIONS = (
    "--num-envs 4 --num-steps 4 --hidden-sizes 4 --num-minibatches 1 --num-epochs 1 "
    "--eval-episodes 4"
)
DIRTY = "-dirty"
LINES = {"start": r"compiling\b", "compiled": r"compiled in\b", "first_line": r"update +\d+/"}
"""Moment of a run -> beginning of the line that the command prints then."""

CACHE_VARIABLES = (
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_ENABLE_COMPILATION_CACHE",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
)
"""Variables that would replace the command line's own choice of a cache."""

PROBE = """
import sys
import jaxmarl_lite
from jaxmarl_lite.algorithms import registry
print(jaxmarl_lite.__file__, flush=True)
try:
    registry.config_of(sys.argv[1])
    jaxmarl_lite.make(sys.argv[2])
except (ValueError, ImportError) as error:
    sys.exit(str(error))
"""


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = bench_utils.make_parser(__doc__)
    for name in ("algorithm", "env"):
        parser.add_argument(f"--{name}", help=f"default: {DEFAULTS[name]}")
    parser.add_argument("--options", default="", help="further options of train, as one text")
    parser.add_argument(
        "--beside", type=Path, metavar="CHECKOUT", help="another checkout of this repository"
    )
    bench_utils.add_numbers(
        parser,
        rounds=(None, f"turns of each tree; default: {DEFAULTS['rounds']}"),
        total_steps=(1_000_000, "environment steps of the run, which it never reaches"),
        minutes=(15, "a process without a first line after so many ends the benchmark"),
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one round of ippo on toy/counter at tiny sizes, in files of its own",
    )
    args = parser.parse_args(argv)
    for name, value in (QUICK if args.quick else DEFAULTS).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.quick:
        args.options = f"{QUICK_OPTIONS} {args.options}".strip()
    main_file = "jaxmarl_lite/__main__.py"
    if args.beside is not None and not (args.beside / main_file).is_file():
        parser.error(
            f"--beside: {args.beside} is no checkout of this repository: it has no {main_file}"
        )
    return args


def main(argv: list[str] | None = None) -> int:
    """Measures a row and writes the table after each turn."""
    args = options(argv)
    trees = {"own": TREE} | ({} if args.beside is None else {"beside": args.beside.resolve()})
    for tree in trees.values():
        check(tree, args)
    settings = {name: getattr(args, name) for name in ("rounds", "total_steps", "options")}
    settings["environment"] = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(("JAX_", "XLA_")) and name not in CACHE_VARIABLES
    }
    environment = dict(os.environ)
    # this process, which asks for the name of the device, leaves its memory to the timed ones
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    facts = bench_utils.facts()
    name = f"first-line{'-quick' if args.quick else ''}-{bench_utils.device_name()}.json"
    path = args.out / name
    result: dict[str, Any] = {"settings": settings, "facts": facts}
    result["rows"] = bench_utils.comparable_rows(path, settings, facts)
    label = f"{args.algorithm}, {args.env}"
    order = turns(list(trees), args.rounds)
    commits = {name: version(tree) for name, tree in trees.items()}
    row: dict[str, Any] = {"commits": commits, "turns": []}
    earlier = result["rows"].get(label, row)
    changed = any(commit.endswith(DIRTY) for commit in commits.values())
    if earlier["commits"] == commits and not changed and len(earlier["turns"]) < len(order):
        row = earlier
    result["rows"][label] = row
    for tree in order[len(row["turns"]) :]:
        turn = measure(trees[tree], args, environment)
        row["turns"].append({"tree": tree} | turn)
        seconds = (f"{state} {moments['first_line']:.1f} s" for state, moments in turn.items())
        print(f"{label}, {tree}: {', '.join(seconds)}", flush=True)
        bench_utils.write(path, result, text(result))
    print(f"\n{text(result)}\n{path}")
    return 0


def turns(names: list[str], rounds: int) -> list[str]:
    """Returns the names in the order of their turns, reversed in every second round."""
    return [name for i in range(rounds) for name in (names[::-1] if i % 2 else names)]


def version(tree: Path) -> str:
    """Returns the commit of a tree, with `DIRTY` where its package has changed."""
    command = ["git", "-C", str(tree), "diff", "--quiet", "HEAD", "--", "jaxmarl_lite"]
    changed = subprocess.run(command, capture_output=True).returncode == 1
    return bench_utils.commit(tree) + (DIRTY if changed else "")


def check(tree: Path, args: argparse.Namespace) -> None:
    """Ends the program where a tree is not the one imported, or has no such environment.

    Also compiles the tree to bytecode, as an installation does.
    """
    package = tree / "jaxmarl_lite"
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(package)], capture_output=True)
    with tempfile.TemporaryDirectory(prefix="first-line-") as cache:
        probe = subprocess.run(
            [sys.executable, "-c", PROBE, args.algorithm, args.env],
            cwd=tree,
            env=variables(tree, Path(cache), os.environ),
            capture_output=True,
            text=True,
        )
    imported = probe.stdout.partition("\n")[0]
    if imported and Path(imported).resolve() != package / "__init__.py":
        raise SystemExit(f"first_line: {tree} imports {imported}, not its own package")
    if probe.returncode:
        raise SystemExit(f"first_line: {tree}: {_error_text(probe.stderr)}")


def variables(tree: Path, cache: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables of a process of ``tree`` whose caches are under ``cache``."""
    removed = {*CACHE_VARIABLES, "FORCE_COLOR"}
    others = {name: value for name, value in environment.items() if name not in removed}
    paths = os.pathsep.join(filter(None, (str(tree), others.get("PYTHONPATH"))))
    # without a terminal the command prints lines, not a bar
    return others | {"PYTHONPATH": paths, "XDG_CACHE_HOME": str(cache), "TTY_COMPATIBLE": "0"}


def measure(
    tree: Path, args: argparse.Namespace, environment: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """Times a cold and a warm run of a tree, see `time_run`."""
    turn = {}
    with tempfile.TemporaryDirectory(prefix="first-line-", ignore_cleanup_errors=True) as folder:
        cache, before = Path(folder) / "cache", 0
        for state in ("cold", "warm"):
            command = [sys.executable, *train_arguments(args), "--out", str(Path(folder) / state)]
            turn[state] = time_run(
                command, tree, variables(tree, cache, environment), 60.0 * args.minutes
            )
            # JAX keeps the time of a program's last use in a file of its own
            files = (file for file in (cache / "jaxmarl_lite").rglob("*") if file.is_file())
            programs = sum(not file.name.endswith("-atime") for file in files)
            turn[state]["programs_cached"], before = programs - before, programs
            if not programs:
                raise SystemExit(f"first_line: {tree} cached no compiled program under {cache}")
    return turn


def train_arguments(args: argparse.Namespace) -> list[str]:
    """Returns the arguments of the timed command without the interpreter and ``--out``."""
    arguments = ["-m", "jaxmarl_lite", "train", args.algorithm, "--env", args.env]
    return [*arguments, "--total-steps", str(args.total_steps), *shlex.split(args.options)]


def time_run(
    command: list[str], folder: Path, environment: Mapping[str, str], limit: float
) -> dict[str, float]:
    """Times a command until its first line of progress, and kills it there.

    Args:
        command: the command.
        folder: folder that it runs in.
        environment: its environment variables.
        limit: seconds after which it is killed without that line.

    Returns:
        Seconds from the start to each line of `LINES` that was printed, and ``cpu``, those of all
        processes of the command.
    """
    _adopt_orphans(True)
    moments: dict[str, float] = {}
    with tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        timer = threading.Timer(limit, _kill, [process.pid])
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                now = time.perf_counter() - began
                for moment, pattern in LINES.items():
                    if re.match(pattern, line.strip()):
                        moments.setdefault(moment, now)
                if "first_line" in moments:
                    break
        finally:
            timer.cancel()
            _kill(process.pid)
            cpu = _reap(process)
            _adopt_orphans(False)
        if "first_line" not in moments:
            errors.seek(0)
            took = time.perf_counter() - began
            why = f"killed after {took:.0f} s" if took > limit else _error_text(errors.read())
            raise SystemExit(f"first_line: {shlex.join(command)} printed no progress: {why}")
    return moments | {"cpu": cpu}


def _adopt_orphans(adopt: bool) -> None:
    """Makes this process the parent of descendants whose parent has ended, or no longer; Linux."""
    set_child_subreaper = 36
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_child_subreaper, int(adopt), 0, 0, 0)


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _reap(process: subprocess.Popen[str]) -> float:
    """Waits for a killed process and the rest of its group; returns their CPU seconds."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.stdout is not None:
        process.stdout.close()
    cpu = usage.ru_utime + usage.ru_stime
    with contextlib.suppress(ChildProcessError):
        while True:
            _, _, usage = os.wait4(-process.pid, 0)
            cpu += usage.ru_utime + usage.ru_stime
    return cpu


def _error_text(text: str) -> str:
    """Returns the last line of what a process printed, or the lines of the box that ends it."""
    _, box, inside = text.rpartition("╭")
    lines = [line for line in (line.strip("│─╮╰╯ ") for line in inside.splitlines()) if line]
    return " ".join(lines if box else lines[-1:]) or "it printed no error"


def medians(row: Mapping[str, Any], tree: str, state: str) -> dict[str, float | None]:
    """Returns the medians over the turns of a tree; None for a line that was not printed."""
    runs = [turn[state] for turn in row["turns"] if turn["tree"] == tree]
    names = ("first_line", "cpu", "start", "compiled", "programs_cached")
    values = {name: [run[name] for run in runs if name in run] for name in names}
    return {name: statistics.median(known) if known else None for name, known in values.items()}


def ratio_text(row: Mapping[str, Any], state: str, name: str) -> str:
    """Formats the other tree's seconds over ours: the median and the range over the rounds."""
    seconds: dict[str, list[float]] = {"own": [], "beside": []}
    for turn in row["turns"]:
        seconds[turn["tree"]].append(turn[state][name])
    # the last round may still lack a turn
    ratios = [theirs / own for own, theirs in zip(*seconds.values(), strict=False)]
    if not ratios:
        return ""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def text(result: Mapping[str, Any]) -> str:
    """Formats the result as Markdown."""
    rows, commits = [], []
    for label, row in result["rows"].items():
        for tree in row["commits"]:
            for state in ("cold", "warm"):
                numbers = medians(row, tree, state)
                ratios = [ratio_text(row, state, n) for n in ("first_line", "cpu")]
                rows.append(
                    {
                        "algorithm, environment": label,
                        "tree": tree,
                        "programs": state,
                        "until compiling, s": numbers["start"],
                        "until compiled, s": numbers["compiled"],
                        "until the first line, s": numbers["first_line"],
                        "CPU, s": numbers["cpu"],
                        "beside over own, s": ratios[0] if tree == "own" else "",
                        "the same, CPU": ratios[1] if tree == "own" else "",
                        "programs cached": numbers["programs_cached"],
                        "turns": sum(turn["tree"] == tree for turn in row["turns"]),
                    }
                )
        trees = (
            f"{name} {commit[:7]}{DIRTY if commit.endswith(DIRTY) else ''}"
            for name, commit in row["commits"].items()
        )
        commits.append(f"{label}: {', '.join(trees)}")
    settings = result["settings"]
    command = f"python -m jaxmarl_lite train ALGORITHM --env ENV {settings['options']} "
    command += f"--total-steps {settings['total_steps']} --out FOLDER"
    assigned = " ".join(f"{name}={value}" for name, value in settings["environment"].items())
    return (
        f"# From the command to its first line of progress on {result['facts']['device_kind']}\n\n"
        f"{bench_utils.facts_text(result['facts'])}\n\n`{' '.join(command.split())}`: seconds "
        "from the start of the process to the line of its first evaluation, with an empty folder "
        f"of compiled programs (cold) and once more (warm).\n\n{bench_utils.table(rows)}\nMedians "
        "over the turns; of the ratios (above 1: our tree is faster) also the range over the "
        "rounds. CPU: of all processes of the command. Programs cached: compiled in this run and "
        f"written. Variables of JAX and XLA: {assigned or 'none'}. Commits: {'; '.join(commits)}."
        "\n"
    )


if __name__ == "__main__":
    # a benchmark that is ended ends the process that it times
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    bench_utils.to_the_end(main)
