"""Methods that look at the data again: by the complete-data likelihood (SJW), and by clusters of the data."""

from collections.abc import Callable, Sequence

import numpy as np

from emppl.kernels.assignment import Groups
from emppl.labels.material import Alignment, Material
from emppl.labels.methods.iterative import named_as_reference, permutation_starts, told
from emppl.labels.methods.pivots import ordering
from emppl.labels.methods.table import method
from emppl.labels.sweeps import Start, descend
from emppl.labels.units import Units

DEEP = 700.0  # nats below its best component at which a unit's log density stops counting

NARROWEST = 1e-3  # least spread of a cluster, in sds of all data

LogJoint = Callable[[np.ndarray], np.ndarray]


def sjw(
    components: np.ndarray,
    allocations: np.ndarray,
    log_joint: LogJoint,
    *,
    starts: Sequence[np.ndarray] | None = None,
    groups: Groups | None = None,
) -> Alignment:
    """Sperrin, Jaki & Wit's probabilistic relabelling, each draw by its most probable permutation.

    components [T, K, J], allocations [T, n]; log_joint(theta [K, J]) → [n, K], log density of each unit together with
    its being in each component, at parameters theta. Relabelled parameters are averaged to theta, draws are relabelled
    so that the complete-data log-likelihood of (data, z') at theta is largest, in turn. The published method averages
    over all K! permutations and draws one of them; the largest is an assignment, so K = 10 is possible and the
    answer is the same every time. Source: Sperrin, Jaki & Wit (2010), in its classification form.
    """
    z, components = np.asarray(allocations), np.asarray(components, dtype=float)
    size = components.shape[1]
    units = Units(len(z), z.shape[1], size, None, z)
    if starts is None:
        orders = [ordering(components[:, :, r], groups).permutations for r in range(min(components.shape[2], 3))]
        starts = [np.tile(np.arange(size), (len(z), 1)), *orders]
    return _sjw(
        units, components, log_joint, [Start(f"start {i}", np.asarray(s)) for i, s in enumerate(starts)], groups
    )


def _sjw(
    units: Units, components: np.ndarray, log_joint: LogJoint, starts: Sequence[Start], groups: Groups | None
) -> Alignment:
    def reference(units: Units, sums: np.ndarray, perms: np.ndarray) -> np.ndarray:
        theta = np.take_along_axis(components, perms[:, :, None], axis=1).mean(axis=0)
        joint = np.asarray(log_joint(theta), dtype=float)
        joint = joint if units.kept is None else joint[units.kept]
        return np.maximum(joint, joint.max(axis=1, keepdims=True) - DEEP)

    kind = "z" if units.allocations is not None else "p"
    found = descend(units, starts, reference, gather=kind, against=kind, groups=groups)
    return told(found, groups, None)


def data_based(
    allocations: np.ndarray, data: np.ndarray, size: int | None = None, *, groups: Groups | None = None
) -> Alignment:
    """Rodríguez & Walker's relabelling to clusters of the data: the members of a component lie near its centre.

    allocations [T, n], data [n, d]. Centres and spreads of the clusters are those of all draws' members after
    relabelling, and each draw's cost is the sum of its members' squared standardised distances. They begin as K equal
    steps along each column's range, and are updated after whole sweeps, until nothing moves (published: after every
    draw, twice through). Source: Rodríguez & Walker (2014), algorithms 5 and 6.
    """
    z = np.asarray(allocations)
    size = int(z.max(initial=0)) + 1 if size is None else size
    return _data_based(Units(len(z), z.shape[1], size, None, z), _columns(data), groups)


def _columns(data: np.ndarray) -> np.ndarray:
    data = np.asarray(data, dtype=float)
    return data.reshape(len(data), -1)


def _data_based(units: Units, data: np.ndarray, groups: Groups | None) -> Alignment:
    known = np.isfinite(data)
    centre = np.array([column[ok].mean() for column, ok in zip(data.T, known.T)])
    spread = np.array([column[ok].std() for column, ok in zip(data.T, known.T)])
    y = np.where(known, (data - centre) / np.where(spread > 0, spread, 1.0), 0.0)  # what is missing counts nowhere

    def distances(units: Units, centres: np.ndarray, widths: np.ndarray) -> np.ndarray:
        rows = slice(None) if units.kept is None else units.kept
        steps = (y[rows][:, None, :] - centres) / widths
        return (np.where(known[rows][:, None, :], steps, 0.0) ** 2).sum(axis=2)

    def reference(units: Units, sums: np.ndarray, perms: np.ndarray) -> np.ndarray:
        rows = slice(None) if units.kept is None else units.kept
        counts = np.maximum(sums.T @ known[rows], 1e-12)
        centres = sums.T @ y[rows] / counts
        squares = np.maximum(sums.T @ y[rows] ** 2 / counts - centres**2, 0.0)
        return -distances(units, centres, np.maximum(np.sqrt(squares), NARROWEST))

    low, high = y.min(axis=0), y.max(axis=0)
    steps = (np.arange(units.size) + 1.0)[:, None] / (units.size + 1)
    near = distances(units, low + (high - low) * steps, np.ones(y.shape[1])).argmin(axis=1)
    start = Start("equal steps", pivot=(near[:, None] == np.arange(units.size)).astype(float))
    kind = "z" if units.allocations is not None else "p"
    found = descend(units, [start], reference, gather=kind, against=kind, groups=groups)
    return told(found, groups, None)


@method(
    "SJW", ("membership", "components", "log_joint"), "complete-data likelihood at the mean of all draws",
    "Sperrin, Jaki & Wit (2010), classification form",
)  # fmt: skip
def _sjw_method(material: Material) -> Alignment:
    assert material.components is not None and material.log_joint is not None
    kind = "z" if material.allocations is not None else "p"
    starts = permutation_starts(material, kind)
    found = _sjw(material.units, material.components, material.log_joint, starts, material.groups)
    return named_as_reference(material, found, kind)


@method(
    "DATA-BASED", ("membership", "data"), "members of each component to clusters of the data",
    "Rodríguez & Walker (2014)",
)  # fmt: skip
def _data_based_method(material: Material) -> Alignment:
    assert material.data is not None
    found = _data_based(material.units, _columns(material.data), material.groups)
    return named_as_reference(material, found, "z" if material.allocations is not None else "p")
