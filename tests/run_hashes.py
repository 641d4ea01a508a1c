"""Hashes of short runs of every algorithm, to show that a change of the code changed no bits.

``python tests/run_hashes.py --write FILE`` before a change and ``--check FILE`` after it, on one
machine: compilers for different processors round differently. A run trains for two updates, stops,
is resumed and trains for two more. Leaves and metrics are compared as sets of values, without their
names, so that both may be renamed."""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import fast_compile
import jax
import numpy as np

if __name__ == "__main__":
    fast_compile.switch_on()

import tiny_runs

import jaxmarl_lite as jml
from jaxmarl_lite.experiment.run_logger import TIMINGS

COSTS = ("macpo", "mappo-lagrangian")
EFFORT = "toy/reach-heterogeneous with a cost"


def cases() -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Name of a case -> algorithm, environment and settings."""
    result = {}
    for algorithm in jml.ALGORITHMS:
        discrete_only = algorithm in ("coma", "qmix")
        env_ids = {"discrete": "toy/budget-two" if algorithm in COSTS else "toy/early-death"}
        if not discrete_only:
            env_ids["continuous"] = EFFORT if algorithm in COSTS else "toy/reach-heterogeneous"
        for actions, env in env_ids.items():
            for recurrent in (False, True):
                sizes = {"recurrent": recurrent} | ({"rnn_hidden_size": 3} if recurrent else {})
                case = f"{algorithm} {actions} {'gru' if recurrent else 'none'}"
                result[case] = algorithm, env, sizes | {"normalize_observations": True}
    separate = {"parameter_sharing": False}
    result["liir apart"] = "liir", "toy/relay", separate
    result["liir official"] = "liir", "toy/relay", {"meta_gradient": "reference"}
    result["macpo apart"] = "macpo", "toy/budget-two", {"cost_ratio": "corrected"}
    result["macpo authors"] = "macpo", "toy/risky", {"cost_ratio": "product", "per_dim_ratio": True}
    result["ippo trunk"] = (
        "ippo",
        "toy/memory",
        {"shared_torso": True, "recurrent": True, "rnn_hidden_size": 3},
    )
    return result


def hashes(algorithm: str, env: str, fields: dict[str, Any]) -> dict[str, list[str]]:
    """Sorted hashes of the leaves of the last state and of the metrics of one run."""
    config = tiny_runs.config(algorithm, **fields)
    one_env: Any = env
    if env == EFFORT:
        effort = jml.Cost(
            "effort", "squared actions", lambda state, action, next_state: (action**2).sum(-1), 0.2
        )
        one_env = jml.with_costs(jml.make("toy/reach-heterogeneous"), [effort])
    with tempfile.TemporaryDirectory() as folder:
        sizes = dict(
            tiny_runs.SIZES, seeds=2, config=config, num_evaluations=2, out=Path(folder) / "run"
        )
        jml.run(algorithm, one_env, total_steps=tiny_runs.updates(2), **sizes)
        again = None if isinstance(one_env, str) else one_env
        result = jml.resume_run(
            Path(folder) / "run", env=again, total_steps=tiny_runs.updates(4), quiet=True
        )
        states = jax.tree.map(_data, result.states)
    learned = sorted(_hash(x) for x in jax.tree.leaves(states) if x.size)
    metrics = {name: x for name, x in result.metrics.items() if name not in TIMINGS}
    return {"leaves": learned, "metrics": sorted(_hash(x) for x in metrics.values())}


def _data(leaf: Any) -> np.ndarray:
    return np.asarray(
        jax.random.key_data(leaf) if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    )


def _hash(value: np.ndarray) -> str:
    return hashlib.blake2b(
        f"{value.dtype}{value.shape}".encode() + value.tobytes(), digest_size=8
    ).hexdigest()


def main() -> int:
    """Write or check; 1 where a hash differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path)
    parser.add_argument("--check", type=Path)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    options = parser.parse_args()
    stored = json.loads(options.check.read_text()) if options.check else {}
    result, different = {}, 0
    for name, case in cases().items():
        if options.only not in name:
            continue
        result[name] = hashes(*case)
        jax.clear_caches()
        if options.check:
            for kind, current in result[name].items():
                lost = collections.Counter(stored[name][kind]) - collections.Counter(current)
                new = collections.Counter(current) - collections.Counter(stored[name][kind])
                different += bool(lost or new)
                verdict = (
                    "same"
                    if not lost and not new
                    else f"{lost.total()} of {len(current)} differ, {new.total()} new"
                )
                print(f"{name}, {kind}: {verdict}", flush=True)
        else:
            print(name, len(result[name]["leaves"]), len(result[name]["metrics"]), flush=True)
        if options.write:
            options.write.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
