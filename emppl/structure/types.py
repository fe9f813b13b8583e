"""The records that `analyse` fills: what is in a model, no numbers fitted yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse


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

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=int))


@dataclass(frozen=True, eq=False)
class Plate:
    """Members that are independent given the parameters, each with the same small set of latent elements.

    members [C, slots]: latent element of each slot (an index into all latent elements laid end to end);
    configurations [J, slots]: every joint value of the slots. `latents` names the latent of each slot.
    """

    latents: tuple[str, ...]
    members: np.ndarray = field(repr=False)
    configurations: np.ndarray = field(repr=False)

    @property
    def size(self) -> int:
        return len(self.members)

    @property
    def n_configurations(self) -> int:
        return len(self.configurations)


@dataclass(frozen=True, eq=False)
class Structure:
    """What a model is made of. Made by `emppl.analyse`; printed by `emppl explain`."""

    name: str
    model: Any = field(repr=False)
    parameters: tuple[Node, ...]
    latents: tuple[Node, ...]
    observed: tuple[Node, ...]
    deterministics: tuple[Node, ...]
    factors: tuple[Factor, ...]
    plates: tuple[Plate, ...]
    coords: dict[str, np.ndarray] = field(repr=False)
    offsets: dict[str, int] = field(repr=False)  # where each latent's elements begin among all latent elements
    scopes: Any = field(repr=False, default=None)  # topology.Scopes, None without latents
    coordinates: Any = field(repr=False, default=None)  # coordinates.Coordinates of the parameters
    frozen: dict[str, np.ndarray] = field(repr=False, default_factory=dict)  # parameters kept at a value
    dropped: tuple[str, ...] = ()  # unobserved leaves: they integrate to one

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
