"""Run rows of the benchmark and print them as markdown; progress goes to standard error."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="rows whose names begin so; all if none is given")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of rows of the data (default 1)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="at most so many, on both sides")
    parser.add_argument("--seconds", type=float, default=20.0, help="for the rounds of one row; three run at least")
    asked = parser.parse_args()
    for pool in ("OMP", "OPENBLAS", "MKL", "NUMBA"):  # read when these libraries are loaded, which is below
        os.environ[f"{pool}_NUM_THREADS"] = str(asked.threads)
    from . import rows, table
    from .cases import Limit, Race

    chosen = [r for r in rows.ROWS if not asked.names or r.name.startswith(tuple(asked.names))]
    if asked.list or not chosen:
        print("\n".join(f"{r.name:24} {r.work}" for r in rows.ROWS))
        return 0 if asked.list else 2
    print("\n".join(table.machine(asked.threads)), flush=True)
    if asked.scale != 1.0:
        print(f"Scale: {asked.scale:g} of the numbers of rows named; the bars are meant for 1.")
    failed = False
    for kind, head in ((Race, table.PAIR_HEAD), (Limit, table.LIMIT_HEAD)):
        group: list[Any] = [r for r in chosen if isinstance(r, kind)]
        if group:
            print(f"\n{table.head(head)}", flush=True)
        for row in group:
            print(f"{row.name} …", file=sys.stderr, flush=True)
            try:
                print(rows.run(row, asked.scale, asked.seconds), flush=True)
            except Exception as problem:  # one row that fails must not cost the others
                failed = True
                traceback.print_exc()
                print(rows.failed(row, f"FAILED: {type(problem).__name__}: {problem}"), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
