"""The table of relabelling methods: one function each, from `Material` to `Alignment`."""

from collections.abc import Callable
from dataclasses import dataclass

from emppl.errors import InvalidArgumentError
from emppl.labels.material import Alignment, Material

WORDS = {
    "chunks": "responsibilities (a model, or a group `latent`)",
    "pivot": "responsibilities of a reference (a fit, or a draw)",
    "allocations": "allocations of the units",
    "membership": "allocations or responsibilities of the units",
    "components": "parameters of each component",
    "reference": "parameters of a reference (a fit, or a draw)",
    "data": "observed numbers of each unit",
    "log_joint": "the model's log density of each unit in each component",
    "densities": "the model's density of each unit in each component",
    "pivot_densities": "the model's density of each unit in each component",
    "ascend": "a plan whose EM can be run from the draws",
    "given": "`permutations=`",
}


def wanted(missing: tuple[str, ...]) -> str:
    """What is missing, in words."""
    return " and ".join(dict.fromkeys(WORDS.get(need, need) for need in missing))


@dataclass(frozen=True)
class Method:
    """One way of relabelling. `needs`: fields of Material that it reads; `text` says what it does, `source` who did."""

    name: str
    run: Callable[[Material], Alignment]
    needs: tuple[str, ...]
    text: str
    source: str

    def __call__(self, material: Material) -> Alignment:
        """Permutations of all draws. Raises InvalidArgumentError naming what the method needs and is not there."""
        missing = self.missing(material)
        if missing:
            raise InvalidArgumentError(
                f'method="{self.name}" needs {wanted(missing)}',
                "the argument `method`",
                ('method="auto" takes what there is', "emppl.compare_methods(...) lists what each method needs"),
            )
        return self.run(material)

    def missing(self, material: Material) -> tuple[str, ...]:
        """What the method needs and the material has not."""
        return tuple(need for need in self.needs if not _has(material, need))


def _has(material: Material, need: str) -> bool:
    if need == "membership":
        return material.allocations is not None or material.chunks is not None
    return getattr(material, need, None) is not None


METHODS: dict[str, Method] = {}
ALIASES = {
    "aic": "ordering",
    "identifiability constraint": "ordering",
    "kl": "STEPHENS",
    "ecr-1": "ECR-ITERATIVE-1",
    "ecr-2": "ECR-ITERATIVE-2",
    "user-perm": "permutations",
    "yao-lindsay": "ascent",
}


def method(
    name: str, needs: tuple[str, ...] = (), text: str = "", source: str = ""
) -> Callable[[Callable[[Material], Alignment]], Callable[[Material], Alignment]]:
    """Enter a relabelling method in the table under `name`."""

    def enter(function: Callable[[Material], Alignment]) -> Callable[[Material], Alignment]:
        told = text or (function.__doc__ or "").strip().partition("\n")[0]
        METHODS[name] = Method(name, function, needs, told, source)
        return function

    return enter


def named(name: str) -> Method:
    """The method that a name stands for, in any case. Raises InvalidArgumentError that lists them."""
    by_name = {known.lower(): known for known in METHODS}
    key = name.lower() if isinstance(name, str) else ""
    key = ALIASES.get(key, key).lower()
    if key not in by_name:
        raise InvalidArgumentError(
            f'no relabelling method is called "{name}"',
            "the argument `method`",
            tuple(f'method="{known}"' for known in ("auto", *METHODS)),
        )
    return METHODS[by_name[key]]
