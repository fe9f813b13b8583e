"""Checkpoints: what the starts of a fit have reached, in a file that the same call goes on from, to the same result."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import xarray as xr
from pytensor.graph.basic import Constant

from emppl.ascent.loop import Ascent, Status
from emppl.errors import InvalidArgumentError, SavedFitError
from emppl.inference.information import Information
from emppl.planner import Plan
from emppl.storage import read_sealed, target, write_sealed
from emppl.structure.identity import identity, identity_of_model
from emppl.structure.initial import initial_point

FORMAT = 1
SLOW_SECONDS = 1.0  # that writing may take after each start
SHARE_OF_TIME = 0.05  # at most, that is spent on writing where it takes longer
PASSES_SECONDS = 60.0  # between writes in the midst of a start
SAME_OBJECTIVE = 1e-8  # relative: two values at the same parameters, be it on two machines


class Checkpoint:
    """A file of finished starts. `call`: what they depend on, by name; a file of another call is refused."""

    def __init__(self, path: str | os.PathLike[str], call: Mapping[str, str], seed: int | None) -> None:
        """Go on from the file where there is one.

        seed: of the call; where it is None, `self.seed` is the one that the file was begun with. Raises
        InvalidArgumentError naming what differs, SavedFitError for a file that is no checkpoint or is damaged.
        """
        self.path, self.call = path, {**call, "seed": str(seed), "version of emppl": version("emppl")}
        self.seed = int(np.random.default_rng().integers(2**63)) if seed is None else seed
        self.done: dict[str, Ascent] = {}
        self.passes: dict[str, tuple[float, np.ndarray, np.ndarray]] = {}  # over streamed rows, of the start under way
        self._next_save, self._unsaved, self._rounds = 0.0, False, 0
        if target(path).exists():
            self._read()

    def round(self) -> Round:
        """Of the next search: a fit with windows makes several."""
        self._rounds += 1
        return Round(self, str(self._rounds))

    def noting(self, plan: Plan) -> Plan:
        """A plan over streamed rows whose passes are noted, so that a start can go on in its midst; others as given."""
        if plan.sample is None:
            return plan
        plates = [replace(plate, over=_Noted(plate.over, self)) for plate in plan.engine.plates]  # type: ignore[call-arg, attr-defined]
        return replace(plan, engine=plan.engine.with_data(plates))

    def put(self, key: str, ascent: Ascent) -> None:
        """A start that has ended, which is written at once, or soon where writing takes long."""
        self.done[key] = ascent
        self.passes.clear()
        self._unsaved = True
        if time.monotonic() >= self._next_save:
            self.save()

    def note(self, key: str, sums: Any) -> None:
        """A pass, which is written with the others from time to time."""
        self.passes[key] = sums.log_likelihood, sums.statistics, sums.counts
        self._unsaved = True
        if time.monotonic() >= self._next_save + PASSES_SECONDS:
            self.save()

    def flush(self) -> None:
        """Write what has not been written."""
        if self._unsaved:
            self.save()

    def save(self) -> None:
        """Written aside, then renamed: whenever this process ends, the file is the earlier or the new one, whole."""
        began, arrays = time.monotonic(), _Arrays()
        done = {key: arrays.packed(asdict(ascent)) for key, ascent in self.done.items()}
        head = {
            "format": FORMAT, "call": self.call, "seed": self.seed, "done": done, "passes": arrays.packed(self.passes)
        }  # fmt: skip
        numbers = xr.Dataset({"numbers": ("number", arrays.joined())}, attrs={"checkpoint": json.dumps(head)})
        write_sealed(self.path, xr.DataTree(numbers))
        ended, self._unsaved = time.monotonic(), False
        took = ended - began
        self._next_save = ended + (took / SHARE_OF_TIME if took > SLOW_SECONDS else 0.0)

    def _read(self) -> None:
        try:
            tree = read_sealed(self.path)
            head, numbers = json.loads(tree.attrs["checkpoint"]), np.asarray(tree["numbers"].values, dtype=float)
            if head["format"] != FORMAT:
                raise ValueError(f"its format is {head['format']!r}, and this version knows {FORMAT}")
            written, seed = dict(head["call"]), int(head["seed"])
            done = {str(key): _ascent(_unpacked(value, numbers)) for key, value in head["done"].items()}
            passes = {
                key: (float(value), np.asarray(statistics), np.asarray(counts))
                for key, (value, statistics, counts) in _unpacked(head["passes"], numbers).items()
            }
        except Exception as problem:  # whatever libraries say of contents that are not what they expect
            said = f"it has no {problem}" if isinstance(problem, KeyError) else str(problem) or type(problem).__name__
            raise SavedFitError(
                f"{os.fspath(self.path)!r} cannot be read as a checkpoint: {said}", "checkpoint",
                ("another name, or the file removed: the fit then begins anew",),
            ) from None  # fmt: skip
        differing = [name for name in self.call if written.get(name) != self.call[name]]
        if "data" in differing and "model" in differing:
            differing.remove("model")  # whose graph holds them
        if differing:
            raise InvalidArgumentError(
                f"the checkpoint {os.fspath(self.path)!r} is of another call: {', '.join(differing)} "
                f"{'differs' if len(differing) == 1 else 'differ'}",
                "checkpoint",
                ("another name for this call", "the file removed: the fit then begins anew"),
            )
        self.seed, self.done, self.passes = seed, done, passes


@dataclass(frozen=True)
class Round:
    """The starts of one search in a checkpoint."""

    checkpoint: Checkpoint
    name: str

    def stage(self, name: str) -> Round:
        """Runs of the same starts that end earlier or later."""
        return Round(self.checkpoint, f"{self.name} {name}")

    def get(self, start: int, plan: Plan) -> Ascent | None:
        """What a start of this plan reached in an earlier run of the same call; SavedFitError where it cannot have."""
        ascent = self.checkpoint.done.get(f"{self.name} {start}")
        said = None if ascent is None else _amiss(ascent, plan)
        if said is not None:
            raise SavedFitError(
                f"{os.fspath(self.checkpoint.path)!r} holds a start that this fit cannot have reached: {said}",
                f"checkpoint, start {start}",
                ("another name, or the file removed: the fit then begins anew",),
            )
        return ascent

    def put(self, start: int, ascent: Ascent) -> None:
        self.checkpoint.put(f"{self.name} {start}", ascent)

    def flush(self) -> None:
        self.checkpoint.flush()


@dataclass(frozen=True)
class _Noted:
    """A pass over all rows that is not made where it was noted."""

    over: Any
    checkpoint: Checkpoint

    @property
    def n(self) -> int:
        return int(self.over.n)

    def __call__(self, eta: np.ndarray, hard: bool) -> Any:
        key = identity([eta, hard])
        noted = self.checkpoint.passes.get(key)
        if noted is not None:
            from emppl.streaming.readers import Sums

            value, statistics, counts = noted
            return Sums(self.n, value, statistics.copy(), counts.copy())
        sums = self.over(eta, hard)
        self.checkpoint.note(key, sums)
        return sums

    def scores(self, eta: np.ndarray) -> np.ndarray:
        return np.asarray(self.over.scores(eta))


def call_of(plan: Plan, start: Any, **plain: Any) -> dict[str, str]:
    """What the result of a fit depends on, by name: text, or a hash of numbers."""
    structure, model = plan.structure, plan.structure.model
    values = [model.rvs_to_values[rv] for rv in model.observed_RVs]
    data: list[Any] = [(rv.name, _held(value)) for rv, value in zip(model.observed_RVs, values)]
    if plan.sample is not None:  # of all rows: their sums where the prior begins
        posterior = plan.e_step(initial_point(structure))
        data += [*posterior.statistics, *posterior.counts, posterior.objective]
    options = {name: value for name, value in plan.options.items() if value is not None}
    labels = [(node.name, node.dims) for node in (*structure.parameters, *structure.latents, *structure.observed)]
    return {
        "model": identity_of_model(structure, values), "data": identity(data), "estimate": plan.estimate,
        "method": plan.method, "options of the plan": identity(options), "frozen": identity(plan.frozen),
        "coords": identity([labels, structure.coords]), "start": identity(_points(start)),
        **{name: repr(value) for name, value in plain.items()},
    }  # fmt: skip


def _amiss(ascent: Ascent, plan: Plan) -> str | None:
    """Why a start that was read cannot be one of this plan: above all, its objective is that of its parameters."""
    structure, size = plan.structure, plan.structure.coordinates.size
    if not ascent.theta and structure.parameters:
        sound = (
            ascent.status is Status.FAILED and ascent.objective == -np.inf and not (len(ascent.path) or ascent.trace)
        )
        return None if sound else "it has no parameters"
    shapes = {node.name: tuple(node.shape) for node in structure.parameters}
    for theta in (ascent.theta, *ascent.trace):
        found = {name: np.shape(values) for name, values in theta.items()}
        if found != shapes:
            return f"its parameters have the shapes {found}, not {shapes}"
    if len(ascent.path) and ascent.path[-1] != ascent.objective:
        return f"its path ends at {ascent.path[-1]}, its objective is {ascent.objective}"
    known = ascent.information
    if known is not None:
        inner = int(np.count_nonzero(known.interior))
        shaped = (known.u, known.interior, known.corners, known.lost, known.gradient, known.information)
        if [np.shape(one) for one in shaped] != [(size,)] * 4 + [(inner,), (inner, inner)]:
            return "its information is not over the coordinates of these parameters"
    try:
        with np.errstate(all="ignore"):
            here = float(plan.e_step(ascent.theta).objective)
    except Exception as problem:  # whatever densities say of parameters that they cannot have
        return f"the objective cannot be found at its parameters ({type(problem).__name__})"
    if np.isfinite(ascent.objective):
        same = abs(here - ascent.objective) <= SAME_OBJECTIVE * max(1.0, abs(ascent.objective))
    else:
        same = not np.isfinite(here)
    return None if same else f"its objective is {ascent.objective}, that of its parameters {here}"


def _points(start: Any) -> Any:
    """What a start says of the parameters, be it of a Fit."""
    if isinstance(start, list | tuple):
        return [_points(one) for one in start]
    return start.point if hasattr(start, "point") else start


def _held(variable: Any) -> Any:
    if isinstance(variable, Constant):
        return variable.data
    return variable.get_value(borrow=True) if hasattr(variable, "get_value") else None


# -- ascents as JSON and one array of numbers --------------------------------------------------------------------------


class _Arrays:
    """Arrays laid end to end, and JSON in which their places stand for them."""

    def __init__(self) -> None:
        self.parts, self.size = [np.zeros(0)], 0

    def packed(self, value: Any) -> Any:
        """JSON of a value, whose arrays are taken in."""
        if isinstance(value, np.ndarray):
            start = self.size
            self.parts.append(np.asarray(value, dtype=float).ravel())
            self.size += value.size
            return {"array": [start, list(value.shape), value.dtype.str]}
        if isinstance(value, Mapping):
            return {"of": {str(key): self.packed(one) for key, one in value.items()}}
        if isinstance(value, list | tuple):
            return [self.packed(one) for one in value]
        if isinstance(value, Status):
            return value.name
        return value.item() if isinstance(value, np.generic) else value

    def joined(self) -> np.ndarray:
        return np.concatenate(self.parts)


def _unpacked(value: Any, numbers: np.ndarray) -> Any:
    if isinstance(value, dict) and "array" in value:
        start, shape, dtype = value["array"]
        size = int(np.prod(shape, dtype=int))
        if np.dtype(dtype).kind not in "biuf" or not 0 <= start <= start + size <= len(numbers):
            raise ValueError("an array lies outside of its numbers")
        return numbers[start : start + size].astype(np.dtype(dtype)).reshape(shape)
    if isinstance(value, dict):
        return {key: _unpacked(one, numbers) for key, one in value["of"].items()}
    return [_unpacked(one, numbers) for one in value] if isinstance(value, list) else value


def _ascent(fields: dict[str, Any]) -> Ascent:
    known = fields["information"]
    read: dict[str, Callable[[Any], Any]] = {
        "objective": float, "reason": _text, "n_iter": int, "n_passes": int, "gain_left": float, "largest_fall": float,
        "path": _line, "theta": _arrays, "trace": lambda several: [_arrays(one) for one in several], "collapsed": bool,
        "status": Status.__getitem__, "information": lambda _: None if known is None else Information(**known),
    }  # fmt: skip
    return Ascent(**{name: read[name](value) for name, value in fields.items()})


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} is no text")
    return value


def _line(value: Any) -> np.ndarray:
    if np.ndim(value) != 1:
        raise ValueError("a path is not one number an iteration")
    return np.asarray(value)


def _arrays(value: Any) -> dict[str, np.ndarray]:
    if not isinstance(value, dict) or not all(isinstance(one, np.ndarray) for one in value.values()):
        raise TypeError("parameters are not arrays by name")
    return value
