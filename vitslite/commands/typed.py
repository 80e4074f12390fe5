"""The command line of `vitslite train` as it was typed: its help, and what to type instead of what it does not take.

Nothing here needs torch, so a slip is answered at once.
"""

import re
from pathlib import Path

from vitslite.config import suggestions

USAGE = """Train a VAE text-to-speech model and watch its losses.

usage: vitslite train [-m] [GROUP=OPTION ...] [KEY=VALUE ...]

    vitslite train                                                   the demo: makes its corpus, trains, speaks
    vitslite train model=small objective.kl=monte_carlo trainer.steps=500
    vitslite train data=ljspeech data.root=/path/to/it trainer=gpu   your own recordings
    vitslite train -m objective.kl=half_analytic,monte_carlo seed=0,1    a sweep: four runs, and a table of them

The same command again goes on where the run stopped; everything it leaves is in runs/NAME.

  -m, --multirun    a run for each combination of the values between commas
  --cfg job         show all settings, with these overrides, and do nothing
  --version         of vitslite
  --hydra-help      the other options, which are Hydra's

groups and their options:
{groups}

values that one changes often (docs/settings.md tells the rest):
  seed=0  name=...  trainer.steps=...  trainer.optimizer.learning_rate=...  data.batch_size=...  tracking=local

VITSLITE_TRACE=1 shows the stack behind an error line."""

FLAGS = {"-m", "--multirun", "--cfg", "-c", "--resolve", "--package", "-p", "--info", "-i", "--run", "-r"} | {
    "--hydra-help",
    "--shell-completion",
    "-sc",
    "--experimental-rerun",
    "--help",
    "-h",
    "--version",
}
_TAKING_A_VALUE = {"--cfg", "-c", "--package", "-p", "--info", "-i"}


def usage() -> str:
    lines = [f"  {group + '=':18} {', '.join(options)}" for group, options in suggestions.groups().items()]
    return USAGE.format(groups="\n".join(line if len(line) <= 120 else line[:116] + " ..." for line in lines))


def fault(arguments: list[str]) -> str | None:
    """What is wrong with arguments that are no KEY=VALUE, with what to type; None where nothing is."""
    is_value = False
    for before, argument, after in zip(["", *arguments], arguments, [*arguments[1:], ""], strict=False):
        if is_value:
            is_value = False
        elif argument.startswith("-") and "=" not in argument.lstrip("-").split(".")[0] and argument in FLAGS:
            is_value = argument in _TAKING_A_VALUE and after in ("job", "hydra", "all", "defaults", "config", "plugins")
        elif argument.startswith("-") and argument.split("=")[0] not in FLAGS:
            return _flag(argument, after)
        elif argument == "=" or argument.endswith("=") and _is_value(after):
            key = before if argument == "=" else argument[:-1]
            return f"settings are KEY=VALUE without spaces: type {key}={after or '...'}"
        elif argument.endswith(",") and _is_value(after):
            return f"no space after a comma: type {argument}{after}"
        elif "=" not in argument and after != "=" and not argument.startswith(("-", "~")):
            return _no_setting(argument, after)
    return None


def _is_value(text: str) -> bool:
    return bool(text) and "=" not in text and not text.startswith("-")


def _flag(argument: str, after: str) -> str:
    name, _, value = argument.lstrip("-").partition("=")
    key, value = name.replace("-", "_"), value or (after if _is_value(after) else "...")
    if key in suggestions.NO_SETTING:
        recipe = f": experiment={Path(value).stem}" if "config" in key and value != "..." or key == "cn" else ""
        return f"no option {argument}: {suggestions.NO_SETTING[key]}{recipe}"
    meant = suggestions.ALIASES.get(key, name if "." in name or name in ("seed", "name", "threads") else None)
    return f"no option {argument}: settings are KEY=VALUE, without dashes{f': type {meant}={value}' if meant else ''}"


def _no_setting(argument: str, after: str) -> str:
    experiment = Path(argument).stem
    if argument in ("resume", "help"):
        return f"{argument}: settings are KEY=VALUE; {suggestions.NO_SETTING['resume']}"
    if argument.startswith("runs/") or (Path(argument) / "checkpoints").is_dir():
        return (
            f"{argument} is a run: the command that made it goes on with it; trainer.init_from={argument} begins a new "
            "run from its weights"
        )
    if Path(argument).is_dir():
        return f"{argument}: settings are KEY=VALUE; a corpus is data=ljspeech data.root={argument}"
    if experiment in suggestions.groups()["experiment"]:
        return f"{argument}: settings are KEY=VALUE: type experiment={experiment}"
    if (parts := re.fullmatch(r"([\w/]+)/(\w+)", argument)) and parts[1] in suggestions.groups():
        return f"{argument}: settings are KEY=VALUE: type {parts[1]}={parts[2]}"
    if _is_value(after):
        return f"settings are KEY=VALUE without spaces: type {suggestions.ALIASES.get(argument, argument)}={after}"
    return f"{argument}: settings are KEY=VALUE, groups GROUP=OPTION (vitslite train --help)"
