"""The log joint of some members of long plates: PyMC's own terms restricted to their rows, and the plan's arrays.

Over all rows PyMC's density of a Gaussian mixture holds a covariance for each of them. What a check by values shows of
a thousand rows holds for all: that rows differ in nothing but their data was proved when the plan was made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytensor.tensor as pt

from emppl.structure.indices import slices_apart
from emppl.structure.restrict import CannotRestrict, Restriction, layout_of
from emppl.structure.topology import Scopes
from emppl.structure.types import Factor, Structure
from emppl.structure.variables import without_checks

LONG = 1e6  # numbers in the densities and their parameters from which on some members stand for all
MEMBERS = 1024  # of each plate


@dataclass(frozen=True, eq=False)
class Sample:
    """Some members of each plate [M], and the configurations [draws, M] that they are looked at in."""

    members: tuple[np.ndarray, ...] = field(repr=False)
    configurations: tuple[np.ndarray, ...] = field(repr=False)

    def masks(self, structure: Structure, draw: int) -> list[np.ndarray]:
        """[M, J] for each plate: True at the configuration of each member."""
        pairs = zip(structure.plates, self.configurations)
        return [np.arange(plate.n_configurations) == chosen[draw][:, None] for plate, chosen in pairs]

    def rows(
        self, structure: Structure, terms: Sequence[Any], inputs: Mapping[str, Any], at: Mapping[str, np.ndarray]
    ) -> list[tuple[Any, tuple[int, ...] | None]]:
        """Each elementwise term, and the axes that it is summed along.

        Over the members' rows, [draws, rows], where it depends on latents; else as it is, summed along all (None).
        at: {name: value} of the inputs that are parameters. Raises CannotRestrict.
        """
        terms = slices_apart(without_checks(list(terms)))
        latents = [replace(node, value=inputs[node.name]) for node in structure.latents]
        scopes = Scopes(terms, latents, {inputs[name]: value for name, value in at.items()}, keep=True)
        return [(self._rows(structure, scopes, term), (1,)) if term in scopes.scope else (term, None) for term in terms]

    def _rows(self, structure: Structure, scopes: Scopes, term: Any) -> Any:
        factor = Factor("", "potential", term, scopes.shape(term), (), (), scopes.matrix(term))
        for plate, chosen, configurations in zip(structure.plates, self.members, self.configurations):
            try:
                layout = layout_of(factor, plate)
            except CannotRestrict:
                continue
            rows = np.flatnonzero(np.isin(layout.members, chosen))
            place, draws = np.searchsorted(chosen, layout.members[rows]), len(configurations)
            restriction = Restriction(
                scopes, np.tile(rows, draws), np.tile(layout.members[rows], draws),
                plate.configurations[configurations[:, place].ravel()], plate,
            )  # fmt: skip
            if restriction.carries(term, layout.axis):
                return pt.moveaxis(restriction(term, layout.axis), layout.axis, 0).reshape((draws, -1))
        raise CannotRestrict("its elements lie along no single plate")


def can_stand_for_all(structure: Structure) -> bool:
    """Whether members are so many, and each alone, that some of them are looked at."""
    if sum(f.size * (1 + f.numbers) for f in structure.factors if f.latents) <= LONG:
        return False
    if structure.eliminations or any(node.implicit for node in structure.latents):
        return False
    return set(structure.frozen).isdisjoint(n.name for n in structure.latents)


def sample_of(structure: Structure, draws: int, seed: int) -> Sample | None:
    """Members to stand for all, drawn at random; None where all of them are few, or some cannot be taken alone."""
    if not can_stand_for_all(structure):
        return None
    rng = np.random.default_rng([seed, 17])
    members = [np.sort(rng.choice(p.size, size=min(p.size, MEMBERS), replace=False)) for p in structure.plates]
    found = [rng.integers(p.n_configurations, size=(draws, len(m))) for p, m in zip(structure.plates, members)]
    return Sample(tuple(members), tuple(found))
