"""The page of an evaluation: the headline, the order of the sentences, addresses from both of its places."""

import re
from urllib.parse import unquote

import numpy as np

from vitslite.audio import write_wav
from vitslite.evaluation import page
from vitslite.evaluation.result import Scored, collect


def evaluation(**about):
    scored = []
    for i, wrong in enumerate((0, 3, 1)):
        measures = {kind: {"word_error_rate": (n, 4.0)} for kind, n in (("recording", 0.5), ("spoken", wrong))}
        scored.append(Scored(f"x/{i}", f"text {i}", {}, {"recording": f"text {i}", "spoken": "text"}, measures))
    return collect(scored, {"source": "RUN", "recogniser": "grammar"} | about)


def test_the_headline_is_the_words_beside_the_recordings():
    said = page.opening(evaluation(split="test"))
    assert re.search(r"words of 3 test sentences, grammar misheard 33.3 % \(95 % interval \[0, 75\]\)", said), said
    assert said.endswith("and 12.5 % (95 % interval [12.5, 12.5]) in the recordings.")
    silent = collect([Scored("a", "text", {}, {}, {"spoken": {"rms_db": (1.0, 1.0)}})], {})
    assert "nobody listened" in page.opening(silent)


def test_the_worst_sentence_stands_first_and_its_sounds_are_found(tmp_path):
    folder = tmp_path / "evaluation" / "test set"
    write_wav(folder / "x_1_spoken.wav", np.zeros(100, np.float32), 16000)
    (folder / "x_1_alignment.png").write_bytes(b"")
    (folder / "x_12_alignment.png").write_bytes(b"")  # of another sentence
    page.write(evaluation(), tmp_path / "evaluation" / "other")
    page.write(evaluation(), folder)
    for place in (folder, folder.parent):  # the newest is what stands there
        text = (place / page.PAGE).read_text()
        assert re.findall(r'class="text">(.*?)<', text) == ["text 1", "text 2", "text 0"]
        links = [unquote(link) for link in re.findall(r'(?:src|href)="(?!data:)([^"]+)"', text)]
        assert links and all((place / link).is_file() for link in links), links
        assert sum("x_1_" in link for link in links) == 3 and not any("x_12" in link for link in links)
        assert any(link.endswith("other/index.html") for link in links)


def test_the_rate_of_an_utterance_is_that_of_what_is_judged():
    """Planted: by the recording's errors the worst would be another."""
    measures = {"recording": {"word_error_rate": (4, 4)}, "spoken": {"word_error_rate": (1, 4)}}
    assert page.error_rate(measures) == 0.25 and page.error_rate({"given": {"word_error_rate": (2, 4)}}) == 0.5
    assert page.error_rate({"recording": {"word_error_rate": (4, 4)}}) == page.error_rate({"spoken": {}}) == 0
