"""Data that does not fit the network is told what it is, in one line."""

import os
from types import SimpleNamespace

import paddle
import pytest
from helpers import NETWORK
from PIL import Image

from passl.datasets import build_dataset
from passl.engine import checks
from passl.engine.checks import check_classes, check_images, tell_of_captions
from passl.modeling.architectures import build_architecture
from passl.utils.config import Config
from passl.utils.errors import PasslError
from passl.utils.logging import logger


def checked(dataset, num_classes, class_names=None):
    cfg = Config({"dataset": dataset}, "", {})
    architecture = SimpleNamespace(num_classes=num_classes)
    check_classes(architecture, build_dataset(dataset), class_names, cfg)


def folder(root):
    return {"name": "ImageFolder", "dataroot": str(root)}


def save_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 18), "green").save(path)


@pytest.fixture
def fruit(tmp_path):
    for name in ("apple", "kiwi", "pear"):
        save_image(tmp_path / "mine" / name / "1.png")
    return tmp_path / "mine"


def test_the_classes_of_a_set_are_named(fruit):
    checked(folder(fruit), 3)
    with pytest.raises(PasslError) as caught:
        checked(folder(fruit), 5)
    assert str(caught.value) == (
        f"{fruit}: has 3 classes (apple, kiwi, pear), but model.head.num_classes is 5; "
        "set -o model.head.num_classes=3"
    )
    for number in range(4):
        save_image(fruit / f"x{number}" / "1.png")
    with pytest.raises(PasslError, match=r"has 7 classes \(apple, kiwi, pear, x0, x1 and 2 more\)"):
        checked(folder(fruit), 5)


@pytest.mark.parametrize("class_names", [None, ["apple", "kiwi", "pear"]])
def test_an_archive_that_was_unpacked_twice(fruit, class_names):
    with pytest.raises(PasslError, match="mine holds 3 folders: set dataroot to it") as caught:
        checked(folder(fruit.parent), 3, class_names)
    assert "num_classes=1" not in str(caught.value)


def test_a_class_folder_whose_name_is_no_text(fruit):
    save_image(fruit / os.fsdecode(b"caf\xe9") / "1.png")
    with pytest.raises(PasslError, match=r"has 4 classes \(apple, caf\\xe9, .*num_classes=4"):
        checked(folder(fruit), 5)
    with pytest.raises(PasslError, match=r"the class caf\\xe9, which the 3 classes"):
        checked(folder(fruit), 3, ["apple", "kiwi", "pear"])


def test_classes_called_like_the_parts_of_a_set_bring_a_warning(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr(logger, "warning", lambda text, *args: warnings.append(text % args))
    for name in ("train", "test"):
        save_image(tmp_path / "flat" / name / "1.png")
    checked(folder(tmp_path / "flat"), 2)
    (warning,) = warnings
    assert "called test, train, as the parts of a set are" in warning
    save_image(tmp_path / "vehicles" / "train" / "1.png")
    save_image(tmp_path / "vehicles" / "bus" / "1.png")
    checked(folder(tmp_path / "vehicles"), 2)
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ((1, 2, 3), "labels go from 0 to 2; these begin at 1: take 1 from each"),
        ((0, 2, 3), "labels go from 0 to 2$"),
        ((1, 2, 4), "labels go from 0 to 2$"),
    ],
)
def test_labels_that_begin_at_one(fruit, labels, said):
    names = ("apple", "kiwi", "pear")
    lines = [f"{name}/1.png {label}" for name, label in zip(names, labels)]
    (fruit / "list.txt").write_text("\n".join(lines))
    with pytest.raises(PasslError, match=said):
        checked({"name": "ImageList", "dataroot": str(fruit), "list_file": "list.txt"}, 3)


@pytest.mark.parametrize("backbone", [{"name": "MlpMixer", **NETWORK}, {"name": "convmlp_s"}])
def test_a_missing_normalize_is_called_that(fruit, backbone):
    dataset = {**folder(fruit), "transforms": [{"name": "ResizeCenterCrop", "size": 16}]}
    head = {"name": "ClassificationHead", "num_classes": 3}
    section = Config({"dataset": dataset, "batch_transforms": []}, "", {})
    architecture = build_architecture({"architecture": backbone, "head": head})
    with pytest.raises(PasslError, match="^dataloader.val: batch_transforms has no Normalize") as e:
        check_images(architecture, build_dataset(dataset), section, "val", 0)
    assert "img_size" not in str(e.value)


def test_images_with_channels_at_the_end_are_told_from_a_wrong_size():
    network = build_architecture(
        {"architecture": {"name": "MlpMixer", **NETWORK},
         "head": {"name": "ClassificationHead", "num_classes": 3}}
    )  # fmt: skip
    with pytest.raises(PasslError, match=r"\[2, 16, 16, 3\]; the channels come before.*Normalize"):
        network({"image": paddle.zeros([2, 16, 16, 3])})
    with pytest.raises(PasslError, match="built for images of 16×16 .* but got 12×3"):
        network({"image": paddle.zeros([2, 3, 12, 3])})


@pytest.fixture
def told(tmp_path, monkeypatch, caplog):
    """Says what a batch of some images with captions meets, each image with its own."""

    def tell(captions, batch, transforms=({"name": "Tokenize", "context": 5},), most=2000):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for number, text in enumerate(captions):
            save_image(root / f"{number}.png")
            (root / f"{number}.txt").write_text(text, encoding="utf-8")
        section = {"name": "ImageTextFolder", "dataroot": str(root), "transforms": transforms}
        dataset = build_dataset(Config(section), None)
        monkeypatch.setattr(checks, "_CAPTIONS", most)
        caplog.clear()
        with caplog.at_level("INFO", logger="passl"):
            tell_of_captions(dataset, batch)
        return caplog.text

    return tell


def test_captions_that_are_cut_are_counted(told):
    """A word of these is one id, and start and end are two."""
    said = told(["a cat", "a dog", "a red cat", "a red cat sat"], 2)
    assert "about 25.0 % of the captions have more than 5 ids and are cut (1 of 4)" in said
    said = told(["a cat", "a big red dog", "a red big cat", "a dog"], 2, most=2)
    assert "about 50.0 % of the captions have more than 5 ids and are cut (1 of 2)" in said
    assert told(["a cat", "a big dog"], 2) == "" == told(["a big red cat"] * 2, 2, transforms=())


@pytest.mark.parametrize("batch, pairs", [(2, "0.17"), (3, "0.5"), (4, "1")])
def test_equal_captions_of_a_batch_are_counted(told, batch, pairs):
    """One of the six pairs of four images; a batch of three has three pairs."""
    said = told(["a cat", "a dog", "a fox", "a cat"], batch)
    assert f"a batch of {batch} holds about {pairs} pairs of images with the same caption" in said
    assert told(["a", "b", "c", "d"], batch) == ""
