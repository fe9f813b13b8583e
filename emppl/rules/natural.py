"""Factor → natural form: features of the data once, and a small graph eta(theta) that costs nothing in N."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pytensor.tensor as pt

from emppl.compiling import FEW, compile_graph
from emppl.errors import InvalidDataError
from emppl.kernels.features import Features, Source
from emppl.rules.factors import triangular_factor
from emppl.rules.tables import Family, Frame, family
from emppl.structure.restrict import CannotRestrict, Layout, Restriction, layout_of
from emppl.structure.types import Factor, Plate, Structure

MAX_ROW_GROUPS = 64  # groups of rows with parameters of their own, each with its own statistics
SPARSEST = 16  # members × groups for each row; beyond it nearly all statistics would be zero
MAX_VALUES = 1e7  # parameters evaluated while looking for groups
MAX_FEATURES = 5e7  # numbers in the features of one factor
MAX_GROUPS = 256  # rows with known, differing parameters are worth grouping up to here
AGREES = 1e-9
FAR = 100.0  # widths, at one of the two points where parameters are compared by values
BOTH = slice(None)  # of the random points
MAX_TRIALS = 64  # configurations that are all checked by values
MAX_CHECKED = 2e7  # members × configurations up to which they are
PROVED = 1e6  # numbers × configurations of all rows from which on a proof that rows are alike takes their place


class Refused(Exception):
    """Why a factor has no natural form; shown by `print(plan)`."""


@dataclass(frozen=True, eq=False)
class NaturalForm:
    """<eta [J, F], features [C, F]> + base [C] is a factor's log density by member and configuration.

    F = slots × S. Without a plate, J counts groups of rows with equal parameters and `features` holds their sums
    [J, F]. For the closed form: `params` are the op's unknown parameters [J × slots, *core] as graphs, and
    `cell_statistics` turns expected statistics [J, F] into those of each cell.
    """

    factor: Factor
    plate: Plate | None
    features: Features = field(repr=False)
    base: np.ndarray = field(repr=False)
    eta: Any = field(repr=False)
    family: Family | None = field(repr=False, default=None)
    params: dict[str, Any] = field(repr=False, default_factory=dict)
    frame: Frame | None = field(repr=False, default=None)  # by cell
    value_statistics: np.ndarray | None = field(repr=False, default=None)  # latent factors: T(z_j) [J, slots, S]
    members: np.ndarray | None = field(repr=False, default=None)
    axis: int = 0
    slots: tuple[int, ...] = ()
    # numbers of trials, exposure: [rows, *slots]; the number of categories
    known: dict[str, np.ndarray | int] = field(repr=False, default_factory=dict)
    featurise: Callable[..., tuple[np.ndarray, np.ndarray]] | None = field(repr=False, default=None)

    def cell_statistics(self, statistics: np.ndarray) -> np.ndarray:
        """Expected statistics [J, F] as those of each cell, [J × slots, S]."""
        if self.value_statistics is not None:
            counts = statistics.reshape(-1, 1, 1)  # of each configuration and group of rows
            return (counts * self.value_statistics).reshape(-1, self.value_statistics.shape[-1])
        return statistics.reshape(self._n_cells, -1)

    @cached_property
    def _n_cells(self) -> int:
        return int(next(iter(self.params.values())).type.shape[0])


class Deriver:
    """Derives natural forms of the factors of one structure; random points for its checks by values are drawn once."""

    def __init__(self, structure: Structure, seed: int = 7) -> None:
        self.structure = structure
        rng = np.random.default_rng(seed)
        coordinates = structure.coordinates
        u = rng.normal(scale=0.5, size=(2, coordinates.size))
        u[1, ~coordinates.transformed] *= FAR  # beside a known offset of a million widths a width is hardly seen
        points = [coordinates.constrain(v) for v in u]
        self.arguments = [coordinates.arguments(theta) for theta in points]
        self.rng = rng
        self.total = sum(node.size for node in structure.latents)

    # -- entry points --------------------------------------------------------------------------------------------

    def over_plate(self, factor: Factor, plate: Plate) -> NaturalForm:
        """The natural form of a factor that touches this plate alone. Raises Refused with the reason."""
        return self._of_rows(factor, plate, self._layout(factor, plate), np.zeros(1, dtype=int))

    def over_groups(self, factor: Factor, plate: Plate) -> NaturalForm:
        """The same where rows have known, differing parameters: `error_rates[rater, class[item]]`.

        Rows with equal parameters are a group, and each group is one more axis of cells, with statistics of its own. So
        ratings in long form cost what a table of counts would, and have its closed-form M-step.
        """
        layout = self._layout(factor, plate)
        group, first = self._row_groups(factor, plate, layout)
        return self._of_rows(factor, plate, replace(layout, groups=group), first)

    def _of_rows(self, factor: Factor, plate: Plate, layout: Layout, first: np.ndarray) -> NaturalForm:
        restriction = Restriction.over(plate, self.structure.scopes, first, layout.members[first])
        form = self._of_observed if factor.kind == "observed" else self._of_latent
        return form(factor, plate, layout, restriction)

    def _row_groups(self, factor: Factor, plate: Plate, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
        """Rows with the same parameters in every configuration: group of each row, first row of each group."""
        graphs, cores = [factor.log_density], [0]
        if factor.kind == "observed":
            rule = self._family(factor)
            unknown, _ = self._split(factor, rule)
            graphs, cores = [graph for _, graph in unknown], self._cores(factor, rule, unknown)
        n, n_rows = plate.n_configurations, len(layout.members)
        most = min(MAX_ROW_GROUPS, n_rows // 2, SPARSEST * n_rows // plate.size)
        many = Refused(f"it takes more than {most} different values over the rows for the same latents")
        if n > MAX_TRIALS or n * factor.size > MAX_VALUES:
            raise Refused("the rows are too many to look for groups among them")
        evaluate = self._evaluator(graphs)
        keys: np.ndarray | None = None
        for latents, configuration, _ in self._trials(plate):
            draws = evaluate(latents)
            values = [_rows_first(v, factor.shape, c, layout.axis) for draw in draws for v, c in zip(draw, cores)]
            flat = np.concatenate([v.reshape(n_rows, -1) for v in values], axis=1)
            keys = np.full((n_rows, n, flat.shape[1]), np.nan) if keys is None else keys
            keys[np.arange(n_rows), configuration[layout.members]] = flat
            if len(np.unique(flat[: 2 * n * most + 1], axis=0)) > n * most:
                raise many
        if keys is None or np.isnan(keys).all(axis=2).any():
            raise Refused("not all values of its latents could be tried at each row")
        rounded = np.nan_to_num(keys.reshape(n_rows, -1), nan=-1.0, neginf=-1e300, posinf=1e300)
        scale = np.abs(rounded).max(axis=0)
        _, first, group = np.unique(
            np.round(rounded / np.where(scale > 0, scale, 1.0), 11), axis=0, return_index=True, return_inverse=True
        )
        if len(first) > most:
            raise many
        return group.ravel(), first

    def without_latents(self, factor: Factor) -> NaturalForm:
        """Observations that depend on no latent: rows with equal parameters are one group, and N is gone at once."""
        rule = self._family(factor)
        if not factor.shape:
            raise Refused("a single observation: nothing to add up")
        unknown, _ = self._split(factor, rule)
        full = self._numbers([p for _, p in unknown], {})
        rows = [
            [_rows_first(v, factor.shape, core, 0) for v, core in zip(draw, self._cores(factor, rule, unknown))]
            for draw in full
        ]
        keys = np.concatenate([r.reshape(factor.shape[0], -1) for draw in rows for r in draw], axis=1)
        _, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        if len(first) > MAX_GROUPS:
            raise Refused(f"its parameters take {len(first)} different values over the rows")
        layout = Layout(0, group.ravel(), factor.shape[1:])
        restriction = Restriction.without_latents(first)
        return self._of_observed(factor, None, layout, restriction, groups=group.ravel(), n_groups=len(first))

    # -- steps -----------------------------------------------------------------------------------------------------

    def _layout(self, factor: Factor, plate: Plate) -> Layout:
        try:
            return layout_of(factor, plate)
        except CannotRestrict as reason:
            raise Refused(str(reason)) from None

    def _family(self, factor: Factor) -> Family:
        if factor.op is None:
            raise Refused("its density is not that of one plain distribution")
        rule = family(factor.op)
        if rule is None:
            raise Refused(f"{_op_name(factor.op)} is not registered as an exponential family")
        return rule

    def _split(self, factor: Factor, rule: Family) -> tuple[list[tuple[str, Any]], dict[str, np.ndarray]]:
        unknown, known = [], {}
        graphs = dict(zip(rule.parameters, factor.params))
        for name in (*rule.known, *rule.constant):
            graph = graphs[name]
            values = [np.asarray(v[0]) for v in self._numbers([graph], {})]
            if not np.array_equal(values[0], values[1]):
                raise Refused(f"its {name} is free: {rule.name} is no exponential family in it")
            if self.structure.scopes is not None and graph in self.structure.scopes.scope:
                raise Refused(f"its {name} depends on a latent")
            if name in rule.constant and np.ptp(values[0]) > 0:
                raise Refused(f"its {name} varies over the rows, and {rule.name} takes one number")
            known[name] = values[0]
        unknown = [(name, graphs[name]) for name in rule.parameters if name not in rule.known]
        return unknown, known

    def _cores(self, factor: Factor, rule: Family, unknown: list[tuple[str, Any]]) -> list[int]:
        cores = dict(zip(rule.parameters, factor.op.ndims_params))
        return [cores[name] for name, _ in unknown]

    def _numbers(
        self, graphs: list[Any], latents: dict[str, np.ndarray], extra: list[Any] | None = None
    ) -> list[list[np.ndarray]]:
        """The graphs' values at both random points, with the latents at the given values."""
        return self._evaluator(graphs)(latents)

    def _evaluator(self, graphs: list[Any]) -> Callable[..., list[list[np.ndarray]]]:
        nodes = self.structure.latents
        inputs = [*self.structure.coordinates.values, *[node.value for node in nodes]]
        small = sum(factor.size for factor in self.structure.factors) <= FEW
        function = compile_graph(inputs, graphs, optimise=not small)

        def evaluate(latents: dict[str, np.ndarray], points: slice = BOTH) -> list[list[np.ndarray]]:
            values = [latents.get(node.name, np.full(node.shape, node.support[0])) for node in nodes]
            given = [np.asarray(v, dtype=node.value.dtype) for v, node in zip(values, nodes)]
            with np.errstate(all="ignore"):
                return [function(*arguments, *given) for arguments in self.arguments[points]]

        return evaluate

    def _trials(self, plate: Plate, numbers: int = 1) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray, slice]]:
        """Assignments to check at, by element and by member, and which of the random points they are checked at.

        Every configuration at every member and both points while that is affordable, else a few random ones at either
        point in turn. numbers: how many are compared for each member.
        """
        n = plate.n_configurations
        affordable = n * plate.size * numbers <= MAX_CHECKED and n <= MAX_TRIALS
        few = 4 if plate.size * numbers <= MAX_CHECKED else 2
        if plate.tied:  # members share elements: what one takes, others must
            for turn in range(min(4 * n, MAX_TRIALS) if affordable else few):
                latents = random_latents(self.structure, self.rng)
                points = BOTH if affordable else slice(turn % 2, turn % 2 + 1)
                yield latents, configurations_at(self.structure, plate, latents), points
            return
        if affordable:
            turns = [(np.arange(plate.size) + shift) % n for shift in range(n)]
        else:
            turns = [self.rng.integers(n, size=plate.size) for _ in range(few)]
        for turn, configuration in enumerate(turns):
            points = BOTH if affordable else slice(turn % 2, turn % 2 + 1)
            yield self._assignment(plate, configuration), configuration, points

    def _assignment(self, plate: Plate, configuration: np.ndarray) -> dict[str, np.ndarray]:
        flat = np.zeros(self.total, dtype="int64")
        for node in self.structure.latents:
            start = self.structure.offsets[node.name]
            flat[start : start + node.size] = node.support[0]
        flat[plate.members] = plate.configurations[configuration]
        return {
            node.name: flat[self.structure.offsets[node.name] :][: node.size].reshape(node.shape)
            for node in self.structure.latents
        }

    def _restrict(
        self, restriction: Restriction, graph: Any, axis: int, batch_ndim: int, shape: tuple[int, ...], core: int
    ) -> Any:
        """A parameter restricted to the pairs: [pairs, *slots, *core]. `shape`: batch shape of the factor."""
        own_axis = axis - (batch_ndim - (graph.type.ndim - core))
        try:
            small = restriction(graph, own_axis)
        except CannotRestrict as reason:
            raise Refused(str(reason)) from None
        if own_axis >= 0:
            order = [own_axis, *[i for i in range(small.type.ndim) if i != own_axis]]
            small = small.dimshuffle(order)
        else:
            small = small[None]
        pairs = len(restriction.rows)
        slots = tuple(n for a, n in enumerate(shape) if a != axis)
        missing = 1 + len(slots) - (small.type.ndim - core)
        for _ in range(missing):
            small = pt.expand_dims(small, 1)
        core_shape = tuple(small.shape[small.type.ndim - core + i] for i in range(core))
        static = small.type.shape[small.type.ndim - core :]
        core_shape = tuple(s if s is not None else c for s, c in zip(static, core_shape))
        full = pt.broadcast_to(small, (pairs, *slots, *core_shape))
        return full.reshape((pairs * int(np.prod(slots, dtype=int)), *core_shape))

    def _of_latent(self, factor: Factor, plate: Plate, layout: Layout, restriction: Restriction) -> NaturalForm:
        try:
            log_density = restriction(factor.log_density, layout.axis)
        except CannotRestrict as reason:
            raise Refused(str(reason)) from None
        small = log_density.dimshuffle(layout.axis, *[a for a in range(len(factor.shape)) if a != layout.axis])
        small = (
            pt.broadcast_to(small, (len(restriction.rows), *layout.slots))
            if not restriction.carries(factor.log_density, layout.axis)
            else small
        )
        if not self._is_proved(restriction, plate, layout, factor.size):
            self._check_density(factor, plate, layout, small)
        counts = np.zeros((plate.size, layout.n_groups))
        np.add.at(counts, (layout.members, layout.groups), 1.0)
        eta = small.reshape((plate.n_configurations, layout.n_groups, -1)).sum(axis=2)
        features = Features.of(counts)
        form = NaturalForm(factor, plate, features, _nothing(plate.size), eta, members=layout.members, axis=layout.axis)
        if factor.kind != "latent" or factor.op is None or not (counts.sum(axis=1) == 1).all():
            return form
        rule = family(factor.op)
        if rule is None or rule.known or rule.constant:
            return form
        try:
            unknown, _ = self._split(factor, rule)
            params, _ = self._small_params(factor, rule, unknown, layout, restriction, plate)
        except Refused:
            return form
        values = np.asarray(restriction(factor.value, layout.axis).data)
        values = np.moveaxis(values, layout.axis, 0).reshape(len(restriction.rows), -1)
        sizes = (
            {"size": int(params["p"].type.shape[-1])}
            if rule.name == "Categorical" and params["p"].type.shape[-1]
            else {}
        )
        if rule.name == "Categorical" and not sizes:
            return form
        statistics = rule.statistic(values, **sizes)
        return NaturalForm(
            factor,
            plate,
            features,
            _nothing(plate.size),
            eta,
            rule,
            params,
            None,
            statistics,
            layout.members,
            layout.axis,
            (layout.n_groups, *layout.slots),
        )

    def _check_density(self, factor: Factor, plate: Plate, layout: Layout, small: Any) -> None:
        """Raise Refused where the density of a row is not that of its configuration."""
        evaluate = self._evaluator([factor.log_density, small])
        for latents, configuration, points in self._trials(plate):
            for full, mini in evaluate(latents, points):
                _agree(np.moveaxis(full, layout.axis, 0), mini[layout.pairs(configuration)], "its density")

    def _is_proved(self, restriction: Restriction, plate: Plate, layout: Layout, numbers: int) -> bool:
        """Whether every row is the same function of parameters and configuration, where values would be many."""
        many = numbers * plate.n_configurations > PROVED
        return many and layout.n_groups == 1 and restriction.is_alike(layout.members)

    def _small_params(
        self,
        factor: Factor,
        rule: Family,
        unknown: list[tuple[str, Any]],
        layout: Layout,
        restriction: Restriction,
        plate: Plate | None,
    ) -> tuple[dict[str, Any], np.ndarray | None]:
        """The unknown parameters by cell, checked by values over the whole plate; and a known exposure, if any."""
        batch_ndim = len(factor.shape)
        cores = self._cores(factor, rule, unknown)
        small = {
            name: self._restrict(restriction, graph, layout.axis, batch_ndim, factor.shape, core)
            for (name, graph), core in zip(unknown, cores)
        }
        numbers = int(sum(np.prod([m or 1 for m in graph.type.shape[1:]]) for graph in small.values()))
        if plate is not None and self._is_proved(restriction, plate, layout, factor.size * numbers):
            return small, None
        evaluate = self._evaluator([*[g for _, g in unknown], *small.values()])
        trials = [({}, None, BOTH)] if plate is None else self._trials(plate, numbers)
        exposure = None
        for latents, configuration, points in trials:
            pair_of_row = layout.members if configuration is None else layout.pairs(configuration)
            for draw in evaluate(latents, points):
                for i, ((name, _), core) in enumerate(zip(unknown, cores)):
                    full = _rows_first(draw[i], factor.shape, core, layout.axis)
                    mini = draw[len(unknown) + i]
                    mini = mini.reshape(-1, *layout.slots, *mini.shape[1:])[pair_of_row]
                    scaled = name == rule.scale
                    if scaled and (exposure is not None or not np.allclose(full, mini, rtol=AGREES, atol=0)):
                        with np.errstate(all="ignore"):
                            ratio = full / mini
                        exposure = ratio if exposure is None else exposure
                        _agree(ratio, exposure, f"its {name}")
                    else:
                        _agree(full, mini, f"its {name}")
        if exposure is not None and (plate is None or not (np.isfinite(exposure) & (exposure > 0)).all()):
            raise Refused(f"its {rule.scale} varies over the rows")
        if exposure is not None:
            factor_of_first = self._known_factor(small[rule.scale])
            small[rule.scale] = small[rule.scale] / factor_of_first
            exposure = exposure * factor_of_first
        return small, exposure

    def _known_factor(self, graph: Any) -> float:
        """The number by which a restricted parameter is a multiple of elements of theta; 1 where it is none.

        Exposures are known up to one factor only; this one makes the parameter the user's own, which its prior knows.
        """
        values = [np.ravel(draw[0]) for draw in self._numbers([graph], {})]
        thetas = [np.concatenate([np.ravel(v) for v in arguments]) for arguments in self.arguments]
        with np.errstate(all="ignore"):
            ratios = [v[:1] / t for v, t in zip(values, thetas)]
        same = np.isclose(ratios[0], ratios[1], rtol=AGREES, atol=0.0) & (ratios[0] > 0)
        for ratio in ratios[0][same]:
            if all(np.isin(np.round(v / ratio, 12), np.round(t, 12)).all() for v, t in zip(values, thetas)):
                return float(ratio)
        return 1.0

    def _natural(self, rule: Family, frame: Frame | None, params: dict[str, Any]) -> Any:
        """The family's natural parameters of all cells, in the frame of the data where it has one."""
        if frame is None:
            return rule.natural(*params.values())
        if rule.natural_of_factor is not None:
            *others, cov = params.values()
            factor = triangular_factor(cov, lambda graph: [draw[0] for draw in self._numbers([graph], {})])
            if factor is None:  # taken into the frame, a covariance loses the square of what the frame stretches
                factor = pt.linalg.cholesky(cov, on_error="nan")
            return rule.natural_of_factor(frame, *others, factor)
        return rule.natural(*rule.into_frame(frame, *params.values()))

    def _of_observed(
        self,
        factor: Factor,
        plate: Plate | None,
        layout: Layout,
        restriction: Restriction,
        groups: np.ndarray | None = None,
        n_groups: int = 0,
    ) -> NaturalForm:
        rule = self._family(factor)
        unknown, known = self._split(factor, rule)
        params, exposure = self._small_params(factor, rule, unknown, layout, restriction, plate)
        core = factor.op.ndim_supp
        y = np.asarray(factor.value.data)
        y = np.moveaxis(y, layout.axis, 0)
        known = {name: _rows_first(v, factor.shape, 0, layout.axis) for name, v in known.items()}
        sizes = {"size": int(params["p"].type.shape[-1])} if rule.name == "Categorical" else {}
        check_support(self.structure, factor, rule, y, layout.axis, known | sizes)
        extras = known | sizes | ({"exposure": exposure} if exposure is not None else {})
        n_slots = int(np.prod(layout.slots, dtype=int))
        framed_by = self.structure.frames.get(factor.name, y)
        frame = self._frame(rule, framed_by, params, n_slots, core) if rule.frame is not None else None
        in_cells = _by_cell(frame, len(restriction.rows), core) if frame is not None else None

        def featurise(rows: np.ndarray, **takes: Any) -> tuple[np.ndarray, np.ndarray]:
            return _features(rule, frame, core, layout.slots, rows, takes)[1:]

        size = plate.size if plate is not None else n_groups
        own_rows = layout.n_groups == 1 and size == len(y) and np.array_equal(layout.members, np.arange(size))
        _, first, _ = _features(rule, frame, core, layout.slots, y[:1], _rows_of(extras, slice(0, 1)))
        width = layout.n_groups * first.shape[1]
        if not own_rows and size * width > MAX_FEATURES:
            raise Refused(f"it would need {size * width:.2g} statistics")
        eta = self._natural(rule, in_cells, params).reshape((len(restriction.rows) // layout.n_groups, width))
        if own_rows:
            features, base = _of_own_rows(rule, frame, core, layout.slots, y, extras)
        else:
            rows, by_row = featurise(y, **extras)
            sums, base = np.zeros((size, layout.n_groups, rows.shape[1])), np.zeros(size)
            np.add.at(sums, (layout.members, layout.groups), rows)
            np.add.at(base, layout.members, by_row)
            features = Features.of(sums.reshape(size, width))
        return NaturalForm(
            factor,
            plate,
            features,
            base,
            eta,
            rule,
            params,
            in_cells,
            None,
            layout.members,
            layout.axis,
            layout.slots if layout.n_groups == 1 else (layout.n_groups, *layout.slots),
            extras,
            featurise if layout.n_groups == 1 else None,
        )

    def _frame(self, rule: Family, y: np.ndarray, params: dict[str, Any], n_slots: int, core: int) -> Frame:
        """Frame of the data: one for vectors, one a slot for numbers unless slots share a parameter."""
        if core:
            return rule.frame(y)
        flat = y.reshape(len(y), n_slots)
        tied = n_slots > 1 and self._slots_share(params, n_slots)
        return Frame(*(np.broadcast_to(part, (n_slots,)) for part in rule.frame(flat.reshape(-1, 1) if tied else flat)))

    def _slots_share(self, params: dict[str, Any], n_slots: int) -> bool:
        """Whether a parameter is the same number in several slots: they then need one frame to be added up in."""
        (first, *_) = self._numbers(list(params.values()), {})
        for values in first:
            by_slot = values.reshape(-1, n_slots)
            if any(len(np.unique(row)) < n_slots for row in by_slot):
                return True
        return False


def _by_cell(frame: Frame, pairs: int, core: int) -> Frame:
    return frame if core else Frame(*(np.tile(part, pairs) for part in frame))


def _features(
    rule: Family, frame: Frame | None, core: int, slots: tuple[int, ...], y: np.ndarray, takes: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Framed observations [rows, D], statistics [rows, slots × S] and log base [rows] of observations y.

    y [rows, *slots, *core].
    """
    log_jacobian: Any = 0.0
    y = np.asarray(y, dtype=float) if np.asarray(y).dtype.kind == "f" else y
    if frame is not None and core:
        y, log_jacobian = (y - frame.centre) @ frame.whiten.T, frame.log_jacobian
    elif frame is not None:
        y = ((y.reshape(len(y), -1) - frame.centre) / frame.whiten).reshape(y.shape)
        log_jacobian = np.reshape(frame.log_jacobian, slots)
    statistic = rule.statistic(y, **takes)
    log_base = rule.log_base(y, **{k: v for k, v in takes.items() if k != "size"}) + log_jacobian
    by_row = np.broadcast_to(log_base, (len(y), *slots)).reshape(len(y), -1).sum(axis=1)
    return y.reshape(len(y), -1), statistic.reshape(len(y), -1), by_row


def _of_own_rows(
    rule: Family, frame: Frame | None, core: int, slots: tuple[int, ...], y: np.ndarray, extras: dict[str, Any]
) -> tuple[Features, np.ndarray]:
    """Features and log base of rows that are members themselves, a block at a time."""
    base = np.empty(len(y))

    def evaluate(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        framed, statistics, base[rows] = _features(rule, frame, core, slots, y[rows], _rows_of(extras, rows))
        return framed, statistics

    source = Source(y.reshape(len(y), -1))
    if frame is not None:
        whiten = np.asarray(frame.whiten)
        copies = source.array.shape[1] // len(whiten)  # vectors in slots share one frame
        if copies > 1:
            whiten = np.kron(np.eye(copies), whiten)
        source = source._replace(centre=np.tile(frame.centre, copies), whiten=whiten)
    features = Features.products(source, evaluate)
    return features, base if np.ptp(base) else np.broadcast_to(base[:1], base.shape)


def _rows_of(takes: dict[str, Any], rows: slice) -> dict[str, Any]:
    """What the statistics take beside the observations, at some rows."""
    return {name: value if np.ndim(value) == 0 else value[rows] for name, value in takes.items()}


def _nothing(size: int) -> np.ndarray:
    return np.broadcast_to(0.0, (size,))


def random_latents(structure: Structure, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A value for each latent element, drawn evenly from its support."""
    return {node.name: rng.choice(node.support, size=node.shape) for node in structure.latents}


def configurations_at(structure: Structure, plate: Plate, latents: dict[str, np.ndarray]) -> np.ndarray:
    """The configuration [C] that each member of a plate is in, given all latent elements."""
    flat = np.zeros(sum(node.size for node in structure.latents), dtype="int64")
    for node in structure.latents:
        flat[structure.offsets[node.name] :][: node.size] = np.ravel(latents[node.name])
    values, index = flat[plate.members], np.zeros(plate.size, dtype=int)
    for slot, name in enumerate(plate.latents):
        support = structure.node(name).support
        order = np.argsort(support)
        index = index * len(support) + order[np.searchsorted(support[order], values[:, slot])]
    return index


def check_support(
    structure: Structure, factor: Factor, rule: Family, y: np.ndarray, axis: int, known: dict[str, Any]
) -> None:
    """Raise InvalidDataError naming the first observation that the family cannot produce. y: rows first."""
    inside = np.asarray(rule.inside(y, **known))
    if inside.all():
        return
    place = tuple(int(i) for i in np.argwhere(~inside)[0])
    node = structure.node(factor.name)
    index = list(place[1:])
    index.insert(axis, place[0])
    coords = [structure.coords[dim] for dim in node.dims]
    names = ", ".join(  # rows of new data may lie beyond the coordinates of the model's own
        f"{dim} {coord[i] if i < len(coord) else i}" for dim, coord, i in zip(node.dims, coords, index)
    )
    sizes = ", ".join(f"{k}={np.broadcast_to(v, inside.shape)[place]:g}" for k, v in known.items() if k != "size")
    where = ", ".join(map(str, index))
    distribution = f"{rule.name}({sizes})" if sizes else rule.name
    raise InvalidDataError(
        f"{factor.name}[{where}] = {y[place]} is outside the support of {distribution}",
        f"observed variable {factor.name!r}, {names}",
        (
            "correct the value, or mask it: np.ma.masked_invalid / np.ma.masked_equal",
            f"choose a distribution whose support holds it ({rule.name}: {rule.describe})",
        ),
    )


def _rows_first(values: np.ndarray, shape: tuple[int, ...], core: int, axis: int) -> np.ndarray:
    values = np.asarray(values)
    core_shape = values.shape[values.ndim - core :]
    return np.moveaxis(np.broadcast_to(values, (*shape, *core_shape)), axis, 0)


def _agree(full: np.ndarray, small: np.ndarray, what: str) -> None:
    same = np.array_equal(full, small)  # a fraction of the time, and mostly so
    if not same and not np.allclose(full, small, rtol=AGREES, atol=0.0, equal_nan=True):
        raise Refused(f"{what} varies over the rows of the plate")


def _op_name(op: Any) -> str:
    name = getattr(op, "_print_name", None)
    return name[0] if name else type(op).__name__
