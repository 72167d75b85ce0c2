"""What people upload: every kind of picture, and what only pretends to be one."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from srrl_app.pictures import LONGEST, open_picture

from srrl.errors import UserError


def picture(height=8, width=12):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[0, 0] = 255, 0, 0
    return Image.fromarray(pixels)


def declared(path, width, height):
    """A PNG of a few bytes whose header says how large it would be, decoded."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"just text", "text.png"),
        (b"", "empty.jpg"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "drawing.svg"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "page.eps"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 40, "cut.jpg"),
    ],
)
def test_what_is_no_picture_is_said_in_words(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="not a picture that can be opened|damaged") as error:
        open_picture(tmp_path / name)
    assert str(tmp_path) not in str(error.value)  # nothing of the server's folders


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "JPEG2000", "PDF"])
def test_formats_that_nobody_photographs_in_are_not_opened(tmp_path, kind):
    """Pillow reads them; the fewer of its readers a stranger's file reaches, the better."""
    picture(16, 16).save(tmp_path / "a.png", format=kind)
    with pytest.raises(UserError, match="not a picture that can be opened here"):
        open_picture(tmp_path / "a.png")


@pytest.mark.parametrize("size", [(13000, 13000), (200_000, 200_000), (60_000_000, 1)])
def test_bombs_are_refused_by_their_header(tmp_path, size):
    with pytest.raises(UserError, match="50 megapixels that are allowed"):
        open_picture(declared(tmp_path / "bomb.png", *size))


def test_a_cut_file_within_the_limit_is_called_damaged(tmp_path):
    with pytest.raises(UserError, match="damaged and cannot be opened"):
        open_picture(declared(tmp_path / "cut.png", 300, 300))


def test_no_file_yet():
    with pytest.raises(UserError, match="No picture yet"):
        open_picture(None)


def test_large_pictures_are_shrunk_and_small_ones_left(tmp_path):
    Image.new("RGB", (5000, 1000), (9, 200, 30)).save(tmp_path / "wide.png")
    found = open_picture(tmp_path / "wide.png")
    assert found.shape == (round(1000 * LONGEST / 5000), LONGEST, 3) and found[5, 5].tolist() == [9, 200, 30]
    picture().save(tmp_path / "small.png")
    assert open_picture(tmp_path / "small.png").shape == (8, 12, 3)


def test_every_kind_of_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: the first pixel goes to the upper right
    picture().save(tmp_path / "turned.png", exif=exif)
    turned = open_picture(tmp_path / "turned.png")
    assert turned.shape == (12, 8, 3) and turned[0, 7].tolist() == [255, 0, 0]
    Image.new("CMYK", (6, 6), (0, 255, 255, 0)).save(tmp_path / "print.tif")
    assert open_picture(tmp_path / "print.tif")[0, 0].tolist() == [255, 0, 0]
    Image.new("RGBA", (6, 6), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert open_picture(tmp_path / "clear.png")[0, 0].tolist() == [255] * 3
    Image.fromarray(np.full((6, 6), 32896, np.uint16)).save(tmp_path / "deep.png")
    assert open_picture(tmp_path / "deep.png")[0, 0].tolist() == [128] * 3
    Image.new("L", (6, 6), 70).save(tmp_path / "grey.webp", lossless=True)
    assert open_picture(tmp_path / "grey.webp")[0, 0].tolist() == [70] * 3
    frames = [Image.new("RGB", (6, 6), c) for c in ((255, 0, 0), (0, 0, 255))]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert open_picture(tmp_path / "moving.gif")[0, 0].tolist() == [255, 0, 0]
