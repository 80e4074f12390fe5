"""The samples of a run: the list of what lies in its directory, and words that were heard otherwise."""

import json
from html import escape
from pathlib import Path

import pytest

from vitslite.monitoring.samples import marked, read_samples, read_words, samples_table

STEPS = {"step_1000": 1000, "step_10": 10, "step_000200": 200}  # as names they sort in another order
TEXTS = {"a? #1 <i> & 50%": 'Is 2 < 3 & "so" on, isn\'t it?', "plain": "The <b>cat</b> sat on $title"}
KINDS = ("recording", "copy", "spoken")
FILES = [*(f"{kind}.wav" for kind in KINDS), "alignment.png", "spectrograms.png"]


def write_entries(folder: Path, heard: dict[str, dict[str, str] | None]) -> None:
    entries = [{"id": name, "text": text, "heard": heard.get(name)} for name, text in TEXTS.items()]
    (folder / "samples.json").write_text(json.dumps(entries), encoding="utf-8")


@pytest.fixture
def run_dir(tmp_path) -> Path:
    """2 sentences at 3 steps, and what a reader must pass over: an old folder without a list, and a stray one."""
    for folder in (tmp_path / "samples" / name for name in [*STEPS, "step_5", "step_best"]):
        folder.mkdir(parents=True)
        for name in TEXTS:
            for file in FILES:
                (folder / f"{name}_{file}").touch()
        if folder.name != "step_5":
            write_entries(folder, {})
    (tmp_path / "curves.png").touch()
    return tmp_path


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


def test_steps_ascend_as_numbers(run_dir):
    for step in range(2020, 2000, -1):
        (run_dir / f"samples/step_{step}").mkdir()
        write_entries(run_dir / f"samples/step_{step}", {})
    found = [sample.step for sample in read_samples(run_dir) if sample.id == "plain"]
    assert found == [10, 200, 1000, *range(2001, 2021)]
    assert [STEPS[name] for name in sorted(STEPS)] != [10, 200, 1000]  # the names alone would give another order


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
        read_samples(run_dir)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_words_of_a_step(run_dir):
    assert read_words(run_dir, 200) == {}
    path = run_dir / "samples/step_000200/words.json"
    path.write_text('{"plain": {"spoken": [1, 6]}}')
    assert read_words(run_dir, 200) == {"plain": {"spoken": [1, 6]}} and read_words(run_dir, 201) == {}
    path.write_text('{"plain"')
    with pytest.raises(ValueError, match="words.json: damaged"):
        read_words(run_dir, 200)


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
