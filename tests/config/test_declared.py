"""Every limit that a settings class declares is enforced, by its dotted key; every fixed vocabulary is declared."""

import dataclasses
import functools
import math
import typing
from dataclasses import dataclass, field

import pytest

from vitslite import build
from vitslite.config import declared
from vitslite.config.settings import Config

FREE_TEXT = {  # whatever one likes, or what only a package, a file or a run knows
    *("name", "run_dir", "text.voice", "text.symbols", "data.root", "data.cache", "data.demo_voice"),
    *("trainer.best_metric", "validation.recogniser", "tracking.project", "tracking.entity", "tracking.group"),
    *("tracking.job_type", "tracking.tags", "trainer.init_from"),
}


def fields(settings, prefix=""):
    """(dotted key, field) of everything that one can set."""
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", f


def types_of(f) -> tuple[int, set[type]]:
    """list[list[int]] -> 2, {int}; int | None -> 0, {int, None}."""
    depth, kind = 0, f.type
    while typing.get_origin(kind) is list:
        depth, (kind,) = depth + 1, typing.get_args(kind)
    return depth, set(typing.get_args(kind) or (kind,))


def refusal(check, make, key, value) -> str | None:
    """What `check` says when `value` stands at `key`: of a list at every place, wrapped as deep as its type is."""
    settings = make()
    *path, name = key.split(".")
    part = functools.reduce(getattr, path, settings)
    depth, _ = types_of(next(f for f in dataclasses.fields(part) if f.name == name))
    for _ in range(depth):
        value = [value]
    setattr(part, name, value)
    try:
        check(settings)
    except ValueError as error:
        return str(error)
    return None


def edges(f) -> tuple[list, list]:
    """Values just inside and just outside what a field declares."""
    kinds = types_of(f)[1]
    inside, outside = list(f.metadata.get("choices", ())), list(f.metadata.get("refused", ()))
    for name, limit in f.metadata.items():
        if name in declared.RANGES:
            inwards = math.inf if name in ("above", "at_least") else -math.inf
            if name in ("above", "below"):  # the limit itself is outside
                inside.append(next_number(limit, inwards, kinds))
                outside.append(limit)
            else:
                inside.append(limit)
                outside.append(next_number(limit, -inwards, kinds))
    inside += [None] if type(None) in kinds else []
    outside += [math.nan, math.inf, -math.inf] if float in kinds else []
    outside += ["no such"] if "choices" in f.metadata else []
    outside += [2, 100] if "odd" in f.metadata else []
    return inside, outside


def next_number(x: float, towards: float, kinds: set[type]) -> float:
    return math.nextafter(x, towards) if float in kinds else x + int(math.copysign(1, towards))


def faults(check=declared.check, make=Config) -> list[str]:
    """What `check` lets through and should not, refuses and should not, or refuses without its dotted key."""
    found = []
    for key, f in fields(make()):
        inside, outside = edges(f)
        found += [f"{key}={v}: {line}" for v in inside if (line := refusal(check, make, key, v)) is not None]
        for value in outside:
            line = refusal(check, make, key, value)
            if line is None or not line.startswith(f"{key}{'[0]' * types_of(f)[0]}={value}"):
                found.append(f"{key}={value}: {line}")
    return found


def without_choices(make=Config) -> set[str]:
    return {key for key, f in fields(make()) if str in types_of(f)[1] and "choices" not in f.metadata}


def test_every_declared_limit_is_enforced():
    assert faults() == []
    assert len([f for _, f in fields(Config()) if f.metadata]) > 80


def test_every_fixed_vocabulary_is_declared():
    assert without_choices() == FREE_TEXT


def test_the_defaults_pass():
    declared.check(Config())
    assert build.parse({}, []).data.kind == "demo"


@dataclass
class Part:
    share: float = field(default=0.5, metadata={"above": 0, "at_most": 1})
    sizes: list[list[int]] = field(default_factory=lambda: [[3, 5]], metadata={"at_least": 1, "odd": True})
    colour: str = field(default="red", metadata={"choices": ("red", "green"), "refused": {"blue": "it is sold out"}})
    window: str = "hann"


@dataclass
class Planted:
    part: Part = field(default_factory=Part)
    steps: int | None = field(default=None, metadata={"at_least": 1, "below": 9})


def test_what_is_not_enforced_is_noticed():
    assert faults(make=Planted) == []
    assert without_choices(Planted) == {"part.window"}
    missed = faults(lambda settings: None, Planted)
    for key in ("part.share=0", "part.share=nan", "part.sizes=0", "part.sizes=2", "part.colour=no such", "steps=9"):
        assert f"{key}: None" in missed
    refused = faults(lambda settings: declared.check(settings.part), Planted)  # without the path to the part
    assert "part.share=0: share=0: must be above 0 and at most 1" in refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": 2.0}, "x.share=2: must be above 0 and at most 1"),
        ({"share": math.inf}, "x.share=inf: must be a finite number"),
        ({"sizes": [[3], [5, 4]]}, "x.sizes[1][1]=4: must be odd, say 5"),
        ({"colour": "gren"}, "x.colour=gren is unknown: choose one of red, green (did you mean green?)"),
        ({"colour": "yellow"}, "x.colour=yellow is unknown: choose one of red, green"),
        ({"colour": "blue"}, "x.colour=blue: it is sold out"),
    ],
)
def test_messages(changes, message):
    with pytest.raises(ValueError) as error:
        declared.check(Part(**changes), "x")
    assert str(error.value) == message


def test_null_is_offered_where_it_may_stand():
    with pytest.raises(ValueError, match=r"^steps=0: must be at least 1 and below 9, or null$"):
        declared.check(Planted(steps=0))


def test_a_misspelt_limit_is_no_limit_in_silence():
    @dataclass
    class Misspelt:
        steps: int = field(default=1, metadata={"atleast": 1})

    with pytest.raises(AssertionError, match="steps: misspelt"):
        declared.check(Misspelt())
