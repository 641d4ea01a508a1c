"""LIIR: each agent learns an intrinsic reward that serves the team's return.

Du et al., NeurIPS 2019:

    r_proxy_i = r_ex + λ r_in_i(o_i, u_i; η)                                the proxy reward
    θ'        = θ + α ∇_θ E[ log π_θ(u_i|o_i) A_proxy_i ]                   eq. 6, the inner step
    ∇_η J_ex  = ∇_η θ' · ∇_θ' J_ex                                          eq. 7, the chain rule
    ∇_θ' J_ex = ∇_θ' E[ π_θ'(u_i|o_i) / π_θ(u_i|o_i) · A_ex ]               eq. 8, reused samples
    ∇_η θ'    = α λ ∇_θ log π_θ(u_i|o_i) ∇_η r_in_i(o_i, u_i; η)            eq. 9

Departures from the paper:
  - the inner step is PPO's (`ppo.policy_loss`), which with one epoch of one minibatch is equation
    6; each of its minibatch steps is followed by an outer step through it; an agent that is not
    alive receives no intrinsic reward;
  - where every agent receives its individual reward, r_ex in its proxy reward is that reward, and
    J_ex is the objective of their sum;
  - `meta_gradient="exact"`, the default, carries η through the whole return, its standardization
    and the actual optimizer. Equation 9 keeps the immediate reward alone: that is `"immediate"`;
  - `"reference"` is the gradient of the reference implementation (one scalar for all samples, with
    its sign), for comparison. It equals that of the reference implementation where all actions are
    legal. Elsewhere the ratio differs: the reference implementation divides probabilities from
    before the renormalization over the legal actions by probabilities from after it; here both are
    from after it;
  - the optimizer of η adds its epsilon as a share (`intrinsic_eps`): the meta-gradient is smaller
    than any usual epsilon, and η would hardly change.
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
