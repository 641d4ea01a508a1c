"""Pure functions of arrays and trees: the equations on which the algorithms are built.

Nothing here knows a network, an environment or an algorithm: every function takes arrays, trees of
arrays and functions of them.

Modules:
    baselines: baselines of one agent's policy gradient that know the other agents' actions.
    constrained_optimization: the policy step under linear cost constraints.
    jax_types: functions of JAX with the types that JAX leaves open.
    lagrange: Lagrange multipliers of cost constraints.
    meta_learning: the gradient of an objective through an update.
    monotonic_mixing: the mixers of QMIX and VDN.
    returns: advantages along a rollout.
    running_statistics: masked means and standardization, and running moments.
    surrogates: surrogate objectives of policy-gradient methods.
    tree_math: vector arithmetic on trees of arrays.
    trust_region: Fisher products, conjugate gradients and the line search.

Example:
    >>> import jax.numpy as jnp
    >>> import jaxmarl_lite as jml
    >>> values = jnp.array([[1.0, 2.0]])  # of two agents
    >>> print(jml.ops.sum_mixing(values))
    [3.]
"""

from jaxmarl_lite.ops.baselines import counterfactual_baseline, optimal_baseline
from jaxmarl_lite.ops.constrained_optimization import ConstrainedStep, constrained_step
from jaxmarl_lite.ops.lagrange import dual_ascent
from jaxmarl_lite.ops.meta_learning import MetaGradient, meta_gradient
from jaxmarl_lite.ops.monotonic_mixing import Mixer, mix, sum_mixing
from jaxmarl_lite.ops.returns import generalized_advantage_estimation
from jaxmarl_lite.ops.running_statistics import masked_mean, standardize
from jaxmarl_lite.ops.surrogates import (
    approximate_kl,
    clipped_surrogate,
    explained_variance,
    importance_ratio,
)
from jaxmarl_lite.ops.trust_region import (
    CGResult,
    LineSearchResult,
    backtracking_line_search,
    conjugate_gradient,
    fisher_vector_product,
)

__all__ = [
    "CGResult",
    "ConstrainedStep",
    "LineSearchResult",
    "MetaGradient",
    "Mixer",
    "approximate_kl",
    "backtracking_line_search",
    "clipped_surrogate",
    "conjugate_gradient",
    "constrained_step",
    "counterfactual_baseline",
    "dual_ascent",
    "explained_variance",
    "fisher_vector_product",
    "generalized_advantage_estimation",
    "importance_ratio",
    "masked_mean",
    "meta_gradient",
    "mix",
    "optimal_baseline",
    "standardize",
    "sum_mixing",
]
