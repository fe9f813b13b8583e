"""Made situations with known truth: what must a comparison say of them?

`python -m tests.situations --seeds 0 200` varies them at random and counts wrong verdicts. Draws are exact (inverse
distribution functions on a grid, independent draws) or from a Gibbs sampler of the same posterior that EM climbs; what
a verdict must say follows from how the situation was made, or from quadrature, never from the code under test.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from made import counts, numbers  # noqa: F401  (they enter their situations in the table)
from made.situation import SITUATIONS, wrong


def check(seed: int) -> tuple[str, str, list[str]]:
    """(name, recipe, what is wrong) of the situation that a seed stands for."""
    name = list(SITUATIONS)[seed % len(SITUATIONS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = SITUATIONS[name](np.random.default_rng([seed, 6]))
        try:
            return name, made.recipe, wrong(made)
        except Exception as problem:  # reported with its seed; the others go on
            return name, made.recipe, [f"crash: {problem!r}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 2 * len(SITUATIONS)), metavar=("FROM", "TO"))
    arguments = parser.parse_args()
    began, tally = time.perf_counter(), Counter()
    for seed in range(*arguments.seeds):
        name, recipe, found = check(seed)
        tally["wrong" if found else "right"] += 1
        for complaint in found:
            print(f"seed {seed}, {name} ({recipe}): {complaint}", flush=True)
    print(f"{sum(tally.values())} situations in {time.perf_counter() - began:.0f} s: {dict(tally)}")
    return int(bool(tally["wrong"]))


if __name__ == "__main__":
    sys.exit(main())
