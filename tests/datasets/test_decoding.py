"""Decoding against Pillow by itself, on every kind of file that ImageNet has."""

import io

import numpy as np
import pytest
from helpers import photograph
from PIL import Image

from passl.datasets import UnreadableImage, decoding
from passl.datasets.decoding import decode_image


def encoded(image, form="JPEG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def turned(image):
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, exif=exif)


FILES = {
    "4:2:0": lambda image: encoded(image, quality=90),
    "4:4:4": lambda image: encoded(image, quality=90, subsampling=0),
    "4:2:2": lambda image: encoded(image, quality=90, subsampling=1),
    "progressive": lambda image: encoded(image, progressive=True),
    "grey": lambda image: encoded(image.convert("L")),
    "CMYK": lambda image: encoded(image.convert("CMYK")),
    "turned by EXIF": turned,
    "PNG": lambda image: encoded(image, "PNG"),
    "palette": lambda image: encoded(image.convert("P"), "PNG"),
    "alpha": lambda image: encoded(image.convert("RGBA"), "PNG"),
    "1 bit": lambda image: encoded(image.convert("1"), "PNG"),
    "GIF": lambda image: encoded(image.convert("P"), "GIF"),
    "odd size": lambda image: encoded(image.crop((0, 0, 333, 251)), quality=75),
    "one pixel": lambda image: encoded(image.crop((0, 0, 1, 1))),
}


@pytest.mark.smoke
@pytest.mark.parametrize("kind", FILES)
def test_pixels_are_pillows_to_the_last_bit(kind):
    data = FILES[kind](photograph())
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    image = decode_image(data, "x")
    np.testing.assert_array_equal(np.asarray(image), expected)
    np.testing.assert_array_equal(np.asarray(image.to_pil()), expected)
    assert image.size == (expected.shape[1], expected.shape[0])


def test_most_jpegs_take_the_fast_way(monkeypatch):
    monkeypatch.setattr(decoding, "_decode_with_pillow", lambda data, name: pytest.fail("slow way"))
    for kind in ("4:2:0", "4:4:4", "4:2:2", "progressive", "grey", "turned by EXIF"):
        decode_image(FILES[kind](photograph()), kind)


def test_sixteen_bits_keep_their_upper_eight():
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    data = encoded(Image.fromarray(values), "PNG")
    np.testing.assert_array_equal(
        np.asarray(decode_image(data, "x"))[..., 0], (values >> 8).astype(np.uint8)
    )


@pytest.mark.smoke
@pytest.mark.parametrize("part", [0.3, 0.9])
@pytest.mark.parametrize("kind", ["4:2:0", "progressive", "CMYK", "PNG"])
def test_files_cut_short_are_no_images(kind, part):
    data = FILES[kind](photograph())
    with pytest.raises(UnreadableImage, match="^photo.jpg: cannot be read as an image"):
        decode_image(data[: int(len(data) * part)], "photo.jpg")


def test_what_is_no_image():
    for data in (b"", b"\xff\xd8", b"hello" * 100, b"\xff\xd8\xff\xe0" + bytes(100)):
        with pytest.raises(UnreadableImage, match="^x: ") as raised:
            decode_image(data, "x")
        assert "0x" not in str(raised.value), "the same file gives the same message"
