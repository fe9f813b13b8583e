"""Where each unconstrained coordinate lies and how wide it is, read off the expected log joint of equal shares.

What judges a step, a border, a curvature or a collapse needs a unit for each coordinate: a mean in nanometres and a
slope per million inhabitants differ by orders of magnitude. Here every member is shared alike by all configurations,
so that the objective has one hill, and the shift and the width of that hill in each coordinate are found by values
alone. No number in the search has a unit: it begins where the prior does and goes by factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emppl.compiling import building, compile_graph
from emppl.estep.tables import elements_of, sampled_table
from emppl.structure.coordinates import Coordinates
from emppl.structure.initial import support_point
from emppl.structure.types import Structure

SUBSAMPLE = 400  # densities of latents' configurations that one value goes through
FEWEST_MEMBERS = 4  # that a value goes through, where each density is of many numbers
PLAIN = 128  # numbers in the parameters of a density that costs what a plain one does
EVALUATIONS = 2e7  # densities that the whole search may cost
EACH = 40  # values that one coordinate may cost, as a rule
FEWEST, MOST = 8, 250  # coordinates of a parameter looked at; others take the width of their nearest neighbour there
FEWEST_IN_ALL = 64  # coordinates of all parameters looked at, where these are many
OF_A_GRAPH = 20.0  # densities that take as long as the graph of the parameters does, for each coordinate
TIMES = 4.0  # a width is looked for by factors of this
NEAR = 1.05  # widths that agree to this factor are the same
STRIDES = (8.0, 4.0, 2.0, 1.0)  # along a log
LONGEST_WAY = 100.0  # along a log: e^100 is more than any two units differ by
WORTH = 1e-3  # nats a member that a stride must gain
MOST_PARTS = 16  # of the objective that are asked apart
_Graph = tuple[Any, tuple[str, ...]]  # a term, and the parameters that it depends on


@dataclass(frozen=True, eq=False)
class Scales:
    """The search, to be called when it is first needed: () → (shift [P], width [P]) of PyMC's own coordinates."""

    structure: Structure = field(repr=False)

    def __call__(self) -> tuple[np.ndarray, np.ndarray]:
        coordinates = self.structure.coordinates.unscaled
        shift, width = np.zeros(coordinates.size), np.ones(coordinates.size)
        if not coordinates.size:
            return shift, width
        with np.errstate(all="ignore"):
            u = coordinates.unconstrain(support_point(self.structure))
            u = np.where(np.isfinite(u), u, 0.0)
            objective = _Objective(self.structure, coordinates, u)
            unit = _data_unit(self.structure)
            linear, logs = ~coordinates.transformed, coordinates.logarithmic
            within = np.zeros(coordinates.size, dtype=bool)  # numbers among logs, as a Cholesky factor has them
            for part in (coordinates.slices[n.name] for n in coordinates.parameters if n.transform is not None):
                within[part] = linear[part] & logs[part].any()
                linear[part] &= logs[part].any()  # an angle has neither a top of its own nor a width to be found
            chosen, nearest = _representatives(coordinates, objective.cost, (linear, logs))
            for i in chosen[(linear & ~within)[chosen]]:
                u = _to_the_top(objective, u, i, unit)
            for i in chosen[logs[chosen]]:  # before the numbers among them, which are no larger than they are
                u = _along_a_log(objective, u, i)
            for i in chosen[within[chosen]]:
                u = _to_the_top(objective, u, i, unit)
            for i in chosen[logs[chosen]] if within.any() else ():
                u = _along_a_log(objective, u, i)
            for i in chosen[linear[chosen]]:
                width[i] = _width(objective, u, i, unit)[0]
        width = np.where(linear, width[nearest], 1.0)
        return np.where(linear | logs, u, 0.0), width


class _Objective:
    """The expected log joint of equal shares, by values, at PyMC's own coordinates u [P].

    Of some members of each plate, and of all that depends on no latent.
    """

    def __init__(self, structure: Structure, coordinates: Coordinates, u: np.ndarray) -> None:
        self.coordinates = coordinates
        with building():
            self.parts = _parts(structure, self._graphs(structure))
        theta = coordinates.constrain(u)
        members = [0.0]
        for part in self.parts:
            for i, table in enumerate(part.values(theta)):
                if not table.ndim:  # a sum that depends on no latent
                    continue
                possible = np.isfinite(table)  # what is impossible where the prior begins is left out everywhere
                part.shares[i] = possible / np.maximum(possible.sum(axis=0), 1)
                members.append(table.shape[1])
        direct = [f for f in structure.factors if not f.latents and f.kind != "prior"]
        self.members = max(1.0, float(sum(members)), float(sum(f.size for f in direct)))
        shares = [share for part in self.parts for share in part.shares]
        self.cost = float(sum(f.size for f in direct)) + sum(np.size(share) for share in shares)

    @staticmethod
    def _graphs(structure: Structure) -> list[_Graph]:
        """Tables [J, M] of some members of each plate, and what depends on no latent; each with its parameters."""
        rng, tables = np.random.default_rng(31), []
        for plate in structure.plates:
            entering = [f for f in structure.factors if f.latents and len(elements_of(f, plate)[0])]
            plain = max(1, SUBSAMPLE // plate.n_configurations)
            few = max(min(plain, FEWEST_MEMBERS), PLAIN * plain // max(PLAIN, *(f.numbers for f in entering)))
            rows = np.sort(rng.choice(plate.size, size=min(plate.size, few), replace=False))
            tables += [(sampled_table(structure, f, plate, rows, possible=False), f.parameters) for f in entering]
        return tables + [(f.log_density.sum(), f.parameters) for f in structure.factors if not f.latents]

    def __call__(self, u: np.ndarray) -> float:
        try:
            theta = self.coordinates.constrain(u)
            total = sum(part(theta) for part in self.parts)
        except Exception:  # impossible parameters raise what the distribution likes to
            return -np.inf
        return total if np.isfinite(total) else -np.inf


def _parts(structure: Structure, graphs: list[_Graph]) -> list[_Part]:
    """The graphs by the parameters that they depend on; all together where these would be many."""
    by_names: dict[tuple[str, ...], list[Any]] = {}
    for graph, names in graphs:
        by_names.setdefault(names, []).append(graph)
    if len(by_names) > MOST_PARTS:
        by_names = {structure.parameter_names: [graph for graph, _ in graphs]}
    return [_Part(structure, names, found) for names, found in by_names.items()]


class _Part:
    """Terms of the objective that depend on the same parameters, each with a share of its numbers.

    Most moves are of another parameter: what the terms came to at the last one is kept.
    """

    def __init__(self, structure: Structure, names: tuple[str, ...], graphs: list[Any]) -> None:
        self.inputs = [node for node in structure.parameters if node.name in names]
        self.shares: list[Any] = [1.0] * len(graphs)
        doubles = [graph.astype("float64") for graph in graphs]
        self.function = compile_graph([node.value for node in self.inputs], doubles, optimise=False)
        self._last: tuple[list[bytes] | None, float] = None, 0.0

    def values(self, theta: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        arguments = [np.asarray(theta[node.name], dtype=node.value.dtype) for node in self.inputs]
        return [np.asarray(value) for value in self.function(*arguments)]

    def __call__(self, theta: Mapping[str, np.ndarray]) -> float:
        at = [theta[node.name].tobytes() for node in self.inputs]
        if at != self._last[0]:
            pairs = zip(self.values(theta), self.shares)
            self._last = at, sum(float(np.where(s == 0, 0.0, v * s).sum()) for v, s in pairs)
        return self._last[1]


def _representatives(
    coordinates: Coordinates, cost: float, kinds: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates that are looked at, and the nearest of these in the same parameter to each [P].

    Spread evenly over those of each kind (masks [P]) in each parameter. Each value goes through the graph of all
    parameters, whichever coordinate it is of: a model of many coordinates has few of them looked at.
    """
    groups = [places for part in coordinates.slices.values() for kind in kinds
              if len(places := np.arange(coordinates.size)[part][kind[part]])]  # fmt: skip
    in_all = max(FEWEST_IN_ALL, EVALUATIONS / (EACH * (cost + OF_A_GRAPH * coordinates.size)))
    room = int(np.clip(EVALUATIONS / (EACH * cost), FEWEST, MOST))
    room = max(1, min(room, int(in_all / max(1, len(groups)))))
    chosen, nearest = [np.zeros(0, dtype=int)], np.arange(coordinates.size)
    for places in groups:
        taken = places
        if len(places) > room:
            taken = places[np.linspace(0, len(places) - 1, room).astype(int)]
            nearest[places] = taken[np.abs(places[:, None] - taken).argmin(axis=1)]
        chosen.append(taken)
    return np.concatenate(chosen), nearest


def _data_unit(structure: Structure) -> float:
    """Spread of the data, from which a search that has nothing else to go by begins."""
    spreads = []
    for node in structure.observed:
        y = np.asarray(node.value.data, dtype=float)
        spreads.append(float(np.ptp(y[np.isfinite(y)])) if np.isfinite(y).any() else 0.0)
    return max(spreads, default=0.0) or 1.0


def _moved(u: np.ndarray, i: int, step: float) -> np.ndarray:
    v = u.copy()
    v[i] += step
    return v


def _width(objective: _Objective, u: np.ndarray, i: int, first: float) -> tuple[float, float]:
    """Step of one coordinate after which the objective bends by one nat a member, and the slope over it.

    `first` where it does not bend at all.
    """
    here, step, slope = objective(u), max(first, abs(u[i])), 0.0
    is_seen = is_lost = False
    for _ in range(EACH):
        up, down = objective(_moved(u, i, step)), objective(_moved(u, i, -step))
        bend = 2.0 * here - up - down
        if not np.isfinite(bend):
            step /= TIMES**5 if up == down else TIMES
            continue
        slope = (up - down) / (2.0 * step)
        if not bend > 1e-13 * max(abs(up), abs(down), abs(here)):  # it is lost in rounding, or bends upwards
            step, is_lost = step * TIMES**3, is_seen
            continue
        wanted = step * np.sqrt(objective.members / bend)
        if 1 / NEAR < wanted / step < NEAR or (is_lost and wanted < step):  # no shorter step has a bend to be seen
            return wanted, slope
        is_seen = True
        step = float(np.clip(wanted, step / TIMES**8, step * TIMES**8))
        if not 0 < step < np.inf:
            break
    return (step, slope) if 0 < step < np.inf else (first, 0.0)


def _to_the_top(objective: _Objective, u: np.ndarray, i: int, unit: float) -> np.ndarray:
    """u with one coordinate of no bounds where the objective is highest, by Newton's steps that never lose."""
    for _ in range(3):
        width, slope = _width(objective, u, i, unit)
        step = slope * width / objective.members * width  # a float's square may raise OverflowError
        if not np.isfinite(step) or not objective(_moved(u, i, step)) > objective(u):
            break
        u = _moved(u, i, step)
        if abs(step) < width:
            break
    return u


def _along_a_log(objective: _Objective, u: np.ndarray, i: int) -> np.ndarray:
    """u with the log of a positive number near the top, by ever shorter strides."""
    here, origin = objective(u), u[i]
    for stride in STRIDES:
        for sign in (1.0, -1.0):
            while abs(u[i] - origin) < LONGEST_WAY:
                there = objective(_moved(u, i, sign * stride))
                if not there > here + WORTH * objective.members:
                    break
                u, here = _moved(u, i, sign * stride), there
    return u
