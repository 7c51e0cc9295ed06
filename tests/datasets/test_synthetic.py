"""Made-up data in the place of a config's: of the same size, learnable, and known by its name."""

import json

import numpy as np
import pytest
from helpers import evaluations, losses, run_here

from passl.cli import train as train_command
from passl.datasets import SampleKey, build_dataset, with_synthetic_data
from passl.utils.config import get_config, plain
from passl.utils.errors import PasslError


def test_the_sets_keep_their_sizes_and_transforms():
    cfg = get_config("mlp-mixer_b16_224", ['dataloader.train.dataset.subset="[:99%]"'])
    synthetic = with_synthetic_data(cfg)
    train, val = (build_dataset(synthetic.dataloader[s].dataset) for s in ("train", "val"))
    assert len(train) == round(0.99 * 1281167) and len(val) == 50000
    for split in ("train", "val"):
        before, after = cfg.dataloader[split], synthetic.dataloader[split]
        assert after.dataset.transforms == before.dataset.transforms
        assert after.batch_transforms == before.batch_transforms
    assert train.labels.max() < 1000 and train[0]["image"].shape == (224, 224, 3)
    rest = {key: value for key, value in plain(cfg).items() if key != "dataloader"}
    assert rest == {key: value for key, value in plain(synthetic).items() if key != "dataloader"}
    for images, sizes in ((1000, [990, 1000]), (60_000, [59_400, 50_000])):
        few = with_synthetic_data(cfg, images).dataloader
        assert [len(build_dataset(few[s].dataset)) for s in ("train", "val")] == sizes
    cifar = with_synthetic_data(get_config("mlp-mixer_cifar10"))
    sizes = {s: len(build_dataset(cifar.dataloader[s].dataset)) for s in ("train", "val", "test")}
    assert sizes == {"train": 49000, "val": 1000, "test": 10000}
    few = with_synthetic_data(get_config("mlp-mixer_cifar10"), 300)
    sizes = {s: len(build_dataset(few.dataloader[s].dataset)) for s in ("train", "val", "test")}
    assert sizes == {"train": 294, "val": 6, "test": 300}, "train and val are parts of one set"


@pytest.mark.parametrize("part", ["head", "probe"])
def test_labels_are_of_the_classes_that_the_network_tells_apart(part):
    model = {"name": "SimCLR", "architecture": {"name": "ResNet"}, part: {"num_classes": 7}}
    cfg = get_config("mlp-mixer_cifar10")
    cfg["model"] = model
    for split in ("train", "val", "test"):
        assert with_synthetic_data(cfg).dataloader[split].dataset.num_classes == 7


def test_pictures_are_a_function_of_class_and_split():
    cfg = {"name": "Synthetic", "num_classes": 3, "length": 20, "pictures": 6}
    one, other = build_dataset(cfg), build_dataset(cfg)
    assert one.labels.tolist()[:8] == [0, 1, 2, 0, 1, 2, 0, 1]
    image = np.asarray(one.read(4))
    assert image.shape == (375, 500, 3)
    assert 20_000 < len(one.read_bytes(4)) < 200_000, "as large as a photograph's file"
    assert (image == np.asarray(other.read(4))).all()
    assert (image == np.asarray(one.read(10))).all(), "six pictures go round"
    test = build_dataset({**cfg, "split": "test"})
    same = np.abs(np.asarray(test.read(4)).astype(int) - image).mean()
    unlike = np.abs(np.asarray(one.read(5)).astype(int) - image).mean()
    assert 5 < same < unlike, "another picture of the same class is nearer than another class"
    assert one[SampleKey(0)]["label"] == 0


@pytest.mark.parametrize("key", ["num_classes", "length", "pictures", "height", "width"])
def test_numbers_are_at_least_one(key):
    with pytest.raises(PasslError, match=f"{key} is at least 1"):
        build_dataset({"name": "Synthetic", key: 0})


def test_a_run_on_made_up_images_learns_them(config_file, tmp_path):
    """The command line, without any data: trains, evaluates, and is evaluated again."""
    path = config_file(epochs=6, evaluate={"interval_epochs": 6})
    options = ["-c", path, "--output-dir", tmp_path / "run"]
    # Without the photographs that the config names.
    for split in ("train", "val", "test"):
        options += ["-o", f"dataloader.{split}.dataset.dataroot={tmp_path / split}"]
    code, _, err = run_here("train", *options, "--synthetic", "96")
    assert code == 0, err
    curve = losses(tmp_path / "run")
    assert len(curve) == 6 * 12
    first, last = (np.mean(list(curve.values())[part]) for part in (slice(5), slice(-10, None)))
    assert last < 0.8 * first
    split, samples, right = evaluations(tmp_path / "run")[-1]
    assert (split, samples) == ("test", 96) and right > 0.6 * samples
    result_file = tmp_path / "result.json"
    code, _, err = run_here(
        "eval", *options, "--synthetic", "96", "--split", "test", "--json", result_file
    )
    assert code == 0, err
    result = json.loads(result_file.read_text())
    assert round(result["top1"] * samples / 100, 6) == right


def test_benchmarks_take_them_apart_too(config_file, tmp_path):
    code, out, err = run_here(
        "benchmark", "data", "-c", config_file(), "--synthetic", "--images", "16", "--steps", "2",
        "--repeats", "1", "--json", tmp_path / "speed.json",
    )  # fmt: skip
    assert code == 0, err
    stages = json.loads((tmp_path / "speed.json").read_text())["one_process"]["stages"]
    assert stages["decode"] > 0 and stages["transform"] > 0


def test_a_number_of_images_is_not_negative(config_file, capsys):
    assert train_command.main(["-c", config_file(), "--synthetic", "-5"]) == 2
    assert "--synthetic takes a number of images, not -5" in capsys.readouterr().err
