"""What PyMC knows of a distribution by its class alone: it has to travel with a model, as classes made for it do."""

from __future__ import annotations

import sys
from typing import Any

from pymc.distributions.distribution import _support_point
from pymc.distributions.shape_utils import _change_dist_size
from pymc.distributions.transforms import _default_transform
from pymc.logprob.abstract import _icdf, _logccdf, _logcdf, _logprob
from pytensor.graph.traversal import ancestors

DISPATCHERS = {
    function.__name__: function
    for function in (_logprob, _logcdf, _logccdf, _icdf, _support_point, _change_dist_size, _default_transform)
}


def registrations(model: Any) -> list[tuple[str, type, Any]]:
    """(dispatcher, class, function) for the classes in a model that no import makes, such as those of pm.CustomDist."""
    kinds = {type(variable.owner.op) for variable in ancestors(model.basic_RVs) if variable.owner is not None}
    made = [kind for kind in kinds if getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is not kind]
    return [
        (name, kind, dispatcher.registry[kind])
        for kind in made
        for name, dispatcher in DISPATCHERS.items()
        if kind in dispatcher.registry
    ]


def register(found: list[tuple[str, type, Any]]) -> None:
    """Tell PyMC again, in the process that `found` has come to."""
    for name, kind, function in found:
        if kind not in DISPATCHERS[name].registry:
            DISPATCHERS[name].register(kind, function)
