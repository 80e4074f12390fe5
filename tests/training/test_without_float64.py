"""A device without float64, as Apple's GPUs are: a step and every look, here on the CPU, make no such number."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitslite import build, distributed, tensors
from vitslite.benchmarks.step import build_trainer


class NoFloat64(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            assert not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.float64, func
        return made


@pytest.mark.parametrize("overrides", [["model/decoder=source_filter", "objective=energy"], ["model=glow_tts_tiny"]])
def test_no_float64(compose, tmp_path, monkeypatch, overrides):
    if "model=glow_tts_tiny" in overrides:
        overrides = [*overrides, "objective=likelihood"]
    config = build.parse(compose(*overrides), overrides)
    trainer = build_trainer(config, build.corpus(config), torch.device("cpu"), tmp_path / "run")
    batches = next(trainer.data.loader.batches(0))

    def looked_at():
        trainer.step(batches)
        for kind in ("diagnose", "validate"):
            trainer.looks.look(kind, 1)

    with pytest.raises(AssertionError), NoFloat64():
        looked_at()  # planted: where there is float64, it is used
    monkeypatch.setattr(tensors, "_WITHOUT_FLOAT64", ("cpu",))
    with NoFloat64():
        looked_at()


def test_mps_is_refused_where_torch_sees_none():
    if torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match=r"trainer\.device=mps, but torch sees no Metal"), distributed.session("mps"):
        pass
