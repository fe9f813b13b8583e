"""Component axes of a file of draws, as they are named on the command line."""

from __future__ import annotations

from typing import Any

from emppl.errors import InvalidArgumentError


def named_axes(
    tree: Any, dims: list[str] | None, responsibilities: str | None, allocations: str | None
) -> dict[str, Any]:
    """Arguments of `emppl.relabel` from words on the command line."""
    plain = [word for word in dims or () if "=" not in word]
    by_variable: dict[str, Any] = {}
    for word in dims or ():
        name, sign, axes = word.partition("=")
        if sign:
            by_variable[name] = tuple(int(axis) if axis.lstrip("-").isdigit() else axis for axis in axes.split(","))
    if plain and by_variable:
        raise InvalidArgumentError(
            "--dims names either dims or axes of variables, not both", f"--dims {' --dims '.join(dims or ())}",
            ("--dims component", "--dims mu=0 --dims sigma=0"),
        )  # fmt: skip
    families = [tuple(word.split(",")) for word in plain]
    named: Any = by_variable or (families if len(families) > 1 else families[0] if families else None)
    told = {"component_dims": named, "responsibilities": responsibilities, "allocations": allocations}
    return {key: value for key, value in told.items() if value is not None}


def no_axes(tree: Any, path: str) -> None:
    """Raise the error of draws whose component dim nobody has named: it lists the dims that they have."""
    known = sorted({str(dim) for name in ("posterior",) if name in tree.children for dim in tree[name].dims})
    own = [dim for dim in known if dim not in ("chain", "draw")]
    raise InvalidArgumentError(
        "nothing says which variables share the component axis: draws alone do not",
        path,
        (*(f"--dims {dim}" for dim in own[:8]), "--model MODEL, the model that was sampled"),
    )
