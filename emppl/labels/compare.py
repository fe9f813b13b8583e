"""Relabelling methods side by side on the same draws."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from emppl.errors import EmpplError, InvalidArgumentError
from emppl.kernels.assignment import aligned_to, share_equal
from emppl.labels.align import Choice, choose, swappable
from emppl.labels.draws import shape_of
from emppl.labels.material import Alignment, Material
from emppl.labels.methods import METHODS, named
from emppl.labels.methods.iterative import divergence
from emppl.labels.methods.parameters import real_line
from emppl.labels.methods.table import wanted
from emppl.labels.subject import material, pivots_of, subject
from emppl.portable import Portable
from emppl.structure.symmetry import axes_of
from emppl.text import visible

COLUMNS = ("agree", "objective", "spread", "clusters", "ambiguous", "seconds", "status", "note")


@dataclass(frozen=True, eq=False, repr=False)
class MethodComparison(Portable):
    """Methods of relabelling side by side. Made by `emppl.compare_methods`.

    `table`, a row a method, the least objective first: `agree`, share of draws with the same permutation as in that
    row, after the best relabelling of all draws alike; `objective`, the same for all methods and named by
    `measure`, the less the better; `spread`, variance of the parameters within labels, 1 if the labels said nothing;
    `clusters`, share of units whose most probable component is that of the first row; `ambiguous`, share of draws whose
    margin is under a tenth of the reference's; `seconds`; `status` and `note`, how it ended. `agreement` and
    `clustering`: `agree` and `clusters` for every pair of methods. `permutations` [chain, draw, K] by method, all under
    the first row's names, and `best_clusters` [n]. `skipped`: method -> what it needs. `auto`: what method="auto" takes
    at first sight, and why.
    """

    latent: str
    table: pd.DataFrame
    measure: str
    agreement: pd.DataFrame
    clustering: pd.DataFrame
    permutations: dict[str, np.ndarray] = field(repr=False)
    best_clusters: dict[str, np.ndarray] = field(repr=False)
    skipped: dict[str, str] = field(repr=False)
    auto: Choice

    def __repr__(self) -> str:
        best = self.table.index[0] if len(self.table) else "none"
        return f"MethodComparison({self.latent}: {len(self.table)} methods, least objective by {best})"

    def __str__(self) -> str:
        shown = self.table.drop(columns="note")
        for name, form in (("agree", "{:.1%}"), ("clusters", "{:.1%}"), ("ambiguous", "{:.1%}"), ("spread", "{:.4f}")):
            shown[name] = [form.format(value) if value == value else "" for value in shown[name]]
        shown["objective"] = [f"{value:.2f}" if value == value else "" for value in shown["objective"]]
        shown["seconds"] = [f"{value:.3g}" for value in shown["seconds"]]
        lines = [f"{self.latent}: methods of relabelling; objective: {self.measure}", "", shown.to_string()]
        lines += ["", f'method="auto" takes {self.auto.method}: {self.auto.why}']
        notes = {name: note for name, note in self.table["note"].items() if note}
        lines += ["", *(f"{name}: {note}" for name, note in notes.items())]
        lines += [f"not run: {name} ({why})" for name, why in self.skipped.items()]
        return visible("\n".join(lines))


def compare_methods(
    draws: xr.DataTree,
    to: Any = None,
    methods: Sequence[str] | None = None,
    model: Any = None,
    *,
    axis: str | None = None,
    component_dims: Any = None,
    responsibilities: str | Sequence[str | None] | None = None,
    allocations: str | Sequence[str | None] | None = None,
    by: str | None = None,
    permutations: Any = None,
) -> MethodComparison:
    """Every method of relabelling on the same draws: how far they agree, how well they align, what they cost.

    `methods`: names (default: all that can be run with what there is). `axis`: latent (or dim) of one component axis,
    where there are several; the first is taken otherwise. Other arguments as in `emppl.relabel`.
    Raises InvalidArgumentError where no components can be renamed, or a method is not known.
    """
    plan, point, theta = subject(draws, to, model, component_dims, responsibilities, allocations)
    chosen = _axis(plan, axis)
    pivots = pivots_of(draws, plan, point, theta)
    matter = material(draws, plan, chosen, point, theta, pivots, swappable(chosen), permutations, by)
    return side_by_side(matter, methods, chosen.latent, shape_of(draws), tuple(map(str, chosen.labels)))


def side_by_side(
    matter: Material, methods: Sequence[str] | None = None, latent: str = "component",
    shape: tuple[int, int] | None = None, labels: tuple[str, ...] = (),
) -> MethodComparison:  # fmt: skip
    """The same for plain arrays: what methods read in a `Material`. shape: chains and draws, one chain by default."""
    shape = (1, matter.n_draws) if shape is None else shape
    rows = [METHODS[name] for name in METHODS] if methods is None else [named(name) for name in methods]
    found: dict[str, Alignment] = {}
    seconds, skipped = {}, {}
    if matter.chunks is not None or matter.allocations is not None:
        _warm(matter)
    for row in rows:
        missing = row.missing(matter)
        if missing and methods is None:
            if row.name != "permutations":
                skipped[row.name] = f"needs {wanted(missing)}"
            continue
        began = perf_counter()
        try:
            found[row.name] = row(matter)
        except EmpplError as problem:
            if methods is not None:
                raise
            skipped[row.name] = problem.what
            continue
        seconds[row.name] = perf_counter() - began
    if not found:
        raise InvalidArgumentError(
            "none of the methods can be run on these draws",
            "the argument `methods`",
            tuple(f"{name} {why}" for name, why in skipped.items()),
        )
    return _compared(matter, found, seconds, skipped, latent, shape, labels)


def _axis(plan: Any, wanted: str | None) -> Any:
    movable = [axis for axis in axes_of(plan) if swappable(axis)]
    if not movable:
        raise InvalidArgumentError(
            "no components of this model can be renamed, so there is nothing to relabel",
            "the model",
            ("print(emppl.plan(model)) says which components are told apart, and by what",),
        )
    if wanted is None:
        return movable[0]
    for axis in movable:
        if wanted in (axis.latent, axis.dim):
            return axis
    raise InvalidArgumentError(
        f'no component axis is called "{wanted}"',
        "the argument `axis`",
        tuple(f'axis="{axis.latent}"' for axis in movable),
    )


def _warm(matter: Material) -> None:
    """Read what all methods share, so that the first one does not pay for it."""
    if matter.units.streamed:
        return
    for _ in matter.units.blocks("z" if matter.chunks is None else "p"):
        pass
    if matter.chunks is not None:
        for _ in matter.units.blocks("z"):
            pass
        for _ in matter.units.blocks("p", "z"):
            pass


def _compared(
    matter: Material, found: dict[str, Alignment], seconds: dict[str, float], skipped: dict[str, str], latent: str,
    shape: tuple[int, int], labels: tuple[str, ...],
) -> MethodComparison:  # fmt: skip
    names = list(found)
    perms = np.stack([found[name].permutations for name in names])
    values, measure, means = _objectives(matter, perms)
    order = sorted(
        range(len(names)), key=lambda i: (round(float(values[i]), 6), i)
    )  # equal to rounding: as in the table
    first = perms[order[0]]
    aligned = {names[i]: aligned_to(perms[i], first, matter.groups) for i in order}
    clusters = _clusters(matter, means, names, order, found, aligned)
    rows = {}
    for i in order:
        name = names[i]
        mine = clusters.get(name)
        rows[name] = (
            share_equal(perms[i], first, matter.groups), values[i], _spread(matter, aligned[name]),
            float("nan") if mine is None else float((mine == clusters[names[order[0]]]).mean()),
            float((found[name].margins < 0.1).mean()), seconds[name], found[name].status, found[name].note,
        )  # fmt: skip
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS))
    table.index.name = "method"
    ordered = [names[i] for i in order]
    agreement = _pairs(ordered, lambda a, b: share_equal(found[a].permutations, found[b].permutations, matter.groups))
    chosen = choose(matter, labels)
    known = [name for name in ordered if name in clusters]
    clustering = _pairs(known, lambda a, b: float((clusters[a] == clusters[b]).mean()))
    return MethodComparison(
        latent, table, measure, agreement, clustering,
        {name: own.reshape(*shape, -1) for name, own in aligned.items()}, clusters, skipped, chosen,
    )  # fmt: skip


def _pairs(names: list[str], share: Any) -> pd.DataFrame:
    cells = np.eye(len(names))
    for a in range(len(names)):
        for b in range(a):
            cells[a, b] = cells[b, a] = share(names[a], names[b])
    return pd.DataFrame(cells, index=names, columns=names)


def _objectives(matter: Material, perms: np.ndarray) -> tuple[np.ndarray, str, np.ndarray | None]:
    """One objective for all methods, what it is, and the mean membership [S, n, K] after each of them."""
    if matter.chunks is not None:
        units = matter.units.fewer
        means = units.sums(perms, "p") / matter.n_draws
        note = f" ({units.n_units} of the units)" if units is not matter.units else ""
        return (
            divergence(units, perms),
            f"Kullback–Leibler divergence of the draws from their mean, in nats{note}",
            means,
        )
    if matter.allocations is not None:
        means = matter.units.sums(perms, "z") / matter.n_draws
        unlike = matter.n_draws * (matter.n_units - means.max(axis=2).sum(axis=1))
        return unlike, "allocations that differ from the commonest of their unit", means
    assert matter.components is not None
    x = real_line(np.asarray(matter.components, dtype=float))(matter.components)
    values = []
    for own in perms:
        moved = np.take_along_axis(x, own[:, :, None], axis=1)
        values.append(matter.n_draws * 2.0 * float(np.log(np.maximum(moved.std(axis=0), 1e-3)).sum()))
    return np.array(values), "minus twice the normal log-likelihood of the parameters, constants left out", None


def _clusters(
    matter: Material, means: np.ndarray | None, names: list[str], order: list[int], found: dict[str, Alignment],
    aligned: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:  # fmt: skip
    """The most probable component of each unit by each method, under the names of the first."""
    if means is None:
        return {}
    best = {}
    for i in order:
        name = names[i]
        old = found[name].permutations[0]
        new = np.argsort(old)[aligned[name][0]]  # what the names of all draws alike were turned by
        best[name] = means[i][:, new].argmax(axis=1)
    return best


def _spread(matter: Material, perms: np.ndarray) -> float:
    """Mean variance within labels of the parameters on the real line, in that of all labels together."""
    if matter.components is None:
        return float("nan")
    x = real_line(np.asarray(matter.components, dtype=float))(matter.components)
    return float(np.take_along_axis(x, perms[:, :, None], axis=1).var(axis=0).mean()) if x.shape[2] else float("nan")
