"""A Piper voice: the training checkpoint (.ckpt), and what its .json says about text."""

import unicodedata
from pathlib import Path
from typing import Any

from torch import Tensor

from vitslite.interop import names_original as theirs
from vitslite.interop.original import networks, read_json, rows
from vitslite.interop.voice import Settings, Voice, by_id, refuse, translated

_GENERATOR = "model_g."
_FRONTENDS = {"espeak": "phonemes", "text": "characters"}  # phoneme_type: text.frontend


def read(path: Path, content: dict[str, Any], config_path: Path | None) -> Voice:
    """The voice of a checkpoint {"state_dict", "hyper_parameters", ...} at `path`, already loaded."""
    found, where = content["hyper_parameters"], config_path or path.parent / "config.json"
    prefix = len(_GENERATOR)
    weights = {n[prefix:]: x for n, x in content["state_dict"].items() if n.startswith(_GENERATOR)}
    settings = networks(weights, found, path) | translated(found, theirs.AUDIO_PIPER, str(path))
    return voice(path, where, settings, weights, f"a Piper checkpoint, step {content.get('global_step', 'unknown')}")


def voice(path: Path, where: Path, settings: Settings, weights: dict[str, Tensor], kind: str) -> Voice:
    """The voice of these weights, with the text, the noise and the speakers of the .json at `where`."""
    config = read_json(where, path)
    symbols = _symbols(config, str(where))
    own = config.get("inference", {})
    length_scale = own.get("length_scale", 1)
    speakers = config.get("speaker_id_map") or {}
    return Voice(
        path=path,
        kind=kind,
        settings={
            "synthesis.noise_scale": own.get("noise_scale", 0.667),
            "synthesis.duration_noise_scale": own.get("noise_w", 0.8),
            **settings,
            **_text(config, str(where)),
        },
        vocabulary=by_id(symbols, len(weights["enc_p.emb.weight"]), str(where)),
        weights=weights,
        rows=rows(weights),
        n_speakers=config.get("num_speakers", 1),
        speaker_names=speakers,
        notes=[] if length_scale == 1 else [f"length_scale={length_scale}: speak with --speed {1 / length_scale:.3g}"],
    )


def _text(config: dict[str, Any], where: str) -> Settings:
    """Edges, and a blank between all tokens but none outside: ^ _ p _ ... _ $."""
    phoneme_type = config.get("phoneme_type", "espeak")
    refuse(where, [f"phoneme_type={phoneme_type}"] if phoneme_type not in _FRONTENDS else [])
    refuse(where, ["phoneme_map, which respells phonemes"] if config.get("phoneme_map") else [])
    return {
        "text.frontend": _FRONTENDS[phoneme_type],
        "text.voice": config.get("espeak", {}).get("voice", "en-us"),
        "text.units": "codepoints",
        "text.blanks": True,
        "text.outer_blanks": False,
        "text.edges": True,
        "text.skip_unknown": True,
    }


def _symbols(config: dict[str, Any], where: str) -> dict[str, int]:
    """Symbol -> id. Piper decomposes what it reads (Unicode NFD), so a composed symbol never comes to it."""
    ids = config.get("phoneme_id_map", {})
    refuse(where, (f"phoneme {p!r} is {len(i)} ids" for p, i in ids.items() if len(i) != 1))
    if ids.get("_") != [0] or "^" not in ids or "$" not in ids:
        raise ValueError(f"{where}: phoneme_id_map has to hold '_' as id 0, '^' and '$'")
    return {p: i for p, (i,) in ids.items() if unicodedata.normalize("NFD", p) == p}
