"""Statistics over seeds: mean, 95 % interval, paired differences, and how they are written."""

import math
import statistics

NOT_MEASURED = "-"


def half_interval(values: list[int | float]) -> float:
    """Half of the 95 % interval of the mean of n independent normal values: t(0.975, n - 1) s / sqrt(n) (Student 1908).

    nan for a single value, which says nothing of the spread, and where a value is not finite.
    """
    n = len(values)
    if n < 2 or not all(map(math.isfinite, values)):
        return math.nan
    return _student(n - 1) * statistics.stdev(values) / math.sqrt(n)


def _student(degrees: int) -> float:
    """Student's t(0.975, degrees of freedom)."""
    from scipy.special import stdtrit  # here: its import takes as long as all others of this package's readers

    return float(stdtrit(degrees, 0.975))


def significant(value: int | float) -> str:
    """Three significant digits: 0.00123, 12.3, 12300; powers of ten only below 0.0001 and from a million on."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:.0f}" if 1000 <= abs(rounded) < 1e6 else f"{rounded:.3g}"


def cell(values: list[int | float]) -> str:
    """The values of the seeds: one alone, two side by side, of more the mean and half of its 95 % t-interval."""
    n = len(values)
    if n < 3:
        return " / ".join(map(significant, values)) or NOT_MEASURED
    if not all(map(math.isfinite, values)):
        return significant(sum(values))  # nan or inf: there is no spread
    return f"{significant(statistics.mean(values))} ± {significant(half_interval(values))}"


def plus_minus(mean: float, half: float, signed: bool = False) -> str:
    """Mean and half of its interval, both to the second significant digit of the latter: 17.845, 1.23 -> 17.8 ± 1.2."""
    if not 1e-5 <= half < 1e6 or not math.isfinite(mean):
        texts = [significant(mean), significant(half)]
    else:
        decimals = 1 - math.floor(math.log10(half))
        texts = [f"{round(value, decimals) + 0.0:.{max(0, decimals)}f}" for value in (mean, half)]  # + 0: no -0.0
    return f"{'+' if signed and mean > 0 else ''}{texts[0]} ± {texts[1]}"


def needed_seeds(differences: list[float], most: int = 100) -> int | None:
    """The smallest n whose interval would leave out 0: t(0.975, n - 1) s / sqrt(n) < |mean|. None above `most`.

    It takes the mean and the spread s of these differences for the true ones; of few seeds both are rough.
    """
    mean, spread = abs(statistics.mean(differences)), statistics.stdev(differences)
    enough = (n for n in range(2, most + 1) if _student(n - 1) * spread / math.sqrt(n) < mean)
    return next(enough, None)


def difference_in_words(differences: list[float]) -> str:
    """What the differences (variant - baseline, one per common seed) say: lower, higher, equal or not resolved."""
    n = len(differences)
    if n == 0:
        return "no common seed"
    wrong = sum(not math.isfinite(d) for d in differences)
    if wrong:
        return f"not finite in {wrong} of {n} seed{'s' if n > 1 else ''}"
    mean = statistics.mean(differences)
    if n == 1:
        return f"1 common seed: no interval, {'+' if mean > 0 else ''}{significant(mean)}"
    if not any(differences):
        return f"equal in every seed ({n} seeds)"
    half = half_interval(differences)
    figures = f"{plus_minus(mean, half, signed=True)} ({n} seeds)"
    if abs(mean) > half:
        return f"{'lower' if mean < 0 else 'higher'}: {figures}"
    needed = needed_seeds(differences)
    return f"not resolved: {figures}; {f'about {needed}' if needed else 'more than 100'} seeds would be needed"
