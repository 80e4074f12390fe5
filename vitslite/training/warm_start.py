"""Warm start: a new run begins from the weights of another voice (fine-tuning), the embedding symbol by symbol.

Taken is what both have under one name and in one shape, of the averaged weights if there are any: with them one speaks.
With and without weight norm are the same shape. Optimiser, step and schedule begin anew, and so does the average, from
what was taken. Nothing is drawn and no rank is asked for, so all ranks take the same.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitslite.audio import AudioSettings
from vitslite.interop import names, weights
from vitslite.model.discriminators import Discriminator, DiscriminatorSettings
from vitslite.model.vits import VITS
from vitslite.text.frontend import Frontend
from vitslite.text.phonemes import STRESS, other_stress
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
        n_taken, by_stress, notes = _take_model(model, stored, frontend.vocabulary)
        if n_taken == 0:
            raise ValueError(
                f"trainer.init_from: nothing of {self.path} fits this model ({'; '.join(notes)}): type the model "
                "settings that it was trained with, or begin from another voice"
            )
        taken = [_share("model", n_taken, model) + by_stress]
        if discriminator is not None:
            n_taken, more = _take_discriminator(discriminator, stored)
            taken.append(_share("discriminator", n_taken, discriminator))
            notes += more
        kind = "averaged weights" if stored.get("ema") else "weights"
        rest = f"; not taken: {'; '.join(notes)}" if notes else ""
        return f"begun from the {kind} of {self.path}, step {stored['step']}: {', '.join(taken)}{rest}"


def by_symbol(symbols: list[str], known: list[str]) -> list[int | None]:
    """Of each symbol the row of an embedding of the `known` ones, or None.

    By symbol, of one that is listed twice the last, as in Frontend; else by another stress of the same phone. Row 0 is
    the blank on both sides, whatever its symbol.
    """
    places = {symbol: i for i, symbol in enumerate(known) if symbol}
    rows: list[int | None] = [0]
    for symbol in symbols[1:]:
        candidates = [symbol, *(other for other in other_stress(symbol) if other.strip(STRESS))]
        rows.append(next((places[c] for c in candidates if c in places), None))
    return rows


def _take_model(model: VITS, stored: dict[str, Any], vocabulary: list[str]) -> tuple[int, str, list[str]]:
    """How many parameters are taken, which symbols by another stress, and what is not taken.

    0 where no matrix fits: biases alone are nothing of a voice.
    """
    own, name, n_new, by_stress = model.state_dict(), f"{EMBEDDING}.weight", 0, ""
    notes: list[str] = []
    absent = stored.get("imported", {}).get("absent", ())  # what the file of another program did not hold
    given = {n: tensor for n, tensor in (stored.get("ema") or stored["model"]).items() if n not in absent}
    given = _in_form_of(own, given)
    if name in given and given[name].shape[1:] == own[name].shape[1:]:
        known = stored["frontend"]["vocabulary"]
        rows = by_symbol(vocabulary, known)
        n_new = rows.count(None)
        by_stress, notes = _symbols_in_words(vocabulary, known, rows)
        taken_rows = [mine if i is None else given[name][i] for i, mine in zip(rows, own[name], strict=True)]
        given[name] = torch.stack(taken_rows)
    left = _take(own, given)
    taken = [tensor for name, tensor in own.items() if name not in left]
    n_taken = sum(tensor.numel() for tensor in taken) - n_new * own[name].shape[1]
    n_taken = n_taken if any(tensor.ndim > 1 for tensor in taken) else 0
    return n_taken, by_stress, notes + _in_words(left, own | given)


def _in_form_of(own: Weights, given: Weights) -> Weights:
    """The weights of the other voice, with weight norm where ours has it."""
    named: dict[str, str | None] = {name: names.canonical(name) for name in own}
    given = weights.in_form({names.canonical(name): tensor for name, tensor in given.items()}, named)
    return {names.parametrized(name): tensor for name, tensor in given.items()}


def _symbols_in_words(symbols: list[str], known: list[str], rows: list[int | None]) -> tuple[str, list[str]]:
    """The symbols taken by another stress; those that are new, and those of the other voice that have no place here."""
    new = [symbol for symbol, i in zip(symbols, rows, strict=True) if i is None]
    stressed = [s for s, i in zip(symbols[1:], rows[1:], strict=True) if i is not None and known[i] != s]
    used = {known[i] for i in rows if i is not None}
    dropped = [symbol for symbol in dict.fromkeys(known) if symbol and symbol not in used]
    by_stress = f", {len(stressed)} symbols by another stress ({_some(stressed)})" if stressed else ""
    notes = [f"{EMBEDDING}: {len(new)} of {len(symbols)} symbols are new ({_some(new)})"] if new else []
    return by_stress, notes + ([f"{len(dropped)} symbols of the other voice ({_some(dropped)})"] if dropped else [])


def _some(symbols: list[str]) -> str:
    return " ".join(map(repr, symbols[:8])) + (" ..." if len(symbols) > 8 else "")


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
