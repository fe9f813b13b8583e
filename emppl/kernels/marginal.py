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

    def infer_shape(self, fgraph: Any, node: Any, shapes: Any) -> Any:
        return [(), shapes[0]]

    def connection_pattern(self, node: Any) -> list[list[bool]]:
        return [[True, False], [False, False], [False, False], [False, False]]

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        return [cotangents[0] * outputs[1], *[disconnected_type() for _ in inputs[1:]]]


def register() -> None:
    """Numba's version of the Op; called when a sampler is compiled, since importing numba takes a second."""
    from numba import njit
    from pytensor.link.numba.dispatch.basic import register_funcify_default_op_cache_key

    @register_funcify_default_op_cache_key(MarginalLogLikelihood)
    def funcify(op: Any, node: Any, **kwargs: Any) -> Any:
        @njit
        def marginal(eta: Any, features: Any, base: Any, weights: Any) -> Any:
            n, n_features = features.shape
            n_values = eta.shape[0]
            statistics = np.zeros((n_values, n_features))
            log_joint = np.empty(n_values)
            total = 0.0
            for i in range(n):
                if weights[i] == 0.0:
                    continue
                peak = -np.inf
                for j in range(n_values):
                    value = 0.0
                    for f in range(n_features):
                        if features[i, f] != 0.0:  # a log of zero may meet a count of zero
                            value += features[i, f] * eta[j, f]
                    log_joint[j] = value
                    if not value <= peak:
                        peak = value
                if not np.isfinite(peak):
                    return np.asarray(-np.inf), statistics
                scale = 0.0
                for j in range(n_values):
                    log_joint[j] = np.exp(log_joint[j] - peak)
                    scale += log_joint[j]
                total += weights[i] * (peak + np.log(scale) + base[i])
                for j in range(n_values):
                    share = weights[i] * log_joint[j] / scale
                    if share != 0.0:
                        for f in range(n_features):
                            statistics[j, f] += share * features[i, f]
            return np.asarray(total), statistics

        return marginal, 1


marginal_log_likelihood = MarginalLogLikelihood()
__all__ = ["MarginalLogLikelihood", "marginal_log_likelihood"]
