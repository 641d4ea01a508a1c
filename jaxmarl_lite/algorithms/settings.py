"""Settings that several algorithms share, and their allowed values."""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxmarl_lite.algorithms import base_config
from jaxmarl_lite.networks.recurrent import NetworkSpec


@base_config.config_record
class LearnerConfig:
    """Settings of every algorithm: its network and its optimizer."""

    lr_anneal_steps: float = 0.0
    """Environment steps over which the learning rates fall linearly to 0; 0 keeps them constant."""
    lr_anneal_share: float = 0.0
    """The same as a share of the run's total_steps, 0 to 1; 1 falls to 0 at its end."""
    gamma: float = 0.99
    """Discount per step."""
    max_grad_norm: float = 0.5
    """Largest norm of a gradient, for each network separately."""
    eps_root: float = 1e-12
    """Added to the optimizer's second moment under its root; with it the step is differentiable at
    a zero gradient."""
    optimizer: Literal["adam", "rmsprop", "sgd"] = "adam"
    """Rule of the gradient steps."""
    parameter_sharing: bool = True
    """One set of weights for all agents, or one per agent."""
    recurrent: bool = False
    """Whether the networks have a GRU after their dense layers."""
    hidden_sizes: tuple[int, ...] = (128, 128)
    """Widths of the dense layers."""
    rnn_hidden_size: int = 128
    """Width of the GRU's hidden state."""
    head_hidden_sizes: tuple[int, ...] = ()
    """Widths of further dense layers between the GRU and each head."""
    activation: Literal["relu", "tanh"] = "relu"
    """Activation function after each dense layer."""
    normalize_observations: bool = False
    """Standardize observations and states by their running moments."""
    retired: ClassVar[tuple[str, ...]] = ()
    """Fields that earlier versions stored, and that never had an effect."""
    evaluated_greedily: ClassVar[bool] = False
    """Whether evaluations take the best actions unless the user chooses, because sampled ones
    explore."""

    def __post_init__(self) -> None:
        base_config.check_types(self)
        base_config.check_range(
            self,
            lr_anneal_steps=(0, 1e15),
            gamma=(0, 1),
            max_grad_norm=(1e-6, 1e9),
            eps_root=(0, 1),
        )
        base_config.check_shares(self)
        base_config.check_unused(
            self, ("rnn_hidden_size",), not self.recurrent, "with recurrent False"
        )
        base_config.check_unused(
            self, ("eps_root",), self.optimizer == "sgd", "with optimizer 'sgd'"
        )

    @property
    def network_spec(self) -> NetworkSpec:
        """The layers of the networks.

        Returns:
            The part of this config that decides the networks' shapes.
        """
        return NetworkSpec(
            self.hidden_sizes,
            self.activation,
            self.recurrent,
            self.rnn_hidden_size,
            self.head_hidden_sizes,
        )


@base_config.config_record
class CriticConfig(LearnerConfig):
    """Settings of every algorithm with a critic, whatever the step of its policy."""

    critic_lr: float = 5e-4
    """Learning rate of the critic."""
    gae_lambda: float = 0.95
    """Mixing of n-step returns in the advantage: 0 is one step, 1 the whole return."""
    num_minibatches: int = 2
    """Number of minibatches into which each pass divides the environments."""
    normalize_advantages: bool = True
    """Standardize the advantages of each minibatch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        base_config.check_range(self, critic_lr=(0, 10), gae_lambda=(0, 1))

    @property
    def reported_lr(self) -> float:
        """The learning rate before annealing to which the metric ``learning_rate`` refers.

        Returns:
            The critic's learning rate.
        """
        return self.critic_lr


@base_config.config_record
class AgentConfig(CriticConfig):
    """Settings of every algorithm whose policy takes gradient steps."""

    lr: float = 5e-4
    """Learning rate of the policy."""
    entropy_coef: float = 0.01
    """Weight of the entropy bonus, reward per nat."""

    def __post_init__(self) -> None:
        super().__post_init__()
        base_config.check_range(self, lr=(0, 10), entropy_coef=(0, 1e3))

    @property
    def reported_lr(self) -> float:
        """The learning rate before annealing to which the metric ``learning_rate`` refers.

        Returns:
            The policy's learning rate.
        """
        return self.lr
