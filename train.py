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

if __name__ == "__main__":
    from vitslite.commands.main import call

    sys.exit(call("train"))

from vitslite.commands.train import command, train  # noqa: E402, F401  (for those who import them from here)
