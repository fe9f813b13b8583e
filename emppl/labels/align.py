"""Aligning every component axis of some draws: which method, and why."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from emppl.errors import InvalidArgumentError
from emppl.kernels.assignment import Groups
from emppl.labels.draws import Theta
from emppl.labels.material import Alignment, Material
from emppl.labels.methods import named
from emppl.labels.methods.iterative import divergence, least_divergence
from emppl.labels.subject import material
from emppl.labels.units import summed
from emppl.structure.symmetry import axes_of

COINCIDENT = 0.05  # two columns closer than this (0 the same, 1 disjoint) do not tell their components apart
WORSE, NATS = 0.1, 0.5  # by so much, relative and nats a draw, may the reference align worse than the draws themselves

TO_MEMBERS = ("responsibilities", "ECR", "densities")  # methods that rest on the reference's members


def pivot_distance(pivot: np.ndarray, groups: Groups) -> tuple[float, tuple[int, int]]:
    """Least distance between two components of a reference [n, K] that may be swapped, and which two they are.

    Squared distance of the columns over the sum of their squared lengths: 0 the same members in the same shares
    (or both empty), 1 no member in common. (inf, (0, 0)) when nothing may be swapped.
    """
    least, pair = np.inf, (0, 0)
    squares = (pivot**2).sum(axis=0)
    products = pivot.T @ pivot
    for members in groups:
        for a, first in enumerate(members):
            for second in members[a + 1 :]:
                total = squares[first] + squares[second]
                distance = (total - 2 * products[first, second]) / total if total > 0 else 0.0
                if distance < least:
                    least, pair = float(max(distance, 0.0)), (first, second)
    return least, pair


class Choice(NamedTuple):
    """A method, and the reason for it in words."""

    method: str
    why: str


@dataclass(frozen=True)
class AxisAlignment:
    """The alignment of one component axis: permutations [T, K], margins [T], and how distinct the components are.

    `distance`: of the two closest components `closest`, of the reference where draws were aligned to its members, else
    of the members that the aligned draws have on average (nan without responsibilities). `reference_distance` is always
    the reference's, `mean_distance` always that of the aligned draws. `why`: the reason for `method`. `occupied` [T]:
    components that are some unit's most probable one.
    """

    axis: Any
    groups: Groups
    permutations: np.ndarray
    margins: np.ndarray
    method: str
    distance: float
    closest: tuple[int, int]
    why: str = ""
    alignment: Alignment | None = None
    reference_distance: float = float("nan")
    reference_closest: tuple[int, int] = (0, 0)
    occupied: np.ndarray | None = None
    seconds: float = float("nan")
    mean_distance: float = float("nan")

    @property
    def distinct(self) -> bool:
        """Whether the components can be told apart by their members."""
        return not self.distance < COINCIDENT


def swappable(axis: Any) -> Groups:
    """Groups of at least two components of an axis whose names may be exchanged without changing the log posterior."""
    return tuple(tuple(group) for group in axis.exchangeable if len(group) > 1)


def choose(material: Material, labels: tuple[str, ...] = ()) -> Choice:
    """The method for what there is: to the reference where its components are distinct, else among the draws."""
    if material.chunks is not None and material.pivot is not None:
        distance, pair = pivot_distance(material.pivot, material.groups or (tuple(range(material.size)),))
        if distance >= COINCIDENT:
            return Choice(
                "responsibilities",
                f"components of the reference are distinct (closest two {distance:.2f} apart on a scale of 0 to 1)",
            )
        names = " and ".join(labels[k] if labels else str(k) for k in pair)
        return Choice(
            "STEPHENS",
            f"components {names} of the reference hold the same members (distance {distance:.3f}), so it is no pivot: "
            "the draws are aligned to their own mean, from several starts",
        )
    if material.chunks is not None:
        return Choice("STEPHENS", "there is no reference: the draws are aligned to their own mean, from several starts")
    if material.allocations is not None:
        return Choice("ECR-ITERATIVE-1", "there are allocations and no probabilities, from several starts")
    if material.components is not None:
        return Choice("parameters", "there are parameters and nothing about the units, from several starts")
    raise InvalidArgumentError(
        "the draws hold nothing that tells components apart: no parameters, responsibilities or allocations",
        "the argument `draws`",
        ("name the variables: component_dims=…", "keep all parameters in the draws"),
    )


def run(material: Material, method: str, labels: tuple[str, ...] = ()) -> tuple[Alignment, Choice]:
    """The alignment of one axis by a method's name, "auto" among them."""
    choice = choose(material, labels) if method == "auto" else Choice(named(method).name, "as asked for")
    found = named(choice.method)(material)
    if method == "auto" and choice.method == "responsibilities":
        return _unless_better(material, found, choice)
    return found, choice


def _unless_better(material: Material, found: Alignment, choice: Choice) -> tuple[Alignment, Choice]:
    """The alignment to the reference, unless it leaves the draws much further apart than they need be.

    A reference may be distinct and yet not what most draws are like: the highest of several modes.
    """
    units, other = least_divergence(material)
    here, there = divergence(units, np.stack([found.permutations, other.permutations]))
    if not (here - there > WORSE * here and here - there > NATS * material.n_draws):
        return found, choice
    why = (
        f"aligned to the reference, draws are {here / material.n_draws:.3g} nats from their mean, and "
        f"{there / material.n_draws:.3g} aligned among themselves: most of them are not like the reference"
    )
    return named("STEPHENS")(material), Choice("STEPHENS", why)


def align(
    draws: xr.DataTree, plan: Any, pivots: Mapping[str, np.ndarray], theta: Theta, method: str = "auto",
    groups: Callable[[Any], Groups] = swappable, point: Theta | None = None, permutations: Any = None,
    by: str | None = None,
) -> tuple[AxisAlignment, ...]:  # fmt: skip
    """Alignment of every axis of the plan that has something to swap, one axis after the other.

    `pivots`: latent -> reference responsibilities [..., K]. Relabelling one latent leaves the marginal responsibilities
    of the others as they are, so the axes of a product group are independent of each other here.
    """
    if method != "auto":
        named(method)  # an unknown name is said before anything is computed
    found = []
    axes = [axis for axis in axes_of(plan) if groups(axis)]
    given = _given(permutations, axes)
    for axis in axes:
        may_swap = groups(axis)
        began = perf_counter()
        matter = material(draws, plan, axis, point or {}, theta, pivots, may_swap, given.get(axis.latent), by)
        alignment, choice = run(matter, method, tuple(map(str, axis.labels)))
        seconds = perf_counter() - began
        found.append(_described(axis, may_swap, matter, alignment, choice, seconds))
    return tuple(found)


def _given(permutations: Any, axes: list[Any]) -> dict[str, Any]:
    if permutations is None:
        return {}
    if isinstance(permutations, Mapping):
        return dict(permutations)
    if len(axes) != 1:
        raise InvalidArgumentError(
            f"one array of permutations for {len(axes)} component axes",
            "the argument `permutations`",
            (f"permutations={{{', '.join(f'{axis.latent!r}: …' for axis in axes)}}}",),
        )
    return {axes[0].latent: permutations}


def _described(
    axis: Any, groups: Groups, matter: Material, alignment: Alignment, choice: Choice, seconds: float
) -> AxisAlignment:
    nothing: tuple[float, tuple[int, int]] = (float("nan"), (0, 0))
    own = nothing if matter.pivot is None else pivot_distance(matter.pivot, groups)
    distance, closest = own
    among_draws = nothing
    occupied = None
    to_reference = choice.method in TO_MEMBERS
    known = matter.chunks is not None or matter.allocations is not None
    if known and not (to_reference and matter.units.streamed):  # not another pass over what is not kept
        mean, occupied = members(matter, alignment.permutations)
        among_draws = pivot_distance(mean, groups)
        if not to_reference:
            distance, closest = among_draws
    return AxisAlignment(
        axis, groups, alignment.permutations, alignment.margins, choice.method, distance, closest, choice.why,
        alignment, *own, occupied=occupied, seconds=seconds, mean_distance=among_draws[0],
    )  # fmt: skip


def members(matter: Material, permutations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean responsibilities (or allocations) [n, K] of the aligned draws, and occupied components of each draw [T]."""
    kind = "p" if matter.chunks is not None else "z"
    units = matter.units
    total = np.zeros((units.n_units, units.size))
    occupied = np.empty(matter.n_draws, dtype=int)
    for where, (block,) in units.blocks(kind):
        cube = block.reshape(units.n_units, -1, units.size)
        best = cube.argmax(axis=2)  # [n, c]
        own = np.arange(cube.shape[1]) * units.size
        hit = np.bincount((best + own).ravel(), minlength=cube.shape[1] * units.size).reshape(-1, units.size)
        occupied[where] = (hit > 0).sum(axis=1)
        total += summed(block, permutations[None, where])[0]
    return total / max(1, matter.n_draws), occupied
