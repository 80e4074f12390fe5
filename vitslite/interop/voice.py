"""A voice of another implementation, as its reader found it: in our settings, with its weights under its own names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vitslite.interop.names import Rows

Settings = dict[str, Any]  # of the configuration, by dotted key


@dataclass
class Voice:
    path: Path
    kind: str  # for messages: "a Piper voice"
    settings: Settings
    vocabulary: list[str]  # of each row of the embedding its symbol; "" where the source has none for it
    weights: dict[str, Tensor]  # by their names, weight norm as `weight_g` and `weight_v`
    rows: Rows  # our names, theirs
    n_speakers: int = 1
    speaker_names: dict[str, int] = field(default_factory=dict)
    absent: tuple[str, ...] = ()  # how names of ours begin that such a file never holds
    notes: list[str] = field(default_factory=list)  # what is not as it was there

    def speaker(self, chosen: str | None) -> int | None:
        """The number of the chosen speaker, which may be named; None of a voice that has one. ValueError otherwise."""
        if self.n_speakers <= 1:
            if chosen not in (None, "0"):
                raise ValueError(f"{self.path}: one speaker, so there is no --speaker {chosen}")
            return None
        some = ", ".join([*self.speaker_names][:5]) or "numbers alone"
        known = f"0 to {self.n_speakers - 1} ({some}{', ...' if len(self.speaker_names) > 5 else ''})"
        if chosen is None:
            raise ValueError(f"{self.path}: {self.n_speakers} speakers: choose one with --speaker N, {known}")
        number = self.speaker_names.get(chosen, int(chosen) if chosen.isdigit() else -1)
        if not 0 <= number < self.n_speakers:
            raise ValueError(f"{self.path}: no speaker {chosen}: --speaker takes {known}")
        return number


def translated(found: Mapping[str, Any], rows: Rows, where: str) -> Settings:
    """{our key: value} of a table of settings. ValueError names what `where`, which `found` was read from, lacks."""
    missing = sorted({theirs for _, theirs in rows if theirs not in found})
    if missing:
        raise ValueError(f"{where}: no {', '.join(missing)} in it, so its networks are not known")
    return {ours: plain(found[theirs]) for ours, theirs in rows}


def plain(value: Any) -> Any:
    """Lists in the place of tuples, all the way down."""
    return [plain(x) for x in value] if isinstance(value, list | tuple) else value


def by_id(symbols: Mapping[str, int], n_rows: int, where: str) -> list[str]:
    """The vocabulary of a map symbol -> id, with gaps. ValueError for an id without a row."""
    beyond = [symbol for symbol, i in symbols.items() if not 0 <= i < n_rows]
    if beyond:
        raise ValueError(f"{where}: {beyond[0]!r} has id {symbols[beyond[0]]}, the embedding {n_rows} rows")
    vocabulary = [""] * n_rows
    for symbol, i in symbols.items():
        vocabulary[i] = symbol
    return vocabulary


def refuse(where: str, faults: Iterable[str]) -> None:
    """ValueError, in one line, if there are faults."""
    listed = list(faults)
    if listed:
        raise ValueError(f"{where}: not to be expressed here: {'; '.join(listed)}")
