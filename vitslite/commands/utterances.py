"""Lines of texts to speak: as they stand, or as JSON with a name, a seed or a speed of their own."""

import json
from dataclasses import dataclass

from vitslite.files import slug

_TYPES: dict[str, type | tuple[type, ...]] = {"text": str, "id": str, "seed": int, "speed": (int, float)}


@dataclass(frozen=True)
class Utterance:
    text: str
    place: str  # where it stands, for messages
    id: str | None = None
    seed: int | None = None
    speed: float | None = None


def read_lines(content: str, source: str) -> list[Utterance]:
    """An utterance for each line that is not empty. ValueError names the source and the line that cannot be read."""
    lines = [(f"{source}:{number}", line.strip()) for number, line in enumerate(content.split("\n"), 1)]
    found = [_read(line, place) for place, line in lines if line]
    if not found:
        raise ValueError(f"{source}: no text in it")
    return found


def _read(line: str, place: str) -> Utterance:
    if not line.startswith("{"):
        return Utterance(line, place)
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not JSON ({error.msg} at column {error.colno})") from error
    unknown = sorted(fields.keys() - _TYPES.keys())
    if unknown or "text" not in fields:
        fault = f"unknown key {unknown[0]}" if unknown else "no text"
        raise ValueError(f"{place}: {fault}; a line has text, and may have id, seed, speed")
    for key, value in fields.items():
        if not isinstance(value, _TYPES[key]) or isinstance(value, bool):
            raise ValueError(f"{place}: {key}={value!r} is not a {'text' if _TYPES[key] is str else 'number'}")
    name = fields.get("id")
    if name is not None and (slug(name) != name or name.startswith(".")):
        raise ValueError(f"{place}: id {name!r} is no name for a file: letters, digits and . _ = , - without spaces")
    return Utterance(place=place, **fields)
