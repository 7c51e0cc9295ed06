"""Every layout in which ImageNet stands, made small, read in place and told apart."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from passl.datasets import build_dataset, catalog
from passl.datasets.catalog import Names
from passl.datasets.layouts import read_folders
from passl.utils.errors import PasslError
from passl.utils.logging import logger

WNIDS = ("n01440764", "n01443537", "n02391049")
TRAIN, VAL = 5, 7


def jpeg(seed, size=(20, 16)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def train_files():
    """path -> content of the training images, class by class."""
    return {
        f"{wnid}/{wnid}_{i}.JPEG": jpeg(100 * label + i)
        for label, wnid in enumerate(WNIDS)
        for i in range(TRAIN)
    }


def val_files():
    """name -> (label, content), with labels that follow no order."""
    labels = [2, 0, 1, 1, 2, 0, 2]
    return {
        f"ILSVRC2012_val_{i + 1:08d}.JPEG": (label, jpeg(1000 + i))
        for i, label in enumerate(labels)
    }


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def class_folders(root):
    for name, content in train_files().items():
        (root / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "train" / name).write_bytes(content)
    for name, (label, content) in val_files().items():
        path = root / "val" / WNIDS[label] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def paddle_lists(root):
    """PaddleClas: a flat val folder, and lists."""
    class_folders(root)
    (root / "val").rename(root / "sorted")
    (root / "val").mkdir()
    lines = []
    for name, (label, content) in val_files().items():
        (root / "val" / name).write_bytes(content)
        lines.append(f"val/{name} {label}")
    (root / "val_list.txt").write_text("\n".join(lines) + "\n")
    (root / "train").rename(root / "images")
    lines = [f"images/{name} {WNIDS.index(name[:9])}" for name in train_files()]
    (root / "train_list.txt").write_text("\n".join(lines))


def archives(root):
    """As downloaded: a tar file of tar files, a flat one, and the devkit."""
    scipy_io = pytest.importorskip("scipy.io", reason="pip install scipy")
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for wnid in reversed(WNIDS):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for name, content in train_files().items():
                    if name.startswith(wnid):
                        add(archive, name.partition("/")[2], content)
            add(outer, f"{wnid}.tar", inner.getvalue())
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as archive:
        for name, (_, content) in reversed(val_files().items()):
            add(archive, name, content)
    # ILSVRC ids follow no order of the WordNet ids, and the table has nodes above the classes.
    ids = {WNIDS[0]: 3, WNIDS[1]: 1, WNIDS[2]: 2}
    table = [(ids[wnid], wnid, 0) for wnid in sorted(ids, key=ids.get)] + [(1001, "n00001740", 3)]
    synsets = np.array(table, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")])
    meta = io.BytesIO()
    scipy_io.savemat(meta, {"synsets": synsets.reshape(-1, 1)})
    truth = "\n".join(str(ids[WNIDS[label]]) for label, _ in val_files().values()) + "\n"
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        prefix = "ILSVRC2012_devkit_t12/data/"
        add(archive, prefix + "meta.mat", meta.getvalue())
        add(archive, prefix + "ILSVRC2012_validation_ground_truth.txt", truth.encode())


def shards(root):
    """WebDataset: pairs of image and label, in several files."""
    everything = {
        "train": [(WNIDS.index(n[:9]), c) for n, c in train_files().items()],
        "val": list(val_files().values()),
    }
    for split, images in everything.items():
        for number in range(2):
            with tarfile.open(root / f"{split}-{number:06d}.tar", "w") as archive:
                for i, (label, content) in list(enumerate(images))[number::2]:
                    add(archive, f"{i:06d}.cls", b"%d\n" % label)
                    add(archive, f"{i:06d}.jpg", content)
                    add(archive, f"{i:06d}.json", b"{}")


LAYOUTS = {f.__name__: f for f in (class_folders, paddle_lists, archives, shards)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PASSL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr(logger, "warning", lambda text, *args: found.append(text % args))
    return found


def contents(dataset):
    return sorted((int(dataset.labels[i]), dataset.read_bytes(i)) for i in range(len(dataset)))


@pytest.mark.smoke
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_same_images_with_the_same_labels(layout, tmp_path, warnings):
    root = tmp_path / "imagenet"
    root.mkdir()
    LAYOUTS[layout](root)
    expected = {
        "train": sorted((WNIDS.index(n[:9]), c) for n, c in train_files().items()),
        "val": sorted(val_files().values()),
    }
    for split, images in expected.items():
        cfg = {"name": "ImageNet", "dataroot": str(root), "split": split}
        for _ in range(2):  # built, and read from its index
            assert contents(build_dataset(cfg)) == images
        assert build_dataset({**cfg, "subset": "[:50%]"}).read_bytes(0) in dict.fromkeys(
            content for _, content in images
        )
    # It is not the whole of ImageNet, and says so in one line.
    assert len(warnings) == 6
    assert warnings[0] == (
        f"{root} (train): has 15 images of 3 classes, where ImageNet has 1,281,167 of 1000"
    )


def test_class_names_of_archives_are_the_wordnet_ids(tmp_path):
    archives(tmp_path)
    for split in ("train", "val"):
        cfg = {"name": "ImageNet", "dataroot": str(tmp_path), "split": split}
        assert build_dataset(cfg).class_names == list(WNIDS)


def test_what_is_missing_or_damaged_is_said(tmp_path):
    cfg = {"name": "ImageNet", "dataroot": str(tmp_path), "split": "val"}
    with pytest.raises(PasslError, match="holds no ImageNet for .val.; expected one of val/<wnid>"):
        build_dataset(cfg)
    archives(tmp_path)
    devkit = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    whole = devkit.read_bytes()
    devkit.write_bytes(whole[:100])
    with pytest.raises(PasslError, match="devkit_t12.tar.gz: is not ImageNet's devkit"):
        build_dataset(cfg)
    devkit.unlink()
    with pytest.raises(PasslError, match="devkit_t12.tar.gz: is missing; the labels"):
        build_dataset(cfg)
    devkit.write_bytes(whole)
    path = tmp_path / "ILSVRC2012_img_val.tar"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(PasslError, match="img_val.tar: .*(damaged|cut short)"):
        build_dataset(cfg)
    path = tmp_path / "ILSVRC2012_img_train.tar"
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(PasslError, match="img_train.tar: .*cut short"):
        build_dataset({**cfg, "split": "train"})


def test_shards_without_labels_and_with_odd_ones(tmp_path):
    cfg = {"name": "ImageShards", "dataroot": str(tmp_path)}
    with pytest.raises(PasslError, match="has no shards called"):
        build_dataset(cfg)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "x/1.jpg", jpeg(0))
    with pytest.raises(PasslError, match=r"a.tar: 'x/1.jpg' has no label beside it \(x/1.cls\)"):
        build_dataset(cfg)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "x/1.jpg", jpeg(0))
        add(archive, "x/1.cls", b"three")
    with pytest.raises(PasslError, match="'x/1.cls' holds no label from 0, but b'three'"):
        build_dataset(cfg)


# ---------------------------------------------------------------- the index


@pytest.fixture
def indexed(tmp_path, monkeypatch):
    """Class folders whose index is worth keeping, and a count of how often they are listed."""
    class_folders(tmp_path)
    monkeypatch.setattr(catalog, "_SMALLEST_INDEX", 1)
    monkeypatch.setattr(catalog, "_TOO_RECENT_NS", 0)
    root = str(tmp_path / "train")
    listed = []

    def build():
        listed.append(1)
        return read_folders(root)

    return tmp_path / "train", listed, lambda: catalog.cached(root, "folders", build)


def test_the_index_is_built_once(indexed):
    root, listed, read = indexed
    first, second = read(), read()
    assert len(listed) == 1
    assert [first.path(i) for i in range(len(first))] == [second.path(i) for i in range(15)]
    assert (first.labels == second.labels).all() and first.class_names == second.class_names


@pytest.mark.parametrize("change", ["add", "remove", "rename", "new class"])
def test_a_change_makes_it_anew(change, indexed):
    root, listed, read = indexed
    read()
    folder = root / WNIDS[1]
    victim = next(folder.iterdir())
    if change == "add":
        (folder / "another.JPEG").write_bytes(jpeg(5))
    elif change == "remove":
        victim.unlink()
    elif change == "rename":
        victim.rename(folder / "renamed.JPEG")
    else:
        (root / "n99999999").mkdir()
        (root / "n99999999" / "x.JPEG").write_bytes(jpeg(5))
    again = read()
    assert len(listed) == 2
    assert len(again) == {"add": 16, "remove": 14, "rename": 15, "new class": 16}[change]


def test_a_folder_that_changed_just_now_is_listed_again(indexed, monkeypatch):
    root, listed, read = indexed
    monkeypatch.setattr(catalog, "_TOO_RECENT_NS", 10**12)
    read(), read()
    assert len(listed) == 2


def test_a_damaged_index_and_a_cache_that_cannot_be_written(indexed, tmp_path, monkeypatch):
    root, listed, read = indexed
    read()
    (index,) = (tmp_path / "cache" / "index").iterdir()
    index.write_bytes(index.read_bytes()[:200])
    assert len(read()) == 15 and len(listed) == 2
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PASSL_CACHE", str(tmp_path / "file"))
    assert len(read()) == 15 and len(listed) == 3


def test_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PASSL_CACHE", "~/mine")
    assert catalog._index_path("data", "folders").parent == tmp_path / "mine" / "index"
    monkeypatch.delenv("PASSL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/c")
    assert catalog._index_path("data", "folders").parent == tmp_path / "c" / "passl" / "index"
    odd = catalog._index_path(os.fsdecode(b"d\xca"), "folders")
    assert os.fsencode(odd.name).startswith(b"d\xca-")


def test_without_a_home_there_is_no_index(indexed, monkeypatch, tmp_path):
    root, listed, read = indexed
    for variable in ("PASSL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # neither HOME nor an account
    assert len(read()) == len(read()) == 15 and len(listed) == 2
    assert not (tmp_path / "~").exists()


def test_an_archive_that_became_shorter_is_an_unreadable_image(tmp_path, warnings):
    archives(tmp_path)
    cfg = {"name": "ImageNet", "dataroot": str(tmp_path), "split": "train"}
    dataset = build_dataset(cfg)
    os.truncate(tmp_path / "ILSVRC2012_img_train.tar", 4000)
    with pytest.raises(PasslError, match=r"img_train.tar:n02391049/.*has become shorter"):
        dataset[14]


def test_names_are_texts_of_any_kind():
    texts = ["a", "", "Ünïcode/ß.jpg", "bytes-\udcff.jpg", "x" * 300]
    names = Names.of(texts)
    assert [names[i] for i in range(len(names))] == texts


def test_small_sets_leave_no_index(tmp_path):
    class_folders(tmp_path)
    build_dataset({"name": "ImageFolder", "dataroot": str(tmp_path / "train")})
    assert not (tmp_path / "cache").exists()


def test_a_damaged_manifest(tmp_path):
    shards(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"shards": []}))
    with pytest.raises(PasslError, match="manifest.json: is damaged"):
        build_dataset({"name": "ImageShards", "dataroot": str(tmp_path), "pattern": "val-*.tar"})
