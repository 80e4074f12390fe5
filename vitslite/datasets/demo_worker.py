"""Synthesis of one chunk of the demo corpus: `python -m vitslite.datasets.demo_worker < task.json`, a fresh process.

A fresh process, because what espeak-ng synthesises depends on what it synthesised before. It imports no torch, so it
starts in a moment.
"""

import hashlib
import json
import sys
import wave
from pathlib import Path

import numpy as np

from vitslite.files import replacing, write_text
from vitslite.text import espeak

PAD_SECONDS = 0.08  # of noise at both ends, where the voice itself has almost no silence
NOISE_LEVEL = 3  # largest sample of the noise: -84 dB full scale (root mean square)
_FADE_SECONDS = 0.005
_ESPEAK_SEED = 1


def speak_chunk(items: list[list[str]], voice: str, seed: int, wavs: str, alignments: str) -> None:
    """Write wavs/ID.wav for every (id, text), then `alignments`, a JSON line each: the mark that the chunk is done."""
    lines = []
    for i, (name, text) in enumerate(items):
        speech = espeak.speak(text, voice, _ESPEAK_SEED if i == 0 else None)
        samples, n_pad = _padded(speech, f"{seed}/{name}")
        with replacing(Path(wavs, f"{name}.wav")) as unfinished, wave.open(str(unfinished), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(speech.sample_rate)
            file.writeframes(samples.astype("<i2").tobytes())
        phones = [[phone, onset + n_pad] for phone, onset in speech.phones]
        record = {"id": name, "sample_rate": speech.sample_rate, "n_samples": len(samples), "phones": phones}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    write_text(Path(alignments), "".join(lines))


def _padded(speech: espeak.Speech, noise_key: str) -> tuple[np.ndarray, int]:
    """Noise, speech with its end faded out, noise; and the length of the first noise."""
    n_pad, n_fade = (round(seconds * speech.sample_rate) for seconds in (PAD_SECONDS, _FADE_SECONDS))
    samples = speech.samples.astype(np.int64)
    samples[-n_fade:] = samples[-n_fade:] * np.arange(n_fade, 0, -1) // n_fade
    raw = np.frombuffer(hashlib.shake_256(noise_key.encode()).digest(2 * n_pad), np.uint8)
    noise = raw.astype(np.int64) % (2 * NOISE_LEVEL + 1) - NOISE_LEVEL
    return np.concatenate([noise[:n_pad], samples, noise[n_pad:]]).astype(np.int16), n_pad


if __name__ == "__main__":
    speak_chunk(**json.load(sys.stdin))
