"""The marginal log-likelihood as one PyTensor Op whose gradient is Fisher's identity.

Outputs (log_likelihood, S [J, F]); the pullback to eta is cotangent × S, exactly the expected statistics that the
E-step has at hand. Numba-dispatched, so that a sampler compiled by Numba never enters object mode.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.gradient import disconnected_type
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op

from emppl.estep.data import PlateData
from emppl.kernels.features import Features, Source
from emppl.kernels.mixture import mixture


class MarginalLogLikelihood(Op):
    """(eta [J, F], members…) → (log-likelihood, expected statistics [J, F]); members: as `members` gives them."""

    __props__ = ()

    def make_node(self, eta: Any, *members: Any) -> Apply:
        inputs = [pt.as_tensor_variable(v) for v in (eta, *members)]
        return Apply(self, inputs, [pt.dscalar(), pt.dmatrix()])

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        eta, columns, single, left, right, position, weights = inputs
        pairs = np.concatenate([[[0, 0]], np.stack([0 * single, single + 1], 1), np.stack([left + 1, right + 1], 1)])
        asked = pairs[position + 1]
        features = Features(columns.shape[1], (Source(columns.T),), asked[:, 0], asked[:, 1])
        with np.errstate(all="ignore"):
            done = mixture(features, eta, weights=weights if len(weights) else None)
        sound = np.isfinite(done.log_likelihood)
        outputs[0][0] = np.asarray(done.log_likelihood if sound else -np.inf)
        outputs[1][0] = done.statistics if sound else np.zeros(eta.shape)

    def infer_shape(self, node: Any, shapes: Any) -> Any:
        return [(), shapes[0]]

    def connection_pattern(self, node: Any) -> list[list[bool]]:
        return [[True, False], *[[False, False] for _ in node.inputs[1:]]]

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        return [cotangents[0] * outputs[1], *[disconnected_type() for _ in inputs[1:]]]


def members(data: PlateData) -> list[Any]:
    """What the Op takes of the members of a plate: columns [D, C], which statistics they make, and weights [C].

    Equal members are counted, not repeated.
    """
    kinds = data.kinds
    features, weights = (data.features, data.weights) if kinds is None else (kinds.features, kinds.counts)
    columns = np.ascontiguousarray(features.columns(slice(0, features.n)))
    single, left, right, position, _ = features.distinct
    arrays = [columns, single, left, right, position, np.zeros(0) if weights is None else weights.astype(float)]
    return [pytensor.shared(a) for a in arrays]


def register() -> None:
    """Tell PyTensor's Numba backend of the Op; called when a sampler is compiled."""
    from pytensor.link.numba.dispatch.basic import register_funcify_default_op_cache_key

    from emppl.kernels.caching import code_key
    from emppl.kernels.compiled import marginal

    @register_funcify_default_op_cache_key(MarginalLogLikelihood)
    def funcify(op: Any, node: Any, **kwargs: Any) -> Any:
        return marginal, code_key(marginal)


marginal_log_likelihood = MarginalLogLikelihood()
__all__ = ["MarginalLogLikelihood", "marginal_log_likelihood", "members", "register"]
