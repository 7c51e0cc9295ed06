"""Runs of the self-supervised methods: views, records, evaluation, an interruption, refusals."""

import json
import random
import time

import numpy as np
import pytest
import yaml
from helpers import (
    Stop,
    losses,
    records,
    run_here,
    small_config,
    start_processes,
    start_tool,
    weights,
)
from self_supervised import BACKBONES, METHODS

from passl.distributed.processes import Processes
from passl.engine import train, trainer
from passl.engine.plan import make_plan
from passl.inspection.dry_run import dry_run
from passl.utils.config import get_config
from passl.utils.errors import PasslError
from passl.weights import WeightFile, write_tensor_file

VIEW = [
    {"name": "RandomResizedCrop", "size": 16, "scale": [0.2, 1.0]},
    {"name": "RandomHorizontalFlip"},
    {"name": "ColorJitter", "brightness": 0.4, "hue": 0.1, "probability": 0.8},
]
STEPS = 14  # two epochs of 60 images in batches of 8


@pytest.fixture
def config(photos, tmp_path):
    """Writes a small config of a method and returns its path: ``config("MoCo", epochs=1)``."""

    def write(name, backbone="ResNet", model=None, **changes):
        cfg = small_config(photos, **changes)
        cfg["model"] = {
            "name": name,
            "architecture": {"name": backbone, **BACKBONES[backbone]},
            **METHODS[name],
            **(model or {}),
        }
        if name == "MoCo":
            cfg["model"].setdefault("split_batch_norm", 2)
        cfg["epochs"] = changes.get("epochs", 2)
        cfg["optimizer"] = {"name": "SGD", "momentum": 0.9, "weight_decay": 1e-4}
        train_section = cfg["dataloader"]["train"]
        train_section["dataset"]["transforms"] = [{"name": "Views", "count": 2, "transforms": VIEW}]
        train_section["batch_transforms"].pop()  # Mixup
        del cfg["dataloader"]["test"]
        for key, value in changes.get("train", {}).items():
            train_section[key] = value
        cfg.pop("train", None)
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(cfg))
        return path

    return write


@pytest.mark.parametrize("name", METHODS)
def test_an_interrupted_run_is_the_same_run(name, config, tmp_path, monkeypatch):
    """Bit for bit: weights, running statistics, twin, queue and pointer, optimizer, records."""
    path = config(name, model={"probe": {"num_classes": 3}})
    train(get_config(path, [f"output_dir={tmp_path / 'whole'}"]))
    whole = weights(tmp_path / "whole")
    build = trainer.build_hooks
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "build_hooks", lambda *a: [*build(*a), Stop(8)])
        with pytest.raises(KeyboardInterrupt):
            train(get_config(path, [f"output_dir={tmp_path / 'cut'}"]))
    train(get_config(path, [f"output_dir={tmp_path / 'cut'}"]), resume="auto")
    found = weights(tmp_path / "cut")
    assert found.keys() == whole.keys()
    kinds = {key.split(".")[0] for key in whole}
    assert {"backbone", "projector", "probe"} <= kinds
    assert ("twin" in kinds) == (name != "SimCLR") and ("queue" in kinds) == (name == "MoCo")
    for key, array in whole.items():
        np.testing.assert_array_equal(array, found[key], err_msg=key)
    if name == "MoCo":
        assert whole["queue.pointer"].item() == STEPS * 8 % 32
    assert records(tmp_path / "whole") == records(tmp_path / "cut")
    last = records(tmp_path / "whole")[-1]
    assert {"knn_top1", "spread", "effective_rank", "k", "temperature", "bank"} <= set(last)
    told = [record for record in records(tmp_path / "whole") if "split" not in record]
    assert len(told) == STEPS
    expected = {"spread", "probe_top1", "probe_loss"} | (
        set() if name == "BYOL" else {"contrast_top1"}
    )
    assert expected <= set(told[0])


@pytest.mark.parametrize(
    "name",
    ["MoCo", *(pytest.param(name, marks=pytest.mark.full) for name in ("SimCLR", "BYOL"))],
)
def test_a_killed_run_is_the_same_run(name, config, tmp_path):
    """SIGKILL at some moment, with data workers and perhaps a checkpoint being written."""
    path = config(name, epochs=3, checkpoint={"interval_steps": 2})
    folder = tmp_path / "killed"
    process = start_tool("train", "-c", path, "--output-dir", folder)
    moment = random.randint(4, 18)
    print(f"killed after step {moment}")  # is shown where it fails
    for line in process.stdout:
        if f"step {moment}/" in line:
            break
    time.sleep(random.uniform(0, 0.1))
    process.kill()
    process.communicate()
    code, out, err = run_here("train", "-c", path, "--output-dir", folder, "--resume", "auto")
    assert code == 0, err
    train(get_config(path, [f"output_dir={tmp_path / 'whole'}"]))
    expected = weights(tmp_path / "whole")
    for key, array in weights(folder).items():
        np.testing.assert_array_equal(array, expected[key], err_msg=key)


@pytest.mark.full
@pytest.mark.parametrize("name", METHODS)
def test_a_run_of_two_processes_is_that_of_one(name, config, tmp_path):
    """Through the whole engine; MoCo's batch norms treat as many parts of a batch in both."""
    splits = {"MoCo": 1}.get(name)
    changes = {"epochs": 1, "log_config": {"interval": 1}}
    path = config(name, model={} if splits is None else {"split_batch_norm": splits}, **changes)
    half = "dataloader.train.sampler.batch_size=4"
    process = start_processes(
        2, tmp_path / "logs", "train", "-c", path, "--output-dir", tmp_path / "two", "-o", half
    )
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    whole = [] if splits is None else ["model.split_batch_norm=2"]
    train(get_config(path, [f"output_dir={tmp_path / 'one'}", *whole]))
    one, two = (losses(tmp_path / folder) for folder in ("one", "two"))
    assert one.keys() == two.keys() == set(range(1, 8))
    for step, loss in one.items():
        assert two[step] == pytest.approx(loss, rel=1e-6 if step == 1 else 1e-3), step
    last = [records(tmp_path / folder)[-1] for folder in ("one", "two")]
    assert last[0]["samples"] == last[1]["samples"] == 13
    assert last[0]["spread"] == pytest.approx(last[1]["spread"], abs=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_commands(name, config, tmp_path, capsys):
    path = config(name, epochs=1, log_config={"interval": 3})
    parts = {"MoCo": ["model.split_batch_norm=4"]}.get(name, [])
    rows = dict(dry_run(get_config(path, [f"output_dir={tmp_path / 'dry'}", *parts])))
    assert f"of {8 if parts else 2} made-up images" in rows["two steps"]
    assert rows["augmentation"].splitlines() == [
        "each of 2 views:",
        "  RandomResizedCrop(scale=[0.2, 1], size=16)",
        "  RandomHorizontalFlip()",
        "  ColorJitter(brightness=0.4, hue=0.1, probability=0.8)",
    ]
    assert rows["method"] == name and "hidden=12" in rows["projector"]
    code, out, err = run_here("train", "-c", path, "--output-dir", tmp_path / "run")
    assert code == 0, err
    latest = tmp_path / "run" / "checkpoints" / "latest.safetensors"
    code, out, err = run_here(
        "eval", "-c", tmp_path / "run" / "config.yaml", "--weights", latest,
        "--json", tmp_path / "found.json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads((tmp_path / "found.json").read_text())
    last = records(tmp_path / "run")[-1]
    assert found["knn_top1"] == last["knn_top1"] and found["bank"] == 60


def test_without_labels(config, photos, tmp_path):
    """An unlabelled folder is enough; with a probe it is not, and what lacks is told."""
    unlabelled = {
        "dataset": {
            "name": "ImageFolder",
            "dataroot": str(photos / "train"),
            "labels": False,
            "transforms": [{"name": "Views", "count": 2, "transforms": VIEW}],
        }
    }
    path = config("SimCLR", epochs=1, train=unlabelled)
    overrides = [f"output_dir={tmp_path / 'run'}", "dataloader.val=null"]
    train(get_config(path, overrides))
    assert len(records(tmp_path / "run")) == 7
    path = config("SimCLR", epochs=1, train=unlabelled, model={"probe": {"num_classes": 3}})
    overrides[0] = f"output_dir={tmp_path / 'probed'}"
    with pytest.raises(PasslError, match="read without labels"):
        train(get_config(path, overrides))


@pytest.mark.parametrize(
    "name, overrides, said",
    [
        ("SimCLR", ["global_batch_size=16"], "compares the samples of a batch"),
        ("MoCo", ["global_batch_size=16"], "compares the samples of a batch"),
        ("BYOL", ["global_batch_size=16"], "compares the samples of a batch"),
        ("MoCo", ["model.K=30"], r"set -o model.K=32"),
        ("MoCo", ["model.split_batch_norm=8"], "batch_size to 16 at least"),
        ("SimCLR", ["dataloader.train.sampler.batch_size=1"], "batch_size to 2 at least"),
        ("BYOL", ["dataloader.train.sampler.repeats=2"], "leave sampler.repeats out"),
        ("BYOL", ["to_static=true"], "cannot be trained with to_static; set -o to_static=false"),
        ("MoCo", ["model.architecture.widht=3"], "did you mean 'width'"),
        ("SimCLR", ["model.t=3"], "unknown argument 't'"),
    ],
    ids=map(str, range(10)),
)
def test_refusals(name, overrides, said, config, tmp_path):
    with pytest.raises(PasslError, match=said) as error:
        train(get_config(config(name), [f"output_dir={tmp_path / 'run'}", *overrides]))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_views_is_refused(count, config, tmp_path):
    transforms = "[{name: RandomResizedCrop, size: 16}]"
    if count > 1:
        transforms = f"[{{name: Views, count: {count}, transforms: {transforms}}}]"
    change = f"dataloader.train.dataset.transforms={transforms}"
    with pytest.raises(PasslError, match=f"make {count}; put {{name: Views, count: 2"):
        train(get_config(config("MoCo"), [f"output_dir={tmp_path / 'run'}", change]))


def test_sharding_is_refused(config):
    cfg = get_config(config("MoCo"), ["parallel.sharding=2"])
    with pytest.raises(PasslError, match="cannot be trained with parallel.sharding; set -o"):
        make_plan(cfg, Processes())


def test_what_comes_after(config, photos, tmp_path):
    """The folder of a run is what a classifier begins from; what is not whole is not gone on with.

    A backbone alone is enough to evaluate, and not to resume.
    """
    path, folder = config("MoCo", epochs=1), tmp_path / "moco"
    code, out, err = run_here("train", "-c", path, "--output-dir", folder)
    assert code == 0, err
    cfg = small_config(photos)
    cfg["model"]["architecture"] = {"name": "ResNet", **BACKBONES["ResNet"]}
    (tmp_path / "classifier.yaml").write_text(yaml.safe_dump(cfg))
    given = ["train", "-c", tmp_path / "classifier.yaml", "--output-dir", tmp_path / "fine"]
    for place in (folder, folder / "checkpoints"):
        code, out, err = run_here(*given, "--dry-run", "--pretrained", place)
        assert code == 0, err
        best = folder / "checkpoints" / "best.safetensors"
        assert f"{best}: of other parts, and left aside: projector (4 tensors)" in out
    code, out, err = run_here(*given, "-o", "epochs=1", "--pretrained", folder)
    assert code == 0 and "so the head begins anew" in out, err
    with WeightFile(tmp_path / "fine" / "checkpoints" / "latest.safetensors") as file:
        assert file.metadata["pretrained"] == str(best)
    code, out, err = run_here(*given, "--resume", "auto", "--pretrained", photos)
    assert code == 2 and "is a folder without best.safetensors or latest.safetensors" in err

    latest = folder / "checkpoints" / "latest.safetensors"
    with WeightFile(latest) as file:
        tensors = {
            f"{group}/{name}": array
            for group in file.groups
            for name, array in file.read_group(group).items()
            if not name.startswith("queue.")
        }
        metadata = file.metadata
    write_tensor_file(latest, tensors, metadata)
    assert run_here("eval", "-c", path, "--weights", latest)[0] == 0
    resumed = ["train", "-c", path, "--output-dir", folder, "--resume", "auto"]
    code, out, err = run_here(*resumed, "-o", "epochs=2", "--extend", "hold")
    assert code == 2 and "is a checkpoint without queue.keys, queue.pointer" in err
