"""What a verdict is, what it may look at, and the table of all of them."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import xarray as xr

from emppl.ascent.atlas import Atlas
from emppl.labels.diagnose import SwitchingReport
from emppl.labels.draws import Theta

NAMED = 3  # items named in a sentence
AT_LEAST = "at least"
HYPHEN_FOR_MINUS = re.compile(r"(?<![\w.,\]-])-(?=\d)")
# verdicts are told in this order, after those that fail
ORDER = (
    "modes", "fit", "certificate", "labels", "convergence", "other modes", "stacking", "place", "shape", "laplace",
    "scale", "priors", "ordering", "components", "members", "loo", "precision", "divergences",
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """One statement about fit and draws.

    `value` is the number it rests on, `measure` says of what, and it holds while that is `bound` ("at most" or "at
    least") the `limit`. `check` is True where a failure means that a result cannot be relied on, False where it says
    that mode and posterior differ, which they may do rightly. `advice`: what to do next, empty when it holds.
    """

    name: str
    value: float
    limit: float
    holds: bool
    text: str
    measure: str
    check: bool
    advice: str = ""
    bound: str = "at most"


@dataclass(frozen=True)
class Heights:
    """Objective of EM against that of draws, on EM's own scale: gap = best draw - EM, in nats."""

    gap: float
    evaluated: int
    best: Theta
    of: str  # "log posterior" | "log-likelihood"


@dataclass(frozen=True)
class Evidence:
    """All that a verdict may look at; None where it could not be had (a fit without a model, draws without a group).

    atlas: the modes that EM reaches from thinned draws; `atlas.known[0]` is the fit's own. better: the fit that goes on
    from a higher point, where one was found. laplace: a row for each number (see `Comparison.laplace`). priors: the
    same for prior against posterior. prediction: LOO of all chains, and of groups of chains that do not mix.
    """

    fit: Any
    draws: xr.DataTree
    table: pd.DataFrame
    details: pd.DataFrame
    switching: SwitchingReport
    members: Mapping[str, xr.Dataset]
    heights: Heights
    atlas: Atlas | None = None
    better: Any = None
    laplace: pd.DataFrame | None = None
    priors: pd.DataFrame | None = None
    prediction: Any = None


VERDICTS: list[Callable[[Evidence], Verdict | None]] = []


def verdict(function: Callable[[Evidence], Verdict | None]) -> Callable[[Evidence], Verdict | None]:
    """Enter a verdict in the table. It returns None where it does not apply."""
    VERDICTS.append(function)
    return function


def judge(evidence: Evidence) -> tuple[Verdict, ...]:
    """All verdicts: failed checks first, then differences between mode and posterior, then what holds."""
    return in_order([result for function in VERDICTS if (result := function(evidence)) is not None])


def in_order(found: Iterable[Verdict]) -> tuple[Verdict, ...]:
    """Verdicts as they are told, with a minus before negative numbers."""
    place = {name: number for number, name in enumerate(ORDER)}
    told = [replace(v, text=HYPHEN_FOR_MINUS.sub("−", v.text)) for v in found]
    return tuple(sorted(told, key=lambda v: (v.holds, not v.check, place.get(v.name, len(place)))))


def free_rows(evidence: Evidence) -> pd.DataFrame:
    """Rows of the second table that are parameters and move."""
    rows = evidence.details
    return rows[~rows["derived"].astype(bool) & ~rows["constant"].astype(bool)]


def is_degenerate(fit: Any) -> bool:
    """Whether the fit ran off to where its objective grows without bound: its point is then no estimate of anything."""
    return status_name(fit.status) == "DEGENERATE"


def status_name(status: Any) -> str:
    """Name of a status, whether it is stored as the Enum or as text."""
    return getattr(status, "name", str(status))


def listed(names: Any) -> str:
    """ "a, b and c", or the first few "and 7 more"."""
    names = [str(name) for name in names]
    if len(names) > NAMED + 1:
        return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
