"""What a rule of the M-step is given, and what it answers: a BlockProblem → an Update, or a Refusal with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from emppl.estep.posterior import Posterior
from emppl.mstep.autodiff import ExpectedLogJoint, NumericUpdate
from emppl.rules.natural import NaturalForm
from emppl.structure.types import Factor, Structure

Theta = dict[str, np.ndarray]


class Refusal(NamedTuple):
    """Why a rule does not apply to a block. reason "": it goes without saying, and `print(plan)` leaves it out."""

    rule: str
    reason: str


@dataclass(frozen=True, eq=False)
class Update:
    """The M-step of one block of parameters.

    step(theta, posterior): new values {name: array} of the block, None where it finds no admissible maximum this time;
    rest: a search for parameters that it leaves out. rule, cost, meaning: for readers of plans and reports. is_exact:
    one step is the maximum over the block. is_numeric: the step is a numeric search for the whole block. densities: how
    many are evaluated at each point of a climb, 0 where expected statistics are enough. corners(theta, posterior):
    {name: boolean}, elements that kinks of the expected log joint hold at its maximum; None where it is smooth.
    """

    rule: str
    step: Callable[[Theta, Posterior], Theta | None] = field(repr=False)
    cost: str
    meaning: str = field(repr=False, default="")
    rest: NumericUpdate | None = field(repr=False, default=None)
    is_exact: bool = False
    is_numeric: bool = False
    densities: int = 0
    corners: Callable[[Theta, Posterior], Theta] | None = field(repr=False, default=None)

    @property
    def is_search(self) -> bool:
        """Whether the block or a part of it is searched numerically, so that one step may end short of the maximum."""
        return self.is_numeric or self.rest is not None

    def __call__(self, theta: Theta, posterior: Posterior) -> Theta | None:
        found = self.step(theta, posterior)
        if found is None or self.rest is None:
            return found
        return found | (self.rest(theta | found, posterior) or {})


@dataclass(frozen=True, eq=False)
class BlockProblem:
    """Parameters that are maximised together, and the terms of the expected log joint that they enter.

    factors: plans of the likelihoods and latents; priors: none for estimate="ml"; weights: of the members, by plate;
    implicit_support: parameters whose support a density alone knows, so that only a climb of it stays inside.
    """

    structure: Structure = field(repr=False)
    names: tuple[str, ...]
    factors: tuple[Any, ...] = field(repr=False)
    priors: tuple[Factor, ...] = field(repr=False)
    expected: ExpectedLogJoint = field(repr=False)
    weights: tuple[np.ndarray | None, ...] = field(repr=False)
    implicit_support: tuple[str, ...] = ()

    @cached_property
    def forms(self) -> list[tuple[NaturalForm, int | None, slice]]:
        """Natural forms, each with its plate and its columns in that plate's statistics."""
        return [(entry.form, entry.plate, entry.columns) for entry in self.factors if entry.form is not None]

    @cached_property
    def without_form(self) -> list[Factor]:
        """Factors that have no natural form."""
        return [entry.factor for entry in self.factors if entry.form is None]

    @cached_property
    def size(self) -> int:
        """How many numbers are to be found."""
        return sum(self.structure.node(name).size for name in self.names)

    @cached_property
    def densities(self) -> int:
        """How many densities have no natural form: they are evaluated one by one."""
        return sum(factor.size for factor in self.without_form)

    def search(self, names: tuple[str, ...] | None = None, guess: Any = None) -> NumericUpdate:
        """A numeric search for some of the parameters, or all. guess: a step that leaves their priors out."""
        return NumericUpdate(names or self.names, self.expected, self.weights, without_priors=guess)
