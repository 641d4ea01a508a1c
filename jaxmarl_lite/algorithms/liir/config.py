"""Settings of LIIR."""

from __future__ import annotations

from typing import Literal

from jaxmarl_lite.algorithms import base_config, ppo


@base_config.config_record
class LIIRConfig(ppo.ActorCriticConfig):
    """Settings of LIIR: those of PPO's policy step, and those of the intrinsic reward.

    Example:
        >>> import jaxmarl_lite as jml
        >>> env = jml.make("toy/relay")
        >>> config = jml.LIIRConfig(intrinsic_coef=0.1, meta_gradient="immediate")
        >>> jml.make_algorithm("liir", env.spec, config).config.meta_gradient
        'immediate'
        >>> jml.LIIRConfig.reference(meta_gradient="exact").optimizer
        'rmsprop'
    """

    intrinsic_coef: float = 0.01
    """λ, the weight of the intrinsic reward in the proxy reward; 0 learns without it."""
    intrinsic_lr: float = 5e-4
    """β, the learning rate of the intrinsic reward."""
    intrinsic_eps: float = 1e-5
    """ε of the intrinsic reward's optimizer, as a share of the root mean square of its second
    moments: its steps depend neither on the scale of the meta-gradient nor on λ."""
    intrinsic_init_scale: float = 0.01
    """Initial gain of the intrinsic reward's head: near 0, learning begins as without it. With
    intrinsic_lr 0 the reward stays at its random initialization."""
    intrinsic_bound: float = 10.0
    """Bound b of the intrinsic reward, b tanh(x/b)."""
    meta_gradient: Literal["exact", "immediate", "reference"] = "exact"
    """Path of η into the advantage: the whole return, the immediate reward (equation 9), or the one
    scalar of the reference implementation (equal to it where all actions are legal)."""
    outer_ratio: Literal["agent", "joint"] = "agent"
    """Importance ratio of the outer step: each agent's own (equation 8), or the product over the
    team."""
    extrinsic_critic_input: Literal["local", "global_state"] = "global_state"
    """Input of the extrinsic critic; `critic_input` is the input of the proxy critics."""

    def __post_init__(self) -> None:
        super().__post_init__()
        base_config.check_range(
            self,
            intrinsic_coef=(0, 1e6),
            intrinsic_lr=(0, 10),
            intrinsic_eps=(1e-12, 1),
            intrinsic_init_scale=(0, 1e3),
            intrinsic_bound=(1e-6, 1e6),
        )
        base_config.check_unused(
            self, ("intrinsic_eps",), self.optimizer == "sgd", "with optimizer 'sgd'"
        )
        # `isinstance` passes over traced values, which have no size to compare.
        if self.optimizer != "sgd" and isinstance(self.eps_root, float) and self.eps_root <= 0:
            raise ValueError(
                f"LIIRConfig.eps_root is {self.eps_root!r} with optimizer {self.optimizer!r}; "
                "allowed is a positive "
                "number, because the meta-gradient through this optimizer is NaN where a gradient "
                "is zero (or use sgd)"
            )

    @classmethod
    def reference(cls, **changes: object) -> LIIRConfig:
        """Returns the settings of the reference implementation, where they are settings here.

        They are one step of the policy per batch by RMSprop, hidden states of 64, TD(0.8), and one
        scalar for all samples: give ``meta_gradient="exact"`` for the paper's gradient at these
        settings. The batch of the reference implementation was 32 environments. Its policy keeps a
        lower bound under every probability, where the policy here has an entropy bonus. Its RMSprop
        adds an absolute 1e-5 to the root of the meta-gradient's second moment, which the optimizer
        here adds as a share (``intrinsic_eps``).

        Args:
            changes: fields of the config with other values.

        Returns:
            The config.

        Raises:
            ValueError: a value is not allowed, as in the constructor.
        """
        fields: dict[str, object] = dict(
            meta_gradient="reference",
            outer_ratio="joint",
            intrinsic_coef=0.01,
            intrinsic_bound=10.0,
            lr=5e-4,
            critic_lr=5e-4,
            intrinsic_lr=5e-4,
            optimizer="rmsprop",
            eps_root=1e-10,
            max_grad_norm=10.0,
            gamma=0.99,
            gae_lambda=0.8,
            num_epochs=1,
            num_minibatches=1,
            recurrent=True,
            rnn_hidden_size=64,
            hidden_sizes=(64,),
            critic_input="global_state",
        )
        return base_config.override(cls, fields, changes)
