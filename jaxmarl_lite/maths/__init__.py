"""Arrays and trees in, arrays and trees out; nothing here knows a network, a world or an algorithm."""

from jaxmarl_lite.maths.constrained import ConstrainedStep, constrained_step
from jaxmarl_lite.maths.trust_region import backtrack, conjugate_gradient, fisher_product

__all__ = ["ConstrainedStep", "backtrack", "conjugate_gradient", "constrained_step", "fisher_product"]
