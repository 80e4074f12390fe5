"""What a source is, by looking at it, and its reader."""

from pathlib import Path

from vitslite.interop import huggingface, original, pickles, piper, piper_onnx
from vitslite.interop.voice import Voice

_ONNX = 0x08  # how an ONNX file begins: field 1, the version of its format


def read(source: Path, config: Path | None = None) -> Voice:
    """The voice in a file or folder. `config`: the .json that belongs to it, where it does not lie beside it.

    ValueError where it is none of those that are known, or damaged.
    """
    if source.is_dir():
        if (source / "config.json").is_file() and (source / "vocab.json").is_file():
            return huggingface.read(source)
        source = _only_file(source)
    if not source.is_file():
        raise ValueError(f"{source}: no such file or folder")
    with open(source, "rb") as file:
        first = file.read(1)
    if first == bytes([_ONNX]):
        return piper_onnx.read(source, config)
    content = pickles.read(source)
    keys = set(content) if isinstance(content, dict) else set()
    if {"state_dict", "hyper_parameters"} <= keys:
        return piper.read(source, content, config)
    if {"model", "frontend", "config"} <= keys:
        raise ValueError(f"{source}: a checkpoint of vitslite already; it speaks as it is")
    if "model" in keys and "enc_p.emb.weight" in content["model"]:
        return original.read(source, content, config)
    raise ValueError(
        f"{source}: no voice that is known (it holds {', '.join(sorted(map(str, keys))[:6]) or 'nothing by name'}): a "
        "folder of a transformers VitsModel, a G_*.pth of VITS, a Piper .ckpt or .onnx"
    )


def _only_file(folder: Path) -> Path:
    """The voice in a folder of files. ValueError unless there is exactly one."""
    found = [path for pattern in ("*.onnx", "*.ckpt", "G_*.pth") for path in sorted(folder.glob(pattern))]
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:5])
        raise ValueError(f"{folder}: {f'several voices ({names})' if found else 'no voice in it'}: name the file")
    return found[0]
