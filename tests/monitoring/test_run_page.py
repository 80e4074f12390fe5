"""The page of a run: read back by an HTML parser, held against its directory, and seen by a browser."""

import json
import os
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from browser import CHROMIUM, Browser

from vitslite import runs
from vitslite.audio import AudioSettings, write_wav
from vitslite.monitoring import html, timelines
from vitslite.monitoring.run_page import headline, run_page
from vitslite.monitoring.views import Alignment, Nats, View

AUDIO = AudioSettings(16000, 1024, 320, 1024, n_mels=40)
HOSTILE = '<script>alert("&amp;")</script> \'"> ${x} {{ 7 * 7 }}'
TEXTS = {"a? #1 <i> & 50%": HOSTILE, "plain": "The <b>cat</b> sat on $title"}
STEPS = (10, 200, 1000)
UTTERANCES = [
    {"id": "plain", "text": TEXTS["plain"], "frames": 50, "kl": 2.0, "kl_over_paths": 2.5, "mel_l1": 0.5},
    {"id": "x", "text": HOSTILE, "frames": 40, "kl": 3.0, "kl_over_paths": 3.5, "mel_l1": float("nan")},
]
PHONEMES = [
    {"phoneme": "<b>", "tokens": 3, "frames": 20, "nats_per_frame": 4.0, "nats_per_token": 9.0},
    {"phoneme": "ə", "tokens": 2, "frames": 0, "nats_per_frame": None, "nats_per_token": -0.5},
]
ROWS = [
    {"step": 0, "val/kl/over_paths": 9.0, "val/wer/spoken": 1.0},
    {"step": 1000, "loss/kl": 4.0, "val/kl/over_paths": 2.5, "val/kl/error_over_paths": 0.25},
    {"step": 1000, "val/wer/spoken": 0.0625, "val/wer/recording": 0.012},
]


class Page(HTMLParser):
    """Links, tags and texts, and the attributes of each tag."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.links: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        assert not any(name.startswith("on") for name in values), values
        # As a browser finds files: what follows a "#" or "?" is not of the path.
        self.links += [
            unquote(urlsplit(values[name]).path) for name in ("src", "href") if name in values and tag != "link"
        ]

    def handle_data(self, data):
        self.texts.append(data.strip())

    def missing_files(self, run_dir: Path) -> list[str]:
        return [link for link in self.links if not (run_dir / link).exists()]


def view(seconds: float, noise: bool = True) -> View:
    n = round(seconds * AUDIO.frames_per_second)
    rng = np.random.default_rng(0)
    elements = rng.normal(0.1, 1, (8, n)).astype(np.float32)
    nats = Nats(elements, elements.sum(0), np.full(n, 0.5, np.float32) if noise else None)
    found = Alignment(rng.normal(size=(4, n)).astype(np.float32), np.array([n - 9, 2, 5, 2]), ["^", "$", "ə", "_"], [])
    return View(rng.random((513, n)).astype(np.float32), nats, found)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of hostile texts: 2 sentences at 3 steps, with sounds, pictures, a validation and an evaluation."""
    run_dir = tmp_path_factory.mktemp("runs") / "<run> & $x"
    wav = (0.1 * np.sin(np.arange(16000) / 9)).astype(np.float32)
    for step in STEPS:
        folder = run_dir / "samples" / f"step_{step:06d}"
        folder.mkdir(parents=True)
        for name in TEXTS:
            for kind in ("recording", "copy", "spoken"):
                write_wav(folder / f"{name}_{kind}.wav", wav, 16000)
        heard = {"spoken": 'two < three & "so" <i>on</i>', "copy": " "}
        entries = [{"id": name, "text": text, "heard": heard} for name, text in TEXTS.items()]
        (folder / "samples.json").write_text(json.dumps(entries))
    for name, text in TEXTS.items():
        timelines.nats_map(folder / f"{name}_nats.png", view(1.0), AUDIO, text)
        mels = {f"{kind}, 1 s": np.zeros((40, 50), np.float32) for kind in ("recording", "copy", "spoken")}
        timelines.spectrograms(folder / f"{name}_spectrograms.png", mels, AUDIO, text)
    (folder / "words.json").write_text('{"plain": {"spoken": [1, 4], "recording": [0, 4]}}')
    runs.write_config(run_dir, {"trainer": {"steps": 1000}, "name": HOSTILE})
    for row in ROWS:
        runs.append_row(run_dir, row)
    runs.write_validation(run_dir, runs.Validation(1000, f"noise: {HOSTILE}", UTTERANCES, PHONEMES, {"0": [1.0]}))
    (run_dir / "evaluation/test").mkdir(parents=True)
    (run_dir / "evaluation/test/evaluation.json").write_text("{}")
    return run_dir


def test_every_file_is_linked_and_every_link_is_a_file(finished):
    path = run_page(finished, is_live=False)
    page = Page(path)
    assert path == finished / "index.html" and page.missing_files(finished) == []
    wavs = {p.relative_to(finished).as_posix() for p in finished.glob("samples/*/*.wav")}
    older = {name for name in wavs if name.endswith("recording.wav") and "step_001000" not in name}
    pictures = {p.relative_to(finished).as_posix() for p in finished.glob("samples/*/*.png")}
    files = {"config.yaml", "metrics.jsonl", "validation.json", "evaluation/test/"}
    assert set(page.links) == (wavs - older) | pictures | files
    assert "http" not in page.source.replace("http-equiv", "") and "missing" not in page.texts
    gone = finished / "samples/step_000200/plain_spoken.wav"  # the check can fail: the page is older than the directory
    content = gone.read_bytes()
    gone.unlink()
    assert page.missing_files(finished) == ["samples/step_000200/plain_spoken.wav"]
    assert Page(run_page(finished, is_live=False)).texts.count("missing") == 1
    gone.write_bytes(content)


def test_texts_are_shown_as_they_are(finished):
    page = Page(run_page(finished, is_live=False))
    assert page.tags.count("script") == 1 and not {"i", "run"} & set(page.tags)
    shown = [*TEXTS.values(), finished.name, f"noise: {HOSTILE}", "<b>", 'two < three & "so" <i>on</i>']
    whole = " ".join(" ".join(page.texts).split())
    for text in shown[:-1]:
        assert text in page.texts, text
    assert "<i>on</i>" in whole or "on" in page.texts  # in pieces: marked words
    unescaped = finished / "unescaped.html"
    unescaped.write_text(f"<h2>{HOSTILE}</h2>")
    assert "script" in Page(unescaped).tags, "planted: the parser would see it"
    unescaped.unlink()


def test_what_stands_first(finished):
    run_page(finished, is_live=True)
    texts = [text for text in Page(finished / "index.html").texts if text]
    first = texts[texts.index("training") :]
    assert first[1].startswith("step 1000 of 1000, validated at step 1000") and first[2].startswith("noise: ")
    assert first[3:6] == ["KL over all paths", "2.5 nats/frame", "± 0.25"]
    assert first[6:9] == ["word error rate, spoken", "6.25 %", "recording 1.2 %"]
    ids = [text for text in texts if text in ("x", "plain")]
    assert ids[-2:] == ["x", "plain"], "the utterance that costs most is first"
    assert "25 (0)" in " ".join(texts), "the error of what was heard, and of the recording"
    assert [figure.value for figure in headline(ROWS[:1])] == ["9 nats/frame", "100 %"]


def test_only_a_run_that_goes_on_loads_itself_anew(finished):
    for is_live, state in ((True, "training"), (False, "finished")):
        page = Page(run_page(finished, is_live))
        assert ("location.reload" in page.source, "http-equiv" in page.source) == (is_live, is_live)
        assert state in page.texts
    runs.write_config(finished, {"trainer": {"steps": 2000}})
    assert "stopped" in Page(run_page(finished, is_live=False)).texts
    runs.write_config(finished, {"trainer": {"steps": 1000}, "name": HOSTILE})


def test_nothing_to_show_yet(tmp_path):
    page = Page(run_page(tmp_path, is_live=True))
    assert "Nothing is validated yet." in page.texts and "Utterances" not in page.texts


def test_without_a_posterior_it_says_what_takes_its_place(tmp_path):
    runs.write_config(tmp_path, {"model": {"posterior": {"kind": "recording"}}, "trainer": {"steps": 3}})
    rows = [{"id": "x", "text": "y", "frames": 4, "nll": 3.0, "nll_over_paths": 3.5}]
    runs.write_validation(tmp_path, runs.Validation(3, "no posterior, no KL", rows, PHONEMES))
    (tmp_path / "gradients.png").write_bytes(b"")
    folder = tmp_path / "samples/step_000003"
    folder.mkdir(parents=True)
    (folder / "samples.json").write_text('[{"id": "x", "text": "y"}]')
    timelines.nats_map(folder / "x_nats.png", view(1.0, noise=False), AUDIO, "y")
    source = Page(run_page(tmp_path, is_live=False)).source
    for said in ("no posterior, no KL", "-log p, nats/frame", "no ratio of its standard deviation", "so no KL: in its"):
        assert said in source, said
    assert "KL over paths" not in source


FILES = ["samples/step_000010/samples.json", "validation.json", "metrics.jsonl", "config.yaml"]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_old_page_stays(finished, name):
    before = run_page(finished, is_live=False).read_text()
    path = finished / name
    content = path.read_bytes()
    path.write_bytes(b'["a"\n: {')
    with pytest.raises(ValueError, match="damaged") as error:
        run_page(finished, is_live=False)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert (finished / "index.html").read_text() == before
    path.write_bytes(content)


def test_a_failed_write_leaves_the_old_page(finished, monkeypatch):
    before = run_page(finished, is_live=False).read_text()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        run_page(finished, is_live=True)
    assert (finished / "index.html").read_text() == before


def test_ratios_of_older_validations_stay_and_later_ones_go(tmp_path):
    for step, kept in ((0, ["0"]), (5, ["0", "5"]), (9, ["0", "5", "9"]), (5, ["0", "5"]), (0, ["0"])):
        runs.write_validation(tmp_path, runs.Validation(step, ratio={str(step): [1.0]}))
        assert list(runs.read_validation(tmp_path).ratio) == kept


# ------------------------------------------------------------------------------------------------ in a real browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.parametrize("width", [400, 700, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_any_width_and_says_nothing_to_the_console(finished, browser, width, dark):
    browser.open(run_page(finished, is_live=True).as_uri(), width, dark)
    browser.run("for (const fold of document.querySelectorAll('details')) fold.open = true")
    browser.wait("[...document.images].every(image => (image.loading = 'eager', image.complete))")
    assert (browser.overflow(), browser.messages) == (0, [])
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(", "))) < 150) == dark
    assert browser.run("document.images.length > 3 && [...document.images].every(image => image.naturalWidth > 100)")


def test_a_page_that_is_too_wide_or_broken_is_noticed(finished, browser):
    path = finished / "planted.html"
    planted = '<img src="none.png"><div style="width: 2000px">x</div><script>nothing()</script></body>'
    path.write_text(run_page(finished, is_live=False).read_text().replace("</body>", planted))
    browser.open(path.as_uri(), 1400)
    path.unlink()
    assert browser.overflow() > 500
    assert any("nothing is not defined" in message for message in browser.messages)
    assert any("not loaded" in message for message in browser.messages)


def test_playing_moves_the_head_where_the_sound_is_drawn(finished, browser):
    browser.open(run_page(finished, is_live=False).as_uri())
    browser.run("window.spoken = document.querySelector('.players .spoken'); spoken.play()")
    browser.wait("spoken.currentTime > 0.3")
    heads = browser.run(
        "[...spoken.closest('section').querySelectorAll('.head')].map(head => [head.style.left, head.style.top])"
    )
    places = html.picture(next(finished.glob("samples/step_001000/plain_spectrograms.png"))).places["spoken"]
    assert len(heads) == 1, "the recording's KL does not show what is spoken"
    left, top = (float(value.rstrip("%")) / 100 for value in heads[0])
    assert top == pytest.approx(places[1]) and places[0] + 0.2 * places[2] < left <= places[0] + places[2]
    browser.run("window.recording = document.querySelector('.players .recording'); recording.play()")
    browser.wait("spoken.paused && recording.currentTime > 0.1")
    assert browser.run("recording.closest('section').querySelectorAll('.head').length") == 2
    browser.run(
        "recording.pause(); (picture => { const box = picture.getBoundingClientRect(), [l, t, w, h, s] ="
        " JSON.parse(picture.dataset.places).recording; picture.dispatchEvent(new MouseEvent('click', {clientX:"
        " box.x + box.width * (l + 0.5 * w), clientY: box.y + box.height * (t + h / 2)})); })"
        "(recording.closest('section').querySelector('.picture'))"
    )
    browser.wait("recording.currentTime >= 0.5")


def test_all_steps_are_played_in_order(finished, browser):
    browser.open(run_page(finished, is_live=False).as_uri())
    browser.run("window.played = []; document.addEventListener('play', e => played.push(e.target.src), true)")
    browser.run("document.querySelector('.all').click()")
    browser.wait("played.length === 3")
    assert [int(address.split("step_")[1][:6]) for address in browser.run("played")] == [*STEPS]
    assert browser.run("document.querySelectorAll('tr.playing').length") == 1


def test_tables_are_sorted_by_their_heads_and_folds_stay(finished, browser):
    address = run_page(finished, is_live=False).as_uri()
    browser.open(address)
    ids = "[...document.querySelectorAll('[aria-label=utterances] tbody th')].map(cell => cell.textContent)"
    assert browser.run(ids) == ["x", "plain"]
    browser.run("document.querySelectorAll('[aria-label=utterances] thead button')[2].click()")
    assert browser.run(ids) == ["x", "plain"], "40 frames, then 50"
    browser.run("document.querySelectorAll('[aria-label=utterances] thead button')[2].click()")
    assert browser.run(ids) == ["plain", "x"]
    browser.run("document.querySelector('#settings').open = true")
    browser.wait("sessionStorage.getItem(location.pathname)?.includes('settings')")
    browser.run("location.reload()")
    browser.wait("document.readyState === 'complete' && document.querySelector('#settings')?.open")
    assert browser.messages == []
