"""LIIR: each agent learns an intrinsic reward that serves the team's return (Du et al., NeurIPS
2019).

    r_proxy_i = r_ex + λ r_in_i(o_i, u_i; η)                                   the proxy reward
    θ'        = θ + α ∇_θ E[ log π_θ(u_i|o_i) A_proxy_i ]                      eq. 6, the inner step
    ∇_η J_ex  = ∇_η θ' · ∇_θ' J_ex                                             eq. 7, the chain rule
    ∇_θ' J_ex = ∇_θ' E[ π_θ'(u_i|o_i) / π_θ(u_i|o_i) · A_ex ]                  eq. 8, re-using the samples
    ∇_η θ'    = α λ ∇_θ log π_θ(u_i|o_i) ∇_η r_in_i(o_i, u_i; η)               eq. 9

Where this departs from the paper:
  - the inner step is PPO's (`ppo.policy_loss`), which with one epoch of one minibatch is equation
    6; each of its minibatch steps is followed by an outer step through it; an agent out of play is
    paid no intrinsic reward;
  - where every agent receives its own part of the reward, r_ex in its proxy is that part, and J_ex
    is of their sum;
  - `meta_gradient="exact"`, the default, carries η through the whole return, its standardisation,
    and the real optimizer. Equation 9 keeps the immediate reward alone: that is `"immediate"`;
  - `"reference"` is what the authors' program computes (one scalar for all samples, with its sign),
    for comparison. It equals that program's where all actions are legal. Elsewhere the ratio
    differs: the authors divide probabilities from before the renormalisation over the legal actions
    by some from after it; ours are both from after it;
  - the optimizer of η adds its epsilon as a share (`intrinsic_eps`): the meta-gradient is smaller
    than any usual epsilon, and η would hardly move.
"""

from jaxmarl_lite.algorithms.liir.config import LIIRConfig
from jaxmarl_lite.algorithms.liir.learner import LIIRState, intrinsic_rewards, make_liir
from jaxmarl_lite.algorithms.liir.meta_gradient import (
    AdvantageInputs,
    extrinsic_loss,
    make_liir_networks,
    meta_step,
    proxy_advantage,
)

__all__ = [
    "AdvantageInputs",
    "LIIRConfig",
    "LIIRState",
    "extrinsic_loss",
    "intrinsic_rewards",
    "make_liir",
    "make_liir_networks",
    "meta_step",
    "proxy_advantage",
]
