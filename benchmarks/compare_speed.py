"""Compares training steps per second with JaxMARL and Mava, in turns on one machine.

    python benchmarks/compare_speed.py --jaxmarl CHECKOUT --mava CHECKOUT --peer-python PYTHON
    python benchmarks/compare_speed.py --rows "liir, LBF, 1024 x 64"        no peer needed

Rows have the sizes and networks of the peer's own settings. Each program compiles in a process of
its own and is then timed in turns with its peer (`bench_utils.py`). ``--together`` compiles all
programs at once, for a short session on a machine with many cores. Programs that fail are listed
and their rows left out. Rows with the same settings (``XLA_FLAGS`` among them), versions and device
are kept in the result file, so that rows can be measured one by one.

Rows of LIIR's update and of MACPO's step are one update on random data, see the drivers. Theirs of
MACPO also fits two critics in the same function; alone, without. Minibatches: so many steps, each
on its share of the samples.

The table counts the kernels of an update in the optimized HLO (`drivers/serving.py`). Seconds over
kernels is close to the start-up time of a kernel on a GPU that is not filled.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bench_utils

DRIVERS = Path(__file__).parent / "drivers"
LBF, RWARE = "jumanji/lbf-2s-8x8-2p-2f-coop", "jumanji/rware-tiny-2ag"
CHEETAH = "--algorithm macpo --plain --env safe-mujoco/halfcheetah-2x3 --hidden-sizes 64 64"
GRU = "--recurrent --hidden-sizes 128 --head-hidden-sizes 128 --num-steps 128 --num-minibatches 4"
SMAX = f"--env smax/3m {GRU}"
ROWS: dict[str, tuple[str, str]] = {
    "mappo, GRU, smax/3m, 128 x 128": (
        f"--algorithm mappo {SMAX} --num-envs 128",
        "jaxmarl --system mappo --map 3m",
    ),
    "ippo, GRU, smax/3m, 128 x 128": (
        f"--algorithm ippo --shared-torso {SMAX} --num-envs 128",
        "jaxmarl --system ippo --map 3m",
    ),
    "mappo, GRU, smax/3m, 1024 x 128": (
        f"--algorithm mappo {SMAX} --num-envs 1024",
        "jaxmarl --system mappo --map 3m --num-envs 1024",
    ),
    "environment alone, smax/3m, 128 x 64": (
        "--only-env --env smax/3m --num-envs 128 --num-steps 64",
        "jaxmarl --only-env --map 3m --num-envs 128 --num-steps 64",
    ),
    "environment alone, smax/3m, 1024 x 64": (
        "--only-env --env smax/3m --num-envs 1024 --num-steps 64",
        "jaxmarl --only-env --map 3m --num-envs 1024 --num-steps 64",
    ),
    "ippo, LBF, 32 x 128": (f"--algorithm ippo --env {LBF}", "mava --system ff_ippo --env lbf"),
    "mappo, LBF, 32 x 128": (f"--algorithm mappo --env {LBF}", "mava --system ff_mappo --env lbf"),
    "ippo, RobotWarehouse, 32 x 128": (
        f"--algorithm ippo --env {RWARE}",
        "mava --system ff_ippo --env rware",
    ),
    "mappo, RobotWarehouse, 32 x 128": (
        f"--algorithm mappo --env {RWARE}",
        "mava --system ff_mappo --env rware",
    ),
    "mappo, LBF, 4096 x 128": (
        f"--algorithm mappo --env {LBF} --num-envs 4096",
        "mava --system ff_mappo --env lbf --num-envs 4096",
    ),
    "liir, LBF, 1024 x 64": (f"--algorithm liir --env {LBF} --num-envs 1024 --num-steps 64", ""),
    "macpo, toy/budget, 1024 x 64": (
        "--algorithm macpo --plain --env toy/budget --num-envs 1024 --num-steps 64 "
        "--hidden-sizes 64 64",
        "",
    ),
    "macpo, safe half-cheetah 2x3, 1024 x 16": (f"{CHEETAH} --num-envs 1024 --num-steps 16", ""),
    "macpo, safe half-cheetah 2x3, 4096 x 16": (f"{CHEETAH} --num-envs 4096 --num-steps 16", ""),
}
ROWS |= {
    f"LIIR's update, {name}, {threads} threads{note}": (
        f"--liir-update {name}",
        f"liir --map {name} --threads {threads} {option}",
    )
    for name in ("3m", "8m")
    for threads in (1, 2)
    for note, option in (("", ""), (", no critic loop", "--without-critic-loop"))
}
ROWS |= {
    f"MACPO's step, {threads} threads, {note}": (
        "--macpo-step",
        f"macpo --threads {threads} {option}",
    )
    for threads in (1, 2)
    for note, option in (
        ("alone", "--alone"),
        ("as it is", ""),
        ("alone, 40 minibatches", "--alone --minibatches 40"),
    )
}
"""Row -> options of our driver, and the peer's driver with its options, empty without a peer."""


CHECKOUTS = {"jaxmarl": "baselines", "mava": "mava/systems"}
CHECKOUTS |= {"liir": "src/learners", "macpo": "MACPO/macpo"}
"""Peer -> a folder that a checkout of it has."""


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = bench_utils.make_parser(__doc__)
    for name in CHECKOUTS:
        parser.add_argument(f"--{name}", type=Path, help="a checkout of it, for its rows")
    for name, text in (("peer", "JaxMARL's and Mava's"), ("torch", "LIIR's and MACPO's")):
        parser.add_argument(
            f"--{name}-python", default=sys.executable, help=f"an interpreter for {text} programs"
        )
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=ROWS,
        metavar="ROW",
        help=f"default: all whose checkout is known; of {', '.join(map(repr, ROWS))}",
    )
    parser.add_argument("--together", action="store_true", help="compile all programs at once")
    bench_utils.add_numbers(parser, rounds=3, updates=(4, "updates of a turn"))
    parser.add_argument(
        "--compile-minutes", type=float, default=15.0, help="programs that take longer are left out"
    )
    parser.add_argument("--name", default="compare-speed", help="of the result files")
    parser.add_argument("--logs", type=Path, help="folder of what the programs print")
    args = parser.parse_args(argv)
    for name, folder in CHECKOUTS.items():
        checkout = getattr(args, name)
        if checkout is not None and not (checkout / folder).is_dir():
            parser.error(f"--{name}: {checkout} is no checkout of {name}: it has no {folder}")
    args.rows = args.rows or [row for row in ROWS if _has_checkout(row, args)]
    return args


def _has_checkout(row: str, args: argparse.Namespace) -> bool:
    peer = ROWS[row][1].split(" ")[0]
    return not peer or getattr(args, peer) is not None


def commands(row: str, args: argparse.Namespace) -> dict[str, list[str]]:
    """Returns the commands of a row: ``own``, and the peer's name if its checkout is known."""
    ours, peer = ROWS[row]
    by_name = {"own": [sys.executable, str(DRIVERS / "jaxmarl_lite_driver.py"), *ours.split()]}
    if peer and _has_checkout(row, args):
        name, *options = peer.split()
        python = args.torch_python if name in ("liir", "macpo") else args.peer_python
        by_name[name] = [python, str(DRIVERS / f"{name}_driver.py"), *options]
        by_name[name] += ["--checkout", str(getattr(args, name).absolute())]
        if name == "jaxmarl":
            by_name[name] += ["--updates", str(args.updates)]
    return by_name


def main(argv: list[str] | None = None) -> int:
    """Measures the rows and writes the table after each; 1 if a program failed."""
    args = options(argv)
    settings: dict[str, Any] = {"rounds": args.rounds, "updates": args.updates}
    settings["xla_flags"] = os.environ.get("XLA_FLAGS", "")
    facts = bench_utils.facts()
    path = args.out / f"{args.name}-{bench_utils.device_name()}.json"
    result: dict[str, Any] = {"settings": settings, "facts": facts, "failed": []}
    result["commits"] = {
        name: bench_utils.commit(checkout)
        for name in CHECKOUTS
        if (checkout := getattr(args, name)) is not None
    }
    result["rows"] = bench_utils.comparable_rows(path, settings, facts)
    batches = [args.rows] if args.together else [[row] for row in args.rows]
    for rows in batches:
        programs = start(rows, args)
        try:
            _await(programs, args.compile_minutes, result)
            for row in rows:
                pair = {name: p for (r, name), p in programs.items() if r == row and p.facts}
                if "own" in pair:
                    result["rows"][row] = bench_utils.in_turns(pair, args.rounds, args.updates)
                    print(f"{row}: {_ratio_text(result['rows'][row])}", flush=True)
                bench_utils.write(path, result, text(result))
        finally:
            for program in programs.values():
                program.end()
    print(f"\n{text(result)}\n{path}")
    return 1 if result["failed"] else 0


def start(rows: list[str], args: argparse.Namespace) -> dict[tuple[str, str], bench_utils.Program]:
    """Starts the programs of the rows; returns (row, name) -> program."""
    programs = {}
    for row in rows:
        for name, command in commands(row, args).items():
            log = None
            if args.logs is not None:
                args.logs.mkdir(parents=True, exist_ok=True)
                log = args.logs / f"{list(ROWS).index(row):02d}-{name}.txt"
            programs[row, name] = bench_utils.Program(command, log)
    return programs


def _await(
    programs: Mapping[tuple[str, str], bench_utils.Program], minutes: float, result: dict[str, Any]
) -> None:
    deadline = time.monotonic() + 60 * minutes
    for key, program in programs.items():
        if not program.wait_until_ready(max(deadline - time.monotonic(), 0.0)):
            print(f"failed: {key}", flush=True)
            result["failed"].append(list(key))
            program.end()


def _ratio_text(row: Mapping[str, Any]) -> str:
    if "ratio" not in row:
        return ""
    low, high = row["ratio_range"]
    return f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"


def text(result: Mapping[str, Any]) -> str:
    """Formats the result as Markdown."""
    rows = []
    for label in (label for label in ROWS if label in result["rows"]):
        row = result["rows"][label]
        for name, facts in row["facts"].items():
            second, kernels = statistics.median(row["seconds"][name]), facts.get("kernels")
            temporary = facts.get("temporary_bytes")
            rows.append(
                {
                    "algorithm, envs x steps": label,
                    "program": name,
                    "env steps/s": facts["env_steps_per_update"] / second,
                    "ours over theirs": _ratio_text(row) if name == "own" else "",
                    "ms an update": 1e3 * second,
                    "kernels an update": "" if kernels is None else kernels,
                    "us a kernel": "" if kernels is None else 1e6 * second / kernels,
                    "temporary MB": "" if temporary is None else temporary / 1e6,
                    "work of an update": facts.get("work", ""),
                    "compile s": facts.get("compile_seconds"),
                }
            )
    settings = result["settings"]
    failed = "".join(f"\nFailed: {row}, {name}.\n" for row, name in result["failed"])
    names = {"jaxmarl": "JaxMARL", "mava": "Mava"}
    peers = " and ".join(names[peer] for peer in result["commits"] if peer in names)
    commits = ", ".join(f"{name} {commit[:7]}" for name, commit in result["commits"].items())
    return (
        f"# Speed beside {peers or 'other programs'} on {result['facts']['device_kind']}\n\n"
        f"{bench_utils.facts_text(result['facts'])}\n\n{bench_utils.table(rows)}\n"
        f"Medians of {settings['rounds']} turns of {settings['updates']} updates. XLA_FLAGS: "
        f"{settings['xla_flags'] or 'none'}. {f'Commits: {commits}.' if commits else ''}\n{failed}"
    )


if __name__ == "__main__":
    sys.exit(main())
