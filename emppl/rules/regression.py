"""Normal regressions in natural form: the mean is a known linear map over the rows, the spread is one for all rows.

With mu[n, k] = A_n m_k(theta) the statistics 1, A_n y_n, A_n A_n' and y_n² are free of theta, and a fit costs nothing
in N. A is found by values (`structure.predictor`); m_k is mu restricted to a few rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from emppl.compiling import compile_graph
from emppl.kernels.features import Features, Source
from emppl.rules.natural import MAX_TRIALS, Deriver, NaturalForm, Refused, _rows_first
from emppl.rules.tables import Family, Frame
from emppl.structure.predictor import AGREES, NotLinear, linear_rows
from emppl.structure.restrict import Layout, Restriction
from emppl.structure.types import Factor, Plate

MAX_NUMBERS = 5e7  # rows × statistics that are kept
LOG_2PI = float(np.log(2 * np.pi))


@dataclass(frozen=True, eq=False)
class RegressionForm(NaturalForm):
    """Natural form of a Normal regression.

    basis [P]: the rows at which its mean is asked for; coefficients: of its orthogonal columns, in the frame, a graph
    [J, P, slots].
    """

    basis: np.ndarray = field(repr=False, default_factory=lambda: np.zeros(0, int))
    coefficients: Any = field(repr=False, default=None)

    def residuals(self, weights: np.ndarray) -> np.ndarray:
        """Squared residuals of each member [C, K] from K regressions, each on members with its own weights [C, K]."""
        p = len(self.basis)
        n_pairs, n_slots = p * (p + 1) // 2, int(np.prod(self.slots, dtype=int))
        i, j = np.triu_indices(p)
        answer = np.empty((len(self.features), weights.shape[1]))
        for k, sums in enumerate(self.features.weighted(weights)):
            square = np.zeros((p, p))
            square[i, j] = square[j, i] = sums[1 : 1 + n_pairs]
            cross = sums[1 + n_pairs + n_slots :].reshape(p, n_slots)
            beta = np.linalg.lstsq(square, cross, rcond=1e-9)[0]
            twice = np.where(i == j, 1.0, 2.0)
            eta = np.concatenate(
                [[0.0], twice * (beta[i] * beta[j]).sum(axis=1), np.ones(n_slots), -2.0 * beta.ravel()]
            )
            answer[:, k] = self.features.times(eta)
        return answer

    def cell_statistics(self, statistics: np.ndarray) -> np.ndarray:
        """Of each cell its count, [J × slots, 1]."""
        return np.repeat(statistics[:, :1], int(np.prod(self.slots, dtype=int)), axis=0)


def natural_form(deriver: Deriver, factor: Factor, plate: Plate | None) -> NaturalForm:
    """The natural form of a factor, over its plate (None: it depends on no latent). Raises Refused with the reason."""
    try:
        return deriver.without_latents(factor) if plate is None else deriver.over_plate(factor, plate)
    except Refused as reason:
        if not factor.shape or (plate is None and factor.kind != "observed"):
            raise
        refusal = reason
    if factor.kind == "observed" and isinstance(factor.op, pm.Normal | pm.LogNormal):
        whole = Layout(0, np.zeros(factor.shape[0], dtype=int), factor.shape[1:])
        try:
            return regression_form(deriver, factor, plate, whole if plate is None else deriver._layout(factor, plate))
        except Refused as reason:
            refusal = reason
    if plate is None:
        raise refusal
    try:
        return deriver.over_groups(factor, plate)
    except Refused as reason:
        news = "varies over the rows" in str(refusal) and str(reason) not in str(refusal)
        raise (Refused(f"{refusal}, and {reason}") if news else refusal) from None


def regression_form(deriver: Deriver, factor: Factor, plate: Plate | None, layout: Layout) -> RegressionForm:
    """The natural form of a Normal regression. Raises Refused with the reason."""
    if plate is not None and plate.tied:
        raise Refused("its mu varies over the rows, and its members are tied to each other by their latents")
    search = _Search(deriver, factor, plate, layout)
    try:
        basis, coefficients = linear_rows(search.means, deriver.rng)
    except NotLinear as reason:
        raise Refused(f"its mu varies over the rows, and {reason}") from None
    spread = search.spread()
    n, p = coefficients.shape
    n_slots = int(np.prod(layout.slots, dtype=int))
    n_features = 1 + p * (p + 1) // 2 + n_slots * (1 + p)
    own_rows = plate is not None and plate.size == n and np.array_equal(layout.members, np.arange(n))
    if not own_rows and n * n_features > MAX_NUMBERS:
        raise Refused(f"its mu has {p} known columns, and {n:,} rows × {n_features} statistics are too many to keep")
    y = np.moveaxis(np.asarray(factor.value.data, dtype=float), layout.axis, 0).reshape(n, n_slots)
    base = np.zeros(n)
    if isinstance(factor.op, pm.LogNormal):
        if not (y > 0).all():
            raise Refused("some observations are not positive")
        y = np.log(y)
        base -= y.sum(axis=1)
    if spread is not None:
        y, coefficients = y / spread[:, None], coefficients / spread[:, None]
        base -= n_slots * np.log(spread)
    # an orthogonal basis of unit columns, and y less what one regression for all explains: so no digits are lost
    columns, triangle = np.linalg.qr(coefficients)
    columns, triangle = columns * np.sqrt(n), triangle / np.sqrt(n)
    centre = columns.T @ y / n
    rest = y - columns @ centre
    scale = rest.std(axis=0)
    size = np.sqrt(np.mean(y**2, axis=0))
    scale = np.where(scale > 1e-10 * size, scale, np.where(size > 0, size, 1.0))
    rest = rest / scale
    base -= np.log(scale).sum()
    mu = search.restricted(0, basis).reshape((-1, p, n_slots))
    sigma = search.restricted(1, np.zeros(1, dtype=int)).reshape((-1, n_slots))
    beta = (pt.matmul(pt.constant(triangle), mu.astype("float64")) - centre) / scale
    eta = _natural(beta, sigma.astype("float64") / scale, p, n_slots)
    i, j = np.triu_indices(p)
    slots = p + np.arange(n_slots)
    left = np.concatenate([[0], 1 + i, 1 + slots, 1 + np.repeat(np.arange(p), n_slots)])
    right = np.concatenate([[0], 1 + j, 1 + slots, 1 + np.tile(slots, p)])
    features = Features(n, (Source(np.concatenate([columns, rest], axis=1)),), left, right)
    n_pairs = plate.n_configurations if plate is not None else 1
    if plate is None:
        features, base = Features.of(features.weighted(np.ones((n, 1)))), np.array([base.sum()])
    elif not own_rows:
        sums, total = np.zeros((plate.size, n_features)), np.zeros(plate.size)
        np.add.at(sums, layout.members, np.asarray(features))
        np.add.at(total, layout.members, base)
        features, base = Features.of(sums), total
    frame = Frame(np.zeros(n_pairs * n_slots), np.tile(scale, n_pairs), 0.0)
    params = {"sigma": pt.specify_shape(sigma.reshape((-1,)), n_pairs * n_slots)}
    return RegressionForm(
        factor, plate, features, base, eta, _family(factor), params, frame, None, layout.members, layout.axis,
        layout.slots, basis=basis, coefficients=beta,
    )  # fmt: skip


def _natural(beta: Any, sigma: Any, p: int, n_slots: int) -> Any:
    """eta [J, F] from coefficients [J, P, slots] and spreads [J, slots], both in the frame."""
    i, j = np.triu_indices(p)
    precision = 1.0 / sigma**2
    weighted = beta * precision[:, None, :]
    twice = np.where(i == j, 0.5, 1.0)
    return pt.concatenate(
        [
            -(pt.log(sigma) + 0.5 * LOG_2PI).sum(axis=1, keepdims=True),
            -twice * (weighted[:, i] * beta[:, j]).sum(axis=2),
            -0.5 * precision,
            weighted.reshape((-1, p * n_slots)),
        ],
        axis=1,
    )


def _family(factor: Factor) -> Family:
    """What tells a collapsing regression: its spread, beside that of one regression for all rows."""
    name = "LogNormal regression" if isinstance(factor.op, pm.LogNormal) else "Normal regression"
    return Family(
        name=name,
        parameters=("sigma",),
        describe="a known linear map of unknown coefficients, with Normal errors",
        statistic=lambda y: np.ones((*np.shape(y), 1)),
        natural=lambda sigma: sigma[:, None],
        log_base=lambda y: np.zeros(np.shape(y)),
        maximise=lambda statistics, groups, fixed, pseudo: None,
        inside=lambda y: np.isfinite(y),
        frame=None,
        into_frame=lambda frame, sigma: (sigma / frame.whiten,),
        narrowness=lambda values: values["sigma"] ** 2,
    )


class _Search:
    """Values of mu and sigma over all rows at random theta, with every member in one configuration at a time."""

    def __init__(self, deriver: Deriver, factor: Factor, plate: Plate | None, layout: Layout) -> None:
        self.deriver, self.factor, self.plate, self.layout = deriver, factor, plate, layout
        structure = deriver.structure
        nodes = structure.latents
        self.function = compile_graph(
            [*structure.coordinates.values, *[node.value for node in nodes]], list(factor.params)
        )
        n = plate.n_configurations if plate is not None else 1
        chosen = np.arange(n) if n <= MAX_TRIALS else np.sort(deriver.rng.choice(n, MAX_TRIALS, replace=False))
        first = {node.name: np.full(node.shape, node.support[0]) for node in nodes}
        given = [first if plate is None else deriver._assignment(plate, np.full(plate.size, j)) for j in chosen]
        self.assignments = [[latents[node.name].astype(node.value.dtype) for node in nodes] for latents in given]
        self.transformed = structure.coordinates.transformed

    def _arguments(self, draw: int, wide: bool = True) -> list[np.ndarray]:
        """theta of a draw. Numbers without a domain take many sizes, so that small columns are seen, and large ones."""
        rng = np.random.default_rng([11, draw])
        u = rng.normal(scale=0.5, size=len(self.transformed))
        if wide:
            u = np.where(self.transformed, u, u * 10.0 ** rng.uniform(-1, 5, size=len(u)))
        coordinates = self.deriver.structure.coordinates
        return coordinates.arguments(coordinates.constrain(u))

    def _evaluated(self, draw: int, wide: bool = True) -> list[list[np.ndarray]]:
        arguments = self._arguments(draw, wide)
        with np.errstate(all="ignore"):
            return [self.function(*arguments, *latents) for latents in self.assignments]

    def _rows(self, values: np.ndarray) -> np.ndarray:
        first = _rows_first(values, self.factor.shape, 0, self.layout.axis)
        return first.reshape(len(first), -1)

    def means(self, draw: int) -> np.ndarray:
        return np.concatenate([self._rows(mu) for mu, _ in self._evaluated(draw)], axis=1)

    def spread(self) -> np.ndarray | None:
        """Known numbers [N] that multiply the spread of each row; None where it is the same for all rows."""
        found: np.ndarray | None = None
        for draw in (0, 1):
            for _, sigma in self._evaluated(draw, wide=False):
                with np.errstate(all="ignore"):
                    ratio = self._rows(sigma)
                    ratio = ratio / ratio[:1]
                if not np.isfinite(ratio).all() or not (ratio > 0).all():
                    raise Refused("its sigma is no positive number")
                found = ratio[:, 0] if found is None else found
                if not np.allclose(ratio, found[:, None], rtol=AGREES, atol=0.0):
                    raise Refused("its sigma varies over the rows")
        return None if found is None or (found == 1.0).all() else found

    def restricted(self, which: int, rows: np.ndarray) -> Any:
        """mu or sigma at the given rows, configuration by configuration: [J × rows × slots]."""
        deriver, layout = self.deriver, self.layout
        if self.plate is None:
            restriction = Restriction.without_latents(rows)
        else:
            restriction = Restriction.over(self.plate, deriver.structure.scopes, rows, layout.members[rows])
        graph = self.factor.params[which]
        return deriver._restrict(restriction, graph, layout.axis, len(self.factor.shape), self.factor.shape, 0)
