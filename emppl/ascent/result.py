"""Fit: the mode, how it was reached, and what can be asked of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import expit, ndtri

from emppl.arguments import Seed, as_path, as_seed, as_whole
from emppl.ascent.certificate import Certificate, Point
from emppl.ascent.loop import NEWTON_LIMIT, Ascent, Status
from emppl.compiling import untraced
from emppl.errors import InvalidArgumentError, InvalidDataError, SavedFitError, UnsupportedModelError
from emppl.inference.information import Information, observed_information
from emppl.inference.laplace import laplace_draws, standard_errors
from emppl.interrupts import put_off
from emppl.kernels.threads import one_blas_thread
from emppl.planner import Plan
from emppl.portable import Portable
from emppl.progress import watching
from emppl.rules.natural import check_support
from emppl.storage import read_sealed, write_sealed
from emppl.structure.types import Structure
from emppl.text import visible

FORMAT = 2
LARGEST = 2**63  # whole number in a file
MOST_WORK = 3e11  # members times coordinates, over all gradients of an information matrix: some minutes
MEMBERS_OF_A_GRAPH = 10_000  # that take as long as the graph of the parameters does, for each coordinate
Theta = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Fit(Portable):
    """The estimate of a model's parameters. `theta` is on the parameters' own scale, with the model's dims and coords.

    log_posterior = log_likelihood + log_prior is the objective, no Jacobian (log_prior is 0 for estimate="ml"). n_iter
    and n_passes (E-steps) are those of the winning start; `trace` is its path; `starts` has a row for every start.
    """

    theta: xr.Dataset
    log_likelihood: float
    log_prior: float
    log_posterior: float
    status: Status
    n_iter: int
    n_passes: int
    seconds: float
    trace: xr.Dataset = field(repr=False)
    starts: pd.DataFrame = field(repr=False)
    certificate: Certificate = field(repr=False)
    plan: Plan | SavedPlan = field(repr=False)
    traces: list[np.ndarray] = field(repr=False)
    seed: int | None
    information: Information | None = field(repr=False)

    def __repr__(self) -> str:
        points = self.certificate.points
        return (
            f"Fit({self.plan.structure.name!r}: log posterior {self.log_posterior:.4f}, {self.status.name}, "
            f"{self.n_passes} E-steps, certificate {sum(p.holds for p in points)} of {len(points)})"
        )

    def __str__(self) -> str:
        head = (
            f"log posterior {self.log_posterior:.4f}   "
            f"(log-likelihood {self.log_likelihood:.4f}, log prior {self.log_prior:.4f})   "
            f"{self.status.name.lower()}: {self.status.value} · {self.n_passes} E-steps · {self.seconds:.2f} s"
        )
        lines = [head, str(self.certificate), ""]
        if self._takes_long:
            return visible("\n".join([*lines, f"fit.summary() makes standard errors: {self._cost}"]))
        return visible("\n".join([*lines, self.summary().to_string(index=False)]))

    @property
    def point(self) -> Theta:
        """The free parameters as {name: array}, constrained scale."""
        return {name: self.theta[name].values for name in self.plan.structure.parameter_names}

    # -- what follows from the mode --------------------------------------------------------------------------------

    @property
    def _is_streamed(self) -> bool:
        """Whether the rows came from a source, so that nothing is known of single ones."""
        return isinstance(self.plan, Plan) and self.plan.sample is not None

    @property
    def _is_to_be_made(self) -> bool:
        """Whether the curvature is not known, and can be."""
        ended = self.status not in (Status.DEGENERATE, Status.INTERRUPTED)
        known = self.information is not None or "curvature" in self.__dict__
        return bool(ended and not known and isinstance(self.plan, Plan) and self.plan.method == "em" and self.point)

    @property
    def _takes_long(self) -> bool:
        """Whether the curvature is made only when errors are asked for, since that takes minutes or more."""
        return self._is_to_be_made and not is_affordable(self.plan)

    @property
    def _cost(self) -> str:
        assert isinstance(self.plan, Plan)  # it is to be made
        coordinates, members = self.plan.structure.coordinates.size, sum(self.plan.engine.sizes)
        passes = f"up to {2 * coordinates:,} passes over {members:,} members"
        return f"the curvature in {coordinates:,} coordinates takes {passes}"

    @cached_property
    def curvature(self) -> Information | None:
        """`information`, made now where the fit left it out; None where there is none."""
        if not self._is_to_be_made:
            return self.information
        with watching(None) as watcher, one_blas_thread(), untraced():
            watcher.say(f"standard errors: {self._cost}")
            return observed_information(self.plan, self.plan.structure.coordinates.unconstrain(self.point))

    @cached_property
    def _errors(self) -> Theta:
        if isinstance(self.plan, SavedPlan):
            return {str(n): v.values for n, v in self.plan.stored["standard_errors"].items()}
        return standard_errors(self.plan, self.curvature)

    def standard_errors(self) -> xr.Dataset:
        """Standard errors from the observed information (delta method); nan on a border or where not identified.

        Made at the first call where the fit has left them out (`standard_errors=False`, or thousands of coordinates).
        """
        return _dataset(self.plan.structure, self._errors)

    def intervals(self, level: float = 0.95) -> xr.Dataset:
        """Wald's intervals at `level`, on the scale on which NUTS sees each parameter: dims ("interval_end", *dims).

        That is the log of a positive parameter and the logit of one between two bounds, a probability above all, so
        that an interval stays in the domain. nan where there is no standard error. Those of `summary`, and of
        `emppl.compare`.
        """
        half, found = float(ndtri(0.5 + level / 2)), {}
        for name, values in self.theta.data_vars.items():
            error = self._errors.get(str(name), np.full(values.shape, np.nan))
            ends = _wald(np.asarray(values.values, float), half * error, *self._bounds(str(name)))
            found[str(name)] = xr.DataArray(np.stack(ends), dims=("interval_end", *values.dims), coords=values.coords)
        return xr.Dataset(found).assign_coords(interval_end=["low", "high"])

    def summary(self, level: float = 0.95) -> pd.DataFrame:
        """One row a number: parameter, index, estimate, standard_error, low, high; the ends are `intervals(level)`."""
        ends, rows = self.intervals(level), []
        for name, values in self.theta.data_vars.items():
            errors = self._errors.get(str(name), np.full(values.shape, np.nan))
            low, high = ends[name].values
            for index in np.ndindex(*values.shape):
                label = ", ".join(str(values.coords[d].values[i]) for d, i in zip(values.dims, index))
                numbers = (float(array[index]) for array in (values.values, errors, low, high))
                rows.append((str(name), label, *numbers))
        return pd.DataFrame(rows, columns=["parameter", "index", "estimate", "standard_error", "low", "high"])

    def _scale(self, name: str) -> str | None:
        """The scale on which a parameter's interval is symmetric: that of PyMC's transform."""
        if isinstance(self.plan, SavedPlan):
            return self.plan.structure.scales.get(name)
        return getattr(self.plan.structure.node(name).transform, "name", None)

    def _bounds(self, name: str) -> tuple[Any, Any]:
        """Lower and upper bound of a parameter, infinite where there is none; of each element where they differ."""
        scale = self._scale(name)
        if scale == "interval":
            low, high = self._limits.get(name, (-np.inf, np.inf))
            return low, high
        return {"log": (0.0, np.inf), "logodds": (0.0, 1.0), "simplex": (0.0, 1.0)}.get(str(scale), (-np.inf, np.inf))

    @cached_property
    def _limits(self) -> dict[str, Any]:
        """Bounds [2, *shape] of the parameters that PyMC keeps between two numbers, or on one side of one."""
        if isinstance(self.plan, SavedPlan):
            return {str(n): v.values for n, v in self.plan.stored["bounds"].items()}
        coordinates, found = self.plan.structure.coordinates, {}
        for name in self.plan.structure.parameter_names:
            if self._scale(name) == "interval":
                ends = []
                for far in (-800.0, 800.0):  # where a sigmoid and an exponential are 0, or 1 and infinite
                    u = coordinates.off_the_border(coordinates.unconstrain(self.point), 36.0)
                    u[coordinates.slices[name]] = far
                    with np.errstate(over="ignore"):
                        ends.append(coordinates.constrain(u)[name])
                found[name] = np.stack(ends)
        return found

    @cached_property
    def _responsibilities(self) -> xr.Dataset:
        if isinstance(self.plan, SavedPlan):
            return self.plan.stored["responsibilities"]
        structure = self.plan.structure
        arrays = {}
        for name, values in self.plan.responsibilities(self.point).items():
            node = structure.node(name)
            coords = {d: structure.coords[d] for d in node.dims} | {f"{name}_value": node.support}
            arrays[name] = xr.DataArray(values, dims=(*node.dims, f"{name}_value"), coords=coords, name=name)
        return xr.Dataset(arrays)

    def responsibilities(self) -> xr.Dataset:
        """Posterior probability of each value of each latent, given the estimate.

        Dims: (*latent dims, "<latent>_value"). Raises UnsupportedModelError where rows were streamed: `predict` has
        them for rows that fit in memory.
        """
        return self._responsibilities

    def assign(self) -> xr.Dataset:
        """The most probable joint value of each member's latents."""
        if isinstance(self.plan, SavedPlan):
            return self.plan.stored["assignment"]
        return _dataset(self.plan.structure, self.plan.assignment(self.point))

    def predict(self, data: Mapping[str, Any]) -> xr.Dataset:
        """Responsibilities for new members: {observed name: array}, rows first; numbers of trials as "<observed>.n".

        For natural-form observations of one plate. Raises UnsupportedModelError where the model has others.
        """
        r, _, plate = self._new_members(data)
        return self._by_value(r, plate)

    def density(self, data: Mapping[str, Any], theta: Mapping[str, np.ndarray] | None = None) -> xr.Dataset:
        """Density of new members together with each latent's value, p(y, z); summed over the values it is p(y).

        Data as for `predict`; `theta`: other parameters than the estimate, such as a draw of the posterior.
        """
        r, by_member, plate = self._new_members(data, theta)
        return self._by_value(r * np.exp(by_member)[:, None], plate)

    def _by_value(self, table: np.ndarray, plate: Any) -> xr.Dataset:
        """A table [member, configuration] summed to the values of each latent."""
        arrays = {}
        for slot, name in enumerate(plate.latents):
            node = self.plan.structure.node(name)
            assert node.support is not None  # every latent has one
            marginal = np.stack(
                [table[:, plate.configurations[:, slot] == v].sum(axis=1) for v in node.support], axis=1
            )
            arrays[name] = xr.DataArray(
                marginal, dims=("member", f"{name}_value"), coords={f"{name}_value": node.support}
            )
        return xr.Dataset(arrays)

    def score(self, data: Mapping[str, Any]) -> float:
        """Log-likelihood of new members at the estimate; data as for `predict`."""
        return float(self._new_members(data)[1].sum())

    def _new_members(
        self, data: Mapping[str, Any], theta: Mapping[str, np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray, Any]:
        from emppl.kernels.features import Features

        if isinstance(self.plan, SavedPlan):
            raise SavedFitError(
                "a loaded fit has no model, so it cannot evaluate new data", "fit.predict / fit.score",
                ("fit = emppl.fit(model, start=loaded, starts=0)",),
            )  # fmt: skip
        plan = self.plan
        entries = [e for e in plan.factors if e.plates]
        unready = [e for e in entries if e.form is None or (e.factor.kind == "observed" and e.form.featurise is None)]
        remedy = "build the model on the new data and use emppl.plan(new_model).responsibilities(fit.point)"
        if len(plan.structure.plates) != 1 or unready:
            raise UnsupportedModelError(
                "prediction for new members needs one plate whose observations all have a natural form",
                "fit.predict / fit.score", (remedy,),
            )  # fmt: skip
        for entry in entries:
            if not _is_row_by_member(entry, plan.structure.plates[0].size):
                raise UnsupportedModelError(
                    f"the rows of {entry.factor.name} are not the members one by one, alike but for what is observed, "
                    "so that new rows do not say which member they belong to",
                    "fit.predict / fit.score", (remedy,),
                )  # fmt: skip
        observed = {e.factor.name: e for e in entries if e.factor.kind == "observed"}
        missing = set(observed) - set(data)
        if missing:
            raise InvalidArgumentError(f"new data lack {', '.join(sorted(missing))}", "fit.predict / fit.score")
        size = len(np.asarray(data[next(iter(observed))]))
        parts, base = [], np.zeros(size)
        for entry in entries:
            form = entry.form
            assert form is not None  # as checked above
            if entry.factor.kind != "observed":
                parts.append(Features.of(np.repeat(np.asarray(form.features)[:1], size, axis=0)))
                continue
            assert form.family is not None and form.featurise is not None  # as checked above
            y = np.asarray(data[entry.factor.name])
            node = plan.structure.node(entry.factor.name)
            wanted = tuple(n for a, n in enumerate(node.shape) if a != form.axis)
            if y.shape[1:] != wanted or len(y) != size:
                raise InvalidDataError(
                    f"new {node.name} has shape {y.shape}, not ({size}, {', '.join(map(str, wanted))})",
                    f"observed variable {node.name!r}",
                )
            known = {k: self._known(node.name, k, v, size, data) for k, v in form.known.items()}
            check_support(
                plan.structure, entry.factor, form.family, y, 0, {k: v for k, v in known.items() if k != "exposure"}
            )
            features, log_base = form.featurise(y, **known)
            parts.append(Features.of(features))
            base += log_base
        done = plan.engine.of_new(
            plan.structure.coordinates.arguments(self.point if theta is None else theta), Features.joined(parts), base
        )
        assert done.responsibilities is not None and done.by_member is not None  # kept
        return done.responsibilities, done.by_member, plan.structure.plates[0]

    def _known(self, name: str, key: str, values: Any, size: int, data: Mapping[str, Any]) -> Any:
        given = data.get(f"{name}.{key}")
        if given is not None:
            return np.asarray(given)
        if np.ndim(values) == 0:
            return values
        if np.ptp(values, axis=0).any():
            raise InvalidArgumentError(
                f"new data lack {name}.{key}, which varies over the rows", f"data[{name + '.' + key!r}]"
            )
        return np.broadcast_to(values[:1], (size, *np.shape(values)[1:]))

    def to_datatree(self, draws: int = 1000, seed: Seed = 0) -> xr.DataTree:
        """Laplace draws as a `posterior` of one chain, so that every ArviZ function works on a fit.

        Centred at the mode of the unconstrained density, Jacobian included, which is what NUTS sees (estimate="map");
        for "ml" the normal approximation of the estimator. Groups: posterior, point_estimate, latent.
        """
        structure, draws = self.plan.structure, as_whole(draws, "draws", 1)
        if isinstance(self.plan, SavedPlan):
            sample = self.plan.stored["laplace"].isel(draw=slice(None, draws))
        else:
            arrays = laplace_draws(
                self.plan, self.point, None if self._takes_long else self.curvature, draws, as_seed(seed)
            )
            sample = _dataset(structure, {k: v[None] for k, v in arrays.items()}, ("chain", "draw"))
        sample = sample.assign_attrs(inference_library="emppl", method="Laplace approximation")
        tree = {"posterior": sample, "point_estimate": self.theta}
        return xr.DataTree.from_dict(tree if self._is_streamed else tree | {"latent": self.responsibilities()})

    # -- disk --------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the fit as netCDF: numbers and JSON text only, so that loading it never executes code; and a checksum.

        Errors that would take minutes are written only once they have been asked for.
        Written aside, then renamed, as `storage.write_bytes` says: OSError on a full disk, InvalidArgumentError for a
        folder or a device.
        """
        as_path(path, "path")
        structure = self.plan.structure
        head = {
            "format": FORMAT, "emppl": version("emppl"), "model": structure.name, "fingerprint": fingerprint(structure),
            "estimate": self.plan.estimate, "method": self.plan.method, "plan": str(self.plan),
            "status": self.status.name,
            "log_likelihood": self.log_likelihood, "log_prior": self.log_prior, "log_posterior": self.log_posterior,
            "n_iter": self.n_iter, "n_passes": self.n_passes, "seconds": self.seconds, "seed": self.seed,
            "parameters": list(structure.parameter_names),
            "scales": {name: scale for name in structure.parameter_names if (scale := self._scale(name))},
            "points": [[p.name, p.holds, p.value, p.limit, p.text] for p in self.certificate.points],
            "notes": list(self.certificate.notes),
            "starts": json.loads(self.starts.to_json(orient="split", double_precision=15)),
            "traces": [[float(v) for v in t] for t in self.traces],
        }  # fmt: skip
        errors = standard_errors(self.plan, None) if self._takes_long else self._errors
        tree = xr.DataTree.from_dict(
            {
                "/": xr.Dataset(attrs={"emppl": json.dumps(head, default=_plain)}),
                "theta": self.theta.drop_attrs(),
                "trace": self.trace.drop_attrs(),
                "responsibilities": xr.Dataset() if self._is_streamed else self.responsibilities().drop_attrs(),
                "assignment": xr.Dataset() if self._is_streamed else self.assign().drop_attrs(),
                "standard_errors": _dataset(structure, errors).drop_attrs(),
                "bounds": _dataset(structure, self._limits, ("end",)).drop_attrs(),
                "laplace": self.to_datatree()["posterior"].to_dataset().drop_attrs(),
            }
        )
        return write_sealed(path, tree)


def is_affordable(plan: Any) -> bool:
    """Whether the 2 P gradients of the information matrix are to be had within minutes."""
    size = plan.structure.coordinates.size
    members = sum(plan.engine.sizes)
    return size <= NEWTON_LIMIT or 2.0 * size * size * (members + MEMBERS_OF_A_GRAPH) <= MOST_WORK


def _is_row_by_member(entry: Any, n_members: int) -> bool:
    """Whether a new row of a natural form is a new member, with the parameters that all members have."""
    form = entry.form
    if entry.factor.kind != "observed":
        rows = np.asarray(form.features)
        return bool((rows == rows[:1]).all())
    return form.members is None or np.array_equal(form.members, np.arange(n_members))


@dataclass(frozen=True, eq=False)
class SavedPlan:
    """What a loaded fit remembers of its plan: the printed text, and the model's names and shapes, but no model."""

    structure: Any
    estimate: str
    method: str
    text: str
    stored: dict[str, Any] = field(repr=False)

    def __str__(self) -> str:
        return visible(self.text)


@dataclass(frozen=True, eq=False)
class SavedStructure:
    """Name, fingerprint, parameters and coordinates of the model that a loaded fit belongs to."""

    name: str
    fingerprint: str
    parameter_names: tuple[str, ...]
    dims: dict[str, tuple[str, ...]]
    coords: dict[str, np.ndarray]
    scales: dict[str, str]

    def node(self, name: str) -> Any:
        return type("SavedNode", (), {"name": name, "dims": self.dims[name]})()


def fingerprint(structure: Structure | SavedStructure) -> str:
    """Names and shapes of a model's variables: two models that differ here cannot share a fit."""
    if isinstance(structure, SavedStructure):
        return structure.fingerprint
    parts = [f"{n.role}:{n.name}:{n.shape}" for n in (*structure.parameters, *structure.latents, *structure.observed)]
    return "|".join(sorted(parts))


def load(path: str | os.PathLike[str]) -> Fit:
    """A fit written by `Fit.save`. It holds results, not the model: refit with `emppl.fit(model, start=loaded)`.

    Raises SavedFitError for whatever is no such file: missing, damaged, changed since, of another origin or of a later
    version. Nothing in the file is executed and no link in it is followed.
    """
    as_path(path, "path", SavedFitError)
    try:
        tree = read_sealed(path)
        head = json.loads(tree.attrs["emppl"])
        written = head["format"]
        if type(written) is not int or not 1 <= written <= LARGEST:
            raise ValueError(f"its format is {str(written)[:40]!r}, not a number from 1 on")
        if written <= FORMAT:
            return _read(head, {key: tree[key].to_dataset() for key in tree.children})
    except FileNotFoundError:
        raise SavedFitError(f"there is no file {path}", "emppl.load") from None
    except Exception as problem:  # whatever libraries say of contents that are not what they expect
        said = f"it has no {problem}" if isinstance(problem, KeyError) else str(problem) or type(problem).__name__
        raise SavedFitError(f"{os.fspath(path)!r} cannot be read as a saved fit: {said}", "emppl.load") from None
    raise SavedFitError(
        f"{path} was written by emppl {head.get('emppl', 'later')}, in format {written}; this version knows {FORMAT}",
        "emppl.load",
        ("update emppl",),
    )


def _read(head: dict[str, Any], groups: dict[str, xr.Dataset]) -> Fit:
    """The fit that a file's JSON and arrays describe; KeyError, TypeError or ValueError where they describe none."""
    theta, trace, names = groups["theta"], groups["trace"], tuple(_texts(head["parameters"], "parameters"))
    scales = dict(zip(_texts(head["scales"], "scales"), _texts(head["scales"].values(), "scales")))
    for key in ("responsibilities", "assignment", "standard_errors", "bounds", "laplace"):
        groups[key]  # none is missing
    for group in ("theta", "standard_errors", "bounds", "responsibilities", "laplace", "trace"):
        for name, values in groups[group].data_vars.items():
            if values.dtype.kind not in "biuf":
                raise TypeError(f"{group}/{name} holds no numbers")
    for name in names:
        if not np.isfinite(theta[name].values).all():
            raise ValueError(f"the estimate of {name} is no finite number")
        kept: list[tuple[str, tuple[str, ...]]] = [("standard_errors", ()), ("laplace", ("chain", "draw"))]
        if name in groups["bounds"] or scales.get(name) == "interval":
            kept.append(("bounds", ("end",)))
        for group, lead in kept:
            if groups[group][name].dims != (*lead, *theta[name].dims):
                raise ValueError(f"{group}/{name} has the dims {groups[group][name].dims}")
    if trace["log_posterior"].dims != ("iteration",):
        raise ValueError("the trace is not one number an iteration")
    starts = pd.DataFrame(head["starts"]["data"], columns=head["starts"]["columns"])
    points = tuple(Point(*point) for point in head["points"])
    for point in points:
        if not (isinstance(point.name, str) and isinstance(point.text, str) and isinstance(point.holds, bool)):
            raise TypeError("a point of the certificate is not a name, whether it holds, two numbers and a text")
        _number(point.value, "a point of the certificate"), _number(point.limit, "a point of the certificate")
    dims = {str(n): tuple(str(d) for d in v.dims) for n, v in theta.items()}
    coords = {str(k): v.values for k, v in theta.coords.items()}
    model, print_, estimate, method, text = _texts(
        [head[key] for key in ("model", "fingerprint", "estimate", "method", "plan")], "model, estimate or plan"
    )
    structure = SavedStructure(model, print_, names, dims, coords, scales)
    height, prior, objective, seconds = (
        _number(head[key], key) for key in ("log_likelihood", "log_prior", "log_posterior", "seconds")
    )
    n_iter, n_passes = (int(_number(head[key], key)) for key in ("n_iter", "n_passes"))
    return Fit(
        theta, height, prior, objective, Status[head["status"]], n_iter, n_passes, seconds, trace, starts,
        Certificate(points, tuple(_texts(head["notes"], "notes"))),
        SavedPlan(structure, estimate, method, text, groups),
        [np.array(t, dtype=float).reshape(len(t)) for t in head["traces"]], head["seed"], None,
    )  # fmt: skip


def _texts(values: Any, what: str) -> list[str]:
    """The texts of a list; TypeError where something else is among them."""
    values = list(values)
    if not all(isinstance(value, str) for value in values):
        raise TypeError(f"{what} is not made of texts")
    return values


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} is {str(value)[:40]!r}, not a number")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError(f"{what} is a number of {len(str(abs(value)))} digits")
    return value


def make_fit(
    plan: Plan, winner: Ascent, status: Status, information: Information | None, certificate: Certificate,
    starts: pd.DataFrame, traces: list[np.ndarray], seed: int | None, seconds: float,
) -> Fit:  # fmt: skip
    """Dress the winning ascent with names, dims and coords."""
    structure = plan.structure
    posterior = plan.e_step(winner.theta)
    theta = _dataset(structure, winner.theta | plan.deterministics(winner.theta))
    steps, stacked = len(winner.path), {}
    if len(winner.trace) == steps > 0:  # a short run that came first keeps its objective alone
        stacked = {name: np.stack([t[name] for t in winner.trace]) for name in structure.parameter_names}
    points, coords = _with_dims(structure, stacked, ("iteration",))
    trace = _whole_dataset(
        {"log_posterior": (("iteration",), winner.path), **points}, {"iteration": np.arange(steps), **coords}
    )
    return Fit(
        theta, posterior.log_likelihood, posterior.log_prior, posterior.objective, status, winner.n_iter,
        winner.n_passes, seconds, trace, starts, certificate, plan, traces, seed, information,
    )  # fmt: skip


def _wald(estimate: np.ndarray, half: np.ndarray, lower: Any, upper: Any) -> tuple[np.ndarray, np.ndarray]:
    """estimate ± half to first order, bent so that it stays between the bounds: on a logit or a log scale.

    All arrays [*shape]; an infinite bound is none, and one that the estimate lies on bends nothing.
    """
    below, above = estimate - lower, upper - estimate
    two = (below > 0) & (above > 0) & np.isfinite(below) & np.isfinite(above)
    with np.errstate(all="ignore"):
        logit, spread = np.log(below / above), half * (1 / below + 1 / above)
        bent = [lower + (upper - lower) * expit(logit + sign * spread) for sign in (-1, 1)]
        up = [lower + below * np.exp(sign * half / below) for sign in (-1, 1)]
        down = [upper - above * np.exp(-sign * half / above) for sign in (-1, 1)]
        plain = [estimate - half, estimate + half]
    is_up, is_down = (below > 0) & np.isfinite(below) & ~two, (above > 0) & np.isfinite(above) & ~two
    choices = zip(bent, up, down, plain, strict=True)
    low, high = (np.select([two, is_up, is_down], [a, b, c], default=d) for a, b, c, d in choices)
    return low, high


def _dataset(structure: Any, arrays: Mapping[str, np.ndarray], lead: tuple[str, ...] = ()) -> xr.Dataset:
    return _whole_dataset(*_with_dims(structure, arrays, lead))


def _with_dims(
    structure: Any, arrays: Mapping[str, np.ndarray], lead: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """{name: (dims, array)} and {dim: labels} of arrays by name."""
    dims = {name: structure.node(name).dims for name in arrays}
    coords = {d: structure.coords[d] for own in dims.values() for d in own}
    return {name: ((*lead, *dims[name]), values) for name, values in arrays.items()}, coords


def _whole_dataset(variables: Mapping[str, tuple[Any, Any]], coords: Mapping[str, np.ndarray]) -> xr.Dataset:
    """A Dataset of {name: (dims, array)} and {dim: labels}.

    Of variables and indexes that are whole, since xarray imports dask, where it is installed, to see whether others are
    made of it: that takes longer than many a fit.
    """
    made = {name: xr.Variable(dims, np.asarray(values), fastpath=True) for name, (dims, values) in variables.items()}
    if any(labels.dtype.kind not in "biU" and labels.dtype != np.float64 for labels in coords.values()):
        with put_off():
            return xr.Dataset(made, coords=coords)  # times and objects, which xarray reads in its own way
    indexes = {d: xr.indexes.PandasIndex(pd.Index(labels), d, coord_dtype=labels.dtype) for d, labels in coords.items()}
    found = {d: index.create_variables()[d] for d, index in indexes.items()}
    return xr.Dataset(made, coords=xr.Coordinates(found, indexes))


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as JSON knows them; anything else by its text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
