"""Where ascents begin: k-means++ on the data, random members as centres, draws from the prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from emppl.estep.posterior import Posterior
from emppl.estep.tables import elements_of, value_places
from emppl.mstep.search import newton
from emppl.rules.regression import RegressionForm
from emppl.structure.initial import initial_point

Theta = dict[str, np.ndarray]
KINDS = ("k-means++", "random", "k-means++", "random", "prior", "k-means++", "random", "k-means++", "random", "random")
TIES_MATTER = 0.01  # share of the rows that must be equal for a collapse on them to count against the model
TIE_SPREAD = 1 / 16
PROBED = 5  # starts from which on one of them is spent on ties
FEW, NEWTON_STEPS = 12, 60  # numbers that Newton's steps move at a start, and how many steps
SOFT = (0.3, 1.0)  # the same where all other starts have collapsed: components that are wide and much alike
MOST_IN_VAIN = 100_000  # numbers
SOFTENING = 0.05  # share of each member that is spread over all configurations, so that no component starts empty


def member_data(plan: Any, p: int) -> np.ndarray:
    """What was observed of each member of plate p, as columns: [C, D].

    Codes of categories are no numbers, nor do ratings by several raters have an average: there the columns are counts,
    those that the natural form holds. Elsewhere several rows of a member are averaged.
    """
    structure = plan.structure
    plate = structure.plates[p]
    columns = []
    for entry in plan.factors:
        factor = entry.factor
        if factor.kind != "observed" or factor.value is None or not factor.latents:
            continue
        elements, members = elements_of(factor, plate)
        if not len(elements):
            continue
        if entry.form is not None and entry.form.family is not None and entry.form.family.name == "Categorical":
            columns.append(np.asarray(entry.form.features))
            continue
        y = np.asarray(factor.value.data, dtype=float)
        core = y.reshape(factor.size, -1)[elements]  # vector observations: their coordinates
        counts = np.bincount(members, minlength=plate.size)
        if np.array_equal(members, np.repeat(np.arange(plate.size), counts)) and np.ptp(counts) == 0:
            columns.append(core.reshape(plate.size, -1))
        else:
            sums = np.zeros((plate.size, core.shape[1]))
            np.add.at(sums, members, core)
            columns.append(sums / np.maximum(counts, 1)[:, None])
    if not columns:
        return np.zeros((plate.size, 1))
    return np.concatenate(columns, axis=1)


def heaviest_tie(plan: Any) -> tuple[int, np.ndarray] | None:
    """(plate, members) of the most frequent observation of a family that can collapse; None where no ties matter.

    Such rows matter when they are at least three and at least a hundredth of all.
    """
    best: tuple[int, np.ndarray] | None = None
    for entry in plan.factors:
        form = entry.form
        if (
            form is None
            or form.plate is None
            or form.family is None
            or form.family.narrowness is None
            or form.plate.n_configurations < 2
        ):
            continue
        data = member_data(plan, entry.plate)
        rows = _most_frequent(data, max(3.0, TIES_MATTER * len(data)))
        if len(rows) and (best is None or len(rows) > len(best[1])):
            best = entry.plate, rows
    return best


def _most_frequent(data: np.ndarray, least: float) -> np.ndarray:
    """Which rows [..] are the one that is there most often; none where that is less than `least` times.

    What is rare in one column is left out first: where rows are many that is nearly all of them.
    """
    rows = np.arange(len(data))
    for column in data.T:
        _, inverse, counts = np.unique(column[rows], return_inverse=True, return_counts=True)
        rows = rows[counts[inverse] >= least]
    if not len(rows):
        return rows
    _, inverse, counts = np.unique(data[rows], axis=0, return_inverse=True, return_counts=True)
    return rows[inverse.ravel() == counts.argmax()] if counts.max() >= least else rows[:0]


def scaled(data: np.ndarray, whiten: bool) -> np.ndarray:
    """Columns centred, with unit spread; `whiten` also takes out their correlation."""
    data = data - data.mean(axis=0)
    spread = data.std(axis=0)
    data = data / np.where(spread > 0, spread, 1.0)
    if whiten and 1 < data.shape[1] < len(data):
        values, vectors = np.linalg.eigh(np.cov(data, rowvar=False))
        data = data @ (vectors / np.sqrt(np.maximum(values, 1e-6 * values.max() + 1e-300)))
    return data


def centres_plus_plus(data: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """k rows far apart: each drawn in proportion to its squared distance from those chosen.

    Arthur & Vassilvitskii 2007.
    """
    centres = [data[rng.integers(len(data))]]
    distance = ((data - centres[0]) ** 2).sum(axis=1)
    for _ in range(k - 1):
        total = distance.sum()
        row = rng.choice(len(data), p=distance / total) if total > 0 else rng.integers(len(data))
        centres.append(data[row])
        distance = np.minimum(distance, ((data - data[row]) ** 2).sum(axis=1))
    return np.array(centres)


def _nearest(data: np.ndarray, centres: np.ndarray) -> np.ndarray:
    cross = data @ centres.T
    return ((centres**2).sum(axis=1) - 2 * cross).argmin(axis=1)


def lloyd(data: np.ndarray, centres: np.ndarray, rounds: int) -> np.ndarray:
    """A few rounds of k-means; a centre that loses its members keeps its place."""
    for _ in range(rounds):
        label = _nearest(data, centres)
        for k in range(len(centres)):
            if (label == k).any():
                centres[k] = data[label == k].mean(axis=0)
    return _nearest(data, centres)


def through_members(regressions: Sequence[RegressionForm], k: int, rng: np.random.Generator) -> np.ndarray:
    """Each member to the nearest of k regressions, first through a few random members each, then through their own."""
    n = len(regressions[0].features)
    few = min(n, max(len(form.basis) for form in regressions) + 1)
    weights = np.zeros((n, k))
    for component in range(k):
        weights[rng.choice(n, few, replace=False), component] = 1.0
    for _ in range(int(rng.integers(1, 4))):
        label = np.sum([form.residuals(weights) for form in regressions], axis=0).argmin(axis=1)
        weights = (label[:, None] == np.arange(k)).astype(float)
    return label


def responsibilities(plan: Any, p: int, kind: str, rng: np.random.Generator) -> np.ndarray:
    """A first guess of the responsibilities [C, J] of plate p."""
    plate, mask = plan.structure.plates[p], plan.engine.masks[p]
    j = plate.n_configurations
    data = scaled(member_data(plan, p), whiten=bool(rng.integers(2)))
    regressions = [e.form for e in plan.factors if e.plate == p and isinstance(e.form, RegressionForm)]
    tie = heaviest_tie(plan) if kind == "ties" else None
    if tie is not None and tie[0] == p:
        label = 1 + lloyd(data, centres_plus_plus(data, j - 1, rng), rounds=3)
        label[tie[1]] = 0
    elif kind == "random" and regressions:
        label = through_members(regressions, j, rng)
    elif kind in ("k-means++", "ties", "soft", "alike"):
        label = lloyd(data, centres_plus_plus(data, j, rng), rounds=int(rng.integers(0, 6)))
    else:
        rows = rng.choice(len(data), size=j, replace=len(data) < j)
        label = _nearest(data, data[rows])
    first = np.array([data[label == k, 0].mean() if (label == k).any() else np.inf for k in range(j)])
    order = _order(plan, p, first, rng)
    # on ties the softening alone gives the component its first spread: TIE_SPREAD of that of the data
    softening = SOFTENING if tie is None or tie[0] != p else TIE_SPREAD**2 * j * len(tie[1]) / plate.size
    if kind in ("soft", "alike"):
        softening = float(rng.uniform(*SOFT)) if kind == "soft" else 1.0
    r = np.full((plate.size, j), softening / j)
    r[np.arange(plate.size), np.argsort(order)[label]] += 1.0 - softening
    if mask is not None:
        r = r * mask
        r /= r.sum(axis=1, keepdims=True)
    return r


def _order(plan: Any, p: int, first: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which cluster starts each configuration [J], from where clusters lie along the first column of the data.

    Where names may be exchanged any order will do. Where they may not, components mostly follow each other along the
    data, one way or the other: one of many permutations, which chance alone would hardly hit.
    """
    ascending, j = np.argsort(first), len(first)
    own = [axis for axis in plan.axes if axis.latent in plan.structure.plates[p].latents]
    if any(axis.ordered for axis in plan.axes):
        return ascending
    if j < 3 or (own and all(len(axis.exchangeable) == 1 for axis in own)):
        return rng.permutation(j)
    return (ascending, ascending[::-1], rng.permutation(j))[rng.integers(3)]


def _element_shares(plan: Any, rng: np.random.Generator) -> np.ndarray:
    """A random probability of each value of each latent element [elements, values]: tied plates share elements."""
    nodes = plan.structure.latents
    shares = np.zeros((sum(node.size for node in nodes), max(node.n_values for node in nodes)))
    for node in nodes:
        start = plan.structure.offsets[node.name]
        shares[start : start + node.size, : node.n_values] = rng.dirichlet(np.full(node.n_values, 0.5), size=node.size)
    return shares


def _tied_responsibilities(plan: Any, p: int, shares: np.ndarray) -> np.ndarray:
    """Responsibilities [C, J] of a plate whose members share elements: products of the elements' probabilities."""
    plate, mask = plan.structure.plates[p], plan.engine.masks[p]
    r = np.ones((plate.size, plate.n_configurations))
    for slot, places in enumerate(value_places(plan.structure, plate).T):
        r *= shares[plate.members[:, slot]][:, places]
    if mask is not None:
        r = r * mask
    total = r.sum(axis=1, keepdims=True)
    return r / np.where(total > 0, total, 1.0)


def start_point(plan: Any, kind: str, rng: np.random.Generator) -> Theta:
    """theta at which one ascent begins."""
    structure = plan.structure
    if not structure.plates:
        u = structure.coordinates.unconstrain(initial_point(structure))
        return structure.coordinates.constrain(u + rng.normal(scale=0.5, size=len(u)))
    if kind == "prior":
        return initial_point(structure, draw=True, seed=int(rng.integers(2**31)))
    # drawn where no plate is tied too, as long as that takes no time: a seed goes on giving the starts that it gave
    few = sum(node.size * node.n_values for node in structure.latents) <= MOST_IN_VAIN
    shares = _element_shares(plan, rng) if few or any(plate.tied for plate in structure.plates) else np.zeros((0, 0))
    guess = [
        _tied_responsibilities(plan, p, shares) if plate.tied else responsibilities(plan, p, kind, rng)
        for p, plate in enumerate(structure.plates)
    ]
    posterior: Posterior = plan.engine.summarised(guess)
    theta = plan.m_step(initial_point(structure), posterior)
    if plan.has_search:
        for _ in range(2):  # a numeric M-step takes a few steps at a time, and the prior's own point is far away
            theta = plan.m_step(theta, posterior)
    return _far_climb(plan, theta, posterior)


def towards_the_prior(plan: Any, theta: Theta) -> Theta | None:
    """The first point on the way from theta to where the prior begins that is possible; None where there is none.

    What is guessed from the data alone may lie outside of what a density, unlike a transform, rules out.
    """
    coordinates = plan.structure.coordinates
    ends = [coordinates.inside(coordinates.unconstrain(t), 30.0) for t in (theta, initial_point(plan.structure))]
    for share in (0.25, 0.5, 0.75, 0.9, 1.0):
        found = coordinates.constrain((1.0 - share) * ends[0] + share * ends[1])
        if np.isfinite(plan.e_step(found).objective):
            return found
    return None


def _far_climb(plan: Any, theta: Theta, posterior: Posterior) -> Theta:
    """theta with its small numeric blocks of natural form where Newton's steps take them from the prior's own point.

    Where they start far from the data, in units of any size, a quasi-Newton search does not get there in time, and
    the first E-step would find all members in one component.
    """
    coordinates = plan.structure.coordinates
    for block in plan.blocks:
        free = np.zeros(coordinates.size, dtype=bool)
        for name in block.parameters:
            free[coordinates.slices[name]] = True
        if not block.update.is_numeric or block.update.densities or free.sum() > FEW:
            continue
        first = initial_point(plan.structure)
        own = {name: first[name] for name in block.parameters}

        def objective(u: np.ndarray) -> tuple[float, np.ndarray]:
            return plan.expected(u, posterior, plan.weights)

        here, there = (coordinates.inside(coordinates.unconstrain(t), 30.0) for t in (theta, theta | own))
        with np.errstate(all="ignore"):
            u, value = newton(objective, there, free, NEWTON_STEPS)
            better = value > objective(here)[0] + 1e-6
        if better:
            found = coordinates.constrain(u)
            theta = theta | {name: found[name] for name in block.parameters}
    return theta
