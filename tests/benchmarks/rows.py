"""All rows, and how one of them is run."""

from __future__ import annotations

from . import against_labels, against_r, against_sklearn, gradient, limits, sampling, table, whole
from .cases import Limit, NotInstalled, Race
from .timing import in_turn

ROWS: tuple[Race | Limit, ...] = (
    *whole.ROWS, *against_sklearn.ROWS, *against_r.ROWS, *against_labels.ROWS, *gradient.ROWS, *sampling.ROWS,
    *limits.ROWS,
)  # fmt: skip


def run(row: Race | Limit, scale: float, seconds: float) -> str:
    """The row's line of the table."""
    try:
        if isinstance(row, Limit):
            return table.limit_row(row, *row.measure(scale))
        pair = row.make(scale)
    except NotInstalled as reason:
        return failed(row, f"not installed: {reason}")
    try:
        ours, theirs = in_turn(pair.ours, pair.theirs, seconds=seconds, warm=pair.warm, fewest=pair.fewest)
    finally:
        pair.close()
    return table.pair_row(row, pair, ours, theirs)


def failed(row: Race | Limit, text: str) -> str:
    """The line of a row that could not be measured."""
    text = " ".join(text.split()).replace("|", "/")
    if isinstance(row, Limit):
        return table.row(row.work, "–", "–" if row.bar is None else f"≤ {row.bar:g} {row.unit}".strip(), text)
    bar = "–" if row.bar is None else f"≥ {row.bar:g}"
    return table.row(row.work, row.against, "–", "–", "–", bar, "–", "–", text)
