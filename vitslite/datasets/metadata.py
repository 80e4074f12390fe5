"""Metadata reader: metadata.csv of LJSpeech's layout -> rows, with every fault named by file and line."""

import collections
from dataclasses import dataclass, field
from pathlib import Path

DATA_FAULTS = ("missing audio", "corrupt audio")  # too many of these stop the run


@dataclass(frozen=True)
class Row:
    id: str
    text: str
    where: str  # FILE:LINE


@dataclass
class Skipped:
    """The rows that are not used, and why: rows of the file = clips of the corpus + len(entries)."""

    entries: list[tuple[str, Row, str]] = field(default_factory=list)  # reason, row, detail

    def add(self, reason: str, row: Row, detail: str) -> None:
        self.entries.append((reason, row, detail))

    def counts(self) -> dict[str, int]:
        return dict(collections.Counter(reason for reason, _, _ in self.entries))

    def n_data_faults(self) -> int:
        return sum(reason in DATA_FAULTS for reason, _, _ in self.entries)

    def summary(self) -> list[str]:
        """One line per reason: count, reason, first example."""
        first = {reason: f"{row.where}: {detail}" for reason, row, detail in reversed(self.entries)}
        return [f"{n} skipped, {reason}: {first[reason]}" for reason, n in self.counts().items()]

    def report(self) -> str:
        """All of them as tab-separated lines, for a file in the run directory."""
        lines = ["reason\tline\tid\tdetail", *("\t".join((r, row.where, row.id, d)) for r, row, d in self.entries)]
        return "\n".join(lines) + "\n"


def read_metadata(path: Path, skipped: Skipped) -> list[Row]:
    """Lines `id|text|normalised text` or `id|text`, UTF-8 -> rows; the normalised text counts where there is one.

    Quotes are ordinary characters, blank lines are passed over, a byte order mark and Windows line ends are fine.
    Rows without text and exact repetitions go to `skipped`. ValueError: anything that makes the file doubtful.
    """
    rows: dict[str, Row] = {}
    for number, line in enumerate(_decode(path).split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        row = _parse(line, f"{path}:{number}")
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
    return list(rows.values())


def _decode(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path}: {str(error.strerror).lower()}; type data.root=/path/to/LJSpeech-1.1, the folder with metadata.csv"
        ) from None
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in content[:1000]:
        raise ValueError(f"{path}: looks like UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}:{number}: not UTF-8; save the file as UTF-8") from None


def _parse(line: str, where: str) -> Row:
    fields = line.split("|")
    if len(fields) not in (2, 3):
        likely = [name for name, mark in (("tab", "\t"), ("comma", ","), ("semicolon", ";")) if mark in line]
        hint = f"; looks like {likely[0]}" if len(fields) == 1 and likely else ""
        raise ValueError(f'{where}: {len(fields)} columns, expected 2 or 3 separated by "|"{hint}')
    name = fields[0].strip()
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{where}: id {name!r} is not the name of a file under wavs/")
    text = fields[2].strip() if len(fields) == 3 else ""
    return Row(name, text or fields[1].strip(), where)
