"""What may have been meant by a setting, a group or an option that does not exist."""

import difflib
import functools
from collections.abc import Iterable

from vitslite.files import shipped

ALIASES = {  # what others call a setting -> what it is called here
    **dict.fromkeys(("lr", "learning_rate", "base_lr"), "trainer.optimizer.learning_rate"),
    **dict.fromkeys(("steps", "max_steps", "iterations", "train_steps", "total_steps"), "trainer.steps"),
    **dict.fromkeys(("batch_size", "batch", "bs", "train_batch_size"), "data.batch_size"),
    **dict.fromkeys(("root", "data_root", "data_dir", "data_path", "dataset", "corpus", "path"), "data.root"),
    **dict.fromkeys(("workers", "num_workers", "n_workers"), "data.n_workers"),
    **dict.fromkeys(("device", "accelerator", "cuda", "gpus", "devices"), "trainer.device"),
    **dict.fromkeys(("precision", "fp16", "bf16", "amp", "mixed_precision"), "trainer.precision"),
    **dict.fromkeys(("accumulate", "accum", "grad_accum", "gradient_accumulation_steps"), "trainer.accumulate"),
    **dict.fromkeys(("clip", "grad_clip", "clip_grad", "gradient_clip_val"), "trainer.optimizer.max_grad_norm"),
    **dict.fromkeys(("warmup", "warmup_steps"), "trainer.optimizer.warmup_steps"),
    **dict.fromkeys(("ema", "ema_decay"), "trainer.ema_decay"),
    **dict.fromkeys(("init", "pretrained", "finetune", "finetune_from", "ckpt", "checkpoint"), "trainer.init_from"),
    **dict.fromkeys(("voice", "lang", "language"), "text.voice"),
    **dict.fromkeys(("sr", "sample_rate", "sampling_rate"), "audio.sample_rate"),
    **dict.fromkeys(("kl_weight", "beta", "c_kl"), "objective.weights.kl"),
    **dict.fromkeys(("output", "out", "output_dir", "out_dir", "log_dir", "save_dir"), "run_dir"),
    **dict.fromkeys(("run_name", "exp_name", "experiment_name"), "name"),
    "kl": "objective.kl",
    "wandb": "tracking.wandb",
    "project": "tracking.project",
    "random_seed": "seed",
}
NO_SETTING = {  # words that stand for something else here
    **dict.fromkeys(
        ("epochs", "max_epochs", "n_epochs", "num_epochs", "epoch"),
        "there are no epochs: trainer.steps=..., of data.batch_size utterances each",
    ),
    **dict.fromkeys(
        ("resume", "resume_from", "resume_from_checkpoint", "continue", "restore"),
        "the same command again goes on where the run stopped; "
        "trainer.init_from=RUN begins a new one from the weights of another",
    ),
    **dict.fromkeys(
        ("config", "config_name", "config_path", "cn", "cp", "cd", "config_dir"),
        "a whole recipe is experiment=NAME, a file of configs/experiment",
    ),
    "wandb_sweep": "its files are for `wandb sweep`, see docs/sweeps.md; here -m KEY=A,B runs a sweep",
}
OPTION_ALIASES = {
    "none": "local",
    "off": "local",
    "disabled": "local",
    "false": "local",
    "cuda": "gpu",
    "lj": "ljspeech",
}


@functools.cache
def groups() -> dict[str, list[str]]:
    """{"model/flow": ["affine", ...]}: the groups of configs/, with their options."""
    root, found = shipped("configs"), dict[str, list[str]]()
    for path in sorted(root.rglob("*.yaml")):
        group = path.parent.relative_to(root).as_posix()
        if group not in (".", "wandb_sweep"):
            found.setdefault(group, []).append(path.stem)
    return found


def setting(key: str, known: Iterable[str] = (), value: str = "...") -> str | None:
    """What to type instead of an unknown `key`; None where nothing is near. Of `known` keys, groups and aliases."""
    known, last = list(known), key.split(".")[-1]
    if key in NO_SETTING:
        return NO_SETTING[key]
    meant = _group(key, value) or ALIASES.get(key)
    if meant is None and (ends := [k for k in known if k.endswith(f".{key}")]):
        meant = " or ".join(ends) if len(ends) <= 3 else None
    if meant is None:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
        meant = near[0] if near else ALIASES.get(last) or _by_last_component(last, known)
    if meant is None and "." not in key:
        near = difflib.get_close_matches(key, [*ALIASES, *NO_SETTING], n=1, cutoff=0.8)
        meant = ALIASES.get(near[0]) if near else None
    return f"did you mean {meant}?" if meant else None


def option(typed: str, options: list[str]) -> str | None:
    """The nearest option of a group."""
    begun = [o for o in options if typed and o.startswith(typed)]
    near = begun or difflib.get_close_matches(typed, options, n=1, cutoff=0.5)
    alias = OPTION_ALIASES.get(typed.lower())
    return alias if alias in options else near[0] if near else None


def _group(key: str, value: str) -> str | None:
    """`flow` -> model/flow=VALUE, `modle` -> model, `model.flow` -> model/flow."""
    names = {group.split("/")[-1]: group for group in reversed(groups())} | {group: group for group in groups()}
    near = [key.replace(".", "/")] if key.replace(".", "/") in names else []
    if "." not in key:
        near = near or difflib.get_close_matches(key, names, n=1, cutoff=0.75)
    return f"{names[near[0]]}={value}" if near else None


def _by_last_component(last: str, known: list[str]) -> str | None:
    components = {k.split(".")[-1] for k in known}
    near = difflib.get_close_matches(last, components, n=1, cutoff=0.8)
    ends = [k for k in known if near and k.split(".")[-1] == near[0]]
    return " or ".join(ends) if 0 < len(ends) <= 3 else None
