"""Times an update of the reference implementation of LIIR, unchanged, on request. Started by
`compare_speed.py`; `serving.py` has the protocol.

    python liir_driver.py --checkout DIR --map 3m --threads 2 --without-critic-loop

An update is their ``learner.train`` on one random batch: one step of the policy, their one scalar,
one step of the intrinsic reward, and for the critic one step per time step; with
``--without-critic-loop`` the seconds of that loop are subtracted.

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
    parser.add_argument("--map", choices=serving.LIIR_MAPS, default="3m")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without-critic-loop", action="store_true")
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
    agents, state, view, actions, steps = serving.LIIR_MAPS[args.map]
    num_envs = serving.LIIR_EPISODES
    settings |= dict(
        use_cuda=False, device="cpu", n_agents=agents, n_actions=actions, state_shape=state
    )
    config = types.SimpleNamespace(**{"batch_size": num_envs, **settings})
    scheme = {
        "state": {"vshape": state},
        "obs": {"vshape": view, "group": "agents"},
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
            "state": torch.randn(num_envs, steps + 1, state),
            "obs": torch.randn(num_envs, steps + 1, agents, view),
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

    def measure(number: int) -> list[float]:
        nonlocal count
        seconds = []
        for _ in range(number):
            began, count = time.perf_counter(), count + 1
            learner.train(batch, 10**6 * count, count, count)
            lasted = time.perf_counter() - began
            seconds.append(lasted - loop_seconds * args.without_critic_loop)
        return seconds

    learner._train_critic = timed_critic
    steps = serving.LIIR_MAPS[args.map][-1] * serving.LIIR_EPISODES
    versions = {"torch": torch.__version__}
    serving.serve(answers, {"env_steps_per_update": steps, "versions": versions}, measure)


if __name__ == "__main__":
    main()
