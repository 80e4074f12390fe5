"""Trainer settings."""

from dataclasses import dataclass, field

from vitslite.training.optimization import OptimizerSettings


@dataclass
class TrainerSettings:
    device: str = "auto"  # auto, cpu, cuda
    precision: str = "fp32"  # fp32, bf16 (the KL, the alignment score and the spectrograms stay fp32)
    compile: bool = False  # by torch.compile, in part; for long runs on a GPU
    steps: int = 1000
    stop_after_step: int | None = None  # stop early, as an interruption would; the same command without it goes on
    accumulate: int = 1  # micro-batches per step, each data.batch_size / accumulate utterances
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    ema_decay: float = 0.0  # 0: off
    log_every_steps: int = 10
    diagnose_every_steps: int = 200  # gradient of each loss to each module, sampling variances, ...; 0: never
    validate_every_steps: int = 200
    sample_every_steps: int = 500
    checkpoint_every_steps: int = 200
    best_metric: str = "val/loss/mel"  # the lowest value makes checkpoints/best.pt

    def check(self) -> None:
        """ValueError for a value that cannot train, naming the key."""
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"trainer.precision={self.precision}: choose fp32 or bf16")
        for name in ("steps", "accumulate", "checkpoint_every_steps", "stop_after_step"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"trainer.{name}={getattr(self, name)}: must be at least 1")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"trainer.ema_decay={self.ema_decay}: must be at least 0 (off) and below 1")
        self.optimizer.check()

    def is_logged(self, step: int) -> bool:
        """Whether the step that completes `step` steps is logged: the first one always."""
        return step == 1 or self.is_due("log", step)

    def is_due(self, what: str, step: int) -> bool:
        """Whether log, diagnose, validate, sample or checkpoint comes after `step` steps, by its `..._every_steps`."""
        every_steps = getattr(self, f"{what}_every_steps")
        return every_steps > 0 and step % every_steps == 0
