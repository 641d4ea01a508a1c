"""Settings of QMIX."""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxmarl_lite.algorithms import base_config, settings


@base_config.config_record
class QMIXConfig(settings.LearnerConfig):
    """Settings of QMIX.

    Example:
        >>> import dataclasses
        >>> import jaxmarl_lite as jml
        >>> config = dataclasses.replace(jml.QMIXConfig(), mixer="vdn", epsilon_end=0.1)
        >>> config.mixer, config.epsilon_start, config.epsilon_end
        ('vdn', 1.0, 0.1)
    """

    lr: float = 5e-4
    """Learning rate of the gradient steps."""
    max_grad_norm: float = 10.0
    """Largest norm of the gradient; a longer one is scaled down to it."""
    epsilon_start: float = 1.0
    """Probability of a random action at the start of training."""
    epsilon_end: float = 0.05
    """Probability of a random action after ``epsilon_steps``."""
    epsilon_steps: float = 50_000.0
    """Environment steps over which this probability falls linearly; 0 is epsilon_end from the
    start."""
    epsilon_share: float = 0.0
    """The same period as a share of the run's total_steps, 0 to 1."""
    mixer: Literal["qmix", "vdn"] = "qmix"
    """Rule that combines the agents' values into the team's: a monotonic network, or the sum."""
    mixing_embed_dim: int = 32
    """Width of the mixer's hidden layer."""
    hypernet_embed_dim: int = 64
    """Width of the hidden layer of the hypernetworks that output the mixer's weights."""
    double_q: bool = True
    """Let the online networks choose the next actions, and the target networks value them."""
    target_update_interval: int = 20
    """Updates between two copies of the online networks into the target networks."""
    sequence_length: int = 32
    """Steps of one environment that are replayed together; a rollout has a multiple of them."""
    buffer_size: int = 2048
    """Sequences that the replay buffer holds."""
    batch_size: int = 32
    """Sequences in a gradient step."""
    gradient_steps: int = 8
    """Gradient steps after each rollout, each on a separately sampled batch."""
    recurrent: bool = True
    """Use agents with a GRU, which remember the episode."""
    hidden_sizes: tuple[int, ...] = (64,)
    """Widths of the dense layers."""
    rnn_hidden_size: int = 64
    """Width of the GRU's hidden state."""
    evaluated_greedily: ClassVar[bool] = True
    """Evaluations take the best actions, as sampled actions are random with probability epsilon."""

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
