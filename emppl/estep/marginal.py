"""The marginal log-likelihood as one PyTensor Op whose gradient is Fisher's identity.

Outputs (log_likelihood, S [J, F]); the pullback to eta is cotangent × S, exactly the expected statistics that the
E-step has at hand. Numba-dispatched, so that a sampler compiled by Numba never enters object mode.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import disconnected_type
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op

from emppl.kernels.marginal import marginal_loop
from emppl.kernels.mixture import mixture


class MarginalLogLikelihood(Op):
    """(eta [J, F], features [C, F], base [C], weights [C]) → (log-likelihood, expected statistics [J, F])."""

    __props__ = ()

    def make_node(self, eta: Any, features: Any, base: Any, weights: Any) -> Apply:
        inputs = [pt.as_tensor_variable(v) for v in (eta, features, base, weights)]
        return Apply(self, inputs, [pt.dscalar(), pt.dmatrix()])

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        eta, features, base, weights = inputs
        with np.errstate(all="ignore"):
            done = mixture(features, eta, base, weights=weights)
        outputs[0][0] = np.asarray(done.log_likelihood)
        outputs[1][0] = done.statistics

    def infer_shape(self, node: Any, shapes: Any) -> Any:
        return [(), shapes[0]]

    def connection_pattern(self, node: Any) -> list[list[bool]]:
        return [[True, False], [False, False], [False, False], [False, False]]

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        return [cotangents[0] * outputs[1], *[disconnected_type() for _ in inputs[1:]]]


def register() -> None:
    """Tell PyTensor's Numba backend of the Op; called when a sampler is compiled."""
    from pytensor.link.numba.dispatch.basic import register_funcify_default_op_cache_key

    @register_funcify_default_op_cache_key(MarginalLogLikelihood)
    def funcify(op: Any, node: Any, **kwargs: Any) -> Any:
        return marginal_loop(), 2  # the number goes up with each change of the loop: compiled code is cached by it


marginal_log_likelihood = MarginalLogLikelihood()
__all__ = ["MarginalLogLikelihood", "marginal_log_likelihood", "register"]
