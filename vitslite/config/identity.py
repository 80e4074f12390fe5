"""Identity of a run: which settings make it another one, and what it cannot be resumed with."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

# What may change between two starts of one run: how long, by what means, how often it is observed, where things lie.
FREE_SETTINGS = (
    "trainer.steps",
    "trainer.stop_after_step",
    "trainer.*_every_steps",
    "trainer.device",
    "trainer.compile",
    "tracking",
    "validation",
    "data.n_workers",
    "data.root",
    "data.cache",
    "data.cache_audio",
    "run_dir",
    "name",
)


def is_free(setting: str) -> bool:
    """Whether a setting may change without making another run of it."""
    return any(fnmatchcase(setting, free) or setting.startswith(free + ".") for free in FREE_SETTINGS)


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}."""
    flat = {}
    for name, value in config.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


def changed_settings(stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """'key=old (now new)' for every setting that differs and is not free to."""
    old, new = flatten(stored), flatten(now)
    keys = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    return [f"{k}={old.get(k)} (now {new.get(k)})" for k in keys if not is_free(k)]


def check_resumable(stored: dict[str, Any], header: dict[str, Any], path: Path) -> list[str]:
    """What of the environment has changed since the checkpoint `stored` at `path` was written.

    ValueError where its settings or its data are not those of `header`: it is another run.
    """
    changed = changed_settings(stored["config"], header["config"])
    if changed:
        raise ValueError(
            f"{path} was trained with other settings: {'; '.join(changed[:3])}"
            f"{f' and {len(changed) - 3} more' if len(changed) > 3 else ''}. "
            "Give the new run a name of its own (name=...), or restore the settings to go on"
        )
    for part in ("frontend", "corpus"):
        if stored.get(part) != header.get(part):
            raise ValueError(
                f"{path} was trained on other data (the {part} differs): give the new run a name of its own "
                "(name=...), or restore the data to go on"
            )
    return changed_settings(stored.get("environment", {}), header["environment"])
