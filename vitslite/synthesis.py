"""Speech synthesis: a checkpoint and a text in, audio out."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from vitslite import build, randomness
from vitslite.text.frontend import Frontend
from vitslite.training import checkpoint

PAUSE_SECONDS = 0.2  # between the sentences of a text


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
        self.model.load_state_dict(stored.get("ema") or stored["model"])
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

    def speak(self, text: str, settings: SpeakSettings, speed: float = 1.0) -> Float[np.ndarray, " S"]:
        """Audio in [-1, 1] at `sample_rate`. The same text and seed give the same samples; speed 2 is twice as fast.

        A text of several sentences is spoken sentence by sentence. ValueError where there is nothing to speak, or for
        symbols that the voice was not trained on.
        """
        s = settings
        sentences = split_sentences(text)
        if not sentences:
            raise ValueError(f"nothing to speak in {text!r}: give a text with words")
        tokens = [torch.tensor(self.frontend.encode(sentence), device=self.device) for sentence in sentences]
        lengths = torch.tensor([len(t) for t in tokens], device=self.device)
        keys = torch.tensor([randomness.key(s.seed, "speak", sentence) for sentence in sentences], device=self.device)
        padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        noise = s.noise_scale, s.duration_noise_scale
        spoken = self.model.infer(padded, lengths, keys, *noise, speed, n_steps=s.n_steps)
        pause = np.zeros(int(PAUSE_SECONDS * self.sample_rate), np.float32)
        pieces = []
        for wav, n_samples in zip(spoken.audio.float().cpu().numpy(), spoken.audio_lengths.tolist(), strict=True):
            pieces += [wav[0, :n_samples], pause]
        return np.concatenate(pieces[:-1])


def run_of(source: Path) -> Path:
    """The run directory that a checkpoint lies in; other folders are their own."""
    if source.is_file():
        return source.parent.parent if source.parent.name == "checkpoints" else source.parent
    return source


def split_sentences(text: str) -> list[str]:
    """'One. Two?' -> ['One.', 'Two?']; pieces without a letter or digit are dropped."""
    pieces = re.split(r"(?<=[.!?])\s+", " ".join(text.split()))
    return [piece for piece in pieces if any(c.isalnum() for c in piece)]
