"""A folder of transformers.VitsModel (MMS-style included): config.json, model.safetensors, vocab.json."""

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from vitslite.interop import names
from vitslite.interop import names_transformers as theirs
from vitslite.interop.voice import Settings, Voice, by_id, refuse, translated

_MARKS = ("<unk>", "<pad>")  # of the tokenizer: no row of the embedding has to be theirs


def read(folder: Path) -> Voice:
    """The voice in a folder. ValueError names the file and the setting that cannot be expressed here."""
    config, n_rows = _json(folder / "config.json"), 0
    where = str(folder / "config.json")
    settings = translated(config, theirs.SETTINGS, where)
    kind = "stochastic" if config.get("use_stochastic_duration_prediction", True) else "deterministic"
    settings |= translated(config, theirs.STOCHASTIC if kind == "stochastic" else theirs.DETERMINISTIC, where)
    refuse(where, (f"{k}={config[k]} (only {v})" for k, v in theirs.FIXED.items() if config.get(k, v) != v))
    n_fft, hop_length = 2 * (config["spectrogram_bins"] - 1), math.prod(config["upsample_rates"])
    settings |= {
        "model.duration.kind": kind,
        "audio.n_fft": n_fft,
        "audio.win_length": n_fft,
        "audio.hop_length": hop_length,
    }
    n_rows, tokenizer = config["vocab_size"], _json(folder / "tokenizer_config.json")
    symbols = _symbols(folder, n_rows)
    settings |= _text(tokenizer, symbols, str(folder / "tokenizer_config.json"))
    speed = config.get("speaking_rate", 1.0)
    return Voice(
        path=folder,
        kind="a transformers VitsModel",
        settings=settings,
        vocabulary=by_id(symbols, n_rows, str(folder / "vocab.json")),
        weights={names.canonical(name): x for name, x in _weights(folder / "model.safetensors").items()},
        rows=theirs.WEIGHTS,
        n_speakers=config.get("num_speakers", 1),
        notes=[] if speed == 1 else [f"speaking_rate={speed}: speak with --speed {speed}"],
    )


def _text(tokenizer: dict[str, Any], symbols: dict[str, int], where: str) -> Settings:
    """How VitsTokenizer makes symbols of a text: no edges, a blank of id 0, letters or IPA code points."""
    phonemize = tokenizer.get("phonemize", True)
    cased = not tokenizer.get("normalize", True) and any(symbol != symbol.lower() for symbol in symbols)
    faults = {
        "is_uroman=true: its texts have to be romanised first": tokenizer.get("is_uroman", False),
        "normalize=false with capitals in its vocabulary: texts are lower-cased here": cased and not phonemize,
    }
    refuse(where, (fault for fault, is_so in faults.items() if is_so))
    return {
        "text.frontend": "phonemes" if phonemize else "characters",
        "text.units": "codepoints",
        "text.blanks": tokenizer.get("add_blank", True),
        "text.edges": False,
        "text.skip_unknown": tokenizer.get("normalize", True),
    }


def _symbols(folder: Path, n_rows: int) -> dict[str, int]:
    symbols = _json(folder / "vocab.json")
    return {s: i for s, i in symbols.items() if not (s in _MARKS and i >= n_rows)}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path}: {getattr(error, 'strerror', None) or error}: a voice of transformers has it"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: not a table of settings")
    return found


def _weights(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ValueError("to import a voice of transformers: pip install safetensors") from error
    if not path.is_file():
        raise ValueError(f"{path}: no such file; save_pretrained of transformers makes it")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged ({error})") from error
