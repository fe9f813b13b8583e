"""The tables that a user may extend: families by natural form, and their conjugate priors."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, singledispatch
from typing import Any, NamedTuple

import numpy as np

from emppl.errors import InvalidArgumentError
from emppl.unrolled import add_at

Groups = dict[str, np.ndarray]  # by parameter: the group of each cell, or an array of numbers a cell or group


class Frame(NamedTuple):
    """An affine frame y' = whiten (y - centre), in which a family's features lose no digits."""

    centre: np.ndarray
    whiten: np.ndarray  # scale of each element, or a matrix [D, D]
    log_jacobian: np.ndarray | float  # log |d y' / d y|: of each element, or one number


class Family(NamedTuple):
    """log p(y | theta) = <natural(theta), statistic(y)> + log_base(y); the first statistic counts observations.

    Shapes: y [..., *core]; statistic [..., S]; natural [..., S] as a PyTensor graph of the parameters not in `known`.
    `statistic`, `log_base` and `inside` take what is in `known` and `constant` by name: where one of those is free or
    depends on a latent, the distribution is no exponential family, and the plan says so.
    `maximise(statistics [cells, S], groups, fixed, pseudo)` gives {parameter: [groups, *core]}, the maximum of
    sum_c <natural(theta_c), statistics_c>; cells with the same group number share that parameter; `fixed` holds
    parameters that are known numbers, [cells, *core]; `pseudo` {parameter: [groups, S]} the pseudo-statistics of its
    prior. It returns None where ties leave no closed form.
    """

    name: str
    parameters: tuple[str, ...]
    statistic: Callable[..., np.ndarray]
    natural: Callable[..., Any]
    log_base: Callable[..., np.ndarray]
    maximise: Callable[..., dict[str, np.ndarray] | None]
    inside: Callable[..., np.ndarray]  # which observations lie in the support
    known: tuple[str, ...] = ()  # parameters that must be data, row by row, and that `natural` does not take
    constant: tuple[str, ...] = ()  # parameters that must be one known number, which `natural` takes too
    scale: str | None = None  # the parameter that a known exposure may multiply
    frame: Callable[[np.ndarray], Frame] | None = None
    into_frame: Callable[..., tuple[Any, ...]] | None = None  # graphs of the parameters in the frame
    natural_of_factor: Callable[..., Any] | None = None  # (frame, mu, L) -> natural, in the frame, where cov is L L'
    out_of_frame: Callable[..., dict[str, np.ndarray]] | None = (
        None  # (values, centre, whiten) -> values as the op holds them
    )
    pseudo_into_frame: Callable[..., np.ndarray] | None = None  # (parameter, pseudo [groups, S], centre, whiten)
    narrowness: Callable[[dict[str, np.ndarray]], np.ndarray] | None = None  # smallest variance in the frame, by cell
    describe: str = ""  # support and parametrisation, for `emppl rules`


class Conjugate(NamedTuple):
    """A prior that acts as pseudo-observations: `statistics(*prior parameters)` [..., S] adds to the expected ones.

    given: parameters of the family that must be known numbers for it to do so; signed: whether its statistics may be
    negative (elsewhere a negative one means that the mode lies on the border).
    """

    prior: Any
    family: Any
    parameter: str
    link: str  # the parameter of the op is link(parameter of the prior): "identity", "sqrt", "reciprocal"
    statistics: Callable[..., np.ndarray]
    given: tuple[str, ...] = ()
    signed: bool = False

    @property
    def family_name(self) -> str:
        """The family's name as users know it."""
        return self.family if isinstance(self.family, str) else self.family.__name__


CONJUGATES: list[Conjugate] = []
CUSTOM: dict[str, Callable[[Any], Family]] = {}  # by class_name of a pm.CustomDist, whose op class is made on the fly


@singledispatch
def family(op: Any) -> Family | None:
    """The family of an op, None where none is registered. Register with `@family.register(pm.Poisson)`."""
    rule = CUSTOM.get(type(op).__name__)
    return None if rule is None else rule(op)


def custom_family(class_name: str) -> Callable:
    """Register the family of `pm.CustomDist(..., class_name=class_name)`: `@custom_family("Rayleigh")`."""

    def register(rule: Callable[[Any], Family]) -> Callable[[Any], Family]:
        CUSTOM[class_name] = rule
        return rule

    return register


def conjugate(
    prior: Any, of: Any, parameter: str, link: str = "identity", given: tuple[str, ...] = (), signed: bool = False
) -> Callable:
    """Register pseudo-statistics: `@conjugate(pm.Gamma, pm.Poisson, "mu")`. Parameters as the op holds them.

    of: the family's distribution, or the name of a custom one; given, signed: as in `Conjugate`.
    """

    def register(statistics: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        CONJUGATES.append(Conjugate(prior, of, parameter, link, statistics, given, signed))
        return statistics

    return register


def conjugates_of(op: Any, family_op: Any, parameter: str) -> list[Conjugate]:
    """Registered conjugate priors of class `op` for a parameter of `family_op`."""
    found = []
    for entry in CONJUGATES:
        of_family = (
            type(family_op).__name__ == entry.family
            if isinstance(entry.family, str)
            else isinstance(family_op, entry.family)
        )
        if entry.parameter == parameter and of_family and isinstance(op, entry.prior):
            found.append(entry)
    return found


def columns(*parts: Any) -> np.ndarray:
    """Statistics side by side: numbers and arrays [...] of one shape, as [..., S]."""
    return np.stack(np.broadcast_arrays(*[np.asarray(p, dtype=float) for p in parts]), axis=-1)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, nan where the whole is not positive: a component without members has no parameters."""
    return part / np.where(whole > 0, whole, np.nan)


def nested(inner: np.ndarray, outer: np.ndarray) -> np.ndarray | None:
    """The outer group of each inner group, None where an inner group of cells spans several outer ones."""
    found = np.zeros(int(inner.max()) + 1, dtype=int)
    found[inner] = outer
    return found if np.array_equal(found[inner], outer) else None


@cache
def each_its_own(n: int) -> np.ndarray:
    """The groups of n cells where each is a group of its own, as nearly always: one array, known by its identity."""
    return np.arange(n)


@cache
def all_together(n: int) -> np.ndarray:
    """The groups of n cells that are one group, known in the same way."""
    return np.zeros(n, dtype=np.int64)


def grouped(statistics: np.ndarray, group: np.ndarray, pseudo: np.ndarray | None = None) -> np.ndarray:
    """Sums of the cells' statistics by group, with the pseudo-statistics of each group's prior: [groups, S]."""
    if group is each_its_own(len(group)):
        return statistics if pseudo is None else statistics + pseudo
    if group is all_together(len(group)):
        total = np.add.reduce(statistics, 0, keepdims=True)
        return total if pseudo is None else total + pseudo
    return add_at(
        np.zeros((int(group.max()) + 1, statistics.shape[1])) if pseudo is None else pseudo, group, statistics
    )


def differ_within(other: np.ndarray, group: np.ndarray) -> bool:
    """Whether cells of one group differ in `other` [cells] or [cells, ...]."""
    if group is each_its_own(len(group)):
        return False
    return any(np.ptp(other[group == k], axis=0).any() for k in range(int(group.max()) + 1))


def single(parameter: str, solve: Callable[[np.ndarray], np.ndarray]) -> Callable[..., dict[str, np.ndarray]]:
    """`maximise` of a family with one unknown parameter: add up the cells of each group and solve."""

    def maximise(statistics: np.ndarray, groups: Groups, fixed: Groups, pseudo: Groups) -> Groups | None:
        if parameter not in groups:
            return None
        return {parameter: solve(grouped(statistics, groups[parameter], pseudo.get(parameter)))}

    return maximise


def rules() -> dict[str, list[dict[str, str]]]:
    """All registered rules, for `emppl rules`: families, conjugate priors, engines and M-steps."""
    families = []
    registered = [function for op_class, function in family.registry.items() if op_class is not object]
    for function in (*registered, *CUSTOM.values()):
        entry = function(None)
        families.append({"family": entry.name, "parameters": ", ".join(entry.parameters), "support": entry.describe})
    priors = [
        {
            "prior": c.prior.__name__,
            "family": c.family_name,
            "parameter": c.parameter if c.link == "identity" else f"{c.parameter} = {c.link}(parameter)",
        }
        for c in CONJUGATES
    ]
    esteps = [
        {
            "engine": "natural form",
            "for": "independent members: exponential families, and any density over few distinct rows; "
            "one matrix product, free of N afterwards",
        },
        {"engine": "graph enumeration", "for": "independent members, any density that PyMC can evaluate"},
    ]
    msteps = [
        {"rule": "closed form", "for": "statistics plus the pseudo-statistics of a conjugate or flat prior"},
        {"rule": "least squares", "for": "Normal regressions: coefficients, then spreads, each exact given the other"},
        {"rule": "natural form", "for": "numeric maximum of <eta(theta), statistics> + log prior, free of N"},
        {"rule": "GLM", "for": "Newton's method in the linear predictors of any density, by autodiff of each row"},
        {"rule": "autodiff", "for": "numeric maximum of the expected log joint from the graph; never refuses"},
    ]
    return {
        "families": sorted(families, key=lambda f: f["family"]),
        "conjugate priors": priors,
        "E-steps": esteps,
        "M-steps": msteps,
    }


def check_name(value: str, allowed: tuple[str, ...], what: str) -> str:
    """`value` if it is one of `allowed`; else InvalidArgumentError listing them."""
    if value not in allowed:
        raise InvalidArgumentError(f"{what} must be one of {', '.join(map(repr, allowed))}, not {value!r}", what)
    return value
