"""The rules of the house, read from the source."""

import ast
import dataclasses
import inspect
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import source_numbers
from toy_envs import algorithm, env_for, serves

import jaxmarl_lite as jml
from jaxmarl_lite import train
from jaxmarl_lite.algorithms import registry
from jaxmarl_lite.report import metrics

PACKAGE = Path(__file__).parent.parent / "jaxmarl_lite"
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]

MAY_IMPORT = {
    "types": set(),
    "keys": {"types"},
    "validation": {"types"},
    "platforms": set(),
    "ops": {"types", "platforms"},
    "networks": {"types", "platforms", "ops"},
    "references": {"validation"},
    "envs": {"types", "platforms", "validation", "references"},
    "rollout": {"types", "platforms", "keys"},
    "algorithms": {
        "types",
        "platforms",
        "keys",
        "validation",
        "references",
        "networks",
        "ops",
    },
    "train": {"types", "validation", "rollout"},
    "evaluate": {"types", "validation", "rollout"},
    "determinism": set(),
    "report": {"types", "validation", "references", "determinism"},
    "exported_policy": set(),
}
"""Rooms and what each may import of the others; a room not named here may import every other."""

FORBIDDEN_LIBRARIES = {
    "ops": {"optax", "flax", "jumanji"},
    "types": {"optax", "flax.linen", "jumanji", "numpy"},
}


def _module(path):
    parts = ("jaxmarl_lite", *path.relative_to(PACKAGE).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def _room(parts):
    return parts[1] if len(parts) > 1 else ""


def _is_for_types_only(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _imports(path, of_functions=True):
    """Dotted names of all that a file imports, as tuples; with `from a import b` both `a` and `a.b`
    are meant."""
    result, here = [], _module(path)
    package = here if path.name == "__init__.py" else here[:-1]

    def visit(node):
        for child in ast.iter_child_nodes(node):
            if _is_for_types_only(child):
                continue
            if not of_functions and isinstance(
                child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
            ):
                continue
            if isinstance(child, ast.Import):
                result.extend(tuple(alias.name.split(".")) for alias in child.names)
            if isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else ()
                base += tuple(child.module.split(".")) if child.module else ()
                result.extend((*base, alias.name) for alias in child.names)
            visit(child)

    visit(ast.parse(path.read_text()))
    return result


def test_the_reading_of_imports(tmp_path):
    path = PACKAGE / "algorithms" / "coma.py"
    result = _imports(path)
    assert ("jaxmarl_lite", "networks", "torsos", "orthogonal") in result
    assert ("jaxmarl_lite", "algorithms", "gradient_update") in result


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_imports_keep_the_arrows(path):
    room = _room(_module(path))
    for name in _imports(path):
        for library in FORBIDDEN_LIBRARIES.get(room, ()):
            assert ".".join(name) != library and not ".".join(name).startswith(library + "."), (
                f"{room} imports {name}"
            )
        if name[0] == "jaxmarl_lite" and room in MAY_IMPORT:
            assert _room(name) in MAY_IMPORT[room] | {room}, f"{room} imports {'.'.join(name)}"


def test_no_circle_of_imports():
    modules = {_module(path): path for path in FILES}

    def known(name):
        return next((name[:n] for n in (len(name), len(name) - 1) if name[:n] in modules), None)

    arrows = {
        module: {known(name) for name in _imports(path, of_functions=False)}
        - {None, module, ("jaxmarl_lite",)}
        for module, path in modules.items()
    }
    assert arrows["jaxmarl_lite", "train"] >= {
        ("jaxmarl_lite", "rollout"),
        ("jaxmarl_lite", "types"),
    }
    left = dict(arrows)
    while left:
        free = [module for module, needs in left.items() if not needs & left.keys()]
        assert free, f"a circle among {['.'.join(module) for module in left]}"
        for module in free:
            del left[module]


def _undocumented(path):
    """Public functions and classes, and public methods of public classes, without a docstring."""
    tree = ast.parse(path.read_text())
    result = [] if ast.get_docstring(tree) else ["the module"]

    def look(nodes, prefix):
        for node in nodes:
            if not isinstance(
                node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            ) or node.name.startswith("_"):
                continue
            if not ast.get_docstring(node):
                result.append(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                look(node.body, f"{prefix}{node.name}.")

    look(tree.body, "")
    return result


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_public_name_has_a_docstring(path):
    assert _undocumented(path) == []


def _sentences(cls):
    """Field -> the string below it, of a class and what it inherits from."""
    result = {}
    for base in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
        for node, below in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign):
                is_text = isinstance(below, ast.Expr) and isinstance(
                    getattr(below.value, "value", None), str
                )
                result[node.target.id] = below.value.value if is_text else ""
    return result


@pytest.mark.parametrize("name", registry.ALGORITHMS)
def test_every_config_field_has_its_sentence(name):
    config = registry.config_of(name)
    sentences = _sentences(config)
    for field in dataclasses.fields(config):
        sentence = sentences.get(field.name, "")
        assert len(sentence) > 15 and sentence.endswith("."), (
            f"{config.__name__}.{field.name}: {sentence!r}"
        )


@pytest.mark.parametrize("name", registry.ALGORITHMS)
def test_no_part_of_a_config_hides_the_default_of_another(name):
    """A config's own default is the one that the order of its parts promises."""
    config = registry.config_of(name)
    for field in dataclasses.fields(config):
        assert getattr(config, field.name) == field.default, field.name


@pytest.mark.parametrize("name", registry.ALGORITHMS)
def test_every_reported_number_is_described(name):
    env = env_for(
        name, "toy/reach-heterogeneous" if serves(name, "continuous") else "toy/early-death"
    )
    init, go = train.make_train(algorithm(name, env, recurrent=True), env, num_envs=2, num_steps=3)
    state, info = jax.eval_shape(lambda key: go(init(key), 1), jax.random.key(0))
    of_policy = (
        {"policy_loss", "entropy"} if hasattr(state.learner_state, "actor_params") else {"epsilon"}
    )
    assert {"episode_return", "value_loss"} | of_policy <= info.keys()
    assert set(info) <= set(metrics.METRICS), set(info) - set(metrics.METRICS)


def test_every_described_metric_is_emitted():
    """By some algorithm in an environment that has costs, limits, wins and deaths and may break, or
    by a run of it."""
    emitted = set()
    for name in registry.ALGORITHMS:
        env = Everything(env_for("macpo", "toy/early-death"))
        init, go = train.make_train(algorithm(name, env), env, num_envs=2, num_steps=3)
        emitted |= jax.eval_shape(lambda init=init, go=go: go(init(jax.random.key(0)), 1)[1]).keys()
    result = jml.run(
        "ippo",
        Everything(env_for("macpo", "toy/early-death")),
        config={"hidden_sizes": (4,)},
        seeds=1,
        total_steps=64,
        num_envs=4,
        num_steps=16,
        num_evaluations=1,
        eval_episodes=2,
        quiet=True,
    )
    emitted |= result.metrics.keys()
    assert not set(metrics.METRICS) - emitted, set(metrics.METRICS) - emitted
    assert not emitted - set(metrics.METRICS)


@dataclasses.dataclass(frozen=True)
class Everything:
    """An environment whose episodes can also be won, and may break."""

    env: Any

    @property
    def spec(self):
        return dataclasses.replace(self.env.spec, can_diverge=True, win_condition="never")

    def reset(self, key):
        return self.env.reset(key)

    def step(self, state, action):
        return self.env.step(state, action)

    def is_win(self, state):
        return jnp.zeros((), bool)

    is_non_finite = is_win


def test_names_say_what_they_name():
    """No identifier is one of the words that name nothing."""
    assert source_numbers.banned() == {}


def test_public_functions_describe_their_arguments_and_results():
    docs = source_numbers.docstrings()
    assert docs["no Args"] == []
    assert len(docs["no Returns"]) <= 0.06 * len(docs["returning"]), docs["no Returns"]
    assert source_numbers.examples() >= 60


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_file_knows_this_machine(path):
    for position in ("/" + "tmp", "/" + "work", "/" + "home/"):
        assert position not in path.read_text()
