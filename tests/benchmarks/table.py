"""Rows → markdown, with the machine and the versions that they were measured with."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from .cases import Limit, Pair, Race
from .timing import Timing

AGREES = 1e-8
PACKAGES = ("emppl", "numpy", "scipy", "numba", "pymc", "pytensor", "nutpie", "scikit-learn", "pymc-extras")
PAIR_HEAD = (
    "work", "against", "ours", "theirs", "ratio", "bar", "cores busy, ours / theirs", "largest difference", "notes"
)  # fmt: skip
LIMIT_HEAD = ("work", "measured", "bar", "notes")


def machine(threads: int) -> list[str]:
    """Processor, threads and versions, a line each."""
    pools = {
        f"{pool['internal_api']} {pool['version'] or ''}".strip(): pool["num_threads"] for pool in threadpool_info()
    }
    pools_text = ", ".join(f"{name}: {number}" for name, number in pools.items())
    versions = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"{name} not installed")
    return [
        f"Machine: {_processor()}, {os.cpu_count()} cores, {platform.system()}.",
        f"Threads: at most {threads} on both sides ({pools_text}); the cores kept busy are measured (processor time ÷ "
        "wall-clock time).",
        f"Versions: {', '.join(versions)}; {_r_versions()}.",
        "Times are medians of rounds ours, theirs, ours, theirs, …; ratio = theirs ÷ ours. Planning is no part of a "
        "pass. Differences are relative, results of both sides at the same parameters.",
    ]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _r_versions() -> str:
    if shutil.which("Rscript") is None:
        return "R not installed"
    ask = (
        'cat(paste0(", R ", getRversion(), ", BLAS of R ", basename(extSoftVersion()["BLAS"]))); '
        'for (p in c("mclust", "flexmix")) cat(",", p, tryCatch(as.character(packageVersion(p)), '
        'error = function(e) "not installed"))'
    )
    return subprocess.run(["Rscript", "-e", ask], capture_output=True, text=True, check=True).stdout.strip(", ")


def row(*cells: Any) -> str:
    """One line of a table."""
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def head(names: tuple[str, ...]) -> str:
    """The first two lines of a table."""
    return f"{row(*names)}\n{row(*('---' for _ in names))}"


def seconds(value: float) -> str:
    """A time with three digits, in the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def pair_row(race: Race, pair: Pair, ours: Timing, theirs: Timing) -> str:
    """A pair's line; what misses its bar or does not agree is in bold."""
    ratio = theirs.seconds / ours.seconds
    agrees = pair.difference is None or pair.difference <= AGREES
    difference = "–" if pair.difference is None else _bold(f"{pair.difference:.1e}", agrees)
    missed = race.bar is not None and ratio < race.bar
    return row(
        race.work, race.against, seconds(ours.seconds), seconds(theirs.seconds), _bold(f"{ratio:.3g}", not missed),
        "–" if race.bar is None else f"≥ {race.bar:g}", f"{ours.cores:.1f} / {theirs.cores:.1f}", difference, pair.note,
    )  # fmt: skip


def limit_row(limit: Limit, value: float, note: str) -> str:
    """A limit's line; what passes its bar is in bold."""
    missed = limit.bar is not None and value > limit.bar
    bar = "–" if limit.bar is None else f"≤ {limit.bar:g} {limit.unit}".strip()
    return row(limit.work, _bold(f"{value:.3g} {limit.unit}".strip(), not missed), bar, note)


def _bold(text: str, plain: bool) -> str:
    return text if plain else f"**{text}**"
