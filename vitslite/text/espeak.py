"""espeak-ng, by ctypes: text -> phonemes, text -> speech with the onset of every phoneme. The one owner of the library.

The library is one global state machine: calls are serialised here, and what it synthesises depends on what it
synthesised before, so reproducible speech needs a fresh process (see datasets/demo.py). Phonemes have no such memory.
This module imports no torch: the processes that make the demo corpus start quickly.
"""

import ctypes
import difflib
import functools
import re
import threading
from pathlib import Path
from typing import NamedTuple

import espeakng_loader
import numpy as np

_SYNCHRONOUS = 2  # audio is handed to the callback, inside the call
_OPTIONS = 0x8000 | 1 | 2  # do not exit() on errors | phoneme events | with IPA names
_UTF8 = 1
_IPA = 2
_BETWEEN = "\x1f"  # phonemes; the library's own names of pauses have "_"
_PHONEME_EVENT = 7
_OTHER_NAMES = {  # of languages: countries, other standards
    **{"zh": "cmn", "zho": "cmn", "chi": "cmn", "cn": "cmn", "mandarin": "cmn", "chinese": "cmn", "zh-yue": "yue"},
    **{"zh-hk": "yue", "cantonese": "yue", "jp": "ja", "jpn": "ja", "kr": "ko", "kor": "ko", "cz": "cs", "dk": "da"},
    **{"gr": "el", "ua": "uk", "se": "sv", "no": "nb", "nn": "nb", "nor": "nb", "iw": "he", "in": "id", "vn": "vi"},
    **{"us": "en-us", "eng": "en-us", "english": "en-us", "en-uk": "en", "en-gb": "en", "deu": "de"},
    **{"ger": "de", "fra": "fr", "fre": "fr", "spa": "es", "por": "pt", "rus": "ru", "ita": "it", "nld": "nl"},
    **{"br": "pt-br", "irish": "ga", "farsi": "fa", "ir": "fa", "swe": "sv", "pol": "pl", "tur": "tr", "ara": "ar"},
    **{"zh-tw": "cmn", "zh-cn": "cmn", "pt-pt": "pt", "hindi": "hi", "german": "de", "french": "fr", "spanish": "es"},
}
_lock = threading.Lock()


class Clause(NamedTuple):
    phonemes: str  # IPA; "_" between phonemes, " " between words; "" for a clause without a word
    text: str  # what was read; all but the last clause show the first letter of the next one


class Speech(NamedTuple):
    samples: np.ndarray  # int16 [S]
    sample_rate: int
    phones: list[tuple[str, int]]  # (IPA name, onset sample); pauses and glides have the name ""


class _Id(ctypes.Union):
    # `string` ends with a NUL only if there is room for one.
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def version() -> str:
    return _started()[0].espeak_Info(None).decode()


def clauses(text: str, voice: str, tones: bool = False) -> list[Clause]:
    """The pronunciation of `text`, clause by clause; with whole `tones`, "ɑ55", "ɑ35". ValueError: unknown voice."""
    with _lock:
        library, _ = _started()
        _set_voice(library, voice)
        found = _translate(library, text, _IPA)
        if tones:  # IPA keeps the first digit alone
            named = _translate(library, text, 0)
            found = [Clause(_with_tones(a.phonemes, b.phonemes), a.text) for a, b in zip(found, named, strict=True)]
    return [Clause(clause.phonemes.replace(_BETWEEN, "_"), clause.text) for clause in found]


def _translate(library: ctypes.CDLL, text: str, mode: int) -> list[Clause]:
    encoded = text.encode()
    buffer = ctypes.create_string_buffer(encoded)
    start = ctypes.addressof(buffer)
    position, found = ctypes.c_void_p(start), []
    while position.value is not None:
        begin = position.value - start
        phonemes = library.espeak_TextToPhonemes(ctypes.byref(position), _UTF8, mode | ord(_BETWEEN) << 8).decode()
        end = len(encoded) if position.value is None else position.value - start
        found.append(Clause(phonemes, encoded[begin:end].decode(errors="ignore")))
    return found


def _with_tones(ipa: str, named: str) -> str:
    """Each phone of `ipa` that ends in a tone with all the digits that the library's own name of it has."""
    parts = [re.split(f"([ {_BETWEEN}])", phonemes) for phonemes in (ipa, named)]
    whole = []
    for phone, name in zip(*parts, strict=True):
        digits = re.search(r"\d+$", name)
        is_tone = digits and phone[-1:] in (digits[0][0], "ɜ")  # 3 is written as the vowel
        whole.append(phone[:-1] + digits[0] if digits and is_tone else phone)
    return "".join(whole)


def speak(text: str, voice: str, random_seed: int | None = None) -> Speech:
    """Synthesise. `random_seed` restarts the library's random numbers. ValueError: unknown voice."""
    pieces, phones = [], []

    def receive(samples, n_samples, events):
        if n_samples > 0 and samples:
            pieces.append(np.ctypeslib.as_array(samples, (n_samples,)).copy())
        i = 0
        while events[i].type:
            if events[i].type == _PHONEME_EVENT:
                phones.append((events[i].id.string.decode(errors="ignore"), events[i].sample))
            i += 1
        return 0

    encoded, callback = text.encode(), _Callback(receive)
    with _lock:
        library, sample_rate = _started()
        _set_voice(library, voice)
        if random_seed is not None:
            library.espeak_ng_SetRandSeed(random_seed)
        library.espeak_SetSynthCallback(callback)
        library.espeak_Synth(b" ", 2, 0, 1, 0, _UTF8, None, None)  # after many `clauses`, the next events would be lost
        pieces.clear()
        phones.clear()
        status = library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
    if status:
        raise RuntimeError(f"espeak-ng failed with status {status} at {text!r}")
    return Speech(np.concatenate(pieces) if pieces else np.zeros(0, np.int16), sample_rate, phones)


@functools.cache
def _started() -> tuple[ctypes.CDLL, int]:
    """The library, and the sample rate of its speech."""
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    c_int, c_char_p, c_void_p, c_uint = ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_uint
    library.espeak_Initialize.argtypes = [c_int, c_int, c_char_p, c_int]
    library.espeak_Info.argtypes, library.espeak_Info.restype = [c_void_p], c_char_p
    library.espeak_Synth.argtypes = [c_char_p, ctypes.c_size_t, c_uint, c_int, c_uint, c_uint, c_void_p, c_void_p]
    library.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(c_void_p), c_int, c_int]
    library.espeak_TextToPhonemes.restype = c_char_p
    library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
    sample_rate = library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), _OPTIONS)
    if sample_rate <= 0:
        raise RuntimeError(f"espeak-ng cannot start (status {sample_rate}); reinstall it: pip install espeakng-loader")
    return library, sample_rate


def _set_voice(library: ctypes.CDLL, voice: str) -> None:
    variant = voice.partition("+")[2]
    variants = Path(espeakng_loader.get_data_path(), "voices", "!v")
    if variant and not (variants / variant).is_file():  # the library would take the plain voice in silence
        raise ValueError(f"espeak-ng has no voice variant {variant!r} (in {voice!r}); try f1 to f5 or m1 to m8")
    if library.espeak_SetVoiceByName(voice.encode()):
        raise ValueError(f"espeak-ng has no voice {voice!r}{_nearest(voice)}")


def voices() -> dict[str, str]:
    """The names that `voice` may have, with what they are called: {"de": "German"}."""
    return {path.name.lower(): _fields(path).get("name", path.name) for path in _language_files()}


def _nearest(voice: str) -> str:
    """What may have been meant: by another name of the language, without its region, or by a letter or two."""
    known, typed = voices(), voice.lower().replace("_", "-").split("+")[0]
    others = {_fields(path).get("language", "").split(" ")[0]: path.name.lower() for path in _language_files()}
    others |= {name.split()[0].lower(): code for code, name in sorted(known.items(), reverse=True)} | _OTHER_NAMES
    for name in (typed, typed.split("-")[0]):
        code = others.get(name, name)
        if code in known:
            return f": did you mean {code} ({known[code]})?"
    near = difflib.get_close_matches(typed, [*known, *others], n=1, cutoff=0.7)
    code = others.get(near[0], near[0]) if near else ""
    return f": did you mean {code} ({known[code]})?" if code in known else "; try en-us, de, fr, es, cmn, ja, ru ..."


def _language_files() -> list[Path]:
    return sorted(path for path in Path(espeakng_loader.get_data_path(), "lang").rglob("*") if path.is_file())


def _fields(path: Path) -> dict[str, str]:
    """Of a file of the library's: {"name": "German", "language": "de"}, the first line of each."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {words[0]: words[1] for words in (line.split(maxsplit=1) for line in reversed(lines)) if len(words) == 2}
