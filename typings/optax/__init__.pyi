"""Types of the parts of optax that the library uses; optax itself has no type information."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from jax import Array
from jax.typing import ArrayLike
from optax import tree as tree

class _Update(Protocol):
    def __call__(self, updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]: ...

class GradientTransformation(NamedTuple):
    init: Callable[[Any], Any]
    update: _Update

class ScaleByAdamState(NamedTuple):
    count: Array
    mu: Any
    nu: Any

def apply_updates(params: Any, updates: Any) -> Any: ...
def identity() -> GradientTransformation: ...
def safe_increment(count: Array) -> Array: ...
def scale_by_adam(
    b1: ArrayLike = 0.9, b2: ArrayLike = 0.999, eps: ArrayLike = 1e-8, eps_root: ArrayLike = 0.0
) -> GradientTransformation: ...
def scale_by_rms(
    decay: ArrayLike = 0.9,
    eps: ArrayLike = 1e-8,
    initial_scale: ArrayLike = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> GradientTransformation: ...
