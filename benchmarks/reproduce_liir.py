"""Reproduces LIIR's experiment (Du et al. 2019) on SMAX, with ablations of the learned reward.

    python benchmarks/reproduce_liir.py              four maps, all algorithms, 1e7 steps, 5 seeds
    python benchmarks/reproduce_liir.py --maps 3m 2s3z --algorithms liir lam0 --steps 1000000
    python benchmarks/reproduce_liir.py --envs toy/pursuit mpe/spread-3a --algorithms liir lam0

The algorithms are LIIR, its ablation (``immediate``: equation 9 alone; ``reference``: the one
scalar of the reference implementation; ``lam0``: no intrinsic reward; ``random``: one that stays at
its initial weights; ``authors``: the settings of the reference implementation, with the exact
meta-gradient), and the paper's baselines. Any other may be added as
``NAME=ALGORITHM:FIELD=VALUE,...``.

All runs are those of one `jaxmarl_lite.compare`, with all learning rates falling to 0 at the end.
Stopped at any moment, the same command continues. The likeliest actions are evaluated, as is usual
in these battles.
"""

from __future__ import annotations

import argparse

import bench_utils

from jaxmarl_lite.experiment.compare import Variant, parse_variant

MAPS = ("3m", "8m", "2s3z", "3s5z")
KNOWN = {
    "liir": "liir",
    "lam0": "lam0=liir:intrinsic_coef=0",
    "immediate": "immediate=liir:meta_gradient=immediate",
    "reference": "reference=liir:meta_gradient=reference",
    "random": "random=liir:intrinsic_lr=0,intrinsic_init_scale=1",
    "authors": "authors=liir.reference:meta_gradient=exact",
    "mappo": "mappo",
    "ippo": "ippo",
    "iac": "iac",
    "central-v": "central-v",
    "coma": "coma",
    "qmix": "qmix",
}
"""Name -> variant."""


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = bench_utils.make_parser(__doc__)
    parser.add_argument(
        "--maps", nargs="*", help=f"of SMAX; default: {' '.join(MAPS)}, without --envs"
    )
    parser.add_argument("--envs", nargs="*", default=[], help="other environments, by their names")
    parser.add_argument(
        "--algorithms", nargs="+", default=list(KNOWN), help=f"of {', '.join(KNOWN)}, or others"
    )
    parser.add_argument(
        "--against", help="report its probability of beating others; default: liir, or the first"
    )
    bench_utils.add_run_options(parser, "reproduce-liir", eval_episodes=128)
    args = parser.parse_args(argv)
    maps = args.maps if args.maps is not None else ([] if args.envs else MAPS)
    args.environments = [*(f"smax/{name}" for name in maps), *args.envs]
    if not args.environments:
        parser.error(
            "--maps names none, and there are no --envs; allowed is at least one environment"
        )
    return args


def main(argv: list[str] | None = None) -> int:
    """Trains environment by environment and writes the report; returns 1 if a run failed."""
    args = options(argv)
    words = [KNOWN.get(name, name) for name in args.algorithms]
    comparison = bench_utils.compare_runs_of(
        args,
        lambda: [annealed(parse_variant(word), args.steps) for word in words],
        args.environments,
        greedy=True,
        against=args.against or ("liir" if "liir" in args.algorithms else None),
    )
    comparison.save(args.out / args.name)
    print(f"\n{comparison.summary()}\n{args.out / args.name}.md")
    return 1 if comparison.failed else 0


def annealed(variant: Variant, steps: int) -> Variant:
    """Returns the variant with learning rates that fall to 0, unless it sets them."""
    if {"lr_anneal_steps", "lr_anneal_share"} & set(variant.fields):
        return variant
    return variant._replace(fields={**variant.fields, "lr_anneal_steps": steps})


if __name__ == "__main__":
    bench_utils.to_the_end(main)
