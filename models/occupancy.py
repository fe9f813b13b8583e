"""Animals are overlooked: repeated visits to sites tell how often, and how many sites or animals there truly are.

kind="occupancy": is a species there at all? (MacKenzie et al. 2002, Ecology 83:2248-2255)

    occupied_of_site[i]  ~ Bernoulli(occupancy[i])                          i = sites, hidden where nothing was seen
    detected[n]          ~ Bernoulli(detection[n] occupied_of_site[site[n]])   n = visits, observed

kind="abundance": how many animals are there? The N-mixture model (Royle 2004, Biometrics 60:108-115)

    animals_of_site[i]   ~ Poisson(abundance[i])                            hidden, without upper bound
    counted[n]           ~ Binomial(animals_of_site[site[n]], detection[n]) observed

occupancy and detection ~ Beta(1, 1), abundance ~ Gamma(2, 1 / m), m the mean over sites of the largest count. With
covariates logit(occupancy) = X occupancy_coefficients, log(abundance) = X abundance_coefficients, logit(detection) =
V detection_coefficients; coefficients ~ Normal(0, 2.5 / sd), the intercept's prior follows.

Examples: occupancy: 76 visits to 27 piles of logs, seven months of searches for the blue longhorn beetle Rosalia alpina
in the Swiss Jura, piles at the edge of the forest or inside (Kéry & Schaub 2012, Bayesian Population Analysis using
WinBUGS, section 13.3); abundance: counts at 200 sites, three visits each, simulated (ibid., section 12.2).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt

from emppl.models._columns import are_counts, check_table, column, names_of, require, whole, widths

FOLDER = Path(__file__).parent / "data"
SHAPE = np.float64(2.0)  # not a plain 2.0, which PyTensor holds in single precision, and its log-gamma with it
SPREAD = 2.5  # by which a standard deviation of a covariate may move the predictor, a priori
RESPONSE = {"occupancy": "detected", "abundance": "counted"}


def build(
    data: pd.DataFrame | Mapping[str, Any] | None = None,
    *,
    kind: str = "occupancy",
    site_covariates: str | Sequence[str] = (),
    visit_covariates: str | Sequence[str] = (),
) -> pm.Model:
    """Site occupancy, or abundance by an N-mixture.

    data              one row a visit: `site`, a name or number, and `detected` (0 or 1) or `counted`; and covariates.
                      None: the example.
    kind              "occupancy" | "abundance".
    site_covariates   columns that occupancy or abundance depends on, also as "x,z": one value a site.
    visit_covariates  columns that detection depends on: a value a visit.

    Variables: `occupancy` [] or `occupancy_coefficients` [site_covariate]; `abundance` [] or `abundance_coefficients`;
    `detection` [] or `detection_coefficients` [visit_covariate]; `occupied_of_site` or `animals_of_site` [site],
    latent; `detected` or `counted` [visit], observed.
    Raises KeyError for a missing column, ValueError for anything else that cannot be: each names column and row.
    """
    if kind not in RESPONSE:
        raise ValueError(f"kind={kind!r} is not understood: give one of {', '.join(RESPONSE)}")
    data = _example(kind) if data is None else data
    site, names = _sites(data)
    y = _observed(data, RESPONSE[kind], len(site), kind)
    about_sites, about_visits = names_of(site_covariates), names_of(visit_covariates)
    _, first = np.unique(site, return_index=True)
    x = _design(data, about_sites, len(site), site)[first]
    v = _design(data, about_visits, len(site))

    with pm.Model(coords={"site": names, "visit": np.arange(len(y))}) as model:
        if about_visits:
            model.add_coord("visit_covariate", ["intercept", *about_visits])
            slopes = pm.Normal("detection_coefficients", 0.0, widths(v, SPREAD), dims="visit_covariate")
            detection = pm.math.sigmoid(v @ slopes)
        else:
            detection = pm.Beta("detection", np.float64(1.0), np.float64(1.0))
        if about_sites:
            model.add_coord("site_covariate", ["intercept", *about_sites])
        if kind == "occupancy":
            if about_sites:
                slopes = pm.Normal("occupancy_coefficients", 0.0, widths(x, SPREAD), dims="site_covariate")
                occupancy = pm.math.sigmoid(x @ slopes)
            else:
                occupancy = pm.Beta("occupancy", np.float64(1.0), np.float64(1.0))
            occupied = pm.Bernoulli("occupied_of_site", p=occupancy, dims="site")
            pm.Bernoulli("detected", p=detection * occupied[site], observed=y, dims="visit")
        else:
            largest = pd.Series(y).groupby(site).max().mean()
            if about_sites:
                centre = np.where(np.arange(x.shape[1]) == 0, np.log(largest), 0.0)
                abundance = pt.exp(
                    x @ pm.Normal("abundance_coefficients", centre, widths(x, SPREAD), dims="site_covariate")
                )
            else:
                abundance = pm.Gamma("abundance", SHAPE, 1.0 / largest)
            animals = pm.Poisson("animals_of_site", mu=abundance, dims="site")
            pm.Binomial("counted", n=animals[site], p=detection, observed=y, dims="visit")
    return model


def _example(kind: str) -> pd.DataFrame:
    if kind == "occupancy":
        return pd.read_csv(FOLDER / "blue_bug.csv")
    wide = pd.read_csv(FOLDER / "simulated_counts.csv").to_numpy()
    return pd.DataFrame({"site": np.repeat(np.arange(len(wide)), wide.shape[1]), "counted": wide.ravel()})


def _sites(data: pd.DataFrame | Mapping[str, Any]) -> tuple[np.ndarray, list[Any]]:
    """The site of each visit, numbered from 0, and the sites' names."""
    check_table(data)
    if "site" not in data:
        raise KeyError(
            f"no column 'site' in the data, which hold {list(data)}: the data are in long form, one row a visit, with "
            "columns site and detected (or counted)"
        )
    values = np.ma.filled(np.ma.asarray(data["site"]).astype(object), None)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"column 'site' has shape {values.shape}: give one site a visit, for two visits or more")
    missing = np.flatnonzero(pd.isna(values))
    if len(missing):
        raise ValueError(f"column 'site', row {missing[0]} is empty: name the site, or leave the visit out")
    if len({isinstance(value, str) for value in values}) > 1:
        raise ValueError(f"column 'site' mixes words and numbers: {sorted(map(str, set(values)))[:6]}")
    names = np.unique(values)
    if len(names) == len(values):
        raise ValueError(
            "column 'site' names each site once: without repeated visits nothing tells what was overlooked"
        )
    return np.searchsorted(names, values), names.tolist()


def _observed(data: pd.DataFrame | Mapping[str, Any], name: str, rows: int, kind: str) -> np.ndarray:
    y = _of_visits(data, name, rows)
    largest = 1.0 if kind == "occupancy" else np.inf
    what, mend = "not a count", "give whole numbers"
    if kind == "occupancy":
        what, mend = "neither 0 nor 1", 'give these, or use kind="abundance"'
    require(name, y, are_counts(y) & (y <= largest), what, mend)
    if np.ptp(y) == 0:
        raise ValueError(
            f"column {name!r} is constant: {y[0]:g} at all {rows} visits, which tells nothing of detection"
        )
    return whole(name, y)


def _of_visits(data: pd.DataFrame | Mapping[str, Any], name: str, rows: int) -> np.ndarray:
    mend = "leave these visits out, as data.dropna() does; sites need not have equally many"
    values = column(data, name, mend=mend)
    if len(values) != rows:
        raise ValueError(f"column {name!r} has {len(values)} rows for {rows} visits")
    return values


def _design(
    data: pd.DataFrame | Mapping[str, Any], names: list[str], rows: int, site: np.ndarray | None = None
) -> np.ndarray:
    """A column of ones and the covariates [visits, 1 + J]; with `site`, they must not change within a site."""
    columns = [np.ones(rows)]
    for name in names:
        values = _of_visits(data, name, rows)
        if np.ptp(values) == 0:
            raise ValueError(f"column {name!r} is constant: {values[0]:g} in all {rows} rows: leave it out")
        if site is not None and (pd.Series(values).groupby(site).transform("first") != values).any():
            raise ValueError(f"column {name!r} changes between visits of one site: give it as visit_covariates")
        columns.append(values)
    return np.column_stack(columns)
