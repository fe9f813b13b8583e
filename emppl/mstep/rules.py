"""The rules of the M-step, in the order in which they are tried.

A further rule is one function, BlockProblem → Update | Refusal, and one line: `RULES.insert(0, rule)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from emppl.mstep.closed_form import RULE as CLOSED_FORM
from emppl.mstep.closed_form import closed_form
from emppl.mstep.glm import glm
from emppl.mstep.problem import BlockProblem, Refusal, Update
from emppl.mstep.regression import least_squares


def natural_form(problem: BlockProblem) -> Update | Refusal:
    """A numeric search on expected statistics alone; it begins at the maximum without priors where that is known."""
    if problem.without_form:
        return Refusal("natural form", f"{problem.without_form[0].name} has no natural form")
    guess = closed_form(replace(problem, priors=())) if problem.priors else None
    return Update(
        "natural form", problem.search(guess=guess if isinstance(guess, Update) else None),
        f"quasi-Newton on {problem.size} number{'s' if problem.size > 1 else ''}, free of N",
        "a search for the top, which is quick since the data enter it as a few sums only", is_numeric=True,
    )  # fmt: skip


def autodiff(problem: BlockProblem) -> Update:
    """A numeric search on the graph of the expected log joint, for any density."""
    return Update(
        "autodiff", problem.search(), f"each evaluation goes through {problem.densities:,} densities",
        "a search for the top with exact gradients, each step going through all data",
        is_numeric=True, densities=problem.densities,
    )  # fmt: skip


# The first that accepts is taken; where all refuse it is `autodiff`.
RULES: list[Callable[[BlockProblem], Update | Refusal]] = [closed_form, least_squares, natural_form, glm]


def first_accepted(problem: BlockProblem) -> tuple[Update, tuple[Refusal, ...]]:
    """The update of a block, and why the rules before it refused; an exact one needs no reasons."""
    refused, rules = [], RULES
    if problem.implicit_support:
        of = " and ".join(problem.implicit_support)
        refused = [Refusal(CLOSED_FORM, f"the support of {of} is known by a density alone, which only a climb asks")]
        rules = [natural_form]
    for rule in rules:
        found = rule(problem)
        if isinstance(found, Update):
            return found, () if found.is_exact else tuple(refused)
        if found.reason:
            refused.append(found)
    return autodiff(problem), tuple(refused)
