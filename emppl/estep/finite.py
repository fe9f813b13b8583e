"""Latents with finitely many values: what every engine that sums them out has in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import numpy as np
import pytensor.tensor as pt

from emppl.estep.data import PlateData
from emppl.kernels.mixture import MixturePass
from emppl.structure.types import Elimination, Plate, Structure


class GroupPosterior(NamedTuple):
    """What an engine finds at theta: the log-likelihood, and a pass for each of its plates."""

    log_likelihood: float
    passes: tuple[MixturePass, ...]


@dataclass(frozen=True, eq=False)
class LatentGroup:
    """Plates that no factor ties to others: their numbers in the structure, arrays, and how they are tied together."""

    structure: Structure = field(repr=False)
    places: tuple[int, ...]
    data: tuple[PlateData, ...] = field(repr=False)
    eliminations: tuple[Elimination, ...] = field(repr=False, default=())

    @property
    def plates(self) -> tuple[Plate, ...]:
        return tuple(self.structure.plates[p] for p in self.places)


@dataclass(frozen=True, eq=False)
class FiniteEngine:
    """The E-step of one group. A term of theta for each plate: eta [J, F], and a table [J, C] where a graph has one."""

    group: LatentGroup

    @property
    def data(self) -> tuple[PlateData, ...]:
        return self.group.data

    def with_data(self, data: Sequence[PlateData]) -> Self:
        """The same over other members, or with other weights and labels."""
        return replace(self, group=replace(self.group, data=tuple(data)))

    def of_structure(self, structure: Structure) -> Self:
        """The same in a structure that has other members."""
        return replace(self, group=replace(self.group, structure=structure))

    def taken(self, chosen: Sequence[np.ndarray]) -> Self:
        """The same over some members, each counted once; where they can be taken alone."""
        return self.with_data([data.take(rows) for data, rows in zip(self.data, chosen)])

    def clamped(self, masks: Sequence[np.ndarray | None]) -> Self:
        """Every member counted once, in the configurations [C, J] of each plate that a mask leaves."""
        return self.with_data([replace(data, weights=None, mask=mask) for data, mask in zip(self.data, masks)])

    def summarised(self, responsibilities: Sequence[np.ndarray]) -> tuple[MixturePass, ...]:
        """The statistics of given responsibilities [C, J] by plate: what a first guess hands to the first M-step."""
        found = []
        for r, data in zip(responsibilities, self.data):
            weighted = r if data.weights is None else r * data.weights[:, None]
            found.append(MixturePass(-np.inf, data.features.weighted(weighted), weighted.sum(axis=0), r, None))
        return tuple(found)

    # -- what it costs, and what it is called ------------------------------------------------------------------------

    @property
    def densities(self) -> int:
        """Members × configurations of all plates."""
        return sum(data.size * plate.n_configurations for data, plate in zip(self.data, self.group.plates))

    @property
    def products(self) -> int:
        """Multiplications of statistics with eta in a pass."""
        pairs = zip(self.data, self.group.plates)
        return sum(data.size * plate.n_configurations * data.features.shape[1] for data, plate in pairs)

    # -- what a posterior says of single latents ---------------------------------------------------------------------

    def marginals(self, passes: Sequence[MixturePass], flat: np.ndarray) -> None:
        """Put the probabilities of each value of each latent element into flat [elements, values]."""
        for plate, done in zip(self.group.plates, passes):
            r = done.responsibilities
            for slot, name in enumerate(plate.latents):
                for k, value in enumerate(self.group.structure.node(name).support):
                    flat[plate.members[:, slot], k] = r[:, plate.configurations[:, slot] == value].sum(axis=1)

    def mode(self, passes: Sequence[MixturePass], flat: np.ndarray) -> None:
        """Put the most probable joint value of each member's latents into flat [elements]."""
        for plate, done in zip(self.group.plates, passes):
            flat[plate.members] = plate.configurations[done.responsibilities.argmax(axis=1)]


def log_joint_graph(data: PlateData, eta: Any, table: Any | None) -> Any:
    """Log joint [J, C] of a plate without its base, as a graph; impossible configurations are minus infinity.

    eta is kept off the zeros among the features, since a log of zero may meet a count of zero.
    """
    dead = pt.isinf(eta) & (eta < 0)
    features = np.asarray(data.features)
    joint = pt.switch(dead, 0.0, eta) @ features.T
    barred = pt.switch(dead, 1.0, 0.0) @ (features != 0).T.astype(float)
    joint = pt.switch(barred > 0, -np.inf, joint)
    if table is not None:
        joint = joint + table
    return joint if data.mask is None else pt.switch(data.mask.T, joint, -np.inf)
