"""Evaluation: how a trained voice speaks held-out sentences, beside the recordings and their copies.

    vitslite evaluate runs/demo                          the run's test sentences, by its best checkpoint
    vitslite evaluate runs/demo/checkpoints/last.pt --split validation --limit 20
    vitslite evaluate runs/demo --texts sentences.txt    texts without recordings, one per line
    vitslite evaluate WAVS --reference CORPUS            wavs of any synthesiser against recordings
    vitslite evaluate RUN --recogniser whisper:base --judge dnsmos,similarity,mos:FOLDER

Leaves a page (index.html), evaluation.json, wavs and figures in SOURCE/evaluation/..., prints a table, and adds the
figures to the summary of the run in W&B. Intervals are of 95 %, over utterances. The same command gives the same
figures, but for the speed.
"""

import argparse
import heapq
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from vitslite import audio, build, randomness
from vitslite.commands import console
from vitslite.config.settings import language
from vitslite.evaluation import folder, page
from vitslite.evaluation.judges import Judge, build_judges
from vitslite.evaluation.result import Evaluation, Scored, collect
from vitslite.evaluation.scoring import Scorer, table
from vitslite.evaluation.voice import VoiceEvaluator
from vitslite.files import write_text
from vitslite.metrics import recognition
from vitslite.monitoring import figures, timelines, tracking
from vitslite.synthesis import Synthesizer, run_of


def main(arguments: argparse.Namespace) -> None:
    refuse_what_does_not_apply(arguments)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.reference:
        evaluate_folder(arguments)
    elif arguments.texts:
        evaluate_texts(arguments)
    else:
        evaluate_run(arguments)


def evaluate_run(arguments: argparse.Namespace) -> None:
    """A trained voice on held-out sentences of its corpus."""
    voice = Synthesizer(arguments.source, arguments.device)
    config, split = voice.config, arguments.split
    if arguments.data_root:
        config.data.root = arguments.data_root
    config.data.cache_audio = False  # of all that is looked at, a few clips are read
    recogniser = recognition.build_recogniser(arguments.recogniser, config.data.kind == "demo", language(config))
    judges = build_judges(arguments.judge)
    corpus = build.corpus(config, voice.frontend)
    everything = getattr(corpus, split)
    if not everything:
        raise ValueError(f"--split {split}: the corpus has none (data.{split}_fraction), choose another")
    # A fixed order that has nothing to do with the corpus's own: the first ones are a fair sample.
    utterances = sorted(everything, key=lambda u: randomness.key(0, "evaluation", u.id))[: arguments.limit]
    about = describe(voice, recogniser, judges, arguments) | {"split": split, "n_split": len(everything)}
    evaluator = VoiceEvaluator(voice, recogniser, console.speak_settings(arguments, voice), judges)
    output = make_output(arguments, voice, split)
    scored = leave_behind(evaluator.score(utterances), len(utterances), output, arguments.examples, evaluator.scorer)
    evaluation = collect(scored, about, evaluator.scorer)
    evaluation.speed = evaluator.speed()
    conclude(evaluation, output)
    summary = {"step": voice.step, "n_utterances": len(utterances)} | evaluation.headline()
    named = {f"{split}/{k}": v for k, v in summary.items()}
    lineage = {"corpus": corpus.digest(), "split": split, "checkpoint": voice.path.name, "step": voice.step}
    tracking.add_evaluation(config.tracking, run_of(voice.path), named, output / "evaluation.json", lineage)


def evaluate_texts(arguments: argparse.Namespace) -> None:
    """A trained voice on texts that nobody recorded."""
    voice = Synthesizer(arguments.source, arguments.device)
    is_demo = voice.config.data.kind == "demo"
    recogniser = recognition.build_recogniser(arguments.recogniser, is_demo, language(voice.config))
    judges = build_judges(arguments.judge, has_recordings=False)
    if is_demo and arguments.recogniser == "auto":
        print("note: of this voice the recogniser understands only sentences of the demo's grammar")
    texts = folder.read_texts(arguments.texts, voice.frontend)
    scorer = Scorer(voice.config.audio, recogniser, judges)
    scored = folder.score_texts(voice, texts[: arguments.limit], scorer, console.speak_settings(arguments, voice))
    output = make_output(arguments, voice, f"texts-{arguments.texts.stem}")
    kept = leave_behind(scored, len(texts[: arguments.limit]), output, arguments.examples, scorer)
    about = describe(voice, recogniser, judges, arguments) | {"texts": str(arguments.texts), "n_texts": len(texts)}
    conclude(collect(kept, about, scorer), output)


def evaluate_folder(arguments: argparse.Namespace) -> None:
    """Wavs against recordings."""
    source = Path(arguments.source)
    if not source.is_dir():
        raise ValueError(f"{source}: no such folder; --reference is for a folder of wavs")
    pairs = folder.find_pairs(source, arguments.reference)
    pairs = sorted(pairs, key=lambda pair: randomness.key(0, "evaluation", pair.id))[: arguments.limit]
    pairs, unreadable = folder.readable(pairs)
    settings = folder.comparison_audio(folder.common_sample_rate(pairs, arguments.sample_rate))
    recogniser = recognition.build_recogniser(arguments.recogniser, language=arguments.language or "en-us")
    scorer = Scorer(settings, recogniser, build_judges(arguments.judge))
    scorer.notes += unreadable
    output = make_output(arguments, None, "")
    scored = leave_behind(folder.score_pairs(pairs, scorer), len(pairs), output, arguments.examples, scorer)
    about = {
        "source": str(source),
        "reference": str(arguments.reference),
        "audio": vars(settings),
        "recogniser": recogniser and recogniser.name,
        "judges": [judge.name for judge in scorer.judges],
    }
    conclude(collect(scored, about, scorer), output)


def refuse_what_does_not_apply(arguments: argparse.Namespace) -> None:
    """An option that would be ignored is a misunderstanding."""
    if arguments.texts and not arguments.texts.is_file():
        raise ValueError(f"--texts {arguments.texts}: no such file; give one with one sentence per line")
    if arguments.reference and (arguments.texts or arguments.data_root):
        raise ValueError("--reference compares wavs with recordings: it goes without --texts and --data-root")
    if arguments.sample_rate and not arguments.reference:
        raise ValueError("--sample-rate is for --reference; a trained voice is measured at its own")
    if arguments.language and not arguments.reference:
        raise ValueError("--language is for --reference; a trained voice has its own (text.voice)")
    source = Path(arguments.source)
    is_run = (source / "checkpoints").is_dir()
    if not arguments.reference and source.is_dir() and not is_run and any(source.glob("*.wav")):
        raise ValueError(f"{source} is a folder of wavs: add --reference CORPUS, the recordings to compare with")


def describe(
    voice: Synthesizer, recogniser: recognition.Recogniser | None, judges: list[Judge], arguments: argparse.Namespace
) -> dict[str, str | int | float | list[str] | None]:
    """What was evaluated and how, for the first lines of evaluation.json."""
    return {
        "source": str(voice.path),
        "step": voice.step,
        "data_root": voice.config.data.root,
        "recogniser": recogniser and recogniser.name,
        "judges": [judge.name for judge in judges],
        "device": arguments.device,
        **vars(console.speak_settings(arguments, voice)),
    }


def make_output(arguments: argparse.Namespace, voice: Synthesizer | None, name: str) -> Path:
    """The folder for what the evaluation leaves, existing; in our own places without what an earlier one left."""
    if arguments.output is not None:
        console.refuse_file(arguments.output)
        arguments.output.mkdir(parents=True, exist_ok=True)
        return arguments.output
    checkpoint = "" if voice is None or voice.path.stem == "best" else f"-{voice.path.stem}"
    output = run_of(voice.path if voice else Path(arguments.source)) / "evaluation" / f"{name}{checkpoint}"
    output.mkdir(parents=True, exist_ok=True)
    for old in (path for suffix in ("wav", "png", "json", "html") for path in output.glob(f"*.{suffix}")):
        old.unlink()
    return output


def leave_behind(
    scored: Iterator[Scored], total: int, output: Path, n_examples: int, scorer: Scorer
) -> Iterator[Scored]:
    """Pass utterances on; wavs and pictures of the first ones and of as many of those that were heard worst stay in
    `output`, and a picture of all durations."""
    found, predicted = [], []
    worst: list[tuple[float, int, Scored]] = []
    for i, x in enumerate(tqdm(scored, total=total, desc="evaluating", unit="utterances", disable=None)):
        if x.view is not None:
            found.append(x.view.alignment.durations)
            predicted.append(x.predicted)
        if i < n_examples:
            _leave_example(x, output, scorer)
        elif (rate := page.error_rate(x.measures)) > 0:
            worst = heapq.nlargest(n_examples, [*worst, (rate, -i, x)])  # no two have one i
        yield x
    for _, _, x in worst:
        _leave_example(x, output, scorer)
    if found:
        frame_ms = 1000 * scorer.audio.hop_length / scorer.audio.sample_rate
        figures.durations(output / "durations.png", np.concatenate(found), np.concatenate(predicted), frame_ms)


def conclude(evaluation: Evaluation, output: Path) -> None:
    """Write everything, say the most of it."""
    path, about = output / "evaluation.json", evaluation.about
    write_text(path, json.dumps(evaluation.as_dict(), indent=1, ensure_ascii=False) + "\n")
    n, n_all = about["n_utterances"], about.get("n_split") or about.get("n_texts")
    of_all = f" of {n_all}" if n_all and n_all > n else ""
    what = about.get("split") or about.get("texts") or f"wavs against {about['reference']}"
    step = f", step {about['step']}" if "step" in about else ""
    print(f"{about['source']}{step}: {n}{of_all} utterances ({what}), heard by {about['recogniser'] or 'nobody'}")
    print(table(evaluation.estimates, evaluation.measures))
    if evaluation.speed:
        print("  ".join(f"{name} {value:.3g}" for name, value in evaluation.speed.items()))
    for x in evaluation.utterances[:3]:
        for kind, words in {"text": x["text"], **x["heard"]}.items():
            print(f"{kind:9} {words}")
    for note in evaluation.notes:
        print(f"note: {note}")
    print(f"page: {page.write(evaluation, output)}   figures: {path}   wavs, pictures: {output}/")


def _leave_example(x: Scored, output: Path, scorer: Scorer) -> None:
    rate, name = scorer.audio.sample_rate, x.id.replace("/", "_")
    mels = {}
    for kind, wav in x.wavs.items():
        audio.write_wav(output / f"{name}_{kind}.wav", wav, rate)
        heard = f": {x.heard[kind]}" if kind in x.heard else ""
        mels[f"{kind}, {len(wav) / rate:.2f} s{heard}"] = scorer.log_mel(wav)
    timelines.spectrograms(output / f"{name}_spectrograms.png", mels, scorer.audio, x.text)
    if rate > 9000:
        timelines.high_bands(output / f"{name}_high.png", x.wavs, rate, x.text)
    if x.view is not None:
        timelines.alignment(output / f"{name}_alignment.png", x.view.alignment, scorer.audio, x.text)
        timelines.nats_map(output / f"{name}_nats.png", x.view, scorer.audio, x.text)


def parser() -> argparse.ArgumentParser:
    p = console.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source", metavar="SOURCE", help="a run directory, a checkpoint, or (with --reference) wavs")
    p.add_argument("--split", default="test", choices=("test", "validation", "train"))
    p.add_argument("--limit", type=console.positive, default=200, help="at most so many utterances (200)")
    p.add_argument("--texts", type=Path, help="a file with one sentence per line, instead of the corpus")
    p.add_argument("--reference", type=Path, help="a corpus (metadata.csv, wavs/) to compare the wavs in SOURCE with")
    p.add_argument("--sample-rate", type=console.positive, help="of that comparison, where the files differ")
    p.add_argument("--language", help="of that comparison, as espeak-ng calls it: de, fr-fr, ... (en-us)")
    recognisers = "auto, grammar, pocketsphinx, none, whisper:SIZE, whisper:FOLDER, a torchaudio pipeline, a folder"
    p.add_argument("--recogniser", default="auto", help=recognisers)
    judges = "dnsmos, similarity, mos:FOLDER; several parted by commas, or the option again"
    p.add_argument("--judge", action="append", default=[], metavar="NAME", help=judges)
    p.add_argument("--data-root", help="where the corpus lies now, if it has moved")
    p.add_argument("--examples", type=int, default=5, help="keep wavs and pictures of the first 5 and the 5 worst")
    console.add_speaking(p)
    p.add_argument("--threads", type=console.positive, help="CPU threads; default: all cores")
    p.add_argument("-o", "--output", type=Path)
    return p


def command() -> int:
    return console.run_script(main, parser())
