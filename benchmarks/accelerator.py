"""Training on an accelerator beside JaxMARL's and Mava's on the same card, with the kernels that
each update starts.

    python benchmarks/accelerator.py --jaxmarl CHECKOUT --mava CHECKOUT --peer-python PYTHON

Every program is compiled in a process of its own, all at once, so that a short visit to a card is
enough; then one computes at a time: pairs in turns, as `side_by_side.py` says. A program that
cannot be built is named and its row left out. The table has seconds an update, kernels an update
counted in the compiled program (`hlo.py`), and their quotient, the microseconds of a kernel: near
its start-up time where the card is not filled. Rows that were measured with the same settings
(``XLA_FLAGS`` among them), versions and device stay in the file, so it may be run row by row
(``--rows``).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import measuring

HERE = Path(__file__).parent
LBF = "jumanji/lbf-2s-8x8-2p-2f-coop"
RECURRENT = (
    "--env smax/3m --num-minibatches 4 --recurrent --hidden-sizes 128 --head-hidden-sizes "
    "128 --num-steps 128"
)
CHEETAH = "--algorithm macpo --plain --env safe-mujoco/halfcheetah-2x3"
ROWS: dict[str, tuple[str, str | None]] = {
    "mappo, GRU, smax/3m, 128 x 128": (
        f"--algorithm mappo {RECURRENT} --num-envs 128",
        "jaxmarl --system mappo --map 3m",
    ),
    "ippo, GRU, smax/3m, 128 x 128": (
        f"--algorithm ippo --shared-torso {RECURRENT} --num-envs 128",
        "jaxmarl --system ippo --map 3m",
    ),
    "mappo, GRU, smax/3m, 1,024 x 128": (
        f"--algorithm mappo {RECURRENT} --num-envs 1024",
        "jaxmarl --system mappo --map 3m --num-envs 1024",
    ),
    "ippo, LBF, 32 x 128": (f"--algorithm ippo --env {LBF} --num-envs 32", "mava --system ff_ippo"),
    "mappo, LBF, 32 x 128": (
        f"--algorithm mappo --env {LBF} --num-envs 32",
        "mava --system ff_mappo",
    ),
    "mappo, LBF, 4,096 x 128": (
        f"--algorithm mappo --env {LBF} --num-envs 4096",
        "mava --system ff_mappo --num-envs 4096",
    ),
    "liir, LBF, 1,024 x 64": (f"--algorithm liir --env {LBF} --num-envs 1024 --num-steps 64", None),
    "macpo, toy/budget, 1,024 x 64": (
        "--algorithm macpo --plain --env toy/budget --num-envs 1024 --num-steps 64 --hidden-sizes "
        "64 64",
        None,
    ),
    "macpo, safe half-cheetah 2x3, 1,024 x 16": (
        f"{CHEETAH} --num-envs 1024 --num-steps 16 --hidden-sizes 64 64",
        None,
    ),
    "macpo, safe half-cheetah 2x3, 4,096 x 16": (
        f"{CHEETAH} --num-envs 4096 --num-steps 16 --hidden-sizes 64 64",
        None,
    ),
}
"""Label -> the options of our driver, and the peer's driver with its options where there is one."""


class Program:
    """A driver in a process of its own; its answers are read by a thread, so that many can compile
    at once.
    """

    def __init__(self, command: list[str], log: Path):
        self.facts: dict[str, Any] | None = None
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env=environment,
        )
        self._reader = threading.Thread(target=self._first, daemon=True)
        self._reader.start()

    def _first(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        with contextlib.suppress(json.JSONDecodeError):  # cut off at its end
            self.facts = json.loads(line)

    def ready(self, until: float) -> bool:
        """Whether it was compiled before the clock shows ``until``."""
        self._reader.join(max(until - time.monotonic(), 0.0))
        return self.facts is not None

    def updates(self, number: int) -> list[float]:
        """Seconds of each of so many updates."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--jaxmarl", type=Path, help="a checkout of JaxMARL; default: its rows are ours alone"
    )
    parser.add_argument(
        "--mava", type=Path, help="a checkout of Mava; default: its rows are ours alone"
    )
    parser.add_argument(
        "--peer-python", default=sys.executable, help="an interpreter that has what the peers need"
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=4, help="updates of a turn")
    parser.add_argument(
        "--compile-minutes", type=float, default=4.0, help="programs that take longer are left out"
    )
    parser.add_argument(
        "--name", default="accelerator", help="of the result files, before the device's"
    )
    parser.add_argument(
        "--out", type=Path, default=measuring.RESULTS, help="folder of the result files"
    )
    parser.add_argument(
        "--logs", type=Path, default=Path("accelerator-logs"), help="folder of what programs print"
    )
    return parser.parse_args(words)


def commands(chosen: argparse.Namespace) -> dict[tuple[str, str], list[str]]:
    """(Row, whose) -> command of its driver."""
    checkouts = {"jaxmarl": chosen.jaxmarl, "mava": chosen.mava}
    found = {}
    for label in chosen.rows:
        own, peer = ROWS[label]
        found[label, "own"] = [sys.executable, str(HERE / "peers" / "own_driver.py"), *own.split()]
        name = peer.split()[0] if peer else ""
        if peer and checkouts[name] is not None:
            found[label, name] = [
                chosen.peer_python,
                str(HERE / "peers" / f"{name}_driver.py"),
                *peer.split()[1:],
                "--checkout",
                str(checkouts[name].absolute()),
                *(["--updates", str(chosen.updates)] if name == "jaxmarl" else []),
            ]
    return found


def main(words: list[str] | None = None) -> int:
    """Compile all, then time row by row; the table is written after each. 1 when a program could
    not be built.
    """
    chosen = options(words)
    chosen.out.mkdir(parents=True, exist_ok=True)
    chosen.logs.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * chosen.compile_minutes
    programs = {
        key: Program(command, chosen.logs / f"{i:02d}-{key[1]}.txt")
        for i, (key, command) in enumerate(commands(chosen).items())
    }
    settings = {name: getattr(chosen, name) for name in ("rounds", "updates")}
    settings["xla_flags"] = os.environ.get("XLA_FLAGS", "")
    result: dict[str, Any] = {"settings": settings, "facts": {}, "rows": {}, "failed": []}
    try:
        for key, program in programs.items():
            if program.ready(until):
                print(f"compiled {key}: {program.facts}", flush=True)
            else:
                print(f"FAILED {key}", flush=True)
                result["failed"].append(list(key))
                program.end()
        print("all that could be built is built", flush=True)
        result["facts"] = measuring.facts()
        path = chosen.out / f"{chosen.name}-{measuring.device_name()}.json"
        earlier = measuring.read(path)
        if earlier.get("settings") == settings and {**earlier["facts"], "date": 0} == {
            **result["facts"],
            "date": 0,
        }:
            result["rows"] = earlier["rows"]  # of rows that are not asked for now
        for label in chosen.rows:
            pair = {
                whose: p
                for (row, whose), p in programs.items()
                if row == label and p.facts is not None
            }
            if "own" in pair:
                result["rows"][label] = timed(pair, chosen.rounds, chosen.updates)
                print(f"timed {label}: {result['rows'][label]['seconds']}", flush=True)
            measuring.write(path, result, text(result))
    finally:
        for program in programs.values():
            program.end()
    print(f"\n{text(result)}\n{path}")
    return 1 if result["failed"] else 0


def timed(pair: dict[str, Program], rounds: int, updates: int) -> dict[str, Any]:
    """Seconds of updates of each program of a row, in turns."""
    seconds: dict[str, list[float]] = {whose: [] for whose in pair}
    for program in pair.values():
        program.updates(min(updates, 2))
    for _ in range(rounds):
        for whose, program in pair.items():
            seconds[whose].append(statistics.median(program.updates(updates)))
    row: dict[str, Any] = {
        "facts": {whose: p.facts for whose, p in pair.items()},
        "seconds": seconds,
    }
    for peer in set(pair) - {"own"}:
        ratios = [theirs / ours for ours, theirs in zip(seconds["own"], seconds[peer], strict=True)]
        row |= {"ratio": statistics.median(ratios), "ratio_range": [min(ratios), max(ratios)]}
    return row


def text(result: dict[str, Any]) -> str:
    """The table, with everything needed to read it."""
    rows = []
    for label in (label for label in ROWS if label in result["rows"]):
        row = result["rows"][label]
        for whose, facts in row["facts"].items():
            second = statistics.median(row["seconds"][whose])
            ratio = (
                f"{row['ratio']:.2f} ({row['ratio_range'][0]:.2f} to {row['ratio_range'][1]:.2f})"
                if whose == "own" and "ratio" in row
                else ""
            )
            rows.append(
                [
                    label,
                    whose,
                    facts["env_steps_per_update"] / second,
                    ratio,
                    1e3 * second,
                    facts["kernels"],
                    1e6 * second / facts["kernels"],
                    facts["temporary_bytes"] / 1e6,
                    facts["compile_seconds"],
                ]
            )
    columns = [
        "program, envs x steps",
        "whose",
        "env steps/s",
        "ours over theirs",
        "ms an update",
        "kernels an update",
        "us a kernel",
        "temporary MB",
        "compile s",
    ]
    facts = result["facts"]
    head = (
        "# Training on "
        f"{facts.get('device_kind', '?')}\n\n{measuring.facts_text(facts) if facts else ''}\n\n"
    )
    s = result["settings"]
    foot = (
        f"\nMedians of {s['rounds']} turns of {s['updates']} updates. XLA_FLAGS: "
        f"{s['xla_flags'] or 'none'}. "
    )
    return (
        head
        + measuring.table(columns, rows)
        + foot
        + "Compile times are of several programs at once.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
