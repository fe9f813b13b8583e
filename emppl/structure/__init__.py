"""pm.Model → Structure: roles, factors, scopes, plates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

from emppl.compiling import building, compile_graph
from emppl.errors import InvalidArgumentError, UnsupportedModelError
from emppl.structure.coordinates import Coordinates
from emppl.structure.faults import check_indices, check_overflow
from emppl.structure.graph import Reading
from emppl.structure.plates import plates_of
from emppl.structure.topology import Scopes
from emppl.structure.types import Factor, Node, Plate, Structure
from emppl.structure.variables import distribution_text

__all__ = ["Factor", "Node", "Plate", "Structure", "analyse"]


def analyse(
    model: Any,
    *,
    latents: Sequence[str] | None = None,
    support: Mapping[str, Any] | None = None,
    freeze: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> Structure:
    """What is in a pm.Model: parameters, latents, observed variables, factors, plates.

    latents: names of free discrete variables to integrate out besides those found; support: {name: values} bounds
    a count without an upper end; freeze: {name: value} keeps a parameter at a value.
    Raises UnsupportedModelError with the names met and the ways out.
    """
    if pytensor.config.floatX != "float64":
        raise UnsupportedModelError(
            f"pytensor.config.floatX is {pytensor.config.floatX!r}, in which a log density has 7 digits: EM, and the "
            "checks of its result, need the 16 of float64",
            "pytensor.config.floatX",
            ("leave it at float64, in the model's file and in the environment (PYTENSOR_FLAGS)",),
        )
    with building():
        return _analysed(model, latents, support, freeze, name)


def _analysed(
    model: Any, latents: Sequence[str] | None, support: Mapping[str, Any] | None, freeze: Mapping[str, Any] | None,
    name: str | None,
) -> Structure:  # fmt: skip
    reading = Reading(model, latents, support, freeze)
    unknown = set(support or {}) - {node.name for node in reading.latents}
    if unknown:
        raise InvalidArgumentError(
            f"support names {', '.join(sorted(unknown))}, which is no latent variable",
            f"latent variables: {', '.join(node.name for node in reading.latents) or 'none'}",
        )
    check_overflow(model.observed_RVs, model.basic_RVs)
    _check_frozen_values(reading)
    check_indices(reading.factors, reading.parameters, reading.latents)
    coordinates = Coordinates(reading.parameters)
    rng = np.random.default_rng(20240229)
    theta = coordinates.constrain(rng.normal(scale=0.3, size=coordinates.size))
    point = dict(zip(coordinates.values, coordinates.arguments(theta)))
    factors, offsets, scopes = list(reading.factors), {}, None
    if reading.latents:
        factors = _added_up(factors, reading.latents, point)
        touched = [f for f in factors if f.latents]
        graphs = [g for f in touched for g in (f.log_density, *f.params)]
        scopes = Scopes(graphs, reading.latents, point)
        offsets = scopes.offsets
        known = {f.name: scopes.matrix(f.log_density) for f in touched if f.log_density in scopes.scope}
        factors = [replace(f, scope=known.get(f.name)) if f.latents else f for f in factors]
        scopes.scope |= dict.fromkeys(scopes.scope)  # from here on it is asked alone what depends on latents
    plates, eliminations = plates_of(reading.latents, factors)
    structure = Structure(
        name=name or getattr(model, "name", "") or "model",
        model=model,
        parameters=tuple(reading.parameters),
        latents=tuple(reading.latents),
        observed=tuple(reading.observed),
        deterministics=tuple(reading.deterministics),
        factors=tuple(factors),
        plates=plates,
        eliminations=eliminations,
        coords=reading.coords,
        offsets=offsets,
        scopes=scopes,
        coordinates=coordinates,
        frozen=reading.frozen,
        support_given={node.name: node.support for node in reading.latents if node.name in (support or {})},
        dropped=reading.dropped,
    )
    structure.__dict__["_doubles"] = reading.doubles  # for the check of the log joint
    return structure


def _added_up(factors: list[Factor], latents: Sequence[Node], point: dict[Any, np.ndarray]) -> list[Factor]:
    """Terms of one sum whose elements hang on the same latents one by one are added up again: one factor, not many."""
    parts = Counter(f.variable for f in factors)
    apart = [f for f in factors if parts[f.variable] > 1]
    if not apart:
        return factors
    scopes = Scopes([f.log_density for f in apart if f.latents], latents, point)
    groups: dict[tuple[Any, ...], list[Factor]] = {}
    for factor in apart:
        scope = scopes.matrix(factor.log_density).tocsr() if factor.latents else None
        if scope is not None:
            scope.sort_indices()
        key = () if scope is None else (scope.indices.tobytes(), scope.indptr.tobytes())
        groups.setdefault((factor.variable, factor.shape, key), []).append(factor)
    joined: dict[str, Factor] = {}
    count: Counter[str] = Counter()
    for (variable, *_), terms in groups.items():
        count[variable] += 1
        names = {name for term in terms for name in term.parameters}
        joined[terms[0].name] = replace(
            terms[0],
            name=f"{variable} ({count[variable]})" if count[variable] > 1 else variable,
            log_density=pt.add(*[t.log_density for t in terms]) if len(terms) > 1 else terms[0].log_density,
            parameters=tuple(n for n in dict.fromkeys(p for f in factors for p in f.parameters) if n in names),
            latents=tuple(n.name for n in latents if any(n.name in t.latents for t in terms)),
        )
    kept = (joined.get(f.name) if parts[f.variable] > 1 else f for f in factors)
    return [f for f in kept if f is not None]


def _check_frozen_values(reading: Reading) -> None:
    """A frozen value that its own prior rules out is a slip of the user's."""
    for factor in reading.factors:
        if factor.name in reading.frozen and not factor.parameters:
            density = float(compile_graph([], factor.log_density.sum())())
            if not np.isfinite(density):
                value = reading.frozen[factor.name]
                rv = next(rv for rv in reading.model.free_RVs if rv.name == factor.name)
                raise InvalidArgumentError(
                    f"{factor.name} cannot be frozen at {value.tolist()}: "
                    f"its prior {distribution_text(rv)} gives that no density",
                    f"freeze={{{factor.name!r}: ...}}",
                    ("freeze it at a value in its support",),
                )
