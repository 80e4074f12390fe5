"""Training from settings: `vitslite train`, and `train`, which is the table of contents of a run."""

import hydra
from omegaconf import DictConfig

from vitslite import build, distributed
from vitslite.commands import console, messages
from vitslite.config import naming, remarks
from vitslite.config.settings import Config
from vitslite.experiments import atlas
from vitslite.files import shipped
from vitslite.monitoring.observer import RunObserver
from vitslite.training.progress import busy
from vitslite.training.trainer import Trainer

build.register_schema()


def train(config: Config, overrides: list[str]) -> Trainer:
    """One run, from its settings and the overrides they came from."""
    with distributed.session(config.trainer.device, config.threads) as device:
        start = build.warm_start(config)  # another voice to begin from, or None
        with busy("reading the corpus"):
            corpus = build.corpus(config)  # recordings, and text -> token ids
        data = build.data(config, corpus)  # step -> Batch
        model = build.model(config, corpus.frontend.n_symbols)  # Batch -> Outputs
        build.start_from_data(model, data)  # where the flow is Glow's
        discriminator = build.discriminator(config)  # audio -> scores, or None
        taken = start.load_into(model, discriminator, corpus.frontend) if start else None
        objective = build.objective(config)  # Outputs -> named losses
        messages.announce(config, device, corpus, model, discriminator, taken)
        recogniser = build.recogniser(config)  # audio -> words, or None
        with build.run_directory(config) as run_dir:  # locked for this process
            checkpoints = build.checkpoints(config, corpus, device, taken)
            build.write_settings(config, corpus)
            notes = atlas.notes(overrides)  # question and prediction of the experiment, or None
            with build.tracker(config, run_dir, overrides, corpus, notes) as tracker:
                wrong, by_design = remarks.wrong_on_purpose(config), remarks.no_kl_by_design(config)
                observer = RunObserver(data, objective, recogniser, config.synthesis, tracker, device, wrong, by_design)
                trainer = Trainer(config.trainer, model, discriminator, objective, data, observer, checkpoints, device)
                trainer.fit()
        messages.conclude(config, trainer, observer)
    return trainer


@hydra.main(version_base="1.3", config_path=str(shipped("configs")), config_name="train")
@console.as_job
def main(cfg: DictConfig) -> float | None:
    overrides, sweep = naming.hydra_job()
    config = build.parse(cfg, overrides, sweep)
    if build.is_trained(config):
        messages.say_trained(config)
    else:
        train(config, overrides)
    return build.result(config)  # what a search minimises


def command() -> int:
    return console.run(main)
