"""Times an update of the reference implementation of LIIR, unchanged, on request. Started by
`compare_liir_update.py`.

    python liir_driver.py --checkout DIR --agents 3 --state 48 --view 30 --actions 9 --steps 60

Prints one JSON line of facts; then, for every number on its standard input, makes so many updates
on one random batch and prints for each its seconds, and those of its critic loop, as a JSON list.

Nothing of the reference implementation is copied here: their learner, controller and batch are
built from their own settings files. They step the critic between a forward pass and the backward
pass over it, which the torch of their time allowed: the optimizer below hides its steps from
torch's version counter, as they were hidden then.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import types
import warnings
from pathlib import Path
from typing import Any

import serving
import torch
import yaml


def options() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkout", type=Path, required=True)
    for name in ("agents", "state", "view", "actions", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


class SilentLogger:
    """A logger that drops the authors' metrics."""

    console_logger = types.SimpleNamespace(info=lambda *_: None)

    def log_stat(self, *_: Any) -> None:
        """Does nothing."""


def build(args: argparse.Namespace) -> tuple[Any, Any]:
    """Returns the authors' learner, and a batch of full episodes of random data."""
    source = args.checkout / "src"
    sys.path.insert(0, str(source.absolute()))
    learners = importlib.import_module("learners.liir_learner")
    episode_buffer = importlib.import_module("components.episode_buffer")
    transforms = importlib.import_module("components.transforms")
    controllers = importlib.import_module("controllers").REGISTRY

    class UncountedRMSprop(torch.optim.RMSprop):
        def step(self, closure: Any = None) -> Any:
            weights = tuple(weight for group in self.param_groups for weight in group["params"])
            with torch.autograd._unsafe_preserve_version_counter(weights):  # type: ignore[arg-type]
                return super().step(closure)

    learners.RMSprop = UncountedRMSprop
    settings: dict[str, Any] = {}
    for name in ("default.yaml", "algs/liir_smac.yaml"):
        settings |= yaml.safe_load((source / "config" / name).read_text())
    agents, actions, num_envs, steps = args.agents, args.actions, args.num_envs, args.steps
    settings |= dict(
        use_cuda=False, device="cpu", n_agents=agents, n_actions=actions, state_shape=args.state
    )
    config = types.SimpleNamespace(**{"batch_size": num_envs, **settings})
    scheme = {
        "state": {"vshape": args.state},
        "obs": {"vshape": args.view, "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
        "avail_actions": {"vshape": (actions,), "group": "agents", "dtype": torch.int},
        "reward": {"vshape": (1,)},
        "terminated": {"vshape": (1,), "dtype": torch.uint8},
    }
    one_hot = {"actions": ("actions_onehot", [transforms.OneHot(out_dim=actions)])}
    batch = episode_buffer.EpisodeBatch(
        scheme, {"agents": agents}, num_envs, steps + 1, preprocess=one_hot
    )
    legal = (torch.rand(num_envs, steps + 1, agents, actions) < 0.7).int()
    legal[..., 0], legal[..., 1] = 0, 1  # in their environment action 0 is for the dead alone
    terminated = torch.zeros(num_envs, steps + 1, 1)
    terminated[:, steps - 1] = 1
    batch.update(
        {
            "state": torch.randn(num_envs, steps + 1, args.state),
            "obs": torch.randn(num_envs, steps + 1, agents, args.view),
            "actions": torch.distributions.Categorical(legal.float()).sample().unsqueeze(-1),
            "avail_actions": legal,
            "reward": torch.randn(num_envs, steps + 1, 1),
            "terminated": terminated,
        }
    )
    controller = controllers[config.mac](batch.scheme, {"agents": agents}, config)
    return learners.LIIRLearner(controller, batch.scheme, SilentLogger(), config), batch


def main() -> None:
    """Builds, then answers requests until the input ends."""
    args = options()
    answers = serving.take_stdout()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    learner, batch = build(args)
    train_critic, loop_seconds, count = learner._train_critic, 0.0, 0

    def timed_critic(*args: Any, **keywords: Any) -> Any:
        nonlocal loop_seconds
        began = time.perf_counter()
        result = train_critic(*args, **keywords)
        loop_seconds = time.perf_counter() - began
        return result

    def measure(number: int) -> list[list[float]]:
        nonlocal count
        seconds = []
        for _ in range(number):
            began, count = time.perf_counter(), count + 1
            learner.train(batch, 10**6 * count, count, count)
            seconds.append([time.perf_counter() - began, loop_seconds])
        return seconds

    learner._train_critic = timed_critic
    serving.serve(answers, {"versions": {"torch": torch.__version__}}, measure)


if __name__ == "__main__":
    main()
