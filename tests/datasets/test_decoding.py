"""Both decoders against Pillow by itself, on every kind of file that ImageNet has."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from passl.datasets import UnreadableImage, build_dataset, decoding
from passl.datasets.decoding import ArrayImage, decode_image
from passl.datasets.transforms import RandomCrop, RandomHorizontalFlip, RandomResizedCrop
from passl.utils.errors import PasslError


def photograph(seed=0, size=(500, 375)):
    """Something with the smooth areas, edges and texture that photographs have."""
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8))
    image = noise.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(6))
    draw = ImageDraw.Draw(image)
    for _ in range(30):
        x, y, r = rng.integers(0, size[0]), rng.integers(0, size[1]), rng.integers(5, 60)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(rng.integers(0, 256, 3).tolist()))
    grain = rng.normal(0, 4, (size[1], size[0], 3))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


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
    for decoder in decoding.DECODERS:
        image = decode_image(data, "x", decoder)
        np.testing.assert_array_equal(np.asarray(image), expected)
        assert image.size == (expected.shape[1], expected.shape[0])
    assert isinstance(decode_image(data, "x"), Image.Image)


def test_most_jpegs_take_the_fast_way(monkeypatch):
    monkeypatch.setattr(decoding, "_decode_with_pillow", lambda data, name: pytest.fail("slow way"))
    for kind in ("4:2:0", "4:4:4", "4:2:2", "progressive", "grey", "turned by EXIF"):
        decode_image(FILES[kind](photograph()), kind, "opencv")


def test_sixteen_bits_keep_their_upper_eight():
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    data = encoded(Image.fromarray(values), "PNG")
    for decoder in decoding.DECODERS:
        np.testing.assert_array_equal(np.asarray(decode_image(data, "x", decoder))[..., 0],
                                      (values >> 8).astype(np.uint8))  # fmt: skip


@pytest.mark.smoke
@pytest.mark.parametrize("decoder", decoding.DECODERS)
@pytest.mark.parametrize("part", [0.3, 0.9])
@pytest.mark.parametrize("kind", ["4:2:0", "progressive", "CMYK", "PNG"])
def test_files_cut_short_are_no_images(kind, part, decoder):
    data = FILES[kind](photograph())
    with pytest.raises(UnreadableImage, match="^photo.jpg: cannot be read as an image"):
        decode_image(data[: int(len(data) * part)], "photo.jpg", decoder)


def test_what_is_no_image():
    for data in (b"", b"\xff\xd8", b"hello" * 100, b"\xff\xd8\xff\xe0" + bytes(100)):
        with pytest.raises(UnreadableImage, match="^x: ") as raised:
            decode_image(data, "x", "opencv")
        assert "0x" not in str(raised.value), "the same file gives the same message"


@pytest.mark.parametrize("seed", range(6))
def test_opencv_resizes_as_pillow_does_within_three_levels(seed):
    """The bound is the mean over the pixels of a crop; what was seen is 0.3 to 1.4."""
    image = photograph(seed)
    other = ArrayImage(np.asarray(image))
    transform = RandomResizedCrop(224)
    rng = np.random.default_rng(seed)
    for _ in range(10):
        box = transform.box(*image.size, rng)
        expected = np.asarray(image.crop(box).resize((224, 224), Image.Resampling.BICUBIC))
        found = np.asarray(other.resize((224, 224), Image.Resampling.BICUBIC, box=box))
        assert np.abs(found.astype(int) - expected).mean() <= 3


def test_shrinking_is_antialiased():
    """Stripes of one pixel, black and white, become grey and not a pattern of their own."""
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    small = ArrayImage(stripes).resize((100, 100), Image.Resampling.BICUBIC).pixels
    assert np.abs(small.astype(int) - 127).max() < 30
    assert set(np.unique(stripes[::5, ::5][:100, :100])) == {0, 255}, "plain picking would"


@pytest.mark.parametrize(
    "transform", [RandomCrop(64, padding=8), RandomHorizontalFlip(1.0), RandomHorizontalFlip(0.0)]
)
def test_other_transforms_give_the_same_pixels(transform):
    image = photograph(1, (70, 66))
    results = [
        np.asarray(transform({"image": picture}, np.random.default_rng(seed))["image"])
        for seed in range(8)
        for picture in (image, ArrayImage(np.asarray(image)))
    ]
    for one, other in zip(results[::2], results[1::2]):
        np.testing.assert_array_equal(one, other)


def test_the_config_chooses(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").write_bytes(encoded(photograph(), quality=90))
    cfg = {"name": "ImageFolder", "dataroot": str(tmp_path)}
    crop = [{"name": "RandomResizedCrop", "size": 64}, {"name": "RandomHorizontalFlip"}]
    slow, fast = (
        build_dataset({**cfg, "transforms": crop, "decoder": decoder})[0]["image"]
        for decoder in decoding.DECODERS
    )
    assert slow.shape == fast.shape == (64, 64, 3) and slow.dtype == fast.dtype == np.uint8
    assert 0 < np.abs(slow.astype(int) - fast).mean() <= 3
    with pytest.raises(PasslError, match="decoder is one of pillow, opencv, not 'turbo'"):
        build_dataset({**cfg, "decoder": "turbo"})
