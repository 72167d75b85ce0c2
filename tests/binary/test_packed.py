"""Packed layers against integer loops and against the float simulation, to the last bit; packed files and what spoils them."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file
from small_run import ROOT
from srrl_tasks.binary import kernels
from srrl_tasks.binary.layers import BinaryConv2d, BinaryLinear
from srrl_tasks.binary.networks import BinaryUnit, binary_resnet
from srrl_tasks.binary.packed import PackedConv2d, PackedLinear, PackedUnit, pack
from srrl_tasks.binary.packed_file import read_packed, write_packed
from srrl_tasks.binary.settings import BinarySettings
from srrl_tasks.binary.speed import plausible
from torch import nn

from srrl.checkpoint import save_export
from srrl.errors import UserError


@pytest.fixture(params=["counted", "looked up"])
def way(request, monkeypatch):
    """Both kinds of kernels, of which a processor takes one: each gives the same everywhere, only not as fast."""
    monkeypatch.setattr(kernels, "counts_bits", lambda: request.param == "counted")


UNIT = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def picture(*shape, seed=0):
    """Noise with zeros of both signs in it, channels last."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator)
    chance = torch.rand(*shape, generator=generator)
    x[chance < 0.2] = 0.0
    x[chance < 0.1] = -0.0
    return x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x


def integer_loop(x, weight, stride, padding):
    """Sum of products of signs over the kernel's places inside the picture, in Python integers."""
    signs = np.where(x.numpy() >= 0, 1, -1).astype(np.int64)
    weights = np.where(weight.detach().numpy() >= 0, 1, -1).astype(np.int64)
    size = weights.shape[2]
    padded = np.pad(signs, ((0, 0), (0, 0), (padding, padding), (padding, padding)))  # zeros, neither sign
    rows, columns = ((n - size) // stride + 1 for n in padded.shape[2:])
    out = np.zeros((len(signs), len(weights), rows, columns), np.int64)
    for i, j in np.ndindex(rows, columns):
        window = padded[:, None, :, i * stride : i * stride + size, j * stride : j * stride + size]
        out[:, :, i, j] = (window * weights[None]).sum((2, 3, 4))
    return out


SHAPES = [
    # inputs, outputs, kernel, stride, padding, batch, height, width
    (1, 1, 1, 1, 0, 1, 1, 1),
    (1, 5, 3, 1, 1, 2, 4, 5),
    (2, 3, 3, 2, 1, 1, 7, 6),
    (3, 65, 3, 1, 2, 1, 5, 5),
    (4, 64, 5, 1, 2, 1, 6, 7),
    (5, 7, 5, 2, 1, 2, 9, 8),
    (6, 66, 1, 2, 0, 3, 5, 4),
    (7, 2, 3, 1, 0, 1, 4, 4),
    (8, 8, 3, 2, 0, 1, 8, 9),
    (9, 63, 3, 1, 1, 1, 6, 6),
    (13, 4, 5, 1, 2, 1, 7, 7),
    (63, 10, 3, 1, 1, 1, 5, 6),
    (64, 64, 3, 1, 1, 1, 9, 9),
    (65, 130, 3, 2, 1, 1, 6, 5),
    (66, 6, 1, 1, 2, 1, 3, 3),
    (127, 3, 3, 1, 1, 2, 4, 4),
    (128, 128, 3, 2, 1, 1, 7, 7),
    (130, 70, 5, 2, 2, 1, 6, 6),
    (260, 2, 5, 1, 2, 1, 3, 3),
]


@pytest.mark.parametrize(("inputs", "outputs", "kernel", "stride", "padding", "batch", "h", "w"), SHAPES)
def test_convolution_is_exact(way, inputs, outputs, kernel, stride, padding, batch, h, w):
    torch.manual_seed(inputs)
    layer = BinaryConv2d(inputs, outputs, kernel, stride, padding)
    x = picture(batch, inputs, h, w, seed=outputs)
    with torch.no_grad():
        layer.weight[torch.rand_like(layer.weight) < 0.1] = -0.0
        layer.alpha.uniform_(-1, 2)
        simulated = layer(x)
    found = PackedConv2d(layer)(x)
    assert torch.equal(found, simulated)
    ones = BinaryConv2d(inputs, outputs, kernel, stride, padding)
    ones.load_state_dict({"weight": layer.weight, "alpha": torch.ones(outputs)})
    expected = integer_loop(x, layer.weight, stride, padding)
    assert np.array_equal(PackedConv2d(ones)(x).numpy(), expected)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("inputs", "kernel"), [(1300, 5), (32767, 1), (32766, 1), (3640, 3)])
def test_the_largest_sums_do_not_overflow(way, inputs, kernel, sign):
    """All signs alike: every byte and every 16-bit sum is at its greatest."""
    layer = BinaryConv2d(inputs, 1, kernel)
    with torch.no_grad():
        layer.weight.fill_(sign)
        layer.alpha.fill_(1)
    assert PackedConv2d(layer)(torch.ones(1, inputs, kernel, kernel)).item() == sign * inputs * kernel**2


def test_sums_beyond_sixteen_bits_are_refused():
    with pytest.raises(UserError, match="32768 signs has no packed form: expected 32767 at most"):
        PackedConv2d(BinaryConv2d(32768, 1, 1))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_layouts_of_the_input_do_not_matter(way, layout):
    torch.manual_seed(0)
    layer, x = BinaryConv2d(12, 20, 3, 1, 1), picture(2, 12, 5, 6)
    with torch.no_grad():
        expected = layer(x)
    assert torch.equal(PackedConv2d(layer)(x.contiguous(memory_format=layout)), expected)


def test_wrong_inputs_are_refused():
    layer = PackedConv2d(BinaryConv2d(4, 2, 3))
    with pytest.raises(ValueError, match="5 channels, expected 4"):
        layer(torch.zeros(1, 5, 8, 8))
    with pytest.raises(ValueError, match="smaller than the kernel"):
        layer(torch.zeros(1, 4, 2, 8))
    with pytest.raises(ValueError, match="float32 on the CPU, not torch.float64"):
        layer(torch.zeros(1, 4, 8, 8, dtype=torch.float64))


@pytest.mark.parametrize(("shape", "bias"), [((1, 70), True), ((9, 33), False), ((2, 3, 8), True)])
def test_linear_is_exact(way, shape, bias):
    torch.manual_seed(1)
    layer, x = BinaryLinear(shape[-1], 67, bias), picture(*shape)
    with torch.no_grad():
        assert torch.equal(PackedLinear(layer)(x), layer(x))


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(6, 6, 1), (6, 70, 2), (64, 64, 1), (7, 9, 1)])
def test_unit_rounds_as_torch_does(way, inputs, outputs, stride):
    """BatchNorm, shortcut and PReLU behind the convolution, with statistics and slopes of every kind."""
    torch.manual_seed(2)
    unit = BinaryUnit(inputs, outputs, stride, "binary").eval()
    with torch.no_grad():
        for m in unit.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.normal_(0, 3)
                m.running_var.uniform_(1e-3, 50)
                m.weight.normal_()
                m.bias.normal_()
        unit.activation.weight.uniform_(-0.5, 1.5)
        x = picture(2, inputs, 9, 7)
        assert torch.equal(PackedUnit(unit)(x), unit(x))


@pytest.mark.parametrize(
    ("arch", "width", "image_size", "batch"),
    [("resnet18", 16, 101, 1), ("resnet18", 64, 32, 3), ("resnet14", 7, 28, 2), ("resnet8", None, 8, 1)],
)
def test_whole_networks_give_the_same_logits(arch, width, image_size, batch):
    """Odd sizes take the pooled stem and the ceiling of the average pool to their borders."""
    torch.manual_seed(3)
    model = binary_resnet(arch, 10, width=width, precision="binary", image_size=image_size, **UNIT)
    model = plausible(model, image_size).to(memory_format=torch.channels_last)
    x = torch.rand(batch, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected, packed = model(x), pack(model)
        assert expected.std() > 0.01  # a network that says something
        assert torch.equal(packed(x), expected)
        assert torch.equal(packed(x.contiguous()), expected)  # it has one layout inside


def settings(arch, width, image_size, classes):
    return BinarySettings(
        image_size=image_size,
        student={"arch": arch, "width": width},
        data={"n_classes": classes, "classes": [f"çlass {i}" for i in range(classes)]},
    )


@pytest.mark.parametrize(
    ("image_size", "classes", "megabytes", "weights"), [(224, 1000, 4.5, 11e6), (32, 10, 2.6, 11e6)]
)
def test_file_has_one_bit_a_binary_weight(tmp_path, image_size, classes, megabytes, weights):
    model = binary_resnet("resnet18", classes, precision="binary", image_size=image_size, **UNIT)
    path = tmp_path / "packed.safetensors"
    write_packed(model.eval(), settings("resnet18", None, image_size, classes), path)
    assert weights / 8 < path.stat().st_size < megabytes * 1e6
    found, cfg = read_packed(path)
    assert cfg.image_size == image_size and cfg.data.classes[-1] == f"çlass {classes - 1}"
    with torch.no_grad():
        x = torch.rand(1, 3, image_size, image_size)
        assert torch.equal(found(x), model.to(memory_format=torch.channels_last)(x))


@pytest.fixture
def packed_file(tmp_path):
    torch.manual_seed(4)
    model = binary_resnet("resnet8", 3, width=5, precision="binary", image_size=16, **UNIT)
    path = tmp_path / "packed.safetensors"
    write_packed(plausible(model, 16), settings("resnet8", 5, 16, 3), path)
    return path, model


def test_bits_in_the_file_are_the_signs_of_the_weights(packed_file):
    path, model = packed_file
    bits = load_file(path)["stages.0.0.conv.weight"]
    signs = [w >= 0 for w in model.stages[0][0].conv.weight.flatten().tolist()]
    expected = [sum(s << 7 - i for i, s in enumerate(signs[k : k + 8])) for k in range(0, len(signs), 8)]
    assert bits.dtype == torch.uint8 and bits.tolist() == expected


def flipped(data):
    data[-5] ^= 1  # one bit of a weight


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data.__delitem__(slice(-40, None)), "is damaged or no safetensors file"),
        (lambda data: data.__setitem__(slice(0, 60), b"x" * 60), "is damaged or no safetensors file"),
        (lambda data: data.clear(), "is damaged or no safetensors file"),
        (flipped, "is damaged .its checksum does not fit."),
    ],
)
def test_damaged_files_give_one_line(packed_file, spoil, message):
    path, _ = packed_file
    data = bytearray(path.read_bytes())
    spoil(data)
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        read_packed(path)
    assert "\n" not in str(error.value)


def changed(path, name, value):
    """The file as a program would write it that puts another entry into its header, its tensors as they are."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    metadata[name] = value(metadata[name])
    del metadata["srrl.crc32"]
    save_export(path, load_file(path), metadata)


def test_foreign_and_newer_files_give_one_line(packed_file, tmp_path):
    path, model = packed_file
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="was not written by python -m srrl.export: give such a file"):
        read_packed(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="does not exist: expected a file"):
        read_packed(tmp_path / "none.safetensors")
    changed(path, "network", lambda text: json.dumps(json.loads(text) | {"width": 6}))
    with pytest.raises(UserError, match="was saved from another architecture"):
        read_packed(path)
    changed(path, "network", lambda text: "{}")
    with pytest.raises(UserError, match="does not describe its network .KeyError."):
        read_packed(path)
    changed(path, "version", lambda text: "2")
    with pytest.raises(UserError, match="is no packed file of version 1"):
        read_packed(path)
    real = binary_resnet("resnet8", 3, width=5, precision="activations", image_size=16, **UNIT)
    with pytest.raises(UserError, match="only a student of one-bit weights"):
        write_packed(real, settings("resnet8", 5, 16, 3), tmp_path / "real.safetensors")


WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None  # its import fails, as where it is not installed
import numpy as np, srrl
from srrl.task import ensure_tasks_importable
image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
for _ in range(2):
    print([g.probability for g in sorted(srrl.load(sys.argv[1])(image), key=lambda g: g.number)])
"""


def test_without_numba_the_float_path_answers_and_says_so_once(packed_file):
    import srrl

    path, _ = packed_file
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NUMBA, str(path)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    expected = "packed file on the slow float path: Numba is missing (pip install 'srrl[fast]')"
    assert done.stderr.splitlines().count(expected) == 1 and len(done.stderr.splitlines()) == 1
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    guesses = sorted(srrl.load(path)(image), key=lambda g: g.number)
    assert done.stdout.splitlines() == [str([g.probability for g in guesses])] * 2


def test_kernels_compile_where_no_cache_can_be_written(tmp_path):
    """Numba then finds no folder at all; the kernels still run."""
    code = """
import numba.core.caching
numba.core.caching.CacheImpl._locator_classes = []
from srrl.task import ensure_tasks_importable
ensure_tasks_importable()
import numpy as np
from srrl_tasks.binary import kernels
print(kernels.numbers_of(np.array([[[[1, -1, -0.0, -2]]]], np.float32), 0).item())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=240)
    assert done.stdout.split() == [str(16 * 0b0101)], done.stderr
