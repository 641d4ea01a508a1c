"""Functions of JAX with the types of their arguments and results, which JAX leaves partly open.

Every name is the function of JAX itself: nothing but its type is added here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Concatenate, Literal, ParamSpec, Protocol, TypeVar, cast, overload

import jax
import jax.numpy as jnp

from jaxmarl_lite.types import Array, PyTree

_Arguments = ParamSpec("_Arguments")
_In = TypeVar("_In")
_Out = TypeVar("_Out")
_OutCovariant = TypeVar("_OutCovariant", covariant=True)
_Aux = TypeVar("_Aux")
_Node = TypeVar("_Node")
_Static = TypeVar("_Static")

Pullback = Callable[[_Out], tuple[_In]]
"""The function that `vjp` returns: a cotangent of the output to that of the one input."""

DimensionNumbers = tuple[tuple[Sequence[int], Sequence[int]], tuple[Sequence[int], Sequence[int]]]
"""Contracted axes of left and right operand of a product of arrays, and its batch axes."""


class _CustomVJP(Protocol[_Arguments, _OutCovariant]):
    """A function whose reverse rule ``defvjp`` sets, as `custom_vjp` returns it."""

    def __call__(self, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _OutCovariant:
        """Computes the function."""
        ...

    def defvjp(
        self,
        fwd: Callable[_Arguments, tuple[object, PyTree]],
        bwd: Callable[[PyTree, Array], tuple[PyTree, ...]],
    ) -> None:
        """Sets the forward pass with its residuals, and the backward pass from them."""
        ...


class _CustomJVP(Protocol[_Arguments, _OutCovariant]):
    """A function whose forward rule ``defjvp`` sets, as `custom_jvp` returns it."""

    def __call__(self, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _OutCovariant:
        """Computes the function."""
        ...

    def defjvp(self, jvp: Callable[..., tuple[PyTree, PyTree]]) -> object:
        """Sets the function of primals and tangents that returns those of the output."""
        ...


class _Jax(Protocol):
    @overload
    def value_and_grad(
        self, fun: Callable[Concatenate[_In, _Arguments], Array]
    ) -> Callable[Concatenate[_In, _Arguments], tuple[Array, _In]]: ...
    @overload
    def value_and_grad(
        self,
        fun: Callable[Concatenate[_In, _Arguments], tuple[Array, _Aux]],
        *,
        has_aux: Literal[True],
    ) -> Callable[Concatenate[_In, _Arguments], tuple[tuple[Array, _Aux], _In]]: ...
    def grad(
        self, fun: Callable[Concatenate[_In, _Arguments], Array]
    ) -> Callable[Concatenate[_In, _Arguments], _In]: ...
    @overload
    def vjp(
        self, fun: Callable[[_In], _Out], primal: _In, /
    ) -> tuple[_Out, Callable[[_Out], tuple[_In]]]: ...
    @overload
    def vjp(
        self, fun: Callable[[_In], tuple[_Out, _Aux]], primal: _In, /, *, has_aux: Literal[True]
    ) -> tuple[_Out, Callable[[_Out], tuple[_In]], _Aux]: ...
    def linear_transpose(
        self, fun: Callable[[_In], _Out], primal: _In, /
    ) -> Callable[[_Out], tuple[_In]]: ...
    def eval_shape(self, fun: Callable[[_In], PyTree], argument: _In, /) -> PyTree: ...
    def custom_jvp(self, fun: Callable[_Arguments, _Out]) -> _CustomJVP[_Arguments, _Out]: ...
    def custom_vjp(self, fun: Callable[_Arguments, _Out]) -> _CustomVJP[_Arguments, _Out]: ...


class _Lax(Protocol):
    def map(self, f: Callable[[_In], _Out], xs: _In, *, batch_size: int | None = None) -> _Out: ...
    def optimization_barrier(self, operand: _In, /) -> _In: ...
    def dot_general(
        self,
        lhs: Array,
        rhs: Array,
        dimension_numbers: DimensionNumbers,
        precision: jax.lax.DotAlgorithmPreset | None = None,
    ) -> Array: ...


class _CustomBatching(Protocol):
    def sequential_vmap(self, f: Callable[_Arguments, _Out]) -> Callable[_Arguments, _Out]: ...


class _Numpy(Protocol):
    def einsum(self, subscripts: str, /, *operands: Array) -> Array: ...


class _Special(Protocol):
    def log_ndtr(self, x: Array) -> Array: ...


class _TreeUtil(Protocol):
    GetAttrKey: Callable[[str], object]

    def tree_structure(self, tree: PyTree, /) -> object: ...

    def register_pytree_with_keys(
        self,
        nodetype: type[_Node],
        flatten_with_keys: Callable[[_Node], tuple[Iterable[tuple[object, PyTree]], _Static]],
        unflatten_func: Callable[[_Static, Iterable[PyTree]], _Node],
    ) -> None: ...


_jax = cast(_Jax, jax)
value_and_grad = _jax.value_and_grad
grad = _jax.grad
vjp = _jax.vjp
linear_transpose = _jax.linear_transpose
eval_shape = _jax.eval_shape
custom_jvp = _jax.custom_jvp
custom_vjp = _jax.custom_vjp
_lax = cast(_Lax, jax.lax)
lax_map = _lax.map
optimization_barrier = _lax.optimization_barrier
dot_general = _lax.dot_general
sequential_vmap = cast(_CustomBatching, jax.custom_batching).sequential_vmap
einsum = cast(_Numpy, jnp).einsum
log_ndtr = cast(_Special, jax.scipy.special).log_ndtr
_tree_util = cast(_TreeUtil, jax.tree_util)
attribute_key = _tree_util.GetAttrKey
tree_structure = _tree_util.tree_structure
register_pytree_with_keys = _tree_util.register_pytree_with_keys
