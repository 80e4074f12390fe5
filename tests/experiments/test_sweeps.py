"""Sweeps: the commands as one types them, killed, run again, on other launchers; and what becomes of each job."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from common import ROOT, differences, losses, without_header

import train
from vitslite import build, runs
from vitslite.commands import console
from vitslite.experiments import sweeps
from vitslite.experiments.sweeps import Job, Sweep
from vitslite.files import sole_use
from vitslite.training import checkpoint

FAST = ["experiment=smoke", "threads=1", "data.n_sentences=60", "validation.n_heard=0", "trainer.sample_every_steps=0"]
FAST += ["trainer.diagnose_every_steps=0"]
HOLDER = """
import sys
from pathlib import Path
from vitslite.files import sole_use
with sole_use(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
GRID = ["objective.kl=half_analytic,monte_carlo", "model/flow=mean_only,affine", "seed=0,1,2"]


def start(*arguments: str, cache: Path, cwd: Path, **kwargs) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "train.py"), *arguments, f"data.cache={cache}"]
    environment = os.environ | {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def asked(overrides: list[str]):
    return sweeps.of_command(["-m", *overrides])


def finished_run(folder: Path) -> None:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("trainer: {steps: 4}\n")
    (folder / "checkpoints" / "last.pt").touch()
    (folder / "checkpoints" / "finished").write_text("4\n")


def trained_runs(folder: Path) -> dict[str, Path]:
    return {path.parent.name: path.parent for path in sorted(folder.glob("runs/*/config.yaml"))}


def same(a: Path, b: Path) -> bool:
    """Whether two runs have the same weights, optimiser state and logged numbers, bit for bit."""
    states = [without_header(checkpoint.read(run / "checkpoints" / "last.pt")) for run in (a, b)]
    return differences(*states) == [] and losses(a) == losses(b)


# --------------------------------------------------------------------------------------------- commands, killed and run


@pytest.fixture(scope="module")
def grid(cache, tmp_path_factory):
    """2 x 2 x 3 runs, killed in the middle, and the same command again: folder, what was done before, last words."""
    folder = tmp_path_factory.mktemp("sweep")
    arguments = ["-m", *FAST, *GRID]
    process = start(*arguments, cache=cache, cwd=folder)
    deadline = time.monotonic() + 200
    while len(list(folder.glob("runs/*/checkpoints/last.pt"))) < 5:
        assert time.monotonic() < deadline and process.poll() is None, finish(process)
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed = {name: (run / "metrics.jsonl").stat() for name, run in trained_runs(folder).items() if runs.is_done(run)}
    return folder, killed, finish(start(*arguments, cache=cache, cwd=folder))


def test_a_killed_sweep_ends_with_every_run_once(grid):
    folder, killed, (code, out, err) = grid
    assert code == 0, err
    found = trained_runs(folder)
    assert len(found) == 12 and all(map(runs.is_done, found.values()))
    assert 4 <= len(killed) < 12
    assert out.count("is trained already") == len(killed)
    for name, before in killed.items():  # not trained twice: not even touched
        after = (found[name] / "metrics.jsonl").stat()
        assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    for run in found.values():  # nor a step of it logged twice
        steps = [row["step"] for row in runs.read_rows(run) if "loss/total" in row]
        assert steps == [1, 2, 3, 4]
    (sweep,) = [Sweep(path) for path in (folder / "runs" / "sweeps").iterdir()]
    assert [job.state for job in sweep.jobs()] == ["finished"] * 12
    assert f"sweep {sweep.name}: 12 finished" in out and f"vitslite compare runs/sweeps/{sweep.name}" in out
    assert len({tuple(job.overrides) for job in sweep.jobs()}) == 12


def test_its_report_has_four_cells_of_three_seeds(grid):
    folder, *_ = grid
    (sweep,) = (folder / "runs" / "sweeps").iterdir()
    command = [sys.executable, str(ROOT / "scripts" / "compare_runs.py"), str(sweep), "-o", str(folder / "report")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    text = (folder / "report" / "comparison.md").read_text()
    assert "12 runs" in text and "4 variants" in text
    assert text.count("(3 seeds)") >= 4


@pytest.mark.parametrize("launcher", [["joblib", "hydra.launcher.n_jobs=2"], ["submitit_local"]], ids=lambda x: x[0])
def test_other_launchers_give_the_same_numbers(grid, launcher, cache, tmp_path):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher[0].split('_')[0]}_launcher")
    folder, *_ = grid
    some = ["objective.kl=monte_carlo", "model/flow=affine", "seed=0,1"]
    engine = [f"hydra/launcher={launcher[0]}", *launcher[1:]]
    code, out, err = finish(start("-m", *FAST, *some, *engine, cache=cache, cwd=tmp_path))
    assert code == 0, err
    found = trained_runs(tmp_path)
    assert len(found) == 2 and "2 finished" in out
    for name, run in found.items():
        assert same(run, folder / "runs" / name)
    one, other = found.values()
    assert not same(one, other)  # the fault that the comparison would find


def test_one_job_with_a_nan_is_named_and_the_others_finish(cache, tmp_path):
    rates = "trainer.optimizer.learning_rate=1e-3,1e30"
    code, out, err = finish(start("-m", *FAST, rates, cache=cache, cwd=tmp_path))
    assert code == 2 and "Traceback" not in err
    assert "1 finished, 1 failed" in out
    failed = [line for line in out.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 1 and all("rate=1e_30: " in line and "NaN or infinity" in line for line in failed), out
    assert len(err.splitlines()) == 1 and all("rate=1e_30: " in line for line in err.splitlines()), err


def test_a_sweep_on_two_ranks(grid, cache, tmp_path):
    folder, *_ = grid
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "train.py")]
    command = [sys.executable, *launcher, "-m", *FAST, "seed=0,1", f"data.cache={cache}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("2 ranks") == 2 and "2 finished" in done.stdout
    assert all(map(runs.is_done, trained_runs(tmp_path).values()))


# ------------------------------------------------------------------------------------------------- one run, its own end


def test_a_run_that_is_trained_is_not_started_again(compose, tmp_path):
    overrides = ["trainer.steps=2", "trainer.sample_every_steps=0"]
    config = build.parse(compose(*overrides), overrides)
    assert not build.is_trained(config) and build.result(config) is None
    train.train(config, overrides)
    assert build.is_trained(config)
    rows = runs.read_rows(tmp_path / "run")
    assert build.result(config) == min(row["val/loss/mel"] for row in rows if row["step"] > 0 and "val/loss/mel" in row)
    note = tmp_path / "run" / "checkpoints" / "finished"
    for lacking in (note, note.with_name("last.pt")):  # as after a kill while the last samples were made
        kept = lacking.read_bytes()
        lacking.unlink()
        assert not build.is_trained(config) and not runs.is_done(tmp_path / "run")
        lacking.write_bytes(kept)
    longer = build.parse(compose("trainer.steps=3"), [])
    assert not build.is_trained(longer) and build.result(longer) is None
    assert build.is_trained(build.parse(compose("trainer.steps=2", "trainer.log_every_steps=5"), []))
    other = build.parse(compose("trainer.steps=2", "objective.kl=monte_carlo"), [])
    assert not build.is_trained(other)  # but refused, since it is another run in the same place:
    with pytest.raises(ValueError, match="was trained with other settings"):
        train.train(other, [])


def test_one_process_at_a_time_in_a_directory(compose, tmp_path):
    config = build.parse(compose("trainer.steps=1"), [])
    (tmp_path / "run").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="in use by another process"):
        train.train(config, [])
    assert not (tmp_path / "run" / "config.yaml").exists()
    process.kill()  # however it ends
    process.wait()
    with sole_use(tmp_path / "run"):
        pass


# --------------------------------------------------------------------------------------------------- names and records


def test_the_name_of_a_sweep_comes_from_the_command():
    swept = ["experiment=beta", "objective.weights.kl=0,0.2", "model/flow=none,affine", "seed=0,1"]
    name = sweeps.name_of(swept)
    assert name.startswith("beta-model_flow-objective.weights.kl-seed-")
    assert name == sweeps.name_of([*reversed(swept)])  # an order that changes nothing
    assert name == sweeps.name_of([*swept, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"])
    assert name != sweeps.name_of([*swept, "trainer.steps=3"])
    odd = sweeps.name_of(["objective.weights.kl=interval(0.1,1)", "data.root=/a b/ü,c", "+x.y=1,2"])
    assert set(odd) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-ABCDEFGHIJKLMNOPQRSTUVWXYZ") and len(odd) < 75


@pytest.mark.parametrize(
    "arguments",
    [["seed=1"], ["-m", "--cfg", "job", "seed=0,1"], ["--multirun", "--help"], ["-m", "-c=job", "seed=0,1"], []],
)
def test_what_is_no_sweep_leaves_no_folder(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with sweeps.of_command(arguments) as sweep:
        assert sweep is None
    assert list(tmp_path.iterdir()) == []


def test_jobs_that_would_be_one_run_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    collide = [["seed=0,1", "run_dir=runs/one"], ["run_dir=runs/one,runs/two"]]
    for overrides in (["trainer.steps=1,2", "seed=0,1"], ["seed=0,1", "name=one"], *collide):
        with pytest.raises(ValueError, match="2 jobs of this sweep would be one run"), asked(overrides):
            pass
    assert list(tmp_path.iterdir()) == []


def test_the_plan_has_the_places_of_the_jobs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for overrides, planned in (
        (["seed=0,1"], {"demo-seed=0": "runs/demo-seed=0", "demo-seed=1": "runs/demo-seed=1"}),
        (["name=a,b"], {"a": "runs/a", "b": "runs/b"}),
        (["seed=0,1", "name=try-${seed}"], {}),  # known when they are there
        (["hydra/sweeper=optuna", "seed=0,1"], {}),
        (["experiment=glob(lab*)"], {}),
    ):
        with asked(overrides) as sweep:
            assert sweep.planned() == planned


def test_one_process_at_a_time_in_a_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with asked(["seed=0,1"]) as sweep:
        (sweep.folder / "jobs").mkdir()
        (sweep.folder / "jobs" / "a.json").write_text("{}")
        with pytest.raises(ValueError, match="in use by another process"), asked(["seed=0,1"]):
            pass
        assert (sweep.folder / "jobs" / "a.json").exists()  # nobody has touched its notes
    with asked(["seed=0,1"]):
        assert list((sweep.folder / "jobs").iterdir()) == []


def test_what_became_of_the_jobs(tmp_path):
    sweep = Sweep(tmp_path / "s")
    names = ["finished", "stopped", "nan", "bug", "killed", "waiting"]
    sweep.plan(["seed=0,1"], {name: str(tmp_path / name) for name in names})
    jobs = {name: Job(name, str(tmp_path / name), ["a=1", f"name={name}"]) for name in names}
    (tmp_path / "finished").mkdir()
    rows = [{"step": 0, "val/loss/mel": 2.0}, {"step": 4, "val/loss/mel": 0.12345, "val/loss/kl": 3}]
    (tmp_path / "finished" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with sweep.record(jobs["finished"]) as job:
        job.state = "finished"
    with pytest.raises(KeyboardInterrupt), sweep.record(jobs["stopped"]):
        raise KeyboardInterrupt
    with pytest.raises(FloatingPointError), sweep.record(jobs["nan"]):
        raise FloatingPointError("step 3: not finite:\n kl")
    with pytest.raises(RuntimeError), sweep.record(jobs["bug"]):
        raise RuntimeError("shapes differ")
    running = sweep.record(jobs["killed"])
    running.__enter__()  # and nothing more: its process is gone
    lines = sweeps.table(sweep).splitlines()
    states = "1 finished, 1 stopped, 2 failed, 1 not ended, 1 not started"
    assert lines[0] == f"sweep s: {states}"
    assert [line.split() for line in lines[1:4]] == [
        ["loss/kl", "loss/mel"],
        ["name=finished", "finished", "3", "0.123"],
        ["name=stopped", "stopped", "-", "-"],
    ]
    assert lines[-2:] == ["failed: nan: step 3: not finite: kl", "failed: bug: RuntimeError: shapes differ"]
    (tmp_path / "finished" / "metrics.jsonl").write_text("x\n")  # a damaged file does not take the table along
    (tmp_path / "s" / "jobs" / "nan.json").write_text('{"name"')
    assert "finished: finished: " in sweeps.table(sweep) and "2 not started" in sweeps.table(sweep)
    sweep.plan(["seed=0,1"], {name: str(tmp_path / name) for name in names})
    assert {job.state for job in sweep.jobs()} == {"not started"}  # the same command again starts its notes anew
    finished_run(tmp_path / "bug")
    assert [job.name for job in sweep.jobs() if job.state == "finished"] == ["bug"]  # but a trained run is one


def test_the_end_of_a_sweep_is_an_error_if_a_job_was(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "seed=0,1"])

    def main() -> None:
        folder = sys.argv[-1].removeprefix("hydra.sweep.dir=")
        with pytest.raises(ValueError), Sweep(Path(folder)).record(Job("demo-seed=0", "runs/demo-seed=0", [])):
            raise ValueError("elsewhere")  # in a process of a launcher: this one hears of it by the file alone

    assert console.run(main) == 2
    assert "failed: demo-seed=0: elsewhere" in capsys.readouterr().out
    assert console.run(lambda: None) == 2  # a launcher that says nothing, and nothing was trained
    assert "2 not started" in capsys.readouterr().out

    def lost() -> None:
        raise RuntimeError("a process of the launcher died")

    assert console.run(lost) == 2
    said = capsys.readouterr()
    assert "2 not started" in said.out and said.err.startswith("vitslite: error: RuntimeError: a process of")
    for seed in (0, 1):
        finished_run(tmp_path / "runs" / f"demo-seed={seed}")
    assert console.run(lambda: None) == 0
