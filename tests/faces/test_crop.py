"""The crop: its formula by hand, its inverse, and where it really puts a dot painted into the source image."""

import cv2
import numpy as np
import pytest
from srrl_tasks.faces.crop import Crop

from srrl.errors import UserError


def paint_dot(shape, x, y, sigma):
    """A white Gaussian dot on black, sampled at pixel centres."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    dot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return np.repeat(np.round(255 * dot).astype(np.uint8)[:, :, None], 3, axis=2)


def centroid(image):
    weight = image[..., 0].astype(np.float64)
    rows, columns = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


def test_upright_crop_follows_the_half_pixel_formula():
    left, top, side, size = 10, 20, 40, 20
    crop = Crop((left - 0.5 + side / 2, top - 0.5 + side / 2), side, size)
    # (x - left + 1/2) s - 1/2 with s = 1/2: the first two source columns share the first crop column.
    assert np.allclose(crop.apply(np.array([[10.0, 20.0]])), [[-0.25, -0.25]])
    assert np.allclose(crop.apply(np.array([[10.5, 20.5]])), [[0.0, 0.0]])
    assert np.allclose(crop.apply(np.array([[37.0, 21.0]])), [[13.25, 0.25]])


def test_positive_angle_turns_the_picture_counter_clockwise():
    crop = Crop((49.5, 49.5), 100, 100, angle=90)
    # What was to the right of the centre is now above it, where y is smaller.
    assert np.allclose(crop.apply(np.array([[59.5, 49.5]])), [[49.5, 39.5]])


def test_flip_mirrors_on_pixel_centres():
    points = np.array([[3.0, 4.0], [40.25, 17.0]])
    plain = Crop((30.0, 28.0), 50.0, 64, angle=12.0)
    mirrored = Crop((30.0, 28.0), 50.0, 64, angle=12.0, flip=True)
    expected = plain.apply(points)
    expected[:, 0] = 64 - 1 - expected[:, 0]
    assert np.allclose(mirrored.apply(points), expected)


def test_round_trip():
    rng = np.random.default_rng(0)
    for _ in range(50):
        crop = Crop(
            tuple(rng.uniform(-50, 900, 2)),
            rng.uniform(5, 2000),
            128,
            rng.uniform(-180, 180),
            rng.random() < 0.5,
        )
        points = rng.uniform(-100, 1000, (68, 2))
        assert np.abs(crop.invert(crop.apply(points)) - points).max() < 1e-8
        assert np.abs(crop.apply(crop.invert(points)) - points).max() < 1e-8


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("angle", [0.0, 27.0, -143.0])
@pytest.mark.parametrize("shrink", [0.3, 0.8, 1.0, 1.7, 2.0, 2.9, 5.3])
def test_a_painted_dot_lands_where_apply_says(shrink, angle, flip):
    size = 64
    side = size * shrink
    shape = (int(1.3 * side) + 31, int(1.5 * side) + 36)
    center = (shape[1] * 0.47, shape[0] * 0.53)
    crop = Crop(center, side, size, angle, flip)
    target = np.array([[20.3, 37.6]])
    x, y = crop.invert(target)[0]
    image = paint_dot(shape, x, y, sigma=3.5 * shrink)
    assert np.abs(centroid(crop.warp(image)) - target[0]).max() < 0.05


def test_a_dot_lands_right_when_the_window_is_cut_by_the_image_border():
    # Shrinking by 3.1 averages blocks of 3; 101 x 83 is no multiple of 3, and the crop reaches outside on every side.
    crop = Crop((55.0, 40.0), 124.0, 40)
    image = paint_dot((83, 101), 62.4, 33.7, sigma=9.0)
    assert np.abs(centroid(crop.warp(image)) - crop.apply(np.array([[62.4, 33.7]]))[0]).max() < 0.05


@pytest.mark.parametrize("angle", [0.0, 45.0, -120.0])
def test_cutting_out_the_window_changes_nothing(angle):
    image = np.random.default_rng(0).integers(0, 256, (300, 320, 3)).astype(np.uint8)
    crop = Crop((150.2, 140.7), 90.0, 64, angle)
    whole = cv2.warpAffine(image, crop.matrix, (64, 64), borderMode=cv2.BORDER_REPLICATE)
    assert np.abs(crop.warp(image).astype(int) - whole).max() <= 8  # coordinates are rounded to 1/32 pixel


def test_fine_texture_does_not_alias():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    out = Crop((199.5, 199.5), 330.0, 64, angle=3.0).warp(stripes)[4:-4, 4:-4].astype(float)
    assert abs(out.mean() - 127.5) < 2
    assert (
        out.std() < 20
    )  # blocks of 5 leave a fifth of a period of 2; sampling single pixels leaves all of it


def test_outside_the_image_the_edge_repeats():
    image = np.full((40, 50, 3), 90, np.uint8)
    image[:, -1] = 200
    assert (Crop((25.0, 20.0), 200.0, 32).warp(image)[:, :8] == 90).all()
    assert (Crop((500.0, 20.0), 64.0, 32).warp(image) == 200).all()
    assert (Crop((25.0, -900.0), 20.0, 32).warp(image[:, :-1]) == 90).all()


def test_shapes_and_very_wide_images():
    assert Crop((5.0, 5.0), 8.0, 16).warp(np.zeros((10, 10, 1), np.uint8)).shape == (16, 16, 1)
    wide = np.zeros((50, 40_000, 3), np.uint8)  # beyond the 32,767 that the resampler takes
    wide[10:41, 39_000:39_031] = paint_dot((31, 31), 15.0, 15.0, 3.0)
    crop = Crop((39_014.0, 24.0), 48.0, 48)
    assert np.abs(centroid(crop.warp(wide)) - crop.apply(np.array([[39_015.0, 25.0]]))[0]).max() < 0.05


def test_square_around_points_and_rectangles():
    points = np.array([[10.0, 20.0], [50.0, 30.0], [np.nan, np.nan], [20.0, 44.0]])
    crop = Crop.around_points(points, 64)
    assert crop.center == (30.0, 32.0) and crop.side == 50.0  # 1.25 x the longer side, 40
    crop = Crop.around_rect((10, 20, 110, 60), 64, scale=1.5)
    assert crop.center == (60.0, 40.0) and crop.side == 150.0


@pytest.mark.parametrize("points", [np.full((5, 2), np.nan), np.full((5, 2), 7.0)])
def test_landmarks_without_extent_are_refused(points):
    with pytest.raises(UserError, match="expected"):
        Crop.around_points(points, 64)


def test_impossible_crops_are_refused():
    with pytest.raises(UserError, match="side"):
        Crop.around_rect((10, 10, 10, 10), 64)
    with pytest.raises(UserError, match="size"):
        Crop((0.0, 0.0), 10.0, 0)
    with pytest.raises(UserError, match="finite"):
        Crop((float("nan"), 0.0), 10.0, 64)
