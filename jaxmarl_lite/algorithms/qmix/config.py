"""Settings of QMIX."""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxmarl_lite.algorithms import base_config, settings


@base_config.config_record
class QMIXConfig(settings.LearnerConfig):
    """Settings of QMIX."""

    lr: float = 5e-4
    """Learning rate of the gradient steps."""
    max_grad_norm: float = 10.0
    """Longest gradient."""
    epsilon_start: float = 1.0
    """Probability of a random action at first."""
    epsilon_end: float = 0.05
    """Probability of a random action in the end."""
    epsilon_steps: float = 50_000.0
    """Environment steps over which it falls, linearly."""
    epsilon_share: float = 0.0
    """The same as a share of the run's total_steps, 0 to 1."""
    mixer: Literal["qmix", "vdn"] = "qmix"
    """How the agents' values become the team's."""
    mixing_embed_dim: int = 32
    """Width of the mixer's hidden layer."""
    hypernet_embed_dim: int = 64
    """Width of the hidden layer of the networks that make the mixer's weights."""
    double_q: bool = True
    """Let the live networks choose the next actions, and their copy value them."""
    target_update_interval: int = 20
    """Updates between two copies of the networks into those that make the targets."""
    sequence_length: int = 32
    """Steps of one world that are replayed together; a rollout has so many, or a multiple of it."""
    buffer_size: int = 2048
    """Sequences that the replay holds."""
    batch_size: int = 32
    """Sequences in a gradient step."""
    gradient_steps: int = 8
    """Gradient steps after each rollout, each on a batch of its own."""
    recurrent: bool = True
    """Whether the agents remember the episode."""
    hidden_sizes: tuple[int, ...] = (64,)
    """Widths of the dense layers."""
    rnn_hidden_size: int = 64
    """Width of the memory."""
    evaluated_greedily: ClassVar[bool] = True
    """Sampled actions are random ones with probability epsilon."""

    def __post_init__(self) -> None:
        super().__post_init__()
        base_config.check_range(
            self, lr=(0, 10), epsilon_start=(0, 1), epsilon_end=(0, 1), epsilon_steps=(0, 1e15)
        )
        base_config.check_unused(
            self,
            ("mixing_embed_dim", "hypernet_embed_dim"),
            self.mixer == "vdn",
            "with mixer 'vdn'",
        )
        if self.buffer_size < self.batch_size:
            raise ValueError(
                f"QMIXConfig.buffer_size is {self.buffer_size}; allowed is batch_size, "
                f"{self.batch_size}, or more"
            )
