"""Metadata reader: metadata.csv of LJSpeech's layout -> rows, with every fault named by file and line."""

import collections
from dataclasses import dataclass, field
from pathlib import Path

from vitslite.datasets.columns import check_columns, is_header

DATA_FAULTS = ("missing audio", "corrupt audio", "silent", "badly scaled")  # too many of these stop the run


@dataclass(frozen=True)
class Row:
    id: str
    text: str
    where: str  # FILE:LINE


@dataclass
class Notes:
    """What is doubtful about rows that are used all the same, by kind."""

    entries: list[tuple[str, Row, str]] = field(default_factory=list)  # kind, row, detail

    def add(self, kind: str, row: Row, detail: str) -> None:
        self.entries.append((kind, row, detail))

    def counts(self) -> dict[str, int]:
        return dict(collections.Counter(kind for kind, _, _ in self.entries))

    def by_kind(self) -> dict[str, list[tuple[Row, str]]]:
        """Rows and details of each kind, the most frequent first."""
        kinds: dict[str, list[tuple[Row, str]]] = {
            kind: [] for kind, _ in collections.Counter(self.counts()).most_common()
        }
        for kind, row, detail in self.entries:
            kinds[kind].append((row, detail))
        return kinds

    def summary(self) -> list[str]:
        """One line per kind: count, kind, first example."""
        first = {kind: f"{row.where}: {detail}" for kind, row, detail in reversed(self.entries)}
        return [f"{n} doubtful, {kind}: {first[kind]}" for kind, n in self.counts().items()]

    def report(self) -> str:
        """All of them as tab-separated lines, for a file in the run directory."""
        lines = [
            "reason\tline\tid\tdetail",
            *("\t".join((k, r.where, r.id, " ".join(d.split()))) for k, r, d in self.entries),
        ]
        return "\n".join(lines) + "\n"


class Skipped(Notes):
    """The rows that are not used, and why: rows of the file = clips of the corpus + len(entries)."""

    def n_data_faults(self) -> int:
        return sum(reason in DATA_FAULTS for reason, _, _ in self.entries)

    def summary(self) -> list[str]:
        return [line.replace("doubtful", "skipped", 1) for line in super().summary()]


def read_metadata(path: Path, skipped: Skipped, notes: Notes | None = None) -> list[Row]:
    """Lines `id|text|normalised text` or `id|text`, UTF-8 -> rows; the normalised text counts where there is one.

    Quotes are ordinary characters, blank lines are passed over, a byte order mark and Windows line ends are fine.
    A row of column names, rows without text and exact repetitions go to `skipped`. ValueError: anything that makes the
    file doubtful, a column of no texts included.
    """
    rows: dict[str, Row] = {}
    table: list[list[str]] = []
    for number, line in enumerate(_decode(path).split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        fields = line.split("|")
        row = _parse(fields, f"{path}:{number}", line)
        if not table and is_header(fields):
            skipped.add("names of columns", row, "a header, not a clip")
            continue
        table.append(fields)
        earlier = rows.get(row.id)
        if earlier and earlier.text != row.text:
            raise ValueError(f"{row.where}: id {row.id!r} again, with another text than at {earlier.where}")
        if earlier:
            skipped.add("repeated row", row, f"the same as {earlier.where}")
        elif not row.text:
            skipped.add("empty text", row, f"no text for id {row.id!r}")
        else:
            rows[row.id] = row
    if not rows:
        raise ValueError(f"{path}: 0 usable rows; expected lines of id|text|normalised text")
    remark = check_columns(path, table)
    if remark is not None and notes is not None:
        notes.add("columns", next(iter(rows.values())), remark)
    return list(rows.values())


def _decode(path: Path) -> str:
    try:
        if path.exists() and not path.is_dir() and not path.is_file():  # reading a pipe would wait for ever
            raise ValueError(f"{path}: a pipe or a device, not a file")
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path}: {str(error.strerror).lower()}; type data.root=/path/to/LJSpeech-1.1, the folder with metadata.csv"
        ) from None
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or content[:1000].count(0) > len(content[:1000]) / 4:
        raise ValueError(f"{path}: looks like UTF-16; save it as UTF-8")
    if 0 in content:
        number = content[: content.index(0)].count(b"\n") + 1
        raise ValueError(f"{path}:{number}: a NUL character; take it out")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}:{number}: not UTF-8; save the file as UTF-8") from None


def _parse(fields: list[str], where: str, line: str) -> Row:
    if len(fields) not in (2, 3):
        likely = [name for name, mark in (("tab", "\t"), ("comma", ","), ("semicolon", ";")) if mark in line]
        hint = f"; looks like {likely[0]}" if len(fields) == 1 and likely else ""
        raise ValueError(f'{where}: {len(fields)} columns, expected 2 or 3 separated by "|"{hint}')
    name = fields[0].strip()
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{where}: id {name!r} is not the name of a file under wavs/")
    text = fields[2].strip() if len(fields) == 3 else ""
    return Row(name, text or fields[1].strip(), where)
