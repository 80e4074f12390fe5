"""The list of runs, and that its server gives what lies below its folder, to this machine, and nothing else."""

import http.client
import os
import threading
import time

import pytest
from browser import CHROMIUM, Browser

from vitslite import runs
from vitslite.experiments import watch
from vitslite.runs import Validation, append_row, mark_finished, write_config, write_validation


def make(folder, steps: int, done: int, age: float) -> None:
    write_config(folder, {"trainer": {"steps": steps}})
    for step in (0, done):
        append_row(folder, {"step": step, "val/loss/mel": 0.5, "val/wer/spoken": 0.25, "val/wer/recording": 0.01})
    os.utime(folder / runs.METRICS, (time.time() - age,) * 2)


@pytest.fixture
def root(tmp_path):
    """A finished run, one that trains, one that was stopped, a damaged one, and a secret beside them all."""
    root = tmp_path / "runs"
    make(root / "a <i>b</i>", 10, 10, 7200)
    (root / "a <i>b</i>/checkpoints").mkdir()
    (root / "a <i>b</i>/checkpoints/last.pt").touch()
    mark_finished(root / "a <i>b</i>", 10)
    write_validation(root / "a <i>b</i>", Validation(10, "positive <b>and</b> resolved"))
    (root / "a <i>b</i>/index.html").write_text("the page of a")
    make(root / "sweeps/s/live", 20, 5, 3)
    make(root / "old", 20, 5, 86400 * 3)
    make(root / "broken", 20, 5, 86400 * 4)
    (root / "broken" / runs.METRICS).write_text("nonsense\n")
    os.utime(root / "broken" / runs.METRICS, (time.time() - 86400 * 4,) * 2)
    (root / "a <i>b</i>/wandb/x").mkdir(parents=True)
    (root / "a <i>b</i>/wandb/x/config.yaml").write_text("x: 1")
    (tmp_path / "secret.txt").write_text("secret")
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    (root / "up").symlink_to(tmp_path, target_is_directory=True)
    return root


@pytest.fixture
def port(root):
    with watch.server(root, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def fetch(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_runs_are_listed_the_newest_first(root):
    found = watch.entries(root)
    assert [(run.name, run.state, run.progress) for run in found] == [
        ("sweeps/s/live", "training", "5 of 20"),
        ("a <i>b</i>", "finished", "10 of 10"),
        ("old", "stopped", "5 of 20"),
        ("broken", "damaged", ""),
    ]
    assert [figure.value for figure in found[1].figures.values()] == ["0.5 nats", "25 %"]
    assert f"{runs.METRICS}:1: damaged" in found[3].verdict
    page = watch.page(root)
    assert "positive &lt;b&gt;and&lt;/b&gt; resolved" in page and "<i>b" not in page
    assert [watch.age(seconds) for seconds in (-1, 40, 90, 7200, 86400 * 3)] == ["0 s", "40 s", "2 min", "2 h", "3 d"]
    assert "0 runs" in watch.page(root / "sweeps/s/live/none")


def test_the_list_and_the_pages_are_served(root, port):
    status, page = fetch(port, "/")
    assert status == 200 and "sweeps/s/live" in page
    assert fetch(port, "/a%20%3Ci%3Eb%3C/i%3E/") == (200, "the page of a")
    assert fetch(port, "/old/config.yaml") == (200, (root / "old/config.yaml").read_text())
    assert fetch(port, "/none")[0] == 404 and fetch(port, "/old/config.yaml", "POST")[0] == 501


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/old/..%2f..%2fsecret.txt",
        "/..%5csecret.txt",
        "//../secret.txt",
        "/link.txt",
        "/up/secret.txt",
        "/up/",
        "/old/%00",
    ],
)
def test_nothing_above_the_folder_is_served(root, port, path, tmp_path):
    for method in ("GET", "HEAD"):
        status, content = fetch(port, path, method)
        assert status == 404 and "secret" not in content.replace(path, "")
    (root / "inside.txt").symlink_to(root / "old/config.yaml")
    assert fetch(port, "/inside.txt")[0] == 200, "a link that stays below is followed"


def test_it_serves_this_machine_alone(root):
    with watch.server(root, 0) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_the_list_in_a_browser(root, port, tmp_path):
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    browser = Browser(tmp_path / "profile")
    try:
        for width, dark in ((400, False), (1400, True)):
            browser.open(f"http://127.0.0.1:{port}/", width, dark)
            assert (browser.overflow(), browser.messages) == (0, [])
        browser.run("document.querySelectorAll('tbody a')[1].click()")
        browser.wait("document.body?.textContent === 'the page of a'")
    finally:
        browser.close()
