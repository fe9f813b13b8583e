"""What a recogniser of M-steps answers: an Update, or a Refusal with its mathematical reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from emppl.estep.posterior import Posterior


@dataclass(frozen=True)
class Refusal:
    """Why a rule does not apply to a block."""

    rule: str
    reason: str


class Update(Protocol):
    """New values of a block's parameters, or None where the rule finds no admissible maximum this time."""

    @property
    def rule(self) -> str: ...

    def __call__(self, theta: dict[str, np.ndarray], posterior: Posterior) -> dict[str, np.ndarray] | None: ...
