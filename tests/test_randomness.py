"""Keyed randomness: the right distributions, and nothing but (key, purpose, index) matters; and the same numbers, bit
for bit, from the operations of torch, the kernel for CPUs, and that for GPUs, which Triton's interpreter runs here."""

import importlib.util
import inspect
import itertools
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from vitslite import randomness
from vitslite.kernels import available, randomness_cpu

KEYS = torch.tensor([randomness.key(0, step, name) for step in range(4) for name in ("a", "b")])
EXTREMES = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), -(2**31), 2**32 - 1])
SHAPES = [(), (5,), (0,), (1,), (3, 7), (3, 0), (0, 7), (1, 1), (3, 1), (2, 3, 4), (2, 0, 4), (1, 1, 1), (2, 1, 1100)]
FUNCTIONS = ("bits", "uniform", "normal")
IMPLEMENTATIONS = ("torch", "cpu", "triton")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_key_is_the_same_everywhere():
    assert randomness.key(0, 1, "a") == -6146543976120010583
    assert randomness.key(1, 23) != randomness.key(12, 3)
    assert -(2**63) <= randomness.key("x") < 2**63


def test_normal_has_normal_moments():
    x = randomness.normal(KEYS, "posterior", 64, 2000).double()
    n = x.numel()
    assert float(x.mean()) == pytest.approx(0, abs=5 / math.sqrt(n))
    assert float(x.var()) == pytest.approx(1, abs=5 * math.sqrt(2 / n))
    assert float((x**4).mean()) == pytest.approx(3, abs=5 * math.sqrt(96 / n))
    share_beyond_3 = float((x.abs() > 3).double().mean())
    assert share_beyond_3 == pytest.approx(0.0026998, rel=0.05)


def test_uniform_is_flat_and_open():
    u = randomness.uniform(KEYS, "segment", 100_000).double()
    assert float(u.min()) > 0 and float(u.max()) < 1
    share = torch.histc(u, bins=20, min=0, max=1) / u.numel()
    torch.testing.assert_close(share, torch.full_like(share, 0.05), atol=1e-3, rtol=0)


def test_padding_and_company_do_not_matter():
    alone = randomness.normal(KEYS[3:4], "posterior", 8, 50)
    together = randomness.normal(KEYS, "posterior", 16, 80)
    assert torch.equal(alone[0], together[3, :8, :50])


def test_keys_purposes_and_places_are_independent():
    x = randomness.normal(KEYS, "posterior", 64, 500).flatten(1)
    y = randomness.normal(KEYS, "prior", 64, 500).flatten(1)
    correlation = torch.corrcoef(torch.cat([x, y])) - torch.eye(2 * len(KEYS))
    assert float(correlation.abs().max()) < 5 / math.sqrt(x.shape[1])
    neighbours = torch.corrcoef(torch.stack([x[:, 1:].flatten(), x[:, :-1].flatten()]))[0, 1]
    assert abs(float(neighbours)) < 5 / math.sqrt(x.numel())


def test_no_global_state():
    torch.manual_seed(1)
    a = randomness.normal(KEYS, "posterior", 4, 4)
    torch.manual_seed(2)
    assert torch.equal(a, randomness.normal(KEYS, "posterior", 4, 4))


# ---------------------------------------------------------------------------------------- the truth, in integers


def splitmix(seed):
    """The generator of Steele, Lea and Flood 2014, figure 17: unsigned 64-bit numbers without end."""
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) % 2**64
        yield finalised(seed)


def finalised(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def true_bits(keys, purpose, *shape):
    """Unsigned, flat: each axis is the stream seeded by what stands before it."""
    values = [finalised((k + randomness.key(purpose)) % 2**64) for k in keys.tolist()]
    for n in shape:
        values = [value for seed in values for value in itertools.islice(splitmix(seed), n)]
    return values


def interpreted(path):
    """The module at `path` with its kernels for the interpreter: the choice is made when a kernel is defined."""
    triton = pytest.importorskip("triton", reason="Triton comes with the CUDA builds of torch alone")
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = True
        return loaded(path)


def loaded(path):
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def source_of(name):
    return Path(inspect.getfile(available)).with_name(f"randomness_{name}.py")


@pytest.fixture(scope="module")
def interpreted_kernel():
    return interpreted(source_of("triton"))


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request, monkeypatch):
    """`randomness` draws by each of the three."""
    if request.param == "cpu":
        assert randomness._kernel(torch.device("cpu"), 2) is randomness_cpu
        return
    kernel = request.getfixturevalue("interpreted_kernel") if request.param == "triton" else None
    monkeypatch.setattr(randomness, "_kernel", lambda device, n_axes: kernel)


def by_torch(name, keys, purpose, *shape):
    with pytest.MonkeyPatch.context() as context:
        context.setattr(randomness, "_kernel", lambda device, n_axes: None)
        return getattr(randomness, name)(keys, purpose, *shape)


def same(a, b):
    """Bit for bit: also the sign of a zero."""
    as_integers = (x.view(torch.int32) if x.dtype == torch.float32 else x for x in (a, b))
    return a.dtype == b.dtype and torch.equal(*as_integers)


def n_wrong(keys=EXTREMES, shapes=SHAPES):
    """Shapes for which `randomness.bits` or one of the two floats made of it is not what Python's integers say."""
    wrong = 0
    for shape in shapes:
        values = true_bits(keys, "truth", *shape)
        signed = torch.from_numpy(np.array(values, np.uint64).view(np.int64)).view(len(keys), *shape)
        uniform = [float((Fraction(v >> 41) + Fraction(1, 2)) / 2**23) for v in values]  # exact in fp32
        right = torch.equal(randomness.bits(keys, "truth", *shape), signed)
        right &= torch.equal(randomness.uniform(keys, "truth", *shape), torch.tensor(uniform).view(len(keys), *shape))
        normal = randomness.normal(keys, "truth", *shape).flatten().double()
        right &= torch.allclose(normal, true_normal(values), atol=3e-6, rtol=2e-6)
        wrong += not right
    return wrong


def true_normal(values):
    u = [((v >> 32) + 0.5) / 2**32 for v in values]
    angles = [2 * math.pi * (v % 2**31) / 2**31 for v in values]
    pairs = zip(u, angles, strict=True)
    return torch.tensor([math.sqrt(-2 * math.log(u)) * math.cos(angle) for u, angle in pairs], dtype=torch.float64)


def test_the_truth_is_splitmix64():
    """The numbers that are published for this seed with many implementations of it."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert list(itertools.islice(splitmix(1234567), 4)) == published


def test_values(implementation):
    assert n_wrong() == 0


def test_recorded_values(implementation):
    """What was drawn stays what is drawn: a run that is resumed or repeated, also after an update, sees it again."""
    keys = torch.tensor([randomness.key(0, 1, "a"), -5])
    assert randomness.bits(keys, "posterior", 2).tolist() == [
        [-1085793556774370690, -6190419881840608193],
        [9136308580691598053, 4221767854685746660],
    ]
    assert randomness.uniform(keys, "segment", 1).tolist() == [[0.7921577095985413], [0.29130643606185913]]
    assert randomness.normal(keys, "posterior", 1, 2).flatten().tolist() == pytest.approx(
        [-0.197936162, -0.02104222, -0.32140106, 0.876390994], rel=1e-6
    )


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_bit_for_bit(implementation, name, shape):
    """Of no key, one, and several; the floats as well, whose rounding the truth above does not spell out."""
    for keys in (EXTREMES[:0], EXTREMES[:1], EXTREMES, KEYS):
        drawn = getattr(randomness, name)(keys, "posterior", *shape)
        assert drawn.shape == (len(keys), *shape) and drawn.is_contiguous() and drawn.device == keys.device
        assert same(drawn, by_torch(name, keys, "posterior", *shape))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bit_for_bit_over_many(name):
    """A size at which every rounding of 32 bits to fp32 occurs, in vector instructions and in what they leave over."""
    for shape in [(3, 33_333), (2, 2, 2, 501), (100_001,)]:
        assert same(getattr(randomness, name)(KEYS, "many", *shape), by_torch(name, KEYS, "many", *shape))


@pytest.mark.parametrize("view", ["slice", "every second", "column", "expanded"])
def test_keys_that_are_a_view(implementation, view):
    views = {
        "slice": EXTREMES[2:6],
        "every second": EXTREMES[::2],
        "column": torch.stack([EXTREMES, KEYS[:7]], 1)[:, 1],
        "expanded": EXTREMES[3:4].expand(5),
    }
    keys, before = views[view], views[view].clone()
    for name in FUNCTIONS:
        draw = getattr(randomness, name)
        assert same(draw(keys, "posterior", 3, 5), draw(before, "posterior", 3, 5))
    assert torch.equal(keys, before)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_modes_of_autograd(implementation, mode):
    weight = torch.ones(3, 5, requires_grad=True)
    with mode():
        keys = EXTREMES.clone()
        for name in FUNCTIONS:
            drawn = getattr(randomness, name)(keys, "posterior", 3, 5)
            assert not drawn.requires_grad and same(drawn.clone(), by_torch(name, EXTREMES, "posterior", 3, 5))
        product = (weight * drawn).sum()
    if mode is torch.enable_grad:
        product.backward()
        assert torch.equal(weight.grad, drawn.sum(0))


# ---------------------------------------------------------------------------------------- planted faults


FAULTS = [
    ("MULTIPLY_1", "0xBF58476D1CE4E5B9", "0xBF58476D1CE4E5BB"),
    ("GOLDEN", "0x9E3779B97F4A7C15", "0x9E3779B97F4A7C17"),
]


@pytest.mark.parametrize(
    "name, right, fault",
    [
        *[(name, right, fault) for name in ("cpu", "triton") for _, right, fault in FAULTS],
        ("cpu", "h ^ (h >> np.uint64(31))", "h ^ np.uint64(np.int64(h) >> np.int64(31))"),  # an arithmetic shift
        ("triton", "h ^ (h >> 31)", "h ^ (h.to(tl.int64, bitcast=True) >> 31).to(tl.uint64, bitcast=True)"),
        ("cpu", "[(0, 1), *((1, n) for n in shape)]", "[(0, 1), *((0, n) for n in shape)]"),  # counts from 0
        ("triton", "(index + 1)", "index"),
        ("cpu", "np.float32(np.uint32(h >>", "np.float32(np.int32(h >>"),  # the upper half of the radii is NaN
        ("triton", "tl.uint32", "tl.int32"),
        ("triton", "place - before_3 * n_3", "place"),
    ],
)
def test_a_planted_fault_in_a_kernel_is_found(name, right, fault, tmp_path, monkeypatch):
    source = source_of(name).read_text()
    assert source.count(right) == 1
    path = tmp_path / "faulty.py"
    path.write_text(source.replace(right, fault))
    kernel = interpreted(path) if name == "triton" else loaded(path)
    monkeypatch.setattr(randomness, "_kernel", lambda device, n_axes: kernel)
    assert n_wrong(shapes=[(3, 7)]) == 1


@pytest.mark.parametrize("name, fault", [*[(f"_{n}", int(x, 16) - 2**64) for n, _, x in FAULTS], ("shift", None)])
def test_a_planted_fault_in_the_definition_is_found(name, fault, monkeypatch):
    monkeypatch.setattr(randomness, "_kernel", lambda device, n_axes: None)
    if name == "shift":
        monkeypatch.setattr(randomness, "_unsigned_shift", lambda h, n: h >> n)
    else:
        monkeypatch.setattr(randomness, name, fault)
    assert n_wrong(shapes=[(3, 7)]) == 1


# ---------------------------------------------------------------------------------------- which of them draws


def test_which_draws(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(available, "can_start", lambda: False)
    assert randomness._kernel(cuda, 2) is None and randomness._kernel(torch.device("meta"), 2) is None
    monkeypatch.setattr(available, "can_start", lambda: True)
    pytest.importorskip("triton", reason="Triton comes with the CUDA builds of torch alone")
    from vitslite.kernels import randomness_triton as module

    assert randomness._kernel(cuda, 3) is module and randomness._kernel(cuda, 4) is None
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert randomness._kernel(cuda, 2) is None and randomness._kernel(torch.device("cpu"), 2) is None


def test_a_compiled_model_draws_the_same():
    """The backend `eager` runs what was traced, without a compiler of its own, whose logarithm would be another."""

    def noise(keys):
        return randomness.normal(keys, "posterior", 3, 5)

    assert same(torch.compile(noise, backend="eager")(KEYS), noise(KEYS))


def test_shapes_without_numbers():
    assert randomness.normal(KEYS.to("meta"), "posterior", 3, 5).shape == (8, 3, 5)


def test_importing_loads_no_compiler():
    code = (
        "import sys; from vitslite import randomness; from vitslite.model import alignment, layers;"
        "sys.exit(any(f'vitslite.randomness_{x}' in sys.modules for x in ('cpu', 'triton')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------------------------------- on a GPU


@pytest.mark.parametrize("name, n_results", [("_bits", 1), ("_uniform", 1), ("_uniform_and_angle", 2)])
@pytest.mark.parametrize("n_axes", range(4))
def test_it_compiles_for_a_gpu(name, n_results, n_axes, tmp_path):
    """For sm_90, with the types that a launch has."""
    triton = pytest.importorskip("triton", reason="Triton comes with the CUDA builds of torch alone")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from vitslite.kernels import randomness_triton

    kernel, constants = getattr(randomness_triton, name), {"N_AXES": n_axes, "BLOCK": randomness_triton._BLOCK}
    types = {"keys": "*i64", "purpose": "i64", "u": "*fp32", "angle": "*fp32"}
    types |= {"result": "*i64" if name == "_bits" else "*fp32"} | dict.fromkeys(constants, "constexpr")
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(tmp_path)
        source = ASTSource(kernel, {x: types.get(x, "i32") for x in kernel.arg_names}, constants)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    ptx = compiled.asm["ptx"]
    assert compiled.asm["cubin"] and ptx.count("st.global") >= n_results
    assert "shr.s64" not in ptx and "fma" not in ptx  # shifts bring in zeros; a fused product would round otherwise


@on_gpu
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_gpu_draws_the_same(name):
    """As the operations of torch on that GPU, bit for bit; `bits` and `uniform` as on the CPU, too."""
    for keys, shape in itertools.product((EXTREMES[:0], EXTREMES[:1], EXTREMES, KEYS[::2]), [*SHAPES, (192, 501)]):
        drawn = getattr(randomness, name)(keys.cuda(), "posterior", *shape)
        assert same(drawn, by_torch(name, keys.cuda(), "posterior", *shape))
        if name != "normal":
            assert same(drawn.cpu(), by_torch(name, keys, "posterior", *shape))


@on_gpu
def test_a_gpu_compiles_once_for_all_sizes():
    from vitslite.kernels import randomness_triton

    def n_compiled():
        return sum(len(caches[0]) for caches in randomness_triton._uniform.device_caches.values())

    randomness.uniform(KEYS.cuda(), "posterior", 16, 16)
    before = n_compiled()
    for n_items, n, m in [(1, 1, 1), (2, 3, 5), (8, 192, 512), (7, 1, 4096)]:
        randomness.uniform(KEYS.cuda()[:n_items], "prior", n, m)
    assert n_compiled() == before


@on_gpu
def test_a_gpu_reaches_past_32_bits():
    """More elements than an offset of 32 bits counts: the last are those of the definition. Takes 9 GB of the GPU."""
    keys, n = torch.arange(2, device="cuda"), 2**15 + 1
    last = randomness.uniform(keys, "long", n, n)[1, -1].cpu()
    row = by_torch("bits", keys[1:].cpu(), "long", n)[0, -1:]
    h = randomness._mix(row + randomness._GOLDEN * torch.arange(1, n + 1))
    assert same(last, (randomness._unsigned_shift(h, 41).float() + 0.5) * 2.0**-23)
