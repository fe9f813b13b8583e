"""Rows of emppl alone: memory, distance from what the machine can do, the cost of a start and of a small iteration."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import emppl
from emppl.ascent.starts import start_point
from emppl.models import coins, gaussian_mixture

from .cases import Limit, scaled
from .data import gaussians
from .mixtures import shipped, shipped_theta
from .timing import Timing, em_pass, in_turn, local

MEMORY_BYTES = 16e9  # read in a second by a machine of two cores
MULTIPLICATIONS = 102e9  # floating-point operations in a second, of its matrix product
ROOT = Path(__file__).parents[2]


def memory(n: int, d: int, k: int, scale: float) -> tuple[float, str]:
    """Largest resident memory during a pass beyond the process without data, relative to the data."""
    words = [sys.executable, "-m", f"{__package__}.memory", scaled(n, scale), d, k]
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, cwd=ROOT if "tests." in __package__ else None
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"ended with status {done.returncode}"]
        raise MemoryError(f"{last[0]} ({done.stdout.strip()})")
    seen = json.loads(done.stdout.splitlines()[-1])
    note = f"planning: {seen['planning']:.1f} × and {seen['planning_seconds']:.0f} s; a pass: {seen['seconds']:.2f} s"
    return seen["pass"], f"{note}; data of {seen['bytes'] / 1e6:.0f} MB" + (
        "" if seen["reset"] else "; PLANNING COUNTED"
    )


def floor(n: int, d: int, k: int, scale: float) -> tuple[float, str]:
    """A pass beside what reading the data, or two products with their features, must take."""
    data = gaussians(scaled(n, scale), d, k)
    plan = emppl.plan(shipped(data, "full"), estimate="ml")
    theta = shipped_theta(data, "full")
    (ours,) = in_turn(em_pass(plan, theta), seconds=10.0)
    n_features = 1 + d + d * (d + 1) // 2
    reading, computing = data.y.nbytes / MEMORY_BYTES, 4.0 * len(data.y) * k * n_features / MULTIPLICATIONS
    note = f"{1e3 * ours.seconds:.1f} ms; floor {1e3 * max(reading, computing):.1f} ms ({n_features} features)"
    return ours.seconds / max(reading, computing), note


def start_up(scale: float) -> tuple[float, str]:
    """Process start to printed result, beyond the import of PyMC that it cannot do without."""

    def process(*words: str) -> Any:
        def run(repetitions: int) -> Timing:
            def once() -> None:
                subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)

            return local(once)(repetitions)

        return run

    fit = "import sys; from emppl.cli import main; sys.argv = ['emppl', 'fit', 'coins']; main()"
    ours, pymc = in_turn(process("-c", fit), process("-c", "import pymc"), seconds=60.0)
    return ours.seconds - pymc.seconds, f"{ours.seconds:.2f} s, of which import pymc {pymc.seconds:.2f} s"


def iteration(model: Any, estimate: str, scale: float) -> tuple[float, str]:
    """An E-step and an M-step of a small model from k-means++, in microseconds."""
    plan = emppl.plan(model.build(), estimate=estimate)
    theta = start_point(plan, "k-means++", np.random.default_rng(1))
    (ours,) = in_turn(em_pass(plan, theta), seconds=5.0)
    rules = ", ".join(dict.fromkeys(block.rule for block in plan.blocks))
    return 1e6 * ours.seconds, f"{plan.densities:,} densities; M-step: {rules}"


ROWS = (
    Limit(
        "memory", "peak memory of a pass, GMM full 1e7 × 8, K = 8, rows as a source", "× the data", 1.3,
        partial(memory, 10**7, 8, 8),
    ),
    Limit(
        "floor", "a pass beside the floor (bytes ÷ 16 GB/s, flops ÷ 102 GF/s), GMM full 1e6 × 8, K = 8", "×", 3.0,
        partial(floor, 10**6, 8, 8),
    ),
    Limit("start-up", "process start to printed result of `emppl fit coins`, beyond `import pymc`", "s", 1.0, start_up),
    Limit("small-coins", "an EM iteration of the coins", "µs", 50.0, partial(iteration, coins, "map")),
    Limit(
        "small-old-faithful", "an EM iteration of Old Faithful, K = 2, full, maximum likelihood", "µs", 200.0,
        partial(iteration, gaussian_mixture, "ml"),
    ),
    Limit(
        "small-numeric", "the same with the priors: a numeric M-step", "µs", None,
        partial(iteration, gaussian_mixture, "map"),
    ),
)  # fmt: skip
