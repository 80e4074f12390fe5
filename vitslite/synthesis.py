"""Speech synthesis: a checkpoint and a text in, audio out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from vitslite import build, randomness
from vitslite.text.frontend import Frontend
from vitslite.text.sentences import split_sentences
from vitslite.training import checkpoint

PAUSE_SECONDS = 0.2  # between the sentences of a text
MAX_CHARACTERS = 1000  # of a sentence; a longer one is cut at a comma or a space. As data.max_characters


@dataclass(frozen=True)
class SpeakSettings:
    """How a text is spoken; `Synthesizer.speak_settings` gives the voice's own."""

    seed: int
    noise_scale: float  # of the prior; 0 is its mean
    duration_noise_scale: float  # of stochastic durations
    n_steps: int  # of the refiner, where there is one


class Synthesizer:
    """A trained voice. `source` is a run directory (its best checkpoint, else the last) or a checkpoint file."""

    def __init__(self, source: str | Path, device: str = "cpu"):
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda, but torch sees no GPU here: use --device cpu")
        self.path = checkpoint.find(Path(source))
        stored = checkpoint.read(self.path)
        self.step = stored["step"]
        self.config = build.parse(stored["config"], [])
        self.frontend = Frontend.from_state(stored["frontend"])
        self.model = build.model(self.config, self.frontend.n_symbols)
        weights = stored.get("ema") or stored["model"]
        refuse_not_finite(weights, self.path)
        self.model.load_state_dict(weights)
        self.model.eval().to(device)
        self.device = torch.device(device)
        self.sample_rate = self.config.audio.sample_rate

    def speak_settings(
        self,
        seed: int = 0,
        noise_scale: float | None = None,
        duration_noise_scale: float | None = None,
        n_steps: int | None = None,
    ) -> SpeakSettings:
        """What is given; where that is None, the voice's own: `synthesis` of the settings it was trained with."""
        own = self.config.synthesis
        return SpeakSettings(
            seed=seed,
            noise_scale=own.noise_scale if noise_scale is None else noise_scale,
            duration_noise_scale=own.duration_noise_scale if duration_noise_scale is None else duration_noise_scale,
            n_steps=own.n_steps if n_steps is None else n_steps,
        )

    def speak(
        self,
        text: str,
        settings: SpeakSettings | None = None,
        speed: float = 1.0,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> Float[np.ndarray, " S"]:
        """Audio in [-1, 1] at `sample_rate`. The same text and seed give the same samples; speed 2 is twice as fast.

        A text of several sentences is spoken sentence by sentence, each as if it were alone: a page takes the memory of
        its longest sentence. ValueError where there is nothing to speak, for symbols that the voice was not trained
        on, and where the sound is not finite.
        """
        settings = settings or self.speak_settings()
        sentences = pieces_to_speak(text, self.config.text.voice)
        if not sentences:
            raise ValueError(f"nothing to speak in {text!r}: give a text with words")
        tokens = [self.frontend.encode(sentence) for sentence in sentences]  # all are looked at before one is spoken
        pause = np.zeros(int(pause_seconds * self.sample_rate), np.float32)
        pieces = []
        for sentence, ids in zip(sentences, tokens, strict=True):
            pieces += [self._speak_sentence(sentence, ids, settings, speed), pause]
        return np.concatenate(pieces[:-1])

    def _speak_sentence(
        self, sentence: str, ids: list[int], settings: SpeakSettings, speed: float
    ) -> Float[np.ndarray, " S"]:
        s, tokens = settings, torch.tensor([ids], device=self.device)
        lengths = torch.tensor([len(ids)], device=self.device)
        keys = torch.tensor([randomness.key(s.seed, "speak", sentence)], device=self.device)
        noise = s.noise_scale, s.duration_noise_scale
        spoken = self.model.infer(tokens, lengths, keys, *noise, speed, n_steps=s.n_steps)
        wav = spoken.audio[0, 0].float().cpu().numpy()
        if not np.isfinite(wav).all():
            raise ValueError(f"{self.path} speaks {sentence!r} as sound that is not finite: take another checkpoint")
        return wav


def pieces_to_speak(text: str, voice: str) -> list[str]:
    """The sentences of a text that have words, those above MAX_CHARACTERS in pieces that end at a comma or a space."""
    pieces = []
    for sentence in split_sentences(text, voice):
        while len(sentence) > MAX_CHARACTERS:
            head = sentence[:MAX_CHARACTERS]
            cut = max(head.rfind(mark) for mark in (", ", "; ", ": ", "،", "、", "，")) + 1 or head.rfind(" ") + 1
            pieces.append(sentence[: cut or MAX_CHARACTERS])
            sentence = sentence[cut or MAX_CHARACTERS :]
        pieces.append(sentence)
    return [piece.strip() for piece in pieces if any(c.isalnum() for c in piece)]


def refuse_not_finite(weights: dict[str, torch.Tensor], path: Path) -> None:
    broken = [name for name, w in weights.items() if w.is_floating_point() and not torch.isfinite(w).all()]
    if broken:
        raise ValueError(
            f"{path}: {len(broken)} of {len(weights)} weights are not finite ({broken[0]} ...), so it cannot speak: "
            "take another checkpoint of the run"
        )


def run_of(source: Path) -> Path:
    """The run directory that a checkpoint lies in; other folders are their own."""
    if source.is_file():
        return source.parent.parent if source.parent.name == "checkpoints" else source.parent
    return source
