"""Arrays and trees in, arrays and trees out; nothing here knows a network, a world or an
algorithm.
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
