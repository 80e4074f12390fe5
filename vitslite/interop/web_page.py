"""A voice as one HTML file that speaks without a server: runtime, weights and, for phonemes, a lexicon inside."""

import base64
import gzip
import html
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vitslite.interop.onnx_file import Exported, piper_config, symbol_ids
from vitslite.text.frontend import Frontend
from vitslite.text.phonemes import MARKS

if TYPE_CHECKING:
    from onnx import ModelProto

_TEMPLATE = Path(__file__).parent / "templates" / "voice.html"
RUNTIME = {"runtime": "ort.wasm.bundle.min.mjs", "wasm": "ort-wasm-simd-threaded.wasm"}  # of npm's onnxruntime-web


def page(
    proto: "ModelProto", voice: Exported, lexicon: dict[str, str] | None, runtime: Path, title: str, text: str
) -> str:
    """The file. `runtime` is the folder `dist` of onnxruntime-web; ValueError where that is not one."""
    missing = [name for name in RUNTIME.values() if not (runtime / name).is_file()]
    if missing:
        raise ValueError(
            f"--runtime {runtime}: no {', '.join(missing)} there; npm install onnxruntime-web, then "
            "--runtime node_modules/onnxruntime-web/dist"
        )
    packed = {name: (runtime / file).read_bytes() for name, file in RUNTIME.items()}
    packed["model"] = proto.SerializeToString()
    inference = piper_config(voice)["inference"]
    settings = {
        "sample_rate": voice.sample_rate,
        "noise_scale": inference["noise_scale"],
        "noise_w": inference["noise_w"],
        "ids": symbol_ids(voice.frontend),
        "lexicon": lexicon,
    }
    parts = {
        "title": html.escape(title),
        "text": html.escape(text),
        "hidden": "" if lexicon else "hidden",
        "n_words": str(len(lexicon or {})),
        "words": html.escape(", ".join(sorted(lexicon or {}))),
        "voice": json.dumps(settings, ensure_ascii=False).replace("<", "\\u003c"),
        **{name: base64.b64encode(gzip.compress(content, mtime=0)).decode() for name, content in packed.items()},
    }
    return re.sub(r"@(\w+)@", lambda found: parts[found[1]], _TEMPLATE.read_text(encoding="utf-8"))


def lexicon(frontend: Frontend, sentences: Iterable[str]) -> dict[str, str]:
    """{word: its phonemes}, of the words in these sentences: as they sound there most often, else alone.

    espeak-ng runs some words together ("of the"); sentences where it does say nothing about single words.
    """
    heard: dict[str, Counter[str]] = defaultdict(Counter)
    for sentence in sentences:
        words = re.findall(r"[^\W_]+(?:'[^\W_]+)*", sentence.lower())
        symbols = "".join(frontend.symbols(sentence)[1:-1] if frontend.settings.edges else frontend.symbols(sentence))
        spoken = [word for word in symbols.translate(dict.fromkeys(map(ord, MARKS))).split(" ") if word]
        for i, word in enumerate(words):
            heard[word].update([spoken[i]] if len(spoken) == len(words) else [])
    alone = (word for word, found in heard.items() if not found)
    return {word: found.most_common(1)[0][0] for word, found in heard.items() if found} | {
        word: "".join(s for s in frontend.symbols(word) if s not in "^$" + MARKS) for word in alone
    }
