"""The report's pictures: curves and choices against figures worked out by hand, files that open and stay small."""

import numpy as np
import pytest
import torch
from PIL import Image
from srrl_tasks.faces import figures
from srrl_tasks.faces.dataset import FaceDataset
from srrl_tasks.faces.records import FaceRecord
from srrl_tasks.faces.schemes import scheme_for
from srrl_tasks.faces.settings import FacesSettings
from srrl_tasks.faces.task import FacesTask

from srrl.config import resolve
from srrl.task import Data


def records(count=11, undetected=()):
    made = []
    for i in range(count):
        rng = np.random.default_rng(i)
        points = rng.uniform(20, 100, (68, 2))
        points[36], points[45] = (40, 50), (80, 50)  # 40 pixels between the outer corners of the eyes
        pixels = rng.integers(0, 256, (120, 120, 3), dtype=np.uint8)
        made.append(FaceRecord(f"f{i}", points, pixels=lambda p=pixels: p, undetected=i in undetected))
    return made


def dataset(**kwargs):
    return FaceDataset(records(**kwargs), scheme_for(68), 64)


@pytest.fixture
def drawn(monkeypatch):
    """Figures are kept instead of written."""
    kept = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, out: kept.append(figure))
    return kept


def test_face_errors():
    data = dataset(count=3, undetected=(1,))
    found = np.stack([r.points for r in data.records])
    found[0, :34] += (0.0, 4.0)  # half of the points by 4 of 40 pixels: 5 %
    assert figures.face_errors(found, data, None).tolist() == pytest.approx([0.05, np.inf, 0.0])


def test_ced(drawn, tmp_path):
    figures.draw_ced(
        {"student": np.array([0.02, 0.04, 0.06, 0.20]), "teacher": np.array([0.01, np.inf])},
        tmp_path / "c.png",
        "NME",
    )
    axis = drawn[0].axes[0]
    student, teacher = axis.lines
    x, y = student.get_data()

    def at(line, value):
        return float(line.get_ydata()[np.argmin(np.abs(x - value))])

    assert (x[0], x[-1]) == (0, 10)
    assert [at(student, v) for v in (1.9, 2.1, 4.1, 6.1, 10)] == [0, 25, 50, 75, 75]
    assert [at(teacher, v) for v in (0.9, 1.1, 10)] == [
        0,
        50,
        50,
    ]  # the face that was not detected never comes
    # mean of 2 4 6 20; one of four above 10; mean of 0.8 0.6 0.4 0
    texts = [t.get_text() for t in axis.get_legend().get_texts()]
    assert texts[0] == "student: NME 8.00 %, FR 25.0 %, AUC 0.450"
    assert texts[1] == "teacher: NME 1.00 %, FR 50.0 %, AUC 0.450"


def test_regions(drawn, tmp_path):
    data = dataset(count=2)
    found = np.stack([r.points for r in data.records])
    found[:, :17] += (4.0, 0.0)  # the jaw by 10 %
    found[:, 67] += (0.0, 8.0)  # one of the mouth's 20 points by 20 %
    figures.draw_regions(
        {"teacher": found, "student": np.stack([r.points for r in data.records])},
        data,
        None,
        tmp_path / "r.png",
        "NME",
    )
    left, right = drawn[0].axes
    names = [t.get_text() for t in left.get_xticklabels()]
    heights = dict(zip(names, [b.get_height() for b in left.containers[0]], strict=True))
    assert heights == pytest.approx({"jaw": 10.0, "brows": 0.0, "nose": 0.0, "eyes": 0.0, "mouth": 1.0})
    assert right.lines[0].get_ydata()[[0, 16, 17, 66, 67]] == pytest.approx([10, 10, 0, 0, 20])
    assert [t.get_text() for t in right.texts] == ["jaw", "brows", "nose", "eyes", "mouth"]


def test_chosen_faces():
    errors = np.array([7, 3, 1, 0, 2, 6, 5, 4], float)  # easy to hard: 3 2 4 1 7 6 5 0
    assert figures.chosen_faces(errors, 4) == [2, 1, 6, 0]  # places 1, 3, 5, 7
    assert figures.chosen_faces(errors, 8) == [3, 2, 4, 1, 7, 6, 5, 0]
    errors[0] = np.inf
    assert figures.chosen_faces(errors, 50) == [3, 2, 4, 1, 7, 6, 5]


def test_cell_places_points_in_the_crop():
    data = dataset(count=1)
    plain = figures._cell(data, 0, np.full((1, 68, 2), np.nan))
    moved = data.records[0].points[None].copy()
    drawn = figures._cell(data, 0, moved)
    assert plain.shape == drawn.shape == (figures.CELL,) * 2 + (3,)
    # the crop's longer landmark side is 1 / 1.25 of it and its middle is the middle
    points = data.records[0].points
    low, high = points.min(0), points.max(0)
    x, y = (points[8] - (low + high) / 2) / (1.25 * (high - low).max()) * 256 + 127.5
    assert np.abs(drawn[round(y), round(x)].astype(int) - (86, 180, 233)).max() < 40


def test_sheet_of_noise_is_made_smaller(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1100, 2200, 3), dtype=np.uint8))
    figures._save_small(noise, tmp_path / "noise.png")
    assert (tmp_path / "noise.png").stat().st_size < figures.SHEET_LIMIT
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 600).astype(np.uint8)[None, :, None], (200, 1, 3)))
    figures._save_small(ramp, tmp_path / "ramp.png")
    kept = np.asarray(Image.open(tmp_path / "ramp.png").convert("RGB")).astype(int)
    assert kept.shape == (200, 600, 3) and np.abs(kept - np.asarray(ramp)).max() <= 3


@pytest.mark.parametrize("names", [("teacher", "student", "baseline"), ("student",)])
def test_report_figures(tmp_path, names):
    small = {"arch": "resnet10", "width": 4, "decoder": [8, 8, 8]}
    cfg = resolve(FacesSettings, {"image_size": 64, "student": small, "teacher": small})
    torch.manual_seed(0)
    models = {n: FacesTask().build_student(cfg) for n in names}
    data = Data(None, None, dataset(undetected=(2,)), "noise", "landmark-box", 64)
    found = figures.report_figures(models, data, cfg, tmp_path)
    assert [f for f, _ in found] == ["ced.png", "contact.png", "regions.png", "offsets.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "ced.png",
        "contact.png",
        "offsets.png",
        "regions.png",
    ]
    for file, caption in found:
        assert caption.endswith(".")
        Image.open(tmp_path / file).verify()
        assert (tmp_path / file).stat().st_size < 900_000  # even of noise
