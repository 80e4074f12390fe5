"""Token onsets where a corpus knows them (alignments.jsonl), and the durations that follow from them."""

import json
from pathlib import Path

import numpy as np

from vitslite.text.frontend import Frontend, TextSettings
from vitslite.text.phonemes import MARKS, STRESS


def read_alignments(path: Path) -> dict[str, dict]:
    """Records of alignments.jsonl by id; none without the file."""
    if not path.is_file():
        return {}
    records = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            records[record["id"]] = {"sample_rate": record["sample_rate"], "phones": record["phones"]}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}:{number}: not an alignment ({error}); remove or repair the file") from None
    return records


def known_onsets(record: dict | None, frontend: Frontend, text: str, sample_rate: int) -> list[tuple[int, int]] | None:
    if record is None:
        return None
    phones = [(name, round(sample * sample_rate / record["sample_rate"])) for name, sample in record["phones"]]
    return phone_onsets(phones, frontend.symbols(text), frontend.settings)


def phone_onsets(
    phones: list[tuple[str, int]], symbols: list[str], settings: TextSettings
) -> list[tuple[int, int]] | None:
    """The true onset of every phone token: (token index, onset sample); None if the tokens are not these phones.

    `phones` are the synthesiser's events, `symbols` what `Frontend.symbols` gives for the text. A phone of several code
    points is at the first of them; with blanks, token i stands at 2 i + 1 (without outer ones at 2 i). Stress may
    differ: the synthesiser decides it once more. Characters are no phones: None.
    """
    if settings.frontend != "phonemes":
        return None
    silent = {*MARKS, *STRESS, " ", "^", "$"}
    onsets, position = [], 0
    for name, sample in ((n.strip(STRESS), s) for n, s in phones if n.strip(STRESS)):
        while position < len(symbols) and symbols[position] in silent:
            position += 1
        if position == len(symbols):
            return None
        width = 1 if settings.units == "phones" else len(name)
        if "".join(symbols[position : position + width]).strip(STRESS) != name:
            return None
        stressed = position > 0 and symbols[position - 1] in STRESS  # as a code point of its own
        first = position - 1 if stressed else position
        onsets.append((2 * first + settings.outer_blanks if settings.blanks else first, sample))
        position += width
    return onsets if all(symbol in silent for symbol in symbols[position:]) else None


def durations_from_onsets(onsets: list[tuple[int, int]], n_tokens: int, n_frames: int, hop_length: int) -> list[int]:
    """Frames of each token, from the (token index, onset sample) pairs that are known, in order of the tokens.

    A known token starts at the frame boundary nearest to its onset, round(sample / hop_length): frame t begins at
    sample t * hop_length. The first token starts at 0. The others, which make no sound of their own (sentence marks,
    punctuation, blanks), start evenly between their known neighbours, the end of the utterance being the last one.

    Each token gets at least 1 frame and all together n_frames: starts that coincide are moved, to later frames where
    there is room and to earlier ones at the end.
    """
    assert 1 <= n_tokens <= n_frames, f"{n_tokens} tokens do not fit into {n_frames} frames"
    known = [(token, sample / hop_length) for token, sample in onsets if token > 0]
    tokens, frames = zip((0, 0.0), *known, (n_tokens, float(n_frames)), strict=True)
    index = np.arange(n_tokens)
    starts = np.round(np.interp(index, tokens, frames)).astype(int)
    starts = np.maximum.accumulate(starts - index) + index  # each at least one frame after the one before
    starts = np.minimum(starts, n_frames - n_tokens + index)  # and early enough for those that follow
    return np.diff(starts, append=n_frames).tolist()
