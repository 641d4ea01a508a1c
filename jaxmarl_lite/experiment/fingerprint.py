"""Hashes of an environment's content, which show whether it was changed in place since compiling.

A compiled program keeps the numbers that it was traced with. It may therefore be reused only while
everything that its functions read is the same: fields of the environment and of the environments
that it wraps, at any depth, arrays by their bytes, attributes of classes, and the values that
functions close over, have as defaults or read from the globals of their module.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import sys
import sysconfig
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

_PLAIN = (types.NoneType, bool, int, float, complex, str, bytes, range, slice)
_STATELESS = ("_thread", "threading", "logging", "weakref")  # their objects affect no numbers
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType)
_MOST_OBJECTS = 200_000


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """The content of an object at one moment, as hashes.

    Attributes:
        content: hash of everything except the values in ``cached``.
        cached: hashes of the values that `functools.cached_property` stores. A value that is not
            computed yet does not count as a change.
        complete: whether everything was read; False where something has an unreadable state, such
            as an open file.
    """

    content: str
    cached: Mapping[str, str]
    complete: bool

    def same(self, other: Fingerprint) -> bool:
        """Returns whether both fingerprints are complete and no content differs.

        Args:
            other: fingerprint to compare with; cached values are compared where both have them.
        """
        common = self.cached.keys() & other.cached.keys()
        return (
            self.complete
            and other.complete
            and self.content == other.content
            and all(self.cached[name] == other.cached[name] for name in common)
        )


def fingerprint(value: object) -> Fingerprint:
    """Returns the fingerprint of an object, such as an environment, and everything it refers to.

    Args:
        value: any object.
    """
    reader = _Reader(with_code=True)
    content = reader.read(value)
    cached = {}
    while reader.cached:  # a cached value may hold objects that have cached values themselves
        name, cached_value = reader.cached.popitem()
        cached[name] = reader.read(cached_value).hex()
    return Fingerprint(content.hex(), cached, reader.complete)


# by id; the table holds the environments too, so that no id is used twice
_last_seen: dict[int, tuple[object, Fingerprint]] = {}


def notice_changes(env: object) -> None:
    """Clears JAX's caches if an environment was changed in place since the last call.

    A method that is under `jax.jit` with ``self`` as a static argument would otherwise continue
    with the old numbers.

    Args:
        env: an environment; the environments that it wraps as ``env`` are checked too.
    """
    changed = False
    for layer in _layers(env):
        current = fingerprint(layer)
        previous = _last_seen.pop(id(layer), None)
        changed |= previous is not None and not current.same(previous[1])
        _last_seen[id(layer)] = layer, current
    while len(_last_seen) > 64:
        del _last_seen[next(iter(_last_seen))]
    if changed:
        jax.clear_caches()


def _layers(env: object) -> list[object]:
    """Returns an environment, followed by those that it wraps as ``env``."""
    layers = [env]
    while True:
        inner = getattr(layers[-1], "__dict__", {}).get("env")
        if not (hasattr(inner, "reset") and hasattr(inner, "step")) or len(layers) > 32:
            return layers
        layers.append(inner)


def changed_fields(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Returns the sorted names of fields whose data differ, or that only one side has.

    Args:
        old: an earlier result of `data_by_field`.
        new: a later result of `data_by_field`.
    """
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def data_by_field(env: Any) -> dict[str, str]:
    """Returns hashes of the data in an environment, the same in every process.

    Code, and fields that cannot be read, are left out.

    Args:
        env: an environment; the fields of one that it wraps as ``env`` are named ``env.FIELD``.

    Returns:
        Name of a field, of a class attribute or of a method (its defaults and closed-over values)
        -> hash.
    """
    result, layers = {}, _layers(env)
    for depth, layer in enumerate(layers):
        for name, value in _attributes(layer).items():
            reader = _Reader(with_code=False)
            digest = reader.read(value)
            # A wrapped environment is no field of its wrapper: its own fields are listed instead.
            if reader.complete and not (name == "env" and layer is not layers[-1]):
                result["env." * depth + name] = digest.hex()[:16]
    return result


def _attributes(env: Any) -> dict[str, Any]:
    """Returns the fields of an object and its class attributes, without cached values."""
    class_attributes = {
        name: value
        for kind in reversed(type(env).__mro__)
        if not _is_library(kind.__module__)
        for name, value in _class_attributes(kind).items()
    }
    return class_attributes | {
        name: value for name, value in _fields(env).items() if not _is_cached(type(env), name)
    }


class _Reader:
    """Hashes objects by their content, each object once.

    Args:
        with_code: whether the code of functions and the names of modules count.

    Attributes:
        cached: values of cached properties that were met, to be hashed separately.
        complete: whether everything so far could be read.
    """

    def __init__(self, with_code: bool):
        self._with_code = with_code
        self._done: dict[int, bytes] = {}
        self._open: dict[int, int] = {}  # ids of objects that are being read -> their depth
        self._alive: list[object] = []  # references to all objects, so that no id is used twice
        self.cached: dict[str, object] = {}
        self.complete = True

    def read(self, value: object) -> bytes:
        """Returns the hash of a value.

        Args:
            value: any object.
        """
        if type(value) in _PLAIN:
            return _hashed(type(value).__name__, repr(value))
        key = id(value)
        if key in self._done:
            return self._done[key]
        if key in self._open:  # a reference back to a container, by its distance
            return _hashed("cycle", str(len(self._open) - self._open[key]))
        if len(self._done) > _MOST_OBJECTS:
            return self._unreadable(value)
        self._open[key] = len(self._open)
        self._alive.append(value)
        try:
            digest = self._read(value)
        except (Exception, RecursionError):
            digest = self._unreadable(value)
        del self._open[key]
        self._done[key] = digest
        return digest

    def _read(self, value: Any) -> bytes:
        """Returns the hash of a value by the first rule that its type matches."""
        for kinds, method in self._methods.items():
            if isinstance(value, kinds):
                return method(value)
        if isinstance(getattr(value, "__wrapped__", None), Callable):  # a result of `jax.jit`
            return self._all("wrapped", [value.__wrapped__])
        return self._object(value)

    @functools.cached_property
    def _methods(self) -> dict[Any, Callable[[Any], bytes]]:
        """Type, or types -> function that hashes their instances; the first match counts."""
        return {
            jax.Array: self._array,
            (np.ndarray, np.generic): self._numpy,
            np.dtype: lambda x: _hashed("dtype", str(x)),
            types.ModuleType: lambda x: _hashed("module", x.__name__),
            enum.Enum: lambda x: _hashed("enum", type(x).__qualname__, x.name),
            functools.partial: lambda x: self._all("partial", [x.func, x.args, x.keywords]),
            types.MethodType: lambda x: self._all("method", [x.__self__, x.__func__]),
            types.BuiltinFunctionType: lambda x: self._all("builtin", [x.__qualname__, x.__self__]),
            types.FunctionType: self._function,
            types.CodeType: self._code,
            (classmethod, staticmethod): lambda x: self._all(type(x).__name__, [x.__func__]),
            property: lambda x: self._all("property", [x.fget]),
            functools.cached_property: lambda x: self._all("cached", [x.func]),
            type: self._class,
            (dict, types.MappingProxyType): self._mapping,
            (list, tuple): lambda x: self._all(type(x).__qualname__, [*x, *_extra(x)]),
            (set, frozenset): lambda x: _hashed(
                type(x).__qualname__, *sorted(self.read(y) for y in x)
            ),
            weakref.ref: lambda x: _hashed("weakref"),
        }

    def _all(self, kind: str, values: Iterable[object]) -> bytes:
        """Returns the hash of a compound of several values."""
        return _hashed(kind, *map(self.read, values))

    def _unreadable(self, value: object) -> bytes:
        """Notes that something could not be read, and returns a hash that stands for it."""
        self.complete = False
        return _hashed("unreadable", type(value).__qualname__)

    def _array(self, value: Any) -> bytes:
        if isinstance(value, Tracer):
            return self._unreadable(value)
        if jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
            return self._all(str(value.dtype), [np.asarray(jax.random.key_data(value))])
        return self._numpy(np.asarray(value))

    def _numpy(self, value: Any) -> bytes:
        if value.dtype.hasobject:
            return self._all(f"objects {value.shape}", [value.tolist()])
        return _hashed(str(value.dtype), str(value.shape), np.ascontiguousarray(value).tobytes())

    def _mapping(self, value: Any) -> bytes:
        return self._all(
            type(value).__qualname__, [x for item in value.items() for x in item] + _extra(value)
        )

    def _function(self, value: Any) -> bytes:
        """Returns the hash of a function: its data, and its code where that counts."""
        cells = []
        for cell in value.__closure__ or ():
            try:
                cells.append(cell.cell_contents)
            except ValueError:  # not filled yet
                cells.append("empty")
        data = [value.__defaults__, value.__kwdefaults__, cells, vars(value)]
        if not _is_library(value.__module__):
            data.append(_globals_read(value))
        if self._with_code:
            data += [value.__module__, value.__qualname__, value.__code__]
        return self._all("function", data)

    def _code(self, value: Any) -> bytes:
        return self._all(
            "code", [value.co_code, value.co_consts, value.co_names, value.co_varnames]
        )

    def _class(self, value: Any) -> bytes:
        name = f"{value.__module__}.{value.__qualname__}" if self._with_code else value.__qualname__
        if _is_library(value.__module__):
            return _hashed("class", name)
        return self._all("class", [name, value.__bases__, _class_attributes(value)])

    def _object(self, value: Any) -> bytes:
        """Returns the hash of any other object: its fields, and its pickled state where needed."""
        kind, uncached = type(value), {}
        if kind.__module__.partition(".")[0] in _STATELESS:
            return _hashed("stateless", kind.__qualname__)
        fields = _fields(value)
        for name, field in fields.items():
            if not _is_cached(kind, name):
                uncached[name] = field
            elif not _is_library(kind.__module__):
                self.cached[f"{len(self._done)}.{name}"] = field
        # raises for an object with a state outside Python, such as an open file
        parts = value.__reduce_ex__(4)
        is_reduced_in_python = kind.__reduce__ is object.__reduce__ or isinstance(
            kind.__reduce__, types.FunctionType
        )
        # The fields are the whole state of a class written in Python; a class written in C, such as
        # a random generator, shows its state only in what it pickles.
        if (fields and is_reduced_in_python) or isinstance(parts, str):
            return self._all("object", [kind, uncached])
        items = [list(part) for part in parts[3:5] if part is not None]
        return self._all("object", [kind, uncached, *parts[:3], *items])


def _hashed(*parts: str | bytes) -> bytes:
    """Returns the hash of some parts, which depends on where one part ends and the next begins."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def _fields(value: Any) -> dict[str, Any]:
    """Returns the fields of an object, including those in slots."""
    slots = {
        name: getattr(value, name)
        for kind in type(value).__mro__
        for name in _names(kind.__dict__.get("__slots__", ()))
        if name not in ("__dict__", "__weakref__") and hasattr(value, name)
    }
    return slots | dict(getattr(value, "__dict__", {}))


def _names(slots: str | Iterable[str]) -> Iterable[str]:
    """Returns the names in a ``__slots__``, which may be a single name."""
    return (slots,) if isinstance(slots, str) else slots


def _extra(value: Any) -> list[Any]:
    """Returns the fields of an instance of a subclass of a container, as a list of at most one."""
    return [vars(value)] if getattr(value, "__dict__", None) else []


def _is_cached(kind: type, name: str) -> bool:
    """Returns whether a class computes an attribute by `functools.cached_property`."""
    return isinstance(getattr(kind, name, None), functools.cached_property)


def _class_attributes(kind: type) -> dict[str, Any]:
    """Returns the attributes that a class defines, without Python's own entries."""
    return {
        name: value
        for name, value in vars(kind).items()
        if not (
            name.startswith("__") or name.startswith("_abc_") or isinstance(value, _DESCRIPTORS)
        )
    }


def _globals_read(function: Any) -> dict[str, Any]:
    """Returns the globals that a function reads.

    A module that is not installed stands for those of its attributes that the function names.
    """
    names, result = _names_read(function.__code__), {}
    for name in sorted(names & function.__globals__.keys()):
        value = function.__globals__[name]
        if not isinstance(value, types.ModuleType):
            result[name] = value
        elif not _is_library(value.__name__):
            result |= {
                f"{name}.{attribute}": vars(value)[attribute]
                for attribute in sorted(names & vars(value).keys())
            }
    return result


def _names_read(code: types.CodeType) -> set[str]:
    """Returns the names of globals and attributes in a code object and the code inside it."""
    inner = (_names_read(const) for const in code.co_consts if isinstance(const, types.CodeType))
    return set(code.co_names).union(*inner)


@functools.cache
def _is_library(module: str | None) -> bool:
    """Returns whether a module is installed, and not code of the user that may change meanwhile."""
    if module is None or module == "__main__":
        return False
    root = module.partition(".")[0]
    if root in (__name__.partition(".")[0], "builtins") or root in sys.stdlib_module_names:
        return True
    imported = sys.modules.get(root)
    file = getattr(imported, "__file__", None) or next(
        iter(getattr(imported, "__path__", ())), None
    )
    if imported is None or file is None:
        return False
    return any(file.startswith(sysconfig.get_path(kind)) for kind in ("purelib", "platlib"))
