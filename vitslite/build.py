"""Assembly of a run: configuration -> typed settings -> parts. With config/naming.py the owner of Hydra and OmegaConf.

`parse` turns a composed configuration into typed settings and refuses what Hydra alone lets through: unknown keys added
with `+`, missing values, combinations that cannot work. The other functions make one part each.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from vitslite import __version__, distributed, randomness, runs
from vitslite.audio import Features
from vitslite.config import declared, families, identity, naming, remarks, rules, suggestions
from vitslite.config.settings import Config, language, reading_version
from vitslite.datasets import record
from vitslite.datasets.corpus import Corpus, load_corpus
from vitslite.datasets.loader import Data, Loader, fixed_batches
from vitslite.files import commit, sole_use
from vitslite.metrics import catalogue
from vitslite.metrics.recognisers import NotInstalledError
from vitslite.metrics.recognition import Recogniser, build_recogniser
from vitslite.model.discriminators import Discriminator, build_discriminator
from vitslite.model.vits import VITS
from vitslite.monitoring.tracking import Tracker
from vitslite.objectives.objective import Objective
from vitslite.text.frontend import Frontend
from vitslite.training import checkpoint
from vitslite.training.run_checkpoints import Checkpoints
from vitslite.training.warm_start import WarmStart

VALIDATION_BATCH = 16  # utterances; a constant, so that data.batch_size does not change the validation losses
N_SAMPLES = 3  # validation sentences with wavs and figures
START_BATCH = 16  # training utterances that a data-dependent start looks at: neither ranks nor batch size change it


def register_schema() -> None:
    """Make the schema known to Hydra, which then checks names and types of overrides and of the files in configs/."""
    ConfigStore.instance().store(name="schema", node=Config)


def parse(cfg: DictConfig | dict[str, Any], overrides: list[str], sweep: str | None = None) -> Config:
    """The typed configuration of a run, alone or of a sweep with that folder.

    ValueError, in one line, for whatever is wrong with it.
    """
    schema = OmegaConf.structured(Config)
    plain = OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else declared.settled(cfg)
    try:
        merged = OmegaConf.merge(schema, plain)
        missing = OmegaConf.missing_keys(merged)
        if missing:
            raise ValueError(f"set these: {', '.join(f'{key}=...' for key in sorted(missing))}")
        config = cast(Config, OmegaConf.to_object(merged))
    except ConfigKeyError as error:
        raise ValueError(unknown_key(str(error.full_key))) from error
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    config.name, config.run_dir = naming.place(cfg, overrides)
    config.text.version = reading_version(config, overrides)
    config.tracking.group = config.tracking.group or (Path(sweep).name if sweep else naming.group_name(overrides))
    config.tracking.job_type = config.tracking.job_type or ("sweep" if sweep else "train")
    declared.check(config)
    rules.check(config)
    return config


def defaults() -> dict[str, Any]:
    """The defaults of the dataclasses, without configs/: what the settings of an older run are completed with."""
    return asdict(Config())


def known_keys() -> list[str]:
    """Every key of the configuration, as one types it."""
    return list(identity.flatten(defaults()))


def unknown_key(key: str, value: str = "...") -> str:
    """A line about a key that does not exist, with what may have been meant by it."""
    meant = suggestions.setting(key, known_keys(), value)
    return f"unknown setting {key}{f', {meant}' if meant else ''} (vitslite train --cfg job lists all)"


def provenance() -> dict[str, str | None]:
    """Which code it is that trains: its version, and the git commit where there is one."""
    return {"version": __version__, "commit": commit()}


def corpus(config: Config, frontend: Frontend | None = None) -> Corpus:
    """The recordings, their tokens and the frontend: a checkpoint's, or else made from the texts."""
    judged = config.discriminator.segment_frames if config.discriminator.kind != "none" else 1
    min_frames = max(config.model.segment_frames or 1, judged)
    multiple = config.model.flow.n_squeeze if config.model.flow.kind == "glow" else 1
    with distributed.main_first():
        return load_corpus(config.data, config.text, config.audio, min_frames, frontend, multiple)


def data(config: Config, corpus: Corpus) -> Data:
    """Training batches by step, and the fixed ones for validation."""
    rank, world, clips = distributed.rank(), distributed.world_size(), corpus.clips
    on_gpu = config.trainer.device in ("auto", "cuda") and torch.cuda.is_available()
    loader = Loader(corpus.train, config.data, config.audio, config.seed, rank, world, on_gpu, clips)
    fixed = partial(fixed_batches, batch_size=VALIDATION_BATCH, audio=config.audio, seed=config.seed, clips=clips)
    return Data(
        corpus=corpus,
        audio=config.audio,
        features=Features(config.audio),
        loader=loader,
        validation=fixed(corpus.validation),
        wer_batches=fixed(corpus.validation[: config.validation.n_heard]),
        samples=fixed(corpus.validation[:N_SAMPLES])[0],
    )


def model(config: Config, n_symbols: int) -> VITS:
    """The model, its initial weights a function of the seed."""
    audio = config.audio
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(randomness.key(config.seed, "model"))
        return VITS(config.model, n_symbols, audio.n_fft, audio.n_mels, audio.hop_length, audio.sample_rate)


@torch.no_grad()
def start_from_data(model: VITS, data: Data) -> None:
    """The start of what begins at statistics of the recordings, the ActNorm of Glow; the same on all ranks."""
    utterances = data.corpus.train[:START_BATCH]
    if model.settings.flow.kind == "glow":
        (batch,) = fixed_batches(utterances, len(utterances), data.audio, seed=0)
        model.start_from_data(data.features(batch))


def discriminator(config: Config) -> Discriminator | None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(randomness.key(config.seed, "discriminator"))
        return build_discriminator(config.discriminator)


def warm_start(config: Config) -> WarmStart | None:
    """The voice that a new run begins from; None without one, and where the run goes on: it is then read no more."""
    source = config.trainer.init_from
    return None if source is None or runs.has_checkpoints(config.directory) else WarmStart(source, config.audio)


def objective(config: Config) -> Objective:
    model = config.model
    refined_frames = model.refiner.segment_frames
    return Objective(config.objective, config.audio, model.segment_frames, model.decoder.is_random, refined_frames)


def recogniser(config: Config) -> Recogniser | None:
    """Of the validation samples, on the main rank. None if there is to be none, or pocketsphinx is not installed."""
    settings = config.validation
    if not distributed.is_main() or settings.n_heard == 0:
        return None
    try:
        return build_recogniser(settings.recogniser, config.data.kind == "demo", language(config))
    except NotInstalledError as error:
        if settings.recogniser != "auto":
            raise
        print(f"note: no word error rates: {error}", flush=True)
        return None


def checkpoints(config: Config, corpus: Corpus, device: torch.device, taken: str | None = None) -> Checkpoints:
    """Where the run's checkpoints are; refuses to go on from a run of other settings or other data."""
    environment: dict[str, str | int] = {"torch": str(torch.__version__), "device": device.type}
    environment |= {"threads": torch.get_num_threads(), "ranks": distributed.world_size()}
    header: dict[str, Any] = {
        "config": asdict(config),
        "frontend": corpus.frontend.state(),
        "corpus": corpus.digest(),
        "recordings": corpus.recordings(),
        "environment": environment,
        "changes": [taken] if taken else [],  # what it began from; then of settings and environment, by step
    } | provenance()
    checkpoints = Checkpoints(config.directory, header, config.trainer.keep_checkpoints)
    if (found := checkpoints.found) is not None:
        other = record.changes(config.directory, corpus)
        changed = identity.check_resumable(found, header, checkpoints.source, defaults(), other)
        header["changes"] = [*found.get("changes", []), *(f"step {found['step']}: {change}" for change in changed)]
        if changed and distributed.is_main():
            print(f"note: not bit for bit from here: {'; '.join(changed)}", flush=True)
    return checkpoints


def is_trained(config: Config) -> bool:
    """Whether the run of these settings has come to its end, and nothing is left; ValueError: on other data."""
    run_dir = config.directory
    stored = runs.stored_config(run_dir)
    changed = stored is None or identity.changed_settings(stored, asdict(config), defaults())
    if changed or runs.finished_step(run_dir) < config.trainer.steps:
        return False
    trained_on = partial(checkpoint.read, run_dir / runs.CHECKPOINTS / "last.pt")
    record.refuse_other_data(run_dir, config.data, partial(corpus, config), trained_on)
    return True


def result(config: Config) -> float | None:
    """The best `trainer.best_metric` of a run that has come to its end; None of another."""
    run_dir, name = config.directory, config.trainer.best_metric
    if runs.finished_step(run_dir) < config.trainer.steps:
        return None
    rows = [row for row in runs.read_rows(run_dir) if row["step"] > 0]
    values = [row[name] for row in rows if math.isfinite(row.get(name, math.nan))]
    best = max if catalogue.find(name).better == "higher" else min
    return best(values, default=math.nan)


@contextlib.contextmanager
def run_directory(config: Config) -> Iterator[Path]:
    """The run's directory, for this process and its ranks alone: two runs in one would leave neither."""
    run_dir = config.directory
    if not distributed.is_main():
        yield run_dir
        return
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"run_dir={run_dir} cannot be made: {error.strerror}; choose another") from error
    with sole_use(run_dir):
        runs.tidy_up(run_dir)
        yield run_dir


def write_settings(config: Config, corpus: Corpus) -> None:
    """Leave the settings, and the lists of what was read, skipped and doubtful, in the run's directory."""
    if distributed.is_main():
        runs.write_config(config.directory, asdict(config))
        record.write(config.directory, corpus)


def tracker(
    config: Config, run_dir: Path, overrides: list[str], corpus: Corpus | None = None, notes: str | None = None
) -> Tracker:
    """The run directory's own log and W&B, where the overrides become tags. `variant`: all but the seed.

    Seeds of one variant have their number of steps in common: a run of 100 and one of 400 are not seeds of each other.
    """
    tags = [o for o in overrides if not o.startswith(("name=", "run_dir=", "tracking", "hydra")) and len(o) <= 64]
    if remarks.wrong_on_purpose(config):
        tags.append("wrong-on-purpose")
    model = config.model
    described = asdict(config) | {
        "variant": f"{naming.group_name(overrides)}-trainer.steps={config.trainer.steps}",
        "family": families.family(model.posterior.kind, model.flow.kind, model.refiner.kind),
        **provenance(),
    }
    assert config.name is not None
    tracker = Tracker(config.tracking, run_dir, config.name, tags, described, distributed.is_main(), notes)
    if corpus is not None:
        tracker.settings_artifacts(corpus.about(), provenance())
    return tracker
