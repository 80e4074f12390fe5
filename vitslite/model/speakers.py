"""Speakers: a vector per voice, and where the model hears it ("global conditioning").

What is said is the text's; who says it is handed to the parts that make or read sound: posterior encoder, couplings,
durations, decoder. The prior does not know who speaks, so that the flow has to take the voice out of z, and to put it
back: that is what makes the conversion of one voice into another possible.

Source: Kim et al. 2021 (VITS), section 2.5 and 4.4, and its published code.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

PARTS = ("text_encoder", "posterior", "flow", "refiner", "duration", "decoder")


@dataclass
class SpeakerSettings:
    """Defaults: as published (Kim et al. 2021, 256 channels). Of no account where the corpus names no speakers."""

    channels: int = field(default=256, metadata={"at_least": 1})  # of the vector
    # The parts that hear it, among text_encoder, posterior, flow, refiner, duration, decoder.
    parts: list[str] = field(
        default_factory=lambda: ["posterior", "flow", "duration", "decoder"], metadata={"choices": PARTS}
    )


class Condition(NamedTuple):
    """The vectors [B G 1] by part; None for a part that does not hear them."""

    text_encoder: Float[Tensor, "B G 1"] | None = None
    posterior: Float[Tensor, "B G 1"] | None = None
    flow: Float[Tensor, "B G 1"] | None = None
    refiner: Float[Tensor, "B G 1"] | None = None
    duration: Float[Tensor, "B G 1"] | None = None
    decoder: Float[Tensor, "B G 1"] | None = None


class Speakers(nn.Embedding):
    """A table of vectors; speakers [B], or weights of all [B K] for a mixture of voices -> Condition."""

    def __init__(self, settings: SpeakerSettings, n_speakers: int):
        super().__init__(n_speakers, settings.channels)
        self.parts = list(settings.parts)

    def forward(self, speakers: Int[Tensor, " B"] | Float[Tensor, "B K"]) -> Condition:  # type: ignore[override]
        g = speakers @ self.weight if speakers.is_floating_point() else super().forward(speakers)
        # The durations follow the model and do not bend it: as the text's, their gradient stops here.
        return Condition(**{part: (g.detach() if part == "duration" else g)[:, :, None] for part in self.parts})


def widths(settings: SpeakerSettings, n_speakers: int) -> dict[str, int]:
    """Channels of the vector that each part hears; 0 for none."""
    return {part: settings.channels if n_speakers and part in settings.parts else 0 for part in PARTS}


def view(n_channels: int, n_out: int) -> nn.Conv1d | None:
    """The linear view that a part has of the vector, to be added to its `n_out` channels; None where it hears none."""
    return nn.Conv1d(n_channels, n_out, 1) if n_channels else None


def heard(
    x: Float[Tensor, "B C N"], view: nn.Conv1d | None, g: Float[Tensor, "B G 1"] | None
) -> Float[Tensor, "B C N"]:
    """x + view(g), the same at every place; x itself where there is nobody to tell apart."""
    assert (view is None) == (g is None), "a part that knows speakers needs one, and others take none"
    return x if view is None else x + view(g)
