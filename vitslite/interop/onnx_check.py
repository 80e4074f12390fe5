"""An ONNX voice against `VITS.infer`: the same noise into both, the same samples out.

A runtime draws its own noise, so for the comparison each RandomNormalLike of the graph becomes an input, which gets
what `infer` draws for a key. The pulses of a source-filter decoder have a phase that is summed over all frames
before, from a pitch that the network predicts: an error of 1e-7 in its logarithm, which is the rounding of fp32, is
one of 1e-3 of the pulses after some seconds, inaudibly. There the bound is on the energy of the difference.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from vitslite import randomness
from vitslite.interop.onnx_file import Exported, without_weight_norm
from vitslite.model.durations import StochasticDurations

if TYPE_CHECKING:
    from onnx import ModelProto

LARGEST = 1e-5  # of a sample, without pulses
QUIETEST = 50.0  # dB below the sound that a difference has to be: with pulses, or with weights stored in fp16
_KEY = 5


class Compared(NamedTuple):
    n_symbols: int
    seconds: float  # of audio
    same_length: bool
    peak: float
    difference: float  # of the worst sample
    decibels: float  # energy of the sound over that of the difference
    runtime_seconds: float  # processor time, the best of three
    torch_seconds: float

    def line(self) -> str:
        factors = [seconds / self.seconds for seconds in (self.runtime_seconds, self.torch_seconds)]
        rtf = "real-time factor {:.4f}, PyTorch {:.4f}".format(*factors)
        length = "" if self.same_length else "ANOTHER LENGTH, "
        return (
            f"{self.n_symbols} symbols, {self.seconds:.2f} s: {length}largest difference {self.difference:.1e} at peak "
            f"{self.peak:.2f}, {self.decibels:.0f} dB; {rtf}"
        )


def compare(proto: "ModelProto", voice: Exported, ids: list[int]) -> Compared:
    """The runtime and `infer` on one utterance, with full noise of the same key, on one thread each."""
    model, own = without_weight_norm(voice.model), voice.synthesis
    keys, tokens = torch.tensor([_KEY]), torch.tensor([ids])
    lengths = torch.tensor([len(ids)])

    def by_torch() -> Any:
        return model.infer(tokens, lengths, keys, own.noise_scale, own.duration_noise_scale)

    expected = by_torch()
    n_samples = int(expected.audio_lengths[0])
    noise = [randomness.normal(keys, "prior", model.settings.n_latent, n_samples // model.hop_length)]
    if isinstance(model.duration_predictor, StochasticDurations):
        noise.insert(0, randomness.normal(keys, "duration.prior", 2, len(ids)))
    if model.settings.decoder.is_random:
        noise.append(randomness.normal(keys, "decoder", 1, n_samples))
    fed = as_piper(ids, voice)
    feeds = {
        "input": np.array([fed]),
        "input_lengths": np.array([len(fed)]),
        "scales": np.array([own.noise_scale, 1.0, own.duration_noise_scale], np.float32),
    }
    opened, names = noise_as_inputs(proto)
    session = runtime(opened)
    feeds |= {name: x.numpy() for name, x in zip(names, noise, strict=True)}
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        spoken, runtime_seconds = _timed(lambda: session.run(None, feeds)[0])
        _, torch_seconds = _timed(by_torch)
    finally:
        torch.set_num_threads(n_threads)
    found, truth = spoken.ravel(), expected.audio[0, 0].numpy()
    n = min(len(found), len(truth))
    off = found[:n] - truth[:n]
    decibels = 10 * np.log10(np.square(truth[:n]).sum() / max(float(np.square(off).sum()), 1e-30))
    seconds, same = n_samples / voice.sample_rate, len(found) == len(truth)
    peak, difference = (float(np.abs(x).max()) for x in (truth, off))
    return Compared(len(ids), seconds, same, peak, difference, float(decibels), runtime_seconds, torch_seconds)


def verify(compared: Compared, has_pulses: bool, half: bool) -> None:
    """ValueError where the runtime does not say what PyTorch says."""
    if not compared.same_length:
        raise ValueError(f"the exported voice speaks at another length: {compared.line()}")
    fits = compared.decibels >= QUIETEST if has_pulses or half else compared.difference <= LARGEST
    if not fits:
        raise ValueError(f"the exported voice is not the voice: {compared.line()}")


def as_piper(ids: list[int], voice: Exported) -> list[int]:
    """Token ids as Piper feeds them, `^ _ p _ p _ $`: the reverse of `Speech`'s first step."""
    s = voice.frontend.settings
    own = ids[1::2] if s.blanks and s.outer_blanks else ids[::2] if s.blanks else ids
    symbols = own if s.edges else [0, *own, 0]
    fed = [0] * (2 * len(symbols) - 1)
    fed[::2] = symbols
    return fed


def noise_as_inputs(proto: "ModelProto") -> tuple["ModelProto", list[str]]:
    """The graph with its noise given instead of drawn: durations, prior, decoder, as far as the voice has them."""
    import onnx

    out = onnx.ModelProto()
    out.CopyFrom(proto)
    drawn = [node for node in out.graph.node if node.op_type == "RandomNormalLike"]
    for node in drawn:
        out.graph.node.remove(node)
        out.graph.input.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, [None] * 3))
    known = {node.output[0] for node in drawn}
    kept = [value for value in out.graph.value_info if value.name not in known]
    del out.graph.value_info[:]
    out.graph.value_info.extend(kept)
    return out, [node.output[0] for node in drawn]


def runtime(proto: "ModelProto") -> Any:
    """A session of onnxruntime on one thread of the CPU."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError('to check an ONNX voice: pip install "vitslite[export]"') from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _timed(speak: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and the processor time of the fastest of three calls, after one that is not counted."""
    result, taken = speak(), []
    for _ in range(3):
        begin = time.process_time()
        speak()
        taken.append(time.process_time() - begin)
    return result, min(taken)
