"""Which files are images, and what is said of those that are not: in training and predict alike."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from passl.datasets import build_dataset
from passl.datasets.sources import image_files
from passl.datasets.sources.image_files import image_extensions, images_below, passed_over_text
from passl.datasets.sources.paths import find_images
from passl.utils.errors import PasslError
from passl.utils.logging import logger


@pytest.fixture
def told(monkeypatch):
    """What is logged."""
    found = []
    monkeypatch.setattr(logger, "info", lambda text, *args: found.append(text % args))
    return found


@pytest.fixture
def forbidden(monkeypatch):
    """Takes the permission to read a folder; the tests may run as root, who needs none."""

    def take(folder):
        scandir = os.scandir

        def denied(path):
            if os.path.samefile(path, folder):
                raise PermissionError(13, "Permission denied", path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", denied)

    return take


def train_set(root):
    dataset = build_dataset({"name": "ImageFolder", "dataroot": str(root)})
    return [os.path.relpath(dataset.where(i), root) for i in range(len(dataset))]


def predicted(root):
    return [os.path.relpath(path, root) for path in find_images([str(root)])]


BOTH = pytest.mark.parametrize("found_in", [train_set, predicted])


@pytest.mark.parametrize("extension", image_extensions())
def test_every_extension_is_of_a_format_that_is_read(tmp_path, extension):
    """A picture saved in the format of the name comes back; nothing is listed that cannot be."""
    pixels = np.full((16, 16, 3), (200, 60, 30), np.uint8)
    image = Image.fromarray(pixels)
    path = tmp_path / "class" / f"a{extension.upper()}"
    path.parent.mkdir()
    grey = extension in (".pgm", ".pbm")
    if grey:
        image = image.convert("L" if extension == ".pgm" else "1")
    format = {".avif": "AVIF", ".mpo": "MPO", ".apng": "PNG", ".dib": "DIB", ".tga": "TGA"}.get(
        extension
    ) or Image.registered_extensions()[extension]
    image.save(path, format)
    dataset = build_dataset({"name": "ImageFolder", "dataroot": str(tmp_path)})
    assert len(dataset) == 1
    if not grey:
        np.testing.assert_allclose(dataset[0]["image"].astype(int), pixels, atol=10)


def test_the_usual_extensions_are_among_them():
    usual = ".jpg .jpeg .png .bmp .webp .gif .tif .tiff .ppm .jfif .jpe .pgm .pbm .pnm .jp2 .j2k"
    assert set(usual.split()) <= set(image_extensions())
    # What Pillow opens too and nobody means.
    assert not {".pdf", ".eps", ".mpg", ".ico", ".h5", ".psd"} & set(image_extensions())


def test_avif_is_read_where_pillow_does(monkeypatch):
    registered = dict(Image.registered_extensions())
    for known in (True, False):
        registered.pop(".avif", None)
        if known:
            registered[".avif"] = "AVIF"
        monkeypatch.setattr(Image, "registered_extensions", lambda: registered)
        image_extensions.cache_clear()
        assert (".avif" in image_extensions()) is known
    monkeypatch.undo()
    image_extensions.cache_clear()


@BOTH
@pytest.mark.smoke
def test_what_is_passed_over_is_said_once(image_folder, told, found_in):
    root = image_folder({"a": 2, "b": 1})
    shutil.copy(root / "a" / "000.png", root / "a" / "x.JFIF")
    for name in ("a/p.heic", "a/q.HEIC", "b/r.heic", "a/notes.txt", "b/noextension", "a/.hidden"):
        (root / name).write_bytes(b"x")
    for name in ("a/Thumbs.db", "b/desktop.ini", "b/.DS_Store"):
        (root / name).write_bytes(b"x")
    os.symlink(root / "gone" / "1.jpg", root / "a" / "lost.jpg")
    os.symlink("round.jpg", root / "b" / "round.jpg")
    (root / "b" / "odd.some words here").write_bytes(b"x")
    assert found_in(root) == ["a/000.png", "a/001.png", "a/x.JFIF", "b/000.png"]
    (line,) = [text for text in told if "passed over" in text]
    assert line.endswith(
        "passed over: 3 .heic, 2 broken links, 1 .txt, 1 file without an extension, 1 other file"
    )


def test_nothing_passed_over_is_nothing_said(image_folder, told):
    root = image_folder({"a": 1})
    (root / "a" / "Thumbs.db").write_bytes(b"x")
    assert train_set(root) == predicted(root) == ["a/000.png"]
    assert not told


def test_images_beside_the_class_folders_are_named(image_folder, save_image, told):
    root = image_folder({"a": 1})
    save_image(root / "flat.png"), save_image(root / "flat2.png")
    os.symlink(root / "gone", root / "b")
    train_set(root)
    assert told == [f"{root}: passed over: 2 images beside the class folders, 1 broken link"]


def test_a_class_of_photos_that_are_not_read_says_so(image_folder):
    root = image_folder({"a": 1, "b": 0})
    (root / "b" / "1.heic").write_bytes(b"x")
    with pytest.raises(PasslError, match=r"no images in the class folder b \(1 .heic\)"):
        train_set(root)
    with pytest.raises(PasslError, match="b: holds no image file .* it holds 1 .heic"):
        predicted(root / "b")


def test_the_line_stays_short():
    kinds = {f".{letter}": 9 - place for place, letter in enumerate("abcdefgh")}
    assert passed_over_text(kinds) == "9 .a, 8 .b, 7 .c, 6 .d, 5 .e, 4 .f, 5 other files"
    assert passed_over_text({"other file{s}": 2, ".a": 1}) == "1 .a, 2 other files"
    assert passed_over_text({".heic": 12000}) == "12,000 .heic"


# ---------------------------------------------------------------- the walk


@BOTH
def test_links_to_folders_are_followed(image_folder, found_in, tmp_path):
    root = image_folder({"a": 1})
    other = image_folder({"deep": 2}, "other")
    os.symlink(other / "deep", root / "a" / "linked")
    assert found_in(root) == ["a/000.png", "a/linked/000.png", "a/linked/001.png"]


@BOTH
@pytest.mark.parametrize("target", [".", "..", "../../around"])
def test_a_circle_of_links_ends(image_folder, told, found_in, target):
    root = image_folder({"a": 1})
    around = image_folder({"x": 1}, "around")
    os.symlink(root, around / "back")
    os.symlink(target, root / "a" / "loop")
    found = found_in(root)
    assert len(found) == len(set(found)) <= 3 and found[0] == "a/000.png"
    assert "1 link in a circle" in told[-1]


@BOTH
def test_two_links_to_one_folder_are_no_circle(image_folder, told, found_in):
    root = image_folder({"a": 1, "b": 1})
    os.symlink(root / "b", root / "a" / "one")
    os.symlink(root / "b", root / "a" / "two")
    assert found_in(root) == ["a/000.png", "a/one/000.png", "a/two/000.png", "b/000.png"]
    assert not told


@BOTH
@pytest.mark.parametrize("where", [".", "a", "a/deep"])
def test_a_folder_that_cannot_be_read_is_named(image_folder, forbidden, found_in, where):
    root = image_folder({"a": 1, "b": 1})
    (root / "a" / "deep").mkdir()
    forbidden(root / where)
    with pytest.raises(PasslError) as caught:
        found_in(root)
    said = str(caught.value)
    assert said.startswith(f"{os.path.normpath(root / where)}: cannot be read (Permission denied)")


def test_the_order_is_that_of_whole_paths(tmp_path):
    for name in ("b.png", "a/z.png", "a.b/x.png", "a-/x.png", "B.png", "a/b/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    expected = ["B.png", "a-/x.png", "a.b/x.png", "a/b/c.png", "a/z.png", "b.png"]
    assert images_below(str(tmp_path), "", {}) == expected
    below = [f"{tmp_path.name}/{name}" for name in expected]
    assert images_below(str(tmp_path.parent), tmp_path.name, {}) == below


def test_a_folder_called_like_an_image(image_folder):
    root = image_folder({"a": 1, "b": 1})
    (root / "a" / "album.jpg").mkdir()
    shutil.copy(root / "a" / "000.png", root / "a" / "album.jpg" / "1.png")
    assert "a/album.jpg/1.png" in train_set(root) and "a/album.jpg" not in train_set(root)
    assert image_files.is_image_name("x.JPG") and not image_files.is_image_name("jpg")
