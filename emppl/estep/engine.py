"""theta → Posterior: one engine a group of latents, and the terms of theta that all of them ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any, Protocol

import numpy as np
import pytensor.tensor as pt

from emppl.estep.data import PlateData
from emppl.estep.finite import GroupPosterior, LatentGroup
from emppl.estep.plates import plates
from emppl.estep.posterior import Posterior
from emppl.estep.tied import elimination
from emppl.kernels.features import Features
from emppl.kernels.mixture import MixturePass, mixture
from emppl.structure.types import Factor, Node, Structure
from emppl.unrolled import MOST_OPERATIONS, Unrolled


class Engine(Protocol):
    """The posterior of one group of latents that no factor ties to another group. Knows no family.

    Its terms are those of its plates, one after the other: eta [J, F], and a table [J, C] where a graph has one. What
    it finds is a pass for each plate: expected statistics, counts, responsibilities. So the expected log joint is one
    sum over all engines, <eta, statistics> + <table, responsibilities>, and by Fisher's identity the gradient of that
    is the gradient of the log-likelihood, whatever the engine does between the two.
    """

    @property
    def group(self) -> LatentGroup: ...
    @property
    def data(self) -> tuple[PlateData, ...]: ...

    def posterior(self, terms: Sequence[np.ndarray], *, hard: bool, keep: bool) -> GroupPosterior:
        """At terms of theta; hard: of the most probable assignment; keep: responsibilities, even where none need it."""
        ...

    # other members, weights, labels
    @property
    def has_units_alone(self) -> bool: ...
    def with_data(self, data: Sequence[PlateData]) -> Engine: ...
    def of_structure(self, structure: Structure) -> Engine: ...
    def taken(self, chosen: Sequence[np.ndarray]) -> Engine: ...
    def clamped(self, masks: Sequence[np.ndarray | None]) -> Engine: ...
    def summarised(self, responsibilities: Sequence[np.ndarray]) -> tuple[MixturePass, ...]: ...

    # graphs, for samplers and the certificate
    def log_likelihood(self, etas: Sequence[Any], tables: Sequence[Any]) -> Any: ...
    def some_log_likelihood(
        self, factors: Sequence[Factor], etas: Sequence[Any], tables: Sequence[Any], rng: Any, possible: bool
    ) -> tuple[Any, list[np.ndarray]]: ...

    # few members, number by number
    @property
    def operations(self) -> float: ...
    def traced(self, eta: Any) -> tuple[Any, Any, Any]: ...

    # what is said of single latents
    @property
    def by_member(self) -> bool: ...
    def marginals(self, passes: Sequence[MixturePass], flat: np.ndarray) -> None: ...
    def mode(self, passes: Sequence[MixturePass], flat: np.ndarray) -> None: ...

    # what it costs, and what it is called
    @property
    def densities(self) -> int: ...
    @property
    def products(self) -> int: ...
    @property
    def numbers(self) -> int: ...
    @property
    def sentence(self) -> str: ...
    @property
    def is_compiled(self) -> bool: ...
    def how(self, node: Node) -> str: ...


ENGINES: tuple[Callable[[LatentGroup], Engine | None], ...] = (plates, elimination)  # the first that takes a group


@dataclass(frozen=True, eq=False)
class EStep:
    """The posterior of all latents at theta.

    `terms(*theta)` returns, by plate, eta [J, F] (and a table [J, C]), then the direct log-likelihood and the log
    prior.
    """

    engines: tuple[Engine, ...]
    terms: Any = field(repr=False)
    hard: bool = False

    @classmethod
    def of(cls, structure: Structure, data: Sequence[PlateData], terms: Any, hard: bool) -> EStep:
        """An engine for each group of plates that are tied to no others."""
        return cls(tuple(_engine(group) for group in _groups(structure, data)), terms, hard)

    @cached_property
    def plates(self) -> tuple[PlateData, ...]:
        """The arrays of each plate, in the structure's order."""
        found = {p: data for engine in self.engines for p, data in zip(engine.group.places, engine.data)}
        return tuple(found[p] for p in sorted(found))

    def __call__(self, arguments: Sequence[np.ndarray], *, keep: bool = False, hard: bool | None = None) -> Posterior:
        """E-step at theta, given as the arguments of `terms`; `keep` also returns responsibilities."""
        hard = self.hard if hard is None else hard
        if not (keep or hard) and self._few:
            log_likelihood, log_prior, *sums = self._plain(*arguments)
            none = (None,) * (len(sums) // 2)
            return Posterior(float(log_likelihood), float(log_prior), tuple(sums[::2]), tuple(sums[1::2]), none, none)
        return self._by_pass(arguments, keep, hard)

    @cached_property
    def _few(self) -> bool:
        """Whether all members are so few that plain numbers may be sooner."""
        return 0 < sum(engine.operations for engine in self.engines) <= MOST_OPERATIONS

    @cached_property
    def _plain(self) -> Unrolled:
        """Terms and passes in one: theta → log-likelihood, log prior, then statistics and counts of each plate."""

        def traced(*arguments: Any) -> list[Any]:
            *etas, total, log_prior = self.terms.compilation.traceable(*arguments)
            sums = []
            for engine, eta in zip(self.engines, etas):
                value, statistics, counts = engine.traced(eta)
                total = total + value
                sums += [statistics, counts]
            return [total, log_prior, *sums]

        def otherwise(*arguments: np.ndarray) -> list[Any]:
            done = self._by_pass(arguments, False, False)
            return [done.log_likelihood, done.log_prior, *chain(*zip(done.statistics, done.counts))]

        return Unrolled(traced, otherwise)

    @cached_property
    def _slots(self) -> list[list[int]]:
        """By engine: which outputs of `terms` are its own."""
        starts = np.cumsum([0, *(1 + data.has_table for data in self.plates)])
        return [
            [i for p in engine.group.places for i in range(starts[p], starts[p + 1])] for engine in self.engines
        ]  # fmt: skip

    def _by_pass(self, arguments: Sequence[np.ndarray], keep: bool, hard: bool) -> Posterior:
        with np.errstate(all="ignore"):
            *terms, direct, log_prior = self.terms(*arguments)
            found = [
                engine.posterior([terms[i] for i in slots], hard=hard, keep=keep)
                for engine, slots in zip(self.engines, self._slots)
            ]
        total = float(direct) + sum(done.log_likelihood for done in found)
        return _posterior(total, float(log_prior), self._by_plate([done.passes for done in found]))

    def _by_plate(self, found: Sequence[Sequence[MixturePass]]) -> list[MixturePass]:
        """Passes in the structure's order of plates."""
        placed: dict[int, MixturePass] = {}
        for engine, passes in zip(self.engines, found):
            placed |= zip(engine.group.places, passes)
        return [placed[p] for p in sorted(placed)]

    def _of_plates(self, values: Sequence[Any]) -> Iterator[tuple[Engine, list[Any]]]:
        """Each engine with its own of what is given by plate."""
        return ((engine, [values[p] for p in engine.group.places]) for engine in self.engines)

    # -- other members, weights, labels ------------------------------------------------------------------------------

    @property
    def has_members_alone(self) -> bool:
        """Whether some members can be taken without the others: none hang together, no graph evaluates them all."""
        return all(engine.has_units_alone for engine in self.engines)

    def of_members(self, chosen: Sequence[np.ndarray]) -> EStep:
        """The same over some members of each plate, where they can be taken alone."""
        return replace(self, engines=tuple(engine.taken(rows) for engine, rows in self._of_plates(chosen)))

    def clamped(self, masks: Sequence[np.ndarray | None]) -> EStep:
        """The same with every member counted once and the configurations [C, J] of each plate that a mask leaves."""
        return replace(self, engines=tuple(engine.clamped(mask) for engine, mask in self._of_plates(masks)))

    def of_new(self, arguments: Sequence[np.ndarray], features: Features, base: np.ndarray) -> MixturePass:
        """The pass over new members of the only plate, at theta; features [C, F], base [C]."""
        with np.errstate(all="ignore"):
            return mixture(features, self.terms(*arguments)[0], base, keep=True)

    def with_data(self, data: Sequence[PlateData], structure: Structure | None = None) -> EStep:
        """The same over other arrays, plate by plate, and the structure that they are of."""
        engines = tuple(engine.with_data(own) for engine, own in self._of_plates(data))
        if structure is not None:
            engines = tuple(engine.of_structure(structure) for engine in engines)
        return replace(self, engines=engines)

    def only(self, posterior: Posterior, chosen: Sequence[np.ndarray]) -> Posterior:
        """The statistics of some members alone, each counted once; posterior: made with keep=True."""
        kept = []
        for whole, rows in zip(posterior.responsibilities, chosen):
            assert whole is not None  # the E-step was asked to keep them
            r = np.zeros_like(whole)
            r[rows] = whole[rows]
            kept.append(r)
        statistics = tuple(data.features.weighted(r) for data, r in zip(self.plates, kept))
        return posterior._replace(statistics=statistics, responsibilities=tuple(kept))

    def log_likelihood(self, etas: Sequence[Any], tables: Sequence[Any]) -> Any:
        """Of all members as a graph of the parameters' values, by Ops with Fisher gradient; the terms' own graphs."""
        pairs = zip(self._of_plates(etas), self._of_plates(tables))
        return sum((engine.log_likelihood(own, of_own) for (engine, own), (_, of_own) in pairs), pt.constant(0.0))

    def some_log_likelihood(
        self, factors: Sequence[Factor], etas: Sequence[Any], tables: Sequence[Any], rng: Any, possible: bool
    ) -> tuple[Any, list[np.ndarray]]:
        """Of members that a graph can hold, each counted once, without Ops of our own; and which, by plate."""
        total: Any = pt.constant(0.0)
        chosen: dict[int, np.ndarray] = {}
        for (engine, own), (_, of_own) in zip(self._of_plates(etas), self._of_plates(tables)):
            value, rows = engine.some_log_likelihood(factors, own, of_own, rng, possible)
            total = total + value
            chosen |= dict(zip(engine.group.places, rows))
        return total, [chosen[p] for p in sorted(chosen)]

    def summarised(self, responsibilities: Sequence[np.ndarray]) -> Posterior:
        """The statistics of given responsibilities [C, J] by plate: what a random start hands to the first M-step."""
        found = [engine.summarised(r) for engine, r in self._of_plates(responsibilities)]
        return _posterior(-np.inf, 0.0, self._by_plate(found))

    # -- what is said of single latents ------------------------------------------------------------------------------

    def marginals(self, posterior: Posterior, flat: np.ndarray) -> None:
        """Put the probabilities of each value of each latent element into flat [elements, values]."""
        for engine, passes in self._of_plates(_passes(posterior)):
            engine.marginals(passes, flat)

    def mode(self, posterior: Posterior, flat: np.ndarray) -> None:
        """Put the most probable joint value of each member's latents into flat [elements]."""
        for engine, passes in self._of_plates(_passes(posterior)):
            engine.mode(passes, flat)

    def _home(self, latent: str) -> list[tuple[int, Engine]]:
        return [
            (p, engine) for engine in self.engines for p, plate in zip(engine.group.places, engine.group.plates)
            if latent in plate.latents
        ]  # fmt: skip

    def sums_by_element(self, latent: str) -> bool:
        """Whether each element of a latent is in one member, which meets no others."""
        homes = self._home(latent)
        return len(homes) == 1 and homes[0][1].by_member

    def by_element(self, posterior: Posterior, latent: str) -> np.ndarray:
        """Log-likelihood of the member of each element of a latent [elements]; posterior: made with keep=True."""
        ((p, engine),) = self._home(latent)
        structure = engine.group.structure
        plate, found = structure.plates[p], np.zeros(structure.node(latent).size)
        found[plate.members[:, plate.latents.index(latent)] - structure.offsets[latent]] = posterior.by_member[p]
        return found

    # -- what it costs, and what it is called ------------------------------------------------------------------------

    @property
    def sizes(self) -> tuple[int, ...]:
        """Members of each plate."""
        return tuple(data.size for data in self.plates)

    @property
    def densities(self) -> int:
        """Members × configurations of all plates."""
        return sum(engine.densities for engine in self.engines)

    @property
    def products(self) -> int:
        """Multiplications of statistics with eta in a pass."""
        return sum(engine.products for engine in self.engines)

    @property
    def numbers(self) -> int:
        """Evaluated in a pass."""
        return sum(engine.numbers for engine in self.engines)

    @property
    def sentence(self) -> str:
        """What `print(plan)` says of a pass."""
        return ", ".join(engine.sentence for engine in self.engines)

    def how(self, node: Node) -> str:
        """What becomes of a latent."""
        return min(self._home(node.name), key=lambda home: home[0])[1].how(node)

    @property
    def masks(self) -> tuple[np.ndarray | None, ...]:
        """The configurations [C, J] that known labels leave to the members of each plate, None for all."""
        return tuple(data.mask for data in self.plates)

    @property
    def of_members_alone(self) -> tuple[int, ...]:
        """Plates whose posterior has a log-likelihood of each member."""
        return tuple(sorted(p for engine in self.engines if engine.by_member for p in engine.group.places))

    @property
    def held(self) -> tuple[int, ...]:
        """Members of each plate whose features are held: fewer than all where rows are streamed."""
        return tuple(len(data.features) for data in self.plates)

    @property
    def tables(self) -> set[int]:
        """Plates that have a table, whose responsibilities an E-step keeps."""
        return {p for p, data in enumerate(self.plates) if data.has_table}

    @property
    def is_compiled(self) -> bool:
        """Whether passes run compiled code."""
        return any(engine.is_compiled for engine in self.engines)

    @property
    def weights(self) -> tuple[np.ndarray | None, ...]:
        """Weights of the members of each plate, None where all count once."""
        return tuple(data.weights for data in self.plates)


def _posterior(log_likelihood: float, log_prior: float, passes: Sequence[MixturePass]) -> Posterior:
    _, *by_plate = zip(*passes) if passes else ((),) * len(MixturePass._fields)
    return Posterior(log_likelihood, log_prior, *by_plate)


def _passes(posterior: Posterior) -> list[MixturePass]:
    arrays = zip(posterior.statistics, posterior.counts, posterior.responsibilities, posterior.by_member)
    return [MixturePass(np.nan, *of_one) for of_one in arrays]


def _engine(group: LatentGroup) -> Engine:
    return next(found for engine in ENGINES if (found := engine(group)) is not None)


def _groups(structure: Structure, data: Sequence[PlateData]) -> list[LatentGroup]:
    """Plates alone, then those that eliminations tie together."""
    alone = [p for p, plate in enumerate(structure.plates) if not plate.tied]
    groups = [LatentGroup(structure, (p,), (data[p],)) for p in alone]
    tied = tuple(p for p in range(len(structure.plates)) if p not in alone)
    if tied:
        groups.append(LatentGroup(structure, tied, tuple(data[p] for p in tied), structure.eliminations))
    return groups
