"""The search on a GPU against the search on the CPU: by Triton's interpreter, which runs the kernel in numpy without a
GPU; by its compiler, which needs none either; and on a GPU where there is one."""

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from vitslite import build
from vitslite.kernels import alignment_cpu, available
from vitslite.model import alignment
from vitslite.objectives.kl import half_analytic
from vitslite.tensors import Gaussian, Latents, sequence_mask
from vitslite.training.trainer import Trainer

triton = pytest.importorskip("triton", reason="Triton comes with the CUDA builds of torch alone")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from vitslite.kernels import alignment_triton  # noqa: E402

SOURCE = Path(inspect.getfile(alignment_triton))
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def interpreted(path):
    """The module at `path` with its kernels for the interpreter: the choice is made when a kernel is defined."""
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = True
        spec = importlib.util.spec_from_file_location(f"interpreted_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def device_search():
    return interpreted(SOURCE)


def on_cpu(score, token_lengths, frame_lengths):
    """The truth, itself tested against brute force: score [B, T, L]."""
    durations, finite = alignment_cpu.durations(
        score.contiguous().numpy(), token_lengths.numpy(), frame_lengths.numpy(), n_threads=1
    )
    return torch.from_numpy(durations), torch.from_numpy(finite)


def a_batch(rng, n_items, max_tokens, max_frames):
    """Scores in general, with ties, or below any large negative number; lengths of all kinds, NaN beyond them."""
    token_lengths = torch.from_numpy(rng.integers(1, max_tokens + 1, n_items))
    frame_lengths = torch.from_numpy(rng.integers(token_lengths, max_frames + 1))
    shape = n_items, max_frames, max_tokens
    kinds = (rng.normal(size=shape), rng.integers(-1, 2, shape), rng.normal(size=shape) * 1e7 - 1e9)
    score = torch.from_numpy(kinds[rng.integers(3)].astype(np.float32))
    valid = sequence_mask(frame_lengths, max_frames).transpose(1, 2) & sequence_mask(token_lengths, max_tokens)
    return score.masked_fill(~valid, float("nan")), token_lengths, frame_lengths


def n_wrong(module, n_batches=30, seed=0):
    """Small batches in which `module` does not find what the CPU finds."""
    rng, wrong = np.random.default_rng(seed), 0
    for _ in range(n_batches):
        max_tokens = int(rng.integers(1, 7))
        batch = a_batch(rng, 8, max_tokens, int(rng.integers(max_tokens, 12)))
        truth = on_cpu(*batch)
        wrong += not all(torch.equal(a, b) for a, b in zip(module.durations(*batch), truth, strict=True))
    return wrong


# ---------------------------------------------------------------------------------------- the search, interpreted


def test_small_cases(device_search):
    assert n_wrong(device_search) == 0


@pytest.mark.parametrize(
    "right, fault",
    [
        ("came = before > best", "came = before >= best"),  # ties advance
        ("(t % 32 == 31) | (t == n_t - 1)", "t % 32 == 31"),  # the last word is not written
        ('tl.where(is_first, float("-inf"), tl.gather', "tl.where(is_first, -1e9, tl.gather"),
        ('best = tl.where(is_first, row, float("-inf"))', "best = row"),  # begins in any token
    ],
)
def test_a_planted_fault_is_found(right, fault, tmp_path):
    source = SOURCE.read_text()
    assert source.count(right) == 1
    path = tmp_path / "faulty.py"
    path.write_text(source.replace(right, fault))
    assert n_wrong(interpreted(path), n_batches=6) > 0


@pytest.mark.parametrize("n_tokens, n_frames", [(1, 1), (1, 40), (9, 9), (5, 31), (5, 32), (5, 33), (33, 64), (40, 97)])
def test_sizes_round_the_word_of_32_frames_and_the_block_of_tokens(device_search, n_tokens, n_frames):
    rng, shape = np.random.default_rng(n_frames), (2, n_frames, n_tokens)
    lengths = torch.tensor([n_tokens, (n_tokens + 1) // 2]), torch.tensor([n_frames, max(1, n_frames - 1)])
    for values in (rng.normal(size=shape), rng.integers(-2, 3, shape)):
        score = torch.from_numpy(values.astype(np.float32))
        durations, finite = device_search.durations(score, *lengths)
        assert durations.dtype == torch.int64 and finite.dtype == torch.bool and finite.all()
        assert torch.equal(durations, on_cpu(score, *lengths)[0])


def test_ties_stay_so_the_last_token_takes_the_slack(device_search):
    lengths = torch.tensor([3]), torch.tensor([40])
    assert device_search.durations(torch.zeros(1, 40, 3), *lengths)[0].tolist() == [[1, 1, 38]]


def test_layouts(device_search):
    """The score is read where it lies: frames next to each other, as a part of more, backwards in the batch."""
    score, *lengths = a_batch(np.random.default_rng(0), 4, 6, 37)
    lengths = [x.to(torch.int32) for x in lengths]
    truth = on_cpu(score, *(x.long() for x in lengths))[0]
    frames_inside = score.transpose(1, 2).contiguous().transpose(1, 2)
    part = torch.full((4, 40, 3, 9), float("nan"))
    part[:, 1:38, 1, 2:8] = score
    items_inside = score.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    for view in (frames_inside, part[:, 1:38, 1, 2:8], items_inside):
        assert not view.is_contiguous() and torch.equal(view.nan_to_num(), score.nan_to_num())
        assert torch.equal(device_search.durations(view, *lengths)[0], truth)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite(device_search, value):
    """Wherever in the valid region, also in the first frame and off every path; the others are none the wiser."""
    cells = [(0, 0), (0, 3), (34, 0), (34, 3), (12, 2)]
    score = torch.zeros(len(cells) + 1, 36, 5)
    for b, cell in enumerate(cells):
        score[b][cell] = value
    score[-1, 35] = score[-1, :, 4] = value  # padding
    lengths = torch.full((6,), 4), torch.full((6,), 35)
    durations, finite = device_search.durations(score, *lengths)
    assert finite.tolist() == [False] * 5 + [True]
    assert durations.tolist() == [[0] * 5] * 5 + [[1, 1, 1, 32, 0]]


def test_lengths_that_cannot_be_aligned(device_search):
    """No tokens, fewer frames than tokens, or more of either than the score has: nothing is read, zeros come back."""
    pairs = [(0, 5), (0, 0), (1, 0), (5, 4), (-1, 3), (6, 7), (5, 8), (2**31 - 1, 2**31 - 1), (5, 7)]
    token_lengths, frame_lengths = (torch.tensor(x) for x in zip(*pairs, strict=True))
    durations, finite = device_search.durations(torch.zeros(9, 7, 5), token_lengths, frame_lengths)
    assert finite.tolist() == [False] * 8 + [True]
    assert not durations[:8].any() and durations[8].tolist() == [1, 1, 1, 1, 3]


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_sums_that_overflow_leave_a_path(device_search):
    """Every cell is finite, every sum but the first -inf: any path will do, but a path it has to be."""
    durations, finite = device_search.durations(torch.full((1, 40, 7), -3e38), torch.tensor([7]), torch.tensor([40]))
    assert finite.all() and durations.sum() == 40 and durations.min() >= 1


# ---------------------------------------------------------------------------------------- the search, compiled


@pytest.mark.parametrize("block, n_warps", [(32, 1), (256, 4), (2048, 8)])
@pytest.mark.parametrize("stride_l", [1, 300])
def test_it_compiles_for_a_gpu(block, n_warps, stride_l, tmp_path):
    """For sm_90, with the types that a launch has. The rows of the score have to be on their way ahead of their use."""
    pointers = {"score": "*fp32", "advanced": "*i32", "result": "*i64", "finite": "*u1"}
    constants = {"BLOCK": block} | ({"stride_l": 1} if stride_l == 1 else {})
    kernel = alignment_triton._search
    types = {"token_lengths": "*i64", "frame_lengths": "*i64", "stride_b": "i64"} | pointers
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(tmp_path)
        source = ASTSource(kernel, signature, constants)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": n_warps})
    assert compiled.asm["cubin"] and compiled.asm["ptx"].count("cp.async") > 3
    assert compiled.metadata.shared <= 48 * 1024  # what any GPU gives to a program


# ---------------------------------------------------------------------------------------- its place in the alignment


def test_where_it_is_used(monkeypatch):
    assert available.on_gpu("alignment_triton", torch.device("cpu")) is None
    with monkeypatch.context() as context:
        context.setattr(available, "can_start", lambda: True)
        assert available.on_gpu("alignment_triton", torch.device("cuda")) is alignment_triton
    monkeypatch.setitem(sys.modules, "triton.runtime", None)  # not installed
    available.can_start.cache_clear()
    try:
        assert available.on_gpu("alignment_triton", torch.device("cuda")) is None
    finally:
        available.can_start.cache_clear()


def test_a_triton_that_cannot_start_is_said_once(monkeypatch):
    class Driver:
        @property
        def active(self):
            raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr(triton.runtime, "driver", Driver())
    available.can_start.cache_clear()
    try:
        with pytest.warns(UserWarning, match="goes through the CPU.*Failed to find C compiler") as said:
            assert available.on_gpu("alignment_triton", torch.device("cuda")) is None
            assert available.on_gpu("alignment_triton", torch.device("cuda")) is None
        assert len(said) == 1
    finally:
        available.can_start.cache_clear()


def test_importing_does_not_load_triton():
    code = (
        "import sys; from vitslite.model import alignment; sys.exit('vitslite.kernels.alignment_triton' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def searching_on_the_device(device_search, monkeypatch):
    search = {"alignment_triton": device_search}
    monkeypatch.setattr(available, "on_gpu", lambda name, device: search.get(name))


@pytest.mark.parametrize(
    "where, values",
    [
        ("z_p", [float("nan"), float("inf"), -float("inf"), 1e30]),
        ("mean", [float("nan"), float("inf"), -float("inf"), -1e30]),
        ("log_std", [float("nan"), -float("inf"), -60.0]),  # a std of 0, and one whose precision overflows
    ],
)
def test_what_spoils_the_score_spoils_the_kl(searching_on_the_device, where, values):
    """One element of one utterance: nothing is raised, its durations are even, and its KL is not finite."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([4, 3]), torch.tensor([10, 8])
    z_p, mean, log_std = (torch.randn(2, 6, n, generator=generator) for n in (10, 4, 4))
    score = alignment.log_likelihood(z_p, Gaussian(mean, log_std))
    healthy = alignment.monotonic_alignment(score, *lengths, ["a", "b"])
    assert torch.equal(healthy, on_cpu(score.transpose(1, 2), *lengths)[0])
    assert kl_per_utterance(z_p, Gaussian(mean, log_std), healthy, lengths[1]).isfinite().all()

    spoilt = {"z_p": z_p, "mean": mean, "log_std": log_std}[where]
    for value in values:
        spoilt[1, 3, 1] = value
        score = alignment.log_likelihood(z_p, Gaussian(mean, log_std))
        durations = alignment.monotonic_alignment(score, *lengths, ["a", "b"])
        assert durations.tolist() == [healthy[0].tolist(), [2, 3, 3, 0]]
        kl = kl_per_utterance(z_p, Gaussian(mean, log_std), durations, lengths[1])
        assert kl.isfinite().tolist() == [True, False]


def kl_per_utterance(z_p, p_text, durations, frame_lengths):
    """As the model and the objective make it of the durations, for a standard normal posterior."""
    mask = sequence_mask(frame_lengths, z_p.shape[2])
    p = Gaussian(*(alignment.expand(x, durations, z_p.shape[2]) * mask for x in p_text))
    zeros = torch.zeros_like(z_p)
    return (half_analytic(Latents(Gaussian(zeros, zeros), p, zeros, z_p, zeros, mask)) * mask).sum((1, 2))


def test_lengths_that_do_not_fit_keep_the_shapes_right(searching_on_the_device):
    lengths = torch.tensor([3, 5, 0]), torch.tensor([9, 4, 6])
    durations = alignment.monotonic_alignment(torch.zeros(3, 5, 9), *lengths, ["a", "b", "c"])
    assert durations[0].tolist() == [1, 1, 7, 0, 0] and durations.sum(1).tolist() == [9, 4, 6]


def test_a_run_that_diverges_stops(searching_on_the_device, compose, monkeypatch):
    """As it does on the CPU, before the weights are touched; there by the search, here by the loss."""
    step = Trainer.step

    def poisoned(self, micro_batches):
        with torch.no_grad():
            next(self.model.text_encoder.parameters())[:] = float("nan")
        return step(self, micro_batches)

    monkeypatch.setattr(Trainer, "step", poisoned)
    off = [f"trainer.{name}_every_steps=0" for name in ("diagnose", "validate", "sample")]
    overrides = [*off, "trainer.steps=1", "data.batch_size=2"]
    with pytest.raises(FloatingPointError, match="step 1: not finite: .*kl"):
        train.train(build.parse(compose(*overrides), overrides), overrides)


# ---------------------------------------------------------------------------------------- on a GPU


@on_gpu
def test_a_gpu_finds_what_the_cpu_finds():
    """2,000 shapes, from one cell to 2,000 frames, each in the layout of the model and as a view of [B, L, T]."""
    rng = np.random.default_rng(0)
    for _ in range(2000):
        max_frames = int(2000 ** rng.uniform())
        max_tokens = int(rng.integers(1, min(max_frames, 400) + 1))
        score, *lengths = a_batch(rng, int(rng.integers(1, 5)), max_tokens, max_frames)
        truth = on_cpu(score, *lengths)
        on_device = score.cuda()
        for view in (on_device, on_device.transpose(1, 2).contiguous().transpose(1, 2)):
            found = alignment_triton.durations(view, *(x.cuda() for x in lengths))
            assert all(torch.equal(a.cpu(), b) for a, b in zip(found, truth, strict=True))


@on_gpu
def test_a_gpu_finds_long_paths():
    """The longest that the model is meant for."""
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(3, 8000, 2000, generator=generator)
    lengths = torch.tensor([2000, 1999, 1025]), torch.tensor([8000, 1999, 7999])
    truth = on_cpu(score, *lengths)
    found = alignment_triton.durations(score.cuda(), *(x.cuda() for x in lengths))
    assert all(torch.equal(a.cpu(), b) for a, b in zip(found, truth, strict=True))


@on_gpu
def test_a_gpu_is_not_waited_for():
    """Neither by the search nor by what is made of its durations, also when a score is not finite."""
    score = torch.randn(2, 20, 90, device="cuda")
    score[1, 0, 0] = float("nan")
    lengths = torch.tensor([20, 13], device="cuda"), torch.tensor([90, 57], device="cuda")
    alignment.monotonic_alignment(score, *lengths, ["a", "b"])  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        durations = alignment.monotonic_alignment(score, *lengths, ["a", "b"])
        alignment.expand(score.transpose(1, 2)[:, :, :20], durations, 90)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert durations.sum(1).tolist() == [90, 57]


@on_gpu
def test_a_gpu_gives_what_the_cpu_gives_under_the_same_name():
    score = torch.randn(3, 20, 90, generator=torch.Generator().manual_seed(0)).cuda()
    lengths = torch.tensor([20, 13, 1], device="cuda"), torch.tensor([90, 57, 44], device="cuda")
    found = alignment.monotonic_alignment(score, *lengths, ["a", "b", "c"])
    truth = alignment.monotonic_alignment(score.cpu(), *(x.cpu() for x in lengths), ["a", "b", "c"])
    assert found.is_cuda and torch.equal(found.cpu(), truth)
