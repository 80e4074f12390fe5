"""Every yaml composes, every experiment runs, and no misspelt or impossible setting gets through."""

import subprocess
import sys

import pytest
import yaml
from common import ROOT
from families import BY_EXPERIMENT

import train
from vitslite import build
from vitslite.config import identity, naming

CONFIGS = ROOT / "configs"
SHARED_OUT = sorted((CONFIGS / "wandb_sweep").glob("*.yaml"))  # for `wandb sweep`, no options of Hydra's
OPTIONS = sorted(p.relative_to(CONFIGS).with_suffix("") for p in CONFIGS.glob("*/**/*.yaml") if p not in SHARED_OUT)
RECORDING = ["model=grad_tts_tiny", "objective=likelihood"]  # the latent is the log-mel, and what goes with it
UNET = [*RECORDING, "model.refiner.network=unet2d"]
NEEDS = {
    **{
        f"model/{name}": ["objective=likelihood"] for name in ("glow_tts", "glow_tts_tiny", "grad_tts", "grad_tts_tiny")
    },
    **{f"model/refiner/{name}": RECORDING for name in ("diffusion", "flow_matching")},
    **{f"experiment/{name}": overrides for name, overrides in BY_EXPERIMENT.items()},
}
EXPERIMENTS = sorted(p.stem for p in (CONFIGS / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_option_composes(compose, option):
    overrides = [f"{option.parent}={option.name}", "data.root=somewhere", *NEEDS.get(str(option), [])]
    config = build.parse(compose(*overrides), overrides)
    assert config.trainer.steps > 0


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_key_in_a_file_belongs_to_the_schema(option):
    """Composition checks the files that are used; this looks at all of them."""
    content = yaml.safe_load((CONFIGS / option).with_suffix(".yaml").read_text()) or {}
    content.pop("defaults", None)
    first_line = (CONFIGS / option).with_suffix(".yaml").read_text().splitlines()[0]
    package = "" if "@package _global_" in first_line else ".".join(option.parent.parts) + "."
    known = build.known_keys()
    for key in identity.flatten(content):
        assert package + key in known, f"{option}: {package + key}"


def test_a_job_is_grouped_with_its_sweep_and_a_run_with_its_seeds(compose):
    overrides = ["objective.kl=monte_carlo", "seed=1"]
    tracking = build.parse(compose(*overrides), overrides, sweep="runs/sweeps/demo-seed-0a1b2c3d").tracking
    assert (tracking.group, tracking.job_type) == ("demo-seed-0a1b2c3d", "sweep")
    tracking = build.parse(compose(*overrides), overrides).tracking
    assert (tracking.group, tracking.job_type) == ("demo-objective.kl=monte_carlo", "train")
    chosen = [*overrides, "tracking.group=mine"]
    assert build.parse(compose(*chosen), chosen, sweep="runs/sweeps/x").tracking.group == "mine"


@pytest.mark.parametrize("path", SHARED_OUT, ids=lambda path: path.stem)
def test_what_wandb_shares_out_are_runs(compose, path):
    """Each parameter, at its first and at its last value, as `wandb agent` types it."""
    content = yaml.safe_load(path.read_text())
    assert (content["program"], content["method"]) == ("train.py", path.stem)
    assert content["command"][-1] == "${args_no_hyphens}"  # key=value, as Hydra wants it, not --key=value
    ends = {
        key: (p["value"],)
        if "value" in p
        else (p["values"][0], p["values"][-1])
        if "values" in p
        else (p["min"], p["max"])
        for key, p in content["parameters"].items()
    }
    for end in (0, -1):
        overrides = [f"{key}={values[end]}" for key, values in ends.items()]
        config = build.parse(compose(*overrides), overrides)
        assert content["metric"]["name"].startswith("val/") and config.trainer.steps > 0


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_runs(compose, experiment, tmp_path):
    """Two steps of each, its own parts and recipe, with the smallest model on the demo corpus."""
    overrides = [
        f"experiment={experiment}",
        *BY_EXPERIMENT.get(experiment, []),
        "data=demo",
        "trainer.steps=2",
        "trainer.accumulate=1",
        "validation.n_heard=2",
        "trainer.log_every_steps=1",
        "discriminator.period_channels=[4,4,4,4,4]",
        "discriminator.resolution_channels=4",
    ]
    trainer = train.train(build.parse(compose(*overrides), overrides), overrides)
    assert trainer.completed_steps == 2
    rows = trainer.observer.tracker.rows()
    first = "loss/prior" if experiment in BY_EXPERIMENT else "loss/kl"
    assert [row["step"] for row in rows if first in row] == [1, 2]
    measured = set().union(*rows)
    heard = set() if trainer.observer.validator.recogniser is None else {"val/wer/recording", "val/wer/spoken"}
    assert {"val/loss/mel", "val/sound/high_buzz/recording"} | heard <= measured
    assert (tmp_path / "run" / "checkpoints" / "last.pt").is_file()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+trainer.stepz=5"], r"trainer\.stepz.*trainer\.steps"),
        (["+learning_rate=1"], "learning_rate"),
        (["objective.kl=carried_mean", "model/flow=none"], r"use model/flow=mean_only"),
        (
            ["objective.kl=carried_mean", "model/flow=householder"],
            r"kind=householder is not that",
        ),
        (["objective.kl=carried_mean", "model/flow=glow"], r"kind=glow is not that: use model/flow=mean_only"),
        (["model/flow=glow", "model.flow.n_split=3"], r"n_split=3 .*make it even"),
        (
            ["model/flow=glow", "model.n_latent=5", "model.flow.n_squeeze=2"],
            r"model\.n_latent=5 x model\.flow\.n_squeeze=2 = 10 channels .*model\.flow\.n_split=4",
        ),
        (["objective.kl=carried_mean", "objective.log_det=drop"], r"objective\.log_det=drop cannot"),
        (["objective.kl=carried_mean", "objective.regulariser.free_bits=0.1"], r"use objective\.kl=half_analytic"),
        (["objective.kl=closed_form", "model.alignment.kind=forward_sum"], r"or model\.alignment\.kind=mas"),
        (
            ["objective.kl=exact_linear"],
            r"mean_only is not: use model/flow=householder, linear_iaf or none, or objective",
        ),
        (
            ["objective.kl=exact_linear", "model/flow=affine"],
            r"model\.flow\.kind=affine is not: use model/flow=householder",
        ),
        (["model.text_encoder.mean_only=true"], r"add model\.text_encoder\.prior_std=unit"),
        (["objective.kl=k3"], r"kl/k3"),
        (
            ["model=glow_tts_tiny"],
            r"objective\.kl=half_analytic needs: use objective=likelihood",
        ),
        (
            ["model/refiner=diffusion"],
            r"a latent of its own: use model=grad_tts, or model/refiner=none",
        ),
        ([*RECORDING, "model/flow=glow"], r"no spectrogram: use model/flow=none, or model/refiner=none"),
        ([*RECORDING, "model.n_latent=64"], r"model\.n_latent=80, not 64"),
        ([*RECORDING, "model.mel_head=true"], r"model\.mel_head=false"),
        ([*RECORDING, "model.alignment.score=mel"], r"model\.alignment\.score=latent"),
        ([*RECORDING, "objective.weights.prior_mel=1"], r"objective\.weights\.prior_mel=0"),
        ([*RECORDING, "objective.weights.diffusion=0"], r"diffusion=0: nothing would train .* model/refiner=none"),
        ([*RECORDING, "objective.kl=closed_form"], r"kl=closed_form needs: use objective=likelihood"),
        ([*RECORDING, "model.posterior.recording_std=0"], r"recording_std=0: must be above 0"),
        ([*RECORDING, "model.refiner.kind=diffuse"], r"kind=diffuse is unknown: .*did you mean diffusion"),
        ([*RECORDING, "model.refiner.conv1d.hidden=5"], r"conv1d\.hidden=5 .*make it even"),
        ([*RECORDING, "model.refiner.network=unet2d", "model.refiner.unet2d.channels=5"], r"channels=5 .*make it even"),
        ([*UNET, "model.refiner.unet2d.groups=3"], r"unet2d\.groups=3 does not divide .*unet2d\.channels=64"),
        ([*UNET, "model.refiner.unet2d.multipliers=[]"], r"multipliers=\[\]: give one"),
        (
            [*UNET, "audio.n_mels=42", "model.n_latent=42"],
            r"audio\.n_mels=42 must be a multiple of 4; or type model\.refiner\.network=conv1d",
        ),
        (
            ["model/flow=glow", "data.pad_multiple=3"],
            r"data\.pad_multiple=3 .*n_squeeze=2 .*make it 1 or a multiple of 2",
        ),
        ([*RECORDING, "trainer.best_metric=val/loss/kl"], r"val/loss/kl is not measured; .*val/nll/per_frame"),
        ([*RECORDING, "objective.detach_posterior=true"], r"objective\.detach_posterior=false"),
        ([*RECORDING, "objective.regulariser.free_bits=0.1"], r"objective\.weights\.prior"),
        ([*RECORDING, "model.flow.side=posterior"], r"use model\.flow\.side=prior"),
        ([*RECORDING, "model.posterior.recording_noise=-1"], r"recording_noise"),
        ([*RECORDING, "synthesis.n_steps=0"], r"synthesis\.n_steps"),
        ([*RECORDING, "synthesis.noise_scale=-1"], r"synthesis\.noise_scale"),
        (["model.posterior.recording_noise=0.1"], r"leave it at 0"),
        (["objective.kl=l1"], r"add model\.posterior\.kind=recording"),
        (["model.text_encoder.prior_std=standard"], r"add model\.alignment\.kind=uniform, or given"),
        (["objective.regulariser.balance=both"], r"balance=both is unknown: choose one of none, sides, channels"),
        (["model.posterior.kind=residual"], r"add model/flow=none \(it is mean_only\)"),
        (["model.posterior.kind=residual", "model/flow=none"], r"add model\.alignment\.score=mel"),
        (
            [
                "model.posterior.kind=residual",
                "model/flow=none",
                "model.alignment.kind=given",
                "objective.detach_posterior=true",
            ],
            r"no two sides to tell apart.*or use model\.posterior\.kind=gaussian",
        ),
        (["model.alignment.score=mel"], r"add model\.mel_head=true"),
        (["model.alignment.score=mel", "model.mel_head=true"], r"prior_mel=0: nothing would train"),
        (["objective.weights.prior_mel=1"], r"add model\.mel_head=true"),
        (["model.alignment.kind=given", "text=characters"], r"only data=demo with text=phonemes"),
        (["model.alignment.kind=soft"], r"kind=soft is unknown: choose one of mas"),
        (["model.posterior.kind=student"], r"model\.posterior\.kind=student is unknown"),
        (["model.text_encoder.prior_std=two"], r"prior_std=two is unknown: choose one of learned"),
        (["model.flow.side=left"], r"model\.flow\.side=left is unknown"),
        (["objective.regulariser.free_bits=0.1", "trainer.accumulate=2"], r"whole batch in one place"),
        (["objective.kl=exact"], r"objective\.kl=exact.*monte_carlo"),
        (["model.flow.kind=bent"], r"model\.flow\.kind.*affine"),
        (["model.decoder.kind=wavenet"], r"model\.decoder\.kind.*hifigan"),
        (["model.duration.kind=none"], r"model\.duration\.kind.*deterministic"),
        (["discriminator.kind=gan"], r"discriminator\.kind.*mpd"),
        (["data=ljspeech"], r"data\.root=/path"),
        (["data=ljspeech", "data.root=/does/not/exist"], "/does/not/exist"),
        (["data.batch_size=500"], r"clips.*data\.batch_size=500"),
        (["trainer.accumulate=3"], r"data\.batch_size=4.*trainer\.accumulate=3"),
        (["trainer.optimizer.learning_rate=nan"], r"trainer\.optimizer\.learning_rate"),
        (["trainer.optimizer.learning_rate=0"], r"trainer\.optimizer\.learning_rate"),
        (
            ["trainer.optimizer.schedule=noam", "trainer.optimizer.warmup_steps=0"],
            r"noam needs .*warmup_steps",
        ),
        (["trainer.optimizer.schedule=linear"], r"schedule=linear.*cosine"),
        (["trainer.steps=0"], r"trainer\.steps=0"),
        (["trainer.accumulate=0"], r"trainer\.accumulate=0"),
        (["trainer.stop_after_step=0"], r"trainer\.stop_after_step=0"),
        (["objective.weights.kl=-1"], r"objective\.weights\.kl=-1"),
        (["objective.extra_resolutions=[[512,129,48]]"], r"objective\.extra_resolutions"),
        (["trainer.precision=fp16"], r"trainer\.precision=fp16.*bf16"),
        (["trainer.device=gpu"], r"trainer\.device=gpu.*cuda"),
        (["trainer.ema_decay=1"], r"trainer\.ema_decay"),
        (["trainer.best_metric=val/mos", "trainer.steps=1"], r"trainer\.best_metric=val/mos.*val/loss/kl"),
        (["threads=0"], "threads=0"),
        (["audio.n_mels=0"], r"audio\.n_mels=0"),
        (["audio.sample_rate=0"], r"audio\.sample_rate=0"),
        (["model.text_encoder.n_heads=3"], r"model\.text_encoder\.n_heads=3"),
        (["model.posterior.kernel=4"], r"kernel=4.*odd"),
        (["model.n_latent=3"], r"n_latent"),
        (["name=../elsewhere"], r"name=\.\./elsewhere"),
        ([f"run_dir={__file__}"], "is a file: give a directory"),
        (["tracking.wandb=maybe"], r"tracking\.wandb=maybe.*offline"),
        (["model/decoder=hifigan", "audio.hop_length=300"], r"model\.decoder\.hifigan\.upsample_rates"),
        (["discriminator=mpd", "model.segment_frames=8"], r"discriminator\.segment_frames"),
        (["text.frontend=letters"], r"text\.frontend=letters.*characters"),
    ],
    ids=lambda x: x[-1] if isinstance(x, list) else "",
)
def test_settings_that_cannot_work_are_refused_in_one_line(compose, overrides, message):
    with pytest.raises(ValueError, match=message) as caught:
        train.train(build.parse(compose(*overrides), overrides), overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.optimizer.learning_rte=1"], "did you mean trainer.optimizer.learning_rate?"),
        (["trainer.steps=many"], "'many' of type 'str' could not be converted to Integer"),
        (["trainer=3"], "trainer"),
        (["model=huge"], "tiny"),
        (["experiment=dmo"], "demo"),
        (["trainer.init_from=runs/demo-seed=1"], "runs/demo-seed=1: no such run directory or checkpoint"),
        (["data=ljspeech"], "data.root=/path/to/LJSpeech-1.1"),
    ],
    ids=lambda x: x[-1] if isinstance(x, list) else "",
)
def test_what_the_command_says(overrides, message, tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), "tracking=local", f"run_dir={tmp_path / 'run'}", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and message in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "demo"),
        (["experiment=demo"], "demo"),
        (["trainer.steps=5", "tracking=local", "data.n_workers=2"], "demo"),
        (["model=small", "objective.kl=monte_carlo"], "demo-model=small-objective.kl=monte_carlo"),
        (["objective.kl=monte_carlo", "model=small"], "demo-model=small-objective.kl=monte_carlo"),
        (["experiment=ljspeech", "data.root=/a/b", "seed=1"], "ljspeech-data.root=b-seed=1"),
        (["experiment=ljspeech", "data.root='/other place/b/'", "seed=1"], "ljspeech-data.root=b-seed=1"),
        (["data=ljspeech", "data.root=/a/tts (copy)"], "demo-data.root=tts_copy_-data=ljspeech"),
        (["name=mine", "seed=3"], "demo-seed=3"),
    ],
)
def test_the_same_command_has_the_same_name(overrides, name):
    assert naming.run_name(overrides) == name


def test_names_stay_short_and_distinct():
    long = [f"objective.extra_resolutions=[[{i},128,80],[1024,256,80]]" for i in range(40)]
    names = {naming.run_name([*long, f"seed={i}"]) for i in range(3)}
    assert len(names) == 3 and max(map(len, names)) < 110


def test_seeds_of_one_setting_share_a_group():
    for others in (["data.demo_seed=1"], [f"objective.extra_resolutions=[[{i},16,8]]" for i in range(9)]):
        groups = {naming.group_name([*others, f"seed={seed}"]) for seed in (0, 1)}
        assert groups == {naming.group_name(others)}
