"""Warm start: a new run begins from the weights of another voice (fine-tuning), the embedding symbol by symbol.

Taken is what both have under one name and in one shape, of the averaged weights if there are any: with them one speaks.
Optimiser, step and schedule begin anew, and so does the average, from what was taken. Nothing is drawn and no rank is
asked for, so all ranks take the same.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vitslite.audio import AudioSettings
from vitslite.model.discriminators import Discriminator, DiscriminatorSettings
from vitslite.model.vits import VITS
from vitslite.text.frontend import Frontend
from vitslite.training import checkpoint

EMBEDDING = "text_encoder.embedding"
Weights = dict[str, Tensor]  # a state dict, whose tensors are those of the module


class WarmStart:
    """The checkpoint that `trainer.init_from` names: read and checked at once, handed over by `load_into`."""

    def __init__(self, source: str, audio: AudioSettings):
        """ValueError where there is none, it is damaged, or its frames are not those of `audio`."""
        try:
            self.path = checkpoint.find(Path(source))
            self._stored = checkpoint.read(self.path)
        except ValueError as error:
            raise ValueError(f"trainer.init_from: {error}") from error
        other = _differing(AudioSettings(), self._stored["config"].get("audio", {}), asdict(audio), "audio")
        if other:
            raise ValueError(
                f"trainer.init_from: {self.path} was trained with {', '.join(other)}, so its weights would mean "
                "something else: type its audio settings, or begin from another voice"
            )

    def load_into(self, model: VITS, discriminator: Discriminator | None, frontend: Frontend) -> str:
        """Copy what fits, in place; once, so that the memory is free afterwards. Gives a line that says what it was.

        ValueError where nothing of the model fits.
        """
        stored, self._stored = self._stored, {}
        n_taken, notes = _take_model(model, stored, frontend.vocabulary)
        if n_taken == 0:
            raise ValueError(
                f"trainer.init_from: nothing of {self.path} fits this model ({'; '.join(notes)}): type the model "
                "settings that it was trained with, or begin from another voice"
            )
        taken = [_share("model", n_taken, model)]
        if discriminator is not None:
            n_taken, more = _take_discriminator(discriminator, stored)
            taken.append(_share("discriminator", n_taken, discriminator))
            notes += more
        weights = "averaged weights" if stored.get("ema") else "weights"
        rest = f"; not taken: {'; '.join(notes)}" if notes else ""
        return f"begun from the {weights} of {self.path}, step {stored['step']}: {', '.join(taken)}{rest}"


def by_symbol(own: Tensor, symbols: list[str], given: Tensor, known: list[str]) -> Tensor:
    """An embedding [symbols, H] of the rows `given` [known, H], by symbol; of unknown ones the `own` initial rows."""
    places = {symbol: i for i, symbol in enumerate(known)}  # of one that is listed twice the last, as in Frontend
    rows = own.clone()
    for row, symbol in zip(rows, symbols, strict=True):
        if symbol in places:
            row.copy_(given[places[symbol]])
    return rows


def _take_model(model: VITS, stored: dict[str, Any], vocabulary: list[str]) -> tuple[int, list[str]]:
    """How many parameters are taken, and what is not. 0 where no matrix fits: biases alone are nothing of a voice."""
    own, given = model.state_dict(), dict(stored.get("ema") or stored["model"])
    known, name, n_new = stored["frontend"]["vocabulary"], f"{EMBEDDING}.weight", 0
    if name in given and given[name].shape[1:] == own[name].shape[1:]:
        given[name] = by_symbol(own[name], vocabulary, given[name], known)
        n_new = sum(symbol not in known for symbol in vocabulary)
    left = _take(own, given)
    taken = [tensor for name, tensor in own.items() if name not in left]
    notes = [f"{EMBEDDING}: {n_new} of {len(vocabulary)} symbols are new"] if n_new else []
    n_taken = sum(tensor.numel() for tensor in taken) - n_new * own[name].shape[1]
    return n_taken if any(tensor.ndim > 1 for tensor in taken) else 0, notes + _in_words(left, own | given)


def _take_discriminator(discriminator: Discriminator, stored: dict[str, Any]) -> tuple[int, list[str]]:
    """How many parameters are taken, and what is not. Parts of another kind or period look for other things."""
    own, given = discriminator.state_dict(prefix="discriminator."), stored.get("discriminator")
    if not given:
        return 0, ["discriminator.*: not there"]
    here = {key: getattr(discriminator.settings, key) for key in ("kind", "periods", "resolutions")}
    other = _differing(DiscriminatorSettings(), stored["config"].get("discriminator", {}), here, "discriminator")
    if other:
        return 0, [f"discriminator.*: trained with {', '.join(other)}"]
    given = {f"discriminator.{name}": tensor for name, tensor in given.items()}
    left = _take(own, given)
    return sum(own[name].numel() for name in own.keys() - left.keys()), _in_words(left, own | given)


def _take(own: Weights, given: Weights) -> dict[str, str]:
    """Copy in place what has the same name and shape. Gives why the others were left, on both sides."""
    left = {name: "no place for it here" for name in given if name not in own}
    for name, tensor in own.items():
        if name not in given:
            left[name] = "not there"
        elif given[name].shape != tensor.shape:
            left[name] = "other shapes"
        else:
            tensor.copy_(given[name])
    return left


def _differing(defaults: Any, stored: dict[str, Any], here: dict[str, Any], group: str) -> list[str]:
    """'group.key=there (here ...)' for the settings of `here` that the other voice, completed by defaults, has not."""
    there = asdict(defaults) | stored
    return [f"{group}.{key}={there[key]} (here {value})" for key, value in here.items() if there[key] != value]


def _in_words(left: dict[str, str], names: Iterable[str]) -> list[str]:
    """`decoder.*: other shapes` for a whole part of the network, the name of a tensor, or how many of the part."""
    sizes = Counter(name.split(".")[0] for name in names)
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, why in left.items():
        groups[name.split(".")[0], why].append(name)
    notes = []
    for (part, why), members in groups.items():
        some = members[0] if len(members) == 1 else f"{len(members)} of {sizes[part]} tensors of {part}"
        notes.append(f"{f'{part}.*' if len(members) == sizes[part] else some}: {why}")
    return notes


def _share(what: str, n_taken: int, module: nn.Module) -> str:
    n = sum(tensor.numel() for tensor in module.state_dict().values())
    return f"{n_taken:,} of {n:,} parameters of the {what} ({100 * n_taken // n} %)"
