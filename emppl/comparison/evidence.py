"""What a verdict is, what it may look at, and the table of all of them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray as xr

from emppl.ascent.atlas import Atlas
from emppl.labels.diagnose import LabelState, SwitchingReport
from emppl.labels.draws import Theta

if TYPE_CHECKING:
    from emppl.comparison.mixing import Mixing

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
    same for prior against posterior. prediction: LOO of all chains, and of groups of chains that do not mix. mixing:
    whether the draws of all chains are one sample, on which alone a finding may rest.
    """

    fit: Any
    draws: xr.DataTree
    table: pd.DataFrame
    details: pd.DataFrame
    switching: SwitchingReport
    members: Mapping[str, xr.Dataset]
    heights: Heights
    mixing: "Mixing"
    atlas: Atlas | None = None
    better: Any = None
    laplace: pd.DataFrame | None = None
    priors: pd.DataFrame | None = None
    prediction: Any = None


Judge = Callable[[Evidence], Verdict | None]
VERDICTS: list[Judge] = []


def verdict(function: Judge) -> Judge:
    """Enter a verdict in the table. It returns None where it does not apply."""
    VERDICTS.append(function)
    return function


def pooled(function: Judge) -> Judge:
    """A verdict that rests on the draws of all chains together: None where they are no sample of one distribution."""

    @wraps(function)
    def judge(evidence: Evidence) -> Verdict | None:
        return function(evidence) if evidence.mixing.holds else None

    return judge


def judge(evidence: Evidence) -> tuple[Verdict, ...]:
    """All verdicts: failed checks first, then differences between mode and posterior, then what holds."""
    return in_order([result for function in VERDICTS if (result := function(evidence)) is not None])


def in_order(found: Iterable[Verdict]) -> tuple[Verdict, ...]:
    """Verdicts as they are told, with a minus before negative numbers."""
    place = {name: number for number, name in enumerate(ORDER)}
    told = [replace(v, text=HYPHEN_FOR_MINUS.sub("−", v.text)) for v in found]
    return tuple(sorted(told, key=lambda v: (v.holds, not v.check, place.get(v.name, len(place)))))


def free_rows(evidence: Evidence) -> pd.DataFrame:
    """Rows of the second table that are parameters, move, and mean the same in every draw.

    Parameters of components that overlap too far to be told apart do not: their names are arbitrary.
    """
    rows = evidence.details
    kept = ~rows["derived"].astype(bool) & ~rows["constant"].astype(bool)
    return rows[kept & ~rows["variable"].isin(unnameable(evidence.switching))]


def unnameable(switching: SwitchingReport) -> set[str]:
    """Variables and latents of components that overlap so far that which of them is which cannot be told."""
    if switching.state is not LabelState.OVERLAPPING:
        return set()
    axes = [axis for axis in switching.axes if not axis.weak]
    return {name for axis in axes for name in (*axis.variables, axis.latent)}


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
    return in_words(names)


def in_words(parts: Sequence[str]) -> str:
    """ "a, b and c", all of them."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
