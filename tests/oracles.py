"""Slow exact answers: every assignment of the latents with PyMC's own density, and derivatives by differences."""

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import pymc as pm
from pymc.model.transform.conditioning import remove_value_transforms
from pytensor.compile.mode import Mode
from scipy.special import logsumexp

INTERPRETED = Mode(linker="py", optimizer="fast_compile")  # nothing here is worth a compiler


def log_joint(model: pm.Model) -> Callable[[Mapping], float]:
    """PyMC's log density of a point {name: value}, parameters on their own scale, no Jacobian."""
    with np.errstate(all="ignore"):
        density = remove_value_transforms(model).compile_logp(mode=INTERPRETED)
    return lambda point: float(density({name: np.asarray(value) for name, value in point.items()}))


class Enumeration:
    """The latents of a model summed out by going through all their joint values.

    supports: {latent: values}; latents of shape [*shape] have len(values) ** size assignments. Where the model has no
    explicit latent (pm.Mixture) the density is that of the model itself.
    """

    def __init__(self, model: pm.Model, supports: Mapping[str, np.ndarray]) -> None:
        self.density = log_joint(model)
        self.supports = {name: np.asarray(values) for name, values in supports.items()}
        variables = {rv.name: rv for rv in model.free_RVs}
        self.shapes = {name: tuple(variables[name].shape.eval(mode=INTERPRETED)) for name in supports}
        self.types = {name: variables[name].dtype for name in supports}
        sizes = [int(np.prod(shape, dtype=int)) for shape in self.shapes.values()]
        names = [name for name, size in zip(self.shapes, sizes) for _ in range(size)]
        ends = np.cumsum([0, *sizes])
        self.assignments = []
        for values in itertools.product(*[self.supports[name] for name in names]):
            flat = np.array(values)
            self.assignments.append(
                {
                    name: flat[a:b].reshape(shape).astype(self.types[name])
                    for (name, shape), a, b in zip(self.shapes.items(), ends[:-1], ends[1:])
                }
            )

    def log_terms(self, theta: Mapping) -> np.ndarray:
        """Log joint of each assignment [A], prior of the parameters included."""
        return np.array([self.density({**theta, **z}) for z in self.assignments])

    def log_posterior(self, theta: Mapping) -> float:
        """log p(y, theta), the latents summed out."""
        return float(logsumexp(self.log_terms(theta)))

    def responsibilities(self, theta: Mapping) -> dict[str, np.ndarray]:
        """Posterior marginals {latent: [*shape, K]}."""
        terms = self.log_terms(theta)
        weights = np.exp(terms - logsumexp(terms))
        answer = {name: np.zeros((*shape, len(self.supports[name]))) for name, shape in self.shapes.items()}
        for w, z in zip(weights, self.assignments):
            for name, values in z.items():
                answer[name] += w * (values[..., None] == self.supports[name])
        return answer


def changed_by(density: Callable[[Mapping], np.ndarray], point: Mapping, latent: str, values: np.ndarray) -> np.ndarray:
    """Which elements of a factor change when each latent element is flipped in turn: [elements, latent elements]."""
    base = np.ravel(density(point))
    columns = []
    for index in np.ndindex(*np.shape(point[latent])):
        moved = np.zeros(base.shape, dtype=bool)
        for value in values:
            flipped = np.array(point[latent])
            flipped[index] = value
            moved |= np.ravel(density({**point, latent: flipped})) != base
        columns.append(moved)
    return np.stack(columns, axis=1)


def gradient(function: Callable[[np.ndarray], float], x: np.ndarray, h: float = 1e-4) -> np.ndarray:
    """Central differences, extrapolated once (Richardson): error h⁴."""

    def central(step: float) -> np.ndarray:
        moves = np.eye(len(x)) * step
        return np.array([(function(x + m) - function(x - m)) / (2 * step) for m in moves])

    return (4 * central(h) - central(2 * h)) / 3


def hessian(function: Callable[[np.ndarray], float], x: np.ndarray, h: float = 1e-3) -> np.ndarray:
    """Second derivatives by central differences, extrapolated once: error h⁴."""

    def central(step: float) -> np.ndarray:
        moves = np.eye(len(x)) * step
        answer = np.empty((len(x), len(x)))
        for i, a in enumerate(moves):
            for j, b in enumerate(moves):
                ends = function(x + a + b) - function(x + a - b) - function(x - a + b) + function(x - a - b)
                answer[i, j] = ends / (4 * step**2)
        return answer

    return (4 * central(h) - central(2 * h)) / 3
