"""Faces followed through frames: the filter against a naive loop, tracking against dots at known places, the jitter against noise of a known size."""

import math

import cv2
import numpy as np
import pytest
import torch
from served import ROOT
from srrl_tasks.faces import follow
from srrl_tasks.faces.follow import OneEuro
from srrl_tasks.faces.landmarker import Landmarker
from srrl_tasks.faces.settings import FacesSettings

import srrl
from srrl.config import resolve

EXAMPLES = ROOT / "app/examples"
LEFT, RIGHT = range(36, 42), range(42, 48)  # the eyes of the 68 points
TRIANGLE = np.array([[-30.0, -20.0], [30.0, -20.0], [0.0, 40.0]])  # left eye, right eye, all other points
EYES = 60.0


class Dots(torch.nn.Module):
    """Heatmaps (N, 68, S/4, S/4): where the picture is red for the left eye, blue for the right, green for the rest."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        red, green, blue = torch.nn.functional.avg_pool2d(x, 4).split(1, dim=1)
        maps = green.repeat(1, 68, 1, 1)
        maps[:, list(LEFT)], maps[:, list(RIGHT)] = red, blue
        return maps


def frame(*centres, shape=(300, 500), sigma=5.0):
    """A picture with a face of three dots around each centre."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    picture = np.zeros((*shape, 3))
    for centre in centres:
        for channel, (cx, cy) in zip((0, 2, 1), np.asarray(centre) + TRIANGLE, strict=True):
            picture[..., channel] += 255 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
    return np.round(picture.clip(0, 255)).astype(np.uint8)


def box(centre):
    low, high = (np.asarray(centre) + TRIANGLE).min(0), (np.asarray(centre) + TRIANGLE).max(0)
    return (*map(float, low), *map(float, high))


class Detector:
    """Finds what it is told to, and counts how often it is asked."""

    def __init__(self, *centres):
        self.found, self.asked = [box(c) for c in centres], 0

    def detect(self, pixels):
        self.asked += 1
        return self.found


def landmarker(detector):
    net = Landmarker(Dots(), resolve(FacesSettings, {}))
    net.__dict__["detector"] = detector
    return net


def centre(face):
    return face.points[list(LEFT)].mean(0) - TRIANGLE[0]


def test_the_filter_by_a_loop():
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.02, 0.08, 30))
    values = np.cumsum(rng.normal(size=(30, 3)), 0)
    filtered = OneEuro(still=1.2, opening=0.7, derivative=0.9)
    found = [filtered(v, t, unit=2.0) for v, t in zip(values, times, strict=True)]
    for k in range(3):  # the algorithm of the paper, for one number
        last, speed, before = values[0][k], 0.0, times[0]
        for i in range(1, 30):
            step = times[i] - before
            smooth = 1 / (1 + 1 / (2 * math.pi * 0.9) / step)
            speed = smooth * (values[i][k] - last) / step + (1 - smooth) * speed
            cutoff = 1.2 + 0.7 * abs(speed) / 2.0
            share = 1 / (1 + 1 / (2 * math.pi * cutoff) / step)
            last, before = share * values[i][k] + (1 - share) * last, times[i]
            assert found[i][k] == pytest.approx(last, rel=1e-12)


def test_two_networks_on_the_same_frames_look_for_faces_once():
    detector = Detector((100, 120))
    student = landmarker(detector).follow()
    teacher = landmarker(Detector()).follow(beside=student)  # its own detector would find nobody
    alone = Detector((100, 120))
    other = landmarker(alone).follow()
    for i in range(20):  # 10 frames a second; the teacher sees every second one
        picture, seconds = frame((100 + i, 120)), i / 10
        detector.found = alone.found = [box((100 + i, 120))]
        (face,), (same,) = student(picture, seconds), other(picture, seconds)
        assert np.array_equal(face.points, same.points)
        if i % 2 == 0:
            (seen,) = teacher(picture, seconds)
            assert np.allclose(seen.points, face.points, atol=0.5)
    assert detector.asked == alone.asked == 4  # every half second; without sharing seven or eight
    detector.found = []
    assert student(frame(), 10.0) == teacher(frame(), 10.0) == [] and detector.asked == 5
    assert student(frame(), 10.1) == [] and detector.asked == 6  # while there is none, every frame


def test_time_that_stands_still_changes_nothing():
    filtered = OneEuro()
    first = filtered(np.array([1.0]), 5.0)
    assert filtered(np.array([9.0]), 5.0) is first and filtered(np.array([9.0]), 4.0) is first


def test_a_moving_face_is_followed_and_seldom_looked_for():
    detector = Detector((100, 120))
    follower = landmarker(detector).follow()
    for i in range(20):  # 60 frames a second, 8 pixels a frame
        at = (100 + 8 * i, 120)
        detector.found = [box(at)]
        (face,) = follower(frame(at), i / 60)
        assert np.abs(centre(face) - at).max() < 1.0
    assert detector.asked == 1  # 20 frames are a third of a second
    follower(frame((252, 120)), follow.SEARCH_EVERY)
    assert detector.asked == 2


def test_faces_come_and_go_in_a_steady_order():
    detector = Detector((100, 120))
    follower = landmarker(detector).follow()
    assert len(follower(frame((100, 120)), 0.0)) == 1
    detector.found = [box((380, 150)), box((100, 120))]  # the new one is named first
    faces = follower(frame((100, 120), (380, 150)), 1.0)
    assert [round(float(centre(f)[0])) for f in faces] == [100, 380]
    detector.found = [box((380, 150))]
    for i in range(follow.LOST - 1):
        assert len(follower(frame((100, 120), (380, 150)), 2.0 + i)) == 2
    (left,) = follower(frame((100, 120), (380, 150)), 2.0 + follow.LOST - 1)
    assert round(float(centre(left)[0])) == 380


def test_a_drifted_face_is_begun_again_from_where_it_is_found():
    detector = Detector((100, 120))
    net = landmarker(detector)
    follower = net.follow()
    follower(frame((100, 120)), 0.0)
    (track,) = follower.tracks
    track.face.points[:] = (track.face.points - (100, 120)) * 0.6 + (100, 120)  # shrunk: IoU 0.36
    (face,) = follower(frame((100, 120)), 1.0)
    assert np.abs(centre(face) - (100, 120)).max() < 1.0 and follower.tracks == [track]


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
def test_in_late_frames_a_face_is_where_it_is_found(share):
    """Two frames a second: what moved out of its crop in between is begun again, and keeps its place among two."""
    detector = Detector()
    follower = landmarker(detector).follow()
    for i in range(6):
        places = [(400 - share * EYES * i, 220), (80 + share * EYES * i, 120)]
        detector.found = [box(p) for p in (places[::-1] if i % 2 else places)]
        faces = follower(frame(*places), i / 2)
        for face, at in zip(faces, places, strict=True):
            assert np.abs(centre(face) - at).max() < 1.0
    assert detector.asked == 6


@pytest.mark.parametrize("share", [0.2, 0.3, 0.6])
def test_a_painted_face_at_two_frames_a_second(share):
    """The points of a face that moves by this share of its size a frame, against those of each frame by itself."""
    net = srrl.load("shipped:faces68")
    face = cv2.cvtColor(cv2.imread(str(EXAMPLES / "face.jpg")), cv2.COLOR_BGR2RGB)
    face = cv2.resize(face, (300, 300), interpolation=cv2.INTER_AREA)  # its points span 169 pixels
    follower = net.follow()
    for i in range(5):
        picture = np.full((360, 1000, 3), face[:5].mean((0, 1)), np.uint8)
        left = 30 + round(share * 169 * i)
        picture[30:330, left : left + 300] = face
        (found,), (expected,) = follower(picture, i / 2), net(picture)
        off = np.linalg.norm(found.points - expected.points, axis=1).mean() / net.size(expected)
        assert off < 0.01  # kept in the crop of the frame before: 0.08 to 0.26


def test_a_face_that_rests_is_not_begun_again_by_late_frames():
    """Its box as found differs from that of its points, as a detector's does: the filter goes on, and the jitter."""
    detector = Detector((100, 120))
    low, top, right, bottom = box((100, 120))
    detector.found = [(low - 8, top - 8, right + 8, bottom + 8)]  # IoU 0.62
    follower = landmarker(detector).follow(smooth=True)
    follower(frame((100, 120)), 0.0)
    (track,) = follower.tracks
    steadied = track.filter
    for i in range(1, 5):
        follower(frame((100, 120)), i / 2)
    assert follower.tracks == [track] and track.filter is steadied
    assert follower.jitter == pytest.approx(0, abs=0.1)


def test_without_a_face_every_frame_is_searched_and_nothing_trembles():
    detector = Detector()
    follower = landmarker(detector).follow(smooth=True)
    assert [follower(frame(), i / 30) for i in range(4)] == [[]] * 4
    assert detector.asked == 4 and follower.jitter is None


def test_a_face_that_turns_into_a_dot_is_dropped():
    follower = landmarker(Detector((100, 120))).follow()
    assert len(follower(frame((100, 120)), 0.0)) == 1
    assert follower(frame(), 0.1) == []  # black: every heatmap has its peak at the same place


def test_whole_frames_are_one_face():
    follower = landmarker(None).follow(box="whole")
    (face,) = follower(frame((128, 120), shape=(256, 256)), 0.0)
    assert np.abs(centre(face) - (128, 120)).max() < 1.5


def shaken(smooth, noise, frames=300):
    """Jitter of a resting face whose points are moved by this noise (pixels) before the follower sees them."""
    rng = np.random.default_rng(1)
    net = landmarker(Detector((100, 120)))
    follower = net.follow(smooth=smooth)
    still = net(frame((100, 120)))[0]
    net.predict_crops = lambda pixels, rects, crops: [
        type(still)(still.points + rng.normal(0, noise, still.points.shape), still.rect, 1.0, still.scores)
        for _ in crops
    ]
    black = frame()
    for i in range(frames):
        follower(black, i / 30)
    return follower.jitter


def test_jitter_is_the_noise_in_percent_of_the_eyes_distance_and_the_filter_lessens_it():
    noise = 0.6
    rough, steady = shaken(False, noise), shaken(True, noise)
    assert rough == pytest.approx(100 * noise / EYES, rel=0.03)
    assert steady < rough / 2


def test_points_that_move_evenly_do_not_tremble():
    net = landmarker(Detector((100, 120)))
    follower = net.follow()
    still, step = net(frame((100, 120)))[0], 0

    def moving(pixels, rects, crops):
        return [type(still)(still.points + 0.05 * step, still.rect, 1.0, still.scores) for _ in crops]

    net.predict_crops = moving
    for step in range(25):
        follower(frame(), 0.05 * step)
    assert follower.jitter < 1e-6


def test_jitter_is_measured_while_the_face_holds_still():
    """Rest, wandering, and rest again: no figure before a second of rest, and nothing of what moved in it."""
    detector = Detector()
    follower = landmarker(detector).follow()
    told = []
    for i in range(100):  # 20 a second
        at = (100 + (30 * math.sin(i / 3) if 30 <= i < 70 else 0.0), 120)
        detector.found = [box(at)]
        follower(frame(at), i / 20)
        told.append(follower.jitter)
    assert told[:20] == [None] * 20 and told[30:90] == [None] * 60
    assert all(value < 0.3 for value in told[20:30] + told[90:])
