"""Whose fault it is that something cannot be read, and how many files are open for it."""

import contextlib
import errno
import io
import os
import resource
import tarfile
import threading

import numpy as np
import pytest
from PIL import Image

from passl.datasets import EvaluationBatches, Loader, UnreadableImage, build_dataset
from passl.datasets.images.failures import reading_failed
from passl.datasets.sources import files, paths
from passl.datasets.sources.packing import pack
from passl.datasets.sources.paths import ImagePaths
from passl.utils.errors import PasslError

OF_THE_FILE = ("ENOENT", "ENOTDIR", "EISDIR", "ELOOP", "ENAMETOOLONG")
OF_THE_MACHINE = {
    "EMFILE": "ulimit -n",
    "ENFILE": "fs.file-max",
    "ENOMEM": "memory",
    "EACCES": "chmod",
    "EPERM": "chmod",
    "EIO": "drive",
    "ESTALE": "drive",
    "ETIMEDOUT": "drive",
    "EINVAL": "Invalid argument",
}


def refusal(name):
    number = getattr(errno, name)
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("name", [*OF_THE_FILE, *OF_THE_MACHINE])
def test_what_the_system_says_is_the_files_fault_or_the_machines(name):
    known = reading_failed(refusal(name), "x.jpg")
    assert str(known).startswith("x.jpg: cannot be read") and "\n" not in str(known)
    assert isinstance(known, UnreadableImage) == (name in OF_THE_FILE)
    assert OF_THE_MACHINE.get(name, "repair or remove it") in str(known)


@pytest.fixture
def shards(tmp_path):
    """Builds shards of one image each, and returns the data set of them."""

    def build(count):
        folder = tmp_path / "shards"
        folder.mkdir()
        for i in range(count):
            image = io.BytesIO()
            Image.new("RGB", (4, 4), (i % 256, i // 256, 7)).save(image, "PNG")
            with tarfile.open(folder / f"{i:04d}.tar", "w") as archive:
                for name, data in (("0.png", image.getvalue()), ("0.cls", b"0")):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        return build_dataset({"name": "ImageShards", "dataroot": str(folder)})

    return build


@pytest.mark.parametrize("name", OF_THE_MACHINE)
@pytest.mark.parametrize("kind", ["folder", "shards", "paths"])
def test_what_the_machine_refuses_is_counted_among_no_images(
    kind, name, image_folder, shards, monkeypatch
):
    """Not in training, evaluation, prediction or packing, however many may be unreadable."""
    if kind == "shards":
        data = shards(2)
    else:
        root = image_folder({"a": 2})
        data = build_dataset({"name": "ImageFolder", "dataroot": str(root)})
        if kind == "paths":
            data = ImagePaths([data.where(i) for i in range(2)])

    def refused(*_, **__):
        raise refusal(name)

    loader = Loader(data, EvaluationBatches(2, 1), max_unreadable=100)
    with monkeypatch.context() as patch:
        patch.setattr(files, "open", refused, raising=False)
        patch.setattr(paths.Path, "read_bytes", refused)
        patch.setattr(files.os, "open" if name == "EMFILE" else "pread", refused)
        with pytest.raises(PasslError) as caught:
            list(loader)
        assert not isinstance(caught.value, UnreadableImage)
        assert OF_THE_MACHINE[name] in str(caught.value)
        if kind == "folder":
            with pytest.raises(PasslError) as caught:
                pack(data, str(root.with_name("packed")))
            assert OF_THE_MACHINE[name] in str(caught.value) and "make room" not in str(
                caught.value
            )
    assert len(list(loader)) == 2


def open_files(folder=""):
    """Returns how many files this process has open, or those in a folder.

    Of all others some may be closed at any time, when Python collects what earlier tests have left.
    """
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sum(path.startswith(str(folder)) for path in found)


@pytest.fixture
def few_files(monkeypatch):
    """Lets this process have only a few more files open than it has, and not raise that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def allow(more, raising=False):
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + more, hard))
        if not raising:
            monkeypatch.setattr(resource, "setrlimit", refuse)

    def refuse(*_):
        raise ValueError("not allowed to raise maximum limit")

    try:
        yield allow
    finally:
        monkeypatch.undo()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_shards_than_files_may_be_open(shards, few_files, tmp_path):
    shards(60)
    few_files(24)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    data = build_dataset({"name": "ImageShards", "dataroot": str(tmp_path / "shards")})
    assert open_files(tmp_path) == 0
    for index in [*range(60), *reversed(range(60))]:
        assert np.asarray(data.read(index))[0, 0].tolist() == [index, 0, 7]
    assert 0 < open_files(tmp_path) <= limit // 8 < 60
    del data
    assert open_files(tmp_path) == 0


def test_the_limit_of_open_files_is_raised_as_far_as_it_is_needed(shards, few_files, tmp_path):
    shards(60)
    few_files(24, raising=True)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    data = build_dataset({"name": "ImageShards", "dataroot": str(tmp_path / "shards")})
    for index in range(60):
        data.read_bytes(index)
    assert open_files(tmp_path) == 60
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == max(limit, 8 * 60)


def test_threads_may_share_few_open_shards(shards, monkeypatch):
    """An archive that leaves the cache while another thread reads it stays open for that one."""
    monkeypatch.setattr(files, "_open_archives", lambda wanted: 1)
    data = shards(20)
    wrong = []

    def read(first):
        for index in [*range(first, 20), *range(first)] * 10:
            if np.asarray(data.read(index))[0, 0].tolist() != [index, 0, 7]:
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_workers_may_share_few_open_shards(shards, monkeypatch):
    monkeypatch.setattr(files, "_open_archives", lambda wanted: 3)
    data = shards(40)
    data.read(0)  # open before the fork
    batches = list(Loader(data, EvaluationBatches(40, 4), num_workers=2))
    found = np.concatenate([batch["image"].numpy()[:, 0, 0, 0] for batch in batches])
    assert found.tolist() == list(range(40))


def test_a_shard_that_is_gone_is_one_error(shards):
    data = shards(3)
    path = os.path.join(data.catalog.root, "0001.tar")
    os.remove(path)
    with pytest.raises(PasslError, match=f"^{path}: .*put it back") as caught:
        list(Loader(data, EvaluationBatches(3, 1), max_unreadable=100))
    assert not isinstance(caught.value, UnreadableImage)
