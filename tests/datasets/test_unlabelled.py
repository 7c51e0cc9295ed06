"""Sets of images of which nothing says what they show."""

import tarfile

import numpy as np
import pytest

from passl.datasets import SampleKey, build_dataset, with_synthetic_data
from passl.datasets.dataset import subset_indices
from passl.datasets.sources import layouts
from passl.datasets.sources.packing import pack
from passl.engine.checks import check_classes
from passl.utils.config import Config
from passl.utils.errors import PasslError

CROP = [{"name": "RandomResizedCrop", "size": 8}]
# Flat, nested, in one folder and in several; in the order of their paths.
PATHS = [
    "b.png", "照片/2024/雪山.png", "照片/海.jpg", "z/deep/deeper/1.png", "z/deep/2.png",
]  # fmt: skip


@pytest.fixture
def photographs(tmp_path, save_image):
    for seed, path in enumerate(PATHS):
        save_image(tmp_path / "photographs" / path, (10, 9), seed)
    (tmp_path / "photographs" / "notes.txt").write_text("no image")
    return tmp_path / "photographs"


def unlabelled(root, name="ImageFolder", **arguments):
    return build_dataset({"name": name, "dataroot": str(root), "labels": False, **arguments})


def test_a_folder_of_photographs(photographs):
    dataset = unlabelled(photographs, transforms=CROP)
    found = [dataset.path(i) for i in range(len(dataset))]
    assert found == sorted(str(photographs / path) for path in PATHS)
    assert dataset.labels is None and dataset.class_names is None
    assert dataset.class_counts() == [] and dataset.where(0) == found[0]
    for i in range(5):
        assert list(dataset[SampleKey(i)]) == ["image"]
    with pytest.raises(IndexError):
        dataset[5]
    assert [sample["image"].shape for sample in dataset] == [(8, 8, 3)] * 5


def test_the_draws_are_those_of_a_set_with_labels(image_folder):
    root = image_folder({"a": 3, "b": 2}, size=(20, 16))
    labelled = build_dataset({"name": "ImageFolder", "dataroot": str(root), "transforms": CROP})
    dataset = unlabelled(root, transforms=CROP)
    for i in range(5):
        np.testing.assert_array_equal(dataset[i]["image"], labelled[i]["image"])


def test_a_flat_folder(tmp_path, save_image):
    for i in range(3):
        save_image(tmp_path / "flat" / f"{i}.png")
    assert len(unlabelled(tmp_path / "flat")) == 3
    with pytest.raises(PasslError, match="has no class folders; expected .* in the folder itself"):
        build_dataset({"name": "ImageFolder", "dataroot": str(tmp_path / "flat")})


def test_a_folder_without_images(tmp_path):
    (tmp_path / "empty" / "below").mkdir(parents=True)
    (tmp_path / "empty" / "below" / "a.txt").write_text("")
    with pytest.raises(PasslError, match=r"no images in the folder or below \(1 .txt\); add some"):
        unlabelled(tmp_path / "empty")


def test_the_digest_tells_files_apart(photographs, save_image):
    before = unlabelled(photographs).digest()
    assert unlabelled(photographs).digest() == before
    assert unlabelled(photographs, subset="[:60%]").digest() != before
    save_image(photographs / "a.png")
    assert unlabelled(photographs).digest() != before


def test_the_index_of_a_set_without_labels(photographs, monkeypatch, tmp_path):
    monkeypatch.setenv("PASSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("passl.datasets.sources.catalog._SMALLEST_INDEX", 1)
    monkeypatch.setattr("passl.datasets.sources.catalog._TOO_RECENT_NS", -(10**18))
    before = unlabelled(photographs)
    assert list((tmp_path / "cache").rglob("*.npz"))

    def listed_again(root):
        raise AssertionError("listed again")

    monkeypatch.setattr(layouts, "read_images", listed_again)
    after = unlabelled(photographs)
    assert after.labels is None and after.digest() == before.digest()


def test_a_subset_without_labels():
    cuts = ("[:25%]", "[25%:70%]", "[70%:]")
    parts = [subset_indices(None, cut, 997) for cut in cuts]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(997))
    assert [len(part) for part in parts] == [249, 449, 299]
    for cut, part in zip(cuts, parts):
        assert (np.diff(part) > 0).all()
        # A run of neighbours would have the mean of its own place.
        assert abs(part.mean() - 498) < 40
        np.testing.assert_array_equal(part, subset_indices(None, cut, 997))
    np.testing.assert_array_equal(subset_indices(None, None, 5), np.arange(5))


def test_a_list_of_paths(photographs, tmp_path):
    file = tmp_path / "all.txt"
    file.write_text("照片/海.jpg\n\n  z/deep/2.png \nb.png\n", encoding="utf-8")
    dataset = unlabelled(photographs, "ImageList", list_file=str(file))
    assert dataset.labels is None and len(dataset) == 3
    assert [dataset.path(i)[len(str(photographs)) + 1 :] for i in range(3)] == [
        "照片/海.jpg", "z/deep/2.png", "b.png",
    ]  # fmt: skip
    assert dataset.where(1) == f"{file}:3"
    assert list(dataset[1]) == ["image"]
    with pytest.raises(PasslError, match="a line is 'path label' with a label from 0"):
        build_dataset({"name": "ImageList", "dataroot": str(photographs), "list_file": str(file)})


@pytest.mark.parametrize(
    "text, message",
    [
        ("b.png 3\n", ":1: has a label behind the path, but the set is read with labels: false"),
        ("gone.png\n", ":1: there is no image .*; check dataroot"),
        ("b.png,\n", "write 'path' without ','"),
        ("\n", "is empty; a line is 'path'"),
    ],
)
def test_lists_that_hold_something_else(photographs, tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(PasslError, match=message):
        unlabelled(photographs, "ImageList", list_file=str(tmp_path / "list.txt"))


def test_packed_without_labels(photographs, tmp_path):
    dataset = unlabelled(photographs)
    pack(dataset, str(tmp_path / "packed"), short_side=None, per_shard=3)
    with tarfile.open(tmp_path / "packed" / "shard-00000.tar") as shard:
        assert shard.getnames() == [f"{i:09d}.jpg" for i in range(3)]
    packed = unlabelled(tmp_path / "packed", "ImageShards")
    assert packed.labels is None and len(packed) == 5
    for i in range(5):
        assert packed.read_bytes(i) == dataset.read_bytes(i)
    with pytest.raises(PasslError, match=r"has no label beside it \(000000000.cls\)"):
        build_dataset({"name": "ImageShards", "dataroot": str(tmp_path / "packed")})


def test_labels_of_shards_can_be_passed_over(image_folder, tmp_path):
    root = image_folder({"a": 2, "b": 1})
    labelled = build_dataset({"name": "ImageFolder", "dataroot": str(root)})
    pack(labelled, str(tmp_path / "packed"))
    packed = unlabelled(tmp_path / "packed", "ImageShards")
    assert packed.labels is None and packed.class_names is None and len(packed) == 3
    with_labels = build_dataset({"name": "ImageShards", "dataroot": str(tmp_path / "packed")})
    assert with_labels.labels.tolist() == [0, 0, 1] and with_labels.class_names == ["a", "b"]


@pytest.mark.parametrize("name", ["ImageList", "ImageShards"])
def test_names_of_no_classes(tmp_path, name):
    arguments = {"list_file": "a.txt"} if name == "ImageList" else {}
    with pytest.raises(PasslError, match="class_names names classes, but with labels: false"):
        unlabelled(tmp_path, name, class_names="names.txt", **arguments)


def test_synthetic_pictures_without_labels():
    small = {"name": "Synthetic", "num_classes": 3, "length": 7, "pictures": 5, "height": 16,
             "width": 20}  # fmt: skip
    dataset, labelled = build_dataset({**small, "labels": False}), build_dataset(small)
    assert len(dataset) == 7 and dataset.labels is None and list(dataset[6]) == ["image"]
    for i in range(7):
        assert dataset.read_bytes(i) == labelled.read_bytes(i)
    section = {"dataset": {"name": "ImageFolder", "dataroot": "x", "labels": False}}
    cfg = Config({"model": {}, "dataloader": {"train": section}})
    made = build_dataset(with_synthetic_data(cfg, 4).dataloader.train.dataset)
    assert made.labels is None and len(made) == 4


def test_a_classifier_needs_labels(photographs):
    class Network:
        num_classes = 3

    section = Config({"dataset": {"name": "ImageFolder", "dataroot": str(photographs)}})
    dataset = unlabelled(photographs)
    with pytest.raises(PasslError, match="is read without labels .* tells 3 classes apart"):
        check_classes(Network(), dataset, None, section)
    check_classes(object(), dataset, None, section)
