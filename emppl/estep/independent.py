"""The E-step: natural form where there is one, else a graph; members independent, or tied together and eliminated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import numpy as np

from emppl.estep.elimination import eliminate
from emppl.estep.posterior import Posterior
from emppl.kernels.features import Features
from emppl.kernels.mixture import MixturePass, log_joint, mixture, shares_of_few
from emppl.kernels.threads import threads
from emppl.structure.types import Elimination
from emppl.unrolled import MOST_OPERATIONS, Unrolled


@dataclass(frozen=True, eq=False)
class PlateData:
    """The arrays of one plate that never change during a fit. C members, J configurations, F statistics."""

    features: Features = field(repr=False)  # [C, F]
    base: np.ndarray = field(repr=False)  # [C]
    weights: np.ndarray | None = field(repr=False, default=None)  # [C]
    mask: np.ndarray | None = field(repr=False, default=None)  # [C, J]
    has_table: bool = False
    supports: tuple[int, ...] = ()  # values of each slot
    tied: bool = False
    compiled: bool = False

    @property
    def size(self) -> int:
        """Number of members."""
        return self.features.n

    @cached_property
    def base_sum(self) -> float:
        """What the base adds to the log-likelihood."""
        return float(self.base.sum() if self.weights is None else self.base @ self.weights)

    @cached_property
    def kinds(self) -> Kinds | None:
        """Members in kinds, where many are equal in all that a pass reads of them."""
        if self.has_table or self.tied:
            return None
        found = self.features.unique_rows(self.mask)
        if found is None:
            return None
        first, kind = found
        counts = np.bincount(kind, self.weights, minlength=len(first)).astype(float)
        mask = None if self.mask is None else self.mask[first]
        return Kinds(self.features.take(first), counts, mask, kind)

    @property
    def members(self) -> Features:
        """The features of all members, or of one of each kind."""
        return self.features if self.kinds is None else self.kinds.features

    def take(self, members: np.ndarray) -> PlateData:
        """Some members of a plate without a table, each counted once."""
        mask = None if self.mask is None else self.mask[members]
        features, base = self.features.take(members), self.base[members]
        return replace(self, features=features, base=base, weights=None, mask=mask, compiled=False)

    def run(self, eta: np.ndarray, table: np.ndarray | None, *, hard: bool, keep: bool) -> MixturePass:
        """One pass at eta [J, F] and table [C, J]; equal members are counted, not repeated."""
        kinds = self.kinds
        if kinds is None:
            done = mixture(
                self.features, eta, table=table, mask=self.mask, weights=self.weights, hard=hard, keep=keep,
                compiled=self.compiled, workers=threads() if self.compiled else 1,
            )  # fmt: skip
        else:
            done = mixture(kinds.features, eta, mask=kinds.mask, weights=kinds.counts, hard=hard, keep=keep)
        r, by_member = done.responsibilities, done.by_member
        if r is not None and by_member is not None:
            if kinds is not None:
                r, by_member = r[kinds.kind], by_member[kinds.kind]
            by_member = by_member + self.base
        return MixturePass(done.log_likelihood + self.base_sum, done.statistics, done.counts, r, by_member)


class Kinds(NamedTuple):
    """One member of each kind, how many there are of it (or their weights), and the kind of each member [C]."""

    features: Features
    counts: np.ndarray
    mask: np.ndarray | None
    kind: np.ndarray


@dataclass(frozen=True, eq=False)
class IndependentEngine:
    """The E-step over all plates, ready to run.

    `terms(*theta)` returns, by plate, eta [J, F] (and a table [J, C]), then the direct log-likelihood and the log
    prior.
    """

    plates: tuple[PlateData, ...]
    terms: Any = field(repr=False)
    hard: bool = False
    eliminations: tuple[Elimination, ...] = ()

    def __call__(self, arguments: Sequence[np.ndarray], *, keep: bool = False, hard: bool | None = None) -> Posterior:
        """E-step at theta, given as the arguments of `terms`; `keep` also returns responsibilities."""
        hard = self.hard if hard is None else hard
        if not (keep or hard) and self._few:
            log_likelihood, log_prior, *sums = self._plain(*arguments)
            none = (None,) * len(self.plates)
            return Posterior(float(log_likelihood), float(log_prior), tuple(sums[::2]), tuple(sums[1::2]), none, none)
        return self._by_pass(arguments, keep, hard)

    @cached_property
    def _few(self) -> bool:
        """Whether all members are so few that plain numbers may be sooner."""
        if any(p.has_table or p.tied or p.mask is not None or p.members.small is None for p in self.plates):
            return False
        operations = [p.members.n * prod(p.supports) * 2 * (p.members.shape[1] + 1) for p in self.plates]
        return 0 < sum(operations) <= MOST_OPERATIONS

    @cached_property
    def _plain(self) -> Unrolled:
        """Terms and passes in one: theta → log-likelihood, log prior, then statistics and counts of each plate."""

        def traced(*arguments: Any) -> list[Any]:
            *etas, total, log_prior = self.terms.compilation.traceable(*arguments)
            sums = []
            for plate, eta in zip(self.plates, etas):
                weights = plate.weights if plate.kinds is None else plate.kinds.counts
                value, statistics, counts = shares_of_few(plate.members.small, eta, weights)
                total = total + value + plate.base_sum
                sums += [statistics, counts]
            return [total, log_prior, *sums]

        def otherwise(*arguments: np.ndarray) -> list[Any]:
            done = self._by_pass(arguments, False, False)
            return [done.log_likelihood, done.log_prior, *chain(*zip(done.statistics, done.counts))]

        return Unrolled(traced, otherwise)

    def _by_pass(self, arguments: Sequence[np.ndarray], keep: bool, hard: bool) -> Posterior:
        with np.errstate(all="ignore"):
            outputs = list(self.terms(*arguments))
            log_prior = float(outputs.pop())
            total = float(outputs.pop())
            passes: list[MixturePass] = []
            joints: dict[int, np.ndarray] = {}
            for p, plate in enumerate(self.plates):
                eta = outputs.pop(0)
                table = outputs.pop(0).T if plate.has_table else None
                if plate.tied:
                    joints[p] = log_joint(plate.features, eta, table=table, mask=plate.mask)
                    passes.append(NOTHING)
                else:
                    passes.append(plate.run(eta, table, hard=hard, keep=keep or plate.has_table))
            by_component = []
            if joints:
                by_component = self._eliminate(joints, passes, hard)
                total += sum(float(v.sum()) for v in by_component)
                total += sum(self.plates[p].base_sum for p in joints)
        values, statistics, counts, responsibilities, by_member = (
            zip(*passes) if passes else ((),) * len(MixturePass._fields)
        )
        return Posterior(
            total + sum(values), log_prior, statistics, counts, responsibilities, by_member, tuple(by_component)
        )

    def _eliminate(self, joints: dict[int, np.ndarray], passes: list[MixturePass], hard: bool) -> list[np.ndarray]:
        """Fill in the passes of tied plates; the log-likelihood of each component, elimination by elimination."""
        shares = {p: np.zeros_like(joint) for p, joint in joints.items()}
        by_component = []
        for elimination in self.eliminations:
            tables = [
                joints[p][members].reshape(len(members), *self.plates[p].supports) for p, members in elimination.tables
            ]
            log_likelihood, weights = eliminate(elimination, tables, hard=hard)
            by_component.append(log_likelihood)
            for (p, members), weight in zip(elimination.tables, weights):
                shares[p][members] = weight.reshape(len(members), -1)
        for p, share in shares.items():
            passes[p] = MixturePass(0.0, self.plates[p].features.weighted(share), share.sum(axis=0), share, None)
        return by_component

    @property
    def has_members_alone(self) -> bool:
        """Whether some members can be taken without the others: none hang together, no graph evaluates them all."""
        return not any(plate.tied or plate.has_table for plate in self.plates)

    def of_members(self, chosen: Sequence[np.ndarray]) -> IndependentEngine:
        """The same over some members of each plate, where they can be taken alone."""
        return replace(self, plates=tuple(plate.take(rows) for plate, rows in zip(self.plates, chosen, strict=True)))

    def masked(self, masks: Sequence[np.ndarray | None]) -> IndependentEngine:
        """The same with every member counted once and the configurations [C, J] of each plate that a mask leaves."""
        plates = tuple(replace(plate, weights=None, mask=mask) for plate, mask in zip(self.plates, masks))
        return replace(self, plates=plates)

    def summarise(self, responsibilities: Sequence[np.ndarray]) -> Posterior:
        """The statistics of given responsibilities [C, J] by plate: what a random start hands to the first M-step."""
        weighted = [
            r if plate.weights is None else r * plate.weights[:, None]
            for r, plate in zip(responsibilities, self.plates)
        ]
        return Posterior(
            log_likelihood=-np.inf,
            log_prior=0.0,
            statistics=tuple(plate.features.weighted(w) for w, plate in zip(weighted, self.plates)),
            counts=tuple(w.sum(axis=0) for w in weighted),
            responsibilities=tuple(responsibilities),
            by_member=tuple(None for _ in self.plates),
        )


NOTHING = MixturePass(0.0, np.zeros((0, 0)), np.zeros(0), None, None)
