"""Numbers that describe the source: names, docstrings, sizes, and what a reader of a call opens.

    python tests/source_numbers.py                     all of it
    python tests/source_numbers.py --no-traces         without tracing algorithms (seconds)
    python tests/source_numbers.py --train             also trains a tiny run (a minute)

`test_architecture.py` holds some of them to limits.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import re
import sys
import tempfile
import threading
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jaxmarl_lite"
BANNED = frozenset(
    (
        "of",
        "found",
        "given",
        "own",
        "told",
        "seen",
        "sight",
        "moved",
        "kept",
        "world",
        "worlds",
        "words",
        "wanted",
        "its",
        "made",
    )
)
"""Words that name nothing; a variable is named after what it is."""
HOST = ("report", "experiment", "cli")


def files(folder: Path = PACKAGE) -> list[Path]:
    """Python files below a folder."""
    return sorted(folder.rglob("*.py"))


def identifiers(path: Path) -> Counter[str]:
    """Names that a file defines: variables, arguments, attributes, functions and classes."""
    count: Counter[str] = Counter()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            count[node.id] += 1
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            count[node.attr] += 1
        elif isinstance(node, ast.arg):
            count[node.arg] += 1
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            count[node.name] += 1
        elif isinstance(node, ast.alias) and node.asname:
            count[node.asname] += 1
    return count


def banned(folder: Path = PACKAGE) -> dict[str, Counter[str]]:
    """File -> banned identifiers that it defines."""
    found = {}
    for path in files(folder):
        count = Counter({n: k for n, k in identifiers(path).items() if n in BANNED})
        if count:
            found[str(path.relative_to(ROOT))] = count
    return found


def uses(folder: Path, words: frozenset[str]) -> int:
    """Occurrences of words as names or attributes, uses included."""
    total = 0
    for path in files(folder):
        tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        total += sum(token.type == tokenize.NAME and token.string in words for token in tokens)
    return total


def code_lines(path: Path) -> int:
    """Lines with code: no blank lines, comments or docstrings."""
    text = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    skip = (
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
        tokenize.ENCODING,
    )
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skip:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def public_functions(path: Path) -> Iterator[tuple[str, Any]]:
    """Public functions of a module and public methods of its public classes."""

    def visit(nodes: list[ast.stmt], prefix: str) -> Iterator[tuple[str, Any]]:
        for node in nodes:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield prefix + node.name, node
            elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield from visit(node.body, f"{prefix}{node.name}.")

    return visit(ast.parse(path.read_text(encoding="utf-8")).body, "")


def docstrings(folder: Path = PACKAGE) -> dict[str, list[str]]:
    """Public functions of two or more parameters: all, without ``Args``, without ``Returns``."""
    result: dict[str, list[str]] = {"all": [], "no Args": [], "returning": [], "no Returns": []}
    for path in files(folder):
        for name, node in public_functions(path):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            parameters = [a.arg for a in every if a.arg not in ("self", "cls")]
            if len(parameters) < 2:
                continue
            text, label = ast.get_docstring(node) or "", f"{path.relative_to(PACKAGE)}:{name}"
            result["all"].append(label)
            if not re.search(r"^Args:$", text, re.MULTILINE):
                result["no Args"].append(label)
            if node.returns is not None and ast.unparse(node.returns) != "None":
                result["returning"].append(label)
                if not re.search(r"^(Returns|Yields):$", text, re.MULTILINE):
                    result["no Returns"].append(label)
    return result


def examples(folder: Path = PACKAGE) -> int:
    """Docstrings with at least one example."""
    total = 0
    for path in files(folder):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                total += ">>> " in (ast.get_docstring(node) or "")
    return total


def opened(call: Any) -> tuple[set[str], set[tuple[str, str]]]:
    """Files and functions of the package that run in a call."""
    functions: set[tuple[str, str]] = set()

    def profile(frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        if (
            event == "call"
            and code.co_filename.startswith(str(PACKAGE))
            and not code.co_name.startswith("<")
            and code.co_flags & inspect.CO_OPTIMIZED  # a function, and not the body of a class
        ):
            functions.add((code.co_filename, code.co_qualname))

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return {name for name, _ in functions}, functions


def traces() -> dict[str, tuple[int, int]]:
    """Algorithm -> files and functions that one traced rollout and update call."""
    import jax

    import jaxmarl_lite as jml

    result = {}
    for name, env_id in (("macpo", "toy/budget"), ("liir", "toy/counter"), ("ippo", "toy/counter")):
        env = jml.make(env_id)
        algorithm = jml.make_algorithm(name, env.spec)
        init, train = jml.make_train(algorithm, env, num_envs=4, num_steps=4)
        state = jax.eval_shape(init, jax.random.key(0))
        found = opened(
            lambda train=train, state=state: jax.eval_shape(lambda s: train(s, 1), state)
        )
        result[name] = (len(found[0]), len(found[1]))
    return result


def training() -> tuple[set[str], set[tuple[str, str]]]:
    """Files and functions of the package that one command ``train`` calls, in all threads.

    The bodies of modules do not count, nor do those of classes.
    """
    from jaxmarl_lite.cli.main import main as command

    args = "train ippo --env toy/pursuit --seeds 1 --num-envs 4 --num-steps 8 --total-steps 64"
    args += " --num-evaluations 1 --eval-episodes 4 --hidden-sizes 8 --quiet --out"
    with tempfile.TemporaryDirectory() as folder:
        return opened(lambda: command([*args.split(), str(Path(folder) / "run")]))


def main() -> None:
    """Prints the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-traces", action="store_true")
    parser.add_argument("--train", action="store_true")
    args = parser.parse_args()
    paths = files()
    text = {path: path.read_text(encoding="utf-8") for path in paths}
    lines = {path: code_lines(path) for path in paths}
    host = sum(n for p, n in lines.items() if p.relative_to(PACKAGE).parts[0] in HOST)
    docs = docstrings()
    total, definitions = sum(lines.values()), sum(sum(c.values()) for c in banned().values())
    without_args = len(docs["no Args"]) / len(docs["all"])
    without_returns = len(docs["no Returns"]) / len(docs["returning"])
    anys = sum(len(re.findall(r"\bAny\b", t)) for t in text.values())
    all_lines = [line for t in text.values() for line in t.splitlines()]
    bench = files(ROOT / "benchmarks")
    print(f"files of the package: {len(paths)}")
    print(f"code lines of the package: {total}; share of the host side: {host / total:.0%}")
    print(f"benchmarks: {sum(len(p.read_text().splitlines()) for p in bench)} lines")
    print(f"banned identifiers: {definitions} definitions, {uses(PACKAGE, BANNED)} occurrences")
    print(f"`memory` as a name: {uses(PACKAGE, frozenset(['memory']))}")
    print(f"public functions of two or more parameters: {len(docs['all'])}")
    print(f"  with Args: {1 - without_args:.1%}; with Returns: {1 - without_returns:.1%}")
    print(f"docstrings with an example: {examples()}")
    print(f"Any per 1,000 lines: {1000 * anys / len(all_lines):.1f}")
    print(f"lines over 100: {sum(len(line) > 100 for line in all_lines)}")
    print(f"fmt: skip: {sum(t.count('fmt: skip') for t in text.values())}")
    for label in docs["no Args"][:10] + docs["no Returns"][:10]:
        print(f"  {label}")
    if not args.no_traces:
        for name, (n, m) in traces().items():
            print(f"{name}: one traced rollout and update calls {m} functions in {n} files")
    if args.train:
        paths, functions = training()
        print(f"`train ippo` calls {len(functions)} functions in {len(paths)} files")
        for path in sorted(paths):
            print(f"  {Path(path).relative_to(PACKAGE)}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
