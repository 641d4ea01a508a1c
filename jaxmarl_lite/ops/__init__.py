"""Pure functions of arrays and trees: the equations on which the algorithms are built.

Nothing here knows a network, an environment or an algorithm.

Modules:
    baselines: baselines of one agent's policy gradient that know the other agents' actions.
    constrained_optimization: the policy step under linear cost constraints.
    jax_types: functions of JAX with the types that JAX leaves open.
    lagrange: Lagrange multipliers of cost constraints.
    monotonic_mixing: the mixers of QMIX and VDN.
    returns: advantages along a rollout.
    running_statistics: masked means and standardization, and running moments.
    surrogates: surrogate objectives of policy-gradient methods.
    tree_math: vector arithmetic on trees of arrays.
    trust_region: Fisher products, conjugate gradients and the line search.
"""

from jaxmarl_lite.ops.constrained_optimization import ConstrainedStep, constrained_step
from jaxmarl_lite.ops.trust_region import (
    backtracking_line_search,
    conjugate_gradient,
    fisher_vector_product,
)

__all__ = [
    "ConstrainedStep",
    "backtracking_line_search",
    "conjugate_gradient",
    "constrained_step",
    "fisher_vector_product",
]
