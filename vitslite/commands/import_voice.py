"""Import: a voice of another program as a checkpoint of ours, exactly.

    vitslite import FOLDER -o voices/eng            transformers: config.json, model.safetensors, vocab.json
    vitslite import G_100000.pth -o voices/ljs      the published VITS code, with its config.json
    vitslite import voice.ckpt --config voice.json -o voices/joe     a Piper checkpoint, with its .json
    vitslite import en_US-joe-medium.onnx -o voices/joe --speaker 3  a Piper voice, with its .onnx.json

What SOURCE is, is found out by looking at it. DIR then goes where a run does: `vitslite synthesize DIR "..."`,
`vitslite evaluate DIR --data-root CORPUS`, `vitslite train trainer.init_from=DIR`. Of several speakers one is taken.
"""

import argparse
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vitslite import build, runs
from vitslite.commands import console
from vitslite.config import identity
from vitslite.interop import sources, speakers, weights
from vitslite.interop.voice import Voice
from vitslite.text.frontend import Frontend
from vitslite.training import checkpoint

_OURS = {  # weight norm everywhere, as it is trained; recordings in LJSpeech's layout, of another corpus than the demo
    "model.posterior.weight_norm": True,
    "model.flow.weight_norm": True,
    "model.decoder.hifigan.weight_norm": True,
    "data.kind": "ljspeech",
}


def main(arguments: argparse.Namespace) -> None:
    path = arguments.output / runs.CHECKPOINTS / "best.pt"
    console.refuse_file(arguments.output)
    if path.parent.exists() and not arguments.overwrite:
        raise ValueError(f"{path.parent} exists: add --overwrite, or choose another -o")
    voice = sources.read(arguments.source, arguments.config)
    number = voice.speaker(arguments.speaker)
    print(f"{voice.kind}: {voice.path}{'' if number is None else f', speaker {number} of {voice.n_speakers}'}")
    content = imported(voice, number, arguments.output)
    checkpoint.write(path, content)
    runs.write_config(arguments.output, content["config"])
    n = sum(x.numel() for x in content["model"].values())
    text = content["config"]["text"]
    print(f"{n:,} parameters, {len([s for s in voice.vocabulary if s])} symbols ({text['frontend']}), {_rate(content)}")
    for note in [*voice.notes, *absent_in_words(content["imported"]["absent"])]:
        print(f"note: {note}")
    print(f"{path}   speak: vitslite synthesize {arguments.output} TEXT")


def imported(voice: Voice, speaker: int | None, folder: Path) -> dict[str, Any]:
    """The content of a checkpoint, at step 0, of one speaker of the voice. ValueError for what does not fit."""
    if speaker is not None:
        voice.weights = speakers.fold(voice, speaker)
    place = {"name": folder.name, "run_dir": str(folder)}
    config = build.parse({**identity.unflatten({**voice.settings, **_OURS}), **place}, [])
    frontend = Frontend(config.text, voice.vocabulary)
    model = build.model(config, frontend.n_symbols)
    absent = weights.load(model, voice, config.model.flow.n_couplings)
    return {
        "config": asdict(config),
        "frontend": frontend.state(),
        "imported": {"from": str(voice.path), "kind": voice.kind, "speaker": speaker, "absent": absent},
        **build.provenance(),
        "model": model.state_dict(),
        "step": 0,
    }


def absent_in_words(absent: list[str]) -> list[str]:
    """What such a file cannot hold, by part."""
    parts = Counter(name.split(".")[0] for name in absent)
    listed = " and ".join(f"{n} tensors of {part}" for part, n in parts.items())
    return [f"not in it, since only training needs them, so left at their start: {listed}"] if listed else []


def _rate(content: dict[str, Any]) -> str:
    audio = content["config"]["audio"]
    return f"{audio['sample_rate']} Hz in frames of {audio['hop_length']} samples"


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source", type=Path, metavar="SOURCE")
    p.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    p.add_argument("--speaker", metavar="N", help="of a voice with several: its number, or its name in a Piper .json")
    p.add_argument("--config", type=Path, help="the .json that belongs to SOURCE, where it does not lie beside it")
    p.add_argument("--overwrite", action="store_true", help="replace an earlier import")
    return p


def command() -> int:
    return console.run_script(main, parser())
