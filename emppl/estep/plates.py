"""Independent members: each sums over its own few configurations, in natural form or through a table of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pytensor.tensor as pt

from emppl.estep.data import PlateData
from emppl.estep.finite import FiniteEngine, GroupPosterior, LatentGroup, log_joint_graph
from emppl.estep.marginal import marginal_log_likelihood, members
from emppl.estep.tables import elements_of, sampled_table
from emppl.kernels.mixture import shares_of_few
from emppl.structure.types import Factor, Node, Plate

SUBSAMPLE = 400  # densities of the members that a gradient is checked on; beyond it they are drawn at random


@dataclass(frozen=True, eq=False)
class PlateEngine(FiniteEngine):
    """The E-step of one plate of independent members."""

    by_member = True  # its posterior has a log-likelihood for each

    @property
    def plate(self) -> Plate:
        (plate,) = self.group.plates
        return plate

    @property
    def members(self) -> PlateData:
        (data,) = self.data
        return data

    def posterior(self, terms: Sequence[np.ndarray], *, hard: bool, keep: bool) -> GroupPosterior:
        """At eta [J, F], and a table [J, C] where there is one."""
        data = self.members
        table = terms[1].T if data.has_table else None
        done = data.run(terms[0], table, hard=hard, keep=keep or data.has_table)
        return GroupPosterior(done.log_likelihood, (done,))

    # -- a few members, number by number -----------------------------------------------------------------------------

    @property
    def operations(self) -> float:
        """Of a pass number by number; infinite where it cannot be written down."""
        data = self.members
        if data.has_table or data.mask is not None or data.members.small is None:
            return np.inf
        return data.members.n * prod(data.supports) * 2 * (data.members.shape[1] + 1)

    def traced(self, eta: Any) -> tuple[Any, Any, Any]:
        """Log-likelihood, statistics and counts of traced numbers eta [J, F]."""
        data = self.members
        weights = data.weights if data.kinds is None else data.kinds.counts
        value, statistics, counts = shares_of_few(data.members.small, eta, weights)
        return value + data.base_sum, statistics, counts

    # -- some members ------------------------------------------------------------------------------------------------

    @property
    def has_units_alone(self) -> bool:
        """Whether some members can be taken without the others: no graph evaluates them all."""
        return not self.members.has_table

    # -- graphs ------------------------------------------------------------------------------------------------------

    def log_likelihood(self, etas: Sequence[Any], tables: Sequence[Any]) -> Any:
        """As a graph of the parameters' values; in natural form by the Op with Fisher gradient."""
        (eta,), (table,), data = etas, tables, self.members
        if table is None and data.mask is None:
            return marginal_log_likelihood(eta, *members(data))[0] + data.base_sum
        weights = np.ones(len(data.base)) if data.weights is None else data.weights
        return (weights * (pt.logsumexp(log_joint_graph(data, eta, table), axis=0) + data.base)).sum()

    def some_log_likelihood(
        self, factors: Sequence[Factor], etas: Any, tables: Any, rng: np.random.Generator, possible: bool
    ) -> tuple[Any, list[np.ndarray]]:
        """Of a few members, enumerated from the model's own densities; and which they are, by plate."""
        structure, plate = self.group.structure, self.plate
        size = max(1, min(plate.size, SUBSAMPLE // plate.n_configurations))
        rows = np.sort(rng.choice(plate.size, size=size, replace=False))
        entering = [f for f in factors if f.latents and len(elements_of(f, plate)[0])]
        log_joint = sum(sampled_table(structure, f, plate, rows, possible) for f in entering)
        if self.members.mask is not None:
            log_joint = pt.switch(self.members.mask[rows].T, log_joint, -np.inf)
        return pt.logsumexp(log_joint, axis=0).sum(), [rows]

    # -- words -------------------------------------------------------------------------------------------------------

    @property
    def numbers(self) -> int:
        """Evaluated in a pass."""
        return self.densities

    @property
    def sentence(self) -> str:
        """What `print(plan)` says of the pass."""
        size, plate = self.members.size, self.plate
        return (
            f"{size:,} independent member{'s' if size > 1 else ''} × {plate.n_configurations} "
            f"{'joint values' if len(plate.latents) > 1 else 'values'}"
        )

    def how(self, node: Node) -> str:
        """What becomes of one of its latents."""
        return f"summed out: {self.plate.size:,} members × {self.plate.n_configurations} values"

    @property
    def is_compiled(self) -> bool:
        return self.members.compiled and self.members.kinds is None


def plates(group: LatentGroup) -> PlateEngine | None:
    """A plate of members that meet no others."""
    return None if group.eliminations else PlateEngine(group)
