"""Diagnosis of label switching: of which variables, within or between chains, and whether alignment cures it."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from emppl.labels.draws import Theta, convergence, posterior_of, shape_of
from emppl.labels.relabel import AxisAlignment, Groups, align, permuted, plan_of, reference, swappable

R_HAT_ALIGNED = 1.1  # above this, what is left after alignment is neither names nor noise
AMBIGUOUS_MARGIN = 0.1  # of the reference's own margin: below it, another labelling fits the draw nearly as well
AMBIGUOUS_SHARE = 0.05  # of all draws


class LabelState(Enum):
    """What the draws say about the names of the components."""

    NO_SYMMETRY = "no components can be renamed without changing the model"
    NO_SWITCHING = "every draw names the components alike"
    BETWEEN_CHAINS = "chains settled in different labellings"
    WITHIN_CHAINS = "labels switch within chains"
    OVERLAPPING = "components overlap so far that many draws could be labelled either way"
    DIFFERENT_MODES = "chains differ in more than the names of the components"

    @property
    def cured(self) -> bool:
        """Whether aligned draws can be read component by component."""
        return self not in (LabelState.OVERLAPPING, LabelState.DIFFERENT_MODES)


@dataclass(frozen=True)
class AxisSwitching:
    """Switching along one component axis.

    permutations [chain, draw, K] (perm[..., j] = the draw's component that becomes component j of the reference),
    margins [chain, draw] (1: as clear as the reference, 0: a tie), `distance` of the two closest reference
    components `closest` (0 the same, 1 disjoint). `exchangeable`: groups of components whose names may be swapped.
    `weak` says that likelihood alone is symmetric: permutations are then for information, draws are not permuted.
    """

    latent: str
    dim: str | None
    labels: tuple[str, ...]
    variables: tuple[str, ...]
    exchangeable: Groups
    permutations: np.ndarray
    margins: np.ndarray
    distance: float
    closest: tuple[int, int]
    distinct: bool
    weak: bool

    @property
    def switches(self) -> np.ndarray:
        """Draws of each chain whose labelling differs from that of the draw before: [chain]."""
        return (self.permutations[:, 1:] != self.permutations[:, :-1]).any(axis=-1).sum(axis=1)

    @property
    def ambiguous(self) -> np.ndarray:
        """[chain, draw], True where another labelling fits nearly as well."""
        return self.margins < AMBIGUOUS_MARGIN

    @property
    def clear_switches(self) -> np.ndarray:
        """Switches of each chain when draws that could be labelled either way are passed over: [chain]."""
        counts = []
        for perms, unclear in zip(self.permutations, self.ambiguous, strict=True):
            clear = perms[~unclear]
            counts.append(int((clear[1:] != clear[:-1]).any(axis=-1).sum()))
        return np.array(counts)

    @property
    def chain_labellings(self) -> np.ndarray:
        """The commonest permutation of each chain: [chain, K]."""
        modes = []
        for perms in self.permutations:
            rows, counts = np.unique(perms, axis=0, return_counts=True)
            modes.append(rows[counts.argmax()])
        return np.stack(modes)

    @property
    def noun(self) -> str:
        """What one element of the axis is called: the model's dim, where the user named one."""
        return "component" if self.dim is None or "_dim_" in self.dim else self.dim


@dataclass(frozen=True)
class SwitchingReport:
    """Label switching in a set of draws: by axis, convergence before and after alignment, and a verdict in words.

    `r_hat`: table with a row for each element of a variable that carries a component axis, columns variable,
    r_hat_before, r_hat_after, ess_before, ess_after.
    """

    axes: tuple[AxisSwitching, ...]
    r_hat: pd.DataFrame
    state: LabelState
    verdict: str
    chains: int
    draws: int

    @property
    def symmetric(self) -> dict[str, tuple[str, ...]]:
        """Dim of each component axis (the latent's name where no dim is shared) and the variables that carry it."""
        return {axis.dim or axis.latent: axis.variables for axis in self.axes if not axis.weak}

    @property
    def permutations(self) -> np.ndarray:
        """[chain, draw, K] of the first axis; those of further axes are in `axes`. K is 0 without symmetry."""
        return self.axes[0].permutations if self.axes else np.empty((self.chains, self.draws, 0), dtype=int)

    @property
    def switches(self) -> np.ndarray:
        """Switches within each chain, all axes together: [chain]."""
        return sum((axis.switches for axis in self.axes), np.zeros(self.chains, dtype=int))

    @property
    def r_hat_before(self) -> float:
        """Largest R-hat of the variables that carry a component axis, as sampled (nan without symmetry)."""
        return _largest(self.r_hat["r_hat_before"])

    @property
    def r_hat_after(self) -> float:
        """The same after alignment."""
        return _largest(self.r_hat["r_hat_after"])

    @property
    def ambiguous(self) -> float:
        """Share of draws that could be labelled either way, on the axis where it is largest (0 without symmetry)."""
        return max((float(axis.ambiguous.mean()) for axis in self.axes if not axis.weak), default=0.0)

    def __repr__(self) -> str:
        return f"SwitchingReport({self.verdict})"

    def __str__(self) -> str:
        lines = [self.verdict]
        for axis in self.axes:
            lines.append(f"  {axis.noun} ({', '.join(axis.variables)}): switches by chain {axis.switches.tolist()}")
        if len(self.r_hat):
            lines += ["", self.r_hat.drop(columns="variable").round(3).to_string()]
        return "\n".join(lines)


def diagnose(draws: xr.DataTree, model_or_fit: Any = None) -> SwitchingReport:
    """Label switching in draws of a model: is there any, within or between chains, and does alignment cure it.

    `model_or_fit`: a Fit (draws are compared with its labels), or a pm.Model or Plan (with the highest draw's).
    Raises InvalidArgumentError without it, and for draws of another model.
    """
    if model_or_fit is not None and hasattr(model_or_fit, "point"):
        return examine(draws, *reference(draws, model_or_fit, None))[0]
    plan = None if model_or_fit is None else plan_of(model_or_fit)
    return examine(draws, *reference(draws, None, plan), named="the highest draw")[0]


def examine(
    draws: xr.DataTree, plan: Any, point: Theta, theta: Theta, method: str = "auto", named: str = "the fit"
) -> tuple[SwitchingReport, xr.DataTree]:
    """Diagnosis and aligned draws in one pass over the responsibilities; arguments as `reference` returns them.

    `named`: what the reference is called in the verdict.
    """
    pivots = plan.responsibilities(point)
    strong = align(draws, plan, pivots, theta, method)
    weak = align(draws, plan, pivots, theta, method, groups=_broken_by_prior)
    aligned = permuted(draws, plan, strong, theta)
    chains, length = shape_of(draws)
    axes = tuple(_switching(found, chains, length, False) for found in strong)
    axes += tuple(_switching(found, chains, length, True) for found in weak)
    carriers = list(dict.fromkeys(name for axis in axes for name in axis.variables))
    r_hat = _r_hat_table(draws, aligned, carriers, plan)
    state = _state(axes, r_hat)
    verdict = _verdict(state, axes, r_hat, plan, chains, named)
    return SwitchingReport(axes, r_hat, state, verdict, chains, length), aligned


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


def _largest(values: pd.Series) -> float:
    known = values.to_numpy(dtype=float)
    known = known[~np.isnan(known)]
    return float(known.max()) if known.size else float("nan")


def _state(axes: tuple[AxisSwitching, ...], r_hat: pd.DataFrame) -> LabelState:
    """One state for all axes, the most serious first."""
    strong = [axis for axis in axes if not axis.weak]
    if not strong:
        return LabelState.NO_SYMMETRY
    if any(axis.ambiguous.mean() > AMBIGUOUS_SHARE or not axis.distinct for axis in strong):
        return LabelState.OVERLAPPING
    if _largest(r_hat["r_hat_after"]) > R_HAT_ALIGNED:
        return LabelState.DIFFERENT_MODES
    if any(axis.clear_switches.any() for axis in strong):
        return LabelState.WITHIN_CHAINS
    if any(len(np.unique(axis.chain_labellings, axis=0)) > 1 for axis in strong):
        return LabelState.BETWEEN_CHAINS
    return LabelState.NO_SWITCHING


def _verdict(
    state: LabelState, axes: tuple[AxisSwitching, ...], r_hat: pd.DataFrame, plan: Any, chains: int, named: str
) -> str:
    before, after = _largest(r_hat["r_hat_before"]), _largest(r_hat["r_hat_after"])
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
        if before <= R_HAT_ALIGNED:
            change += ", low before too since every chain visits the same namings: unaligned means would mix the names"
        return f"labels switch within chains ({counts} switches by chain); {change}"
    if state is LabelState.DIFFERENT_MODES:
        return (
            f"chains differ in more than the names of the components: R-hat is {_short(after)} even after alignment "
            f"({_short(before)} before), so they sit in different modes or have hardly moved"
        )
    blurred = [axis for axis in strong if not axis.distinct]
    if blurred:
        axis = blurred[0]
        pair = " and ".join(axis.labels[k] for k in axis.closest)
        return (
            f"components {pair} of {named} hold the same members (distance {axis.distance:.3f} on a scale of "
            f"0 to 1), so which of them is which cannot be told; {change}"
        )
    return f"components overlap: {share:.0%} of the draws could be labelled either way; {change}"


def _without_symmetry(axes: tuple[AxisSwitching, ...], plan: Any, before: float) -> str:
    ordered = [axis for axis in plan.axes if axis.ordered]
    if not axes and ordered:
        return f"labels cannot switch: the model itself orders the components of {', '.join(ordered[0].variables)}"
    if not axes:
        return "labels cannot switch: no components of this model can be renamed"
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


def _short(value: float) -> str:
    return (
        "unknown" if np.isnan(value) else f"{value:.1f}" if value >= 1.1 else f"{value:.3f}".rstrip("0").ljust(4, "0")
    )
