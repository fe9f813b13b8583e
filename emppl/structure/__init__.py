"""pm.Model → Structure: roles, factors, scopes, plates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from emppl.compiling import building, compile_graph
from emppl.errors import InvalidArgumentError
from emppl.structure.coordinates import Coordinates
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
    _check_frozen_values(reading)
    coordinates = Coordinates(reading.parameters)
    rng = np.random.default_rng(20240229)
    theta = coordinates.constrain(rng.normal(scale=0.3, size=coordinates.size))
    point = dict(zip(coordinates.values, coordinates.arguments(theta)))
    factors, offsets, scopes = list(reading.factors), {}, None
    if reading.latents:
        touched = [f for f in factors if f.latents]
        graphs = [g for f in touched for g in (f.log_density, *f.params)]
        scopes = Scopes(graphs, reading.latents, point)
        offsets = scopes.offsets
        known = {f.name: scopes.matrix(f.log_density) for f in touched if f.log_density in scopes.scope}
        factors = [replace(f, scope=known.get(f.name)) if f.latents else f for f in factors]
        scopes.scope |= dict.fromkeys(scopes.scope)  # from here on it is asked alone what depends on latents
    plates, eliminations = plates_of(reading.latents, factors)
    return Structure(
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
