"""`check_algorithm`: the tests that the library's own algorithms pass, for a user's algorithm."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite import validation
from jaxmarl_lite.algorithms import base_config, registry
from jaxmarl_lite.checking.battery import CHECKS, Check
from jaxmarl_lite.checking.case import Case, CheckFailedError, CheckSkippedError
from jaxmarl_lite.envs import registry as environments
from jaxmarl_lite.envs.wrappers import Cost, with_costs
from jaxmarl_lite.types import Algorithm, Array, Environment, EnvSpec

Make = Callable[[EnvSpec], Algorithm]

_TOYS = {"discrete": "toy/early-death", "continuous": "toy/reach-heterogeneous"}
"""Action type -> the environment that checks it; both have actions that some agents lack, and in
the first of them agents die before an episode ends."""
_SMALL = {
    "hidden_sizes": (16,),
    "rnn_hidden_size": 8,
    "sequence_length": 4,
    "buffer_size": 16,
    "batch_size": 8,
    "mixing_embed_dim": 4,
    "hypernet_embed_dim": 8,
    "num_epochs": 2,
    "critic_epochs": 2,
}
"""Fields of the library's config classes that make a quick algorithm."""


class CheckResult(NamedTuple):
    """The outcome of one check.

    Attributes:
        check: Name of the check.
        environment: Words for the environment.
        outcome: Whether the algorithm passed it, failed it, or it does not apply.
        explanation: What is wrong, or why it does not apply; empty when passed.
    """

    check: str
    environment: str
    outcome: Literal["passed", "failed", "skipped"]
    explanation: str = ""


@dataclasses.dataclass(frozen=True)
class AlgorithmReport:
    """The outcomes of all checks of an algorithm; ``print`` shows them as a table.

    Attributes:
        algorithm: Name of the algorithm.
        results: The outcomes, in order.
    """

    algorithm: str
    results: tuple[CheckResult, ...]

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The checks that failed."""
        return tuple(result for result in self.results if result.outcome == "failed")

    def __str__(self) -> str:
        rows = [(r.check, r.environment, r.outcome, r.explanation) for r in self.results]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [
            "  ".join([*(text.ljust(w) for text, w in zip(row, widths, strict=False)), row[3]])
            for row in rows
        ]
        counts = [
            f"{sum(r.outcome == outcome for r in self.results)} {outcome}"
            for outcome in ("passed", "failed", "skipped")
        ]
        head = f"{self.algorithm}: {', '.join(counts)}"
        return "\n".join([head, *(line.rstrip() for line in lines)])

    def raise_for_failures(self) -> None:
        """Raises an error if a check failed.

        Raises:
            ValueError: Names every check that failed, with its explanation.
        """
        if self.failures:
            text = "; ".join(f"{r.check} ({r.environment}): {r.explanation}" for r in self.failures)
            raise ValueError(
                f"algorithm {self.algorithm} fails {len(self.failures)} checks: {text}"
            )


def check_algorithm(
    algorithm: Any,
    env: Environment | str | None = None,
    config: Any = None,
    *,
    num_envs: int = 4,
    num_steps: int = 8,
    seed: int = 0,
    checks: Collection[str] | None = None,
) -> AlgorithmReport:
    """Checks an algorithm in small environments, and says what is wrong.

    The checks are those of the library's own algorithms: it works under ``jit`` and ``vmap`` over
    seeds, is traced once, keeps the form of its state, is pure, learns finite numbers from legal
    actions, ignores agents that are not alive, resumes bit for bit from a checkpoint, and works in
    double precision. Most of the time goes into compiling.

    Without ``env`` an algorithm is checked in one environment of discrete and one of continuous
    actions, both with two costs; one that refuses a type of actions skips it. Without ``config`` an
    algorithm whose config has the library's fields is checked with small networks. A recurrent
    policy is checked only if the config asks for one.

    Args:
        algorithm: an algorithm in any form that `run` takes: a name, ``module:name``, a pair
            ``(Config, make)``, a function ``make(spec, config: Config)``, or an `Algorithm`.
        env: environment to check it in, or its name. An `Algorithm` needs the one that it was made
            for.
        config: config of the algorithm; not for an `Algorithm`, which has one.
        num_envs: B, environments side by side.
        num_steps: T, steps of a rollout.
        seed: seed of all random numbers.
        checks: names of the checks to run, with those that they need; None: all.

    Returns:
        The outcome of every check.

    Raises:
        ValueError: An argument is not one of these.

    Example:
        >>> import jaxmarl_lite as jml
        >>> report = jml.check_algorithm("iac", "toy/counter", checks=["greedy"])
        >>> report.raise_for_failures()
        >>> print(report)
        iac: 4 passed, 0 failed, 0 skipped
        sizes   toy/counter  passed
        init    toy/counter  passed
        act     toy/counter  passed
        greedy  toy/counter  passed
    """
    num_envs = validation.check_int("num_envs", num_envs)
    num_steps = validation.check_int("num_steps", num_steps)
    seed = validation.check_int("seed", seed, 0)
    chosen = _chosen(checks)
    if isinstance(env, str):
        env = environments.make(env)
    name, make = _maker(algorithm, config)
    if env is not None:
        validation.check_environment_object(env)
        if isinstance(algorithm, Algorithm):
            validation.check_fits(algorithm, env)
        cases = {env.spec.name: env}
    elif isinstance(algorithm, Algorithm) and algorithm.spec is not None:
        raise validation.invalid(
            "env", env, f"the environment that {name} was made for ({algorithm.spec.name})"
        )
    else:
        cases = {kind: _with_costs(environments.make(toy)) for kind, toy in _TOYS.items()}
    results: list[CheckResult] = []
    with _quick_compilation():
        for label, environment in cases.items():
            make_here = functools.partial(make, environment.spec)
            sizes = num_envs, num_steps, seed
            make_case = functools.partial(Case, label, make_here, environment, *sizes)
            results += _check_in(label, make_case, chosen)
    if all(result.outcome == "skipped" for result in results):
        text = "; ".join(result.explanation for result in results)
        results.append(CheckResult("make", "any", "failed", f"no environment serves it: {text}"))
    return AlgorithmReport(name, tuple(results))


@contextlib.contextmanager
def _quick_compilation() -> Iterator[None]:
    """Lets XLA optimize little: these programs compile for longer than they run."""
    previous = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", previous)


def _maker(algorithm: Any, config: Any) -> tuple[str, Make]:
    """Returns the name of an algorithm, and a function that makes it for an environment."""
    if isinstance(algorithm, Algorithm):
        if config is not None:
            raise validation.invalid("config", config, "None for an Algorithm, which has a config")
        return algorithm.name, lambda spec: algorithm
    name, entry = registry.resolve(algorithm)
    chosen = _small(entry.config_class) if config is None else config
    if type(chosen) is not entry.config_class:
        raise validation.invalid("config", config, f"a {entry.config_class.__name__}")
    return name.strip("<>"), lambda spec: registry.make_entry(name, entry, spec, chosen)


def _small(kind: type) -> Any:
    """Returns a config with small networks, or its defaults where it has other fields."""
    if not issubclass(kind, base_config.LearnerConfig):
        return kind()
    names = {field.name for field in dataclasses.fields(kind)}
    small = {name: value for name, value in _SMALL.items() if name in names}
    if not getattr(kind, "recurrent", False):
        small.pop("rnn_hidden_size", None)
    try:
        return kind(**small)
    except ValueError:
        return kind()


def _with_costs(env: Environment) -> Environment:
    """Returns an environment with two costs, which constrained algorithms need."""
    discrete = env.spec.action_type == "discrete"

    def some(state: Any, action: Array, next_state: Any) -> Array:
        return (action == 1).astype(float) if discrete else jnp.square(action[:, 0])

    def every(state: Any, action: Array, next_state: Any) -> Array:
        return (action != 0).astype(float) if discrete else jnp.abs(action).sum(-1)

    costs = Cost("some", "of action 1", some, 0.5), Cost("any", "of not resting", every, 0.3)
    return with_costs(env, costs)


def _chosen(names: Collection[str] | None) -> tuple[Check, ...]:
    """Returns the checks of these names, and those that they need, in order."""
    if names is None:
        return CHECKS
    by_name = {check.name: check for check in CHECKS}
    for name in names:
        if name not in by_name:
            raise validation.unknown_name("checks", name, by_name)
    needed = set(names)
    for check in reversed(CHECKS):  # needs stand before
        needed |= set(check.needs) if check.name in needed else set()
    return tuple(check for check in CHECKS if check.name in needed)


def _check_in(
    label: str, make_case: Callable[[], Case], checks: tuple[Check, ...]
) -> list[CheckResult]:
    """Runs checks in one environment."""
    try:
        case = make_case()
    except ValueError as error:
        return [CheckResult("make", label, "skipped", f"it refuses these: {error}")]
    except Exception as error:
        return [CheckResult("make", label, "failed", validation.one_line(error))]
    results: list[CheckResult] = []
    passed: set[str] = set()
    for check in checks:
        missing = [name for name in check.needs if name not in passed]
        outcome, explanation = "skipped", f"needs the check {', '.join(missing)}"
        if not missing:
            outcome, explanation = _outcome(check.run, case)
        if outcome == "passed":
            passed.add(check.name)
        results.append(CheckResult(check.name, label, outcome, explanation))
    return results


def _outcome(
    run: Callable[[Case], None], case: Case
) -> tuple[Literal["passed", "failed", "skipped"], str]:
    """Runs one check; any error is a failure."""
    try:
        run(case)
    except CheckSkippedError as reason:
        return "skipped", str(reason)
    except CheckFailedError as failure:
        return "failed", str(failure)
    except Exception as error:
        return "failed", validation.one_line(error)
    return "passed", ""
