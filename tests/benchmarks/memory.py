"""python -m tests.benchmarks.memory N D K: memory of planning and of a pass, each by itself, as one line of JSON.

In units of the data, beyond what the process held before the data were made.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

import emppl
from emppl.streaming import streamed

from .data import Gaussians, gaussians
from .mixtures import by_cholesky, cholesky_theta

STATUS = Path("/proc/self/status")


def held(line: str) -> int:
    """Bytes of resident memory: VmRSS now, VmHWM at most since the last reset."""
    (value,) = (row.split()[1] for row in STATUS.read_text().splitlines() if row.startswith(f"{line}:"))
    return 1024 * int(value)


def reset_peak() -> bool:
    """Let VmHWM begin anew; whether the system lets us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def spare_the_machine() -> None:
    """A MemoryError here rather than a process of somebody else's ended."""
    (available,) = (row.split()[1] for row in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in row)
    mapped = 1024 * int(next(row.split()[1] for row in STATUS.read_text().splitlines() if row.startswith("VmSize:")))
    limit = mapped + int(0.9 * 1024 * int(available))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def planned(data: Gaussians) -> tuple[emppl.Plan, float]:
    """The plan of a model of the first rows whose others are a source, and the seconds that it took."""
    began = time.perf_counter()
    model = by_cholesky(data.y[:1000], len(data.weights), as_data=True)
    plan = streamed(model, {"rows": data.y}, seed=1, estimate="ml")
    return plan, time.perf_counter() - began


def main(n: int, d: int, k: int) -> None:
    small = gaussians(1000, d, k)
    theta = cholesky_theta(small)
    plan, _ = planned(small)
    plan.m_step(theta, plan.e_step(theta))  # what is imported and compiled once is no part of a pass
    spare_the_machine()
    before = held("VmRSS")
    repeats = -(-n // 1000)
    y = np.empty((n, d))
    rng = np.random.default_rng(1)
    for block in range(repeats):  # in blocks, so that making the data leaves no peak
        rows = y[block * 1000 : (block + 1) * 1000]
        rows[:] = small.y[: len(rows)] + 0.1 * rng.standard_normal(rows.shape)
    plan, planning = planned(small._replace(y=y))
    at_most = held("VmHWM")
    gc.collect()
    was_reset = reset_peak()
    began = time.perf_counter()
    plan.m_step(theta, plan.e_step(theta))
    seconds = time.perf_counter() - began
    seen = {
        "bytes": y.nbytes, "planning": (at_most - before) / y.nbytes, "pass": (held("VmHWM") - before) / y.nbytes,
        "planning_seconds": planning, "seconds": seconds, "reset": was_reset,
    }  # fmt: skip
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
