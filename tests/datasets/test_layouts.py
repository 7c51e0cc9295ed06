"""Every layout in which ImageNet stands, made small, read in place and told apart."""

import gzip
import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from passl.datasets import build_dataset
from passl.datasets.sources import catalog, files, image_files
from passl.datasets.sources.catalog import Names
from passl.datasets.sources.layouts import read_folders
from passl.utils.cache import cache_file
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
def index_at_once(monkeypatch):
    """An index counts although what it was made from changed a moment ago."""
    monkeypatch.setattr(catalog, "_TOO_RECENT_NS", 0)


@pytest.fixture
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr(logger, "warning", lambda text, *args: found.append(text % args))
    return found


def contents(dataset):
    return sorted((int(dataset.labels[i]), dataset.read_bytes(i)) for i in range(len(dataset)))


@pytest.mark.smoke
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_same_images_with_the_same_labels(
    layout, tmp_path, warnings, index_at_once
):
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
    whole = path.read_bytes()
    path.write_bytes(whole[:20000])
    with pytest.raises(PasslError, match="img_train.tar: .*cut short"):
        build_dataset({**cfg, "split": "train"})
    # Cut between two classes.
    path.write_bytes(whole[: whole.index(f"{WNIDS[0]}.tar".encode())])
    with pytest.raises(PasslError, match="img_train.tar: lacks the mark .*cut short"):
        build_dataset({**cfg, "split": "train"})


def test_a_class_that_is_cut_within_the_training_archive(tmp_path):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as archive:
        add(archive, "a.JPEG", jpeg(0))
        end = archive.offset
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "w") as outer:
        add(outer, f"{WNIDS[0]}.tar", inner.getvalue()[:end])
    cfg = {"name": "ImageNet", "dataroot": str(tmp_path), "split": "train"}
    with pytest.raises(PasslError, match=f"train.tar: {WNIDS[0]}.tar: lacks the mark .* again$"):
        build_dataset(cfg)


def test_imagenet_as_it_stands_elsewhere_is_told_what_it_is(tmp_path):
    cfg = {"name": "ImageNet", "dataroot": str(tmp_path), "split": "val"}
    for name, (_, content) in val_files().items():
        (tmp_path / "val").mkdir(exist_ok=True)
        (tmp_path / "val" / name).write_bytes(content)
    (tmp_path / "val" / ".cache").mkdir()
    with pytest.raises(PasslError, match="val: holds 7 images in no class folders.*val_list.txt.*"
                       "ILSVRC2012_img_val.tar with ILSVRC2012_devkit_t12.tar.gz"):  # fmt: skip
        build_dataset(cfg)
    (tmp_path / "train").mkdir()
    for wnid in WNIDS:
        with tarfile.open(tmp_path / "train" / f"{wnid}.tar", "w") as archive:
            add(archive, f"{wnid}_1.JPEG", jpeg(0))
    for given in (
        {**cfg, "split": "train"},
        {"name": "ImageShards", "dataroot": f"{tmp_path}/train"},
    ):
        said = "n01440764.tar and the others are ImageNet's archives of one class each.*unpack"
        with pytest.raises(PasslError, match=f"{said}.*ILSVRC2012_img_train.tar"):
            build_dataset(given)
    (tmp_path / "Data" / "CLS-LOC" / "val").mkdir(parents=True)
    with pytest.raises(PasslError, match="or is it dataroot: .*/Data/CLS-LOC"):
        (tmp_path / "val").rename(tmp_path / "flat")
        build_dataset(cfg)


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


def write_shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            add(archive, name, content)


def image_shards(root, **arguments):
    return build_dataset({"name": "ImageShards", "dataroot": str(root), **arguments})


def names_of(dataset):
    return [dataset.where(i).rpartition(":")[2] for i in range(len(dataset))]


def pairs(*stems, extensions=("jpg",)):
    """The members of a shard: for every stem its images, then its label."""
    for label, stem in enumerate(stems):
        for extension in extensions:
            yield f"{stem}.{extension}", b"0" if extension == "cls" else jpeg(label)
        yield f"{stem}.cls", b"%d" % label


@pytest.mark.smoke
def test_what_lies_beside_the_image_of_a_sample_is_not_it(tmp_path, index_at_once):
    write_shard(
        tmp_path / "a.tar",
        [
            *pairs("x/0", "x/1", extensions=("seg.png", "JPG", "depth.tiff", "json")),
            ("._0.jpg", b"what macOS adds"),
            ("x/._1.jpg", b"what macOS adds"),
        ],
    )
    dataset = image_shards(tmp_path)
    assert names_of(dataset) == ["x/0.JPG", "x/1.JPG"] and dataset.labels.tolist() == [0, 1]
    for image in ("seg.png", ".SEG.png", "depth.tiff"):
        chosen = image_shards(tmp_path, image=image)
        assert [name.partition(".")[2] for name in names_of(chosen)] == [
            image.lower().strip(".")
        ] * 2
    # The index of one choice is not that of another.
    assert names_of(image_shards(tmp_path)) == names_of(dataset)
    with pytest.raises(PasslError, match="its shards hold no files with the extension webp, but "
                       "depth.tiff, jpg, json, seg.png"):  # fmt: skip
        image_shards(tmp_path, image="webp")


@pytest.mark.parametrize(
    ("extensions", "said"),
    [
        (
            ("jpg", "png"),
            "'x/0.jpg' and 'x/0.png' are two images of one sample; .*'image', jpg or png",
        ),
        (
            ("left.jpg", "right.jpg"),
            "'x/0.left.jpg' and 'x/0.right.jpg' are two images of one sample",
        ),
        (("jpg", "jpg"), "'x/0.jpg' stands there twice"),
        (("jpg", "JPG"), "'x/0.JPG' stands there twice"),
        (("cls",), "'x/0.cls' stands there twice"),
    ],
)
def test_samples_that_leave_a_choice_are_refused(tmp_path, extensions, said):
    write_shard(tmp_path / "a.tar", pairs("x/0", extensions=extensions))
    with pytest.raises(PasslError, match=f"a.tar: {said}"):
        image_shards(tmp_path)


def test_a_mask_does_not_stand_in_for_an_image_that_is_missing(tmp_path):
    write_shard(tmp_path / "a.tar", pairs("0", "1", extensions=("rgb.png",)))
    assert names_of(image_shards(tmp_path)) == ["0.rgb.png", "1.rgb.png"]
    write_shard(tmp_path / "b.tar", pairs("2", extensions=("rgb.png", "jpg")))
    with pytest.raises(PasslError, match="'0.rgb.png' has no plain extension of an image, other"):
        image_shards(tmp_path)
    assert len(image_shards(tmp_path, image="rgb.png")) == 3


def test_a_key_ends_at_the_first_dot(tmp_path):
    for stems in (["S.01.0011"], ["S.01.0011", "S.01.0012"]):
        write_shard(tmp_path / "a.tar", pairs(*stems))
        said = "a.tar: 'S.01.0011.jpg' has a dot within its name, .* ends at the first dot"
        with pytest.raises(PasslError, match=said):
            image_shards(tmp_path)


def test_a_key_may_come_again_in_another_folder_or_shard(tmp_path):
    write_shard(tmp_path / "a.tar", [*pairs("x/0"), *pairs("y/0")])
    write_shard(tmp_path / "b.tar", pairs("x/0"))
    assert len(image_shards(tmp_path)) == 3


def test_samples_without_an_image_are_counted(tmp_path, monkeypatch, index_at_once):
    told = []
    monkeypatch.setattr(logger, "info", lambda text, *args: told.append(text % args))
    alone = [("3.cls", b"1"), ("4.CLS", b"4"), ("4.jpg", jpeg(4))]
    write_shard(tmp_path / "a.tar", [*pairs("0"), *pairs("1", "2", extensions=("heic",)), *alone])
    for _ in range(2):  # read, and from its index
        assert image_shards(tmp_path).labels.tolist() == [0, 4]
        assert told[-1].endswith(
            "passed over: 2 samples without an image (but heic), 1 sample without an image"
        )


def test_links_of_shards_are_no_images(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in pairs("0"):
            add(archive, name, content)
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "0.jpg"
        archive.addfile(link)
        add(archive, "1.cls", b"1")
    assert names_of(image_shards(tmp_path)) == ["0.jpg"]


# ---------------------------------------------------------------- the end of an archive


@pytest.fixture
def shard(tmp_path):
    """A shard of six samples of about a block, and where each of its members begins."""
    members = [(f"{i}.{e}", c) for i in range(6) for e, c in (("jpg", b"x" * 500), ("cls", b"0"))]
    path = tmp_path / "set" / "a.tar"
    path.parent.mkdir()
    write_shard(path, members)
    with tarfile.open(path) as archive:
        return path, [member.offset for member in archive] + [archive.offset]


@pytest.mark.smoke
def test_a_shard_is_refused_wherever_it_is_cut(shard):
    path, begins = shard
    whole = path.read_bytes()
    assert begins[-1] == 12 * 1024
    for size in sorted({*range(0, begins[-1], 256), *begins, begins[-1] + 511}):
        path.write_bytes(whole[:size])
        with pytest.raises(PasslError, match="set/a.tar: (lacks the mark|is damaged, cut short)"):
            image_shards(path.parent)
    # From one block of zeros on nothing is missing.
    for size in (begins[-1] + 512, begins[-1] + 1024, len(whole)):
        path.write_bytes(whole[:size])
        assert len(image_shards(path.parent)) == 6


def test_a_header_that_is_damaged_is_not_the_end(shard):
    path, begins = shard
    data = bytearray(path.read_bytes())
    data[begins[4] + 150] ^= 1  # its checksum
    path.write_bytes(bytes(data))
    with pytest.raises(PasslError, match="a.tar: is damaged at byte 4,096"):
        image_shards(path.parent)


def test_what_stands_behind_the_end(shard):
    path, begins = shard
    whole = path.read_bytes()
    path.write_bytes(whole + whole)
    with pytest.raises(PasslError, match="a.tar: is several archives one after the other"):
        image_shards(path.parent)
    path.write_bytes(whole + b"a signature")
    assert len(image_shards(path.parent)) == 6


def test_shards_that_cannot_be_read_in_place(shard):
    path, begins = shard
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(PasslError, match="a.tar: is compressed, .* gunzip"):
        image_shards(path.parent)
    path.unlink()
    path.mkdir()
    with pytest.raises(PasslError, match=r"a.tar: cannot be read \(Is a directory\)"):
        image_shards(path.parent)


# ---------------------------------------------------------------- the index


def test_a_broken_link_is_looked_at_again(indexed, tmp_path):
    """What it leads to comes back without a change of the folder."""
    root, listed, read = indexed
    gone = tmp_path / "drive"
    os.symlink(gone, root / WNIDS[0] / "more.JPEG")
    assert len(read()) == 15
    gone.write_bytes(jpeg(1))
    assert len(read()) == 16 and len(listed) == 2


def test_the_index_keeps_what_was_passed_over(indexed):
    root, listed, read = indexed
    (root / WNIDS[0] / "x.heic").write_bytes(b"")
    assert read().passed_over == read().passed_over == {".heic": 1} and len(listed) == 1


def test_an_index_of_other_extensions_or_an_older_version_is_not_used(indexed, monkeypatch):
    root, listed, read = indexed
    cfg = {"name": "ImageFolder", "dataroot": str(root)}
    (root / WNIDS[0] / "x.avif").write_bytes(jpeg(1))
    assert len(build_dataset(cfg)) == 16
    older = tuple(e for e in image_files.image_extensions() if e != ".avif")
    monkeypatch.setattr(image_files, "image_extensions", lambda: older)
    monkeypatch.setattr(files, "image_extensions", lambda: older)
    assert len(build_dataset(cfg)) == 15
    monkeypatch.setattr(catalog, "_VERSION", 1)
    read()
    monkeypatch.setattr(catalog, "_VERSION", 2)
    read()
    assert len(listed) == 2


def test_names_of_classes_are_not_those_of_the_index(shard, index_at_once):
    """A manifest that appears, or changes, names the classes of a set that has an index."""
    path, _ = shard
    assert image_shards(path.parent).class_names is None
    size = path.stat().st_size
    for names in (["apple"], ["pear"]):
        shards = [{"name": "a.tar", "size": size, "images": 6}]
        manifest = {"class_names": names, "shards": shards}
        (path.parent / "manifest.json").write_text(json.dumps(manifest))
        assert image_shards(path.parent).class_names == names
    (path.parent / "own.txt").write_text("kiwi")
    assert image_shards(path.parent, class_names="own.txt").class_names == ["kiwi"]


@pytest.fixture
def indexed(tmp_path, monkeypatch, index_at_once):
    """Class folders whose index is worth keeping, and a count of how often they are listed."""
    class_folders(tmp_path)
    monkeypatch.setattr(catalog, "_SMALLEST_INDEX", 1)
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
    assert cache_file("index", "data", "folders").parent == tmp_path / "mine" / "index"
    monkeypatch.delenv("PASSL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/c")
    assert cache_file("index", "data", "folders").parent == tmp_path / "c" / "passl" / "index"
    odd = cache_file("index", os.fsdecode(b"d\xca"), "folders")
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
