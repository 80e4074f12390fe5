"""Known onsets -> frames per token, where no search is wanted (model.alignment.kind=given)."""

import numpy as np


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
