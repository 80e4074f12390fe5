"""Trainer settings."""

from dataclasses import dataclass, field

from vitslite.training.optimization import OptimizerSettings


@dataclass
class TrainerSettings:
    device: str = field(default="auto", metadata={"choices": ("auto", "cpu", "cuda", "mps")})
    # The KL, the alignment score and the spectrograms stay fp32.
    precision: str = field(default="fp32", metadata={"choices": ("fp32", "bf16")})
    compile: bool = False  # by torch.compile, in part; for long runs on a GPU
    steps: int = field(default=1000, metadata={"at_least": 1})
    # Stop early, as an interruption would; the same command without it goes on.
    stop_after_step: int | None = field(default=None, metadata={"at_least": 1})
    # A run directory or a checkpoint whose weights a new run begins from (warm_start.py); null: from fresh ones.
    init_from: str | None = None
    accumulate: int = field(default=1, metadata={"at_least": 1})  # micro-batches that share data.batch_size in a step
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    ema_decay: float = field(default=0.0, metadata={"at_least": 0, "below": 1})  # 0: off
    log_every_steps: int = 10
    diagnose_every_steps: int = 200  # gradient of each loss to each module, sampling variances, ...; 0: never
    validate_every_steps: int = 200
    sample_every_steps: int = 500
    checkpoint_every_steps: int = field(default=200, metadata={"at_least": 1})
    keep_checkpoints: int = field(default=2, metadata={"at_least": 1})  # last.pt and those that were last before it
    best_metric: str = "val/loss/mel"  # the best value, as metrics/catalogue.py ranks it, makes checkpoints/best.pt

    def is_logged(self, step: int) -> bool:
        """Whether the step that completes `step` steps is logged: the first one always."""
        return step == 1 or self.is_due("log", step)

    def is_due(self, what: str, step: int) -> bool:
        """Whether log, diagnose, validate, sample or checkpoint comes after `step` steps, by its `..._every_steps`."""
        every_steps = getattr(self, f"{what}_every_steps")
        return every_steps > 0 and step % every_steps == 0
