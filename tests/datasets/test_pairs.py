"""Images with captions: every form that people have them in, and what is wrong with some."""

import json
import logging

import numpy as np
import pytest
from helpers import photograph
from pair_files import encoded, samples, shard

from passl.datasets import build_dataset
from passl.datasets.dataset import SampleKey
from passl.datasets.sources.catalog import Captions
from passl.tokenization import CLIPTokenizer
from passl.utils.config import Config
from passl.utils.errors import PasslError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PASSL_CACHE", str(tmp_path / "cache"))


def image(folder, name, seed=0):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    photograph(seed, (20, 16)).save(file)
    return file


def opened(name, root, transforms=(), **arguments):
    return build_dataset(
        Config({"name": name, "dataroot": str(root), "transforms": list(transforms), **arguments}),
        None,
    )


def listed(dataset):
    """Returns, by the image's path, its captions."""
    root = dataset.catalog.root
    return {
        dataset.path(i).replace(f"{root}/", ""): dataset.captions(i) for i in range(len(dataset))
    }


# ------------------------------------------------ folders


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pairs"
    image(root, "a/cat.jpg")
    image(root, "b/cat.png", 1)
    image(root, "狗.jpg", 2)
    image(root, "silent.jpg", 3)
    image(root, "blank.jpg", 4)
    (root / "a/cat.txt").write_text("a cat\n\n a second cat \n", encoding="utf-8")
    (root / "b/cat.txt").write_text("another cat", encoding="utf-8")
    (root / "狗.txt").write_text("一只狗\n", encoding="utf-8")
    (root / "blank.txt").write_text(" \n", encoding="utf-8")
    (root / "nothing.txt").write_text("a text alone\n", encoding="utf-8")
    return root


@pytest.mark.smoke
def test_a_folder(folder, caplog):
    with caplog.at_level(logging.INFO, logger="passl"):
        dataset = opened("ImageTextFolder", folder)
    assert listed(dataset) == {
        "a/cat.jpg": ["a cat", "a second cat"],
        "b/cat.png": ["another cat"],
        "狗.jpg": ["一只狗"],
    }
    assert "3 images with 4 captions" in caplog.text
    for words in ("1 image without a caption", "1 empty caption", "1 text without an image"):
        assert words in caplog.text


def test_a_folder_without_captions(tmp_path):
    image(tmp_path / "bare", "cat.jpg")
    with pytest.raises(PasslError, match="of 1 images none has a caption; put a text file of the"):
        opened("ImageTextFolder", tmp_path / "bare")
    (tmp_path / "bare" / "cat.txt").write_bytes("一只狗".encode("gbk"))
    with pytest.raises(PasslError, match=r"cat.txt:1: is not UTF-8"):
        opened("ImageTextFolder", tmp_path / "bare")


# ------------------------------------------------ tables

ROWS = [("1.png", "a cat, asleep"), ("2.png", "NA"), ("1.png", 'the "cat"'), ("狗.png", "一只狗")]
FOUND = {"1.png": ["a cat, asleep", 'the "cat"'], "2.png": ["NA"], "狗.png": ["一只狗"]}


def table(root, name, rows=ROWS, header=("filepath", "title")):
    import csv

    for i, (path, *_) in enumerate(rows):
        image(root, path, i)
    file = root / name
    if name.endswith("jsonl"):
        lines = [json.dumps(dict(zip(header, row)), ensure_ascii=False) for row in rows]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif name.endswith("parquet"):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(dict(zip(header, zip(*rows)))), file)
    else:
        with open(file, "w", encoding="utf-8-sig", newline="") as opened_file:
            writer = csv.writer(opened_file, delimiter="," if name.endswith("csv") else "\t")
            writer.writerows([header, *rows])
    return file


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.parquet"])
def test_a_table(tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    table(tmp_path, name)
    assert listed(opened("ImageTextList", tmp_path, list_file=name)) == FOUND


def test_columns_are_named(tmp_path):
    table(tmp_path, "t.csv", [("1.png", "no", "yes")], ("image", "caption", "alt"))
    assert listed(opened("ImageTextList", tmp_path, list_file="t.csv")) == {"1.png": ["no"]}
    dataset = opened("ImageTextList", tmp_path, list_file="t.csv", caption_column="alt")
    assert listed(dataset) == {"1.png": ["yes"]}
    with pytest.raises(PasslError, match="has no column 'words', but image, caption, alt; name it"):
        opened("ImageTextList", tmp_path, list_file="t.csv", caption_column="words")


def test_lists_of_captions_and_missing_ones(tmp_path):
    rows = [("1.png", ["a", "b"]), ("2.png", None), ("3.png", ""), ("4.png", [])]
    for name in ("t.jsonl", "t.parquet"):
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
            rows = [("1.png", ["a", "b"]), ("2.png", None), ("3.png", [""]), ("4.png", [])]
        table(tmp_path, name, rows, ("image", "captions"))
        dataset = opened("ImageTextList", tmp_path, list_file=name)
        assert listed(dataset) == {"1.png": ["a", "b"]}
        assert sum(dataset.catalog.passed_over.values()) == 3


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.csv", "filepath\ttitle\n1.png\ta\n", r"its columns seem to have tabs .* set separator"),
        ("t.tsv", "filepath,title\n1.png,a\n", r"its columns seem to have commas"),
        ("t.csv", "", "has no column called filepath or image .* but none at all"),
        ("t.csv", "filepath,title\n1.png,a\n1.png\n", "t.csv:3: has 1 columns, the first line 2"),
        (
            "t.csv",
            "filepath,title\n0.png,a\n",
            "t.csv:2: there is no image .*0.png; check",
        ),
        ("t.csv", "filepath,title\nhttp://x/1.png,a\n", "t.csv:2: the image is an address.*img2da"),
        ("t.csv", "filepath,title\n1.png,\n", "has no row with a caption"),
        ("t.csv", "filepath,title\n,a\n", "t.csv:2: has no path of an image"),
        ("t.jsonl", '{"image": "1.png", "caption": "a"}\n{"image"', "t.jsonl:2: is no JSON"),
        ("t.jsonl", '["1.png", "a"]\n', "t.jsonl:1: is no object"),
        ("t.jsonl", '{"image": "1.png", "caption": "a"}\n{"image": "1.png"}', "t.jsonl:2: has no"),
        ("t.parquet", "no parquet at all", "is no whole parquet file"),
        ("t.xls", "x", "ends in .xls, and tables end in .csv, .tsv, .jsonl or .parquet"),
    ],
)
def test_tables_that_are_none(tmp_path, name, content, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    image(tmp_path, "1.png")
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(PasslError, match=message):
        opened("ImageTextList", tmp_path, list_file=name)


def test_a_table_in_another_encoding(tmp_path):
    image(tmp_path, "1.png")
    (tmp_path / "t.csv").write_bytes("filepath,title\n1.png,一只狗\n".encode("gbk"))
    with pytest.raises(PasslError, match="t.csv:2: is not UTF-8"):
        opened("ImageTextList", tmp_path, list_file="t.csv")


def test_another_separator(tmp_path):
    image(tmp_path, "1.png")
    (tmp_path / "t.csv").write_text("filepath\ttitle\n1.png\ta, b\n", encoding="utf-8")
    dataset = opened("ImageTextList", tmp_path, list_file="t.csv", separator="\t")
    assert listed(dataset) == {"1.png": ["a, b"]}
    (tmp_path / "t.jsonl").write_text('{"image": "1.png", "caption": "a"}\n', encoding="utf-8")
    with pytest.raises(PasslError, match="separator is for csv and tsv"):
        opened("ImageTextList", tmp_path, list_file="t.jsonl", separator=",")


# ------------------------------------------------ shards


@pytest.fixture
def shards(tmp_path):
    root = tmp_path / "shards"
    root.mkdir()
    shard(root / "00000.tar", samples(0, 3))
    second = samples(10, 3)
    second[1][1]["txt"] = b""
    del second[2][1]["txt"]
    shard(root / "00001.tar", second)
    return root


@pytest.mark.smoke
def test_shards(shards, caplog):
    with caplog.at_level(logging.INFO, logger="passl"):
        dataset = opened("ImageTextShards", shards)
    assert list(listed(dataset).values()) == [[f"caption {i} 第"] for i in (0, 1, 2, 10)]
    np.testing.assert_array_equal(np.asarray(dataset.read(2)), np.asarray(photograph(2, (20, 16))))
    assert "4 images with 4 captions" in caplog.text
    assert "1 image with an empty caption" in caplog.text
    assert "1 image with no caption" in caplog.text


def test_shards_are_listed_once(shards):
    """The second start takes the index, with the same captions."""
    first = listed(opened("ImageTextShards", shards))
    import os
    import time

    for file in shards.iterdir():  # long enough ago for an index to be kept
        os.utime(file, (time.time() - 100,) * 2)
    assert listed(opened("ImageTextShards", shards)) == first
    from passl.datasets.sources import layouts

    broken, layouts.read_shards = layouts.read_shards, None
    try:
        assert listed(opened("ImageTextShards", shards)) == first
    finally:
        layouts.read_shards = broken
    other = opened("ImageTextShards", shards, caption="json:caption")
    assert listed(other) != first, "another reading has an index of its own"


def test_captions_within_json(shards):
    dataset = opened("ImageTextShards", shards, caption="json:caption")
    assert [own for (own,) in listed(dataset).values()] == [
        f"json caption {i}" for i in (0, 1, 2, 10, 11, 12)
    ]
    with pytest.raises(PasslError, match="has no 'title', but key, caption, status; name the one"):
        opened("ImageTextShards", shards, caption="json:title")


def test_numbered_shards(shards):
    dataset = opened("ImageTextShards", shards, pattern="{00000..00000}.tar")
    assert len(dataset) == 3
    assert len(opened("ImageTextShards", shards, pattern="{00000..00001}.tar")) == 4
    with pytest.raises(PasslError, match=r"2 of the 4 shards .* are missing: 00002.tar, 00003.tar"):
        opened("ImageTextShards", shards, pattern="{00000..00003}.tar")


def test_counts_of_img2dataset_are_compared(shards, caplog):
    (shards / "00000_stats.json").write_text('{"successes": 3, "count": 9}')
    opened("ImageTextShards", shards)
    assert "img2dataset counted" not in caplog.text
    (shards / "00001_stats.json").write_text('{"successes": 3, "count": 9}')
    opened("ImageTextShards", shards)
    assert "holds 4 images with captions, where img2dataset counted 6" in caplog.text


def test_a_shard_that_was_cut_short(shards):
    whole = (shards / "00001.tar").read_bytes()
    (shards / "00001.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PasslError, match="00001.tar: .*cut short"):
        opened("ImageTextShards", shards)


def test_shards_without_captions(tmp_path):
    shard(tmp_path / "0.tar", [("0", {"png": encoded()}), ("1", {"txt": b"alone"})])
    with pytest.raises(PasslError, match="hold no images with a caption in .txt files"):
        opened("ImageTextShards", tmp_path)


# ------------------------------------------------ samples

TOKENIZE = {"name": "Tokenize", "context": 12}


@pytest.mark.smoke
def test_a_caption_is_drawn_by_the_samples_own_generator(folder):
    dataset = opened("ImageTextFolder", folder, [TOKENIZE])
    tokenizer = CLIPTokenizer()
    drawn = {
        tokenizer.decode(dataset[SampleKey(0, epoch=epoch, seed=3)]["text"]) for epoch in range(20)
    }
    assert drawn == {"a cat", "a second cat"}
    for epoch in range(3):
        key = SampleKey(0, epoch=epoch, seed=3)
        np.testing.assert_array_equal(dataset[key]["text"], dataset[key]["text"])
    sample = dataset[SampleKey(2)]
    assert set(sample) == {"image", "text"} and sample["text"].dtype == np.int64
    assert tokenizer.decode(sample["text"]) == "一只狗"
    first = opened("ImageTextFolder", folder, [{**TOKENIZE, "random": False}])
    texts = {tuple(first[SampleKey(0, epoch=epoch)]["text"]) for epoch in range(9)}
    assert len(texts) == 1


def test_without_tokenize_a_sample_has_no_captions(folder):
    assert set(opened("ImageTextFolder", folder)[0]) == {"image"}


def test_tokenize_needs_captions(tmp_path):
    image(tmp_path / "classes", "cat/1.png")
    dataset = opened("ImageFolder", tmp_path / "classes", [TOKENIZE])
    with pytest.raises(PasslError, match="Tokenize needs captions, which this data set has not"):
        dataset[0]
    with pytest.raises(PasslError, match="at least 3, not 2"):
        opened("ImageFolder", tmp_path / "classes", [{"name": "Tokenize", "context": 2}])


def test_a_subset_is_one_of_images(tmp_path):
    rows = [(f"{i}.png", f"{word} {i}") for i in range(10) for word in ("a", "b")]
    table(tmp_path, "t.csv", rows)
    parts = [
        listed(opened("ImageTextList", tmp_path, list_file="t.csv", subset=subset))
        for subset in ("[:80%]", "[80%:]")
    ]
    assert [len(part) for part in parts] == [8, 2] and not set(parts[0]) & set(parts[1])
    for path, captions in {**parts[0], **parts[1]}.items():
        number = path[:-4]
        assert captions == [f"a {number}", f"b {number}"]


def test_other_captions_are_another_set(folder):
    first = opened("ImageTextFolder", folder).digest()
    assert opened("ImageTextFolder", folder).digest() == first
    (folder / "b/cat.txt").write_text("another dog", encoding="utf-8")
    assert opened("ImageTextFolder", folder).digest() != first


def test_equal_captions_in_a_batch(tmp_path):
    """Against all batches of two and of three, and against all draws of an image's captions."""
    import itertools

    rows = [("0.png", "x"), ("1.png", "x"), ("2.png", "y"), ("3.png", "x"), ("3.png", "z")]
    table(tmp_path, "t.csv", rows)
    dataset = opened("ImageTextList", tmp_path, list_file="t.csv")
    assert dataset.caption_counts() == (5, 3)
    captions = [dataset.captions(i) for i in range(4)]
    for size in (2, 3):
        found = []
        for batch in itertools.combinations(range(4), size):
            for drawn in itertools.product(*(captions[i] for i in batch)):
                weight = np.prod([1 / len(captions[i]) for i in batch])
                equal = sum(a == b for a, b in itertools.combinations(drawn, 2))
                found.append((weight, equal))
        count = len(list(itertools.combinations(range(4), size)))
        expected = sum(weight * equal for weight, equal in found) / count
        assert dataset.equal_pairs(size) == pytest.approx(expected)


def test_captions_as_arrays():
    texts = [["a", "一"], ["b"], ["half \ud83d of a pair"]]
    captions = Captions.of(texts)
    assert len(captions) == 3
    assert [captions[i] for i in range(3)] == [["a", "一"], ["b"], ["half ? of a pair"]]
