"""The detector on a portrait that matplotlib ships, its merging and matching on rectangles worked out by hand."""

from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
from srrl_tasks.faces import detect
from srrl_tasks.faces.dataset import FaceDataset
from srrl_tasks.faces.detect import FaceDetector, detected_records, iou, match, merge
from srrl_tasks.faces.records import FaceRecord, Records
from srrl_tasks.faces.schemes import scheme_for
from srrl_tasks.faces.settings import FacesSettings
from srrl_tasks.faces.task import score

from srrl.config import resolve

PORTRAIT = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
# ear to ear and brows to chin, read off the picture by eye
MARKED = (165.0, 155.0, 361.0, 332.0)


@pytest.fixture(scope="module")
def portrait():
    return cv2.cvtColor(cv2.imread(str(PORTRAIT)), cv2.COLOR_BGR2RGB)


@pytest.fixture(scope="module")
def detector():
    return FaceDetector()


def test_finds_the_face(portrait, detector):
    (rect,) = detector.detect(portrait)
    assert iou(rect, MARKED) > 0.75


def test_mirrored_and_enlarged_pictures_agree(portrait, detector):
    (rect,) = detector.detect(portrait)
    width = portrait.shape[1]
    (mirrored,) = detector.detect(np.ascontiguousarray(portrait[:, ::-1]))
    assert iou((width - 1 - mirrored[2], mirrored[1], width - 1 - mirrored[0], mirrored[3]), rect) > 0.85
    large = cv2.resize(portrait, None, fx=3, fy=3)  # beyond the working size
    (found,) = detector.detect(large)
    assert iou(tuple((v + 0.5) / 3 - 0.5 for v in found), rect) > 0.85


def test_two_faces_largest_first(portrait, detector):
    half = cv2.resize(portrait, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    both = np.full((600, 512 + 256, 3), 128, np.uint8)
    both[:300, :256], both[:, 256:] = half, portrait
    large, small = detector.detect(both)
    assert iou(large, tuple(np.array(MARKED) + [256, 0, 256, 0])) > 0.7
    assert iou(small, tuple(np.array(MARKED) / 2)) > 0.65


@pytest.mark.parametrize("shape", [(200, 300), (10, 10), (1, 400)])
def test_nothing_in_an_even_picture(detector, shape):
    assert detector.detect(np.full((*shape, 3), 90, np.uint8)) == []


def test_window_to_landmark_box(monkeypatch, detector):
    """Frontal window of side 80 around (100, 90); the profile cascade sees the face 12 pixels further right."""
    seen = {"profile": []}

    def windows(cascade, grey, votes, sides=(24, 1e6)):
        return [(100.0, 90.0, 80.0, 9)] if cascade is detector._frontal else seen["profile"]

    monkeypatch.setattr(detect, "_windows", windows)
    picture = np.zeros((200, 200, 3), np.uint8)
    # centre (100, 90 + 0.147 * 80), width 0.875 * 80, height 0.83 * 80
    assert detector.detect(picture)[0] == pytest.approx((65.0, 68.56, 135.0, 134.96))
    # the search window starts at 100 - 0.75 * 80 = 40; it is 121 wide, so 72 and its mirror 120 - 72 are 112 and 88
    seen["profile"] = [(72.0, 60.0, 90.0, 4)]
    monkeypatch.setattr(detect, "_mirrored", lambda grey, mirrored: grey[:, :0] if mirrored else grey)
    monkeypatch.setattr(
        detect, "_windows", lambda c, g, v, s=(24, 1e6): windows(c, g, v, s) if g.size else []
    )
    assert detector.detect(picture)[0] == pytest.approx(
        (71.0, 68.56, 141.0, 134.96)
    )  # half of 12 further right


def test_iou_merge_and_match():
    a, b, c = (0.0, 0.0, 10.0, 10.0), (5.0, 0.0, 15.0, 10.0), (30.0, 0.0, 34.0, 4.0)
    assert iou(a, b) == pytest.approx(50 / 150) and iou(a, c) == 0 and iou(a, a) == 1
    assert merge([(3, a), (7, b), (5, c)]) == [b, c]  # half of a lies in b, which has more votes
    assert merge([(3, a), (7, (8.0, 0.0, 18.0, 10.0))]) == [(8.0, 0.0, 18.0, 10.0), a]  # a fifth of it only
    # b overlaps both detections, a one: each detection serves one face, the better overlap first
    assert match([a, b], [(1.0, 0.0, 11.0, 10.0)]) == {0: 0}
    assert match([a, b], [(1.0, 0.0, 11.0, 10.0), (9.0, 0.0, 19.0, 10.0)]) == {0: 0, 1: 1}
    assert match([a], [c]) == {}


class Fixed:
    """A detector that says the same of every picture, and counts."""

    def __init__(self, rects):
        self.rects, self.seen = rects, []

    def detect(self, image):
        self.seen.append(image.shape)
        return self.rects


def face(name, x, y, path):
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 40, (68, 2)) + (x, y)
    points[0], points[1], points[36], points[45] = (
        (x, y),
        (x + 40, y + 40),
        (x + 10, y + 10),
        (x + 30, y + 10),
    )
    return FaceRecord(name=name, points=points, image=path, rect=(1, 2, 3, 4), subsets=("some",))


def test_detected_records(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((100, 200, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((100, 120, 3), np.uint8))
    left, other, right = (
        face("1", 10, 10, tmp_path / "a.png"),
        face("2", 60, 50, tmp_path / "b.png"),
        face("3", 120, 30, tmp_path / "a.png"),
    )
    right.points[5] = np.nan
    detector = Fixed([(118.0, 28.0, 158.0, 68.0), (12.0, 10.0, 52.0, 50.0)])
    given = Records([left, other, right], "ibug", "test", ["one"], ["two"])
    found = detected_records(given, detector)
    assert sorted(detector.seen) == [(100, 120, 3), (100, 200, 3)]  # each file once
    assert [r.name for r in found] == ["1", "2", "3"] and (found.format, found.skipped, found.notes) == (
        "ibug",
        ["one"],
        ["two"],
    )
    assert [r.undetected for r in found] == [False, True, False]
    assert found[0].crop_rect == (12.0, 10.0, 52.0, 50.0) and found[2].crop_rect == (118.0, 28.0, 158.0, 68.0)
    assert [r.rect for r in found] == [(1, 2, 3, 4)] * 3, (
        "the data's own rectangle is what errors are divided by"
    )
    assert found[1].crop_rect == (
        60.0,
        50.0,
        100.0,
        90.0,
    )  # its own landmark box, so that the network can run
    assert [r.rect for r in given] == [(1, 2, 3, 4)] * 3 and not any(r.undetected for r in given)
    dataset = FaceDataset(found, scheme_for(68), 64, box="given")
    truth = np.stack([r.points for r in found])
    wrong = truth + [1.0, 0.0]  # one pixel, of 20 between the eyes: 5 % where there is a face
    wrong[1] += 1000.0
    result = score(wrong, dataset, resolve(FacesSettings))
    assert result["nme"] == pytest.approx(5.0) and result["undetected"] == 1
    assert result["fr@0.10"] == pytest.approx(100 / 3) and result["auc@0.10"] == pytest.approx(
        (0.5 + 0 + 0.5) / 3
    )
