"""What an E-step hands to an M-step."""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

import numpy as np


class Posterior(NamedTuple):
    """Expected statistics of one E-step, a pair of arrays for each plate.

    objective: log_likelihood (of the members; hard: of the best assignment) + log_prior.
    statistics[p] [J, F]; counts[p] [J]; responsibilities[p] [C, J] where a graph factor or the caller needs them.
    """

    log_likelihood: float
    log_prior: float
    statistics: tuple[np.ndarray, ...]
    counts: tuple[np.ndarray, ...]
    responsibilities: tuple[np.ndarray | None, ...]
    by_member: tuple[np.ndarray | None, ...]

    @property
    def objective(self) -> float:
        value = self.log_likelihood + self.log_prior
        return value if isfinite(value) else -np.inf
