"""What a made situation is, and what a comparison of it must say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import emppl

CHAINS, DRAWS = 4, 300
Theta = dict[str, np.ndarray]


@dataclass(frozen=True)
class Situation:
    """Fit and draws, and what must be said: whether verdicts hold, and statements that return a complaint or ""."""

    fit: Any
    draws: Any
    holds: dict[str, bool]
    statements: list[Callable[[Any], str]] = field(default_factory=list)
    recipe: str = ""


SITUATIONS: dict[str, Callable[[np.random.Generator], Situation]] = {}


def situation(function: Callable[[np.random.Generator], Situation]) -> Callable[[np.random.Generator], Situation]:
    """Enter a situation in the table under its function's name."""
    SITUATIONS[function.__name__.replace("_", " ")] = function
    return function


def wrong(made: Situation) -> list[str]:
    """What the comparison says that is not so, or does not say that must be said; empty where all is right."""
    comparison = emppl.compare(made.fit, made.draws, ascents=60)
    said = {verdict.name: verdict for verdict in comparison.verdicts}
    found = []
    for name, holds in made.holds.items():
        if name not in said:
            found.append(f"{name} is not judged")
        elif said[name].holds != holds:
            found.append(f"{name} should {'hold' if holds else 'fail'}: {said[name].text}")
    found += [complaint for statement in made.statements if (complaint := statement(comparison))]
    for verdict in comparison.verdicts:
        if not np.isfinite(verdict.value):
            continue
        inside = verdict.value <= verdict.limit if verdict.bound == "at most" else verdict.value >= verdict.limit
        if inside != verdict.holds and (verdict.holds or verdict.name == "labels"):
            found.append(
                f"{verdict.name} {'holds' if verdict.holds else 'fails'} at {verdict.value}, limit {verdict.limit}"
            )
        if "nan" in verdict.text.split() or "inf" in verdict.text.split():
            found.append(f"{verdict.name} speaks of no number: {verdict.text}")
    return found


def says(name: str, *words: str) -> Callable[[Any], str]:
    """The text of a verdict holds these words."""

    def check(comparison: Any) -> str:
        text = next((verdict.text for verdict in comparison.verdicts if verdict.name == name), "")
        missing = [word for word in words if word not in text]
        return f"{name} does not say {missing}: {text}" if missing else ""

    return check


def near(name: str, value: float, within: float) -> Callable[[Any], str]:
    """The number of a verdict is this one."""

    def check(comparison: Any) -> str:
        found = next((verdict.value for verdict in comparison.verdicts if verdict.name == name), np.nan)
        return "" if abs(found - value) <= within else f"{name} rests on {found:.3f}, truth {value:.3f} ± {within:.3f}"

    return check


def state(*names: str) -> Callable[[Any], str]:
    """The diagnosis of labels is one of these."""
    return lambda comparison: (
        "" if comparison.switching.state.name in names else f"labels are {comparison.switching.state.name}, not {names}"
    )
