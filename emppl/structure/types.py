"""The records that `analyse` fills: what is in a model, no numbers fitted yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from emppl.portable import Portable
from emppl.structure.dispatched import register, registrations


@dataclass(frozen=True, eq=False)
class Node:
    """One variable of the model, on the user's own (constrained) scale."""

    name: str
    role: str  # "parameter" | "latent" | "observed" | "deterministic"
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    distribution: str  # for people: "Beta(1, 1)"
    value: Any = field(repr=False)  # PyTensor variable that stands for the value; observed: a constant
    rv: Any = field(repr=False, default=None)  # the random variable in the user's model, None for deterministics
    transform: Any = field(repr=False, default=None)
    support: np.ndarray | None = None  # latents: the values they can take, [K]
    implicit: bool = False  # the component of a pm.Mixture: not a variable of the user's model
    labels: tuple[str, ...] = ()  # latents: the name of each value
    window: bool = False  # latents: an unbounded count, of which `support` is a part that was found from the data

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=int))

    @property
    def n_values(self) -> int:
        """How many values a latent can take."""
        return len(self.support)


@dataclass(frozen=True, eq=False)
class Factor:
    """One term of the log joint: its elementwise log density as a graph in the values.

    `scope` [elements, latent elements] says which latent elements each element may depend on; it can only err
    towards too many. `op`, `params` are set where the density is one distribution whose parameters are known.
    """

    name: str
    kind: str  # "prior" (parameters alone) | "latent" | "observed" | "potential"
    log_density: Any = field(repr=False)
    shape: tuple[int, ...]
    parameters: tuple[str, ...]
    latents: tuple[str, ...]
    scope: sparse.csr_matrix | None = field(repr=False, default=None)
    op: Any = field(repr=False, default=None)
    params: tuple[Any, ...] = field(repr=False, default=())
    value: Any = field(repr=False, default=None)
    variable: str = ""  # whose term it is, in the user's model; several where a sum was taken apart

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=int))

    @property
    def numbers(self) -> int:
        """In the parameters of one density, as far as they are known: D + D² for a vector of length D."""
        cores = zip(self.params, getattr(self.op, "ndims_params", ()))
        return sum(int(np.prod([n or 1 for n in v.type.shape[v.type.ndim - core :]])) for v, core in cores)


@dataclass(frozen=True, eq=False)
class Plate:
    """Members with the same small set of latent elements each.

    Independent of each other given the parameters, unless an `Elimination` of the structure ties plates together.
    members [C, slots]: latent element of each slot (an index into all latent elements laid end to end);
    configurations [J, slots]: every joint value of the slots. `latents` names the latent of each slot.
    """

    latents: tuple[str, ...]
    members: np.ndarray = field(repr=False)
    configurations: np.ndarray = field(repr=False)
    tied: bool = False  # its members meet others in an Elimination

    @property
    def size(self) -> int:
        return len(self.members)

    @property
    def n_configurations(self) -> int:
        return len(self.configurations)

    @cached_property
    def numbers(self) -> np.ndarray:
        """0, 1, … [C]: the member of each row where rows are members themselves, one array for all that say so."""
        numbers = np.arange(self.size)
        numbers.flags.writeable = False
        return numbers

    def slot_of(self, member: np.ndarray, element: np.ndarray) -> np.ndarray:
        """The slot of each latent element in its member, −1 where the member does not hold it. Shapes broadcast."""
        found = self.members[member] == np.asarray(element)[..., None]
        return np.where(found.any(axis=-1), found.argmax(axis=-1), -1)

    def members_of(self, factor: Factor) -> np.ndarray:
        """The member that holds exactly the scope of each element of a factor [elements], −1 where none does.

        For plates of independent members: that holds any of it.
        """
        scope = factor.scope
        if scope is None:
            return np.full(factor.size, -1)
        if not self.tied:
            member_of = np.full(scope.shape[1], -1)
            member_of[self.members.ravel()] = np.repeat(np.arange(self.size), self.members.shape[1])
            answer = np.full(scope.shape[0], -1)
            nonempty = np.flatnonzero(np.diff(scope.indptr) > 0)
            answer[nonempty] = member_of[scope.indices[scope.indptr[nonempty]]]
            return answer
        width = self.members.shape[1]
        answer = np.full(scope.shape[0], -1)
        rows = np.flatnonzero(np.diff(scope.indptr) == width)
        if len(rows):
            held = np.sort(scope.indices[scope.indptr[rows][:, None] + np.arange(width)], axis=1)
            index = {tuple(m): i for i, m in enumerate(self.members.tolist())}
            answer[rows] = [index.get(tuple(h), -1) for h in held.tolist()]
        return answer


@dataclass(frozen=True, eq=False)
class Elimination:
    """Latent elements tied together, component by component of one make-up, and the order in which they are summed out.

    tables: (plate, members [B]) of each local table, B components; scopes: the variables of each table, numbered
    within a component; supports: how many values each variable has. steps: (variable, tables that hold it); the table
    that a step leaves is numbered on from `tables`. The last table left has no variable: the log-likelihood [B].
    """

    tables: tuple[tuple[int, np.ndarray], ...] = field(repr=False)
    scopes: tuple[tuple[int, ...], ...]
    supports: tuple[int, ...]
    steps: tuple[tuple[int, tuple[int, ...]], ...]

    @property
    def size(self) -> int:
        """Number of components."""
        return len(self.tables[0][1])

    def left(self) -> list[tuple[int, ...]]:
        """Variables of every table, those that the steps leave included."""
        scopes = list(self.scopes)
        for variable, used in self.steps:
            joined = sorted({v for t in used for v in scopes[t]} - {variable})
            scopes.append(tuple(joined))
        return scopes

    @property
    def cost(self) -> int:
        """Numbers in the tables that are summed over, in one component."""
        scopes, total = self.left(), 0
        for variable, used in self.steps:
            joined = {v for t in used for v in scopes[t]} | {variable}
            total += int(np.prod([float(self.supports[v]) for v in joined]))
        return total


@dataclass(frozen=True, eq=False)
class Structure(Portable):
    """What a model is made of. Made by `emppl.analyse`; printed by `emppl explain`."""

    name: str
    model: Any = field(repr=False)
    parameters: tuple[Node, ...]
    latents: tuple[Node, ...]
    observed: tuple[Node, ...]
    deterministics: tuple[Node, ...]
    factors: tuple[Factor, ...]
    plates: tuple[Plate, ...]
    eliminations: tuple[Elimination, ...]  # plates that share latent elements; all others are independent
    coords: dict[str, np.ndarray] = field(repr=False)
    offsets: dict[str, int] = field(repr=False)  # where each latent's elements begin among all latent elements
    scopes: Any = field(repr=False, default=None)  # topology.Scopes, None without latents
    coordinates: Any = field(repr=False, default=None)  # coordinates.Coordinates of the parameters
    frozen: dict[str, np.ndarray] = field(repr=False, default_factory=dict)  # parameters kept at a value
    support_given: dict[str, np.ndarray] = field(repr=False, default_factory=dict)  # by the user, not read
    dropped: tuple[str, ...] = ()  # unobserved leaves: they integrate to one
    # by observed variable: rows with the mean and covariance of all rows, where the model holds a part of them
    frames: dict[str, np.ndarray] = field(repr=False, default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"registrations": registrations(self.model)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        register(state.pop("registrations"))
        super().__setstate__(state)

    def node(self, name: str) -> Node:
        for node in (*self.parameters, *self.latents, *self.observed, *self.deterministics):
            if node.name == name:
                return node
        raise KeyError(name)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.parameters)

    def __repr__(self) -> str:
        return (
            f"Structure({self.name!r}: {len(self.parameters)} parameters, {len(self.latents)} latents, "
            f"{len(self.observed)} observed, {len(self.plates)} plates)"
        )
