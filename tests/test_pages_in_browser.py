"""Pages of comparison and evaluation in a real headless Chromium: nothing thrown, nothing loaded, nothing too wide."""

import json

import browser
import numpy as np
import pytest
from logged import STEPS, settings, write

from vitslite.audio import write_wav
from vitslite.evaluation import page as evaluation_page
from vitslite.evaluation.result import Scored, collect
from vitslite.experiments import page, sources, variants

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium here")
PAUSE = "new Promise(done => requestAnimationFrame(() => setTimeout(done, 500)))"
WIDTHS = (400, 900, 1400)
HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=alert(1)> \"quotes\" & " + 60 * "long"
WAV = 0.1 * np.sin(np.arange(8000) / 5, dtype=np.float32)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    found = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


def still(chromium, path, width, **look):
    """The page, once its curves are drawn."""
    chromium.open(path.as_uri(), width, **look)
    chromium.run(PAUSE)


def leave_run(folder, kl, seed, mel):
    name = f"abs_and_clamp-{kl}-{seed}"
    config = settings(kl, seed) | {"audio": {"sample_rate": 12800, "hop_length": 256}}
    rows = []
    for step in range(0, STEPS + 1, 10):
        error = mel + 1 / (1 + step)
        kls = {"val/kl/over_paths": 2.0 + seed, "val/kl/half_analytic": 1.5, "val/kl/bits_per_second": 100.0 + step}
        rows.append({"step": step, "loss/mel": error, "grad/norm": 1.0 + step, "loss/kl": 2.0 - error, **kls})
        rows.append({"step": step, "val/loss/mel": error, "val/mas/error_ms": 20.0 + mel + step})
    run = write(folder / name, config, rows)
    place = run / "samples" / f"step_{STEPS:06d}"
    place.mkdir(parents=True)
    sample = {"id": "a", "text": HOSTILE, "heard": {"spoken": HOSTILE[:9], "copy": ""}}
    (place / "samples.json").write_text(json.dumps([sample]))
    for kind in ("recording", "copy", "spoken"):
        write_wav(place / f"a_{kind}.wav", WAV, 16000)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for kl, mel in (("half_analytic", 0.5), ("abs_first_term", 0.4)):
        for seed in (0, 1):
            leave_run(folder, kl, seed, mel + 0.01 * seed)
    found = sources.read([str(folder)])
    found.failed[HOSTILE] = HOSTILE
    compared = variants.compare(found, f"Comparison {HOSTILE}", HOSTILE, baseline="objective.kl=half_analytic")
    (folder / "out").mkdir()
    (folder / "out" / "index.html").write_text(page.page(compared, folder / "out", 3, everything=False))
    return folder / "out" / "index.html"


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "evaluation" / "test"
    scored = []
    for i, wrong in enumerate((0, 3, 1)):
        heard = {"recording": HOSTILE, "spoken": HOSTILE if i else ""}
        measures = {kind: {"word_error_rate": (n, 4.0)} for kind, n in (("recording", 0), ("spoken", wrong))}
        scored.append(Scored(f"x/{i}", f"{i} {HOSTILE}", {}, heard, measures))
        write_wav(folder / f"x_{i}_spoken.wav", WAV, 16000)
    about = {"source": HOSTILE, "split": "test", "recogniser": "grammar"}
    return evaluation_page.write(collect(scored, about), folder)


def mouse(chromium, kind, x, y, **more):
    chromium.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)


@pytest.mark.parametrize("name", ["comparison", "evaluation"])
def test_nothing_is_thrown_loaded_or_too_wide(chromium, request, name):
    path = request.getfixturevalue(name)
    for width in WIDTHS:
        for dark in (False, True):
            still(chromium, path, width, dark=dark)
            assert chromium.messages == [] and chromium.overflow() == 0, (width, dark)
            assert all(address.startswith(("file:", "data:", "blob:")) for address in chromium.requests)
            paper = chromium.run("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, paper[4:-1].split(", "))) < 200) == dark
    assert chromium.run("document.title") != "taken" and chromium.run("document.querySelector('img[src=x]')") is None


def test_what_the_checks_are_for_is_seen(chromium, tmp_path):
    """Planted: an exception, an address of the network, a block that is too wide."""
    fault = "<div style='width: 2000px'>x</div><img src='http://192.0.2.1/x.png'><script>nothing.at.all</script>"
    (tmp_path / "bad.html").write_text(f"<!DOCTYPE html>{fault}")
    chromium.ask("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
    still(chromium, tmp_path / "bad.html", 1400)
    assert any("nothing is not defined" in error for error in chromium.messages) and chromium.overflow() > 0
    assert "http://192.0.2.1/x.png" in chromium.requests


def test_a_box_hides_a_variant_everywhere(chromium, comparison):
    still(chromium, comparison, 1400)
    seen = "[...document.querySelectorAll('.v1, [id^=\"v1-\"]')].filter(x => x.getClientRects().length).length"
    lines = "Bokeh.documents.flatMap(d => d.roots()).flatMap(f => f.renderers).filter(r => r.visible === false).length"
    chromium.run("document.querySelector('.plot').scrollIntoView()")
    chromium.run(PAUSE)
    assert chromium.run(seen) > 10 and chromium.run(lines) == 0 and chromium.run("Bokeh.documents.length") >= 2
    chromium.run("document.querySelector('nav input[value=v1]').click()")
    assert chromium.run(seen) == 0 and chromium.run(lines) > 0
    chromium.run("document.querySelector('nav input[value=v1]').click()")
    assert chromium.run(seen) > 10 and chromium.run(lines) == 0


def test_curves_tell_values_and_zoom(chromium, comparison):
    still(chromium, comparison, 1400)
    chromium.run("document.querySelector('.plot').scrollIntoView({block: 'center'})")
    x, y, width, height = chromium.run(
        "(r => [r.x, r.y, r.width, r.height])(document.querySelector('.plot').getBoundingClientRect())"
    )
    middle = x + width / 2, y + height / 2
    for dx in (0, 3):
        mouse(chromium, "mouseMoved", middle[0] + dx, middle[1])
    found = chromium.run("""new Promise(done => setTimeout(() => {
        const all = root => [...root.querySelectorAll("*")].flatMap(e => [e, ...e.shadowRoot ? all(e.shadowRoot) : []]);
        done(all(document).filter(e => e.className.includes?.("bk-Tooltip")).map(e =>
            (e.shadowRoot ?? e).textContent).join(" "));
    }, 500))""")
    assert "step" in found and "objective.kl=half_analytic" in found
    span = "(r => r.end - r.start)(Bokeh.documents[0].roots()[0].x_range)"
    before = chromium.run(span)
    mouse(chromium, "mousePressed", middle[0] - 40, middle[1] - 30, button="left", buttons=1, clickCount=1)
    for step in range(1, 5):
        mouse(chromium, "mouseMoved", middle[0] - 40 + 20 * step, middle[1] - 30 + 15 * step, button="left", buttons=1)
    mouse(chromium, "mouseReleased", middle[0] + 40, middle[1] + 30, button="left", clickCount=1)
    zoomed = chromium.run(f"new Promise(done => setTimeout(() => done({span}), 300))")
    assert zoomed < 0.7 * before
    chromium.run("document.querySelector('.plot').dispatchEvent(new MouseEvent('dblclick'))")
    assert chromium.run(f"new Promise(done => setTimeout(() => done({span}), 300))") == pytest.approx(before)


@pytest.mark.parametrize(("name", "table"), [("comparison", "table"), ("evaluation", ".sentences")])
def test_heads_sort(chromium, request, name, table):
    still(chromium, request.getfixturevalue(name), 1400)
    cells = f"[...document.querySelector('{table}').tBodies[0].rows].map(r => r.cells[0].dataset.value)"
    given = chromium.run(cells)
    chromium.run(f"document.querySelector('{table} thead button').click()")
    up = chromium.run(cells)
    chromium.run(f"document.querySelector('{table} thead button').click()")
    assert up == sorted(given) != chromium.run(cells) == sorted(given, reverse=True)
    if name == "evaluation":
        assert given == ["75", "25", "0"]  # the worst first


@pytest.mark.parametrize("name", ["comparison", "evaluation"])
def test_one_player_at_a_time(chromium, request, name):
    still(chromium, request.getfixturevalue(name), 1400)
    playing = chromium.run("""(async () => {
        const audios = [...document.querySelectorAll("audio")].slice(0, 2);
        for (const audio of audios) { audio.muted = audio.loop = true; await audio.play(); }
        await new Promise(done => setTimeout(done, 100));
        return audios.map(audio => !audio.paused);
    })()""")
    assert playing == [False, True] and chromium.messages == []


def test_without_scripts_the_page_says_what_matters(chromium, comparison):
    chromium.ask("Emulation.setScriptExecutionDisabled", value=True)
    chromium.ask("Page.navigate", url=comparison.as_uri())
    chromium.wait("document.readyState === 'complete' && document.querySelector('.opening') !== null")
    root = chromium.ask("DOM.getDocument", depth=-1)["root"]["nodeId"]
    text = chromium.ask("DOM.getOuterHTML", nodeId=root)["outerHTML"]
    assert "Wrong on purpose: objective.kl=abs_first_term" in text and 'id="v1-plane-0-end"' in text
    assert chromium.messages == []
