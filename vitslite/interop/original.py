"""A G_*.pth of the published VITS code, with the configuration that lies beside it."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from vitslite.interop import names_original as theirs
from vitslite.interop.names import Rows
from vitslite.interop.voice import Settings, Voice, plain, refuse, translated

_EMBEDDING = "enc_p.emb.weight"
_PHONEME_CLEANERS = ("english_cleaners", "english_cleaners2")  # espeak-ng's phonemes, without and with punctuation


def read(path: Path, content: dict[str, Any], config_path: Path | None) -> Voice:
    """The voice of a checkpoint {"model", "iteration", ...} at `path`, already loaded."""
    where = config_path or path.parent / "config.json"
    config = read_json(where, path)
    weights: dict[str, Tensor] = content["model"]
    data, model = config.get("data", {}), config.get("model", {})
    n_rows = len(weights[_EMBEDDING])
    vocabulary = plain(config.get("symbols")) or list(theirs.SYMBOLS)
    if len(vocabulary) != n_rows:
        raise ValueError(
            f"{path}: {n_rows} symbols, and {len(vocabulary)} are known: list them, in their order, as "
            f'"symbols": [...] in {where}'
        )
    return Voice(
        path=path,
        kind=f"a voice of the published VITS code, iteration {content.get('iteration', 'unknown')}",
        settings=networks(weights, model, where) | translated(data, theirs.AUDIO, str(where)) | _text(data, where),
        vocabulary=vocabulary,
        weights=weights,
        rows=rows(weights),
        n_speakers=max(1, data.get("n_speakers", 0)) if "emb_g.weight" in weights else 1,
    )


def networks(weights: dict[str, Tensor], found: dict[str, Any], where: Path) -> Settings:
    """The settings of `model`: from the source's own, and where its code has them fixed, as published."""
    # `dp.proj` is another layer in each predictor, so that what tells them apart has to be another.
    kind = "stochastic" if "dp.flows.0.m" in weights else "deterministic"
    settings = theirs.FIXED | translated(found, theirs.SETTINGS, str(where))
    stochastic = kind == "stochastic"
    filters = found["hidden_channels"] if stochastic else theirs.DETERMINISTIC_FILTERS
    return settings | {
        "model.duration.kind": kind,
        "model.duration.filters": filters,
        "model.decoder.hifigan.resblock_kind": str(found["resblock"]),
    }


def rows(weights: dict[str, Tensor]) -> Rows:
    """Names of the weights: light residual blocks have one list of convolutions, and another name for it."""
    return theirs.WEIGHTS_LIGHT if "dec.resblocks.0.convs.0.bias" in weights else theirs.WEIGHTS


def read_json(where: Path, of: Path) -> dict[str, Any]:
    """A configuration that belongs to the file `of`."""
    try:
        found = json.loads(where.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{where}: {reason}; it says how {of.name} was made: name it by --config") from error
    if not isinstance(found, dict):
        raise ValueError(f"{where}: not a table of settings")
    return found


def _text(data: dict[str, Any], where: Path) -> Settings:
    cleaners = data.get("text_cleaners", ["english_cleaners2"])
    refuse(str(where), (f"text_cleaners={c}" for c in cleaners if c not in (*_PHONEME_CLEANERS, "basic_cleaners")))
    phonemes = any(c in _PHONEME_CLEANERS for c in cleaners)
    return {
        "text.frontend": "phonemes" if phonemes else "characters",
        "text.units": "codepoints",
        "text.blanks": data.get("add_blank", True),
        "text.edges": False,
    }
