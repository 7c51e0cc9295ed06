"""``num_classes: null``: counted where a run begins, read from the weights afterwards."""

import pytest
import yaml
from helpers import run_here, small_config

from passl.distributed.processes import Processes
from passl.engine.plan import make_plan
from passl.utils.config import get_config
from passl.utils.errors import PasslError
from passl.weights import WeightFile


@pytest.fixture
def config(photos, tmp_path):
    def write(**changes):
        cfg = small_config(photos, **changes)
        cfg["model"]["head"]["num_classes"] = None
        cfg["epochs"] = 1
        path = tmp_path / "open.yaml"
        path.write_text(yaml.safe_dump(cfg))
        return path

    return write


@pytest.mark.smoke
def test_a_run_has_as_many_classes_as_its_folders(config, photos, tmp_path):
    path, run = config(), tmp_path / "run"
    code, out, err = run_here("train", "-c", path, "--output-dir", run)
    assert code == 0, err
    assert get_config(run / "config.yaml").model.head.num_classes == 3
    with WeightFile(run / "checkpoints" / "latest.safetensors") as file:
        assert file.metadata["config"]["model"]["head"]["num_classes"] == 3
    # The same command goes on, and the same config is enough for what comes after.
    code, out, err = run_here("train", "-c", path, "--output-dir", run, "--resume", "auto")
    assert code == 0 and "nothing is left to train" in out + err, err
    weights = run / "checkpoints" / "best.safetensors"
    for tool in (
        ["eval"],
        ["predict", photos / "val"],
        ["export", "--format", "paddle", "--output", tmp_path / "deploy"],
        ["features", photos / "val", "--output", tmp_path / "features"],
    ):
        code, out, err = run_here(*tool, "-c", path, "--weights", weights)
        assert code == 0, (tool, err)
    code, out, err = run_here("eval", "-c", path, "--output-dir", run)
    assert code == 0 and "Top-1" in out, err


def test_a_run_of_before_the_width_left_the_configs_goes_on(config, tmp_path):
    path, run = config(), tmp_path / "run"
    arguments = ("train", "-c", path, "--output-dir", run)
    width = get_config(path).model.architecture.embed_dim
    code, out, err = run_here(*arguments, "-o", f"model.head.in_channels={width}")
    assert code == 0, err
    code, out, err = run_here(*arguments, "--resume", "auto")
    assert code == 0 and "nothing is left to train" in out + err, err


def test_nothing_of_the_number_depends_on_how_it_is_said(config):
    cfg = get_config(config())
    plans = [make_plan(c, Processes()) for c in (cfg, get_config(config(), ["seed=0"]))]
    said = get_config(config(), ["model.head.num_classes=3"])
    plans.append(make_plan(said, Processes()))
    states = [plan.architecture.state_dict() for plan in plans]
    for name, tensor in states[0].items():
        assert (tensor.numpy() == states[2][name].numpy()).all()
    assert cfg.model.head.num_classes is None, "building never changes a config"
    assert plans[0].cfg.model.head.num_classes == 3


def test_labels_without_names_are_counted(config, photos, tmp_path):
    paths = sorted((photos / "train").rglob("*.jpg"))[:40]
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{path} {i % 5}\n" for i, path in enumerate(paths)))
    overrides = [
        f"dataloader.train.dataset={{name: ImageList, dataroot: /, list_file: '{listed}', "
        "transforms: [{name: Resize, size: 16}]}",
        "dataloader.val=null", "dataloader.test=null",
    ]  # fmt: skip
    plan = make_plan(get_config(config(), overrides), Processes())
    assert plan.architecture.num_classes == 5
    overrides[0] = overrides[0].replace("ImageList", "ImageList, labels: false")
    listed.write_text("".join(f"{path}\n" for path in paths))
    with pytest.raises(PasslError, match="has no label, so that the number of classes is not know"):
        make_plan(get_config(config(), overrides), Processes())


def test_weights_without_a_head_tell_no_number(config, trained, tmp_path):
    backbone = tmp_path / "backbone.safetensors"
    code, out, err = run_here("convert", trained[1], backbone, "--part", "backbone")
    assert code == 0, err
    code, out, err = run_here("eval", "-c", config(), "--weights", backbone)
    assert code == 2 and "has no head, so that the number of classes is not known" in err


def test_dry_run_and_benchmarks(config, photos, tmp_path):
    path = config()
    for arguments in (
        ["train", "--dry-run", "--output-dir", tmp_path / "run"],
        ["train", "--dry-run", "--synthetic", "--output-dir", tmp_path / "run"],
        ["benchmark", "step", "--steps", "1", "--repeats", "1"],
        ["benchmark", "train", "--steps", "1", "--repeats", "1"],
    ):
        code, out, err = run_here(*arguments, "-c", path)
        assert code == 0, (arguments, err)
