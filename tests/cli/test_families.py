"""One small network of each family, through what users do with a network: export, processes."""

import json

import numpy as np
import pytest
import yaml
from helpers import (
    config_for_many,
    evaluations,
    losses,
    records,
    run_here,
    start_processes,
    write_images,
)

from passl.cli import export as export_command
from passl.datasets import build_dataset
from passl.deployment import runtimes
from passl.engine import train
from passl.evaluation import evaluate, evaluation_loader
from passl.modeling.architectures import build_architecture
from passl.utils.config import get_config
from passl.weights import WeightFile, load_weights

# Images of 32 pixels; ViP's stages halve a grid of 4, and CycleMLP's and ConvMLP's go down to 1.
SIZE = 32
FAMILIES = {
    "ResMlp": {"img_size": SIZE, "patch_size": 8, "embed_dim": 16, "num_blocks": 2},
    "Gmlp": {
        "img_size": SIZE, "patch_size": 8, "embed_dim": 16, "num_blocks": 2, "channels_mlp_dim": 32,
    },
    "CycleMlp": {"embed_dims": [8, 16, 16, 16], "depths": [1, 1, 1, 1]},
    "VisionPermutator": {
        "img_size": SIZE, "patch_size": 8, "embed_dims": [16, 16], "depths": [1, 1],
        "halved": [True],
    },
    "ConvMlp": {"stem_channels": 8, "conv_depth": 1, "embed_dims": [8, 16], "depths": [1, 1],
                "mlp_ratios": [2, 2]},
    "VisionTransformer": {
        "img_size": SIZE, "patch_size": 8, "embed_dim": 16, "num_blocks": 2, "num_heads": 2,
    },
    "SwinTransformer": {
        "img_size": SIZE, "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4,
    },
    "Beit": {
        "img_size": SIZE, "patch_size": 8, "embed_dim": 16, "num_blocks": 2, "num_heads": 2,
    },
    "T2tVit": {
        "img_size": SIZE, "embed_dim": 16, "num_blocks": 2, "num_heads": 2, "token_dim": 8,
    },
    "Cvt": {"embed_dims": [8, 8, 16], "depths": [1, 1, 1], "num_heads": [1, 1, 2]},
    "ResNet": {"blocks": [1, 1], "width": 4, "padding": "same"},
}  # fmt: skip
# Batch normalisation takes the statistics of what each process has.
BY_PROCESS = {"ConvMlp", "Cvt", "ResNet"}
# Some stand for the others where every minute counts.
LONG = pytest.mark.full
LATER = ("Gmlp", "CycleMlp", "ConvMlp", "VisionPermutator", "Beit", "T2tVit", "Cvt", "ResNet")
TRAINED = [pytest.param(family, marks=[LONG] if family in LATER else []) for family in FAMILIES]


def configure(folder, images, family, batch_size):
    cfg = config_for_many(images, batch_size)
    cfg["model"]["architecture"] = {"name": family, **FAMILIES[family]}
    for section in cfg["dataloader"].values():
        for transform in section["dataset"]["transforms"]:
            if "size" in transform:
                transform["size"] = SIZE
    cfg["lr_scheduler"]["learning_rate"] = 0.01
    path = folder / f"{family}-{batch_size}.yaml"
    path.write_text(yaml.safe_dump(cfg))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), size=(40, 44))


@pytest.mark.parametrize("family", TRAINED)
def test_it_trains_and_its_files_give_its_logits(images, tmp_path, family):
    config = configure(tmp_path, images, family, 32)
    train(
        get_config(config, [f"output_dir={tmp_path / 'run'}", "epochs=2", "global_batch_size=32"])
    )
    steps = list(losses(tmp_path / "run").values())
    assert np.isfinite(steps).all() and steps[0] == pytest.approx(np.log(3), abs=1e-3)
    assert [split for split, *_ in evaluations(tmp_path / "run")] == ["val", "test"]
    assert (tmp_path / "run" / "visualdl" / "vdlgraph.pdmodel").exists()
    weights = tmp_path / "run" / "checkpoints" / "latest.safetensors"
    argv = ["-c", str(config), "--weights", str(weights), "--output", str(tmp_path / "deploy")]
    assert export_command.main(argv) == 0
    about = json.loads((tmp_path / "deploy" / "preprocessing.json").read_text())
    assert max(about["differences"].values()) <= 1e-4
    pixels = np.random.default_rng(0).standard_normal((3, 3, SIZE, SIZE)).astype(np.float32)
    one = runtimes.paddle_inference(tmp_path / "deploy")(pixels)
    other = runtimes.onnx_runtime(tmp_path / "deploy" / "model.onnx")(pixels)
    assert np.abs(one).max() > 1e-4
    np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(one).max())


# ConvMLP, CvT and ResNet have running statistics, which come back too.
@pytest.mark.parametrize(
    "family",
    [
        "ConvMlp",
        "VisionTransformer",
        "SwinTransformer",
        pytest.param("Cvt", marks=LONG),
        pytest.param("ResNet", marks=LONG),
    ],
)
def test_gone_back_to_its_first_epoch_a_run_ends_with_the_same_numbers(images, tmp_path, family):
    config = configure(tmp_path, images, family, 32)
    folder = tmp_path / "run"
    overrides = [f"output_dir={folder}", "epochs=2", "global_batch_size=32", "checkpoint.keep=9"]
    cfg = get_config(config, overrides)
    train(cfg)
    expected = records(folder)
    checkpoints = sorted((folder / "checkpoints").glob("step-*.safetensors"))
    assert len(checkpoints) >= 2
    with WeightFile(folder / "checkpoints" / "latest.safetensors") as file:
        whole = file.read_group("model")
    moved = any(name.endswith("._variance") and (v != 1).any() for name, v in whole.items())
    assert moved == (family in BY_PROCESS)
    train(cfg, resume=str(checkpoints[0]))
    assert records(folder) == expected
    with WeightFile(folder / "checkpoints" / "latest.safetensors") as file:
        for name, array in file.read_group("model").items():
            np.testing.assert_array_equal(array, whole[name], err_msg=name)


@pytest.mark.full
@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_train_it_as_one_does(images, tmp_path, family):
    one, two = tmp_path / "one", tmp_path / "two"
    code, _, err = run_here(
        "train", "-c", configure(tmp_path, images, family, 64), "--output-dir", one
    )
    assert code == 0, err
    config = configure(tmp_path, images, family, 32)
    process = start_processes(2, tmp_path / "logs", "train", "-c", config, "--output-dir", two)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    alone, together = losses(one), losses(two)
    assert alone.keys() == together.keys() and len(alone) == 21
    # What was evaluated while training, by two processes, is what has been saved.
    cfg = get_config(config, [f"output_dir={tmp_path}"])
    saved = build_architecture(cfg.model)
    load_weights(saved, two / "checkpoints" / "latest.safetensors")
    loader = evaluation_loader(build_dataset(cfg.dataloader.val.dataset), cfg.dataloader.val)
    recorded = [r for r in records(two) if r.get("split") == "val"][-1]
    assert recorded["step"] == 21
    assert evaluate(saved, loader)["loss"] == pytest.approx(recorded["loss"], rel=1e-9)
    tolerance = 0.2 if family in BY_PROCESS else 1e-5
    for step, loss in alone.items():
        assert together[step] == pytest.approx(loss, abs=tolerance), step
