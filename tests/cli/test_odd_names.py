"""A life of a run whose classes, images and folders have names that are not UTF-8."""

import io
import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import small_config

from passl.cli import main as passl_main
from passl.utils.text import as_text
from passl.weights import WeightFile, write_tensor_file

APPLE = os.fsdecode("苹果".encode("gbk"))
FOLDER = os.fsdecode("数据".encode("gbk"))


@pytest.fixture(scope="module")
def odd(photos, tmp_path_factory):
    """The photographs, one class with such a name and a damaged image, below such a folder."""
    root = tmp_path_factory.mktemp("odd") / FOLDER
    for split in ("train", "val", "test"):
        for name in ("apple", "kiwi", "pear"):
            (root / split).mkdir(parents=True, exist_ok=True)
            target = root / split / (APPLE if name == "apple" else name)
            target.symlink_to(photos / split / name)
    own = root / "train" / APPLE
    own.unlink()
    own.mkdir()
    for photo in (photos / "train" / "apple").iterdir():
        (own / photo.name).symlink_to(photo)
    (own / f"{APPLE}.jpg").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def run(odd):
    """A run on them, made with the commands as a shell gives them their arguments."""
    cfg = small_config(Path("nowhere"), epochs=1, log_config={"interval": 3})
    for section in cfg["dataloader"].values():
        section["loader"] = {"num_workers": 0}
        del section["dataset"]["dataroot"]
    file = odd / "run.yaml"
    file.write_text(yaml.safe_dump(cfg), encoding="utf-8")
    out = odd / "out"
    argv = ["train", "-c", str(file), "--output-dir", str(out)]
    for split in ("train", "val", "test"):
        argv += ["-o", f"dataloader.{split}.dataset.dataroot={odd / split}"]
    before = os.umask(0o027)
    try:
        assert passl_main.main(argv) == 0
    finally:
        os.umask(before)
    return out


@pytest.fixture
def passl(monkeypatch):
    """Runs a command with streams as a login with a UTF-8 locale has them; returns its words."""

    def run(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["passl"])
        streams = {name: io.BytesIO() for name in ("stdout", "stderr")}
        for name, stream in streams.items():
            strict = io.TextIOWrapper(stream, "utf-8", errors="strict", write_through=True)
            monkeypatch.setattr(sys, name, strict)
        got = passl_main.main([str(argument) for argument in arguments])
        out, err = (stream.getvalue().decode("utf-8") for stream in streams.values())
        assert got == code, err
        return out if code == 0 else err

    return run


def text_of(path):
    return path.read_text(encoding="utf-8", errors="strict")


def test_the_run(run):
    log = text_of(run / "train.log")
    assert as_text(f"{APPLE}.jpg") in log and as_text(FOLDER) in log
    for name in ("config.yaml", "environment.jsonl", "metrics.jsonl"):
        text_of(run / name)
    with WeightFile(run / "checkpoints" / "best.safetensors") as file:
        assert file.metadata["class_names"] == ["kiwi", "pear", as_text(APPLE)]
        assert file.metadata["config"]["output_dir"] == str(run), "this is to be found again"


def test_its_files_have_the_modes_of_the_umask(run):
    for path in [run, *run.rglob("*")]:
        wanted = 0o750 if path.is_dir() else 0o640
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_it_resumes(passl, run, odd):
    passl("train", "-c", run / "config.yaml", "--resume", "auto")


def test_it_is_evaluated(passl, run, tmp_path):
    out = tmp_path / FOLDER
    passl("eval", "-c", run / "config.yaml", "--report", out, "--json", tmp_path / f"{FOLDER}.json")
    assert as_text(APPLE) in text_of(out / "report.html")
    assert json.loads(text_of(tmp_path / f"{FOLDER}.json"))["samples"] == 13


def test_it_names_images(passl, run, odd, tmp_path, monkeypatch):
    given = sorted(os.fsencode(path) for path in (odd / "val" / APPLE).iterdir())
    lines = b"\xef\xbb\xbf" + b"".join(path + b"\r\n" for path in given) + b"\r\n"
    listed = io.TextIOWrapper(io.BytesIO(lines), "ascii", errors="strict", newline="\n")
    monkeypatch.setattr(sys, "stdin", listed)
    out = tmp_path / FOLDER
    said = passl("predict", "-c", run / "config.yaml", "-", "--output", out)
    answers = json.loads(text_of(out / "predictions.json"))
    assert [answer["path"] for answer in answers] == [as_text(os.fsdecode(path)) for path in given]
    assert as_text(APPLE) in answers[0]["names"] and answers[0]["path"] in said
    assert (out / "contact_sheet_001.png").exists()
    passl("features", "-c", run / "config.yaml", odd / "val", "--output", out)
    with np.load(out / "features.npz") as file:
        assert all(Path(path).is_file() for path in file["paths"]), "these open the images again"
    assert f"<br>{as_text(APPLE)}/<br>" in text_of(out / "neighbours.html")


@pytest.mark.parametrize("lines", [b"a\0b.jpg\0", "a.jpg\n".encode("utf-16")])
def test_lists_of_other_kinds(lines, passl, run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), "utf-8"))
    line = passl("predict", "-c", run / "config.yaml", "-", code=2)
    assert "one path a line, in UTF-8" in line


def test_it_is_exported(passl, run, tmp_path):
    passl("export", "-c", run / "config.yaml", "--output", tmp_path / FOLDER, "--format", "paddle")
    about = json.loads(text_of(tmp_path / FOLDER / "preprocessing.json"))
    assert about["class_names"][2] == as_text(APPLE) and as_text(FOLDER) in about["weights"]
    assert not [path for path in (tmp_path / FOLDER).iterdir() if path.name.startswith(".")]


def test_it_is_packed(passl, run, tmp_path):
    passl("pack", "-c", run / "config.yaml", "--output", tmp_path / FOLDER)
    manifest = json.loads(text_of(tmp_path / FOLDER / "manifest.json"))
    assert manifest["class_names"] == ["kiwi", "pear", as_text(APPLE)]
    assert [Path(path).name for path in manifest["skipped"]] == [as_text(f"{APPLE}.jpg")]
    passl("eval", "-c", run / "config.yaml", "-o",
          f"dataloader.val.dataset={{name: ImageShards, dataroot: '{tmp_path / FOLDER}', "
          "transforms: [{name: ResizeCenterCrop, size: 16}]}")  # fmt: skip


def test_names_in_a_checkpoint_of_before(tmp_path):
    path = tmp_path / "old.safetensors"
    write_tensor_file(path, {"a": np.ones(1, np.float32)}, {"class_names": ["kiwi", APPLE]})
    with WeightFile(path) as file:
        assert file.metadata["class_names"] == ["kiwi", as_text(APPLE)]
