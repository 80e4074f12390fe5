"""Train a VAE text-to-speech model and watch its losses.

    python train.py                                                     the demo: makes its corpus, trains, speaks
    python train.py model=small objective.kl=monte_carlo trainer.steps=500
    python train.py data=ljspeech data.root=/path/to/LJSpeech-1.1 trainer=gpu
    python train.py -m objective.kl=half_analytic,monte_carlo seed=0,1  a sweep: four runs, and a table of them
    torchrun --nproc_per_node=2 train.py ...                            two processes, same losses

Everything a run leaves is in runs/<name>; the name comes from the overrides (or name=...). The same command again goes
on where the run stopped, or, in a sweep, with the runs that have not come to their end. --cfg job shows all settings;
VITSLITE_TRACE=1 shows the stack behind an error line.
"""

import sys

import hydra
from omegaconf import DictConfig

from vitslite import build, command_line, distributed
from vitslite.config import naming
from vitslite.config.settings import Config
from vitslite.monitoring.observer import RunObserver
from vitslite.training.trainer import Trainer

build.register_schema()


def train(config: Config, overrides: list[str]) -> Trainer:
    """One run, from its settings and the overrides they came from."""
    with distributed.session(config.trainer.device, config.threads) as device:
        corpus = build.corpus(config)  # recordings, and text -> token ids
        data = build.data(config, corpus)  # step -> Batch
        model = build.model(config, corpus.frontend.n_symbols)  # Batch -> Outputs
        discriminator = build.discriminator(config)  # audio -> judgements, or None
        objective = build.objective(config)  # Outputs -> named losses
        command_line.announce(config, device, corpus, model, discriminator)
        recogniser = build.recogniser(config)  # what was understood, or None
        with build.run_directory(config) as run_dir:  # nobody else writes there meanwhile
            checkpoints = build.checkpoints(config, corpus, device)
            build.write_settings(config, corpus)
            with build.tracker(config, run_dir, overrides) as tracker:
                observer = RunObserver(data, objective, recogniser, tracker, device)
                trainer = Trainer(config.trainer, model, discriminator, objective, data, observer, checkpoints, device)
                trainer.fit()
        command_line.conclude(config, trainer, observer)
    return trainer


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
@command_line.as_job
def main(cfg: DictConfig) -> float | None:
    overrides, sweep = naming.hydra_job()
    config = build.parse(cfg, overrides, sweep)
    if build.is_trained(config):
        command_line.say_trained(config)
    else:
        train(config, overrides)
    return build.result(config)  # what a search minimises


if __name__ == "__main__":
    sys.exit(command_line.run(main))
