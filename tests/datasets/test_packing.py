"""Packed sets: the same images, labels and names; interrupted, gone on with, verified."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import yaml
from helpers import ROOT, run_here, small_config
from PIL import Image

from passl.cli import pack as pack_command
from passl.datasets import build_dataset
from passl.datasets.sources import catalog, packing
from passl.datasets.sources.packing import pack, verify
from passl.utils.errors import PasslError


@pytest.fixture
def dataset(photos):
    return build_dataset({"name": "ImageFolder", "dataroot": str(photos / "train")})


def packed(folder):
    return build_dataset({"name": "ImageShards", "dataroot": str(folder)})


@pytest.mark.smoke
def test_kept_as_they_are(dataset, tmp_path):
    manifest = pack(dataset, str(tmp_path / "p"), None, per_shard=25, num_workers=2)
    assert [shard["images"] for shard in manifest["shards"]] == [25, 25, 10]
    copy = packed(tmp_path / "p")
    assert copy.class_names == dataset.class_names
    np.testing.assert_array_equal(copy.labels, dataset.labels)
    for i in range(len(dataset)):
        assert copy.read_bytes(i) == dataset.read_bytes(i)
    assert verify(str(tmp_path / "p")) == 3
    # Any tool that knows WebDataset's naming reads it.
    with tarfile.open(tmp_path / "p" / "shard-00001.tar") as archive:
        assert archive.getnames()[:2] == ["000000025.jpg", "000000025.cls"]


def test_shrunk_and_encoded_again(dataset, tmp_path):
    pack(dataset, str(tmp_path / "p"), 16, quality=95, num_workers=1)
    copy = packed(tmp_path / "p")
    for i in range(0, 60, 7):
        original = Image.open(io.BytesIO(dataset.read_bytes(i)))
        image = Image.open(io.BytesIO(copy.read_bytes(i)))
        assert image.format == "JPEG" and min(image.size) == 16
        expected = original.resize(image.size, Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(image, int) - np.asarray(expected, int)).mean() < 12
    # What is small already stays as it is.
    pack(dataset, str(tmp_path / "q"), 1000)
    assert packed(tmp_path / "q").read_bytes(3) == dataset.read_bytes(3)


def test_an_image_that_cannot_be_read_is_left_out_and_named(dataset, photos, tmp_path):
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    for i in range(5):
        (folder / f"{i}.jpg").write_bytes(dataset.read_bytes(i))
    (folder / "2.jpg").write_bytes(dataset.read_bytes(2)[:300])
    source = build_dataset({"name": "ImageFolder", "dataroot": str(tmp_path / "images")})
    manifest = pack(source, str(tmp_path / "p"))
    assert manifest["skipped"] == [str(folder / "2.jpg")]
    assert len(packed(tmp_path / "p")) == 4


def test_a_changed_shard_is_found(dataset, tmp_path):
    pack(dataset, str(tmp_path / "p"), None, per_shard=20)
    shard = tmp_path / "p" / "shard-00001.tar"
    data = bytearray(shard.read_bytes())
    data[3000] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(PasslError, match="shard-00001.tar: is missing, or not as it was written"):
        verify(str(tmp_path / "p"))


@pytest.mark.parametrize("content", ["", "[]", '{"shards": [{"name": "a.tar"}]}', '{"shards": 1}'])
def test_a_damaged_manifest_is_told_as_such(content, tmp_path):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(PasslError, match="manifest.json: is damaged .*; pack the data again"):
        verify(str(tmp_path))


@pytest.mark.smoke
def test_a_packed_set_that_is_not_whole_is_refused(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "_TOO_RECENT_NS", 0)  # the index counts at once
    folder = tmp_path / "p"
    manifest = pack(dataset, str(folder), None, per_shard=20)
    shard, last = folder / "shard-00001.tar", folder / "shard-00002.tar"
    content = shard.read_bytes()
    packed(folder)  # leaves an index

    shard.unlink()
    with pytest.raises(PasslError, match="manifest.json: .*shard-00001.tar is missing; copy it"):
        packed(folder)
    shard.write_bytes(content[:-512])
    with pytest.raises(PasslError, match="shard-00001.tar: has .* bytes, where manifest.json has"):
        packed(folder)
    shard.write_bytes(content)
    (folder / "shard-00003.tar").write_bytes(content)
    with pytest.raises(PasslError, match="shard-00003.tar is not one of those"):
        packed(folder)
    (folder / "shard-00003.tar").unlink()
    assert len(packed(folder)) == 60

    # A part that the pattern names is compared as a part.
    cfg = {"name": "ImageShards", "dataroot": str(folder), "pattern": "shard-0000[01].tar"}
    assert len(build_dataset(cfg)) == 40
    manifest["shards"][2]["images"] = 21
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert len(build_dataset(cfg)) == 40
    with pytest.raises(PasslError, match="shard-00002.tar: holds 20 images, where manifest.json"):
        packed(folder)
    # Shards with other names cannot be compared one by one; they are read as before.
    for number in range(3):
        (folder / f"shard-0000{number}.tar").rename(folder / f"train-{number}.tar")
    assert len(packed(folder)) == 60 and packed(folder).class_names == dataset.class_names
    assert not last.exists()


def test_a_set_that_is_not_packed_to_its_end_is_refused(dataset, tmp_path, monkeypatch):
    write, folder = packing._write_shard, tmp_path / "p"

    def interrupted(folder, number, *arguments):
        if number == 2:
            raise KeyboardInterrupt
        return write(folder, number, *arguments)

    monkeypatch.setattr(packing, "_write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack(dataset, str(folder), None, per_shard=20)
    with pytest.raises(PasslError, match="p: is a set that is not packed to its end .*run the same "
                       "passl pack again"):  # fmt: skip
        packed(folder)
    monkeypatch.undo()
    pack(dataset, str(folder), None, per_shard=20)
    assert len(packed(folder)) == 60
    # Killed between the manifest and the removal of the other file, it is whole.
    (folder / "packing.jsonl").write_text("{}")
    assert len(packed(folder)) == 60


def test_what_stands_there_is_not_overwritten(dataset, tmp_path):
    pack(dataset, str(tmp_path / "p"), None)
    with pytest.raises(PasslError, match="holds a packed set already"):
        pack(dataset, str(tmp_path / "p"), None)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(PasslError, match="is not empty"):
        pack(dataset, str(tmp_path / "full"), None)
    for wrong in ({"short_side": 0}, {"quality": 0}, {"quality": 99}, {"per_shard": 0}):
        with pytest.raises(PasslError):
            pack(dataset, str(tmp_path / "new"), **wrong)
    assert not (tmp_path / "new").exists()


# A command that takes its time for each shard, so that it is killed before its end.
SLOWLY = """
import sys, time
from passl.cli import pack
from passl.datasets.sources import packing
write = packing._write_shard
def slowly(*arguments):
    time.sleep(0.2)
    return write(*arguments)
packing._write_shard = slowly
pack.main(sys.argv[1:])
"""


def test_killed_and_run_again_it_goes_on(photos, tmp_path):
    """A real process is killed: the result is that of a run that nobody interrupted."""
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump(small_config(photos)))

    def arguments(folder):
        return ["-c", str(config), "--output", str(folder), "--short-side", "20",
                "--per-shard", "4", "--workers", "2"]  # fmt: skip

    assert run_here("pack", *arguments(tmp_path / "whole"))[0] == 0
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, *arguments(folder)], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (folder / "shard-00002.tar").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    assert not (folder / "manifest.json").exists(), "it was to be killed before its end"
    done = (folder / "packing.jsonl").read_text().count("\n") - 1
    times = {p.name: p.stat().st_mtime_ns for p in sorted(folder.glob("shard-*.tar"))[:done]}
    code, out, err = run_here("pack", *arguments(folder))
    assert code == 0 and "60 images in 15 shards" in out, err
    for name, changed in times.items():
        assert (folder / name).stat().st_mtime_ns == changed, "what was done is kept"
    one, other = tmp_path / "whole" / "manifest.json", folder / "manifest.json"
    assert json.loads(one.read_text()) == json.loads(other.read_text())
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        p.name for p in (tmp_path / "whole").iterdir()
    )


def test_other_options_do_not_go_on(dataset, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(packing, "_write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack(dataset, str(tmp_path / "p"), 20, quality=80)
    with pytest.raises(PasslError, match="with other options"):
        pack(dataset, str(tmp_path / "p"), 20, quality=81)


def test_the_command(config_file, tmp_path, capsys):
    argv = ["-c", config_file(), "--output", str(tmp_path / "p"), "--split", "val", "--keep"]
    assert pack_command.main(argv) == 0
    assert "13 images in 1 shards" in capsys.readouterr().out
    assert pack_command.main([*argv, "--verify"]) == 0
    assert "1 shards are as they were written" in capsys.readouterr().out
    assert pack_command.main(argv) == 2
    assert capsys.readouterr().err.count("\n") == 1
