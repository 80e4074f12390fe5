"""Imported voices say what they said: transformers' VITS is the judge, also of the published code and of Piper."""

import json
import pathlib
import unicodedata

import pytest
import torch

from vitslite.commands import import_voice
from vitslite.interop import names, sources, speakers, weights
from vitslite.synthesis import Synthesizer
from vitslite.training import checkpoint

pytest.importorskip("transformers", reason="pip install transformers: the independent implementation")
voices = pytest.importorskip("voices")  # tests/helpers

LETTERS = {"phonemize": False, "add_blank": True, "normalize": True, "is_uroman": False}
CLOSE = 1e-6  # of the waveform, whose peak is 0.04 to 0.4 here


def brought(source, folder, speaker=None) -> Synthesizer:
    """The voice, imported as the command does."""
    voice = sources.read(source)
    checkpoint.write(folder / "checkpoints/best.pt", import_voice.imported(voice, voice.speaker(speaker), folder))
    return Synthesizer(folder)


def assert_same_speech(voice, model, speaker=None) -> None:
    ours, theirs = voices.spoken(voice), voices.spoken_by(model, voice, speaker=speaker)
    assert ours.shape == theirs.shape
    assert 0.01 < theirs.abs().max() < 0.5  # neither silent nor saturated
    assert (ours - theirs).abs().max() < CLOSE


MODELS = [(True, 1, 4), (True, 4, 4), (False, 1, 4), (True, 1, 3)]  # stochastic durations, speakers, couplings


@pytest.mark.parametrize(("stochastic", "n", "n_couplings"), MODELS)
def test_a_voice_of_transformers(tmp_path, stochastic, n, n_couplings):
    model = voices.theirs(stochastic=stochastic, n_speakers=n, prior_encoder_num_flows=n_couplings)
    source = voices.write_transformers(tmp_path / "hf", model, LETTERS, voices.SYMBOLS)
    speaker = 2 if n > 1 else None
    voice = brought(source, tmp_path / "ours", speaker and str(speaker))
    assert_same_speech(voice, model, speaker)
    assert voice.step == 0 and voice.sample_rate == 16000


def test_a_voice_of_the_published_size(tmp_path):
    """With four speakers: of its 39.7 M parameters 36.3 M are one speaker's."""
    size = {"hidden_size": 192, "ffn_dim": 768, "num_hidden_layers": 6, "flow_size": 192, "spectrogram_bins": 513}
    size |= {"upsample_initial_channel": 512, "upsample_rates": [8, 8, 2, 2], "upsample_kernel_sizes": [16, 16, 4, 4]}
    model = voices.theirs(n_speakers=4, **size)
    source = voices.write_transformers(tmp_path / "hf", model, LETTERS, voices.SYMBOLS)
    voice = brought(source, tmp_path / "ours", "3")
    assert 36.2e6 < sum(p.numel() for p in voice.model.parameters()) < 36.4e6
    assert_same_speech(voice, model, 3)


@pytest.mark.parametrize(("stochastic", "n", "n_couplings"), MODELS[:3])
def test_a_checkpoint_of_the_published_code(tmp_path, stochastic, n, n_couplings):
    model = voices.theirs(stochastic=stochastic, n_speakers=n)
    speaker = 1 if n > 1 else None
    for zipped in (True, False):  # before torch 1.6 files were no archives
        source = voices.write_original(tmp_path / f"logs-{zipped}", model, _use_new_zipfile_serialization=zipped)
        voice = brought(source, tmp_path / f"ours-{zipped}", speaker and str(speaker))
        assert_same_speech(voice, model, speaker)


@pytest.mark.parametrize("light", [True, False], ids=["medium", "high"])
@pytest.mark.parametrize("n", [1, 4])
def test_a_piper_checkpoint(tmp_path, light, n):
    """A path object is in it, as Piper leaves it; a speaker may be named."""
    model = voices.theirs(light=light, n_speakers=n, n_symbols=256)
    source = voices.write_piper(tmp_path / "piper", model, dataset=[pathlib.PosixPath("/data/joe")])
    voice = brought(source, tmp_path / "ours", "speaker-3" if n > 1 else None)
    assert_same_speech(voice, model, 3 if n > 1 else None)
    assert (voice.config.synthesis.noise_scale, voice.config.synthesis.duration_noise_scale) == (0.5, 0.7)


# ------------------------------------------------------------------------------------------------------ faults, planted


def test_another_speaker_and_other_noise_are_heard(tmp_path):
    model = voices.theirs(n_speakers=4)
    source = voices.write_transformers(tmp_path / "hf", model, LETTERS, voices.SYMBOLS)
    voice = brought(source, tmp_path / "ours", "2")
    ours, other = voices.spoken(voice), voices.spoken_by(model, voice, speaker=1)
    assert ours.shape != other.shape or (ours - other).abs().max() > 1e-3


def test_the_bias_of_a_wavenet_forgotten_is_heard(tmp_path, monkeypatch):
    model = voices.theirs(n_speakers=4)
    source = voices.write_transformers(tmp_path / "hf", model, LETTERS, voices.SYMBOLS)
    fold = speakers.fold

    def forgetful(voice, speaker):
        folded, name = fold(voice, speaker), "flow.flows.1.wavenet.in_layers.0.bias"
        return folded | {name: voice.weights[name]}

    monkeypatch.setattr(speakers, "fold", forgetful)
    with pytest.raises(AssertionError):
        assert_same_speech(brought(source, tmp_path / "ours", "2"), model, 2)


def test_the_projection_of_the_other_durations_does_not_fit(tmp_path):
    """`dp.proj` of the published code: with the predictors confused, each of the tensors is named, with both shapes."""
    source = voices.write_original(tmp_path / "logs", voices.theirs(stochastic=False))
    voice = sources.read(source)
    voice.settings |= {"model.duration.kind": "stochastic", "model.duration.filters": 32}
    with pytest.raises(ValueError, match=r"dp\.proj\.weight is \[1, 256, 1\] there, \[32, 32, 1\] here") as error:
        import_voice.imported(voice, None, tmp_path / "ours")
    assert "dp.conv_1.weight [256, 32, 3] is left over" in str(error.value)
    assert "dp.flows.0.m is missing, [2, 1] here (duration_predictor.flows.0.translate)" in str(error.value)


def test_one_tensor_too_many_and_one_too_few_are_named(tmp_path):
    source = voices.write_original(tmp_path / "logs", voices.theirs())
    voice = sources.read(source)
    voice.weights["enc_p.extra"] = torch.zeros(2, 3)
    del voice.weights["enc_q.pre.bias"]
    with pytest.raises(ValueError, match=r"2 tensors do not fit: enc_q\.pre\.bias is missing, \[32\] here") as error:
        import_voice.imported(voice, None, tmp_path / "ours")
    assert "enc_p.extra [2, 3] is left over" in str(error.value) and "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------ weights


def test_weights_of_the_same_form_are_kept_bit_for_bit(tmp_path):
    """And the others give back what they were made of, but for rounding."""
    model = voices.theirs()
    source = voices.write_transformers(tmp_path / "hf", model, LETTERS, voices.SYMBOLS)
    voice = brought(source, tmp_path / "ours")
    there = {names.canonical(name): x for name, x in model.state_dict().items()}
    ours = voice.model.state_dict()
    named = names.table(ours, sources.read(source).rows)
    kept = [name for name, other in named.items() if other in there]
    assert all(torch.equal(ours[name], there[named[name]].reshape(ours[name].shape)) for name in kept)
    made = {named[name].removesuffix("_v") for name in ours if named[name] not in there and named[name].endswith("_v")}
    assert len(kept) + 2 * len(made) == len(ours) and all(".upsampler." in n or ".resblocks." in n for n in made)
    by_their_name = {other: ours[name] for name, other in named.items()}
    for name in made:
        folded = weights.fold(by_their_name[f"{name}_g"], by_their_name[f"{name}_v"])
        torch.testing.assert_close(folded, there[name], rtol=2e-7, atol=0)


def test_a_row_of_zeros_stays_one():
    weight = torch.randn(3, 2, 5)
    weight[1] = 0
    assert torch.equal(weights.fold(*weights.split(weight))[1], torch.zeros(2, 5))


# ------------------------------------------------------------------------------------------------------ text


def test_letters_are_those_of_the_tokenizer(tmp_path):
    """MMS: a letter has id 0 and is the blank as well, <unk> has no row, marks that are no symbols are left out.

    (At the very ends of a text their tokenizer has one blank less beside that letter, which it takes for padding.)
    """
    from transformers import VitsTokenizer

    symbols = ["k", *"'z8urc5i31axm70oeg6lyjvpbs2w", " ", *"tqdfnh-"]
    model = voices.theirs(n_symbols=len(symbols))
    source = voices.write_transformers(tmp_path / "hf", model, LETTERS, [*symbols, "<unk>"])
    voice = brought(source, tmp_path / "ours")
    tokenizer = VitsTokenizer(str(source / "vocab.json"), pad_token="k", unk_token="<unk>", **LETTERS)
    for text in ("The black box is quick to open.", "A _well-known_ (bank), 8 km of it?"):
        assert voice.frontend.encode(text) == tokenizer(text)["input_ids"]
    assert_same_speech(voice, model)


def test_the_layout_of_piper(tmp_path, capsys):
    """^ _ p _ ... _ $, and composed symbols in their parts; what it does not know is left out, and said once."""
    source = voices.write_piper(tmp_path / "piper", voices.theirs(light=True, n_symbols=256))
    frontend = brought(source, tmp_path / "ours").frontend
    ids = frontend.encode("a red hen.")
    symbols = [frontend.vocabulary[i] for i in ids]
    assert symbols[::2] == ["^", *"ɐ ɹˈɛd hˈɛn.", "$"] and set(symbols[1::2]) == {"_"}
    assert [symbols[i] for i in frontend.word_starts("a red hen.")] == [*"ɐɹh"]
    assert frontend.vocabulary[60] == "" and frontend.n_symbols == 256  # Piper decomposes: it is never met
    cedilla = unicodedata.normalize("NFD", "ç")[1]
    frontend.vocabulary[61] = cedilla
    frontend._set_vocabulary(frontend.vocabulary)
    assert frontend._places("ç") == [frontend.vocabulary.index("c"), 61]
    for _ in range(2):
        frontend.encode("red hens? red hens!")
    notes = ["note: left out '!', which the voice does not know", "note: left out '?', which the voice does not know"]
    assert capsys.readouterr().err.splitlines()[-2:] == notes
    frontend.settings.skip_unknown = False
    with pytest.raises(ValueError, match="'!' not in the vocabulary of 256 symbols"):
        frontend.encode("red hens!")


# ------------------------------------------------------------------------------------------------------ refused by name


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "config.json",
            {"hidden_act": "gelu"},
            r"config\.json: not to be expressed here: hidden_act=gelu \(only relu\)",
        ),
        ("config.json", {"layer_norm_eps": 1e-6}, r"layer_norm_eps=1e-06 \(only 1e-05\)"),
        ("config.json", {"flow_size": None}, r"config\.json: no flow_size in it"),
        ("tokenizer_config.json", {"is_uroman": True}, r"tokenizer_config\.json: .*is_uroman=true"),
        ("vocab.json", {"ß": 500}, r"vocab\.json: 'ß' has id 500, the embedding \d+ rows"),
    ],
)
def test_what_a_folder_of_transformers_may_not_say(tmp_path, file, changes, message):
    source = voices.write_transformers(tmp_path / "hf", voices.theirs(), LETTERS, voices.SYMBOLS)
    content = json.loads((source / file).read_text()) | changes
    (source / file).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    with pytest.raises(ValueError, match=message):
        sources.read(source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phoneme_type": "pinyin"}, r"config\.json: not to be expressed here: phoneme_type=pinyin"),
        ({"phoneme_map": {"a": ["b"]}}, "phoneme_map, which respells phonemes"),
        ({"phoneme_id_map": {"_": [0], "^": [1], "$": [2], "aɪ": [3, 4]}}, "phoneme 'aɪ' is 2 ids"),
        ({"phoneme_id_map": {"_": [3], "^": [1], "$": [2]}}, "has to hold '_' as id 0"),
    ],
)
def test_what_a_piper_json_may_not_say(tmp_path, changes, message):
    model = voices.theirs(light=True, n_symbols=256)
    source = voices.write_piper(tmp_path / "piper", model)
    (source.parent / "config.json").write_text(json.dumps(voices.piper_json(model, **changes)))
    with pytest.raises(ValueError, match=message):
        sources.read(source)


@pytest.mark.parametrize(
    ("n", "stochastic", "speaker", "message"),
    [
        (4, True, None, r"4 speakers: choose one with --speaker N, 0 to 3 \(numbers alone\)"),
        (4, True, "4", "no speaker 4: --speaker takes 0 to 3"),
        (1, True, "1", "one speaker, so there is no --speaker 1"),
        (4, False, "1", "deterministic duration predictor, whose conditioning is no bias"),
    ],
)
def test_speakers_that_cannot_be_had(tmp_path, n, stochastic, speaker, message):
    source = voices.write_original(tmp_path / "logs", voices.theirs(n_speakers=n, stochastic=stochastic))
    with pytest.raises(ValueError, match=message):
        brought(source, tmp_path / "ours", speaker)


def test_a_checkpoint_without_its_config_or_symbols(tmp_path):
    source = voices.write_original(tmp_path / "logs", voices.theirs())
    config = source.parent / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"symbols": None}))
    with pytest.raises(ValueError, match=rf'{len(voices.SYMBOLS)} symbols, and 178 are known: list them.*"symbols"'):
        sources.read(source)
    config.rename(tmp_path / "elsewhere.json")
    with pytest.raises(ValueError, match=r"it says how G_1000\.pth was made: name it by --config"):
        sources.read(source)
    (tmp_path / "elsewhere.json").write_text(json.dumps(content))
    assert sources.read(source, tmp_path / "elsewhere.json").vocabulary == voices.SYMBOLS


def test_the_command(tmp_path, capsys, monkeypatch):
    source = voices.write_piper(tmp_path / "piper", voices.theirs(light=True, n_symbols=256))
    arguments = ["vitslite import", str(source.parent), "-o", str(tmp_path / "joe")]
    monkeypatch.setattr("sys.argv", arguments)
    assert import_voice.command() == 0
    out = capsys.readouterr().out
    assert "a Piper checkpoint, step 7" in out and f"speak: vitslite synthesize {tmp_path / 'joe'}" in out
    assert len(Synthesizer(tmp_path / "joe").speak("a red hen.", Synthesizer(tmp_path / "joe").speak_settings())) > 0
    assert import_voice.command() == 2
    assert "add --overwrite" in capsys.readouterr().err
    with pytest.raises(ValueError, match="a checkpoint of vitslite already"):
        sources.read(tmp_path / "joe/checkpoints/best.pt")
