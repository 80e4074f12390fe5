"""Measure how a trained voice speaks held-out sentences, beside the recordings and their copies.

    python scripts/evaluate.py runs/demo                          the run's test sentences, by its best checkpoint
    python scripts/evaluate.py runs/demo/checkpoints/last.pt --split validation --limit 20
    python scripts/evaluate.py runs/demo --texts sentences.txt    texts without recordings, one per line
    python scripts/evaluate.py WAVS --reference CORPUS            wavs of any synthesiser against recordings

Leaves evaluation.json, wavs and figures in SOURCE/evaluation/..., prints a table, and adds the figures to the summary
of the run in W&B. Intervals are of 95 %, over utterances. The same command gives the same figures, but for the speed.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from vitslite import audio, build, command_line, figures, recognition, tracking
from vitslite.evaluation import folder
from vitslite.evaluation.result import Evaluation, Scored, collect
from vitslite.evaluation.scoring import Scorer, table
from vitslite.evaluation.voice import SpeakSettings, VoiceEvaluator
from vitslite.synthesis import Synthesizer, run_of


def main(arguments: argparse.Namespace) -> None:
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.reference:
        evaluation, output = evaluate_folder(arguments)
    else:
        evaluation, output = evaluate_voice(arguments)
    path = output / "evaluation.json"
    path.write_text(json.dumps(evaluation.as_dict(), indent=1, ensure_ascii=False) + "\n")
    print(table(evaluation.estimates))
    if evaluation.speed:
        print("  ".join(f"{name} {value:.3g}" for name, value in evaluation.speed.items()))
    for x in evaluation.utterances[:3]:
        print(f"text      {x['text']}")
        for kind, heard in x["heard"].items():
            print(f"{kind:9} {heard}")
    print(f"{path}   wavs, pictures: {output}/")


def evaluate_voice(arguments: argparse.Namespace) -> tuple[Evaluation, Path]:
    """A trained voice, on a split of its corpus or on texts."""
    voice = Synthesizer(arguments.source, arguments.device)
    config = voice.config
    recogniser = recognition.build_recogniser(arguments.recogniser, config.data.kind == "demo")
    settings = SpeakSettings(arguments.seed, arguments.noise_scale, arguments.duration_noise_scale)
    about = {
        "source": str(voice.path),
        "step": voice.step,
        "recogniser": recogniser.name if recogniser else None,
        **vars(settings),
    }
    if arguments.texts:
        texts = folder.read_texts(arguments.texts)[: arguments.limit]
        output = make_output(arguments, voice.path, arguments.texts.stem)
        scored = folder.score_texts(voice, texts, Scorer(config.audio, recogniser), settings)
        return collect(leave_behind(scored, len(texts), output, arguments, config.audio), about), output
    if arguments.data_root:
        config.data.root = arguments.data_root
    corpus = build.corpus(config, voice.frontend)
    utterances = sorted(getattr(corpus, arguments.split), key=lambda u: u.id)[: arguments.limit]
    if not utterances:
        raise ValueError(f"--split {arguments.split}: the corpus has none (data.test_fraction), choose another")
    output = make_output(arguments, voice.path, arguments.split)
    evaluator = VoiceEvaluator(voice, corpus.frontend, recogniser, settings)
    scored = leave_behind(evaluator.score(utterances), len(utterances), output, arguments, config.audio)
    evaluation = collect(scored, {**about, "split": arguments.split})
    evaluation.speed = evaluator.speed()
    tracking.add_summary(
        config.tracking, run_of(voice.path), {f"{arguments.split}/{k}": v for k, v in evaluation.headline().items()}
    )
    return evaluation, output


def evaluate_folder(arguments: argparse.Namespace) -> tuple[Evaluation, Path]:
    """Wavs against recordings."""
    source = Path(arguments.source)
    if not source.is_dir():
        raise ValueError(f"{source}: no such folder; --reference is for a folder of wavs")
    pairs = folder.find_pairs(source, arguments.reference)[: arguments.limit]
    settings = folder.comparison_audio(arguments.sample_rate or folder.common_sample_rate(pairs))
    recogniser = recognition.build_recogniser(arguments.recogniser)
    about = {
        "source": str(source),
        "reference": str(arguments.reference),
        "sample_rate": settings.sample_rate,
        "recogniser": recogniser.name if recogniser else None,
    }
    output = make_output(arguments, source, "")
    scored = folder.score_pairs(pairs, Scorer(settings, recogniser))
    return collect(leave_behind(scored, len(pairs), output, arguments, settings), about), output


def make_output(arguments: argparse.Namespace, source: Path, name: str) -> Path:
    """The folder for what the evaluation leaves, existing."""
    output = arguments.output or run_of(source) / "evaluation" / name
    output.mkdir(parents=True, exist_ok=True)
    return output


def leave_behind(
    scored: Iterator[Scored], total: int, output: Path, arguments: argparse.Namespace, settings: audio.AudioSettings
) -> Iterator[Scored]:
    """Pass utterances on; wavs and pictures of the first ones, and a picture of all durations, stay in `output`."""
    found, predicted = [], []
    for i, x in enumerate(tqdm(scored, total=total, desc="evaluating", unit="utterances", disable=None)):
        if x.alignment is not None:
            found.append(x.alignment.durations.numpy())
            predicted.append(x.predicted.numpy())
        if i < arguments.examples:
            _leave_example(x, output, settings)
        yield x
    if found:
        frame_ms = 1000 * settings.hop_length / settings.sample_rate
        figures.durations(output / "durations.png", np.concatenate(found), np.concatenate(predicted), frame_ms)


def _leave_example(x: Scored, output: Path, settings: audio.AudioSettings) -> None:
    scorer = Scorer(settings, None)
    mels = {}
    for kind, wav in x.wavs.items():
        audio.write_wav(output / f"{x.id}_{kind}.wav", wav, settings.sample_rate)
        title = f"{kind}, {len(wav) / settings.sample_rate:.2f} s: {x.heard.get(kind, '')}"
        mels[title] = torch.from_numpy(scorer.log_mel(wav))
    figures.spectrograms(output / f"{x.id}_spectrograms.png", mels, x.text)
    if x.alignment is not None:
        figures.alignment(output / f"{x.id}_alignment.png", title=x.text, **x.alignment._asdict())


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source", metavar="SOURCE", help="a run directory, a checkpoint, or (with --reference) wavs")
    p.add_argument("--split", default="test", choices=("test", "validation", "train"))
    p.add_argument("--limit", type=positive, default=200, help="at most so many utterances")
    p.add_argument("--texts", type=Path, help="a file with one sentence per line, instead of the corpus")
    p.add_argument("--reference", type=Path, help="a corpus (metadata.csv, wavs/) to compare the wavs in SOURCE with")
    p.add_argument("--sample-rate", type=positive, help="of that comparison, where the files differ")
    p.add_argument(
        "--recogniser", default="auto", help="auto, grammar, pocketsphinx, none, a torchaudio pipeline, a folder"
    )
    p.add_argument("--data-root", help="where the corpus lies now, if it has moved")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--noise-scale", type=float, default=0.667)
    p.add_argument("--duration-noise-scale", type=float, default=0.8)
    p.add_argument("--examples", type=int, default=5, help="utterances whose wavs and pictures are kept")
    p.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    p.add_argument("--threads", type=positive, help="CPU threads; default: all cores")
    p.add_argument("-o", "--output", type=Path)
    return p


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(command_line.run_script(main, parser()))
