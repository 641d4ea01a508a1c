"""Times an update of the authors' LIIR, theirs and unchanged, on request. Started by
`compare_liir_update.py`.

    python liir_driver.py --checkout DIR --agents 3 --state 48 --view 30 --actions 9 --steps 60

Prints one JSON line of facts; then, for every line with a number on its standard input, makes so
many updates on one random batch and prints for each its seconds, and those of its critic loop, as a
JSON list.

Nothing of the authors' is copied here: their learner, controller and batch are built with the
numbers of their own settings files. They step the critic between a forward pass and the backward
pass over it, which the torch of their time allowed: the steps are told not to count as changes of
the weights, as they were not then.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import types
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkout", type=Path, required=True)
    for name in ("agents", "state", "view", "actions", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--worlds", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


class Silent:
    """Where their numbers go."""

    console_logger = types.SimpleNamespace(info=lambda *_: None)

    def log_stat(self, *_: Any) -> None:
        """Keep nothing."""


def build(chosen: argparse.Namespace) -> tuple[Any, Any]:
    """The authors' learner, and a batch of whole episodes of random data."""
    source = chosen.checkout / "src"
    sys.path.insert(0, str(source.absolute()))
    learners = importlib.import_module("learners.liir_learner")
    parts = {
        name: importlib.import_module(name)
        for name in ("components.episode_buffer", "components.transforms")
    }
    controllers = importlib.import_module("controllers").REGISTRY

    class Steps(torch.optim.RMSprop):
        def step(self, closure: Any = None) -> Any:
            weights = tuple(weight for group in self.param_groups for weight in group["params"])
            with torch.autograd._unsafe_preserve_version_counter(weights):  # type: ignore[arg-type]
                return super().step(closure)

    learners.RMSprop = Steps
    settings: dict[str, Any] = {}
    for name in ("default.yaml", "algs/liir_smac.yaml"):
        settings |= yaml.safe_load((source / "config" / name).read_text())
    agents, actions, worlds, steps = chosen.agents, chosen.actions, chosen.worlds, chosen.steps
    settings |= dict(
        use_cuda=False, device="cpu", n_agents=agents, n_actions=actions, state_shape=chosen.state
    )
    args = types.SimpleNamespace(
        **settings, **({} if "batch_size" in settings else {"batch_size": worlds})
    )
    scheme = {
        "state": {"vshape": chosen.state},
        "obs": {"vshape": chosen.view, "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
        "avail_actions": {"vshape": (actions,), "group": "agents", "dtype": torch.int},
        "reward": {"vshape": (1,)},
        "terminated": {"vshape": (1,), "dtype": torch.uint8},
    }
    coded = {
        "actions": ("actions_onehot", [parts["components.transforms"].OneHot(out_dim=actions)])
    }
    batch = parts["components.episode_buffer"].EpisodeBatch(
        scheme, {"agents": agents}, worlds, steps + 1, preprocess=coded
    )
    legal = (torch.rand(worlds, steps + 1, agents, actions) < 0.7).int()
    legal[..., 0], legal[..., 1] = 0, 1  # theirs: action 0 is for the dead alone
    ends = torch.zeros(worlds, steps + 1, 1)
    ends[:, steps - 1] = 1
    batch.update(
        {
            "state": torch.randn(worlds, steps + 1, chosen.state),
            "obs": torch.randn(worlds, steps + 1, agents, chosen.view),
            "actions": torch.distributions.Categorical(legal.float()).sample().unsqueeze(-1),
            "avail_actions": legal,
            "reward": torch.randn(worlds, steps + 1, 1),
            "terminated": ends,
        }
    )
    controller = controllers[args.mac](batch.scheme, {"agents": agents}, args)
    return learners.LIIRLearner(controller, batch.scheme, Silent(), args), batch


def main() -> None:
    """Build, then answer requests until the input ends."""
    chosen = options()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the peer prints is not an answer
    warnings.filterwarnings("ignore")
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    learner, batch = build(chosen)
    inner, loop = learner._train_critic, []

    def timed(*args: Any, **keywords: Any) -> Any:
        began = time.perf_counter()
        found = inner(*args, **keywords)
        loop.append(time.perf_counter() - began)
        return found

    learner._train_critic = timed
    print(json.dumps({"versions": {"torch": torch.__version__}}), file=answers, flush=True)
    count = 0
    for line in sys.stdin:
        taken = []
        for _ in range(int(line)):
            began, count = time.perf_counter(), count + 1
            learner.train(batch, 10**6 * count, count, count)
            taken.append([time.perf_counter() - began, loop[-1]])
        print(json.dumps(taken), file=answers, flush=True)


if __name__ == "__main__":
    main()
