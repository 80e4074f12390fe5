"""HTML pages from Jinja templates, which escape all that is put into them. The one owner of jinja2."""

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

PLACES = "places"  # a text in a PNG: sound -> left, top, width, height as shares of the picture, and its seconds
_TYPES = {".wav": "audio/wav", ".png": "image/png"}


def render(template: str, **values: Any) -> str:
    """A template by its path below vitslite/, filled in."""
    return _environment.get_template(template).render(values)


def data_uri(path: Path) -> str:
    """A file as an address that holds all of it."""
    return f"data:{_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


class Picture(NamedTuple):
    width: int  # pixels
    places: dict[str, list[float]]  # where each sound is drawn (timelines.py)


def picture(path: Path) -> Picture | None:
    """What a page must know of a PNG; None where there is none, or it is damaged."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return Picture(image.width, json.loads(image.info.get(PLACES, "{}")))
    except (OSError, UnidentifiedImageError, ValueError):
        return None


_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1]),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_environment.filters["data_uri"] = data_uri
