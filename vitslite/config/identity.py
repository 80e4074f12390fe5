"""Identity of a run: which settings make it another one, and what it cannot be resumed with."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

# What may change between two starts of one run: how long, by what means, how often it is observed, where things lie.
FREE_SETTINGS = (
    "trainer.steps",
    "trainer.stop_after_step",
    "trainer.*_every_steps",
    "trainer.keep_checkpoints",
    "trainer.device",
    "trainer.compile",
    "tracking",
    "validation",
    "synthesis",
    "data.n_workers",
    "data.root",
    "data.cache",
    "data.cache_audio",
    "run_dir",
    "name",
)


# What may change as well, and is named: the same run, but from there on not bit for bit what it would have been.
MENDABLE_SETTINGS = ("trainer.optimizer", "trainer.precision", "trainer.accumulate", "threads", "data.pad_multiple")


def is_free(setting: str) -> bool:
    """Whether a setting may change without making another run of it."""
    return _is_among(setting, FREE_SETTINGS)


def _is_among(setting: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(setting, pattern) or setting.startswith(pattern + ".") for pattern in patterns)


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}."""
    flat = {}
    for name, value in config.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """{'a.b': 1} -> {'a': {'b': 1}}."""
    config: dict[str, Any] = {}
    for key, value in flat.items():
        *parts, last = key.split(".")
        place = config
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return config


def changed_settings(stored: dict[str, Any], now: dict[str, Any], defaults: dict[str, Any] | None = None) -> list[str]:
    """'key=old (now new)' for every setting that differs and is not free to.

    A setting that one side lacks has its value of `defaults`, those of the schema: the code from before it did what its
    default does. One that the schema no longer knows is a change, whatever its value: the code that read it is gone.
    """
    old, new = (flatten(defaults or {}) | flatten(config) for config in (stored, now))
    keys = [k for k in sorted(old.keys() | new.keys()) if k not in old or k not in new or old[k] != new[k]]
    return [f"{k}={old.get(k, 'unknown')} (now {new.get(k, 'unknown')})" for k in keys if not is_free(k)]


def check_resumable(
    stored: dict[str, Any],
    header: dict[str, Any],
    path: Path,
    defaults: dict[str, Any] | None = None,
    other_data: str | None = None,
) -> list[str]:
    """'key=old (now new)' for what has changed since the checkpoint `stored` at `path` was written, and may.

    ValueError where other settings of `header` (or else of the `defaults` of the schema) or its data are not those of
    the checkpoint: it is another run.
    """
    defaults = defaults or {}
    changed = changed_settings(stored["config"], header["config"], defaults)
    mended = [line for line in changed if _is_among(line.split("=")[0], MENDABLE_SETTINGS)]
    refused = [line for line in changed if line not in mended]
    if refused:
        raise ValueError(
            f"{path} was trained with other settings: {'; '.join(refused)}. Restore them to go on, or give the new run "
            f"a name of its own (name=...), which may begin from these weights (trainer.init_from={path})"
        )
    known = {"frontend": {"settings": defaults.get("text", {})}}  # a frontend's state holds the settings of the text
    for part in ("frontend", "corpus", *(["recordings"] if "recordings" in stored else [])):  # older ones lack it
        if _completed(stored.get(part), known.get(part)) != _completed(header.get(part), known.get(part)):
            raise ValueError(
                f"{path} was trained on other data ({other_data or f'the {part} differs'}): give the new run a name of "
                "its own (name=...), or restore the data to go on"
            )
    environment = changed_settings(stored.get("environment", {}), header["environment"])
    return mended + [line for line in environment if line.split("=")[0] not in {m.split("=")[0] for m in mended}]


def _completed(part: Any, defaults: dict[str, Any] | None) -> Any:
    return flatten(defaults) | flatten(part) if defaults is not None and isinstance(part, dict) else part
