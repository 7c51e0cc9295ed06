import errno
import io
import os
import pickle
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

from passl.datasets import UnreadableImage, build_dataset
from passl.datasets.dataset import subset_indices
from passl.utils.errors import PasslError


def folder(root, **arguments):
    return build_dataset({"name": "ImageFolder", "dataroot": str(root), **arguments})


def image_list(root, list_file, **arguments):
    cfg = {"name": "ImageList", "dataroot": str(root), "list_file": str(list_file), **arguments}
    return build_dataset(cfg)


def cifar(root, **arguments):
    return build_dataset({"name": "CIFAR10", "dataroot": str(root), **arguments})


# ---------------------------------------------------------------- ImageFolder


@pytest.mark.smoke
def test_image_folder_numbers_its_classes_in_sorted_order(image_folder):
    root = image_folder({"zebra": 1, "Apple": 2, "pear": 3, "10": 1, "9": 1})
    dataset = folder(root)
    assert dataset.class_names == ["10", "9", "Apple", "pear", "zebra"]
    assert len(dataset) == 8
    assert dataset.labels.tolist() == [0, 1, 2, 2, 3, 3, 3, 4]
    for i in range(len(dataset)):
        assert (
            os.path.relpath(dataset.where(i), root).split(os.sep)[0]
            == (dataset.class_names[dataset[i]["label"]])
        )
    sample = dataset[7]
    expected = np.asarray(Image.open(root / "zebra" / "000.png"))
    np.testing.assert_array_equal(sample["image"], expected)
    assert sample["image"].dtype == np.uint8 and sample["image"].shape == (5, 6, 3)


def test_image_folder_finds_nested_images_and_passes_over_the_rest(image_folder, save_image):
    root = image_folder({"a": 1, "b": 1})
    save_image(root / "a" / "deep" / "er" / "x.PNG")
    save_image(root / "a" / "photo.JPEG")
    save_image(root / "a" / ".hidden.png")
    save_image(root / "a" / ".hidden" / "y.png")
    save_image(root / ".cache" / "z.png")
    save_image(root / "beside.png")
    (root / "a" / "notes.txt").write_text("words")
    dataset = folder(root)
    names = [os.path.relpath(dataset.where(i), root) for i in range(len(dataset))]
    assert dataset.class_names == ["a", "b"]
    assert names == ["a/000.png", "a/deep/er/x.PNG", "a/photo.JPEG", "b/000.png"]


def test_an_empty_class_is_named(image_folder):
    root = image_folder({"a": 1, "hollow": 0})
    (root / "hollow" / "notes.txt").write_text("words")
    with pytest.raises(PasslError, match="hollow"):
        folder(root)


def test_a_missing_folder_a_file_and_no_classes_are_told_apart(tmp_path, save_image):
    with pytest.raises(PasslError, match="absent: there is no such data folder"):
        folder(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(PasslError, match="file: is not a folder"):
        folder(tmp_path / "file")
    save_image(tmp_path / "flat" / "a.png")
    with pytest.raises(PasslError, match="has no class folders.* there is 1 image in the folder"):
        folder(tmp_path / "flat")


def test_the_parts_of_a_set_are_no_classes(tmp_path, save_image):
    for name in ("train/apple/1.png", "train/kiwi/1.png", "Val/apple/1.png", "Val/kiwi/1.png"):
        save_image(tmp_path / "mine" / name)
    (tmp_path / "mine" / "names.txt").write_text("apple")
    with pytest.raises(PasslError, match="its folders Val, train are parts of a set.* dataroot to "
                       ".*mine/Val or .*mine/train"):  # fmt: skip
        folder(tmp_path / "mine")
    # One part alone, and what else stands beside images.
    save_image(tmp_path / "one" / "images" / "apple" / "1.png")
    (tmp_path / "one" / "labels").mkdir()
    with pytest.raises(PasslError, match="set dataroot to .*one/images$"):
        folder(tmp_path / "one")
    # Folders that merely have such names are classes, and so is one among others.
    (
        save_image(tmp_path / "flat" / "train" / "1.png"),
        save_image(tmp_path / "flat" / "test" / "1.png"),
    )
    assert folder(tmp_path / "flat").class_names == ["test", "train"]
    save_image(tmp_path / "vehicles" / "train" / "ice" / "1.png")
    save_image(tmp_path / "vehicles" / "bus" / "1.png")
    assert folder(tmp_path / "vehicles").class_names == ["bus", "train"]


def test_negative_indices_and_the_end(image_folder):
    dataset = folder(image_folder({"a": 1, "b": 1}))
    assert dataset[-1]["label"] == 1
    with pytest.raises(IndexError):
        dataset[2]


# ---------------------------------------------------------------- ImageList


@pytest.mark.smoke
def test_image_list_reads_paths_with_spaces(tmp_path, save_image):
    save_image(tmp_path / "with some spaces" / "an image.png", seed=1)
    save_image(tmp_path / "b.png", seed=2)
    list_file = tmp_path / "list.txt"
    list_file.write_text("with some spaces/an image.png 2\n\nb.png\t0\r\n")
    for named in (list_file, "list.txt"):
        dataset = image_list(tmp_path, named)
        assert dataset.labels.tolist() == [2, 0] and dataset.class_names is None
        expected = np.asarray(Image.open(tmp_path / "with some spaces" / "an image.png"))
        np.testing.assert_array_equal(dataset[0]["image"], expected)
    assert dataset.where(0).endswith("list.txt:1") and dataset.where(1).endswith("list.txt:3")


@pytest.mark.parametrize(
    "line", ["c.png", "c.png x", "c.png -1", "c.png 1.0", "5", "c.png ²", "c.png " + "9" * 30]
)
def test_a_bad_line_is_named_with_its_number(tmp_path, save_image, line):
    save_image(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text(f"a.png 0\n\n{line}\n", encoding="utf-8")
    with pytest.raises(PasslError, match="list.txt:3: ") as caught:
        image_list(tmp_path, "list.txt")
    assert line[:60] in str(caught.value)


def test_a_wrong_dataroot_is_noticed_at_once(tmp_path, save_image):
    save_image(tmp_path / "right" / "a.png")
    (tmp_path / "wrong").mkdir()
    (tmp_path / "list.txt").write_text("\na.png 0\n")
    image_list(tmp_path / "right", tmp_path / "list.txt")
    with pytest.raises(PasslError, match="list.txt:2: .*wrong/a.png.*dataroot"):
        image_list(tmp_path / "wrong", tmp_path / "list.txt")


def test_a_missing_or_empty_or_binary_list_is_an_error(tmp_path):
    with pytest.raises(PasslError, match="absent.txt"):
        image_list(tmp_path, "absent.txt")
    (tmp_path / "list.txt").write_text("\n \n")
    with pytest.raises(PasslError, match="is empty"):
        image_list(tmp_path, "list.txt")
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe 0\n")
    with pytest.raises(PasslError, match="list.txt"):
        image_list(tmp_path, "list.txt")


@pytest.mark.smoke
@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfa.png 0\nb c.png 1\n",
        b"a.png 0\r\nb c.png 1\r\n",
        b"\xef\xbb\xbfa.png\t0\r\n\r\n./b c.png\t1",
        "\ufeffa.png 0\nb c.png 1\n\n".encode(),
    ],
)
def test_what_editors_of_windows_add_is_no_part_of_a_name(tmp_path, save_image, content):
    save_image(tmp_path / "a.png"), save_image(tmp_path / "b c.png")
    (tmp_path / "list.txt").write_bytes(content)
    dataset = image_list(tmp_path, "list.txt")
    assert dataset.labels.tolist() == [0, 1]
    assert len(dataset.read_bytes(0)) and len(dataset.read_bytes(1))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a.png 0\n".encode("utf-16"), "list.txt: is UTF-16; save it as UTF-8"),
        ("a.png 0\n".encode("utf-16-le"), "list.txt:1: is no text in UTF-8; save it as UTF-8"),
        ("a.png 0\n苹果.png 1\n".encode("gbk"), "list.txt:2: is not UTF-8 .*save it as UTF-8"),
        (b"train\\a.png 0\n", r"list.txt:1: .*train\\a.png; this is a path of Windows.* with /"),
        (b"D:/x/a.png 0\n", "list.txt:1: .*this is a path of Windows"),
        (b"path,label\na.png,0\n", "list.txt:1: is a header, 'path,label'; remove the line"),
        (b"\nfilename label\na.png 0\n", "list.txt:2: is a header"),
        (b"a.png,0\n", "list.txt:1: has a comma before the label"),
        (b"a.png, 0\n", "list.txt:1: .* write 'path label' with a space and without ','"),
        (b'"a.png" 0\n', "list.txt:1: .* without quotation marks"),
        (b"0 a.png\n", "list.txt:1: has the label first"),
        (b"0,a.png\n", "list.txt:1: has the label first"),
        (b"a.png apple\n", r"list.txt:1: a line is 'path label' with a label from 0 \(a number\)"),
        (b"in/a.png 0\n", "there is no image .*set/in/a.png, but one in .*; set dataroot to that"),
        ("\u200ba.png 0\n".encode(), r"there is no image '.*\\u200ba.png'; check dataroot"),
        ("a.png \u00a00x\n".encode(), r"not 'a.png \\xa00x'$"),
        ("a.png 0\u3000\n".encode(), r"not 'a.png 0\\u3000'$"),
    ],
)
def test_a_list_that_is_none_is_told_what_it_is(tmp_path, save_image, content, said):
    save_image(tmp_path / "set" / "a.png"), save_image(tmp_path / "in" / "a.png")
    (tmp_path / "set" / "list.txt").write_bytes(content)
    with pytest.raises(PasslError, match=said) as caught:
        image_list(tmp_path / "set", "list.txt")
    assert "\n" not in str(caught.value)


def test_a_list_may_hold_the_bytes_of_names_that_are_no_utf8(tmp_path, save_image):
    name = os.fsencode(tmp_path) + "/苹果.png".encode("gbk")
    os.rename(save_image(tmp_path / "a.png"), name)
    (tmp_path / "list.txt").write_bytes("苹果.png 0\n".encode("gbk"))
    dataset = image_list(tmp_path, "list.txt")
    with open(name, "rb") as file:
        assert dataset.read_bytes(0) == file.read()


def test_absolute_paths_in_a_list_stand_for_themselves(tmp_path, save_image):
    path = save_image(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "list.txt").write_text(f"{path} 0\n")
    assert image_list(tmp_path, "list.txt").read_bytes(0) == path.read_bytes()


# ---------------------------------------------------------------- names of classes


def test_names_of_classes_from_a_file(tmp_path, save_image):
    save_image(tmp_path / "a.png"), save_image(tmp_path / "b.png")
    (tmp_path / "list.txt").write_text("a.png 1\nb.png 0\n")
    names = tmp_path / "names.txt"
    names.write_bytes("\ufeffn01440764 tench, Tinca tinca\r\n  苹果 \r\n\r\n".encode())
    for named in (str(names), "names.txt"):
        dataset = image_list(tmp_path, "list.txt", class_names=named)
        assert dataset.class_names == ["n01440764 tench, Tinca tinca", "苹果"]
        assert dataset.labels.tolist() == [1, 0]
    # A set need not have an image of every class.
    names.write_text("x\ny\nz\n")
    assert image_list(tmp_path, "list.txt", class_names="names.txt").class_names == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"x\n", "names.txt: has 1 names, but the labels of the set go up to 1"),
        (b"x\n\ny\n", "names.txt:2: is empty"),
        (b"\n \n", "names.txt: is empty"),
        (b"x\ny\nx\n", "names.txt: the lines 1 and 3 are the same, x,"),
        ("x\n苹果\n".encode("gbk"), "names.txt:2: is not UTF-8"),
        ("x\ny\n".encode("utf-16"), "names.txt: is UTF-16"),
        (None, "names.txt: there is no such file, nor in"),
    ],
)
def test_a_file_of_names_that_does_not_fit(tmp_path, save_image, content, said):
    save_image(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png 1\n")
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(PasslError, match=said):
        image_list(tmp_path, "list.txt", class_names="names.txt")


def test_a_subset_of_a_list_keeps_paths_labels_and_lines_together(tmp_path, save_image):
    lines = []
    for i in range(20):
        save_image(tmp_path / f"{i}.png", seed=i)
        lines.append(f"{i}.png {i % 2}\n")
    (tmp_path / "list.txt").write_text("".join(lines))
    dataset = image_list(tmp_path, "list.txt", subset="[50%:]")
    assert len(dataset) == 10
    for i in range(10):
        number = int(dataset.where(i).rsplit(":", 1)[1]) - 1
        assert dataset[i]["label"] == number % 2
        expected = np.asarray(Image.open(tmp_path / f"{number}.png"))
        np.testing.assert_array_equal(dataset[i]["image"], expected)


def test_a_huge_label_in_a_list_costs_no_memory(tmp_path, save_image):
    save_image(tmp_path / "a.png")
    save_image(tmp_path / "b.png")
    (tmp_path / "list.txt").write_text("a.png 0\nb.png 999999999\n")
    dataset = image_list(tmp_path, "list.txt", subset="[:100%]")
    assert dataset.labels.tolist() == [0, 999999999]


# ---------------------------------------------------------------- subsets


@pytest.mark.smoke
def test_the_two_parts_of_a_set_are_disjoint_and_stratified():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 4], [100, 50, 10, 1]))
    first, second = subset_indices(labels, "[:90%]"), subset_indices(labels, "[90%:]")
    assert sorted([*first, *second]) == list(range(161))
    assert (np.diff(first) > 0).all() and (np.diff(second) > 0).all()
    assert np.bincount(labels[first]).tolist()[:3] == [90, 45, 9]
    assert np.bincount(labels[second]).tolist()[:3] == [10, 5, 1]


def test_a_subset_is_fixed_but_not_simply_the_first_images():
    labels = np.zeros(1000, np.int64)
    before = subset_indices(labels, "[:50%]")
    np.random.seed(3)
    np.testing.assert_array_equal(subset_indices(labels, "[:50%]"), before)
    assert not np.array_equal(before, np.arange(500))
    # A fixed draw of 500 from 1000 has about half of them in the first half.
    assert abs((before < 500).sum() - 250) < 50


def test_cuts_at_odd_places_cover_the_set_too():
    labels = np.random.default_rng(1).integers(0, 7, 997)
    cuts = ["[:12.5%]", "[12.5%:33.3%]", "[33.3%:70%]", "[70%:]"]
    parts = [subset_indices(labels, cut) for cut in cuts]
    assert sorted(np.concatenate(parts)) == list(range(997))
    np.testing.assert_array_equal(subset_indices(labels, None), np.arange(997))
    np.testing.assert_array_equal(subset_indices(labels, "[:]"), np.arange(997))
    counts = np.bincount(labels)
    share = np.bincount(labels[parts[1]]) / counts
    assert (np.abs(share - 0.208) <= 1 / counts).all()


@pytest.mark.parametrize(
    "subset",
    ["90%", "[:90]", "[90%:10%]", "[:0%]", "[100%:]", "[:110%]", "[50%:50%]", "", "[-5%:]"],
)
def test_a_subset_of_another_form_is_named(subset):
    with pytest.raises(PasslError, match=re.escape(f"'{subset}'")):
        subset_indices(np.zeros(10, np.int64), subset)


def test_a_subset_without_images_is_an_error():
    with pytest.raises(PasslError, match="holds none"):
        subset_indices(np.zeros(2, np.int64), "[:1%]")


def test_a_subset_keeps_all_class_names(image_folder):
    dataset = folder(image_folder({"a": 1, "b": 9}), subset="[:30%]")
    assert dataset.class_names == ["a", "b"]
    assert set(dataset.labels.tolist()) == {1}


# ---------------------------------------------------------------- use_classes


@pytest.mark.smoke
def test_use_classes_numbers_as_the_training_set_does(image_folder):
    dataset = folder(image_folder({"b": 2, "d": 1}))
    dataset.use_classes(["a", "d", "c", "b"])
    assert dataset.labels.tolist() == [3, 3, 1]
    assert dataset.class_names == ["a", "d", "c", "b"]
    assert [dataset[i]["label"] for i in range(3)] == [3, 3, 1]


def test_use_classes_refuses_a_class_that_training_lacks(image_folder):
    dataset = folder(image_folder({"b": 1, "unheard-of": 1}))
    with pytest.raises(PasslError, match="unheard-of"):
        dataset.use_classes(["a", "b"])
    assert dataset.labels.tolist() == [0, 1]


def test_use_classes_leaves_a_set_without_names_alone(tmp_path, save_image):
    save_image(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png 7\n")
    dataset = image_list(tmp_path, "list.txt")
    dataset.use_classes(["x"])
    assert dataset.labels.tolist() == [7]


# ---------------------------------------------------------------- CIFAR-10


PARTS = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


@pytest.fixture
def batches():
    """A few images a part: {part: (planes uint8 [n, 3072], labels)}."""
    rng = np.random.default_rng(0)
    return {
        name: (rng.integers(0, 256, (4, 3072), np.uint8), rng.integers(0, 10, 4).tolist())
        for name in PARTS
    }


def as_binary(planes, labels):
    return b"".join(bytes([label]) + row.tobytes() for row, label in zip(planes, labels))


class Python2Pickler(pickle._Pickler):
    """Writes every string as Python 2's ``str``, as in the authors' files."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        data = value if isinstance(value, bytes) else value.encode("latin-1")
        self.write(b"T" + len(data).to_bytes(4, "little") + data)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def as_python2_pickle(planes, labels):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(
        {"batch_label": "a batch", "labels": labels, "data": planes, "filenames": ["x.png"]}
    )
    # Where NumPy kept it in 2009.
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def as_python3_pickle(planes, labels):
    return pickle.dumps({b"labels": labels, b"data": planes})


LAYOUTS = {
    "binary": ("cifar-10-batches-bin", ".bin", as_binary, "cifar-10-binary.tar.gz"),
    "python": ("cifar-10-batches-py", "", as_python2_pickle, "cifar-10-python.tar.gz"),
    "python3": ("cifar-10-batches-py", "", as_python3_pickle, "cifar-10-python.tar.gz"),
}


def write_cifar(root, batches, layout, packing):
    name, suffix, encode, archive = LAYOUTS[layout]
    files = {part + suffix: encode(*batch) for part, batch in batches.items()}
    root.mkdir(parents=True, exist_ok=True)
    if packing == "archive":
        with tarfile.open(root / archive, "w:gz") as tar:
            for file, data in {"readme.html": b"words", **files}.items():
                member = tarfile.TarInfo(f"{name}/{file}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return root / archive
    inner = root / name if packing == "folder" else root
    inner.mkdir(exist_ok=True)
    for file, data in files.items():
        (inner / file).write_bytes(data)
    return inner


@pytest.mark.smoke
@pytest.mark.parametrize("packing", ["folder", "bare", "archive"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_cifar10_in_each_of_the_authors_layouts(tmp_path, batches, layout, packing):
    write_cifar(tmp_path, batches, layout, packing)
    for split, names in (("train", PARTS[:5]), ("test", PARTS[5:])):
        dataset = cifar(tmp_path, split=split)
        planes = np.concatenate([batches[name][0] for name in names])
        labels = sum((batches[name][1] for name in names), [])
        assert len(dataset) == 4 * len(names) and dataset.labels.tolist() == labels
        for i in (0, len(dataset) - 1):
            sample = dataset[i]
            # 1024 bytes of red, then green, then blue, each row by row.
            for channel in range(3):
                plane = planes[i][1024 * channel : 1024 * (channel + 1)].reshape(32, 32)
                np.testing.assert_array_equal(sample["image"][:, :, channel], plane)
            assert sample["label"] == labels[i]
    assert len(dataset.class_names) == 10 and dataset.class_names[3] == "cat"


def test_cifar10_subsets_do_not_overlap(tmp_path, batches):
    write_cifar(tmp_path, batches, "binary", "folder")
    first, second = (cifar(tmp_path, subset=cut) for cut in ("[:50%]", "[50%:]"))
    images = [d[i]["image"].tobytes() for d in (first, second) for i in range(len(d))]
    assert len(images) == len(set(images)) == 20


def evil_pickle(path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {path}",)

    return pickle.dumps({b"labels": [0], b"data": Evil()}, protocol=2)


def nested_evil_pickle(path):
    class Evil:
        def __reduce__(self):
            return eval, (f"open({str(path)!r}, 'w')",)

    return pickle.dumps(Evil())


@pytest.mark.smoke
@pytest.mark.parametrize("evil", [evil_pickle, nested_evil_pickle])
@pytest.mark.parametrize("packing", ["folder", "archive"])
def test_a_pickle_that_names_a_function_is_refused_and_runs_nothing(
    tmp_path, batches, evil, packing, monkeypatch
):
    trace = tmp_path / "trace"
    pickle.loads(evil(trace))  # it does work where pickles are trusted
    assert trace.exists()
    trace.unlink()
    data = evil(trace)
    monkeypatch.setitem(LAYOUTS, "evil", (*LAYOUTS["python"][:2], lambda *_: data, "x"))
    layout = list(LAYOUTS["evil"])
    layout[3] = LAYOUTS["python"][3]
    monkeypatch.setitem(LAYOUTS, "evil", tuple(layout))
    write_cifar(tmp_path, batches, "evil", packing)
    with pytest.raises(PasslError, match="data_batch_1: is not a CIFAR-10 batch"):
        cifar(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize("layout", ["binary", "python"])
@pytest.mark.parametrize("keep", [0, 1, 3000, -1])
def test_a_truncated_file_is_named(tmp_path, batches, layout, keep):
    inner = write_cifar(tmp_path, batches, layout, "folder")
    file = inner / ("data_batch_2" + LAYOUTS[layout][1])
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(PasslError, match="data_batch_2"):
        cifar(tmp_path)


def test_a_missing_part_is_named(tmp_path, batches):
    inner = write_cifar(tmp_path, batches, "binary", "folder")
    (inner / "data_batch_4.bin").unlink()
    with pytest.raises(PasslError, match="data_batch_4.bin"):
        cifar(tmp_path)
    del batches["data_batch_3"]
    write_cifar(tmp_path / "other", batches, "python", "archive")
    with pytest.raises(PasslError, match="data_batch_3"):
        cifar(tmp_path / "other")


@pytest.mark.parametrize("layout", ["binary", "python"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_archive_is_named(tmp_path, batches, layout, share):
    archive = write_cifar(tmp_path, batches, layout, "archive")
    data = archive.read_bytes()
    archive.write_bytes(data[: int(share * len(data))])
    with pytest.raises(PasslError, match=archive.name):
        cifar(tmp_path)


@pytest.mark.parametrize("place", [0.1, 0.3, 0.6, 0.75])
def test_a_damaged_archive_is_named(tmp_path, batches, place):
    archive = write_cifar(tmp_path, batches, "binary", "archive")
    data = bytearray(archive.read_bytes())
    middle = int(place * len(data))
    data[middle : middle + 64] = b"\xff" * 64
    archive.write_bytes(bytes(data))
    with pytest.raises(PasslError, match=archive.name):
        cifar(tmp_path)


def test_an_archive_that_may_not_be_read_is_not_called_damaged(tmp_path, batches, monkeypatch):
    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    archive = write_cifar(tmp_path, batches, "binary", "archive")
    monkeypatch.setattr(tarfile, "open", refused)
    with pytest.raises(PasslError, match=rf"{archive.name}: cannot be read \(Permission denied"):
        cifar(tmp_path)


def test_labels_above_nine_are_not_cifar10(tmp_path, batches):
    batches["data_batch_1"][1][2] = 10
    write_cifar(tmp_path, batches, "binary", "folder")
    with pytest.raises(PasslError, match="labels"):
        cifar(tmp_path)


def test_no_cifar10_says_how_to_get_it(tmp_path):
    with pytest.raises(PasslError, match="fetch_cifar10.sh"):
        cifar(tmp_path)
    with pytest.raises(PasslError, match="'valid'"):
        cifar(tmp_path, split="valid")


# ---------------------------------------------------------------- decoding


def one_image(root):
    dataset = folder(root)
    assert len(dataset) == 1
    return dataset[0]["image"]


@pytest.mark.smoke
def test_every_mode_becomes_rgb(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rgb = np.stack([grey, 255 - grey, grey // 2], axis=-1)
    few = (rgb // 128) * 255
    # name, the image as saved, what its pixels are
    for name, image, expected in [
        ("grey.png", Image.fromarray(grey), np.stack([grey] * 3, axis=-1)),
        ("bits.png", Image.fromarray(grey > 99), np.stack([(grey > 99) * 255] * 3, axis=-1)),
        ("alpha.png", Image.fromarray(np.dstack([rgb, grey])), rgb),
        ("palette.gif", Image.fromarray(few).quantize(8), few),
        ("palette.png", Image.fromarray(few).quantize(8), few),
        ("rgb.webp", Image.fromarray(rgb), rgb),
    ]:
        path = tmp_path / name / "class" / name
        path.parent.mkdir(parents=True)
        image.save(path, **({"lossless": True} if name.endswith("webp") else {}))
        pixels = one_image(tmp_path / name)
        assert pixels.dtype == np.uint8 and pixels.shape == (16, 16, 3), name
        np.testing.assert_array_equal(pixels, expected, err_msg=name)


def test_cmyk_jpegs_become_rgb(tmp_path):
    cmyk = np.zeros((16, 16, 4), np.uint8)
    cmyk[:] = (200, 100, 50, 30)
    path = tmp_path / "class" / "print.jpg"
    path.parent.mkdir()
    Image.fromarray(cmyk, mode="CMYK").save(path, quality=100)
    with Image.open(path) as saved:
        assert saved.mode == "CMYK"
    expected = [(255 - ink) * (255 - 30) / 255 for ink in (200, 100, 50)]
    np.testing.assert_allclose(one_image(tmp_path).mean(axis=(0, 1)), expected, atol=3)


def test_a_png_named_jpeg_is_read_by_its_content(tmp_path, save_image):
    path = save_image(tmp_path / "class" / "n02105855_2933.JPEG", format="PNG")
    with Image.open(path) as image:
        assert image.format == "PNG"
        expected = np.asarray(image)
    np.testing.assert_array_equal(one_image(tmp_path), expected)


def test_a_16_bit_grey_png_keeps_its_shades(tmp_path):
    shades = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    path = tmp_path / "class" / "deep.png"
    path.parent.mkdir()
    Image.fromarray(shades).save(path)
    expected = np.stack([shades // 257] * 3, axis=-1)
    np.testing.assert_allclose(one_image(tmp_path).astype(int), expected, atol=1)


def test_exif_orientation_is_ignored(tmp_path, save_image):
    exif = Image.Exif()
    exif[0x0112] = 6
    save_image(tmp_path / "class" / "a.png", size=(9, 4), exif=exif)
    assert one_image(tmp_path).shape == (4, 9, 3)


@pytest.mark.smoke
@pytest.mark.parametrize("damage", ["truncated", "empty", "words", "missing"])
def test_an_unreadable_image_is_named_by_its_path(tmp_path, save_image, damage):
    path = save_image(tmp_path / "class" / "bad.jpg", size=(64, 64))
    dataset = folder(tmp_path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-500])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "words":
        path.write_text("<html>not found</html>")
    else:
        path.unlink()
    with pytest.raises(UnreadableImage, match=re.escape(str(path))):
        dataset[0]
