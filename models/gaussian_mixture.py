"""Rows of measurements that come from k Gaussian components; which component a row comes from is hidden.

    weights              ~ Dirichlet(1, …, 1)
    mu[c, f]             ~ Normal(m[f], 3 s[f])                              c = 0 … k-1, f = features
    covariance[c]        see below
    component_of_row[n]  ~ Categorical(weights)                              n = 0 … N-1, hidden
    y[n]                 ~ Normal(mu, covariance)[component_of_row[n]]       observed

m and s are the mean and the standard deviation of each column: constants that put the priors on the scale of the data,
whatever its units and its offset. Shapes of the covariance:

    "full"            chol_c ~ LKJCholeskyCov(eta=2, sd ~ InverseGamma(2, 1)), one for each component; covariance =
                      S chol_c chol_c' S with S = diag(s), so chol_c has no units and `cov` has those of the data
    "tied"            the same with a single `chol` for all components
    "diagonal"        sd[c, f] ~ InverseGamma(2, s[f])
    "spherical"       sd[c]    ~ InverseGamma(2, root mean square of s)
    "tied_spherical"  sd       ~ InverseGamma(2, root mean square of s)      with equal weights: the model of k-means

With one feature, "full" and "diagonal" are "spherical", and "tied" is "tied_spherical".

Why InverseGamma(2, s) for a standard deviation: its mean is s and its mode s / 3, its tail is heavy, and near 0 its
density falls as exp(-s / sd), faster than any power. A component that closes in on n equal values gains n log(1 / sd):
without bound under maximum likelihood, hardly with one under a log-normal prior; here its sd stays above s / (n + 3).
Rows on a slanting line are another matter: there the sds stay and the correlation goes to ±1, which the LKJ prior with
eta=2 makes up for only up to three rows (two features). A component can still be caught by four or more exactly
collinear rows, as rounding makes them; with "diagonal" none can.

Examples: Old Faithful's eruptions (Azzalini & Bowman 1990, Applied Statistics 39:357-365) and the houses sold in
Windsor, Ontario, in 1987 (Anglin & Gencay 1996, Journal of Applied Econometrics 11:633-648).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt

from emppl.models._columns import check_table, warn_of_words

FOLDER = Path(__file__).parent / "data"
SHAPE = np.float64(2.0)  # not a plain 2.0, which PyTensor holds in single precision, and its log-gamma with it
COVARIANCES = ("full", "diagonal", "tied", "spherical", "tied_spherical")


def build(
    data: pd.DataFrame | Mapping[str, Any] | None = None,
    *,
    k: int = 2,
    covariance: str = "full",
    weights: str | Sequence[float] = "free",
    columns: str | Sequence[str] | None = None,
    example: str = "old_faithful",
) -> pm.Model:
    """Mixture of k Gaussians of any dimension.

    data        a frame: its numeric columns are the features, other columns are ignored; or a mapping with `y` [N] or
                [N, D], or with one array [N] a feature. None: the example.
    k           number of components.
    covariance  "full" | "diagonal" | "tied" | "spherical" | "tied_spherical".
    weights     "free": estimated, Dirichlet(1, …, 1); "equal": 1/k each; k probabilities: these.
    columns     the features, by name and in this order, also as "eruptions,waiting"; all of them if not given.
    example     "old_faithful": eruptions and waiting, minutes; "windsor_houses": natural logarithm of the price
                (dollars) and of the lot (square feet); "windsor_prices": the price alone, in thousands of dollars.

    Variables: `weights` [component] (none where they are given or k=1), `mu` [component, feature]; `chol_0`,
    `chol_1`, … or `chol` [entry] and from them `cov` [component, feature, feature_bis] or [feature, feature_bis]; or
    `sd` [component, feature], [component] or [] by the shape of the covariance; `component_of_row` [row], latent; `y`
    [row, feature], observed. A single feature has no dimension: `mu` [component], `sd` [component] or [], `y` [row].
    Raises KeyError for a missing column, ValueError for anything else that cannot be: each names column and row.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k={k!r} is not a number of components: give a whole number, 1 or more")
    if covariance not in COVARIANCES:
        raise ValueError(f"covariance={covariance!r} is not understood: give one of {', '.join(COVARIANCES)}")
    probabilities = _probabilities(weights, k)
    rows = _features(_example(example) if data is None else data, columns)
    if k > len(rows):
        raise ValueError(f"k={k} components for {len(rows)} rows: give at most as many components as rows")
    y, mean, sd = rows.to_numpy(float), rows.mean().to_numpy(), rows.std(ddof=0).to_numpy()
    if y.shape[1] == 1:
        y, mean, sd = y[:, 0], mean[0], sd[0]
        covariance = {"full": "spherical", "diagonal": "spherical", "tied": "tied_spherical"}.get(
            covariance, covariance
        )
    feature = () if y.ndim == 1 else ("feature",)

    coords: dict[str, Any] = {"component": np.arange(k), "row": np.arange(len(y))}
    if feature:
        names = list(rows.columns)
        coords |= {"feature": names, "feature_bis": names}
    if covariance in ("full", "tied"):
        # A Cholesky factor is held row by row up to its diagonal; an entry is named by the pair of features it couples.
        coords["entry"] = [f"{f}, {g}" for i, f in enumerate(names) for g in names[: i + 1]]
    with pm.Model(coords=coords) as model:
        if probabilities is None:
            # Flat: the most probable weights are those of the largest likelihood, an unused component may get weight 0.
            probabilities = pm.Dirichlet("weights", np.ones(k), dims="component")
        mu = pm.Normal("mu", mean, 3.0 * sd, dims=("component", *feature))
        component = pm.Categorical("component_of_row", p=probabilities, dims="row")
        dims = ("row", *feature)
        if covariance == "full":
            chol = pt.stack([_cholesky(f"chol_{c}", sd) for c in range(k)])
            pm.Deterministic("cov", chol @ chol.mT, dims=("component", "feature", "feature_bis"))
            pm.MvNormal("y", mu[component], chol=chol[component], observed=y, dims=dims)
        elif covariance == "tied":
            chol = _cholesky("chol", sd)
            pm.Deterministic("cov", chol @ chol.mT, dims=("feature", "feature_bis"))
            pm.MvNormal("y", mu[component], chol=chol, observed=y, dims=dims)
        elif covariance == "diagonal":
            spread = pm.InverseGamma("sd", SHAPE, sd, dims=("component", "feature"))
            pm.Normal("y", mu[component], spread[component], observed=y, dims=dims)
        elif covariance == "spherical":
            spread = pm.InverseGamma("sd", SHAPE, _root_mean_square(sd), dims="component")[component]
            pm.Normal("y", mu[component], spread[:, None] if feature else spread, observed=y, dims=dims)
        else:
            pm.Normal("y", mu[component], pm.InverseGamma("sd", SHAPE, _root_mean_square(sd)), observed=y, dims=dims)
    return model


def _cholesky(name: str, sd: np.ndarray) -> pt.TensorVariable:
    """Cholesky factor [D, D] of one covariance in the units of the data; the variable itself is in units of `sd` [D].

    Without that change of units PyMC, which takes differences of cumulated squares over the rows of the factor, loses
    the variance of a column that stands beside one of a far larger scale.
    """
    packed = pm.LKJCholeskyCov(
        name, eta=2.0, n=len(sd), sd_dist=pm.InverseGamma.dist(SHAPE, np.float64(1.0)), compute_corr=False, dims="entry"
    )
    return sd[:, None] * pm.math.expand_packed_triangular(len(sd), packed)


def _root_mean_square(sd: np.ndarray) -> np.float64:
    return np.sqrt(np.mean(np.square(sd)))


def _probabilities(weights: str | Sequence[float], k: int) -> np.ndarray | None:
    """Given weights [k], or None where they are to be estimated."""
    if isinstance(weights, str):
        if weights not in ("free", "equal"):
            raise ValueError(f'weights={weights!r} is not understood: give "free", "equal" or {k} probabilities')
        return None if weights == "free" and k > 1 else np.full(k, 1.0 / k)
    values = np.asarray(weights, dtype=float)
    if values.shape != (k,) or not np.all(values >= 0) or not np.isclose(values.sum(), 1.0):
        raise ValueError(f"weights={weights!r}: give {k} probabilities, one a component, that sum to 1")
    return values


def _example(name: str) -> pd.DataFrame:
    if name == "old_faithful":
        return pd.read_csv(FOLDER / "old_faithful.csv")
    if name not in ("windsor_houses", "windsor_prices"):
        raise ValueError(f"example={name!r} is unknown: old_faithful, windsor_houses and windsor_prices are there")
    houses = pd.read_csv(FOLDER / "windsor_houses.csv")
    if name == "windsor_prices":
        return pd.DataFrame({"price_in_thousands": houses["price"] / 1000.0})
    return pd.DataFrame({"log_price": np.log(houses["price"]), "log_lot": np.log(houses["lotsize"])})


def _features(data: pd.DataFrame | Mapping[str, Any], columns: str | Sequence[str] | None) -> pd.DataFrame:
    """The features as a frame [N, D] of finite numbers, none of them constant."""
    check_table(data)
    if isinstance(columns, str):
        columns = [name.strip() for name in columns.split(",")]
    frame = data if isinstance(data, pd.DataFrame) else _frame(data, columns)
    if columns is None:
        chosen = [name for name in frame.columns if _is_numeric(frame[name])]
        if not chosen:
            raise ValueError(f"no numeric column in the data, which hold {list(frame.columns)}")
        warn_of_words(frame, [name for name in frame.columns if name not in chosen], "are left out")
    else:
        chosen = list(columns)
        for name in chosen:
            if name not in frame.columns:
                raise KeyError(f"no column {name!r} in the data, which hold {list(frame.columns)}: correct columns=…")
            if not _is_numeric(frame[name]):
                raise ValueError(f"column {name!r} does not hold numbers: leave it out of columns=…")
        if not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(f"columns={chosen}: give at least one column, and none twice")
    frame = frame[chosen].astype(float)
    if len(frame) == 0:
        raise ValueError(f"the data have no rows (columns {chosen})")
    for name in chosen:
        values = frame[name].to_numpy()
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise ValueError(
                f"column {name!r}, row {bad[0]}: {values[bad[0]]} is not a finite number "
                f"({len(bad)} such rows): fill it in, or leave the rows out, as data.dropna() does"
            )
        if np.ptp(values) == 0.0:
            raise ValueError(
                f"column {name!r} is constant: {values[0]:g} from row 0 on, in all {len(values)} rows; it tells no "
                "component from another: leave it out, as with columns=…"
            )
    return frame


def _is_numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _frame(data: Mapping[str, Any], columns: Sequence[str] | None) -> pd.DataFrame:
    """A mapping as a frame: `y` [N] or [N, D] if it is there and no columns are asked for, otherwise all arrays [N]."""
    try:
        if "y" in data and columns is None:
            y = np.ma.filled(np.ma.asarray(data["y"], dtype=float), np.nan)
            if y.ndim not in (1, 2) or y.size == 0:
                raise ValueError(f"its shape is {y.shape}; give [N] or [N, D], with at least one row")
            return pd.DataFrame({"y": y} if y.ndim == 1 else {f"y{f + 1}": y[:, f] for f in range(y.shape[1])})
    except (TypeError, ValueError) as error:
        raise ValueError(f"y must hold numbers: {error}") from None
    lengths = {name: np.shape(values) for name, values in data.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns are not of one length: {lengths}")
    return pd.DataFrame({name: np.asarray(values) for name, values in data.items()})
