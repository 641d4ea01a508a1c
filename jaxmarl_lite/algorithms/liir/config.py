"""Settings of LIIR."""

from __future__ import annotations

from typing import Any, Literal

from jaxmarl_lite.algorithms import configs, ppo


@configs.config_record
class LIIRConfig(ppo.ActorCriticConfig):
    """Settings of LIIR: those of PPO's policy step, and those of the learned reward."""

    lam: float = 0.01
    """λ, the weight of the intrinsic reward in the proxy reward; 0 is learning without it."""
    reward_lr: float = 5e-4
    """β, the learning rate of the intrinsic reward."""
    reward_eps: float = 1e-5
    """ε of the intrinsic reward's optimizer, as a share of the root mean square of its second moments: its steps depend
    neither on the scale of the meta-gradient nor on λ."""
    reward_init: float = 0.01
    """Gain of the intrinsic reward's head at first: near 0, learning begins as without it. With reward_lr 0 the reward
    stays as it was drawn."""
    reward_bound: float = 10.0
    """Bound b of the intrinsic reward, b tanh(x/b)."""
    meta_gradient: Literal["exact", "immediate", "official"] = "exact"
    """What carries η: the whole return, the immediate reward (equation 9), or the authors' one scalar
    (theirs exactly where all actions are legal)."""
    meta_ratio: Literal["agent", "joint"] = "agent"
    """Importance ratio of the outer step: each agent's own (equation 8), or the product over the team."""
    extrinsic_view: Literal["own", "state"] = "state"
    """What the extrinsic critic sees; `critic_view` is the proxy critics'."""

    def __post_init__(self) -> None:
        super().__post_init__()
        configs.check_range(
            self, lam=(0, 1e6), reward_lr=(0, 10), reward_eps=(1e-12, 1), reward_init=(0, 1e3), reward_bound=(1e-6, 1e6)
        )
        configs.check_unused(self, ("reward_eps",), self.optimiser == "sgd", "with optimiser 'sgd'")
        if self.optimiser != "sgd" and isinstance(self.eps_root, float) and self.eps_root <= 0:
            raise ValueError(
                f"LIIRConfig.eps_root is {self.eps_root!r} with optimiser {self.optimiser!r}; allowed is a positive "
                "number, because the meta-gradient through this optimiser is NaN where a gradient is zero (or use sgd)"
            )

    @classmethod
    def authors(cls, **changes: Any) -> LIIRConfig:
        """The choices and numbers of the authors' program, as far as they are choices; 32 worlds were its batch.

        One step of the policy per batch by RMSprop, memories of 64, TD(0.8), and their one scalar for all samples:
        give ``meta_gradient="exact"`` for the paper's gradient at the authors' settings. Their policy keeps a floor
        under every probability, where ours has an entropy bonus. Their RMSprop adds an absolute 1e-5 to the root of the
        meta-gradient's second moment, which ours adds as a share (``reward_eps``).
        """
        theirs: dict[str, Any] = dict(
            meta_gradient="official", meta_ratio="joint", lam=0.01, reward_bound=10.0, lr=5e-4, critic_lr=5e-4,
            reward_lr=5e-4, optimiser="rmsprop", eps_root=1e-10, max_grad_norm=10.0, gamma=0.99, gae_lambda=0.8,
            epochs=1, num_minibatches=1, memory="gru", memory_size=64, hidden=(64,), critic_view="state",
        )  # fmt: skip
        return configs.override(cls, theirs, changes)
