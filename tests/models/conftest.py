"""Densities of a model on the parameters' own scale, for comparison with independent arithmetic."""

import itertools
from collections.abc import Callable

import numpy as np
import pymc as pm
import pytest
from pymc.model.transform.conditioning import remove_value_transforms
from pytensor.compile.mode import Mode
from scipy.special import logsumexp

INTERPRETED = Mode(linker="py", optimizer="fast_compile")  # nothing here is worth a compiler


def _log_joint(model: pm.Model) -> Callable[[dict], float]:
    density = remove_value_transforms(model).compile_logp(mode=INTERPRETED)
    return lambda point: float(density(point))


def _log_marginal(model: pm.Model, latent: str, k: int) -> Callable[[dict], float]:
    """The joint density summed over every assignment of the latent, one by one."""
    density = _log_joint(model)
    size = len(model.coords[model.named_vars_to_dims[latent][0]])
    assignments = [np.array(z) for z in itertools.product(range(k), repeat=size)]
    return lambda point: float(logsumexp([density({**point, latent: z}) for z in assignments]))


@pytest.fixture
def log_joint() -> Callable:
    return _log_joint


@pytest.fixture
def log_marginal() -> Callable:
    return _log_marginal


@pytest.fixture
def observed() -> Callable:
    """observed(model, name): the data [array] that an observed variable holds."""
    return lambda model, name: model.rvs_to_values[model[name]].eval(mode=INTERPRETED)


@pytest.fixture
def evaluate() -> Callable:
    """evaluate(variable, {variable: value}): its value [array] at a point."""
    return lambda variable, point: variable.eval(point, mode=INTERPRETED)
