"""HTML pages from Jinja templates, which escape all that is put into them. The one owner of jinja2."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TYPES = {".wav": "audio/wav", ".png": "image/png"}


def render(template: str, **values: Any) -> str:
    """A template by its path below vitslite/, filled in."""
    return _environment.get_template(template).render(values)


def data_uri(path: Path) -> str:
    """A file as an address that holds all of it."""
    return f"data:{_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1]),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_environment.filters["data_uri"] = data_uri
