"""HAPPO: agents update in turn, each by PPO's clipped objective (Kuba et al., ICLR 2022, equation 11).

    max_θ  E[ min(ρ M, clip(ρ, 1-ε, 1+ε) M) ] + c H(π_θ),   ρ = π_θ(u|o) / π_old(u|o)

``M`` is the advantage of the team times the ratios of the agents that have already moved (`turns`). Every agent has
weights of its own. With one agent it is PPO. The team's advantage is estimated once, with the critic as it was.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax

from jaxmarl_lite.algorithms import configs, fitting, models, ppo, turns
from jaxmarl_lite.types import Algorithm, Array, Batch, EnvSpec, PyTree


@configs.config_record
class HAPPOConfig(ppo.PPOConfig):
    """Settings of HAPPO: those of PPO; the agents have weights of their own."""

    critic_view: Literal["own", "state"] = "state"
    """What the critics see: the agent's own view or the state."""
    share_weights: bool = False
    """Agents that move in turn have one set of weights each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_own_weights(self)


def check_own_weights(config: Any) -> None:
    """Raise ValueError for shared weights: an agent's turn would move the others as well."""
    if config.share_weights:
        raise ValueError(
            f"{type(config).__name__}.share_weights is True; allowed is False, because agents that move in turn "
            "have weights of their own"
        )


class Turn(NamedTuple):
    """What an agent carries through its turn."""

    policy: PyTree
    policy_opt: PyTree


def make(name: str, spec: EnvSpec, config: HAPPOConfig) -> Algorithm:
    """HAPPO for an environment of these sizes; the config's static fields decide the networks."""
    same = ppo.make(name, spec, config)
    critic = models.critic(spec, config.form, config.critic_view, shared=False)
    of = ppo.Parts(models.lone_actor(spec, config.form), critic)

    def update(key: Array, learner: ppo.PPOState, batch: Batch) -> tuple[ppo.PPOState, dict[str, Array]]:
        return _update(of, spec, key, learner, batch)

    return same._replace(update=update)


def _update(
    of: ppo.Parts, spec: EnvSpec, key: Array, learner: ppo.PPOState, batch: Batch
) -> tuple[ppo.PPOState, dict[str, Array]]:
    config = learner.config
    turn_key, critic_key = jax.random.split(key)
    steps = models.seen_through(learner.sight, batch.steps)
    steps = steps._replace(reward=turns.team_reward(spec.reward_kind, steps.reward))
    learner, found, info = ppo.estimate(of, learner, steps)
    data = ppo.policy_data(steps)
    each = turns.by_agent(data)
    advantage = found.advantage.transpose(2, 0, 1)
    moved, of_turns = turns.in_turn(
        turn_key,
        Turn(learner.policy, learner.policy_opt),
        (each, turns.memory_by_agent(batch.memory), advantage),
        each.obs.alive,
        functools.partial(_turn, of.actor, config, learner.seen),
    )
    learner = learner._replace(policy=moved.policy, policy_opt=moved.policy_opt)
    learner, fit = fit_critic(of.critic, critic_key, learner, data, found.target)
    return learner._replace(
        memory=found.memory,
        sight=models.widen(learner.sight, batch.steps.obs),
        seen=learner.seen + batch.steps.last.size,
    ), info | fit | of_turns


def _turn(
    actor: models.Actor, config: ppo.PPOConfig, seen: Array, key: Array, model: Turn, given: Any, factor: Array
) -> tuple[Turn, Array, dict[str, Array]]:
    """PPO of one agent."""
    data, memory, advantage = given
    lr = fitting.annealed(config.lr, seen, config.anneal_steps)

    def step(model: Turn, batch: fitting.Sequences) -> tuple[Turn, dict[str, Array]]:
        part, advantage, factor = batch.steps
        if config.normalise_advantage:
            advantage = models.standardised(advantage, part.obs.alive, shared=False)
        (loss, info), grads = jax.value_and_grad(ppo.policy_loss, has_aux=True)(
            model.policy, actor, part, batch.starts, factor * advantage, config
        )
        moved = Turn(*plain.step(model.policy, model.policy_opt, grads, lr, config.max_grad_norm))
        return moved, info | {"policy_loss": loss}

    plain = fitting.optimiser(config.optimiser, config.eps_root)
    sequences = fitting.Sequences((data, advantage, factor), memory)
    model, info = fitting.epochs(key, model, sequences, step, config.epochs, config.num_minibatches)
    return model, turns.log_ratio(actor, model.policy, memory, data, data.log_prob), info


def fit_critic(
    critic: models.Critic, key: Array, learner: Any, data: ppo.PolicyData, target: Array
) -> tuple[Any, dict[str, Array]]:
    """Epochs of a learner's critic over a rollout."""

    def step(learner: Any, batch: fitting.Sequences) -> tuple[Any, dict[str, Array]]:
        return ppo.critic_step(critic, learner, batch.steps[0], batch.starts, batch.steps[1])

    config = learner.config
    sequences = fitting.Sequences((data, target), learner.memory)
    return fitting.epochs(key, learner, sequences, step, config.epochs, config.num_minibatches)
