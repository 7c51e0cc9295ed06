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


def test_a_folder_of_something_else(tmp_path):
    shard(tmp_path / "0.tar", samples(0, 1))
    with pytest.raises(PasslError, match=r"has no images \(1 .tar\); .*ImageTextShards reads .tar"):
        opened("ImageTextFolder", tmp_path)


def test_a_folder_without_captions(tmp_path):
    image(tmp_path / "bare", "cat.jpg")
    with pytest.raises(
        PasslError,
        match=r"of 1 images none has a caption \(1 image without a caption\); put a text",
    ):
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
    with pytest.raises(PasslError, match="image_column and caption_column are the same one, 'alt'"):
        both = {"image_column": "alt", "caption_column": "alt"}
        opened("ImageTextList", tmp_path, list_file="t.csv", **both)


@pytest.mark.parametrize(
    "name, content",
    [
        ("t.csv", b"\xef\xbb\xbfimage,caption\r\n1.png,a\r\n2.png,b\r\n"),
        ("t.csv", b"\n ,\nimage,caption,\n1.png,a,\n,,\n2.png,b, \n"),
        ("t.csv", b'caption, image\n"a", 1.png\nb, "2.png"\n'),
        ("t.csv", b"image,caption\n./1.png,a\n.//2.png,b\n"),
        ("T.CSV", b"image,caption\n1.png,a\n2.png,b\n"),
        ("t.tsv", b"image\tcaption\n1.png\ta\n2.png\tb"),
        ("t.jsonl", b'{"image": "1.png", "text": "a"}\r\n\r\n{"text": "b", "image": "2.png"}'),
    ],
    ids=["windows", "blank", "spaces", "dots", "capitals", "tsv", "jsonl"],
)
def test_harmless_differences(tmp_path, name, content):
    """Of the same two rows."""
    image(tmp_path, "1.png")
    image(tmp_path, "2.png")
    (tmp_path / name).write_bytes(content)
    dataset = opened("ImageTextList", tmp_path, list_file=name)
    assert listed(dataset) == {"1.png": ["a"], "2.png": ["b"]}


def test_usual_names_of_columns_have_an_order(tmp_path):
    for number, others in enumerate(
        (("caption", "title"), ("captions", "caption"), ("text", "captions"))
    ):
        header, name = ("filepath", others[0], "image", others[1]), f"{number}.csv"
        table(tmp_path, name, [("1.png", "no", "no.png", "a")], header)
        assert listed(opened("ImageTextList", tmp_path, list_file=name)) == {"1.png": ["a"]}


def test_an_image_under_two_spellings_and_a_link(tmp_path):
    """``./`` says nothing; a link is a file of its own, and so is an absolute path."""
    image(tmp_path, "1.png")
    (tmp_path / "l.png").symlink_to("1.png")
    rows = [("1.png", "a"), ("./1.png", "b"), ("l.png", "c"), (str(tmp_path / "1.png"), "d")]
    lines = [json.dumps({"image": path, "caption": text}) for path, text in rows]
    (tmp_path / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    dataset = opened("ImageTextList", tmp_path, list_file="t.jsonl")
    assert [dataset.captions(i) for i in range(len(dataset))] == [["a", "b"], ["c"], ["d"]]
    for i in range(3):
        np.testing.assert_array_equal(np.asarray(dataset.read(i)), np.asarray(dataset.read(0)))


def test_parquet_needs_pyarrow(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(PasslError, match="t.parquet: needs pyarrow to be read: pip install pyarr"):
        opened("ImageTextList", tmp_path, list_file="t.parquet")


def test_columns_of_parquet_that_are_called_alike(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    image(tmp_path, "1.png")
    columns = [pyarrow.array(["1.png"]), pyarrow.array(["a"]), pyarrow.array(["b"])]
    names = ["image", "caption", "caption"]
    parquet.write_table(pyarrow.table(columns, names=names), tmp_path / "t.parquet")
    with pytest.raises(PasslError, match="t.parquet: has several columns called 'caption'; give"):
        opened("ImageTextList", tmp_path, list_file="t.parquet")


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
        ("t.csv", "", "t.csv: is empty; its first line names the columns"),
        ("t.csv", "\n  \n", "t.csv: is empty; its first line names the columns"),
        ("t.csv", "1.png,a\n", "but 1.png, a; .*the first line seems to be a row: put one before"),
        ("t.csv", "image,text\n1.png,a cat, asleep\n", "t.csv:2: has 3 columns, the first line 2"),
        ("t.tsv", "image\ttext\n1.png\ta\tb\n", "t.tsv:2: has 3 columns, the first line 2"),
        (
            "t.tsv",
            'image\ttext\n1.png\t"big\n1.png\tb\n1.png\t5"\n',
            "t.tsv:2: a quotation mark begins a cell that goes on for 3 lines",
        ),
        (
            "t.csv",
            'text,image\n"big,1.png\nb,1.png\n5",1.png\n',
            "t.csv:2: a quotation mark begins a cell that goes on for 3 lines",
        ),
        ("t.csv", "image,text,text\n1.png,a,b\n", "t.csv: has several columns called 'text'"),
        ("t.csv", "image,text\n1.png,\n\n\n1.png\n", "t.csv:5: has 1 column"),
        (
            "t.jsonl",
            '{"image": "1.png", "caption": "a"}\n{"image": NaN, "caption": "a"}',
            "t.jsonl:2: has no path of an image",
        ),
        (
            "t.jsonl",
            '{"image": "1.png", "caption": "a"}\n{"image": "\\ud83d.png", "caption": "a"}',
            r"t.jsonl:2: no file can have the name '.ud83d.png'",
        ),
        (
            "t.jsonl",
            '{"image": "1.png", "caption": "a"}\n{"image": "1\\u0000.png", "caption": "a"}',
            r"t.jsonl:2: no file can have the name '1.x00.png'",
        ),
        ("t.csv", "filepath,title\n1.png,a\n1.png\n", "t.csv:3: has 1 column, the first line 2"),
        (
            "t.csv",
            "filepath,title\n0.png,a\n",
            "t.csv:2: there is no image .*0.png; check",
        ),
        ("t.csv", "filepath,title\nhttp://x/1.png,a\n", "t.csv:2: the image is an address.*img2da"),
        ("t.csv", "filepath,title\nS3://x/1.png,a\n", "t.csv:2: the image is an address.*img2da"),
        ("t.csv", "filepath,title\n1.png,\n", "has no row with a caption"),
        ("t.csv", "filepath,title\n,a\n", "t.csv:2: has no path of an image"),
        ("t.jsonl", '{"image": "1.png", "caption": "a"}\n{"image"', "t.jsonl:2: is no JSON"),
        ("t.jsonl", '["1.png", "a"]\n', "t.jsonl:1: is no object"),
        ("t.jsonl", '{"image": "1.png", "caption": "a"}\n{"image": "1.png"}', "t.jsonl:2: has no"),
        ("t.parquet", "no parquet at all", "is no whole parquet file"),
        ("t.xls", "x", "ends in .xls, and tables end in .csv, .tsv, .jsonl, .parquet or .token"),
        ("t.jsonl", '{"image": null, "caption": "a"}', "t.jsonl:1: has no path of an image"),
    ],
    ids=lambda value: "",
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
    lists = {
        "t.csv": "filepath,title\n1.png,一只狗\n",
        "t.token": "1.png#0\ta\n1.png#1\t一只狗\n",
        "t.jsonl": '{"image": "1.png", "caption": "a"}\n{"image": "1.png", "caption": "一只狗"}',
    }
    for name, text in lists.items():
        (tmp_path / name).write_bytes(text.encode("gbk"))
        with pytest.raises(PasslError, match=f"{name}:2: is not UTF-8"):
            opened("ImageTextList", tmp_path, list_file=name)


def test_another_separator(tmp_path):
    image(tmp_path, "1.png")
    (tmp_path / "t.csv").write_text("filepath\ttitle\n\n1.png\ta, b\n", encoding="utf-8")
    dataset = opened("ImageTextList", tmp_path, list_file="t.csv", separator="\t")
    assert listed(dataset) == {"1.png": ["a, b"]}
    (tmp_path / "t.jsonl").write_text('{"image": "1.png", "caption": "a"}\n', encoding="utf-8")
    with pytest.raises(PasslError, match="separator and quotes are for csv and tsv"):
        opened("ImageTextList", tmp_path, list_file="t.jsonl", separator=",")
    with pytest.raises(PasslError, match="separator and quotes are for csv and tsv"):
        opened("ImageTextList", tmp_path, list_file="t.jsonl", quotes=False)
    dataset = opened("ImageTextList", tmp_path, list_file="t.csv", separator="\\t")
    assert listed(dataset) == {"1.png": ["a, b"]}, "as YAML has it without quotation marks"
    for separator in ("", ", ", '"', "\n", "\r"):
        with pytest.raises(PasslError, match=f"separator is one character, not '{separator}'"):
            opened("ImageTextList", tmp_path, list_file="t.csv", separator=separator)


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
    assert "img2dataset counted" not in caplog.text, "two have no caption, but they are there"
    (shards / "00001_stats.json").write_text('{"successes": 4, "count": 9}')
    opened("ImageTextShards", shards)
    assert "its shards hold 6 images, where img2dataset counted 7" in caplog.text
    caplog.clear()
    (shards / "00001_stats.json").write_text('{"successes": 0, "count": 9}')
    opened("ImageTextShards", shards)
    assert "its shards hold 4 images, where img2dataset counted 3" in caplog.text
    (shards / "00001_stats.json").write_text("{")
    (shards / "00000_stats.json").unlink()
    caplog.clear()
    opened("ImageTextShards", shards)
    assert "img2dataset counted" not in caplog.text


@pytest.mark.parametrize("content", ["", "[]", '{"successes": null}', '{"successes": Infinity}'])
def test_counts_that_are_none(shards, caplog, content):
    (shards / "00000_stats.json").write_text(content)
    assert len(opened("ImageTextShards", shards)) == 4
    assert "img2dataset counted" not in caplog.text


def test_a_caption_before_its_image_and_names_in_capitals(tmp_path):
    shard(tmp_path / "0.tar", [
        ("a", {"TXT": b"one"}), ("b", {"txt": b"two", "PNG": encoded(1)}), ("a", {"png": encoded()})
    ])  # fmt: skip
    shard(tmp_path / "1.tar", [])
    dataset = opened("ImageTextShards", tmp_path)
    assert listed(dataset) == {"0.tar:b.PNG": ["two"], "0.tar:a.png": ["one"]}
    for i, seed in ((0, 1), (1, 0)):
        expected = np.asarray(photograph(seed, (20, 16)))
        np.testing.assert_array_equal(np.asarray(dataset.read(i)), expected)


@pytest.mark.parametrize("keys", [["a.b"], ["a.b.0", "a.b.1"]])
def test_keys_with_dots_in_shards_are_said(tmp_path, keys):
    shard(tmp_path / "0.tar", [(key, {"png": encoded(), "txt": b"x"}) for key in keys])
    with pytest.raises(
        PasslError, match=r"0.tar: 'a.b.*png' has a dot within its name, .* caption"
    ):
        opened("ImageTextShards", tmp_path)


def test_another_text_with_dots_is_none(tmp_path, caplog):
    """``0.en.txt`` beside ``0.png`` is another caption, which can be asked for."""
    fields = {"png": encoded(), "en.txt": b"one"}
    shard(tmp_path / "0.tar", [("0", fields), ("1", {**fields, "txt": b"two"})])
    with caplog.at_level(logging.INFO, logger="passl"):
        assert listed(opened("ImageTextShards", tmp_path)) == {"0.tar:1.png": ["two"]}
    assert "1 image with no caption" in caplog.text
    dataset = opened("ImageTextShards", tmp_path, caption="en.txt")
    assert [dataset.captions(i) for i in range(2)] == [["one"], ["one"]]


def test_a_shard_that_was_cut_short(shards):
    whole = (shards / "00001.tar").read_bytes()
    (shards / "00001.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PasslError, match="00001.tar: .*cut short"):
        opened("ImageTextShards", shards)


def test_shards_without_captions(tmp_path):
    shard(tmp_path / "0.tar", [("0", {"png": encoded()}), ("1", {"txt": b"alone"})])
    with pytest.raises(
        PasslError,
        match=r"no images with a caption in .txt files \(1 image with no caption, 1 sample without",
    ):
        opened("ImageTextShards", tmp_path)
    for caption in ("", "json:", ":", "."):
        with pytest.raises(PasslError, match=f"caption is the extension of .*, not '{caption}'"):
            opened("ImageTextShards", tmp_path, caption=caption)


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


def test_a_subset_is_one_of_images(tmp_path, caplog):
    rows = [(f"{i}.png", f"{word} {i}") for i in range(10) for word in ("a", "b")]
    table(tmp_path, "t.csv", rows)
    caplog.set_level(logging.INFO, logger="passl")
    parts = [
        listed(opened("ImageTextList", tmp_path, list_file="t.csv", subset=subset))
        for subset in ("[:80%]", "[80%:]")
    ]
    assert [len(part) for part in parts] == [8, 2] and not set(parts[0]) & set(parts[1])
    assert "2 images with 4 captions; 2 images have several" in caplog.text
    for path, captions in {**parts[0], **parts[1]}.items():
        number = path[:-4]
        assert captions == [f"a {number}", f"b {number}"]


def test_other_captions_are_another_set(folder):
    first = opened("ImageTextFolder", folder).digest()
    assert opened("ImageTextFolder", folder).digest() == first
    (folder / "b/cat.txt").write_text("another dog", encoding="utf-8")
    assert opened("ImageTextFolder", folder).digest() != first


def test_equal_captions_in_a_batch(tmp_path, caplog):
    """Against all batches of two and of three, and against all draws of an image's captions."""
    import itertools

    rows = [
        ("0.png", "x"), ("1.png", "x"), ("2.png", "y"), ("3.png", "x"), ("3.png", "z"),
        ("4.png", "y"), ("4.png", "y"), ("4.png", "w"), ("5.png", "v"), ("5.png", "v"),
    ]  # fmt: skip
    table(tmp_path, "t.csv", rows)
    with caplog.at_level(logging.INFO, logger="passl"):
        dataset = opened("ImageTextList", tmp_path, list_file="t.csv")
    n = len(dataset)
    assert f"{n} images with 10 captions; 3 images have several; 6 captions stand at" in caplog.text
    captions = [dataset.captions(i) for i in range(n)]
    for size in (2, 3):
        found = []
        for batch in itertools.combinations(range(n), size):
            for drawn in itertools.product(*(captions[i] for i in batch)):
                weight = np.prod([1 / len(captions[i]) for i in batch])
                equal = sum(a == b for a, b in itertools.combinations(drawn, 2))
                found.append((weight, equal))
        count = len(list(itertools.combinations(range(n), size)))
        expected = sum(weight * equal for weight, equal in found) / count
        assert dataset.equal_pairs(size) == pytest.approx(expected)


def test_equal_captions_among_many(tmp_path, caplog):
    """Against sums over all pairs of images; texts stand at some images several times."""
    from collections import Counter

    rng = np.random.default_rng(0)
    rows = [(f"{rng.integers(200)}.png", f"text {rng.integers(9) ** 2}") for _ in range(900)]
    image(tmp_path, rows[0][0])
    lines = [json.dumps({"image": path, "caption": text}) for path, text in rows]
    (tmp_path / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with caplog.at_level(logging.INFO, logger="passl"):
        dataset = opened("ImageTextList", tmp_path, list_file="t.jsonl", subset="[:70%]")
    own = [Counter(dataset.captions(i)) for i in range(len(dataset))]
    shares = [{text: k / sum(c.values()) for text, k in c.items()} for c in own]
    pairs = [(a, b) for i, a in enumerate(shares) for b in shares[:i]]
    expected = np.mean([sum(a[text] * b.get(text, 0) for text in a) for a, b in pairs])
    assert dataset.equal_pairs(2) == pytest.approx(expected)
    stands = Counter(text for c in own for text in c)
    shared = sum(k for c in own for text, k in c.items() if stands[text] > 1)
    several = sum(sum(c.values()) > 1 for c in own)
    assert f"{several} images have several; {shared} captions stand at several" in caplog.text


def test_captions_as_arrays():
    texts = [["a", "一"], ["b"], ["half \ud83d of a pair"]]
    captions = Captions.of(texts)
    assert len(captions) == 3
    assert [captions[i] for i in range(3)] == [["a", "一"], ["b"], ["half ? of a pair"]]


@pytest.mark.smoke
def test_rows_of_one_image_come_together(monkeypatch):
    """In the order in which images first stand there; against dictionaries of Python's own."""
    from passl.datasets.sources import catalog
    from passl.datasets.sources.catalog import Names, by_image

    monkeypatch.setattr(catalog, "_AT_A_TIME", 7)
    rng = np.random.default_rng(0)
    for size, paths in ((60, 9), (60, 1), (5, 1000), (1, 1)):
        rows = []
        for _ in range(size):
            texts = ["字" * rng.integers(1, 4) for _ in range(rng.integers(1, 4))]
            rows.append((f"{'a' * rng.integers(1, 5)}{rng.integers(paths)}.png", texts))
        grouped = {}
        for path, texts in rows:
            grouped.setdefault(path, []).extend(texts)
        names, captions = by_image(
            Names.of([path for path, _ in rows]), Captions.of([texts for _, texts in rows])
        )
        found = [(names[i], captions[i]) for i in range(len(names))]
        assert found == list(grouped.items())
        assert len(captions) == len(names)
    names = Names.of(["a", "", "bc"])
    assert [names.taken(np.array([2, 1, 2, 0]))[i] for i in range(4)] == ["bc", "", "bc", "a"]
    assert len(names.taken(np.array([], np.int64))) == 0


# ------------------------------------------------ what is odd in some tables


def test_nothing_is_no_caption_and_text_that_says_so_is_one(tmp_path):
    image(tmp_path, "1.png")
    lines = ["null", "NaN", '"NA"', '"None"', '"null"', "7", '["a", null, NaN, " "]', "[]", '""']
    (tmp_path / "t.jsonl").write_text(
        "".join(f'{{"image": "1.png", "caption": {value}}}\n' for value in lines), encoding="utf-8"
    )
    dataset = opened("ImageTextList", tmp_path, list_file="t.jsonl")
    assert listed(dataset) == {"1.png": ["NA", "None", "null", "7", "a"]}
    assert dataset.catalog.passed_over == {"empty caption{s}": 4}


@pytest.mark.parametrize(
    "row, message",
    [
        ({"image": "1.png", "caption": {"raw": "a", "id": 1}}, "'caption' is an object with raw"),
        ({"image": {"bytes": "x"}, "caption": "a"}, "'image' holds the image itself"),
        ({"image": ["1.png"], "caption": "a"}, "'image' holds a list"),
        ({"image": "1.png", "caption": [["a"]]}, "'caption' is a list of lists"),
    ],
    ids=["object", "image", "paths", "lists"],
)
def test_values_that_are_no_texts(tmp_path, row, message):
    image(tmp_path, "1.png")
    (tmp_path / "t.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(PasslError, match=f"t.jsonl:1: {message}"):
        opened("ImageTextList", tmp_path, list_file="t.jsonl")


def test_parquet_with_the_images_themselves(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = {"image": [{"bytes": b"x", "path": "1.png"}], "text": ["a"]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "t.parquet")
    with pytest.raises(PasslError, match="t.parquet:1: 'image' holds the image itself, and no pa"):
        opened("ImageTextList", tmp_path, list_file="t.parquet")
    # The form parquet of img2dataset.
    rows = {"key": ["000000000"], "jpg": [b"\xff\xd8"], "caption": ["a"], "raw": [b"a"]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "t.parquet")
    with pytest.raises(PasslError, match="t.parquet:1: 'jpg' holds the image itself"):
        opened("ImageTextList", tmp_path, list_file="t.parquet", image_column="jpg")
    with pytest.raises(PasslError, match="t.parquet:1: 'raw' is bytes, and no text"):
        columns = {"image_column": "key", "caption_column": "raw"}
        opened("ImageTextList", tmp_path, list_file="t.parquet", **columns)


def test_quotation_marks_that_are_part_of_the_text(tmp_path):
    image(tmp_path, "1.png")
    lines = ["filepath\ttitle", '1.png\t"hello', '1.png\tsize 5"', '1.png\tthe "cat"']
    (tmp_path / "t.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    dataset = opened("ImageTextList", tmp_path, list_file="t.tsv", quotes=False)
    assert listed(dataset) == {"1.png": ['"hello', 'size 5"', 'the "cat"']}
    lines[2] = '1.png\tsize "5" or so'
    (tmp_path / "t.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(PasslError, match="t.tsv:2: is no row of a table .*; .* set quotes: false"):
        opened("ImageTextList", tmp_path, list_file="t.tsv")
    lines[2:] = ["1.png\tno mark"] * 200
    for end in ([], ['1.png\t5"']):
        (tmp_path / "t.tsv").write_text("\n".join([*lines, *end]) + "\n", encoding="utf-8")
        with pytest.raises(PasslError, match="t.tsv:2: a quotation mark begins a cell that goes"):
            opened("ImageTextList", tmp_path, list_file="t.tsv")


def test_captions_of_several_lines(tmp_path):
    table(tmp_path, "t.csv", [("1.png", "one\ntwo"), ("2.png", "x")])
    dataset = opened("ImageTextList", tmp_path, list_file="t.csv")
    assert listed(dataset) == {"1.png": ["one\ntwo"], "2.png": ["x"]}


def test_flickrs_own_lists(tmp_path):
    image(tmp_path, "10.jpg")
    image(tmp_path, "20.jpg")
    text = '10.jpg#0\tTwo young guys .\n10.jpg#1\t"Two" men .\n20.jpg#0\tA child , 一 .\n'
    expected = {"10.jpg": ["Two young guys .", '"Two" men .'], "20.jpg": ["A child , 一 ."]}
    for name in ("results_20130124.token", "Flickr8k.token.txt"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert listed(opened("ImageTextList", tmp_path, list_file=name)) == expected
    (tmp_path / "results.csv").write_text(
        "image_name| comment_number| comment\n10.jpg| 0| Two young guys .\n20.jpg| 0| A child , .\n"
    )
    with pytest.raises(PasslError, match=r"seem to have bars \('\|'\) between them: set separator"):
        opened("ImageTextList", tmp_path, list_file="results.csv")
    dataset = opened("ImageTextList", tmp_path, list_file="results.csv", separator="|")
    assert listed(dataset) == {"10.jpg": ["Two young guys ."], "20.jpg": ["A child , ."]}
    with (tmp_path / "results.csv").open("a") as file:
        file.write("20.jpg| 4   A dog runs across the grass .\n")
    with pytest.raises(PasslError, match="results.csv:4: has 2 columns, the first line 3"):
        opened("ImageTextList", tmp_path, list_file="results.csv", separator="|")
    (tmp_path / "results.token").write_text("10.jpg\ta\n")
    with pytest.raises(PasslError, match="results.token:1: a line is the name of an image, # and"):
        opened("ImageTextList", tmp_path, list_file="results.token")


def test_where_the_first_image_is(tmp_path):
    image(tmp_path, "images/1.png")
    (tmp_path / "t.csv").write_text("image,caption\n1.png,a\n", encoding="utf-8")
    with pytest.raises(PasslError, match=r"no image .*1.png, but one in .*images; set dataroot"):
        opened("ImageTextList", tmp_path, list_file="t.csv")
    (tmp_path / "t.csv").write_text("image,caption\nimages\\1.png,a\n", encoding="utf-8")
    with pytest.raises(PasslError, match="t.csv:2: there .* is a path of Windows: write paths"):
        opened("ImageTextList", tmp_path, list_file="t.csv")


def test_a_large_table_is_read_once(tmp_path, monkeypatch):
    """Until it changes, or other columns are asked for."""
    import os
    import time

    from passl.datasets.sources import catalog, pairs

    monkeypatch.setattr(catalog, "_SMALLEST_INDEX", 3)
    rows = [("1.png", "no", "yes"), ("2.png", "a", "b"), ("3.png", "c", "d")]
    file = table(tmp_path, "t.csv", rows, ("image", "caption", "alt"))
    os.utime(file, (time.time() - 100,) * 2)
    first = listed(opened("ImageTextList", tmp_path, list_file="t.csv"))
    read = []
    monkeypatch.setattr(pairs, "rows_of", lambda *a, real=pairs.rows_of: read.append(a) or real(*a))
    assert listed(opened("ImageTextList", tmp_path, list_file="t.csv")) == first and not read
    other = opened("ImageTextList", tmp_path, list_file="t.csv", caption_column="alt")
    assert listed(other)["1.png"] == ["yes"] and len(read) == 1
    table(tmp_path, "t.csv", [*rows, ("4.png", "e", "f")], ("image", "caption", "alt"))
    assert len(opened("ImageTextList", tmp_path, list_file="t.csv")) == 4 and len(read) == 2


# ------------------------------------------------ and in some folders and shards


def test_images_that_share_a_text(tmp_path, caplog):
    for name in ("cat.jpg", "cat.k.jpg", "cat.png", "dog.jpg"):
        image(tmp_path / "pairs", name)
    (tmp_path / "pairs/cat.txt").write_text("\ufeffa cat\r\n", encoding="utf-8")
    (tmp_path / "pairs/cat.k.txt").write_text("a k\n", encoding="utf-8")
    (tmp_path / "pairs/dog.TXT").write_text("a dog\n", encoding="utf-8")
    with caplog.at_level(logging.INFO, logger="passl"):
        dataset = opened("ImageTextFolder", tmp_path / "pairs")
    assert listed(dataset) == {
        "cat.jpg": ["a cat"], "cat.k.jpg": ["a k"], "cat.png": ["a cat"], "dog.jpg": ["a dog"],
    }  # fmt: skip
    assert "passed over" not in caplog.text
    assert "2 captions stand at several images" in caplog.text
    (tmp_path / "pairs/alone.txt").write_text("a text", encoding="utf-8")
    with caplog.at_level(logging.INFO, logger="passl"):
        opened("ImageTextFolder", tmp_path / "pairs")
    assert "passed over: 1 text without an image" in caplog.text


def test_odd_captions_in_shards(tmp_path, caplog):
    def fact(value):
        return json.dumps({"alt": value}).encode()

    shard(tmp_path / "0.tar", [
        ("0", {"png": encoded(), "txt": b"\xef\xbb\xbfone\ntwo\n", "json": fact(["a", None, "b"])}),
        ("1", {"png": encoded(), "txt": "一只狗".encode("gbk"), "json": fact(None)}),
        ("2", {"png": encoded(), "txt": b"None", "json": fact("NA")}),
    ])  # fmt: skip
    with caplog.at_level(logging.INFO, logger="passl"):
        dataset = opened("ImageTextShards", tmp_path)
    assert list(listed(dataset).values()) == [["one\ntwo"], ["None"]]
    assert "passed over: 1 image with a caption that is not UTF-8" in caplog.text
    dataset = opened("ImageTextShards", tmp_path, caption="json:alt")
    assert list(listed(dataset).values()) == [["a", "b"], ["NA"]]
    for caption in ("json", "txt:alt"):
        with pytest.raises(PasslError, match=f"or json:KEY, a key within .*, not '{caption}'"):
            opened("ImageTextShards", tmp_path, caption=caption)
    shard(tmp_path / "1.tar", [("9", {"png": encoded(), "json": fact({"x": 1})})])
    with pytest.raises(PasslError, match="1.tar: '9.png': 'alt' in the .json .* an object with x"):
        opened("ImageTextShards", tmp_path, pattern="1.tar", caption="json:alt")
