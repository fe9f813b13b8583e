"""Imports point one way: pm.Model → Structure → Plan → Fit → Comparison, and nothing reaches back."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From left to right; what stands in one group does not know the others of its group.
LAYERS = (
    {"text"},
    {"compiledir", "concurrency", "errors", "interrupts", "limits", "plain", "portable", "streams", "unrolled"},
    {"arguments", "progress", "storage"},
    {"compiling"},
    {"kernels"},
    {"structure"},
    {"rules"},
    {"estep"},
    {"mstep"},
    {"explanation"},
    {"planner"},
    {"streaming"},
    {"inference"},
    {"ascent"},
    {"chainstarts"},
    {"sampling"},
    {"labels", "plots"},
    {"comparison"},
    {"axisnames", "console", "modelfile"},
    {"documents"},
    {"session"},
    {"cli"},
)
RANK = {name: rank for rank, group in enumerate(LAYERS) for name in group}
# Methods of a result are the doors to what comes after it: such an import stands inside the method, never at the top.
DOORS: dict[str, set[str]] = {}
ARRAYS_ONLY = {"kernels", "labels", "plots", "comparison"}  # read neither a PyMC model nor a PyTensor graph
MODULES = sorted((ROOT / "emppl").rglob("*.py"))


def layer(path: Path) -> str:
    """The layer of a module: its package, or its own name where it stands directly in emppl/."""
    relative = path.relative_to(ROOT / "emppl")
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module imported, with whether at the top; imports for the type checker alone are left out."""
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    checks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    inner = {id(node) for function in functions for node in ast.walk(function)}
    unseen = {id(node) for check in checks for node in ast.walk(check)}
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in inner) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            base = ".".join((*package, *([node.module] if node.module else [])))
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "emppl" else [base]
            yield from ((name, id(node) not in inner) for name in names)


def test_every_module_has_a_place():
    outside = {"__init__", "__main__"}
    assert {layer(path) for path in MODULES} - RANK.keys() - outside == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_to_the_left(path):
    here = layer(path)
    if here not in RANK:  # emppl/__init__.py gathers the public names of all
        return
    wrong = []
    for name, at_top in imports(path):
        parts = name.split(".")
        if parts[0] != "emppl" or len(parts) == 1 or parts[1] == here:
            continue
        there = parts[1]
        if RANK.get(there, -1) >= RANK[here] and (at_top or there not in DOORS.get(here, set())):
            wrong.append(name)
        elif there not in RANK and there != "models":
            wrong.append(f"{name} (of no layer)")
    assert wrong == []


@pytest.mark.parametrize(
    "path", [p for p in MODULES if layer(p) in ARRAYS_ONLY], ids=lambda p: str(p.relative_to(ROOT))
)
def test_what_sees_arrays_only_reads_no_model(path):
    assert {name.split(".")[0] for name, _ in imports(path)} & {"pymc", "pytensor", "nutpie"} == set()


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("*.py")), ids=lambda path: path.name)
def test_a_shipped_model_is_plain_pymc(path):
    """It may have its columns checked by `columns`, which knows nothing of emppl itself."""
    allowed = {"emppl.models._columns"} if path.stem != "columns" else set()
    assert [
        name for name, _ in imports(path) if name.split(".")[0] in ("emppl", "models") and name not in allowed
    ] == []
