"""Several regressions at once: each row follows one of k lines, and which one is hidden.

    weights              ~ Dirichlet(1, …, 1)                            without concomitants
    weights[n]           = softmax(0, V[n] gamma[1], …, V[n] gamma[k-1])    with concomitants V
    coefficients[c, j]   ~ Normal(m[j], s[j])                            c = 0 … k-1, j = intercept and covariates
    sigma[c]             ~ InverseGamma(2, sd(y))                        family="normal" only
    component_of_row[n]  ~ Categorical(weights)                          n = 0 … N-1, hidden
    y[n]                 ~ Normal(X[n] coefficients[c], sigma[c])        c = component_of_row[n], observed
    y[n]                 ~ Poisson(exp(X[n] coefficients[c]))            with family="poisson"

The priors of slopes are centred at 0 and ten times as wide as the slope that would explain all of y by one covariate
(Poisson: a factor e^5 for one standard deviation); that of the intercept follows from them, wherever the covariates
have their zero. gamma ~ Normal(0, 5 / sd(v)) likewise.

The example, simulated: two classes, a parabola and a line (yn), and counts whose rate rises in one class and falls in
the other (yp); `NPreg` of R's package flexmix (Leisch 2004, Journal of Statistical Software 11(8)).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt

from emppl.models._columns import (
    are_counts,
    check_table,
    column,
    covariate,
    design,
    names_of,
    require,
    warn_of_words,
    whole,
    widths,
)

EXAMPLE = Path(__file__).parent / "data" / "npreg.csv"
SHAPE = np.float64(2.0)  # not a plain 2.0, which PyTensor holds in single precision, and its log-gamma with it
FAMILIES = ("normal", "poisson")


def build(
    data: pd.DataFrame | Mapping[str, Any] | None = None,
    *,
    k: int = 2,
    family: str = "normal",
    response: str = "y",
    covariates: str | Sequence[str] | None = None,
    degree: int = 1,
    concomitants: str | Sequence[str] = (),
) -> pm.Model:
    """Mixture of k regressions, Normal or Poisson.

    data          columns: the response and the covariates, numbers. None: the example, with yn, x and x² for "normal",
                  yp and x for "poisson".
    k             number of components.
    family        "normal" | "poisson" (logarithmic link).
    response      name of the response.
    covariates    names of the covariates, also as "x,z"; every other numeric column if not given.
    degree        highest power of each covariate that enters: 2 adds x².
    concomitants  names of columns on which the weights depend, by a multinomial logit with component 0 as reference.

    Variables: `weights` [component] (none for k=1 or with concomitants); `concomitant_coefficients` [other_component,
    concomitant], with them; `coefficients` [component, covariate], the covariates being intercept, x, x^2, …; `sigma`
    [component], "normal" only; `component_of_row` [row], latent; `y` [row], observed.
    Raises KeyError for a missing column, ValueError for anything else that cannot be: each names column and row.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k={k!r} is not a number of components: give a whole number, 1 or more")
    if family not in FAMILIES:
        raise ValueError(f"family={family!r} is not understood: give one of {', '.join(FAMILIES)}")
    if isinstance(degree, bool) or not isinstance(degree, int | np.integer) or not 1 <= degree <= 6:
        raise ValueError(f"degree={degree!r} is not a power to go up to: give a whole number from 1 to 6")
    if data is None:
        data, covariates = pd.read_csv(EXAMPLE), covariates or "x"
        response = {"normal": "yn", "poisson": "yp"}[family] if response == "y" else response
        degree = 2 if family == "normal" and degree == 1 else degree
    check_table(data)
    gating = names_of(concomitants)
    if covariates is None:
        others = [str(name) for name in data if name not in (response, *gating)]
        covariates = [name for name in others if _is_numeric(data[name])]
        warn_of_words(data, [name for name in others if name not in covariates], "are left out")
    names = names_of(covariates)
    if not names:
        raise ValueError(f"no covariate among the columns {list(data)} besides the response {response!r}")
    y = column(data, response, correct="correct response=…")
    if family == "poisson":
        require(response, y, are_counts(y), "not a count", 'give whole numbers, or use family="normal"')
    if family == "normal" and np.ptp(y) == 0:
        raise ValueError(f"column {response!r} is constant: {y[0]:g} in all {len(y)} rows, nothing is to be explained")
    columns = {name: covariate(data, name, len(y)) for name in names}
    powers = {name if p == 1 else f"{name}^{p}": x**p for name, x in columns.items() for p in range(1, degree + 1)}
    if len(y) <= len(powers):
        raise ValueError(f"{len(y)} rows for {1 + len(powers)} coefficients of each line: give more rows")
    x = np.column_stack([np.ones(len(y)), *powers.values()])
    centre, width = _prior(x, y, family)

    coords = {"component": np.arange(k), "row": np.arange(len(y)), "covariate": ["intercept", *powers]}
    with pm.Model(coords=coords) as model:
        if gating and k > 1:
            v = design(data, gating, len(y))
            model.add_coords({"other_component": np.arange(1, k), "concomitant": ["intercept", *gating]})
            gamma = pm.Normal("concomitant_coefficients", 0.0, widths(v, 5.0), dims=("other_component", "concomitant"))
            logits = pt.concatenate([np.zeros((len(y), 1)), v @ gamma.T], axis=1)
            weights = pm.math.softmax(logits, axis=-1)
        else:
            # Flat: the most probable weights are those of the largest likelihood, an unused line may get weight 0.
            weights = pm.Dirichlet("weights", np.ones(k), dims="component") if k > 1 else np.ones(1)
        coefficients = pm.Normal("coefficients", centre, width, dims=("component", "covariate"))
        component = pm.Categorical("component_of_row", p=weights, dims="row")
        predictor = (x * coefficients[component]).sum(axis=-1)
        if family == "normal":
            sigma = pm.InverseGamma("sigma", SHAPE, y.std(), dims="component")
            pm.Normal("y", predictor, sigma[component], observed=y, dims="row")
        else:
            pm.Poisson("y", pt.exp(predictor), observed=whole(response, y), dims="row")
    return model


def _prior(x: np.ndarray, y: np.ndarray, family: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the coefficients' prior [J]."""
    centre = np.zeros(x.shape[1])
    centre[0] = y.mean() if family == "normal" else np.log(max(y.mean(), 0.5 / len(y)))
    return centre, widths(x, 10.0 * y.std() if family == "normal" else 5.0)


def _is_numeric(values: Any) -> bool:
    return np.asarray(values).dtype.kind in "iuf"
