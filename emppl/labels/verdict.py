"""From numbers to one state and one sentence."""

from typing import Any

import numpy as np
import pandas as pd

from emppl.labels.align import TO_MEMBERS
from emppl.labels.switching import AMBIGUOUS_SHARE, BLURRED, R_HAT_ALIGNED, AxisSwitching, LabelState, largest
from emppl.limits import as_printed
from emppl.structure.symmetry import axes_of


def state_of(axes: tuple[AxisSwitching, ...], r_hat: pd.DataFrame, invariants: pd.DataFrame) -> LabelState:
    """One state for all axes, the most serious first.

    Truly different modes show in what no renaming changes: chains that never meet there. Where chains meet and many
    draws could be labelled either way, or only the aligned draws disagree, the components overlap.
    """
    strong = [axis for axis in axes if not axis.weak]
    if not strong:
        return LabelState.NO_SYMMETRY
    unmixed = _is_high(largest(invariants["r_hat"]))
    if unmixed and invariants["apart"].any():
        return LabelState.DIFFERENT_MODES
    if any(_is_often(axis.ambiguous.mean()) or not axis.distinct or axis.mean_distance < BLURRED for axis in strong):
        return LabelState.OVERLAPPING
    if unmixed or _is_high(largest(r_hat["r_hat_after"])):
        return LabelState.DIFFERENT_MODES if unmixed or not len(invariants) else LabelState.OVERLAPPING
    if any(axis.clear_switches.any() for axis in strong):
        return LabelState.WITHIN_CHAINS
    if any(len(np.unique(axis.chain_labellings, axis=0)) > 1 for axis in strong):
        return LabelState.BETWEEN_CHAINS
    return LabelState.NO_SWITCHING


def sentence_of(
    state: LabelState, axes: tuple[AxisSwitching, ...], r_hat: pd.DataFrame, invariants: pd.DataFrame, plan: Any,
    chains: int, named: str,
) -> str:  # fmt: skip
    """The state in one sentence, with the numbers that it rests on."""
    before, after = largest(r_hat["r_hat_before"]), largest(r_hat["r_hat_after"])
    if state is LabelState.NO_SYMMETRY:
        return _without_symmetry(axes, plan, before)
    strong = [axis for axis in axes if not axis.weak]
    share = max(axis.ambiguous.mean() for axis in strong)
    change = f"R-hat {_short(before)} → {_short(after)} after alignment"
    if state is LabelState.NO_SWITCHING:
        return f"no switching: every chain names the components alike; R-hat {_short(after)}"
    if state is LabelState.BETWEEN_CHAINS:
        return f"chains settled in different labellings ({_who_differs(strong, chains, named)}); {change}"
    if state is LabelState.WITHIN_CHAINS:
        counts = ", ".join(map(str, np.sum([axis.clear_switches for axis in strong], axis=0)))
        if not _is_high(before):
            change += ", low before too since every chain visits the same namings: unaligned means would mix the names"
        return f"labels switch within chains ({counts} switches by chain); {change}"
    agree = _agreement(invariants)
    slow = _is_high(largest(invariants["r_hat"]))
    unmixed = f"; chains have not mixed either: {agree}, which no renaming changes" if slow else ""
    if state is LabelState.DIFFERENT_MODES:
        seen = f": {agree}, which no renaming changes;" if agree else ":"
        apart = bool(invariants["apart"].any())
        so = "so they sit in different modes" if apart else "so they move slowly between modes or have hardly moved"
        also = f"; besides, {share:.0%} of the draws could be labelled either way" if _is_often(share) else ""
        return (
            f"chains differ in more than the names of the components{seen} R-hat is {_short(after)} even after "
            f"alignment ({_short(before)} before), {so}{also}"
        )
    blurred = [axis for axis in strong if not axis.distinct]
    if blurred:
        axis = blurred[0]
        pair = " and ".join(axis.labels[k] for k in axis.closest)
        whose = named if axis.method in TO_MEMBERS else "the aligned draws"
        return (
            f"components {pair} of {whose} hold the same members (distance {axis.distance:.3f} on a scale of "
            f"0 to 1), so which of them is which cannot be told; {change}"
        )
    if _is_often(share):
        return f"components overlap: {share:.0%} of the draws could be labelled either way; {change}{unmixed}"
    axis = min(strong, key=lambda axis: axis.mean_distance if axis.mean_distance == axis.mean_distance else np.inf)
    if axis.mean_distance < BLURRED:
        return (
            "components overlap: over the aligned draws two of them share members (distance "
            f"{axis.mean_distance:.2f} on a scale of 0 to 1); {change}{unmixed}"
        )
    return f"components overlap: {change}, though chains agree in what no renaming changes ({agree})"


def _agreement(invariants: pd.DataFrame) -> str:
    """What no renaming changes, and by how much chains disagree in it: the quantity where they do most."""
    known = invariants["r_hat"].dropna()
    return "" if known.empty else f"R-hat of {known.idxmax()} is {_short(float(known.max()))}"


def _without_symmetry(axes: tuple[AxisSwitching, ...], plan: Any, before: float) -> str:
    ordered = [axis for axis in axes_of(plan) if axis.ordered]
    if not axes and ordered:
        return f"labels cannot switch: the model itself orders the components of {', '.join(ordered[0].variables)}"
    if not axes:
        return "labels do not switch: no renaming of components was found, by permuting the parameters or otherwise"
    weak = axes[0]
    labellings = len(np.unique(weak.chain_labellings, axis=0))
    text = f"the prior alone tells the components of {weak.noun} apart ({', '.join(weak.variables)}); "
    if labellings == 1:
        return text + "all chains agree on the names, and draws are left as they are"
    return text + (
        f"chains settled in {labellings} different labellings, which are here different modes of the posterior and "
        f"are left as they are; R-hat {_short(before)}"
    )


def _who_differs(axes: list[AxisSwitching], chains: int, named: str) -> str:
    for axis in axes:
        away = int((axis.chain_labellings != np.arange(axis.permutations.shape[-1])).any(axis=1).sum())
        if away and axis.permutations.shape[-1] == 2:
            return f"{away} of {chains} swapped"
        if away:
            return f"{away} of {chains} with other names than {named}"
    return f"of {chains} chains"


def _is_high(r_hat: float) -> bool:
    return bool(as_printed(r_hat, R_HAT_ALIGNED, 3) > R_HAT_ALIGNED)


def _is_often(share: float) -> bool:
    return bool(as_printed(float(share), AMBIGUOUS_SHARE, 2) > AMBIGUOUS_SHARE)


def _short(value: float) -> str:
    return (
        "unknown" if np.isnan(value) else f"{value:.1f}" if value >= 1.2 else f"{value:.3f}".rstrip("0").ljust(4, "0")
    )
