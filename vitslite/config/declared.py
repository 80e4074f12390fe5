"""Limits that a dataclass field declares in its metadata, and the one walk that checks them.

    learning_rate: float = field(default=2e-4, metadata={"above": 0})
    schedule: str = field(default="cosine", metadata={"choices": SCHEDULES})

choices: the values there are; refused: value -> why, for a name that is known and cannot be used; above, at_least,
below, at_most: a range; odd: True. Of a list every element is checked. None passes: OmegaConf lets it through only
where the type is `X | None`. NaN and infinity are refused everywhere.
"""

import dataclasses
import difflib
import math
import operator
import typing
from typing import Any

RANGES = {"above": operator.gt, "at_least": operator.ge, "below": operator.lt, "at_most": operator.le}


def settled(stored: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings that a file holds, where `${oc.env:...}` would ask for what its author must not know: ValueError."""
    for name, value in stored.items():
        key = f"{prefix}.{name}".lstrip(".")
        if isinstance(value, dict):
            settled(value, key)
        elif "${" in f"{key}{value}":
            raise ValueError(f"{key}={value}: the settings of a stored run hold values alone, nothing to be worked out")
    return stored


def check(settings: Any, prefix: str = "") -> None:
    """ValueError, in one line, for the first value that its field does not allow. `prefix`: the key of `settings`."""
    for field in dataclasses.fields(settings):
        key, value = f"{prefix}.{field.name}".lstrip("."), getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            check(value, key)
        else:
            _check_value(key, value, field)


def _check_value(key: str, value: Any, field: dataclasses.Field) -> None:
    if isinstance(value, list):
        for i, element in enumerate(value):
            _check_value(f"{key}[{i}]", element, field)
    elif value is not None and (fault := _fault(value, field)) is not None:
        typed = str(value).removesuffix(".0") if isinstance(value, float) else value  # 2 for 2.0
        raise ValueError(f"{key}={typed}{fault}")


def _fault(value: Any, field: dataclasses.Field) -> str | None:
    """What is wrong with a value, to be put behind it."""
    declared = field.metadata
    assert declared.keys() <= {*RANGES, "choices", "refused", "odd"}, f"{field.name}: misspelt metadata {declared}"
    if value in declared.get("refused", ()):
        return f": {declared['refused'][value]}"
    choices = declared.get("choices", (value,))
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=1)
        return f" is unknown: choose one of {', '.join(choices)}{f' (did you mean {near[0]}?)' if near else ''}"
    if isinstance(value, float) and not math.isfinite(value):
        return ": must be a finite number"
    ranges = {name: limit for name, limit in declared.items() if name in RANGES}
    if not all(RANGES[name](value, limit) for name, limit in ranges.items()):
        wanted = " and ".join(f"{name} {limit}" for name, limit in ranges.items()).replace("_", " ")
        return f": must be {wanted}{', or null' if type(None) in typing.get_args(field.type) else ''}"
    if declared.get("odd") and value % 2 == 0:
        return f": must be odd, say {value + 1}"
    return None
