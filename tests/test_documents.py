"""Documents: links lead somewhere, files and tests that are named exist, the README is short and its map whole."""

import dataclasses
import re
from fnmatch import fnmatch
from itertools import chain

import pytest
import yaml
from common import ROOT

import vitslite
from vitslite.model.alignment import AlignmentSettings
from vitslite.model.flows import FlowSettings
from vitslite.model.posterior_encoder import PosteriorEncoderSettings
from vitslite.model.text_encoder import TextEncoderSettings
from vitslite.objectives.objective import ObjectiveSettings
from vitslite.objectives.regularisers import RegulariserSettings

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data/README.md", *sorted(ROOT.glob("docs/*.md"))]
FOLDERS = ("configs", "data", "docs", "scripts", "tests", "vitslite")
FILES = {p.relative_to(ROOT).as_posix() for p in chain(ROOT.iterdir(), *((ROOT / f).rglob("*") for f in FOLDERS))}
STARTS = {*FOLDERS, *(p.name for p in (ROOT / "vitslite").iterdir() if p.is_dir())}
TESTS = {p.relative_to(ROOT).as_posix(): p.read_text() for p in (ROOT / "tests").rglob("*.py")}
AXES = {  # of the laboratory: settings class -> the fields whose choices are told
    ObjectiveSettings: ("kl", "log_det", "reduction"),
    RegulariserSettings: ("schedule", "balance"),
    FlowSettings: ("kind", "side", "coupling"),
    PosteriorEncoderSettings: ("kind",),
    TextEncoderSettings: ("prior_std",),
    AlignmentSettings: ("kind", "score"),
}


def faults(text: str, folder: str = ".") -> list[str]:
    """The relative links of a document, and the files and tests that it names, that do not exist."""
    blocks, prose = re.findall(r"```.*?```", text, re.DOTALL), re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in link]
    names = [name for name in re.findall(r"`([\w./*:-]+)`", prose) if is_of_the_repository(name)]
    names += [word for block in blocks for word in re.findall(r"[\w./*-]+", block) if re.match(r"\w+/.*\.\w+$", word)]
    names = [name for name in names if name.split("/")[0] in STARTS or "/" not in name]
    own = sections(text)
    return [x for x in links if not leads_somewhere(x, folder, own)] + [x for x in names if not exists(x, folder)]


def is_of_the_repository(name: str) -> bool:
    """Whether it looks like a file of the repository, or like a test."""
    return name.startswith("test_") or "/" in name or re.search(r"\.py\b", name) is not None


def leads_somewhere(link: str, folder: str, own_sections: set[str]) -> bool:
    path, _, section = link.partition("#")
    target = ROOT / folder / path
    if not target.exists() or not section:
        return target.exists()
    return section in (sections(target.read_text()) if path else own_sections)


def sections(text: str) -> set[str]:
    """The anchors of a document's headings."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def exists(name: str, folder: str) -> bool:
    """From the root, from vitslite/ or from beside the document; * and NAME stand for anything, a bare name is in any
    folder. A test is `test_this`, or `test_file.py::test_this`.
    """
    path, _, test = name.partition("::") if ".py" in name or "/" in name else ("tests/*.py", "", name)
    path = path.replace("NAME", "*").rstrip("/")
    patterns = {path, f"vitslite/{path}", f"{folder}/{path}", *([] if "/" in path else [f"*/{path}"])}
    found = [file for file in FILES if any(fnmatch(file, pattern) for pattern in patterns)]
    definition = rf"(?m)^def {re.escape(test)}\(".replace(r"\*", r"\w*")
    return any(not test or re.search(definition, TESTS.get(file, "")) for file in found)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_document_names_exists(path):
    assert faults(path.read_text(), path.parent.relative_to(ROOT).as_posix()) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[a](README.md) [b](docs/atlas.md#the-atlas) [c](#d)\n# D\n`metrics.jsonl` `RUN/a.py` [e](https://e.org)", []),
        ("`objectives/kl.py` `configs/model/*.yaml` `kl.py` `test_*.py::test_t1_*` `sequence_mask`", []),
        ("[a](docs/atlass.md) [b](docs/atlas.md#no-such) [c](#c)", ["docs/atlass.md", "docs/atlas.md#no-such", "#c"]),
        ("![picture](docs/demo/no.png)", ["docs/demo/no.png"]),
        ("`vitslite/combinations.py` `objective.py` `kll.py`", ["vitslite/combinations.py", "kll.py"]),
        ("`test_kl.py::test_t999_*` `test_nothing`", ["test_kl.py::test_t999_*", "test_nothing"]),
        ("```\npython scripts/evaluat.py RUN\n```", ["scripts/evaluat.py"]),
    ],
)
def test_a_dead_link_is_noticed(text, found):
    assert faults(text) == found


def test_the_readme_is_short_and_its_map_is_whole():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 130
    assert missing_from_the_map(text) == set()
    assert missing_from_the_map(text.replace("objectives/  ", "")) == {"objectives/"}


def missing_from_the_map(text: str) -> set[str]:
    """Entries of vitslite/ and scripts/ that the map leaves out, and names in it that nothing has."""
    block = text.split("## The map")[1].split("```")[1]
    named = set(re.findall(r"\b\w+(?:/|\.py\b)", block))
    entries = {p.name + "/" * p.is_dir() for f in ("vitslite", "scripts") for p in (ROOT / f).iterdir()}
    entries = {name for name in entries if not name.startswith("__")}
    return (entries - named) | {name for name in named if not exists(name, "scripts")}


def unnamed(names, document: str, heading: str) -> list[str]:
    """Those of `names` that the table under a heading leaves out."""
    table = (ROOT / document).read_text().split(f"## {heading}")[1].split("\n\n")[1]
    return [name for name in names if not re.search(rf"(?<![\w/]){name}\b", table)]


def test_the_laboratory_names_every_choice():
    fields = [field for axis, names in AXES.items() for field in dataclasses.fields(axis) if field.name in names]
    assert unnamed(chain(*(field.metadata["choices"] for field in fields)), "docs/laboratory.md", "Axes") == []
    assert unnamed(["mas", "half_numeric"], "docs/laboratory.md", "Axes") == ["half_numeric"]


def test_the_settings_name_every_option():
    options = [p.relative_to(ROOT / "configs") for p in (ROOT / "configs").glob("*/**/*.yaml")]
    groups = {p.parent.as_posix(): [] for p in options if p.parent.name != "wandb_sweep"}
    for path in options:
        groups.get(path.parent.as_posix(), []).append(path.stem)
    for group, names in groups.items():
        assert unnamed([group, *(names if group != "experiment" else ())], "docs/settings.md", "Groups") == []
    assert unnamed(["model/flaw", "flow"], "docs/settings.md", "Groups") == ["model/flaw", "flow"]


def test_one_version():
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert newest == vitslite.__version__ == yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
