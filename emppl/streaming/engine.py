"""The E-step over blocks: statistics add up, and everything after it does not notice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import fsum
from typing import Any

import numpy as np

from emppl.errors import SourceError, UnsupportedModelError
from emppl.estep.data import PlateData
from emppl.kernels.mixture import MixturePass
from emppl.streaming.blocks import Source
from emppl.streaming.executors import Local, Workers
from emppl.streaming.readers import Reader, Sums


@dataclass(frozen=True)
class Pass:
    """One pass over all blocks of a source, wherever they lie; each block adds its sums once, in order."""

    source: Source = field(repr=False)
    reader: Reader = field(repr=False)
    workers: Local | Workers = field(repr=False)
    n: int

    def __call__(self, eta: np.ndarray, hard: bool) -> Sums:
        values = []
        statistics, counts = np.zeros_like(eta), np.zeros(len(eta))
        for sums in self._of_blocks("run", (eta, hard)):
            values.append(sums.log_likelihood)
            statistics += sums.statistics
            counts += sums.counts
        finite = np.isfinite(values).all()
        return Sums(self.n, fsum(values) if finite else float(np.sum(values)), statistics, counts)

    def scores(self, eta: np.ndarray) -> np.ndarray:
        """Covariance of the scores of all rows at eta [J, F]: see `estep.missing`."""
        total: Any = 0.0
        for one in self._of_blocks("scores", (eta,)):
            total = total + one.covariance
        return total

    def _of_blocks(self, method: str, extra: tuple) -> Iterator[Any]:
        """What the reader finds in each block; raises SourceError where that is not what the first pass found."""
        n = 0
        try:
            for found in self.workers.map(self.source, self.reader, method, extra):
                n += found.n
                yield found
        except ValueError as problem:  # which an ascent would take for numerical trouble
            raise SourceError(
                f"a block that was read before cannot be read again: {problem}", "source",
                ("a source must give the same blocks in every pass",),
            ) from problem  # fmt: skip
        if n != self.n:
            raise SourceError(
                f"the source had {self.n:,} rows at first, and {n:,} in a later pass",
                "source",
                ("nothing may be written to it during a fit", "a source must give the same blocks in every pass"),
            )


@dataclass(frozen=True, eq=False)
class StreamedPlate(PlateData):
    """A plate of which a sample is held: features, base and mask are the sample's, a pass goes over all rows."""

    over: Pass | None = field(repr=False, default=None)
    base_total: float = 0.0

    @property
    def size(self) -> int:
        return self.over.n

    @property
    def base_sum(self) -> float:
        return self.base_total

    @property
    def kinds(self) -> None:
        return None

    def score_covariance(self, eta: np.ndarray) -> np.ndarray:
        """Covariance of the scores of all rows, in place of that of the features that are held."""
        return self.over.scores(eta)

    def run(self, eta: np.ndarray, table: Any, *, hard: bool, keep: bool) -> MixturePass:
        if keep:
            raise UnsupportedModelError(
                "the rows were streamed, and nothing is kept of single ones",
                "fit(…, source=…)",
                ("fit.predict({name: rows}): the probabilities of the latents for rows that fit in memory",),
            )
        sums = self.over(eta, hard)
        return MixturePass(sums.log_likelihood + self.base_total, sums.statistics, sums.counts, None, None)
