"""Times one agent's policy step of the authors' MACPO, theirs and unchanged, on request. Started by
`constrained_step.py`.

    python macpo_driver.py --checkout DIR --minibatches 1 --threads 2

Prints one JSON line of facts; then, for every line with a number on its standard input, makes so
many steps from one and the same policy and prints what each took as a JSON list.

Nothing of the authors' is copied here. Their trainer, policy and buffer are built with the flags of
their ``train_mujoco.sh``; the package's ``__init__``, which wants gym and MuJoCo, is passed by. A
step is their ``train`` on a buffer of random data, timed inside ``trpo_update``, so that neither
the advantages nor the picking of minibatches count. What they do there beyond the policy's step is
to fit two critics; with ``--alone`` each critic is a single number, which leaves the work that ours
is timed for.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

FLAGS = (
    "--algorithm_name macpo --lr 9e-5 --critic_lr 5e-3 --ppo_epoch 1 --use_value_active_masks "
    "--kl_threshold 0.0065 "
    "--safety_bound 10 --safety_gamma 0.09 --line_search_fraction 0.5 --fraction_coef 0.27"
)


class Box:
    """A space as far as the authors look at one: the class's name, the shape, the bounds."""

    def __init__(self, size: int):
        self.shape = (size,)
        self.high = np.ones(size, np.float32)
        self.low = -self.high


class Number(torch.nn.Module):
    """A critic that says the same everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(1))

    def forward(self, seen: Any, memory: Any, masks: Any) -> tuple[torch.Tensor, Any]:
        """Values ``[rows, 1]`` and the memory."""
        return self.value.expand(len(seen), 1), memory


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkout", required=True)
    parser.add_argument("--num-steps", type=int, default=1000)
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--view", type=int, default=31)
    parser.add_argument("--actions", type=int, default=4)
    parser.add_argument("--hidden-sizes", type=int, default=128)
    parser.add_argument("--minibatches", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="critics of one number each")
    return parser.parse_args()


def build(chosen: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The authors' trainer, policy and buffer."""
    package = types.ModuleType("macpo")
    package.__path__ = [str(Path(chosen.checkout).resolve() / "MACPO" / "macpo")]
    sys.modules["macpo"] = package
    place = "macpo.algorithms.r_mappo."
    flags = [
        *FLAGS.split(),
        "--hidden_size",
        str(chosen.hidden_sizes),
        "--num_mini_batch",
        str(chosen.minibatches),
        "--episode_length",
        str(chosen.num_steps),
        "--n_rollout_threads",
        str(chosen.num_envs),
    ]
    args = importlib.import_module("macpo.config").get_config().parse_known_args(flags)[0]
    view, actions = Box(chosen.view), Box(chosen.actions)
    policy = importlib.import_module(place + "algorithm.MACPPOPolicy").MACPPOPolicy(
        args, view, view, actions
    )
    if chosen.alone:
        policy.critic, policy.cost_critic = Number(), Number()
        policy.critic_optimizer = torch.optim.Adam(policy.critic.parameters(), 1e-3)
        policy.cost_optimizer = torch.optim.Adam(policy.cost_critic.parameters(), 1e-3)
    trainer = importlib.import_module(place + "r_macpo").R_MACTRPO_CPO(args, policy)
    buffer = importlib.import_module("macpo.utils.separated_buffer").SeparatedReplayBuffer(
        args, view, view, actions
    )
    fill(buffer, policy, args)
    trainer.prep_training()
    return trainer, policy, buffer


def fill(buffer: Any, policy: Any, args: Any) -> None:
    """Random views and returns, and actions of the policy; the cost is a little below its limit."""
    random = np.random.default_rng(0)
    for name in ("obs", "share_obs", "returns", "cost_returns"):
        getattr(buffer, name)[:] = random.standard_normal(getattr(buffer, name).shape)
    flat = buffer.obs[:-1].reshape(-1, buffer.obs.shape[-1])
    ones = np.ones((len(flat), 1), np.float32)
    with torch.no_grad():
        action, log_prob, _ = policy.actor(
            flat, np.zeros((len(flat), 1, args.hidden_size), np.float32), ones
        )
    buffer.actions[:] = action.numpy().reshape(buffer.actions.shape)
    buffer.action_log_probs[:] = log_prob.numpy().reshape(buffer.action_log_probs.shape)
    buffer.update_factor(np.ones_like(buffer.actions))
    buffer.return_aver_insert(np.float64(args.safety_bound - 0.5))


def watch(trainer: Any, policy: Any) -> dict[str, Any]:
    """Adds up seconds of the trainer's steps, its Fisher products, and evaluations of the
    policy.
    """
    seen: dict[str, Any] = {}

    def counted(name: str, inner: Any) -> Any:
        def call(*args: Any, **keywords: Any) -> Any:
            began = time.perf_counter()
            found = inner(*args, **keywords)
            seen[name] = seen.get(name, 0) + (
                time.perf_counter() - began if name == "seconds" else 1
            )
            return found

        return call

    trainer.trpo_update = counted("seconds", trainer.trpo_update)
    trainer.fisher_vector_product = counted("products", trainer.fisher_vector_product)
    policy.evaluate_actions = counted("evaluations", policy.evaluate_actions)
    return seen


def main() -> None:
    """Build, then answer requests until the input ends."""
    chosen = options()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the peer prints is not an answer
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    trainer, policy, buffer = build(chosen)
    seen, start = watch(trainer, policy), copy.deepcopy(policy.actor.state_dict())
    weights = sum(x.numel() for x in policy.actor.parameters())
    facts = {"versions": {"torch": torch.__version__, "numpy": np.__version__}, "weights": weights}
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        taken = []
        for _ in range(int(line)):
            seen.clear()
            policy.actor.load_state_dict(start)
            trainer.train(buffer)
            # one evaluation of each minibatch is not a try of its line search
            taken.append({**seen, "tries": seen["evaluations"] - chosen.minibatches})
        print(json.dumps(taken), file=answers, flush=True)


if __name__ == "__main__":
    main()
