"""Members that share latents, tied together in components, which are summed out one latent after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

from emppl.estep.elimination import eliminate, elimination_log_likelihood, log_likelihood_graph, program
from emppl.estep.finite import FiniteEngine, GroupPosterior, LatentGroup, log_joint_graph
from emppl.kernels.mixture import MixturePass, log_joint
from emppl.structure.types import Factor, Node


@dataclass(frozen=True, eq=False)
class EliminationEngine(FiniteEngine):
    """The E-step of all plates that share latent elements with others."""

    operations = np.inf  # never number by number
    has_units_alone = False
    is_compiled = False
    by_member = False

    def posterior(self, terms: Sequence[np.ndarray], *, hard: bool, keep: bool) -> GroupPosterior:
        """At eta [J, F] of each plate, followed by its table [J, C] where there is one; `keep` changes nothing."""
        rest, joints = list(terms), []
        for data in self.data:
            eta, table = rest.pop(0), rest.pop(0).T if data.has_table else None
            joints.append(log_joint(data.features, eta, table=table, mask=data.mask))
        shares, by_component = self.eliminated(joints, hard)
        passes = tuple(
            MixturePass(0.0, data.features.weighted(share), share.sum(axis=0), share, None)
            for data, share in zip(self.data, shares)
        )
        total = sum(float(value.sum()) for value in by_component) + sum(data.base_sum for data in self.data)
        return GroupPosterior(total, passes)

    def eliminated(self, joints: Sequence[np.ndarray], hard: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Responsibilities [C, J] of each plate from its log joints, and log-likelihoods of the components."""
        of = dict(zip(self.group.places, range(len(joints))))
        shares = [np.zeros_like(joint) for joint in joints]
        by_component = []
        for elimination in self.group.eliminations:
            tables = [
                joints[of[p]][members].reshape(len(members), *self.data[of[p]].supports)
                for p, members in elimination.tables
            ]
            value, weights = eliminate(elimination, tables, hard=hard)
            by_component.append(value)
            for (p, members), weight in zip(elimination.tables, weights):
                shares[of[p]][members] = weight.reshape(len(members), -1)
        return shares, by_component

    def traced(self, eta: Any) -> tuple[Any, Any, Any]:
        """Never asked for: see `operations`."""
        raise NotImplementedError

    # -- graphs ------------------------------------------------------------------------------------------------------

    @property
    def _base(self) -> float:
        return sum(float(data.base.sum()) for data in self.data)

    def log_likelihood(self, etas: Sequence[Any], tables: Sequence[Any]) -> Any:
        """As a graph of the parameters' values, by the Op with Fisher gradient."""
        leaves = [log_joint_graph(*terms).T.ravel() for terms in zip(self.data, etas, tables)]
        arrays = program(self.group.structure)
        shared = [pytensor.shared(arrays[name]) for name in ("steps", "sources", "outputs", "roots", "entries")]
        joined = pt.concatenate(leaves) if len(leaves) > 1 else leaves[0]
        return elimination_log_likelihood(joined.astype("float64"), *shared)[0] + self._base

    def some_log_likelihood(
        self, factors: Sequence[Factor], etas: Sequence[Any], tables: Sequence[Any], rng: Any, possible: bool
    ) -> tuple[Any, list[np.ndarray]]:
        """Of all components, since their members hang together, by differentiable tables; and all members."""
        joints = [log_joint_graph(*terms) for terms in zip(self.data, etas, tables)]
        parts = []
        for elimination in self.group.eliminations:
            found: list[Any] = [None] * len(elimination.tables)
            for place, data, joint in zip(self.group.places, self.data, joints):
                held = [t for t, (p, _) in enumerate(elimination.tables) if p == place]
                if not held:
                    continue
                rows = np.concatenate([elimination.tables[t][1] for t in held])
                pieces = pt.split(joint.T[rows], [elimination.size] * len(held), n_splits=len(held), axis=0)
                for t, piece in zip(held, pieces if isinstance(pieces, list) else [pieces]):
                    found[t] = piece.reshape((elimination.size, *data.supports))
            parts.append(log_likelihood_graph(elimination, found).sum())
        return pt.stack(parts).sum() + self._base, [np.arange(plate.size) for plate in self.group.plates]

    # -- words -------------------------------------------------------------------------------------------------------

    @property
    def numbers(self) -> int:
        """Evaluated in a pass: members × configurations, and the tables that are summed over."""
        return self.densities + sum(e.size * e.cost for e in self.group.eliminations)

    @property
    def sentence(self) -> str:
        """What `print(plan)` says of the pass."""
        return ", ".join(
            f"{tied.size:,} group{'s' if tied.size > 1 else ''} of {len(tied.supports)} tied latent elements, "
            f"summed out one after the other ({tied.cost:,} numbers each, in place of {_power(tied.supports)} "
            "joint values)"
            for tied in self.group.eliminations
        )

    def how(self, node: Node) -> str:
        """What becomes of one of its latents."""
        return f"summed out: {node.size:,} elements × {node.n_values} values, tied to others"


def elimination(group: LatentGroup) -> EliminationEngine | None:
    """Plates that share latent elements."""
    return EliminationEngine(group) if group.eliminations else None


def _power(supports: tuple[int, ...]) -> str:
    count = float(np.prod([float(s) for s in supports]))
    return f"{count:,.0f}" if count < 1e7 else f"{count:.2g}"
