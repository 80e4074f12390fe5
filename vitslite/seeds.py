"""Figures over the seeds of one variant: mean, 95 % interval, and how they are written."""

import math
import statistics

from scipy.stats import t as student

NOT_MEASURED = "-"


def half_interval(values: list[float]) -> float:
    """Half of the 95 % interval of the mean of n independent normal values: t(0.975, n - 1) s / sqrt(n) (Student 1908).

    nan for a single value, which says nothing of the spread, and where a value is not finite.
    """
    n = len(values)
    if n < 2 or not all(map(math.isfinite, values)):
        return math.nan
    return float(student.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)


def three_digits(value: float) -> str:
    """Three significant digits: 0.00123, 12.3, 12300; powers of ten only below 0.0001 and from a million on."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:.0f}" if 1000 <= abs(rounded) < 1e6 else f"{rounded:.3g}"


def cell(values: list[float]) -> str:
    """The values of the seeds: one alone, two side by side, of more the mean and half of its 95 % t-interval."""
    n = len(values)
    if n < 3:
        return " / ".join(map(three_digits, values)) or NOT_MEASURED
    if not all(map(math.isfinite, values)):
        return three_digits(sum(values))  # nan or inf: there is no spread
    return f"{three_digits(statistics.mean(values))} ± {three_digits(half_interval(values))}"
