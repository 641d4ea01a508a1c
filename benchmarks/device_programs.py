r"""Compiles programs for accelerators that are not there, and shows what is in them.

    python benchmarks/device_programs.py --plugin-python PYTHON --chips h100 v5e
    python benchmarks/device_programs.py --plugin-python PYTHON --parts peers \
        --jaxmarl CHECKOUT --mava CHECKOUT --peer-python PYTHON

PYTHON is an interpreter with this package and the plugin of the chips: for NVIDIA's
`pip install --no-deps jax-cuda12-plugin==V jax-cuda12-pjrt==V` with V the version of jax (CUDA
itself is not needed), for TPUs the libtpu that `jax[tpu]` names. Parts:

- `matrix`: every algorithm in five environments, dense and recurrent: which programs compile.
- `devices`: MAPPO, LIIR and MACPO on eight GPUs or sixteen TPUs, with the environments and with the
  seeds spread: the exchanges of an update, beside the bytes of its gradients.
- `memory`: what training needs with 4,096 environments, in the tasks of the two papers, and for
  LIIR and MACPO the most environments that fit in 0.75 of the chip's memory, JAX's default share.
- `peers`: an update beside JaxMARL's and Mava's at their sizes, compiled for one chip alike.

Kernels are counted as `drivers/serving.py` says. It is no time: on a GPU that a program does not
fill, that is about kernels times 3 to 5 microseconds. Rows of the same versions are kept in the
result file, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bench_utils
import compare_speed

sys.path.insert(0, str(compare_speed.DRIVERS))
import chips
import serving

from jaxmarl_lite.algorithms import registry

LIMITED = ("macpo", "mappo-lagrangian")
ENVS = {
    "toy": "toy/budget",
    "LBF": "jumanji/lbf-2s-8x8-2p-2f-coop",
    "SMAX 3m": "smax/3m",
    "MPE": "mpe/spread-3a",
    "half-cheetah": "safe-mujoco/halfcheetah-2x3",
}
"""Environments of the matrix."""
SAFE_ENVS = ENVS | {
    "LBF": "safe/search-and-rescue-2s-40t",
    "SMAX 3m": "safe/rware-tiny-2ag",
    "MPE": "safe-mpe/spread-3a",
}
"""The same for algorithms that need costs."""
LARGE = ("smax/8m", "safe-mujoco/halfcheetah-2x3")
"""Environments of the part `memory`; the robot takes continuous actions and has a cost."""
DISCRETE = ("qmix", "vdn", "coma")
"""Algorithms for discrete actions alone."""
SPREAD = ("mappo", "liir", "macpo")
PEERS = {
    "mappo, GRU, smax/3m, 128 x 128": 0.33,
    "ippo, GRU, smax/3m, 128 x 128": 0.33,
    "mappo, LBF, 32 x 128": 0.7,
    "ippo, LBF, 32 x 128": 0.7,
    "liir, LBF, 1024 x 64": None,
    "macpo, toy/budget, 1024 x 64": None,
}
"""Row of `compare_speed.py` -> the largest share of the peer's kernels that is aimed at."""


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = bench_utils.make_parser(__doc__)
    parser.add_argument("--plugin-python", default=sys.executable, help="interpreter with plugins")
    parser.add_argument("--peer-python", help="one with the peers' packages too; default: the same")
    parser.add_argument("--chips", nargs="+", default=["h100"], metavar="CHIP")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--only", nargs="+", default=[], help="rows whose name has one of these")
    parser.add_argument("--jaxmarl", type=Path, help="a checkout of it")
    parser.add_argument("--mava", type=Path, help="a checkout of it")
    parser.add_argument("--minutes", type=float, default=20.0, help="longest time of one row")
    bench_utils.add_numbers(parser, jobs=(os.cpu_count() or 1, "programs that compile at once"))
    args = parser.parse_args(argv)
    for name in args.chips:
        try:
            chips.find(name)
        except chips.ChipError as error:
            parser.error(str(error))
    args.peer_python = args.peer_python or args.plugin_python
    return args


def matrix(chip: str, args: argparse.Namespace) -> dict[str, list[str]]:
    """Returns the commands of the matrix by row."""
    rows = {}
    for algorithm in registry.names():
        envs = SAFE_ENVS if algorithm in LIMITED else ENVS
        for title, env in envs.items():
            if title == "half-cheetah" and algorithm in DISCRETE:
                continue
            for network, recurrent in (("dense", False), ("GRU", True)):
                config = json.dumps({"recurrent": recurrent, "hidden_sizes": [64, 64]})
                sizes = ("--num-envs", "64", "--num-steps", "32")
                arguments = ["--algorithm", algorithm, "--env", env, "--config", config, *sizes]
                arguments += ["--programs", "train_chunk", "init"]
                rows[f"{algorithm}, {env}, {network}"] = _own(chip, args, *arguments)
    return rows


def several_devices(chip: str, args: argparse.Namespace) -> dict[str, list[str]]:
    """Returns the commands of programs over several devices by row."""
    count = 8 if chips.find(chip).platform == "gpu" else 16
    rows = {}
    for algorithm in SPREAD:
        env = "toy/budget" if algorithm in LIMITED else ENVS["LBF"]
        for layout in ("envs", "seeds"):
            seeds = count if layout == "seeds" else 1
            arguments = ["--algorithm", algorithm, "--env", env, "--devices", str(count)]
            arguments += ["--shard-over", layout, "--num-seeds", str(seeds), "--num-steps", "64"]
            arguments += ["--num-envs", str(1024 * (1 if layout == "seeds" else count))]
            arguments += ["--programs", "train_chunk", "init"]
            rows[f"{algorithm}, {env}, {count} devices, {layout} spread"] = _own(
                chip, args, *arguments
            )
    return rows


def large(chip: str, args: argparse.Namespace) -> dict[str, list[str]]:
    """Returns the commands of 4,096 environments, and of the most that fit, by row."""
    smax, robot = LARGE
    rows = {}
    for algorithm in registry.names():
        sizes = {}
        if algorithm not in LIMITED:
            sizes |= {f"{smax}, {name}": {"recurrent": name == "GRU"} for name in ("dense", "GRU")}
        if algorithm not in DISCRETE:
            sizes |= {f"{robot}, dense": {}}
        for name, config in sizes.items():
            # its replay buffer must hold a rollout, and holds 2,048 sequences by default
            config |= {"buffer_size": 8192} if algorithm == "qmix" else {}
            arguments = ["--algorithm", algorithm, "--env", name.partition(",")[0]]
            arguments += ["--config", json.dumps(config), "--programs", "train_chunk"]
            own = _own(chip, args, *arguments)
            rows[f"{algorithm}, {name}"] = [*own, "--num-envs", "4096"]
            if algorithm in ("liir", "macpo"):
                rows[f"{algorithm}, {name}, largest"] = [*own, "--largest", "0.75"]
    return rows


def _own(chip: str, args: argparse.Namespace, *arguments: str) -> list[str]:
    driver = str(compare_speed.DRIVERS / "device_driver.py")
    return [args.plugin_python, driver, "--chip", chip, *arguments]


def beside_peers(chip: str, args: argparse.Namespace) -> dict[str, list[str]]:
    """Returns the commands of updates beside a peer's, two rows each."""
    del chip
    rows = {}
    for row in PEERS:
        ours, peer = compare_speed.ROWS[row]
        own = str(compare_speed.DRIVERS / "jaxmarl_lite_driver.py")
        rows[f"{row}: own"] = [args.plugin_python, own, *ours.split()]
        name, *arguments = peer.split() or [""]
        checkout = getattr(args, name, None) if name else None
        if checkout is not None:
            driver = str(compare_speed.DRIVERS / f"{name}_driver.py")
            rows[f"{row}: {name}"] = [args.peer_python, driver, *arguments]
            rows[f"{row}: {name}"] += ["--checkout", str(checkout.absolute())]
    return rows


PARTS = {
    "matrix": matrix,
    "devices": several_devices,
    "memory": large,
    "peers": beside_peers,
}
"""Part -> function of a chip and the options that returns row -> command."""


def measure(command: Sequence[str], chip: str, minutes: float) -> dict[str, Any]:
    """Returns what a driver prints about its programs, or ``error``."""
    environment = os.environ | chips.variables(chip) | {serving.CHIP: chip}
    try:
        done = subprocess.run(
            list(command),
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60 * minutes,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"more than {minutes:g} minutes"}
    lines = done.stdout.splitlines()
    if lines:
        return json.loads(lines[0])
    last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["no message"]
    return {"error": f"ended with code {done.returncode}: {last[0][:600]}"}


def main(argv: Sequence[str] | None = None) -> int:
    """Compiles what is missing and writes the table after each; 1 if a program failed."""
    args = options(argv)
    facts = bench_utils.facts()
    failed = 0
    for part in args.parts:
        for chip in args.chips:
            failed += _run_part(part, chip, args, facts)
    return 1 if failed else 0


def _compiling(facts: Mapping[str, Any]) -> dict[str, str]:
    """Returns the versions of the packages that decide what is compiled."""
    others = ("orbax-checkpoint", "numpy", "chex")
    return {name: x for name, x in facts.get("packages", {}).items() if name not in others}


def _run_part(part: str, chip: str, args: argparse.Namespace, facts: Mapping[str, Any]) -> int:
    """Compiles the missing rows of a part for a chip; returns how many failed."""
    path = args.out / f"device-programs-{part}-{chip}.json"
    every = PARTS[part](chip, args)
    commands = {
        row: command
        for row, command in every.items()
        if not args.only or any(arguments in row for arguments in args.only)
    }
    stored = json.loads(path.read_text()) if path.exists() else {}
    same = _compiling(stored.get("facts", {})) == _compiling(facts)
    rows: dict[str, Any] = stored.get("rows", {}) if same else {}
    # an error may have been mended since
    missing = [row for row in commands if "error" in rows.get(row, {"error": ""})]

    lock = threading.Lock()
    result = {"facts": facts, "chip": chip, "part": part, "planned": len(every), "rows": rows}

    def run(row: str) -> None:
        measured = measure(commands[row], chip, args.minutes)
        print(f"{chip}: {row}: {measured.get('error', 'compiles')}", flush=True)
        with lock:
            rows[row] = measured
            bench_utils.write(path, result, text(result))

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(run, missing))
    if rows:
        print(text(result))
    return sum("error" in rows[row] for row in commands)


def text(result: Mapping[str, Any]) -> str:
    """Formats the rows of a part as Markdown."""
    table = {"peers": _peer_table, "memory": _memory_table}.get(result["part"], _run_table)
    errors = [f"- {name}: {row['error']}" for name, row in result["rows"].items() if "error" in row]
    count = len(result["rows"])
    left = max(0, result["planned"] - count)
    untried = f" {left} rows of this part have not been compiled yet." if left else ""
    return (
        f"# Programs compiled for {result['chip']}: {result['part']}\n\n"
        f"{bench_utils.facts_text(result['facts'])} No accelerator was there.\n\n"
        f"{count - len(errors)} of {count} compile.{untried}\n\n"
        f"{bench_utils.table(table(result['rows']))}\n"
        + ("\n".join(["Not compiled:", "", *errors, ""]) if errors else "")
    )


def _run_table(rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    table = []
    for name in sorted(name for name, row in rows.items() if "error" not in row):
        row = rows[name]
        train = row["programs"]["train_chunk"]
        steps = train["kernels_by_part"]
        per_step = sum(steps.get(part, 0) for part in ("reset", "environment", "rollout"))
        exchanges = (
            f"{x['number']} {kind}, {x['bytes'] / 1e6:.3g} MB"
            for kind, x in train["collectives"].items()
        )
        table.append(
            {
                "program": name,
                "envs x steps": f"{row['num_envs']} x {row['num_steps']}",
                "kernels an update": train["kernels"],
                "of these": ", ".join(f"{part} {number}" for part, number in steps.items()),
                "kernels a step": per_step / row["num_steps"],
                "temporary MB": train["temporary_bytes"] / 1e6,
                "learner MB": row["learner_bytes"] / 1e6,
                "exchanges an update": "; ".join(exchanges),
                "gradients MB": (row.get("gradient_bytes") or 0) / 1e6 or "",
                "GFLOP, loops once": train["flops"] / 1e9 if "flops" in train else "",
                "compile s": train["compile_seconds"],
            }
        )
    return table


def _memory_table(rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    table = []
    for name in sorted(name for name, row in rows.items() if "error" not in row):
        row = rows[name]
        needed = (
            row["memory"] if "memory" in row else row["programs"]["train_chunk"]["memory_bytes"]
        )
        number = row.get("largest", row["num_envs"])
        table.append(
            {
                "program": name,
                "envs x steps": f"{number} x {row['num_steps']}",
                "GB": needed / 1e9,
                "kB a step of an environment": needed / 1e3 / number / row["num_steps"],
            }
        )
    return table


def _peer_table(rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    table = []
    for label, goal in PEERS.items():
        names = [name for name in rows if name.rpartition(": ")[0] == label]
        named = {name.rpartition(": ")[2]: rows[name] for name in names}
        for name, row in named.items():
            if "error" in row:
                continue
            peers = [x for key, x in named.items() if key != "own" and "error" not in x]
            share = row["kernels"] / peers[0]["kernels"] if name == "own" and peers else ""
            table.append(
                {
                    "update": label,
                    "program": name,
                    "kernels": row["kernels"],
                    "of the peer's": share,
                    "aim": goal if name == "own" and goal else "",
                    # a peer's program has other parts, and several updates
                    "of these": ", ".join(
                        f"{part} {number}"
                        for part, number in row["kernels_by_part"].items()
                        if name == "own"
                    ),
                    "temporary MB": row["temporary_bytes"] / 1e6,
                    "compile s": row["compile_seconds"],
                }
            )
    return table


if __name__ == "__main__":
    bench_utils.to_the_end(main)
