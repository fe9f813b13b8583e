"""How numbers are written for people, in every rendering of a report."""

import numpy as np

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, digits: int = 3, spread: float = np.nan) -> str:
    """A number to read: some decimals, powers of ten for the very small and large, an en dash where there is none.

    spread: its standard deviation; where that is small beside the number, decimals are those that show it.
    """
    value = float(value)
    if np.isnan(value):
        return "–"
    size = abs(value)
    if is_far(value, spread):
        text = f"{value:,.{decimals(spread)}f}"
    elif np.isfinite(value) and (0 < size < 5 * 10.0 ** (-1 - digits) or size >= 1e7):
        mantissa, exponent = f"{value:.1e}".split("e")
        text = f"{mantissa}·10{str(int(exponent)).translate(SUPERSCRIPTS)}"
    else:
        text = f"{value:,.{digits}f}" if size < 1000 else f"{value:,.{min(digits, 1)}f}"
    return text.replace(",", "\u202f").replace("-", "−")


def is_far(value: float, spread: float) -> bool:
    """Whether a number is so far from 0 that a few of its digits do not show its standard deviation."""
    return bool(np.isfinite(value) and 0 < spread < 1e-3 * abs(value) and 1e3 <= abs(value) < 1e15)


def decimals(spread: float) -> int:
    """Decimals that show two digits of a standard deviation, 6 at most."""
    return int(np.clip(1 - np.floor(np.log10(spread)), 0, 6))


def figure(value: float) -> str:
    """A number that may be a count: whole ones without decimals."""
    whole = np.isfinite(value) and float(value).is_integer() and abs(value) < 1e7
    return number(value, 0) if whole else number(value)


def height(value: float) -> str:
    """A log density: four decimals, whatever its size, since differences of a nat matter."""
    return f"{value:,.4f}".replace(",", "\u202f").replace("-", "−")


def fixed(value: float) -> str:
    """Two decimals: differences in posterior sds need no more."""
    return "–" if np.isnan(value) else f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def short(value: float) -> str:
    """A number with no more digits than it needs: 400, 1.05, 0.001."""
    return "–" if np.isnan(value) else f"{value:.4g}".replace("-", "−")


def percent(value: float) -> str:
    """A share, to a tenth of a percent."""
    return "–" if np.isnan(value) else f"{100 * value:.1f}%"
