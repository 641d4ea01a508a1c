"""What an environment consists of, as hashes: they tell whether it was changed in place since it
was compiled.

A compiled program keeps the numbers that it was traced with. So it may be used again only while
everything that its functions read is the same: fields of the environment and of what it wraps, at
any depth, arrays by their bytes, attributes of classes, and what functions close over, have as
defaults or read from the globals of their module.
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

_PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    range,
    slice,
    type(Ellipsis),
    type(NotImplemented),
)
_STATELESS = ("_thread", "threading", "logging", "weakref")  # their objects decide no numbers
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType)
_MOST_OBJECTS = 200_000


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """The content of an object at one moment."""

    content: str
    """Hash of everything but ``cached``."""
    cached: Mapping[str, str]
    """Hashes of the values that `functools.cached_property` keeps: one that is not there yet is no
    change."""
    complete: bool
    """Whether all was read; False where something has an unreadable state, such as an open file."""

    def same(self, other: Fingerprint) -> bool:
        """Whether both are complete and no content differs."""
        common = self.cached.keys() & other.cached.keys()
        return (
            self.complete
            and other.complete
            and self.content == other.content
            and all(self.cached[name] == other.cached[name] for name in common)
        )


def fingerprint(value: Any) -> Fingerprint:
    """Reads an object, such as an environment, with everything that it refers to."""
    reader = _Reader(with_code=True)
    content = reader.read(value)
    cached = {}
    while reader.cached:  # what is cached may hold objects with cached values of their own
        place, kept = reader.cached.popitem()
        cached[place] = reader.read(kept).hex()
    return Fingerprint(content.hex(), cached, reader.complete)


_last_seen: dict[
    int, tuple[Any, Fingerprint]
] = {}  # by id; the environments are kept, so that no id is used twice


def notice_changes(env: Any) -> None:
    """Lets JAX forget all that it traced, if an environment, or one in it, was changed in place
    since the last call.

    A method that is under `jax.jit` with ``self`` as a static argument would otherwise go on with
    the old numbers.
    """
    changed = False
    for each in _layers(env):
        now = fingerprint(each)
        before = _last_seen.pop(id(each), None)
        changed |= before is not None and not now.same(before[1])
        _last_seen[id(each)] = each, now
    while len(_last_seen) > 64:
        del _last_seen[next(iter(_last_seen))]
    if changed:
        jax.clear_caches()


def _layers(env: Any) -> list[Any]:
    """An environment, and those that it wraps as ``env``."""
    found = [env]
    while True:
        inner = getattr(found[-1], "__dict__", {}).get("env")
        if not (hasattr(inner, "reset") and hasattr(inner, "step")) or len(found) > 32:
            return found
        found.append(inner)


def changed_fields(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The names in two answers of `data_by_field` whose data differ, or that only one of them
    has.
    """
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def data_by_field(env: Any) -> dict[str, str]:
    """Hashes of the data in an environment, the same in every process: code and what cannot be read
    are left out.

    Args:
        env: an environment; the fields of one that it wraps as ``env`` are named ``env.FIELD``.

    Returns: Name of a field, of a class attribute or of a method (its defaults and what it closes
        over) -> hash.
    """
    found, layers = {}, _layers(env)
    for depth, layer in enumerate(layers):
        for name, value in _attributes(layer).items():
            reader = _Reader(with_code=False)
            digest = reader.read(value)
            if reader.complete and not (name == "env" and layer is not layers[-1]):
                found["env." * depth + name] = digest.hex()[:16]
    return found


def _attributes(env: Any) -> dict[str, Any]:
    """Fields of an object and of its class, without values that are cached."""
    of_class = {
        name: value
        for kind in reversed(type(env).__mro__)
        if not _is_library(kind.__module__)
        for name, value in _class_attributes(kind).items()
    }
    return of_class | {
        name: value for name, value in _fields(env).items() if not _is_cached(type(env), name)
    }


class _Reader:
    """Hashes objects by their content; each object once.

    Args:
        with_code: whether the code of functions and the names of modules count.
    """

    def __init__(self, with_code: bool):
        self._with_code = with_code
        self._done: dict[int, bytes] = {}
        self._open: dict[int, int] = {}  # objects that are being read -> their depth
        self._alive: list[Any] = []  # so that no id is used twice
        self.cached: dict[str, Any] = {}
        self.complete = True

    def read(self, value: Any) -> bytes:
        """The hash of a value."""
        if type(value) in _PLAIN:
            return _hashed(type(value).__name__, repr(value))
        key = id(value)
        if key in self._done:
            return self._done[key]
        if key in self._open:
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
        for kinds, method in self._methods.items():
            if isinstance(value, kinds):
                return method(value)
        if isinstance(getattr(value, "__wrapped__", None), Callable):  # what `jax.jit` makes
            return self._all("wrapped", [value.__wrapped__])
        return self._object(value)

    @functools.cached_property
    def _methods(self) -> dict[Any, Callable[[Any], bytes]]:
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

    def _all(self, kind: str, values: Iterable[Any]) -> bytes:
        return _hashed(kind, *map(self.read, values))

    def _unreadable(self, value: Any) -> bytes:
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
        kind, own = type(value), {}
        if kind.__module__.partition(".")[0] in _STATELESS:
            return _hashed("stateless", kind.__qualname__)
        fields = _fields(value)
        for name, field in fields.items():
            if not _is_cached(kind, name):
                own[name] = field
            elif not _is_library(kind.__module__):
                self.cached[f"{len(self._done)}.{name}"] = field
        parts = value.__reduce_ex__(
            4
        )  # raises for what has a state outside Python, such as an open file
        of_python = kind.__reduce__ is object.__reduce__ or isinstance(
            kind.__reduce__, types.FunctionType
        )
        if (fields and of_python) or isinstance(parts, str):
            return self._all("object", [kind, own])
        items = [list(part) for part in parts[3:5] if part is not None]
        return self._all("object", [kind, own, *parts[:3], *items])


def _hashed(*parts: str | bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def _fields(value: Any) -> dict[str, Any]:
    """An object's fields, those in slots among them."""
    slots = {
        name: getattr(value, name)
        for kind in type(value).__mro__
        for name in _names(kind.__dict__.get("__slots__", ()))
        if name not in ("__dict__", "__weakref__") and hasattr(value, name)
    }
    return slots | dict(getattr(value, "__dict__", {}))


def _names(slots: Any) -> Iterable[str]:
    return (slots,) if isinstance(slots, str) else slots


def _extra(value: Any) -> list[Any]:
    """Fields of an instance of a subclass of a container."""
    return [vars(value)] if getattr(value, "__dict__", None) else []


def _is_cached(kind: type, name: str) -> bool:
    return isinstance(getattr(kind, name, None), functools.cached_property)


def _class_attributes(kind: type) -> dict[str, Any]:
    """What a class defines, without Python's own entries."""
    return {
        name: value
        for name, value in vars(kind).items()
        if not (
            name.startswith("__") or name.startswith("_abc_") or isinstance(value, _DESCRIPTORS)
        )
    }


def _globals_read(function: Any) -> dict[str, Any]:
    """The globals that a function reads, and of modules that are not installed the attributes."""
    names, found = _names_read(function.__code__), {}
    for name in sorted(names & function.__globals__.keys()):
        value = function.__globals__[name]
        if not isinstance(value, types.ModuleType):
            found[name] = value
        elif not _is_library(value.__name__):
            found |= {
                f"{name}.{each}": vars(value)[each] for each in sorted(names & vars(value).keys())
            }
    return found


def _names_read(code: types.CodeType) -> set[str]:
    inner = (_names_read(const) for const in code.co_consts if isinstance(const, types.CodeType))
    return set(code.co_names).union(*inner)


@functools.cache
def _is_library(module: str | None) -> bool:
    """Whether a module is installed, and not a person's own code that may change while the program
    runs.
    """
    if module is None or module == "__main__":
        return False
    root = module.partition(".")[0]
    if root in (__name__.partition(".")[0], "builtins") or root in sys.stdlib_module_names:
        return True
    found = sys.modules.get(root)
    file = getattr(found, "__file__", None) or next(iter(getattr(found, "__path__", ())), None)
    if found is None or file is None:
        return False
    return any(file.startswith(sysconfig.get_path(kind)) for kind in ("purelib", "platlib"))
