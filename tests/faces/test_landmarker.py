"""A dot painted at a known place comes back from there, whatever the crop, the orientation and the batch."""

import numpy as np
import pytest
import torch
from PIL import Image
from srrl_tasks.faces.crop import Crop
from srrl_tasks.faces.draw import CONTOURS, REGION_COLOURS, draw_points
from srrl_tasks.faces.landmarker import Landmarker
from srrl_tasks.faces.models import heatmap_size
from srrl_tasks.faces.schemes import SCHEMES
from srrl_tasks.faces.settings import FacesSettings

import srrl
from srrl.checkpoint import save_weights
from srrl.config import dump, resolve
from srrl.errors import UserError
from srrl.task import get_task

RED, BLUE = (83.4, 61.7), (118.2, 96.6)  # x, y of the two dots in a picture of 200 x 150
JAW = 17


class DotNet(torch.nn.Module):
    """Heatmaps (N, 68, S/4, S/4): where the picture is red for the 17 points of the jaw, where it is blue for the others."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        red, _, blue = torch.nn.functional.avg_pool2d(x, 4).split(1, dim=1)
        return torch.cat([red.expand(-1, JAW, -1, -1), blue.expand(-1, 68 - JAW, -1, -1)], 1)


def dots(width=200, height=150, red=RED, blue=BLUE, sigma=6.0):
    """Gaussian dots in float64, centres at whole coordinates."""
    y, x = np.mgrid[:height, :width]
    picture = np.zeros((height, width, 3))
    for channel, (cx, cy) in ((0, red), (2, blue)):
        picture[..., channel] = 255 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
    return np.round(picture).astype(np.uint8)


def landmarker(**changes):
    return Landmarker(DotNet(), resolve(FacesSettings, changes))


def check(face, red=RED, blue=BLUE, tolerance=0.3):
    assert face.points.shape == (68, 2) and face.points.dtype == np.float64
    assert np.abs(face.points[:JAW] - red).max() < tolerance
    assert np.abs(face.points[JAW:] - blue).max() < tolerance


@pytest.mark.parametrize("box", ["whole", (50, 30, 150, 130), (60.5, 20.25, 170.0, 130.75)])
@pytest.mark.parametrize("flip_test", [False, True])
def test_dots_come_back(box, flip_test):
    (face,) = landmarker(flip_test=flip_test)(dots(), box=box)
    check(face)
    assert face.scores.shape == (68,) and face.score == pytest.approx(face.scores.mean())
    assert 0.8 < face.score <= 1.0


def test_paths_and_pil_images_give_the_same(tmp_path):
    Image.fromarray(dots()).save(tmp_path / "a.png")
    net = landmarker()
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(dots())):
        check(net(given, box="whole")[0])


def test_turned_jpeg_is_predicted_as_displayed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise, so stored turned counter-clockwise
    Image.fromarray(np.rot90(dots())).save(tmp_path / "turned.jpg", exif=exif, quality=98, subsampling=0)
    assert Image.open(tmp_path / "turned.jpg").size == (150, 200)
    check(landmarker()(tmp_path / "turned.jpg", box=(50, 30, 150, 130))[0])


def test_many_faces_keep_their_order():
    net, places = (
        landmarker(),
        [(40 + 3 * i, 30 + i, 140 + 3 * i, 130 + i) for i in range(35)],
    )  # more than one batch
    net.__dict__["detector"] = type("Found", (), {"detect": lambda self, image: places})()
    for box in (None, "detector"):
        faces = net(dots(), box=box)
        assert [f.rect for f in faces] == places
    for face in faces[:12]:
        check(face)


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_a_face_from_the_detector_is_cropped_again_around_its_points(passes):
    net, seen = landmarker(detector_passes=passes), []
    net.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    found = (60, 35, 170, 140)  # off the dots' own box by a third
    net.__dict__["detector"] = type("Found", (), {"detect": lambda self, image: [found]})()
    (face,) = net(dots())
    assert len(seen) == passes and face.rect == found
    check(face, tolerance=0.3)
    if passes == 2:
        # the box of the two dots is 34.9 pixels wide and high: a crop of 1.25 times that around their middle
        expected = Crop((100.85, 79.15), 34.9 * 1.25, 128).warp(dots())
        assert np.abs(seen[1][0].permute(1, 2, 0).numpy() * 255 - expected).mean() < 2
    net(dots(), box=(50, 30, 150, 130))
    assert len(seen) == passes + 1  # a box that is given is taken as it is


def test_points_that_coincide_give_no_second_crop():
    net = landmarker()
    net.__dict__["detector"] = type("Found", (), {"detect": lambda self, image: [(60, 35, 170, 140)]})()
    (face,) = net(np.zeros((150, 200, 3), np.uint8))
    assert np.isfinite(face.points).all()


def test_no_face_is_an_empty_list():
    assert landmarker()(np.full((90, 120, 3), 128, np.uint8)) == []


@pytest.mark.parametrize(
    "box,message",
    [
        ("all", "expected detector, whole"),
        ((1, 2, 3), "expected detector, whole"),
        ((5, 5, 5, 9), "no area"),
        ((300, 10, 400, 90), "outside"),
        ((1, 2, float("nan"), 4), "expected"),
    ],
)
def test_bad_boxes(box, message):
    with pytest.raises(UserError, match=message):
        landmarker()(dots(), box=box)


def test_rows_hold_the_points():
    net = landmarker()
    face = net(dots(), box=(50, 30, 150, 130))[0]
    (row,) = net.rows([face])
    assert (row["face"], row["xmin"], row["ymax"]) == (0, 50, 130)
    assert [[row[f"x{i}"], row[f"y{i}"]] for i in range(68)] == np.round(face.points, 3).tolist()
    assert net.rows([]) == []


def spread(width, height):
    """68 points far from each other, the first one alone in a corner."""
    points = np.stack(np.meshgrid(np.linspace(0.3, 0.95, 10), np.linspace(0.3, 0.95, 7)), -1).reshape(-1, 2)[
        :68
    ]
    points[0] = 0.05, 0.05
    return points * (width, height)


@pytest.mark.parametrize("size", [60, 300, 2000])
def test_drawing_marks_points_in_the_region_s_colour(size):
    grey = np.full((size, size, 3), 90, np.uint8)
    points = np.round(spread(size, size))
    out = draw_points(grey, points)
    assert out.shape == grey.shape and out.dtype == np.uint8 and (grey == 90).all()
    x, y = points[0].astype(int)
    assert np.abs(out[y, x].astype(int) - REGION_COLOURS["jaw"]).max() <= (60 if size == 60 else 8)
    assert (out[int(0.15 * size) : int(0.25 * size), int(0.5 * size) :] == 90).all()  # nothing is drawn there


def test_drawing_is_centred_on_the_point():
    points = np.full((68, 2), np.nan)
    points[0], points[67] = (20.25, 30.5), (70.0, 80.0)  # no contour joins these two
    change = np.abs(draw_points(np.zeros((100, 100, 3), np.uint8), points).astype(float)).sum(2)[10:50, 5:40]
    y, x = np.mgrid[10:50, 5:40]
    assert ((x * change).sum() / change.sum(), (y * change).sum() / change.sum()) == pytest.approx(
        (20.25, 30.5), abs=0.06
    )


def test_drawing_outside_of_the_picture_and_without_points():
    grey = np.full((50, 50, 3), 90, np.uint8)
    assert (draw_points(grey, np.full((68, 2), np.nan)) == 90).all()
    assert (draw_points(grey, spread(40, 40) + 200) == 90).all()
    assert draw_points(grey, spread(40, 40) - 30).shape == grey.shape


def test_contours_fit_the_schemes():
    for n, scheme in SCHEMES.items():
        region = {i: name for name, ids in scheme.regions.items() if name != "inner" for i in ids}
        drawn = {i for contour in CONTOURS[n] for i in contour}
        assert drawn <= set(range(n))
        for contour in CONTOURS[n]:
            assert len({region[i] for i in contour}) == 1
        # a mirrored face has the same lines
        lines = {frozenset(pair) for c in CONTOURS[n] for pair in zip(c, c[1:], strict=False)}
        assert {frozenset(int(scheme.flip_order[i]) for i in pair) for pair in lines} == lines


def test_load_from_a_run_folder(tmp_path):
    task = get_task("faces")
    small = {"arch": "resnet10", "width": 4, "decoder": [8, 8, 8]}
    cfg = resolve(task.settings, {"image_size": 64, "student": small, "teacher": small})
    (tmp_path / "weights").mkdir()
    (tmp_path / "config.yaml").write_text(dump(cfg))
    torch.manual_seed(0)
    save_weights(tmp_path / "weights" / "student.safetensors", task.build_student(cfg))
    net = srrl.load(tmp_path)
    (face,) = net(dots(), box="whole")
    # a picture of 200 x 150 taken whole is seen through a square of 200 around its middle
    assert (face.points >= [-0.5, -25.5]).all() and (face.points <= [199.5, 174.5]).all()
    assert net.draw(dots(), [face]).shape == (150, 200, 3)


def test_the_heatmaps_side_is_found_on_the_model_s_own_device():
    with torch.device("meta"):  # stands in for a GPU: tensors of two devices do not mix
        net = DotNet()
    assert heatmap_size(net, 128) == 32
