"""From the rows of a block to statistics: for each observed variable what its natural form reads of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from emppl.errors import InvalidDataError, UnsupportedModelError
from emppl.estep.data import PlateData
from emppl.estep.missing import score_covariance
from emppl.kernels.features import Features, Source, blocks
from emppl.kernels.mixture import mixture
from emppl.kernels.threads import threads
from emppl.rules.natural import _features, _rows_first, _rows_of
from emppl.rules.tables import Family, Frame
from emppl.streaming.blocks import Rows, Shape, checked
from emppl.streaming.live import Graph
from emppl.streaming.survey import check_inside

AGREES = 1e-7  # relative: how closely a block must follow what the sample says of parameters that vary over the rows
MEASURED_AT_ONCE = 4096  # rows whose statistics are written out to be looked at
IN_MEMORY = ("fit all rows in memory: emppl.fit(model) on a model that holds them",)


class Sums(NamedTuple):
    """What one block adds."""

    n: int
    log_likelihood: float  # without the base
    statistics: np.ndarray
    counts: np.ndarray


class Found(NamedTuple):
    """What one reader finds in one block."""

    base: float = 0.0
    products: bool = True  # whether its statistics are products of columns here too
    ones: np.ndarray | None = None  # [F], which statistics are the number 1 in every row


class Measure(NamedTuple):
    """What one block adds to what no parameter changes."""

    n: int
    base: float
    found: tuple[Found, ...]  # by reader


@dataclass(frozen=True)
class Latents:
    """The same statistics for every member: of what no data enter, as the class of a row."""

    row: np.ndarray

    def features(self, rows: Rows, n: int) -> Features:
        width = len(self.row)
        if (self.row == 1.0).all():
            return Features(n, (), np.zeros(width, dtype=np.int64), np.zeros(width, dtype=np.int64))
        return Features.of(np.broadcast_to(self.row, (n, width)))

    def measure(self, number: int, rows: Rows, n: int) -> Found:
        return Found()


@dataclass(frozen=True)
class Exposure:
    """Known numbers that multiply a parameter row by row, found as ratios to the parameter of a cell.

    points: values of all free variables; latents: {name: (value, shape of its later axes)} at each point; unit: the
    parameter that an exposure of one has, by slot.
    """

    graph: Graph = field(repr=False)
    points: tuple[dict[str, np.ndarray], ...] = field(repr=False)
    latents: tuple[dict[str, tuple[Any, tuple[int, ...]]], ...] = field(repr=False)
    units: tuple[np.ndarray, ...] = field(repr=False)

    def at(self, i: int, rows: Rows, n: int, slots: tuple[int, ...]) -> np.ndarray:
        values = at_latents(self.points[i], self.latents[i], rows, n)
        return np.broadcast_to(self.graph(values), (n, *slots)) / self.units[i]

    def __call__(self, rows: Rows, n: int, slots: tuple[int, ...]) -> np.ndarray:
        return self.at(0, rows, n, slots)


def at_latents(
    point: Mapping[str, np.ndarray], latents: Mapping[str, tuple[Any, tuple[int, ...]]], rows: Rows, n: int
) -> dict[str, Any]:
    """All that a parameter's graph asks for: the rows, the parameters, and every latent at one value."""
    return {**rows, **point, **{name: np.full((n, *shape), v) for name, (v, shape) in latents.items()}}


@dataclass(frozen=True)
class FamilyRows:
    """Observations of a family. pairs: which products of framed columns its statistics are, if they are.

    ones [F]: where they are not, which of them are the number 1 in every row of every block.
    """

    name: str
    y: Graph = field(repr=False)
    rule: Family = field(repr=False)
    frame: Frame | None = field(repr=False)
    core: int
    slots: tuple[int, ...]
    known: dict[str, Any] = field(repr=False)  # numbers, a Graph of the rows, or an Exposure
    width: int  # numbers in a row
    pairs: tuple[np.ndarray, np.ndarray] | None = field(repr=False)
    ones: np.ndarray | None = field(repr=False, default=None)

    def features(self, rows: Rows, n: int) -> Features:
        y = self.y(rows)
        if self.pairs is None:
            dense = _features(self.rule, self.frame, self.core, self.slots, y, self._known(rows, n))[1]
            if self.ones is None:
                return Features.of(dense)
            right = np.zeros(len(self.ones), dtype=np.int64)
            right[~self.ones] = 1 + np.arange((~self.ones).sum())
            return Features(n, (Source(dense[:, ~self.ones]),) if right.any() else (), np.zeros_like(right), right)
        source = Source(y.reshape(n, -1))
        if self.frame is not None:
            whiten = np.asarray(self.frame.whiten)
            copies = self.width // len(whiten)  # vectors in slots share one frame
            if copies > 1:
                whiten = np.kron(np.eye(copies), whiten)
            source = source._replace(centre=np.tile(self.frame.centre, copies), whiten=whiten)
        return Features(n, (source,), *self.pairs)

    def _known(self, rows: Rows, n: int) -> dict[str, Any]:
        found = {}
        for name, value in self.known.items():
            if isinstance(value, Exposure):
                found[name] = value(rows, n, self.slots)
            elif isinstance(value, Graph):
                found[name] = _rows_first(value(rows), (n, *self.slots), 0, 0)
            elif np.ndim(value):
                found[name] = np.broadcast_to(value, (n, *np.shape(value)[1:]))
            else:
                found[name] = value
        return found

    def measure(self, number: int, rows: Rows, n: int) -> Found:
        """Sum of the log base, and what holds of the statistics. Raises InvalidDataError outside the support."""
        y, known = self.y(rows), self._known(rows, n)
        self._check_exposure(number, rows, n)
        check_inside(self.name, self.rule, number, y, {k: v for k, v in known.items() if k != "exposure"})
        base, products, ones = 0.0, self.pairs is not None, np.array(True)
        for some in blocks(n, MEASURED_AT_ONCE):
            takes = _rows_of(known, some)
            z, t, by_row = _features(self.rule, self.frame, self.core, self.slots, y[some], takes)
            base += float(by_row.sum())
            ones = ones & (t == 1.0).all(axis=0)
            if products:
                z = np.concatenate([np.ones((len(z), 1)), z], axis=1)
                products = all(np.array_equal(z[:, a] * z[:, b], t[:, f]) for f, (a, b) in enumerate(zip(*self.pairs)))
        return Found(base, products, ones)

    def _check_exposure(self, number: int, rows: Rows, n: int) -> None:
        for exposure in (v for v in self.known.values() if isinstance(v, Exposure)):
            first, second = (exposure.at(i, rows, n, self.slots) for i in (0, 1))
            good = np.isfinite(first) & (first > 0) & (np.abs(first - second) <= AGREES * np.abs(first))
            if not good.all():
                raise _varies(self.name, self.rule.scale or "scale", number, good)


@dataclass(frozen=True)
class RegressionRows:
    """A Normal regression: framed columns and what is left of y are one affine map of the data of a row.

    raw: graphs whose columns are laid side by side, y last; framed row: (raw - centre) / scale @ slope + shift.
    """

    name: str
    raw: tuple[Graph, ...] = field(repr=False)
    y: Graph = field(repr=False)
    logs: bool
    centre: np.ndarray = field(repr=False)
    scale: np.ndarray = field(repr=False)
    slope: np.ndarray = field(repr=False)
    shift: np.ndarray = field(repr=False)
    pairs: tuple[np.ndarray, np.ndarray] = field(repr=False)
    base: float
    mu: Graph = field(repr=False)
    point: dict[str, np.ndarray] = field(repr=False)
    latents: tuple[dict[str, tuple[Any, tuple[int, ...]]], ...] = field(repr=False)
    means: tuple[np.ndarray, ...] = field(repr=False)  # [P, slots]: mean of framed columns, by configuration tried

    def framed(self, rows: Rows, n: int) -> np.ndarray:
        y = self.y(rows).reshape(n, -1)
        parts = [graph(rows).reshape(n, -1) for graph in self.raw] + [np.log(y) if self.logs else y]
        raw = np.concatenate(parts, axis=1, dtype=float)
        raw -= self.centre
        raw /= self.scale
        return raw @ self.slope + self.shift

    def features(self, rows: Rows, n: int) -> Features:
        return Features(n, (Source(self.framed(rows, n)),), *self.pairs)

    def measure(self, number: int, rows: Rows, n: int) -> Found:
        y = self.y(rows).reshape(n, -1)
        if self.logs and not (y > 0).all():
            row = int(np.argwhere(~(y > 0))[0][0])
            raise InvalidDataError(
                f"{self.name}[{row}] of block {number} is not positive",
                f"observed variable {self.name!r}, block {number}, row {row} of the block",
            )
        z = self.framed(rows, n)
        for latents, mean in zip(self.latents, self.means):
            wanted = self.mu(at_latents(self.point, latents, rows, n)).reshape(-1, mean.shape[1])
            got = z[:, : len(mean)] @ mean
            good = np.abs(wanted - got) <= AGREES * max(np.abs(wanted).max(), 1e-300)
            if not good.all():
                raise _varies(self.name, "mu", number, good)
        return Found(n * self.base - (float(np.log(y).sum()) if self.logs else 0.0))


def _varies(name: str, parameter: str, number: int, good: np.ndarray) -> UnsupportedModelError:
    row = int(np.argwhere(~good)[0][0])
    return UnsupportedModelError(
        f"{parameter} of {name} in block {number} does not follow from what it is in a sample of the rows",
        f"observed variable {name!r}, block {number}, row {row} of the block",
        ("let covariates enter by a linear map, on columns that vary in more than a few rows", *IN_MEMORY),
    )


class Scores(NamedTuple):
    """What one block adds to the covariance of the scores."""

    n: int
    covariance: np.ndarray


class Reader:
    """All that is read of a block's rows; travels to workers. parts: in the order of the plate's statistics."""

    def __init__(self, shapes: Sequence[Shape], parts: Sequence[Any], compiled: bool, alone: bool) -> None:
        self.shapes, self.parts, self.compiled, self.alone = list(shapes), tuple(parts), compiled, alone

    def features(self, rows: Rows) -> Features:
        n = len(next(iter(rows.values())))
        return Features.joined([part.features(rows, n) for part in self.parts])

    def measure(self, number: int, block: Any) -> Measure:
        """The block's base, looked at row by row. Raises InvalidDataError, UnsupportedModelError."""
        rows = checked(number, block, self.shapes, values=True)
        n = len(next(iter(rows.values())))
        found = tuple(part.measure(number, rows, n) if n else Found() for part in self.parts)
        return Measure(n, sum(one.base for one in found), found)

    def run(self, number: int, block: Any, eta: np.ndarray, hard: bool) -> Sums:
        """One pass over the block at eta [J, F]."""
        rows = checked(number, block, self.shapes, values=False)
        n = len(next(iter(rows.values())))
        if not n:
            return Sums(0, 0.0, np.zeros_like(eta), np.zeros(len(eta)))
        with np.errstate(all="ignore"):
            done = mixture(
                self.features(rows), eta, hard=hard, compiled=self.compiled,
                workers=threads() if self.compiled and self.alone else 1,
            )  # fmt: skip
        return Sums(n, done.log_likelihood, done.statistics, done.counts)

    def scores(self, number: int, block: Any, eta: np.ndarray) -> Scores:
        """Covariance of the scores of the block's rows at eta [J, F]: see `estep.missing`."""
        rows = checked(number, block, self.shapes, values=False)
        n = len(next(iter(rows.values())))
        data = PlateData(self.features(rows), np.broadcast_to(0.0, (n,)))
        return Scores(n, score_covariance(data, eta))
