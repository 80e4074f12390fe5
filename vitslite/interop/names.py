"""Names of weights and settings, ours beside those of another implementation: tables that read in both directions.

A row is (ours, theirs) of a module or a parameter. {i} and {j} stand for numbers, and on their side {2i} and {2i-1},
too, where layers without weights lie between; what follows a row's name is the same on both sides. Weight norm is
`weight_g` and `weight_v` on both (`canonical`). The first row that fits counts.
"""

import re
from collections.abc import Iterable, Sequence

Rows = Sequence[tuple[str, str]]
_PARAMETRIZED = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


def canonical(name: str) -> str:
    """The name of a parameter with weight norm as `.weight_g` and `.weight_v`, whichever way torch has written it."""
    for new, old in _PARAMETRIZED.items():
        name = name.replace(new, old)
    return name


def parametrized(name: str) -> str:
    """The reverse of `canonical`: as torch.nn.utils.parametrizations has it, and so do our models."""
    for new, old in _PARAMETRIZED.items():
        name = re.sub(rf"\b{old}$", new, name)
    return name


def theirs(ours: str, rows: Rows) -> str | None:
    """Their name of one of our parameters, both `canonical`; None where they have no such thing."""
    for mine, other in rows:
        found = re.match(re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", re.escape(mine)) + r"(?=\.|$)", ours)
        if found:
            numbers = {name: int(number) for name, number in found.groupdict().items()}
            i = numbers.get("i", 0)
            return other.format_map({**numbers, "2i": 2 * i, "2i-1": 2 * i - 1}) + ours[found.end() :]
    return None


def table(ours: Iterable[str], rows: Rows) -> dict[str, str | None]:
    """{our name: their name}, of all parameters of a model of ours. AssertionError where two would be one of theirs."""
    named = {name: theirs(canonical(name), rows) for name in ours}
    found = [other for other in named.values() if other is not None]
    assert len(set(found)) == len(found), sorted(other for other in found if found.count(other) > 1)
    return named
