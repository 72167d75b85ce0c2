"""ONNX graphs: answers against torch and against plain arithmetic, any batch size, int8, and use without torch."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import srrl
from srrl.config import resolve
from srrl.errors import RunError, UserError
from srrl.onnx_export import check_onnx, write_int8, write_onnx
from srrl.onnx_network import open_onnx
from srrl.task import get_task

README = Path(__file__).resolve().parents[2] / "README.md"
SHEET = README.parent / "docs" / "synthetic-faces.jpg"
FACES = {
    "image_size": 64,
    "data": {"train": "/somewhere/of/mine", "cache_dir": "/somewhere/of/mine/too", "n_points": 68},
    "student": {"width": 4, "decoder": [8, 8, 8]},
}
DIGITS = {"image_size": 16, "data": {"n_classes": 10, "classes": list("0123456789")}}


class Pictures(torch.utils.data.Dataset):
    """Random pictures as the data sets give them."""

    def __init__(self, size, count=6):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return {"image": self.images[i], "index": i}


def student_of(name, values):
    """A task, its settings and a student whose BatchNorms have seen something."""
    task = get_task(name, values)
    cfg = resolve(task.settings, task.filled(values), values)
    torch.manual_seed(0)
    model = task.build_student(cfg)
    with torch.no_grad():
        if hasattr(model, "final"):
            model.final.weight.mul_(100)  # peaks that stand out
        for _ in range(3):
            model.train()(torch.rand(8, 3, cfg.image_size, cfg.image_size))
    return task, model.eval(), cfg


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(task, student, settings, what torch computes, file) of a landmark network and of a classifier."""
    folder, found = tmp_path_factory.mktemp("für geräte"), {}
    for name, values in (("faces", FACES), ("classification", DIGITS)):
        task, model, cfg = student_of(name, values)
        path = folder / f"{name}.onnx"
        found[name] = task, model, cfg, write_onnx(task, model, cfg, path), path
    return found


def pixels(count, size, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_probabilities_of_any_number_of_pictures(written, count):
    _, model, _, _, path = written["classification"]
    x = pixels(count, 16)
    with torch.no_grad():
        logits = model(torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255).double().numpy()
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    session = onnxruntime.InferenceSession(path)
    np.testing.assert_allclose(session.run(["probabilities"], {"pixels": x})[0], expected, atol=1e-5)
    np.testing.assert_allclose(session.run(["logits"], {"pixels": x})[0], logits, atol=1e-4)


@pytest.mark.parametrize("count", [1, 3])
def test_points_are_those_of_the_codec(written, count):
    """The codec's own path solves with LAPACK, the graph by elimination."""
    from srrl_tasks.faces.predict import make_codec

    _, model, cfg, _, path = written["faces"]
    x = pixels(count, 64)
    with torch.no_grad():
        maps = model(torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255)
    found = onnxruntime.InferenceSession(path).run(["points", "scores", "heatmaps"], {"pixels": x})
    np.testing.assert_allclose(found[2], maps.numpy(), atol=1e-5)
    points, scores = make_codec(cfg, model).decode(torch.from_numpy(found[2]))
    np.testing.assert_allclose(found[1], scores.numpy(), atol=1e-5)
    error = np.abs(found[0] - points.numpy())
    assert (
        np.median(error) < 1e-5 and error.max() < 0.02
    )  # maps of an untrained network have ill-conditioned peaks
    assert np.ptp(found[0][0], axis=0).min() > 5  # all over the crop


def test_elimination_against_numpy():
    from srrl_tasks.faces.codec import _solved

    rng = np.random.default_rng(0)
    a = rng.normal(size=(20, 6, 8))
    matrix, right = a @ a.transpose(0, 2, 1), rng.normal(size=(20, 6))
    expected = np.linalg.solve(matrix, right[..., None])[..., 0]
    found = _solved(torch.from_numpy(matrix), torch.from_numpy(right)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_a_graph_that_answers_otherwise_is_refused(written):
    _, model, _, graph, path = written["classification"]
    count, largest = check_onnx(graph, path, Pictures(16))
    assert count == 6 and 0 <= max(largest.values()) < 1e-4
    head = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
    with torch.no_grad():
        head.bias[3] += 0.1
        with pytest.raises(RunError, match="the graph's logits differ from the run's student by 0"):
            check_onnx(graph, path, Pictures(16))
        head.bias[3] -= 0.1


def test_the_file_says_what_it_takes_and_nothing_of_the_machine(written):
    for name, size, outputs in (
        ("faces", 64, ["heatmaps", "points", "scores"]),
        ("classification", 16, ["logits", "probabilities"]),
    ):
        path = written[name][-1]
        proto = onnx.load(path)
        props = {p.key: p.value for p in proto.metadata_props}
        assert props["srrl.image_size"] == str(size) and props["srrl.task"] == name
        assert [o.name for o in proto.graph.output] == outputs
        data = path.read_bytes()
        assert b"/somewhere" not in data and b".py" not in data
        assert str(README.parent).encode() not in data


def test_a_classifiers_file_says_how_to_prepare_a_picture_and_what_the_classes_are(written):
    """Its words, followed with OpenCV and ONNX Runtime alone, give what srrl.load gives."""
    path = written["classification"][-1]
    session = onnxruntime.InferenceSession(str(path))
    notes = session.get_modelmeta().custom_metadata_map
    assert notes["srrl.preparation"].startswith("the shorter side resized to 16 pixels (averaged over areas")
    classes = json.loads(notes["srrl.classes"])
    picture = cv2.imread(str(SHEET))[200:500, 200:600, ::-1].copy()
    small = cv2.resize(picture, (round(400 * 16 / 300), 16), interpolation=cv2.INTER_AREA)
    left = (small.shape[1] - 16) // 2
    p = session.run(["probabilities"], {"pixels": small[None, :, left : left + 16]})[0][0]
    best = srrl.load(path)(picture)[0]
    assert classes[int(p.argmax())] == best.name and float(p.max()) == pytest.approx(
        best.probability, abs=1e-5
    )


def test_what_cannot_be_traced_or_run_ends_in_one_line(written, tmp_path):
    task, model, cfg = student_of("classification", DIGITS)

    class Untraceable(torch.nn.Module):
        output_kind = "logits"

        def forward(self, x):
            return x.mean((2, 3)) if float(x.sum()) > 0 else x.amax((2, 3))

    with pytest.raises(RunError, match="torch cannot express this network as an ONNX graph"):
        write_onnx(task, Untraceable(), cfg, tmp_path / "a.onnx")
    _, network, _ = open_onnx(written["classification"][-1])
    with pytest.raises(RunError, match="ONNX Runtime could not run the graph"):
        network(torch.rand(1, 3, 20, 20))


def test_the_file_predicts_as_the_network(written):
    task, model, cfg, _, path = written["faces"]
    picture = cv2.imread(str(SHEET))[200:500, 200:500, ::-1].copy()
    ours = task.predictor(model, cfg)(picture, box=(60, 60, 200, 210))
    theirs = srrl.load(path)(picture, box=(60, 60, 200, 210))
    np.testing.assert_allclose(theirs[0].points, ours[0].points, atol=0.02)
    task, model, cfg, _, path = written["classification"]
    digit = pixels(1, 16)[0]
    for a, b in zip(srrl.load(path)(digit), task.predictor(model, cfg)(digit), strict=True):
        assert a.name == b.name and a.probability == pytest.approx(b.probability, abs=1e-5)


@pytest.mark.parametrize("name", ["faces", "classification"])
def test_int8_keeps_the_answers_in_float(written, name, tmp_path):
    task, model, cfg, _, path = written[name]
    size, out = cfg.image_size, tmp_path / "int8.onnx"
    write_int8(path, Pictures(size, 20), out)
    nodes = onnx.load(out).graph.node
    assert sum(n.op_type == "QuantizeLinear" for n in nodes) > 5
    weights = {i.name: i for i in onnx.load(out).graph.initializer}
    assert any(i.data_type == onnx.TensorProto.INT8 for i in weights.values())
    raw = onnx.load(out).graph.output[0].name
    later, made = {raw}, []
    for node in nodes:  # in order of computation
        if later & set(node.input):
            later |= set(node.output)
            made.append(node.op_type)
    assert made and not {"QuantizeLinear", "DequantizeLinear"} & set(made)
    x = torch.from_numpy(pixels(16, size, seed=3)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        exact = model(x)
    found = open_onnx(out)[1](x)
    error = float((found - exact).square().mean().sqrt() / exact.std())
    assert 1e-5 < error < 0.35  # rounded, and still the network


def test_readme_example_runs_without_torch(written, tmp_path):
    """The example as it stands, on the sheet of synthetic faces, in a process where torch cannot be imported."""
    text = README.read_text(encoding="utf-8")
    example = re.search(r"<!-- onnx example -->\n```python\n(.*?)```", text, re.S).group(1)
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    (tmp_path / "student.onnx").write_bytes(written["faces"][-1].read_bytes())
    cv2.imwrite(str(tmp_path / "photo.jpg"), cv2.imread(str(SHEET)))
    blocked = "import sys\nsys.modules['torch'] = None\n"
    told = "\n    print(*np.round(points, 3).ravel(), *centre, side)\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + example.rstrip() + told],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stdout.splitlines()  # two lines a face: the example's own, and what is told here
    assert all(line.startswith("face at ") for line in said[::2])
    found = [np.array(line.split(), float) for line in said[1::2]]
    assert all(len(f) == 139 for f in found)
    assert len(found) >= 10
    task, model, cfg, _, _ = written["faces"]
    from srrl_tasks.faces.crop import Crop

    picture, compared = cv2.imread(str(tmp_path / "photo.jpg"))[..., ::-1].copy(), 0
    for values in found:
        points, (x, y), side = values[:136].reshape(68, 2), values[136:138], values[138]
        if side >= 2 * 64:  # there our own crops are averaged
            continue
        crop = Crop((x, y), side, 64)
        pixels = torch.from_numpy(crop.warp(picture)).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            (expected,), _ = task.answers(model, cfg)(model(pixels))
        error = np.abs(crop.invert(expected.numpy()) - points).max(1)
        # resampled pixels differ by a level, which moves the peaks of an untrained map
        assert np.median(error) < 0.03 and (error < 0.1).mean() > 0.75
        compared += 1
    assert compared >= 3


@pytest.mark.parametrize("method", ["simkd", "srrl_head"])
def test_students_that_keep_the_teachers_head(method, tmp_path):
    from srrl.distillers import distiller_class

    task, student, cfg = student_of("classification", DIGITS)
    model = distiller_class(method).deployed(student, task.build_teacher(cfg)).eval()
    graph = write_onnx(task, model, cfg, tmp_path / "a.onnx")
    count, largest = check_onnx(graph, tmp_path / "a.onnx", Pictures(16))
    assert count == 6 and largest["probabilities"] < 1e-4


def test_damaged_and_foreign_files_are_named(tmp_path, written):
    (tmp_path / "half.onnx").write_bytes(written["classification"][-1].read_bytes()[:2000])
    with pytest.raises(UserError, match="half.onnx is damaged or no ONNX graph"):
        srrl.load(tmp_path / "half.onnx")
    proto = onnx.load(written["classification"][-1])
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "foreign.onnx")
    with pytest.raises(UserError, match="foreign.onnx was not written by python -m srrl.export"):
        srrl.load(tmp_path / "foreign.onnx")
    proto = onnx.load(written["classification"][-1])
    for prop in proto.metadata_props:
        if prop.key == "srrl.settings":
            prop.value = '{"novel": 1}'
    onnx.save(proto, tmp_path / "newer.onnx")
    with pytest.raises(
        UserError, match="newer.onnx does not describe itself as this version expects .*novel"
    ):
        srrl.load(tmp_path / "newer.onnx")
    with pytest.raises(UserError, match="holds the student alone"):
        srrl.load(written["classification"][-1], "teacher")
