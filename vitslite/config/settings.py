"""Configuration schema, composed of the settings dataclasses that stand beside the classes they configure."""

from dataclasses import dataclass, field
from pathlib import Path

from vitslite import runs
from vitslite.audio import AudioSettings
from vitslite.datasets.corpus import DataSettings
from vitslite.model.discriminators import DiscriminatorSettings
from vitslite.model.synthesis import SynthesisSettings
from vitslite.model.vits import ModelSettings
from vitslite.monitoring.tracking import TrackingSettings
from vitslite.monitoring.validation import ValidationSettings
from vitslite.objectives.objective import ObjectiveSettings
from vitslite.text.frontend import TextSettings
from vitslite.training.settings import TrainerSettings


@dataclass
class Config:
    """One group of settings per part; configs/train.yaml composes it, `build.parse` checks it.

    The default of a setting is what the code did before there was one, for runs from then lack it and are read with the
    default (identity.py, `build.parse`). Recipes, in configs/, change it for new runs.
    """

    seed: int = 0
    name: str | None = None  # of the run; default: made from the overrides
    run_dir: str | None = None  # default: runs/<name>
    # CPU threads; default: all cores. Part of what makes a resume bit-exact.
    threads: int | None = field(default=None, metadata={"at_least": 1})
    text: TextSettings = field(default_factory=TextSettings)
    data: DataSettings = field(default_factory=DataSettings)
    audio: AudioSettings = field(default_factory=AudioSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    synthesis: SynthesisSettings = field(default_factory=SynthesisSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)

    @property
    def directory(self) -> Path:
        assert self.run_dir is not None, "build.parse sets it"
        return Path(self.run_dir)


def language(config: Config) -> str:
    """What is spoken, as espeak-ng calls it; "" where characters do not say."""
    says = config.text.frontend == "phonemes" or config.data.kind == "demo" or config.text.voice != TextSettings.voice
    return config.text.voice if says else ""


def reading_version(config: Config, overrides: list[str]) -> int:
    """text.version of the run that goes on in this directory, unless it is typed; of a new one that of the settings."""
    stored = runs.stored_config(config.directory)
    if stored is None or any(o.lstrip("+").startswith("text.version=") for o in overrides):
        return config.text.version
    return stored.get("text", {}).get("version", TextSettings.version)
