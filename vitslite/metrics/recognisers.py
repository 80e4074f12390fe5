"""Neural speech recognisers, and what every recogniser needs. The one owner of transformers and faster-whisper.

Each gives the same words for the same samples, whatever came before them.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from vitslite.audio import resampled

SAMPLE_RATE = 16000  # of every recogniser here
PAD_SECONDS, _PAD_LEVEL = 0.2, 1e-4  # faint noise around each clip: a recogniser needs a start and an end
_PEAK = 0.5  # every clip is brought to this level
_WHISPER_SECONDS = 30  # of the window that Whisper was trained on: shorter clips are padded to it
_WHISPER_FILES = ("model.bin", "config.json", "tokenizer.json")
_ESPEAK_TO_WHISPER = {"cmn": "zh", "nb": "no"}  # where the two call a language differently


class NotInstalledError(ValueError):
    """The recogniser's package is missing."""


class TransformersModel:
    """Any speech recognition model of the transformers library, from a folder (Whisper, wav2vec 2, ...)."""

    def __init__(self, folder: Path):
        try:
            import transformers
        except ImportError as error:
            raise not_installed("transformers") from error
        self.name = f"transformers {folder.name}"
        try:
            self._pipeline = transformers.pipeline("automatic-speech-recognition", model=str(folder))
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"recogniser {folder}: not a speech recognition model ({first_line(error)})") from error

    def transcribe(self, wav: Float[np.ndarray, " S"], sample_rate: int) -> str:
        heard = self._pipeline({"raw": prepared(wav, sample_rate), "sampling_rate": SAMPLE_RATE})
        return heard["text"].lower()  # type: ignore[call-overload]  # its annotation forgets the single clip


class TorchaudioPipeline:
    """A CTC model of torchaudio.pipelines, decoded greedily. Its weights are downloaded when first used."""

    def __init__(self, name: str):
        from torchaudio import pipelines  # here, because it takes seconds and few want it

        bundle = getattr(pipelines, name, None)
        if bundle is None:
            raise ValueError(
                f"recogniser {name}: torchaudio.pipelines has none of this name; type WAV2VEC2_ASR_BASE_960H"
            )
        self.name = f"torchaudio {name}"
        self._labels = bundle.get_labels()
        try:
            self._model = bundle.get_model().eval()
        except OSError as error:  # urllib's errors are OSErrors
            raise ValueError(
                f"recogniser {name}: its weights cannot be downloaded ({first_line(error)}); "
                "use auto, or the folder of a transformers model"
            ) from error

    @torch.no_grad()
    def transcribe(self, wav: Float[np.ndarray, " S"], sample_rate: int) -> str:
        scores, _ = self._model(torch.from_numpy(prepared(wav, sample_rate))[None])
        best = torch.unique_consecutive(scores[0].argmax(-1)).tolist()
        return "".join(self._labels[i] for i in best if i != 0).replace("|", " ").lower().strip()


class Whisper:
    """Whisper (Radford et al. 2022) by faster-whisper: a size that it knows, or a folder in CTranslate2's format.

    Beam search (5) at temperature 0 over windows of 30 s, without voice activity detection, without what was heard
    before. Tokens with a digit or a sign that is read as a word cannot come out: "twentieth", not "20th". On the CPU in
    fp32, so that the words do not depend on the machine.
    """

    def __init__(self, model: str, language: str):
        """`language` is a voice of espeak-ng, such as en-us."""
        try:
            from faster_whisper import WhisperModel, available_models
        except ImportError as error:
            raise not_installed("faster-whisper", "judges") from error
        self.name = f"whisper {Path(model).name}"
        if model not in available_models():
            model = str(_whisper_folder(model, available_models()))
        threads = torch.get_num_threads()
        try:
            self._model = WhisperModel(model, device="cpu", compute_type="float32", cpu_threads=threads)
        except OSError as error:  # those of the download
            raise ValueError(
                f"recogniser whisper:{model}: its weights cannot be downloaded ({first_line(error)}); "
                "use auto, or whisper:FOLDER"
            ) from error
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"recogniser whisper:{model}: not a Whisper model ({first_line(error)})") from error
        self._language = _ESPEAK_TO_WHISPER.get(language.split("-")[0], language.split("-")[0])
        if self._language not in self._model.supported_languages:
            raise ValueError(f"recogniser whisper:{model}: it does not know the language {language}; use another model")
        tokens = self._model.hf_tokenizer.get_vocab()
        written = [
            i for token, i in tokens.items() if i < tokens["<|endoftext|>"] and set(token) & set("0123456789%$&")
        ]
        self._suppressed = [-1, *sorted(written)]  # -1: what Whisper suppresses by itself, signs that nobody speaks

    def transcribe(self, wav: Float[np.ndarray, " S"], sample_rate: int) -> str:
        speech = prepared(wav, sample_rate)
        segments, _ = self._model.transcribe(
            speech,
            language=self._language,
            beam_size=5,
            temperature=0.0,
            suppress_tokens=self._suppressed,
            condition_on_previous_text=False,
            vad_filter=False,
            without_timestamps=len(speech) <= _WHISPER_SECONDS * SAMPLE_RATE,  # else the next window starts at one
        )
        return "".join(segment.text for segment in segments).lower().strip()


def _whisper_folder(folder: str, sizes: list[str]) -> Path:
    """ValueError names what is missing; faster-whisper would look for a tokenizer on the network."""
    path = Path(folder).expanduser()
    if not folder or not path.is_dir():
        raise ValueError(f"recogniser whisper:{folder}: neither a folder nor a size; type one of {', '.join(sizes)}")
    missing = [name for name in _WHISPER_FILES if not (path / name).is_file()]
    if missing:
        raise ValueError(
            f"recogniser whisper:{folder}: no {', '.join(missing)} there; give a Whisper model in CTranslate2's format"
        )
    return path


def prepared(wav: Float[np.ndarray, " S"], sample_rate: int) -> Float[np.ndarray, " S16"]:
    """At 16 kHz and a common level, with faint noise at both ends."""
    wav = resampled(wav, sample_rate, SAMPLE_RATE) if len(wav) else wav
    loudest = np.abs(wav).max(initial=0.0)
    scale = _PEAK / loudest if loudest > 0 else 1.0
    noise = np.random.default_rng(0).normal(0, _PAD_LEVEL, int(PAD_SECONDS * SAMPLE_RATE)).astype(np.float32)
    return np.concatenate([noise, wav * np.float32(scale), noise])


def not_installed(package: str, extra: str = "") -> NotInstalledError:
    """The error; where several packages are needed, they are those of an extra of ours."""
    install = f'"vitslite[{extra}]"' if extra else package
    return NotInstalledError(
        f"the recogniser needs {package}, which is not installed: pip install {install}, or choose another recogniser "
        "(none goes without)"
    )


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
