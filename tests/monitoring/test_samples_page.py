"""The page of samples: read back by an HTML parser and held against the run directory it was made from."""

import json
import os
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from vitslite.monitoring.samples_page import marked, samples_page, samples_table

STEPS = {"step_1000": 1000, "step_10": 10, "step_000200": 200}  # as names they sort in another order
TEXTS = {"a? #1 <i> & 50%": 'Is 2 < 3 & "so" on, isn\'t it?', "plain": "The <b>cat</b> sat on $title"}
KINDS = ("recording", "copy", "spoken")
FILES = [*(f"{kind}.wav" for kind in KINDS), "alignment.png", "spectrograms.png"]


class Page(HTMLParser):
    """All that the tests look at: links, steps and texts in the order of the page."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text: dict[str, list[str]] = {}  # by innermost element that matters, one string for each
        self._open: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        # As a browser finds files: what follows a "#" or "?" is not of the path.
        self.links += [unquote(urlsplit(values[name]).path) for name in ("src", "href") if name in values]
        kind = "step" if values.get("scope") == "row" else values.get("class") if tag in ("p", "span") else tag
        if tag not in ("meta", "img"):  # these have no end
            self._open.append(kind)
            self.text.setdefault(kind, []).append("")

    def handle_endtag(self, tag):
        self._open.pop()

    def handle_data(self, data):
        for kind in {k for k in self._open if k}:
            self.text[kind][-1] += data

    def missing_files(self, run_dir: Path) -> list[str]:
        return [link for link in self.links if not (run_dir / link).is_file()]


def write_entries(folder: Path, heard: dict[str, dict[str, str] | None]) -> None:
    entries = [{"id": name, "text": text, "heard": heard.get(name)} for name, text in TEXTS.items()]
    (folder / "samples.json").write_text(json.dumps(entries), encoding="utf-8")


@pytest.fixture
def run_dir(tmp_path) -> Path:
    """2 sentences at 3 steps, and what a page must pass over: an old folder without a list, and a stray one."""
    for folder in (tmp_path / "samples" / name for name in [*STEPS, "step_5", "step_best"]):
        folder.mkdir(parents=True)
        for name in TEXTS:
            for file in FILES:
                (folder / f"{name}_{file}").touch()
        if folder.name != "step_5":
            write_entries(folder, {})
    (tmp_path / "curves.png").touch()
    return tmp_path


def test_every_file_is_linked_and_every_link_is_a_file(run_dir):
    path = samples_page(run_dir, "demo")
    page = Page(path)
    assert path == run_dir / "samples.html" and [p.name for p in run_dir.glob("samples.*")] == ["samples.html"]
    assert page.missing_files(run_dir) == []
    per_step = [f"samples/{step}/{name}_{file}" for step in STEPS for name in TEXTS for file in FILES[1:]]
    recordings = [f"samples/step_1000/{name}_recording.wav" for name in TEXTS]  # once, from the newest step
    assert set(page.links) == {"curves.png", *recordings, *per_step}
    assert page.tags.count("audio") == len(TEXTS) * (1 + 2 * len(STEPS))
    assert "http" not in page.source and "missing" not in page.text
    # The check can fail: a file that goes after the page was written leaves broken links.
    (run_dir / "samples/step_000200/a? #1 <i> & 50%_spoken.wav").unlink()
    assert page.missing_files(run_dir) == ["samples/step_000200/a? #1 <i> & 50%_spoken.wav"]


def test_steps_ascend_as_numbers(run_dir):
    for step in range(2020, 2000, -1):
        (run_dir / f"samples/step_{step}").mkdir()
        write_entries(run_dir / f"samples/step_{step}", {})
    page = Page(samples_page(run_dir, "demo"))
    assert page.text["step"] == [str(step) for step in (10, 200, 1000, *range(2001, 2021))] * len(TEXTS)
    assert [STEPS[name] for name in sorted(STEPS)] != [10, 200, 1000]  # the names alone would give another order


def test_texts_are_shown_as_they_are(run_dir):
    heard = 'two < three & "so" <i>on</i>'
    write_entries(run_dir / "samples/step_000200", {"plain": {"spoken": heard}})
    page = Page(samples_page(run_dir, "<run> & $sections"))
    assert page.text["h2"] == list(TEXTS.values()) and page.text["code"] == list(TEXTS)
    assert page.text["h1"] == page.text["title"] == ["<run> & $sections"]
    assert not {"i", "run"} & set(page.tags) and page.text["heard"] == [heard]
    # The check can fail: unescaped, the parser sees another text.
    path = run_dir / "unescaped.html"
    path.write_text(f"<h2>{TEXTS['plain']}</h2>")
    assert "b" in Page(path).tags


@pytest.mark.parametrize(
    ("heard", "text", "expected"),
    [
        ("the cat sat", "The cat sat.", "the cat sat"),
        ("The bat, sat!", "the cat sat", "The <mark>bat</mark>, sat!"),
        ("the big black cat", "the cat", "the <mark>big</mark> <mark>black</mark> cat"),
        ("the sat", "the cat sat", "the  <del>cat</del> sat"),
        ("the", "the cat sat.", "the <del>cat sat</del> "),
        ("dont don't don’t", "don't don't", "<mark>dont</mark> don&#x27;t don’t"),
        ("cafe\u0301s now", "cafe\u0301s then", "cafe\u0301s <mark>now</mark>"),  # one word, not "cafe" and "s"
        ("'well known' - i'd say", "Well-known: I’d say", "&#x27;well known&#x27; - i&#x27;d say"),
        ("Straße & <über>", "straße, über", "Straße &amp; &lt;über&gt;"),
        ("y" + " x" * 250, "x " * 250, "<mark>y</mark>" + " x" * 250),  # a frequent word is compared like any other
    ],
)
def test_marked_words_are_exactly_the_differing_ones(heard, text, expected):
    pieces = ((tag, escape(words)) for tag, words in marked(heard, text))
    assert "".join(f"<{tag}>{words}</{tag}>" if tag else words for tag, words in pieces) == expected


def test_marks_on_the_page_belong_to_their_cell(run_dir):
    write_entries(run_dir / "samples/step_1000", {"plain": {"copy": "the b cat b set on title", "spoken": " "}})
    write_entries(run_dir / "samples/step_000200", {"plain": {"spoken": "a b cat b sat on title", "recording": "x"}})
    page = Page(samples_page(run_dir, "demo"))
    assert page.text["mark"] == ["marked", "a", "set"]  # the first is in the explanation
    assert page.text["heard"] == ["a b cat b sat on title", "the b cat b set on title", "no words heard"]


def test_a_deleted_file_is_called_missing(run_dir):
    (run_dir / "samples/step_000200/plain_copy.wav").unlink()
    (run_dir / "samples/step_10/plain_alignment.png").unlink()
    (run_dir / "samples/step_1000/plain_recording.wav").unlink()  # an older one takes its place
    (run_dir / "curves.png").unlink()
    page = Page(samples_page(run_dir, "demo"))
    assert page.missing_files(run_dir) == [] and page.text["missing"] == ["missing"] * 2
    assert "samples/step_000200/plain_recording.wav" in page.links and "curves.png" not in page.links
    for step in STEPS:
        (run_dir / "samples" / step / "plain_recording.wav").unlink(missing_ok=True)
    assert Page(samples_page(run_dir, "demo")).text["missing"] == ["missing"] * 3


def test_a_sentence_may_begin_later_and_change_its_text(run_dir):
    entries = [{"id": "plain", "text": "Another text"}]
    (run_dir / "samples/step_10/samples.json").write_text(json.dumps(entries))
    page = Page(samples_page(run_dir, "demo"))
    assert page.text["h2"] == ["Another text", *TEXTS.values()]
    assert page.text["step"] == ["10", "200", "1000", "200", "1000"]


def test_nothing_to_show(tmp_path, run_dir):
    assert samples_page(tmp_path / "absent", "demo") is None
    for step in STEPS:
        (run_dir / "samples" / step / "samples.json").unlink()
    (run_dir / "samples/step_5/samples.json").write_text("[]")
    assert samples_page(run_dir, "demo") is None and not (run_dir / "samples.html").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'[{"id": "a", "te',
        b"\xff\xfe\x00",
        b'{"id": "a", "text": "b"}',
        b'["a"]',
        b'[{"id": "a"}]',
        b'[{"id": 3, "text": "b"}]',
        b'[{"id": "a", "text": "b", "heard": "c"}]',
        b'[{"id": "a", "text": "b", "heard": {"copy": null}}]',
    ],
)
def test_a_damaged_list_is_named(run_dir, content):
    path = run_dir / "samples/step_000200/samples.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged") as error:
        samples_page(run_dir, "demo")
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert not (run_dir / "samples.html").exists()


def test_a_failed_write_leaves_the_old_page(run_dir, monkeypatch):
    before = samples_page(run_dir, "old").read_text()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        samples_page(run_dir, "new")
    assert (run_dir / "samples.html").read_text() == before


# ------------------------------------------------------------------------------------------------------- the table


def test_rows_go_sentence_by_sentence_and_step_by_step(run_dir):
    rows = samples_table(run_dir)
    assert [(row["text"], row["step"]) for row in rows] == [
        (t, s) for t in TEXTS.values() for s in sorted(STEPS.values())
    ]
    folders = {number: run_dir / "samples" / name for name, number in STEPS.items()}
    names = {text: name for name, text in TEXTS.items()}
    for row in rows:
        stem = folders[row["step"]] / names[row["text"]]
        assert {kind: row[kind] for kind in KINDS} == {kind: Path(f"{stem}_{kind}.wav") for kind in KINDS}
        assert [row["alignment"], row["spectrograms"]] == [Path(f"{stem}_{f}") for f in FILES[-2:]]
        assert row["heard in copy"] == row["heard in spoken"] == ""
    columns = ["text", "step", "heard in copy", "heard in spoken", *KINDS, "alignment", "spectrograms"]
    assert all(list(row) == columns for row in rows)  # in this order in every row, as a table needs it


def test_the_table_has_what_was_heard_at_its_step(run_dir):
    write_entries(run_dir / "samples/step_000200", {"plain": {"spoken": "a bat", "copy": "the cat", "recording": "x"}})
    heard = {
        (row["text"], row["step"]): (row["heard in copy"], row["heard in spoken"]) for row in samples_table(run_dir)
    }
    assert heard.pop((TEXTS["plain"], 200)) == ("the cat", "a bat")
    assert set(heard.values()) == {("", "")}


def test_the_table_has_no_path_where_there_is_no_file(run_dir):
    gone = [run_dir / "samples" / f for f in ("step_10/plain_copy.wav", "step_1000/plain_alignment.png")]

    def missing():
        return {(row["text"], row["step"], key) for row in samples_table(run_dir) for key in row if row[key] is None}

    assert missing() == set()
    for path in gone:
        path.unlink()
    assert missing() == {(TEXTS["plain"], 10, "copy"), (TEXTS["plain"], 1000, "alignment")}


def test_the_table_of_nothing_and_of_a_damaged_list(tmp_path, run_dir):
    assert samples_table(tmp_path / "absent") == []
    (run_dir / "samples/step_10/samples.json").write_text("[3]")
    with pytest.raises(ValueError, match="step_10/samples.json: damaged"):
        samples_table(run_dir)
