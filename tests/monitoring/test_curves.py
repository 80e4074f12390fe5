"""Interactive curves: what a panel holds, against numpy; what a page is given."""

import json
import math
import re

import numpy as np

from vitslite.monitoring import curves

SEEDS = [[(0, 1.0), (10, 2.0)], [(0, 3.0), (10, 5.0), (20, 7.0)]]


def data_in(text):
    return [json.loads(found) for found in re.findall(r'<script type="application/json">(.*?)</script>', text)]


def test_a_line_is_the_mean_with_its_range():
    (line,) = curves.data_of("loss/mel", ({3: SEEDS}, {}))["lines"]
    columns = [[1.0, 3.0], [2.0, 5.0], [7.0]]
    assert line["i"] == 3 and line["x"] == [0, 10, 20]
    assert [line["y"], line["low"], line["high"]] == [[f(c) for c in columns] for f in (np.mean, np.min, np.max)]
    (alone,) = curves.data_of("loss/mel", ({0: SEEDS[:1]}, {}))["lines"]
    assert "low" not in alone  # of one seed there is no range


def test_what_is_not_finite_is_a_gap_and_leaves_json_valid():
    text = curves.block({"loss/mel": ({0: [[(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)]]}, {})}, ["a"], ["#000"])
    (panel,) = data_in(text)
    assert panel["lines"][0]["y"] == [1.0, None, None, 2.0]


def test_the_axis_is_logarithmic_where_a_positive_value_spans_much():
    def is_log(*values):
        return curves.data_of("loss/mel", ({0: [list(enumerate(map(float, values)))]}, {}))["log"]

    assert is_log(1, 31) and not is_log(1, 30) and not is_log(-1, 31) and not is_log(0, 31)


def test_the_headline_stands_first_and_constants_in_a_line():
    line = ({0: [[(0, 1.0), (10, 2.0)]]}, {})
    panels = {"loss/total": line, "loss/kl_weight": ({0: [[(0, 0.5), (10, 0.5)]]}, {}), "loss/mel": line}
    text = curves.block(panels, ["a"], ["#000"])
    assert text.index("<code>loss/mel</code>") < text.index("<code>loss/total</code>")
    assert f'<details class="curves" open><summary>{curves.FIRST} (1)' in text and "<summary>loss (1)" in text
    assert "Constant: <code>loss/kl_weight</code> 0.5" in text and len(data_in(text)) == 2


def test_names_cannot_break_out():
    text = curves.block({"loss/mel": ({0: SEEDS}, {})}, ["</script><script>alert(1)</script>"], ["#000"])
    assert "alert(1)</script>" not in text and r"\u003c/script\u003e" in text


def test_the_script_is_whole_and_ends_where_the_page_ends_it():
    script = curves.script()
    assert 1.2e6 < len(script) < 1.6e6 and "</script" not in script.lower() and "<!--" not in script
