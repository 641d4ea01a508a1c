"""Starts a run from the weights of another one, where their shapes agree."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxmarl_lite.experiment import compilation
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.experiment.result import read_meta
from jaxmarl_lite.report import checkpoint, run_dir
from jaxmarl_lite.types import Environment, TrainState
from jaxmarl_lite.validation import invalid

_NORMALIZERS = ("normalizer", "statistics")
_MAX_REASONS = 6


class InitialWeights(NamedTuple):
    """The weights of another run that fit a plan.

    Attributes:
        source: the checkpoint of the other run.
        seeds: for each seed of the plan, the index of the seed that it starts from.
        leaves: paths of the leaves that are taken, in the tree of a `TrainState`.
        sentences: what is taken and what is not, for the user.
    """

    source: checkpoint.Checkpoint
    seeds: tuple[int, ...]
    leaves: frozenset[str]
    sentences: tuple[str, ...]

    def apply(self, states: TrainState) -> TrainState:
        """Returns the states of a new run with the weights of the other one.

        Args:
            states: initial states of all seeds, every leaf ``[S, ...]``.

        Raises:
            CheckpointError: the arrays of the checkpoint cannot be read.
        """
        arrays = dict(
            zip(
                (leaf.path for leaf in self.source.leaves),
                checkpoint.read_arrays(self.source),
                strict=True,
            )
        )

        def replace(path: Any, value: Any) -> Any:
            name = jax.tree_util.keystr(path)
            if name not in self.leaves:
                return value
            array = arrays[name][list(self.seeds)]
            return jax.make_array_from_callback(array.shape, value.sharding, lambda i: array[i])

        return jax.tree_util.tree_map_with_path(replace, states)


def find(plan: RunConfig, env: Environment) -> InitialWeights | None:
    """Returns the weights that a new run starts from, without compiling anything.

    Learned weights and normalizers are taken, a normalizer only as a whole; optimizers, multipliers
    and environments start anew.

    Args:
        plan: plan of the new run.
        env: the environment of the new run.

    Returns:
        The weights, or None where the plan has no ``init_from``.

    Raises:
        ValueError: ``init_from`` holds no run with a checkpoint, or nothing in it fits.
    """
    if plan.init_from is None:
        return None
    allowed = "the folder of a run with a checkpoint"
    try:
        folder = run_dir.find(Path(plan.init_from))
        source = checkpoint.find_intact(folder.checkpoints, fallback=True)
        saved = read_meta(source)
    except (OSError, checkpoint.CheckpointError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{invalid('init_from', plan.init_from, allowed)} ({reason})") from error
    healthy = [i for i, update in enumerate(saved.diverged.tolist()) if not update]
    if not healthy:
        raise ValueError(
            f"{invalid('init_from', plan.init_from, 'a run with a seed that has not diverged')}"
        )
    flat = jax.tree_util.tree_leaves_with_path(compilation.abstract_states(plan, env))
    here = {jax.tree_util.keystr(path): value for path, value in flat}
    there = {leaf.path: leaf for leaf in source.leaves}
    reasons = _misfits({name: x for name, x in here.items() if _is_weight(name)}, there)
    taken = frozenset(name for name in here if _is_weight(name) and name not in reasons)
    # a bias alone, such as the single one of a critic's output, is no start
    if not any(here[name].ndim > 2 and not _normalizer(name) for name in taken):
        why = "; ".join(f"{_short(name)}: {x}" for name, x in list(reasons.items())[:3])
        allowed = "a run whose networks have weights of the same shapes"
        raise ValueError(
            f"{invalid('init_from', plan.init_from, allowed)} ({why or 'there are no weights'})"
        )
    seeds = tuple(healthy[i % len(healthy)] for i in range(len(plan.seeds)))
    names = [(plan.seeds[i], saved.plan.seeds[j]) for i, j in enumerate(seeds)]
    sentences = _sentences(plan.init_from, source.step, taken, reasons, names)
    return InitialWeights(source, seeds, taken, sentences)


def _attributes(name: str) -> list[str]:
    """Returns the fields of records in the path of a leaf, without keys of dictionaries."""
    return re.findall(r"\.([A-Za-z_]\w*)", re.sub(r"\[[^\]]*\]", "", name))


def _is_weight(name: str) -> bool:
    """Returns whether a leaf holds learned weights or a normalizer."""
    fields = _attributes(name)
    if fields[:1] != ["learner_state"] or any("opt_state" in field for field in fields):
        return False
    return any(field.endswith("params") for field in fields) or bool(_normalizer(name))


def _normalizer(name: str) -> str:
    """Returns the part of a leaf's path up to its normalizer; empty where it is in none."""
    for field in _attributes(name):
        if field.endswith(_NORMALIZERS):
            return name[: name.index(f".{field}") + len(field) + 1]
    return ""


def _misfits(here: Mapping[str, Any], there: Mapping[str, checkpoint.Leaf]) -> dict[str, str]:
    """Returns why leaves cannot be taken, by their paths."""
    reasons = {}
    for name, value in here.items():
        leaf, shape = there.get(name), list(value.shape[1:])
        if leaf is None:
            reasons[name] = "the other run has none"
        elif leaf.shape[1:] != shape:
            reasons[name] = f"shape {tuple(leaf.shape[1:])} there, {tuple(shape)} here"
        elif leaf.dtype != str(value.dtype):
            reasons[name] = f"{leaf.dtype} there, {value.dtype} here"
    broken = {_normalizer(name) for name in reasons} - {""}
    for name in here:
        if _normalizer(name) in broken:
            reasons.setdefault(name, "another part of this normalizer does not fit")
    return reasons


def _part(name: str) -> str:
    """Returns the fields of a leaf's path up to the network or normalizer that it belongs to."""
    fields = _attributes(name)[1:]
    ends = [field.endswith(("params", *_NORMALIZERS)) for field in fields]
    return ".".join(fields[: ends.index(True) + 1])


def _short(name: str) -> str:
    """Returns the path of a leaf without the parts that all weights have."""
    return name.removeprefix(".learner_state.").replace("['params']", "")


def _sentences(
    path: str,
    update: int,
    taken: frozenset[str],
    reasons: Mapping[str, str],
    seeds: Sequence[tuple[int, int]],
) -> tuple[str, ...]:
    """Returns what is taken and what is not, in words."""
    counts: dict[str, int] = {}
    for name in sorted(taken):
        part = _part(name)
        counts[part] = counts.get(part, 0) + 1
    parts = ", ".join(
        f"{part} ({count} array{'s' * (count > 1)})" for part, count in counts.items()
    )
    by_seed = ", ".join(f"{new} from {old}" for new, old in seeds[:10])
    sentences = [
        f"starting from {path}, update {update}: {parts}",
        f"seeds: {by_seed}{', ...' * (len(seeds) > 10)}; optimizers and environments start anew",
    ]
    for name, reason in list(reasons.items())[:_MAX_REASONS]:
        sentences.append(f"not taken: {_short(name)} ({reason})")
    if len(reasons) > _MAX_REASONS:
        sentences.append(f"not taken: {len(reasons) - _MAX_REASONS} more arrays")
    return tuple(sentences)
