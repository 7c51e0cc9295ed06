"""Decoding against Pillow by itself, on every kind of file that ImageNet has."""

import errno
import importlib
import io
import struct
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from helpers import photograph
from PIL import Image, UnidentifiedImageError

from passl.datasets import UnreadableImage
from passl.datasets.images import decoding
from passl.datasets.images.decoding import decode_image
from passl.utils.config import LoaderSection
from passl.utils.errors import PasslError


@pytest.fixture(autouse=True)
def pillows_own_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)


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
    monkeypatch.setattr(decoding, "_decode_with_pillow", lambda *_: pytest.fail("slow way"))
    for kind in ("4:2:0", "4:4:4", "4:2:2", "progressive", "grey", "turned by EXIF"):
        decode_image(FILES[kind](photograph()), kind)


# ---------------------------------------------------------------- more than 8 bits


def png16(values):
    """A PNG of 16 bits a channel, written by hand."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(values, photometric=1, sample_format=1, bits=None, order="<", extra=None):
    """A TIFF without compression, written by hand; of 12 bits, two values stand in three bytes."""
    height, width, channels = values.shape
    raw = values.astype(values.dtype.newbyteorder(order)).tobytes()
    if bits == 12:
        first, second = (values.reshape(-1, 2)[:, i].astype(int) for i in (0, 1))
        packed = [first >> 4, (first & 15) << 4 | second >> 8, second & 255]
        raw = np.stack(packed, -1).astype(np.uint8).tobytes()
    depths = [bits or 8 * values.dtype.itemsize] * channels
    tags = {
        256: [width], 257: [height], 258: depths, 259: [1], 262: [photometric], 273: [0],
        277: [channels], 278: [height], 279: [len(raw)], 339: [sample_format] * channels,
    }  # fmt: skip
    if extra is not None:
        tags[338] = [extra]
    tags = dict(sorted(tags.items()))
    after = 8 + 2 + 12 * len(tags) + 4  # the values that do not fit into their entry
    packed = {tag: struct.pack(order + "I" * len(v), *v) for tag, v in tags.items()}
    behind = b"".join(data for data in packed.values() if len(data) > 4)
    packed[273] = struct.pack(order + "I", after + len(behind))
    entries, place = b"", after
    for tag, data in packed.items():
        entries += struct.pack(order + "HHI", tag, 4, len(data) // 4)
        entries += data if len(data) == 4 else struct.pack(order + "I", place)
        place += len(data) if len(data) > 4 else 0
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(tags))
    return start + entries + bytes(4) + behind + raw


def values(channels=1, high=65536, dtype=np.uint16):
    return np.random.default_rng(channels).integers(0, high, (6, 8, channels)).astype(dtype)


def pgm(values, most, magic="P5"):
    text = " ".join(map(str, values.ravel())).encode()
    body = text if magic == "P2" else values.astype(">u2").tobytes()
    return f"{magic} 8 6 {most}\n".encode() + body


def jpeg2000(values):
    return encoded(Image.fromarray(values[..., 0]), "JPEG2000")


DEEP = {
    "PNG grey": (png16(values()), values() >> 8),
    "PNG grey and alpha": (png16(values(2)), values(2)[..., :1] >> 8),
    "PNG": (png16(values(3)), values(3) >> 8),
    "PNG alpha": (png16(values(4)), values(4)[..., :3] >> 8),
    "TIFF grey": (tiff(values()), values() >> 8),
    "TIFF grey, big end first": (tiff(values(), order=">"), values() >> 8),
    "TIFF, white is 0": (tiff(values(), 0), 255 - (values() >> 8)),
    "TIFF": (tiff(values(3), 2), values(3) >> 8),
    "TIFF of 12 bits": (tiff(values(high=4096), bits=12), values(high=4096) >> 4),
    "TIFF of 8 bits, white is 0": (
        tiff(values(high=256, dtype=np.uint8), 0), 255 - values(high=256)
    ),
    "TIFF of 8 bits, grey by alpha": (
        tiff((values(2, 128) * [1, 0] + [0, 255]).astype(np.uint8), extra=1),
        values(2, 128)[..., :1],
    ),
    "PGM": (pgm(values(), 65535), values() >> 8),
    "PGM in text": (pgm(values(), 65535, "P2"), values() >> 8),
    "PGM of 10 bits": (
        pgm(values(high=1024), 1023), np.round(values(high=1024) / 1023 * 65535).astype(int) >> 8
    ),
    "JPEG 2000": (jpeg2000(values()), values() >> 8),
}  # fmt: skip


def opens(data):
    """Whether this Pillow reads it: 9 lacks some of the kinds below."""
    try:
        Image.open(io.BytesIO(data)).close()
    except UnidentifiedImageError:
        return False
    return True


@pytest.mark.parametrize("kind", DEEP)
def test_more_bits_keep_their_upper_eight(kind):
    data, expected = DEEP[kind]
    if not opens(data):
        with pytest.raises(UnreadableImage):
            decode_image(data, "x")
        pytest.skip("this Pillow does not read it")
    found = np.asarray(decode_image(data, "x"))
    np.testing.assert_array_equal(found, np.broadcast_to(expected, (6, 8, 3)))


def fits(values):
    cards = {"SIMPLE": "T", "BITPIX": 16, "NAXIS": 2, "NAXIS1": 8, "NAXIS2": 6}
    head = "".join(f"{key:8}= {value:>20}".ljust(80) for key, value in cards.items()) + "END"
    return head.ljust(2880).encode() + values.astype(">i2").tobytes().ljust(2880, b"\0")


RANGELESS = {
    "signed": [
        tiff(values().view(np.int16), 1, 2), tiff(values(dtype=np.int32), 1, 2),
        tiff(values(high=256, dtype=np.uint8).view(np.int8), 1, 2),
    ],
    "more than 8 bits": [tiff(values(dtype=np.uint32)), fits(values())],
    "floating-point": [
        tiff(values().astype(np.float32) / 65536, 1, 3),
        b"Pf\n8 6\n-1.0\n" + values().astype("<f4").tobytes(),
    ],
    "TIFF of a kind": [tiff(values(3).astype(np.float32), 2, 3)],
}  # fmt: skip


@pytest.mark.parametrize("kind", RANGELESS)
def test_pixels_whose_range_nobody_knows_are_refused(kind):
    for data in RANGELESS[kind]:
        with pytest.raises(UnreadableImage, match=f"^x.tif: .*{kind if opens(data) else ''}.*; "):
            decode_image(data, "x.tif")


# ---------------------------------------------------------------- sizes


def claiming(data, width, height):
    """A file whose header tells another size."""
    data = bytearray(data)
    if data[:4] == b"\x89PNG":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    elif data[:2] == b"BM":
        data[18:26] = struct.pack("<ii", width, height)
    else:
        start = data.find(b"\xff\xc0" if b"\xff\xc0" in data else b"\xff\xc2")
        data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("kind", ["4:2:0", "progressive", "CMYK", "PNG", "BMP"])
def test_a_header_may_not_claim_any_size(kind):
    small = photograph().resize((40, 30))
    data = encoded(small, "BMP") if kind == "BMP" else FILES[kind](small)
    tracemalloc.start()
    with pytest.raises(UnreadableImage, match="too large: 3,600.0 megapixels .* 179.0"):
        decode_image(claiming(data, 60_000, 60_000), "x.jpg")
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()
    assert decode_image(data, "x", 1200).size == (40, 30)
    with pytest.raises(UnreadableImage, match="x: is too large: .*loader.max_pixels"):
        decode_image(data, "x", 1199)
    assert decode_image(data, "x", None).size == (40, 30)


def test_an_image_within_an_icon_may_not_claim_any_size():
    inside = claiming(encoded(photograph().resize((40, 30)), "PNG"), 60_000, 60_000)
    entry = struct.pack("<BBBBHHII", 40, 30, 0, 0, 1, 32, len(inside), 22)
    with pytest.raises(UnreadableImage, match="too large"):
        decode_image(struct.pack("<HHH", 0, 1, 1) + entry + inside, "x.ico")


def test_one_limit_for_config_and_pillow(monkeypatch):
    """Pillow's is raised where ours is higher, and never lowered: others open pictures as well."""
    assert decoding.MAX_PIXELS == LoaderSection().max_pixels == 2 * 89_478_485
    data = encoded(photograph().resize((40, 30)), "PNG")
    for limit, ours, after in ((500, 1201, 601), (500, None, None), (700, 1200, 700)):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert decode_image(data, "x", ours).size == (40, 30)
        assert Image.MAX_IMAGE_PIXELS == after


def test_pillow_has_nothing_to_say_of_its_own(monkeypatch):
    """Its warnings name a file of its own in the place of the image."""
    palette = encoded(photograph().convert("P"), "PNG", transparency=bytes(range(256)))
    width, height = photograph().size
    # It warns above its limit, and refuses above twice that.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", width * height // 2 + 1)

    def decode():
        decoding.decode_image(palette, "x", width * height)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decode()
        assert {w.category for w in caught} == {UserWarning, Image.DecompressionBombWarning}
        caught.clear()
        importlib.reload(decoding)
        decode()
        assert not caught


@pytest.mark.parametrize("kind", ["4:2:0", "CMYK", "PNG"])
def test_too_little_memory_is_no_fault_of_the_image(kind, monkeypatch):
    data = FILES[kind](photograph())

    def full(*_, **__):
        raise MemoryError("Unable to allocate 12.0 GiB")

    monkeypatch.setattr(decoding.simplejpeg, "decode_jpeg", full)
    monkeypatch.setattr(Image.Image, "convert", full)
    with pytest.raises(PasslError, match="x: there is not enough memory.*megapixels") as caught:
        decode_image(data, "x")
    assert not isinstance(caught.value, UnreadableImage)

    def refused(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(decoding.simplejpeg, "decode_jpeg_header", lambda data: (1, 1, "CMYK", ""))
    monkeypatch.setattr(Image, "open", refused)
    with pytest.raises(PasslError, match="ulimit -n") as caught:
        decode_image(data, "x")
    assert not isinstance(caught.value, UnreadableImage)


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


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (bytes(1000), "zeros"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50), "HEIC photo; convert it to JPEG"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(50), "HEIC photo"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif" + bytes(50), "AVIF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0" + bytes(50), "video"),
        (b"\n<!DOCTYPE html><html><body>404", "web page"),
        (b'<?xml version="1.0"?>\n<svg width="1">', "SVG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (b"%PDF-1.7\n", "PDF"),
        (b"PK\x03\x04" + bytes(50), "archive"),
        (b"anything else", "no image format that is known"),
    ],
)
def test_what_is_taken_for_an_image_is_called_by_its_name(data, said):
    with pytest.raises(UnreadableImage, match=said) as caught:
        decode_image(data, "photo.jpg")
    text = str(caught.value)
    assert text.startswith("photo.jpg: ") and "\n" not in text and ";" in text
