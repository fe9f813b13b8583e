"""Diagnosis of label switching: of which variables, within or between chains, and whether alignment cures it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from emppl.kernels.assignment import Groups
from emppl.labels.align import AxisAlignment, align, swappable
from emppl.labels.draws import Theta, convergence, posterior_of, shape_of
from emppl.labels.invariants import invariants
from emppl.labels.permute import permuted
from emppl.labels.subject import pivots_of, subject
from emppl.labels.switching import (
    AMBIGUOUS_MARGIN,
    AMBIGUOUS_SHARE,
    R_HAT_ALIGNED,
    AxisSwitching,
    LabelState,
    SwitchingReport,
    largest,
)
from emppl.labels.verdict import sentence_of, state_of

__all__ = [
    "AMBIGUOUS_MARGIN", "AMBIGUOUS_SHARE", "R_HAT_ALIGNED", "AxisSwitching", "LabelState", "SwitchingReport",
    "diagnose", "element_names", "examine",
]  # fmt: skip


def diagnose(
    draws: xr.DataTree,
    model_or_fit: Any = None,
    *,
    method: str = "auto",
    component_dims: Any = None,
    responsibilities: str | Sequence[str | None] | None = None,
    allocations: str | Sequence[str | None] | None = None,
) -> SwitchingReport:
    """Label switching in draws: is there any, within or between chains, and does alignment cure it.

    `model_or_fit`: a Fit (draws are compared with its labels), or a pm.Model or Plan (with the highest draw's). Draws
    of anything else: `component_dims` and what goes with it, as in `emppl.relabel`. `method`: how draws are aligned.
    Raises InvalidArgumentError without either, and for draws of another model.
    """
    fit = model_or_fit if hasattr(model_or_fit, "point") else None
    model = None if fit is not None else model_or_fit
    plan, point, theta = subject(draws, fit, model, component_dims, responsibilities, allocations)
    return examine(draws, plan, point, theta, method, "the fit" if fit is not None else "the highest draw")[0]


def examine(
    draws: xr.DataTree, plan: Any, point: Theta, theta: Theta, method: str = "auto", named: str = "the fit"
) -> tuple[SwitchingReport, xr.DataTree]:
    """Diagnosis and aligned draws in one pass over the responsibilities; arguments as `reference` returns them.

    `named`: what the reference is called in the verdict. Where "auto" aligned the draws to the reference, chains agree
    in all that no renaming changes, and R-hat is still high, Stephens' method is tried, and kept if R-hat falls.
    """
    pivots = pivots_of(draws, plan, point, theta)
    strong = align(draws, plan, pivots, theta, method, point=point)
    weak = align(draws, plan, pivots, theta, method, groups=_broken_by_prior, point=point)
    unchanged = invariants(draws, plan, strong, theta)
    aligned, r_hat = _aligned(draws, plan, strong, weak, theta)
    doubtful = largest(r_hat["r_hat_after"]) > R_HAT_ALIGNED >= largest(unchanged["r_hat"])
    if method == "auto" and doubtful and any(found.method == "responsibilities" for found in strong):
        again = align(draws, plan, pivots, theta, "STEPHENS", point=point)
        other, table = _aligned(draws, plan, again, weak, theta)
        if largest(table["r_hat_after"]) < largest(r_hat["r_hat_after"]):
            strong, aligned, r_hat = again, other, table
    chains, length = shape_of(draws)
    axes = tuple(_switching(found, chains, length, False) for found in strong)
    axes += tuple(_switching(found, chains, length, True) for found in weak)
    state = state_of(axes, r_hat, unchanged)
    verdict = sentence_of(state, axes, r_hat, unchanged, plan, chains, named)
    report = SwitchingReport(axes, r_hat, state, verdict, chains, length, unchanged, _caveat(strong, named))
    return report, aligned


def _aligned(
    draws: xr.DataTree, plan: Any, strong: tuple[AxisAlignment, ...], weak: tuple[AxisAlignment, ...], theta: Theta
) -> tuple[xr.DataTree, pd.DataFrame]:
    aligned = permuted(draws, plan, strong, theta)
    carriers = list(dict.fromkeys(name for found in (*strong, *weak) for name in found.axis.variables))
    return aligned, _r_hat_table(draws, aligned, carriers, plan)


def _caveat(strong: tuple[AxisAlignment, ...], named: str) -> str:
    """That the reference's own components are not distinct, where the draws' are."""
    for found in strong:
        if found.distinct and found.reference_distance < found.distance and found.method == "STEPHENS":
            pair = " and ".join(str(found.axis.labels[k]) for k in found.reference_closest)
            return (
                f"components {pair} of {named} hold the same members (distance {found.reference_distance:.3f} on a "
                "scale of 0 to 1), so which of the draws' components is which of those is arbitrary"
            )
    return ""


def _broken_by_prior(axis: Any) -> Groups:
    """All components, where the likelihood is blind to the names and only the prior tells them apart."""
    blind = axis.symmetric_likelihood and not swappable(axis) and not axis.ordered
    return (tuple(range(axis.size)),) if blind else ()


def _switching(found: AxisAlignment, chains: int, length: int, weak: bool) -> AxisSwitching:
    axis = found.axis
    return AxisSwitching(
        latent=axis.latent,
        dim=axis.dim,
        labels=tuple(map(str, axis.labels)),
        variables=tuple(axis.variables),
        exchangeable=found.groups,
        permutations=found.permutations.reshape(chains, length, axis.size),
        margins=found.margins.reshape(chains, length),
        distance=found.distance,
        closest=found.closest,
        distinct=found.distinct,
        weak=weak,
        method=found.method,
        why=found.why,
        occupied=None if found.occupied is None else found.occupied.reshape(chains, length),
        sentence=axis.sentence() if hasattr(axis, "sentence") else "",
        mean_distance=found.mean_distance,
    )


def element_names(name: str, shape: tuple[int, ...], dims: tuple[str, ...], coords: Any) -> list[str]:
    """ "bias[A]", "mu[A, eruptions]", "sigma": one name for each element, row by row."""
    if not shape:
        return [name]
    values = [coords[dim] if dim in coords else range(size) for dim, size in zip(dims, shape, strict=True)]
    labels = [[str(value) for value in np.asarray(axis)] for axis in values]
    return [f"{name}[{', '.join(labels[d][i] for d, i in enumerate(index))}]" for index in np.ndindex(*shape)]


def _r_hat_table(before: xr.DataTree, after: xr.DataTree, variables: list[str], plan: Any) -> pd.DataFrame:
    records = {parameter.name: parameter for parameter in plan.structure.parameters}
    rows, index = [], []
    raw, aligned = posterior_of(before), posterior_of(after)
    for name in variables:
        if name not in raw:  # frozen, so not in the draws
            continue
        columns = [
            part.ravel()
            for tree in (raw, aligned)
            for part in convergence(tree[name].transpose("chain", "draw", ...).values)
        ]
        parameter = records[name]
        index += element_names(name, tuple(parameter.shape), tuple(parameter.dims), plan.structure.coords)
        rows += [(name, r0, r1, e0, e1) for r0, e0, r1, e1 in zip(*columns, strict=True)]
    names = ["variable", "r_hat_before", "r_hat_after", "ess_before", "ess_after"]
    return pd.DataFrame(rows, index=pd.Index(index, dtype=object), columns=names)
