"""The data set: coloured dots painted at the landmarks must be found where each sample says they are."""

import hashlib

import cv2
import numpy as np
import pytest
import torch
from srrl_tasks.faces import dataset as module
from srrl_tasks.faces.augment import Augment, AugmentConfig
from srrl_tasks.faces.dataset import FaceDataset
from srrl_tasks.faces.records import FaceRecord
from srrl_tasks.faces.schemes import SCHEMES

from srrl.errors import UserError

SCHEME = SCHEMES[68]
# Landmark -> colour channel of its dot: right eye's outer corner, left eye's outer corner, chin.
RIGHT_EYE, LEFT_EYE, CHIN = 36, 45, 8
DOTS = {RIGHT_EYE: 0, LEFT_EYE: 1, CHIN: 2}
STILL = dict.fromkeys(("light", "colour", "grey", "blur", "noise", "jpeg", "occlusion"), 0.0)


def landmarks(center, width):
    """68 points, of which the three with dots and two corners of the face are labelled."""
    points = np.full((68, 2), np.nan)
    points[[RIGHT_EYE, LEFT_EYE, CHIN]] = [[-0.22, -0.15], [0.25, -0.17], [0.03, 0.3]]
    points[[0, 16]] = [[-0.5, -0.1], [0.5, -0.1]]
    return points * width + center


def picture(points, shape=(240, 260)):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros((*shape, 3))
    for landmark, channel in DOTS.items():
        x, y = points[landmark]
        image[..., channel] = 250 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 5.0**2))
    return np.round(image).astype(np.uint8)


def faces():
    rng = np.random.default_rng(5)
    records = []
    for i in range(6):
        points = landmarks(rng.uniform(105, 135, 2), rng.uniform(110, 150))
        image = picture(points)
        rect = (*np.nanmin(points, axis=0), *np.nanmax(points, axis=0))
        records.append(FaceRecord(f"face{i}", points, pixels=lambda image=image: image, rect=rect))
    return records


def dot_centre(image, channel):
    weight = image[channel].double()
    grid = torch.arange(weight.shape[0], dtype=torch.float64)
    return torch.stack([(weight.sum(0) * grid).sum(), (weight.sum(1) * grid).sum()]) / weight.sum()


def test_crops_around_predicted_points_by_hand():
    records = faces()[:2]
    data = FaceDataset(records, SCHEME, 64, scale=1.25)
    found = np.zeros((2, 68, 2))
    found[0, :] = [80.0, 90.0]
    found[0, 3] = [120.0, 110.0]  # a box of 40 x 20 around (100, 100)
    found[1, :] = [50.0, 60.0]  # no box at all
    around = data.around(found)
    assert (around.crop(0).center, around.crop(0).side) == ((100.0, 100.0), 50.0)
    assert around.crop(1).center == pytest.approx(data.crop(1).center)
    assert around.crop(1).side == pytest.approx(data.crop(1).side)
    assert np.array_equal(around.records[0].points, records[0].points, equal_nan=True)
    assert data.box == "landmark" and data.records[0] is records[0]  # the first data set is untouched


def test_plain_sample_by_hand():
    points = landmarks(np.array([120.0, 110.0]), 100.0)
    data = FaceDataset([FaceRecord("a", points, pixels=lambda: picture(points))], SCHEME, 100)
    sample = data[0]
    assert sample["image"].shape == (3, 100, 100) and sample["image"].dtype == torch.uint8
    assert sample["points"].dtype == torch.float32 and sample["index"] == 0
    # Box 70 ... 170 by 93 ... 140: centre (120, 116.5), side 125, so x = (x - 120) 0.8 + 49.5.
    assert torch.allclose(sample["points"][0], torch.tensor([9.5, (100 - 116.5) * 0.8 + 49.5]))
    assert sample["mask"].sum() == 5 and torch.isnan(sample["points"][~sample["mask"]]).all()


@pytest.mark.parametrize("box", ["landmark", "given"])
def test_dots_stay_with_their_landmarks_under_geometry(box):
    augment = Augment(AugmentConfig(**STILL, scale=0.2, shift=0.05))
    data = FaceDataset(faces(), SCHEME, 128, box=box, scale=1.4, augment=augment, seed=3)
    errors, mirrored = [], []
    for epoch in range(12):
        for index in range(len(data)):
            sample = data[epoch, index]
            found = {landmark: dot_centre(sample["image"], channel) for landmark, channel in DOTS.items()}
            # The dots' colours do not know about left and right: in a mirrored picture red is the left eye.
            a, b, c = (found[landmark] for landmark in (RIGHT_EYE, LEFT_EYE, CHIN))
            flipped = bool((b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0] < 0)
            mirrored.append(flipped)
            if flipped:
                found[RIGHT_EYE], found[LEFT_EYE] = b, a
            for landmark, place in found.items():
                errors.append((place - sample["points"][landmark]).numpy())
    assert np.abs(errors).max() < 0.3
    assert np.abs(np.mean(errors, axis=0)).max() < 0.05 and np.abs(errors).mean() < 0.05
    assert 0.3 < np.mean(mirrored) < 0.7


def test_dots_stay_with_their_landmarks_under_everything():
    augment = Augment(
        AugmentConfig(grey=0, occlusion=0, colour=0, noise=0, light=0, flip=0, shift=0.05, scale=0.2)
    )
    data = FaceDataset(faces(), SCHEME, 128, scale=1.5, augment=augment)
    errors = []
    for epoch in range(20):
        for index in range(len(data)):
            sample = data[epoch, index]
            for landmark, channel in DOTS.items():
                image = sample["image"].double()
                image = (image - 60).clamp_min(0)  # what JPEG and blur smear around
                errors.append((dot_centre(image, channel) - sample["points"][landmark]).numpy())
    assert np.percentile(np.abs(errors), 95) < 0.3 and np.abs(np.mean(errors, axis=0)).max() < 0.05


def test_flip_re_indexes_the_mask():
    points = landmarks(np.array([120.0, 110.0]), 100.0)
    points[LEFT_EYE] = np.nan
    record = FaceRecord("a", points, pixels=lambda: np.zeros((200, 200, 3), np.uint8))
    data = FaceDataset([record], SCHEME, 64, augment=Augment(AugmentConfig(flip=1, strength=0)))
    mask = data[0]["mask"]
    assert mask[LEFT_EYE] and not mask[RIGHT_EYE]
    assert (
        data[0]["points"][0, 0] < data[0]["points"][16, 0]
    )  # jaw point 0 is on the left of a picture as before


def test_crop_leads_back_to_the_picture():
    records = faces()
    data = FaceDataset(records, SCHEME, 96)
    for index, record in enumerate(records):
        back = data.crop(index).invert(data[index]["points"].numpy())
        assert np.allclose(back, record.points, atol=1e-4, equal_nan=True)


class Keys(torch.utils.data.Sampler):
    def __init__(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter([(self.epoch, index) for index in (3, 0, 5, 1, 2, 4)])

    def __len__(self):
        return 6


def digests(data, epoch, workers):
    loader = torch.utils.data.DataLoader(data, sampler=Keys(epoch), batch_size=2, num_workers=workers)
    found = {}
    for batch in loader:
        for image, points, index in zip(batch["image"], batch["points"], batch["index"], strict=True):
            found[int(index)] = hashlib.sha256(image.numpy().tobytes() + points.numpy().tobytes()).hexdigest()
    return found


def test_samples_depend_on_seed_epoch_and_index_only():
    data = FaceDataset(faces(), SCHEME, 64, augment=Augment(), seed=1)
    first = digests(data, 4, workers=0)
    assert len(set(first.values())) == 6
    assert digests(data, 4, workers=2) == first
    again = FaceDataset(faces(), SCHEME, 64, augment=Augment(), seed=1)
    assert digests(again, 4, workers=0) == first
    later, other = (
        digests(data, 5, workers=0),
        digests(FaceDataset(faces(), SCHEME, 64, augment=Augment(), seed=2), 4, 0),
    )
    assert not set(first.values()) & (set(later.values()) | set(other.values()))


def test_without_augmentation_epochs_are_alike():
    data = FaceDataset(faces(), SCHEME, 64)
    assert (data[0, 2]["image"] == data[9, 2]["image"]).all() and (
        data[2]["image"] == data[-4]["image"]
    ).all()
    assert data[-4]["index"] == 2
    with pytest.raises(IndexError):
        data[6]


def test_mean_shape_by_hand():
    # The same shape at two places and sizes, then a third face that moves one point by a tenth of its width.
    first = landmarks(np.array([120.0, 110.0]), 100.0)
    second = landmarks(np.array([60.0, 200.0]), 150.0)
    third = first.copy()
    third[CHIN, 0] += 10.0
    third[RIGHT_EYE] = np.nan
    data = FaceDataset([FaceRecord(str(i), p) for i, p in enumerate((first, second, third))], SCHEME, 125)
    mean = data.mean_shape()  # side 125 for 100 pixels: one crop pixel is one pixel of the first face
    assert np.allclose(mean[0], [62 - 50, 62 + (-0.1 - 0.065) * 100])
    assert np.allclose(mean[CHIN], [62 + 3 + 10 / 3, 62 + (0.3 - 0.065) * 100])
    assert np.allclose(mean[RIGHT_EYE], [62 - 22, 62 + (-0.15 - 0.065) * 100])  # of the two that have it
    assert np.isnan(mean[20]).all()


def test_faces_that_cannot_be_cropped_are_named():
    good = faces()[0]
    flat = FaceRecord("flat.jpg", np.full((68, 2), 5.0), pixels=good.pixels)
    empty = FaceRecord("empty.jpg", np.full((68, 2), np.nan), pixels=good.pixels)
    short = FaceRecord("short.jpg", np.zeros((29, 2)), pixels=good.pixels)
    bare = FaceRecord("bare.jpg", good.points, pixels=good.pixels)
    thin = FaceRecord("thin.jpg", good.points, pixels=good.pixels, rect=(5, 5, 5, 5))
    for record, box in (
        (flat, "landmark"),
        (empty, "landmark"),
        (short, "landmark"),
        (bare, "given"),
        (thin, "given"),
    ):
        with pytest.raises(UserError, match=record.name):
            FaceDataset([good, record], SCHEME, 64, box=box)
    data = FaceDataset([flat, good, empty], SCHEME, 64, on_error="skip")
    assert [record.name for record in data.records] == ["face0"] and data[0]["index"] == 0
    assert len(data.skipped) == 2 and "flat.jpg" in data.skipped[0]
    with pytest.raises(UserError, match="box 'detector'"):
        FaceDataset([good], SCHEME, 64, box="detector")


def write_face(folder, name):
    points = landmarks(np.array([120.0, 110.0]), 100.0)
    cv2.imwrite(str(folder / name), picture(points)[..., ::-1])
    return FaceRecord(name, points, image=folder / name)


def test_broken_files_are_named(tmp_path):
    records = [write_face(tmp_path, "a.png"), write_face(tmp_path, "b.png")]
    (tmp_path / "b.png").write_bytes(b"no picture")
    data = FaceDataset(records, SCHEME, 64)
    assert data[0]["image"].max() > 0
    with pytest.raises(UserError, match="b.png"):
        data[1]


def test_small_files_are_read_once(tmp_path, monkeypatch):
    records = [write_face(tmp_path, "a.png")]
    data = FaceDataset(records, SCHEME, 64)
    before = data[0]["image"]
    assert (
        abs(float(dot_centre(before, 0)[0] - data[0]["points"][RIGHT_EYE, 0])) < 0.1
    )  # red is red: RGB order
    monkeypatch.setattr(module, "FILE_LIMIT", 10)
    large = FaceDataset(records, SCHEME, 64)
    assert (large[0]["image"] == before).all()
    (tmp_path / "a.png").unlink()
    assert (data[0]["image"] == before).all()
    with pytest.raises(UserError, match="a.png"):
        large[0]
