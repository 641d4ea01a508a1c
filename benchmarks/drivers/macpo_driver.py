"""Times one agent's policy step of the reference implementation of MACPO, unchanged, on request.
Started by `compare_speed.py`; `serving.py` has the protocol.

    python macpo_driver.py --checkout DIR --minibatches 1 --threads 2

An update is a step from one and the same policy.

Nothing of the reference implementation is copied here. Their trainer, policy and buffer are built
with the flags of their ``train_mujoco.sh``; the package's ``__init__``, which needs gym and MuJoCo,
is skipped. A step is their ``train`` on a buffer of random data, timed inside ``trpo_update``, so
that neither the advantages nor the choice of minibatches count. Beyond the policy's step that
function fits two critics; with ``--alone`` each critic is a single number, which leaves the work
that our step is timed for.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import serving
import torch

FLAGS = (
    "--algorithm_name macpo --lr 9e-5 --critic_lr 5e-3 --ppo_epoch 1 --use_value_active_masks "
    "--kl_threshold 0.0065 "
    "--safety_bound 10 --safety_gamma 0.09 --line_search_fraction 0.5 --fraction_coef 0.27"
)


class Box:
    """A space with the parts that the reference implementation reads: class name, shape and
    bounds.
    """

    def __init__(self, size: int):
        self.shape = (size,)
        self.high = np.ones(size, np.float32)
        self.low = -self.high


class Number(torch.nn.Module):
    """A critic with the same value everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(1))

    def forward(self, obs: Any, memory: Any, masks: Any) -> tuple[torch.Tensor, Any]:
        """Returns values ``[rows, 1]`` and the memory."""
        return self.value.expand(len(obs), 1), memory


def options() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkout", required=True)
    sizes = dict(num_steps=1000, num_envs=16, view=31, actions=4, hidden_sizes=128)
    for name, default in (sizes | dict(minibatches=1, threads=2)).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--alone", action="store_true", help="critics of one number each")
    return parser.parse_args()


def build(args: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Returns the reference implementation's trainer, policy and buffer."""
    package = types.ModuleType("macpo")
    package.__path__ = [str(Path(args.checkout).resolve() / "MACPO" / "macpo")]
    sys.modules["macpo"] = package
    flags = (
        f"{FLAGS} --hidden_size {args.hidden_sizes} --num_mini_batch {args.minibatches} "
        f"--episode_length {args.num_steps} --n_rollout_threads {args.num_envs}"
    ).split()
    config = importlib.import_module("macpo.config").get_config().parse_known_args(flags)[0]
    spaces = Box(args.view), Box(args.view), Box(args.actions)
    r_mappo = "macpo.algorithms.r_mappo."
    policies = importlib.import_module(r_mappo + "algorithm.MACPPOPolicy")
    policy = policies.MACPPOPolicy(config, *spaces)
    if args.alone:
        policy.critic, policy.cost_critic = Number(), Number()
        policy.critic_optimizer = torch.optim.Adam(policy.critic.parameters(), 1e-3)
        policy.cost_optimizer = torch.optim.Adam(policy.cost_critic.parameters(), 1e-3)
    trainer = importlib.import_module(r_mappo + "r_macpo").R_MACTRPO_CPO(config, policy)
    buffers = importlib.import_module("macpo.utils.separated_buffer")
    buffer = buffers.SeparatedReplayBuffer(config, *spaces)
    fill(buffer, policy, config)
    trainer.prep_training()
    return trainer, policy, buffer


def fill(buffer: Any, policy: Any, args: Any) -> None:
    """Fills the buffer with random data and the policy's actions; the cost is below its limit."""
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
    """Returns running sums: seconds of the steps, Fisher products, and policy evaluations."""
    sums: dict[str, Any] = {}

    def counted(name: str, inner: Any) -> Any:
        def call(*args: Any, **keywords: Any) -> Any:
            began = time.perf_counter()
            result = inner(*args, **keywords)
            amount = time.perf_counter() - began if name == "seconds" else 1
            sums[name] = sums.get(name, 0) + amount
            return result

        return call

    trainer.trpo_update = counted("seconds", trainer.trpo_update)
    trainer.fisher_vector_product = counted("products", trainer.fisher_vector_product)
    policy.evaluate_actions = counted("evaluations", policy.evaluate_actions)
    return sums


def main() -> None:
    """Builds, then answers requests until the input ends."""
    args = options()
    answers = serving.take_stdout()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    trainer, policy, buffer = build(args)
    sums, start = watch(trainer, policy), copy.deepcopy(policy.actor.state_dict())

    def step() -> dict[str, Any]:
        sums.clear()
        policy.actor.load_state_dict(start)
        trainer.train(buffer)
        return dict(sums)

    first = step()
    # one evaluation of each minibatch is not a try of its line search
    tries = first["evaluations"] - args.minibatches
    facts = {
        "env_steps_per_update": args.num_steps * args.num_envs,
        "work": f"{first['products']} Fisher products, {tries} tries",
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    serving.serve(answers, facts, lambda number: [step()["seconds"] for _ in range(number)])


if __name__ == "__main__":
    main()
