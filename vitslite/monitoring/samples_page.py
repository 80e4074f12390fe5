"""Watching: the samples of a run, step by step, on one page `samples.html`, so that one hears the voice form.

The page needs no network and no server: it links to the wavs and pictures of the run directory by relative paths.
"""

import difflib
import json
import re
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple
from urllib.parse import quote

from vitslite.files import write_text
from vitslite.monitoring import stylesheet

# "don't" is one word; quotation marks around a word are not part of it; accents may stand as marks of their own.
_WORD = re.compile(r"\w[\w\u0300-\u036f]*(?:['’]\w[\w\u0300-\u036f]*)*")


class Sample(NamedTuple):
    """One sentence at one step: an entry of `samples/step_*/samples.json`."""

    step: int
    folder: Path  # holds ID_recording.wav, ID_copy.wav, ID_spoken.wav, ID_alignment.png, ID_spectrograms.png
    id: str
    text: str
    heard: dict[str, str]  # recording, copy, spoken -> what the speech recogniser understood; {} if it was not asked


def samples_page(run_dir: Path, title: str) -> Path | None:
    """Write `run_dir/samples.html`: the sentences, each at every step. The file appears whole or not at all.

    None, and no file, if no step has a `samples.json` with a sentence in it. ValueError names a damaged one.
    """
    sentences: dict[tuple[str, str], list[Sample]] = {}
    for sample in _read_samples(run_dir):
        sentences.setdefault((sample.id, sample.text), []).append(sample)
    if not sentences:
        return None
    curves = _link(run_dir, run_dir / "curves.png")
    page = _PAGE.substitute(
        title=escape(title),
        curves=f'<a href="{curves}"><img class="curves" src="{curves}" alt="curves"></a>' if curves else "",
        sections="\n".join(_section(run_dir, samples) for samples in sentences.values()),
    )
    path = run_dir / "samples.html"
    write_text(path, page)
    return path


def samples_table(run_dir: Path) -> list[dict[str, int | str | Path | None]]:
    """The same as rows: sentence after sentence, each at every step; None where a file is missing."""
    rows = []
    for x in sorted(_read_samples(run_dir), key=lambda sample: sample.id):
        files = {
            **{kind: _wav(x, kind) for kind in ("recording", "copy", "spoken")},
            **{kind: x.folder / f"{x.id}_{kind}.png" for kind in ("alignment", "spectrograms")},
        }
        row = {"text": x.text, "step": x.step} | {f"heard in {k}": x.heard.get(k, "") for k in ("copy", "spoken")}
        rows.append(row | {kind: path if path.is_file() else None for kind, path in files.items()})
    return rows


def marked(heard: str, text: str) -> str:
    """`heard` as HTML, compared with `text` word by word, in lower case and without punctuation.

    Words that differ from the text are in <mark>; words of the text for which nothing was heard are put in as <del>.
    """
    said, words = list(_WORD.finditer(heard)), _WORD.findall(text)
    matcher = difflib.SequenceMatcher(
        None, [_plain(w) for w in words], [_plain(w.group()) for w in said], autojunk=False
    )
    pieces, end = [], 0  # `end`: how far `heard` is written
    for operation, i, j, k, m in matcher.get_opcodes():
        if operation == "delete":
            before = said[k].start() if k < len(said) else len(heard)
            pieces += [escape(heard[end:before]), f" <del>{escape(' '.join(words[i:j]))}</del> "]
            end = before
        for word in said[k:m]:
            shown = escape(word.group())
            pieces += [escape(heard[end : word.start()]), shown if operation == "equal" else f"<mark>{shown}</mark>"]
            end = word.end()
    return "".join([*pieces, escape(heard[end:])])


def _plain(word: str) -> str:
    return word.lower().replace("’", "'")


# -------------------------------------------------------------------------------------------------------- reading


def _read_samples(run_dir: Path) -> list[Sample]:
    """All sentences of all steps, steps ascending. Folders without a samples.json are left out."""
    folders = []
    for folder in (run_dir / "samples").glob("step_*"):
        number = re.fullmatch(r"step_([0-9]+)", folder.name)
        if number and (folder / "samples.json").exists():
            folders.append((int(number[1]), folder))
    return [sample for step, folder in sorted(folders) for sample in _read_step(step, folder)]


def _read_step(step: int, folder: Path) -> list[Sample]:
    path = folder / "samples.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not even text
        raise ValueError(f"{path}: damaged ({error}); delete it to leave this step out") from None
    if not isinstance(entries, list) or not all(map(_is_entry, entries)):
        raise ValueError(
            f'{path}: damaged: must be a list of {{"id": "...", "text": "...", "heard": {{}}}}; '
            "delete it to leave this step out"
        )
    return [Sample(step, folder, e["id"], e["text"], e.get("heard") or {}) for e in entries]


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    heard = entry.get("heard") or {}
    strings = [entry.get("id"), entry.get("text"), *(heard.values() if isinstance(heard, dict) else [None])]
    return all(isinstance(s, str) for s in strings)


# -------------------------------------------------------------------------------------------------------- writing


def _section(run_dir: Path, samples: list[Sample]) -> str:
    """One sentence: its text, its recording, and a table of its steps."""
    # The recording is the same at every step: the newest whose file is still there.
    newest = next((s for s in reversed(samples) if _wav(s, "recording").is_file()), samples[-1])
    return _SECTION.substitute(
        text=escape(newest.text),
        id=escape(newest.id),
        recording=_player(run_dir, newest, "recording"),
        rows="\n".join(_row(run_dir, sample) for sample in samples),
    )


def _row(run_dir: Path, sample: Sample) -> str:
    return _ROW.substitute(
        step=sample.step,
        copy=_player(run_dir, sample, "copy"),
        spoken=_player(run_dir, sample, "spoken"),
        pictures=" ".join(_thumbnail(run_dir, sample, kind) for kind in ("alignment", "spectrograms")),
    )


def _player(run_dir: Path, sample: Sample, kind: str) -> str:
    """The player of one wav, and below it what was heard, where that is known."""
    link = _link(run_dir, _wav(sample, kind))
    player = f'<audio class="{kind}" controls preload="none" src="{link}"></audio>' if link else _MISSING
    if kind not in sample.heard:
        return player
    heard = marked(sample.heard[kind], sample.text) if sample.heard[kind].strip() else "<em>no words heard</em>"
    return f'{player}<p class="heard">{heard}</p>'


def _thumbnail(run_dir: Path, sample: Sample, kind: str) -> str:
    link = _link(run_dir, sample.folder / f"{sample.id}_{kind}.png")
    return f'<a href="{link}"><img loading="lazy" src="{link}" alt="{kind}"></a>' if link else _MISSING


def _wav(sample: Sample, kind: str) -> Path:
    return sample.folder / f"{sample.id}_{kind}.wav"


def _link(run_dir: Path, path: Path) -> str | None:
    """`path` as a link from the run directory, safe inside an attribute; None if there is no such file."""
    return escape(quote(path.relative_to(run_dir).as_posix())) if path.is_file() else None


_MISSING = '<span class="missing">missing</span>'

_ROW = Template("""<tr>
<th scope="row">$step</th>
<td data-label="copy">$copy</td>
<td data-label="spoken">$spoken</td>
<td class="pictures">$pictures</td>
</tr>""")

_SECTION = Template("""<section>
<h2>$text</h2>
<div class="recording"><span>recording <code>$id</code></span><div>$recording</div></div>
<button type="button">play all spoken in order</button>
<table>
<thead><tr><th>step</th><th>copy</th><th>spoken</th><th>alignment, spectrograms</th></tr></thead>
<tbody>
$rows
</tbody>
</table>
</section>""")

# The media events of the script do not bubble: `true` catches them on their way down.
_PAGE = Template(
    stylesheet.HEAD
    + """body { max-width: 68rem; }
h2 { margin: 0 0 .75rem; font: 1.3rem/1.35 Georgia, serif; overflow-wrap: anywhere; }
.about, .recording span, thead th, .missing { color: var(--soft); font-size: .875rem; font-weight: normal; }
.about { max-width: 48rem; }
img { display: block; border-radius: 4px; background: #fff; }
.curves { width: 100%; height: auto; }
audio { display: block; width: 100%; height: 2.25rem; }
.recording { max-width: 28rem; margin-bottom: .75rem; }
table { width: 100%; margin-top: .75rem; border-collapse: collapse; table-layout: fixed; }
th, td { padding: .6rem .75rem .6rem 0; border-top: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { border: 0; padding-bottom: .25rem; }
th:first-child { width: 5rem; padding-left: .5rem; font-variant-numeric: tabular-nums; }
th:last-child, .pictures { width: 15rem; padding-right: 0; }
.pictures a, .pictures .missing { display: inline-block; width: 7.2rem; }
.pictures img { width: 7.2rem; height: 4rem; object-fit: cover; }
.heard { margin: .35rem 0 0; font-size: .9rem; line-height: 1.35; overflow-wrap: anywhere; }
del, .heard em { color: var(--soft); }
button { padding: .35rem .9rem; border: 1px solid var(--line); border-radius: 1rem; background: none; color: inherit;
  font: inherit; font-size: .875rem; cursor: pointer; }
.playing { background: var(--now); }
@media (max-width: 45rem) {
  thead { display: none; }
  tr, th, td { display: block; }
  tr { padding: .6rem 0; border-top: 1px solid var(--line); }
  tbody th:first-child, tbody td { width: auto; padding: .2rem 0; border: 0; }
  tbody th::before { content: "step "; }
  td[data-label]::before { content: attr(data-label); display: block; color: var(--soft); font-size: .875rem; }
}
</style>
</head>
<body>
<h1>$title</h1>
<p class="about">A few sentences of the validation set as training goes on. <b>Copy</b> is the recording sent through
the posterior and the decoder; <b>spoken</b> is made from the text alone. Below a player stands what a speech recogniser
understood, if it was asked: <mark>marked</mark> words differ from the text, <del>struck</del> ones were not heard.</p>
$curves
$sections
<script>
let queue = [], current = null;
const next = () => { current = queue.shift(); if (current) { current.currentTime = 0; current.play(); } };
const show = e => e.target.closest("tr")?.classList.toggle("playing", e.type === "play");
for (const name of ["play", "pause", "ended"]) document.addEventListener(name, show, true);
document.addEventListener("ended", next, true);
document.addEventListener("play", e => {
  if (e.target !== current) queue = [];
  for (const other of document.querySelectorAll("audio")) if (other !== e.target) other.pause();
}, true);
for (const button of document.querySelectorAll("button"))
  button.onclick = () => { queue = [...button.closest("section").querySelectorAll(".spoken")]; next(); };
</script>
</body>
</html>
"""
)
