"""Judges of a voice that nobody here tuned to: predictors of a mean opinion score (MOS), and speaker similarity.

    dnsmos       DNSMOS P.835, overall (Reddy et al. 2022), by speechmos; 1 to 5
    similarity   cosine of GE2E speaker embeddings (Wan et al. 2018), by resemblyzer, of a clip and the recording of the
                 same sentence; 1 for the recording itself
    mos:FOLDER   a model that the user has: one TorchScript file (.pt, .jit) of (samples [1, S] in [-1, 1]) -> score;
                 judge.json beside it may say "name", "sample_rate" (16000) and "shortest_seconds" (0)

What a judge says of the recordings belongs beside everything else that it says. The one owner of speechmos and
resemblyzer.
"""

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from vitslite.audio import resampled
from vitslite.config import declared
from vitslite.files import slug

NAMES = "dnsmos, similarity, mos:FOLDER"
_ZERO_CROSSINGS = 64  # of the resampling: a judge hears the images above the old band that a short filter leaves
_SILENCE = 1e-4  # peak; what is never louder has nothing to judge
_PROBE_SECONDS = 3.0  # of noise, for a model nobody has tried yet


@runtime_checkable
class Judge(Protocol):
    """Samples to a score. The same samples give the same score, whatever came before them."""

    name: str  # of its measure
    label: str  # in the table
    unit: str
    sample_rate: int  # Hz, of what it takes
    shortest_seconds: float  # its window, or what it needs of speech

    def score(self, wav: Float[np.ndarray, " S"], recording: Float[np.ndarray, " _"] | None) -> float:
        """Of samples at its own rate; `recording` is of the same sentence. ValueError: it cannot judge this clip."""
        ...


def build_judges(names: Sequence[str], has_recordings: bool = True) -> list[Judge]:
    """`names` as typed, each perhaps several parted by commas; an order and a name once.

    ValueError: an unknown name, a missing package, a folder without a model, what needs recordings where none are.
    """
    judges: dict[str, Judge] = {}
    for name in dict.fromkeys(part.strip() for typed in names for part in typed.split(",")):
        if name == "similarity" and not has_recordings:
            raise ValueError("--judge similarity compares with the recording of the sentence: texts have none")
        judge = _build(name)
        if judge.name in judges:
            raise ValueError(f'--judge {name}: there is a judge {judge.name} already; give "name" in its judge.json')
        judges[judge.name] = judge
    return list(judges.values())


def _build(name: str) -> Judge:
    if name == "dnsmos":
        return Dnsmos()
    if name == "similarity":
        return Similarity()
    if name.startswith("mos:"):
        return ScriptedModel(Path(name.removeprefix("mos:")).expanduser())
    raise ValueError(f"--judge {name!r}: type one of {NAMES}")


def judged(
    judge: Judge, wav: Float[np.ndarray, " S"], recording: Float[np.ndarray, " _"] | None, sample_rate: int
) -> float:
    """The score of samples at any rate. ValueError says why this clip has none: silent, too short, not a number."""
    for samples, whose in ((wav, ""), (recording, "the recording is ")):
        if samples is None:
            continue
        seconds = len(samples) / sample_rate
        if seconds < judge.shortest_seconds:
            raise ValueError(f"{whose}{seconds:.2f} s long, {judge.shortest_seconds:g} s needed")
        if np.abs(samples).max(initial=0.0) < _SILENCE:
            raise ValueError(f"{whose}silent")
    given, real = (
        None if x is None else np.clip(resampled(x, sample_rate, judge.sample_rate, _ZERO_CROSSINGS), -1, 1)
        for x in (wav, recording)
    )
    assert given is not None
    score = judge.score(given, real)
    if not math.isfinite(score):
        raise ValueError(f"its score is {score}")
    return score


class Dnsmos:
    """The mean over windows of 9 s, one per second; a shorter clip is repeated until it fills one."""

    name, label, unit = "dnsmos", "DNSMOS, overall", "MOS"
    sample_rate, shortest_seconds = 16000, 1.0

    def __init__(self):
        try:
            from speechmos import dnsmos
        except ImportError as error:
            raise _not_installed("dnsmos", "speechmos", error) from error
        self._run = dnsmos.run

    def score(self, wav: Float[np.ndarray, " S"], recording: Float[np.ndarray, " _"] | None) -> float:
        return float(self._run(wav, self.sample_rate)["ovrl_mos"])


class Similarity:
    """Level and long silences are first brought to what the encoder was trained with, as its package does."""

    name, label, unit = "similarity", "speaker similarity to the recording", "cosine"
    sample_rate, shortest_seconds = 16000, 1.6  # the encoder's window

    def __init__(self):
        try:
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of its imports from scipy
                import resemblyzer
        except ImportError as error:
            raise _not_installed("similarity", "resemblyzer", error) from error
        self._prepare = resemblyzer.preprocess_wav
        self._encoder = resemblyzer.VoiceEncoder("cpu", verbose=False)

    def score(self, wav: Float[np.ndarray, " S"], recording: Float[np.ndarray, " _"] | None) -> float:
        assert recording is not None
        given, real = self._embedding(wav, ""), self._embedding(recording, " in the recording")
        return float(given @ real)  # both have length 1

    def _embedding(self, wav: Float[np.ndarray, " S"], where: str) -> Float[np.ndarray, " E"]:
        speech = self._prepare(wav)
        if len(speech) == 0:
            raise ValueError(f"no speech found{where}")
        return self._encoder.embed_utterance(speech)


@dataclass
class ScriptedSettings:
    """judge.json."""

    name: str
    sample_rate: int = field(default=16000, metadata={"at_least": 1000})  # Hz
    shortest_seconds: float = field(default=0.0, metadata={"at_least": 0})


class ScriptedModel:
    """A TorchScript model of a folder, on the CPU. Tried on noise first, so that a wrong one is refused at once."""

    def __init__(self, folder: Path):
        paths = sorted(path for path in folder.glob("*") if path.suffix in (".pt", ".jit"))
        if len(paths) != 1:
            found = f"{len(paths)} models, {paths[0].name} and {paths[1].name}" if paths else "no model (.pt, .jit)"
            raise ValueError(f"--judge mos:{folder}: {found} there; give a folder with one TorchScript model")
        settings = _read_settings(folder)
        self.name = f"mos_{slug(settings.name, marks='').lower()}"
        self.label, self.unit = settings.name, "MOS"
        self.sample_rate, self.shortest_seconds = settings.sample_rate, settings.shortest_seconds
        try:
            with warnings.catch_warnings(action="ignore", category=FutureWarning):  # that TorchScript grows old
                self._model = torch.jit.load(str(paths[0]), map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"--judge mos:{folder}: {paths[0].name} is not a TorchScript model; a checkpoint of weights has to be "
                "exported with its code"
            ) from error
        seconds = max(_PROBE_SECONDS, self.shortest_seconds)
        noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * self.sample_rate)).astype(np.float32)
        try:
            self.score(noise, None)
        except ValueError as error:
            raise ValueError(f"--judge mos:{folder}: of {seconds:g} s of noise: {error}") from error

    @torch.no_grad()
    def score(self, wav: Float[np.ndarray, " S"], recording: Float[np.ndarray, " _"] | None) -> float:
        try:
            score = self._model(torch.from_numpy(wav)[None])
        except (RuntimeError, torch.jit.Error) as error:  # with the stack of the model's own code before the reason
            raise ValueError(f"its model says {str(error).strip().splitlines()[-1]}") from error
        if not isinstance(score, torch.Tensor) or score.numel() != 1:
            what = f"{score.numel()} numbers" if isinstance(score, torch.Tensor) else type(score).__name__
            raise ValueError(f"its model gives {what}, not one score")
        return float(score)


def _read_settings(folder: Path) -> ScriptedSettings:
    path = folder / "judge.json"
    types: dict[str, type | tuple[type, ...]] = {"name": str, "sample_rate": int, "shortest_seconds": (int, float)}
    try:
        given = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if not isinstance(given, dict) or not given.keys() <= types.keys():
            raise ValueError(f"it may have {', '.join(types)} and nothing else")
        wrong = [name for name, value in given.items() if not isinstance(value, types[name])]
        if wrong:
            raise ValueError(f"{wrong[0]}={given[wrong[0]]!r} is of the wrong type")
        settings = ScriptedSettings(**{"name": folder.resolve().name, **given})
        declared.check(settings)
    except ValueError as error:  # what is no JSON among them
        raise ValueError(f"{path}: {error}") from error
    return settings


def _not_installed(judge: str, package: str, error: ImportError) -> ValueError:
    install = '"vitslite[judges]"'
    if error.name == "pkg_resources":  # of webrtcvad, which resemblyzer asks for, where it lies over webrtcvad-wheels
        install = "--force-reinstall --no-deps webrtcvad-wheels"
    return ValueError(f"--judge {judge} needs {package} ({error}): pip install {install}")
