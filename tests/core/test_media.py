"""Pictures of every colour mode against values worked out by hand; videos against the frames they were made of."""

import contextlib

import cv2
import numpy as np
import pytest
from PIL import Image
from srrl_tasks.faces.records import decode_image

from srrl.errors import UserError
from srrl.media import VideoFile, read_video, to_rgb


def corner_picture():
    """4 x 6 pixels, only the upper left one is red."""
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = 255, 0, 0
    return pixels


# where the red pixel of the upper left corner is shown, by EXIF orientation (the standard's own table)
@pytest.mark.parametrize(
    "orientation,shape,at",
    [
        (1, (4, 6), (0, 0)),
        (2, (4, 6), (0, 5)),
        (3, (4, 6), (3, 5)),
        (4, (4, 6), (3, 0)),
        (5, (6, 4), (0, 0)),
        (6, (6, 4), (0, 3)),
        (7, (6, 4), (5, 3)),
        (8, (6, 4), (5, 0)),
    ],
)
@pytest.mark.parametrize("as_path", [True, False])
def test_exif_orientation_is_applied(tmp_path, orientation, shape, at, as_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(corner_picture()).save(tmp_path / "a.png", exif=exif)
    found = to_rgb(tmp_path / "a.png" if as_path else Image.open(tmp_path / "a.png"))
    assert found.shape == (*shape, 3)
    assert tuple(np.argwhere(found[..., 0] == 255)[0]) == at


def test_grey_alpha_palette_cmyk_and_16_bit(tmp_path):
    grey = np.full((2, 3), 77, np.uint8)
    assert (to_rgb(Image.fromarray(grey)) == 77).all()
    deep = np.array([[0, 32896, 65535]], np.uint16)  # 128 * 257
    assert cv2.imwrite(str(tmp_path / "deep.png"), deep)
    assert to_rgb(tmp_path / "deep.png")[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]
    clear = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    # over white: opaque stays, transparent is white, a fifth of black leaves 204
    assert to_rgb(Image.fromarray(clear, "RGBA"))[0].tolist() == [[255, 0, 0], [255] * 3, [204] * 3]
    assert to_rgb(Image.new("CMYK", (2, 2), (0, 255, 255, 0)))[0, 0].tolist() == [255, 0, 0]
    assert to_rgb(Image.fromarray(np.full((2, 2), 0.5, np.float32)))[0, 0].tolist() == [128] * 3
    assert to_rgb(Image.fromarray(corner_picture()).convert("P", palette=Image.Palette.ADAPTIVE))[
        0, 0
    ].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), 7]
)
def test_what_is_no_picture_is_refused(bad):
    with pytest.raises(UserError, match="no picture: expected"):
        to_rgb(bad)


def test_bad_files_are_named(tmp_path):
    Image.effect_noise((64, 64), 80).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("cut.png", "text.jpg", "empty.png"):
        with pytest.raises(UserError, match=f"{name} does not decode"):
            to_rgb(tmp_path / name)
    with pytest.raises(UserError, match=r"gone\.png does not exist"):
        to_rgb(str(tmp_path / "gone.png"))
    with pytest.raises(UserError, match="is a folder"):
        to_rgb(tmp_path)


@pytest.mark.parametrize("kind", ["a file", "bytes", "a face"])
def test_no_flipped_bit_of_a_png_is_used(tmp_path, kind):
    """Every bit after the signature is under a checksum of the file's own; Pillow by itself shows dozens of these."""
    whole = np.zeros((64, 64, 3), np.uint8)
    whole[10:30, 10:40], whole[40:50, 5:60] = 200, (10, 200, 30)
    Image.fromarray(whole).save(tmp_path / "whole.png")
    content, wrong = (tmp_path / "whole.png").read_bytes(), []
    assert (to_rgb(content) == whole).all()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        (tmp_path / "flipped.png").write_bytes(damaged)
        with contextlib.suppress(UserError):
            if kind == "a face":  # by OpenCV, which compares them itself
                found = decode_image(bytes(damaged), "flipped.png")
            else:
                found = to_rgb(tmp_path / "flipped.png" if kind == "a file" else bytes(damaged))
            wrong += [place] if not np.array_equal(found, whole) else []
    assert wrong == []


def test_video_round_trip(tmp_path):
    levels = [20, 60, 100, 140, 180]
    video = VideoFile(tmp_path / "v.mp4", (48, 64, 3), 12.0)
    for level in levels:
        video.add(np.full((48, 64, 3), (level, 10, 10), np.uint8))
    video.close()
    frames = list(read_video(tmp_path / "v.mp4"))
    assert [f.shape for f, _ in frames] == [(48, 64, 3)] * 5
    assert all(rate == pytest.approx(12.0) for _, rate in frames)
    assert [float(np.median(f[..., 0])) for f, _ in frames] == pytest.approx(
        levels, abs=6
    )  # lossy; red, not blue


def test_video_that_does_not_decode(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"nothing" * 50)
    with pytest.raises(UserError, match=r"bad\.mp4 does not decode"):
        next(read_video(tmp_path / "bad.mp4"))
