"""COCO's captions and Karpathy's splits, in files of the published forms."""

import json
import logging
import os
import time

import pytest
from helpers import photograph

from passl.datasets import build_dataset
from passl.utils.config import Config
from passl.utils.errors import PasslError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PASSL_CACHE", str(tmp_path / "cache"))


def images(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        photograph(i, (20, 16)).save(folder / name)


def opened(root, list_file, **arguments):
    section = {"name": "CocoCaptions", "dataroot": str(root), "list_file": str(list_file)}
    return build_dataset(Config({**section, "transforms": [], **arguments}), None)


def listed(dataset):
    root = dataset.catalog.root
    return {
        dataset.path(i).replace(f"{root}/", ""): dataset.captions(i) for i in range(len(dataset))
    }


# As https://cocodataset.org/#format-data has it, with the fields of captions_val2017.json.
COCO = {
    "info": {"description": "COCO 2017 Dataset", "year": 2017},
    "licenses": [{"id": 1, "name": "…", "url": "…"}],
    "images": [
        {"license": 4, "file_name": "000000397133.jpg", "height": 427, "width": 640, "id": 397133},
        {"license": 1, "file_name": "000000037777.jpg", "height": 230, "width": 352, "id": 37777},
        {"license": 1, "file_name": "000000000009.jpg", "height": 230, "width": 352, "id": 9},
    ],
    "annotations": [
        {"image_id": 37777, "id": 1, "caption": "The kitchen is full of spices.\n"},
        {"image_id": 397133, "id": 2, "caption": "A man is in a kitchen making pizzas."},
        {"image_id": 37777, "id": 3, "caption": "A kitchen with counter."},
        {"image_id": 37777, "id": 4, "caption": "  "},
        {"image_id": 9, "id": 6, "caption": ""},
        {"image_id": 9, "id": 7, "caption": "\n"},
        {"image_id": 12, "id": 5, "caption": "of no image"},
    ],
}
LISTED = {
    "000000397133.jpg": ["A man is in a kitchen making pizzas."],
    "000000037777.jpg": ["The kitchen is full of spices.", "A kitchen with counter."],
}


@pytest.fixture
def coco(tmp_path):
    images(tmp_path / "val2017", "000000397133.jpg", "000000037777.jpg", "000000000009.jpg")
    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations" / "captions_val2017.json"
    file.write_text(json.dumps(COCO), encoding="utf-8-sig")
    return tmp_path


@pytest.mark.smoke
def test_cocos_own_file(coco, caplog):
    with caplog.at_level(logging.INFO, logger="passl"):
        dataset = opened(coco, "annotations/captions_val2017.json")
    assert listed(dataset) == {f"val2017/{name}": texts for name, texts in LISTED.items()}
    for said in (
        "2 images with 3 captions; 1 image has several",
        "1 image without a caption",
        "3 empty captions",
        "1 caption of images that the file does not list",
    ):
        assert said in caplog.text
    assert dataset[0]["image"].shape == (16, 20, 3)
    within = opened(coco / "val2017", coco / "annotations/captions_val2017.json")
    assert listed(within) == LISTED
    part = opened(coco, "annotations/captions_val2017.json", subset="[:50%]")
    assert len(part) == 1


def entry(filename, split, *texts, **more):
    sentences = [{"tokens": t.lower().split(), "raw": t, "imgid": 0, "sentid": 1} for t in texts]
    return {"filename": filename, "imgid": 0, "split": split, "sentences": sentences, **more}


def test_karpathys_split_of_coco(tmp_path):
    """The folder stands in ``filepath``."""
    names = [f"COCO_val2014_{i:012d}.jpg" for i in range(4)]
    images(tmp_path / "val2014", *names)
    content = {
        "dataset": "coco",
        "images": [
            entry(names[0], "test", "A man with a red helmet.", "A man.", filepath="val2014"),
            entry(names[1], "restval", "A woman.", filepath="val2014"),
            entry(names[2], "val", "A child.", filepath="val2014"),
            entry(names[3], "train", "A cat.", filepath="val2014"),
        ],
    }
    file = tmp_path / "dataset_coco.json"
    file.write_text(json.dumps(content))
    everything = listed(opened(tmp_path, file))
    assert len(everything) == 4
    test = listed(opened(tmp_path, file, split="test"))
    assert test == {f"val2014/{names[0]}": ["A man with a red helmet.", "A man."]}
    train = listed(opened(tmp_path, file, split="train + restval"))
    assert train == listed(opened(tmp_path, file, split="train+restval"))
    assert list(train.values()) == [["A woman."], ["A cat."]]
    with pytest.raises(
        PasslError, match=r"has no split 'tset', but test \(1 images\), restval \(1"
    ):
        opened(tmp_path, file, split="tset")


@pytest.mark.parametrize("folder", ["", "flickr30k-images", "flickr30k_images", "images"])
def test_karpathys_split_of_flickr30k(tmp_path, folder):
    """Names alone, with the images in one of the usual folders."""
    images(tmp_path / folder, "1000092795.jpg")
    content = {
        "dataset": "flickr30k",
        "images": [entry("1000092795.jpg", "train", "Two men in green shirts.", sentids=[0])],
    }
    file = tmp_path / "dataset_flickr30k.json"
    file.write_text(json.dumps(content))
    expected = {f"{folder}/1000092795.jpg".lstrip("/"): ["Two men in green shirts."]}
    assert listed(opened(tmp_path, file, split="train")) == expected


def changed(**changes):
    return json.dumps({**COCO, **changes})


@pytest.mark.parametrize(
    "content, arguments, message",
    [
        (json.dumps(COCO)[:-9], {}, "is no JSON, or cut short .*; fetch it again"),
        ("[]", {}, r"is a list, where COCO's .* for ImageTextList"),
        ('{"images": [], "x": 1}', {}, "has images, x, where COCO's captions have images and ann"),
        ('{"data": 1}', {}, "has data, where"),
        (json.dumps(COCO), {"split": "val"}, "is of one split, as COCO's files are; leave split"),
        (changed(annotations=[{"bbox": [], "id": 1}]), {}, "have bbox, id, and no caption; take c"),
        (changed(annotations=[]), {}, "no image in it has a caption"),
        (
            changed(annotations=[{"image_id": "9", "caption": "a"}]),
            {},
            r"has a caption \(3 images without a caption, 1 caption of images that the file does",
        ),
        (
            '{"image": "1.jpg"}\n{"image": "2.jpg"}',
            {},
            "goes on behind its first .* call it .jsonl",
        ),
        (changed(annotations=[{"caption": "a"}]), {}, "another kind .an entry lacks 'image_id'"),
        (changed(images=[{"id": 37777}]), {}, "another kind .an entry lacks 'file_name'"),
        (changed(images=[None]), {}, "is damaged, or of another kind"),
        ('{"images": [{"sentences": [], "filename": "x"}]}', {}, "an entry lacks 'split'"),
        (
            changed(annotations=[{"image_id": 9, "caption": {"x": 1}}]),
            {},
            "another kind .an entry: an object with x",
        ),
    ],
    ids=lambda value: "",
)
def test_files_that_are_neither(coco, content, arguments, message):
    file = coco / "annotations" / "captions_val2017.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(PasslError, match=f"captions_val2017.json: .*{message}"):
        opened(coco, file, **arguments)


def test_files_in_another_encoding(coco):
    file = coco / "annotations" / "captions_val2017.json"
    for encoding in ("gbk", "utf-16"):
        file.write_bytes(changed(info="一").encode().decode("unicode-escape").encode(encoding))
        with pytest.raises(PasslError, match="val2017.json: is not UTF-8 but another encoding; s"):
            opened(coco, file)


def test_an_image_that_is_listed_twice_is_one(coco, tmp_path):
    file = coco / "annotations" / "captions_val2017.json"
    file.write_text(changed(images=[*COCO["images"], {**COCO["images"][1], "id": 12}]))
    found = listed(opened(coco, file))
    assert found["val2017/000000037777.jpg"] == [*LISTED["000000037777.jpg"], "of no image"]
    assert len(found) == 2


def test_images_that_are_elsewhere(coco):
    (coco / "empty").mkdir()
    with pytest.raises(PasslError, match="its first image, 0.*, is not in .*empty, nor in its fol"):
        opened(coco / "empty", coco / "annotations/captions_val2017.json")


def test_a_list_reader_names_the_one_for_json(coco):
    section = {"name": "ImageTextList", "dataroot": str(coco), "transforms": []}
    file = "annotations/captions_val2017.json"
    with pytest.raises(PasslError, match="is a single object in JSON; CocoCaptions reads COCO's"):
        build_dataset(Config({**section, "list_file": file}), None)


def test_a_large_file_is_read_once(tmp_path, monkeypatch):
    """For each split, and until it changes."""
    from passl.datasets.sources import catalog, coco_captions

    monkeypatch.setattr(catalog, "_SMALLEST_INDEX", 1)
    images(tmp_path, "1.jpg")
    file = tmp_path / "dataset_flickr8k.json"

    def write(*texts):
        entries = [entry("1.jpg", "train", *texts), entry("1.jpg", "test", "t")]
        file.write_text(json.dumps({"images": entries}))
        os.utime(file, (time.time() - 100 + len(texts),) * 2)

    write("a")
    read = []
    real = coco_captions._content
    monkeypatch.setattr(coco_captions, "_content", lambda f: read.append(f) or real(f))
    for expected, calls in ((["a"], 1), (["a"], 1)):
        assert opened(tmp_path, file, split="train").captions(0) == expected and len(read) == calls
    assert opened(tmp_path, file, split="test").captions(0) == ["t"] and len(read) == 2
    write("a", "b")
    assert opened(tmp_path, file, split="train").captions(0) == ["a", "b"] and len(read) == 3
