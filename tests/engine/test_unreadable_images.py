"""A batch of which no image can be read: training goes on as if it weighed nothing."""

import importlib
import json
import shutil
import types

import numpy as np
import paddle
import pytest
import yaml
from helpers import losses, small_config, weights

from passl.cli import features as features_command
from passl.cli import predict as predict_command
from passl.datasets import StandIn
from passl.distributed.processes import Processes
from passl.engine import train
from passl.engine.execution import Execution
from passl.engine.precision import Precision
from passl.modeling.layers.batch_norm import BatchNorm2D
from passl.utils.config import get_config

NETWORK = {"drop_rate": 0.0, "drop_path_rate": 0.0}


@pytest.fixture
def run(photos, tmp_path):
    """Trains on 31 photos, four a step, of which two cannot be read, ``size`` at a time."""
    folder = tmp_path / "images" / "train"
    shutil.copytree(photos / "train", folder)
    for path in sorted(folder.rglob("*.jpg"))[::2][1:]:
        path.unlink()
    bad = [folder / "apple" / "000.jpg", folder / "kiwi" / "bad.jpg"]
    for path in bad:
        path.write_bytes(b"not an image")

    def start(size, name, resume=None, **changes):
        cfg = small_config(tmp_path / "images", epochs=2, global_batch_size=4, **changes)
        cfg["model"]["architecture"].update(NETWORK)
        cfg["dataloader"] = {"train": cfg["dataloader"]["train"]}
        cfg["dataloader"]["train"]["batch_transforms"].pop()  # mixes
        cfg["dataloader"]["train"].update(sampler={"batch_size": size}, loader={"num_workers": 0})
        cfg["optimizer"] = {"name": "SGD", "momentum": 0.9}
        cfg["checkpoint"] = {"interval_steps": 1, "interval_epochs": None, "keep": 100}
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(cfg))
        train(get_config(path, [f"output_dir={tmp_path / name}"]), resume=resume)
        return tmp_path / name

    return start


def test_alone_in_its_batch_an_unreadable_image_weighs_nothing(run):
    """The same as among three others, where it is left out and the others weigh a quarter."""
    among, alone = run(4, "among"), run(1, "alone")
    assert losses(alone).keys() == losses(among).keys() and len(losses(alone)) == 2 * (32 // 4)
    for step, loss in losses(alone).items():
        assert loss == pytest.approx(losses(among)[step], abs=1e-5), step
    for name, array in weights(alone).items():
        np.testing.assert_allclose(array, weights(among)[name], atol=1e-5, err_msg=name)
    # Resumed before it comes, it is the same run to the last bit.
    expected, trained = losses(alone), weights(alone)
    run(1, "alone", str(alone / "checkpoints" / "step-00000001.safetensors"))
    assert losses(alone) == expected
    for name, array in weights(alone).items():
        np.testing.assert_array_equal(array, trained[name], err_msg=name)


def test_a_batch_that_weighs_nothing_leaves_the_statistics_of_a_batch_normalisation():
    class Network(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.layers = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 1), BatchNorm2D(4))

        def forward(self, batch):
            return {"loss": (self.layers(batch["image"]) ** 2).mean()}

    cfg = types.SimpleNamespace(
        recompute=False, to_static=False, parallel=types.SimpleNamespace(sharding=0)
    )
    optimizer = types.SimpleNamespace(loss_scaling=types.SimpleNamespace(moves=False))
    network = Network()
    execution = Execution(cfg, network, optimizer, Precision(None, "cpu"), Processes())
    batch = {"image": paddle.ones([1, 3, 8, 8])}
    before = {name: buffer.numpy().copy() for name, buffer in network.named_buffers()}
    assert before
    loss, _ = execution.backward(batch, 0.0, True)
    assert np.isfinite(float(loss))
    for name, buffer in network.named_buffers():
        np.testing.assert_array_equal(buffer.numpy(), before[name], err_msg=name)
    for parameter in network.parameters():
        assert parameter.grad is None or not parameter.grad.numpy().any()
    execution.backward(batch, 1.0, True)
    changed = [n for n, b in network.named_buffers() if (b.numpy() != before[n]).any()]
    assert changed == list(before)


def test_the_first_batch_that_is_looked_at_has_an_image(run, monkeypatch):
    from passl.hooks.board import Board

    seen = []
    monkeypatch.setattr(Board, "on_first_batch", lambda self, run, batch: seen.append(batch))
    run(1, "run", seed=_seed_that_begins_with(0, 32))
    assert len(seen) == 1 and not isinstance(seen[0], StandIn)


def _seed_that_begins_with(index, length):
    from passl.utils.seeding import epoch_order

    return next(seed for seed in range(1000) if epoch_order(seed, 0, length)[0] == index)


def predict(trained, folder, output, capsys, *more):
    config, network = trained
    arguments = ["-c", str(config), "--weights", str(network), "--json", str(output), *more]
    code = predict_command.main([*arguments, str(folder)])
    return code, capsys.readouterr().err


@pytest.mark.parametrize("size", [1, 2])
def test_predict_answers_what_can_be_read(trained, photos, tmp_path, size, capsys):
    """The first batches have nothing, one in the middle has not, and the answers keep to theirs."""
    folder, output = tmp_path / "mix", tmp_path / "answers.json"
    folder.mkdir()
    good = sorted((photos / "val").rglob("*.jpg"))[:4]
    for i, path in enumerate(good):
        shutil.copy(path, folder / f"{2 + i + 3 * (i > 1)}.jpg")
    for i in (0, 1, 4, 5, 6):
        (folder / f"{i}.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    code, said = predict(trained, folder, output, capsys, "--batch-size", str(size))
    assert code == 0 and said.count("HEIC") == 5 and "data folder" not in said
    mixed = json.loads(output.read_text())
    assert [answer["path"] for answer in mixed] == [str(folder / f"{i}.jpg") for i in (2, 3, 7, 8)]
    for path, answer in zip(good, mixed):
        assert predict(trained, path, output, capsys)[0] == 0
        (single,) = json.loads(output.read_text())
        assert single["labels"] == answer["labels"]
        np.testing.assert_allclose(single["probabilities"], answer["probabilities"], atol=1e-5)


@pytest.mark.parametrize("features", [False, True])
def test_predict_says_where_nothing_can_be_read(trained, tmp_path, features, capsys):
    folder = tmp_path / "bad"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(b"")
    config, weights = map(str, trained)
    given = ["-c", config, "--weights", weights, str(folder), "--output", str(tmp_path / "out")]
    code = (features_command if features else predict_command).main(given)
    said = "".join(capsys.readouterr())
    assert code == 2 and "none of the 3 images can be read" in said.splitlines()[-1]
    assert str(folder / "2.jpg") in said.splitlines()[-1]
    assert "data folder" not in said and not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["train", "eval", "predict", "pack"])
def test_the_limit_of_pixels_reaches_every_command(command, trained, photos, tmp_path, capsys):
    config, network = trained
    more = [f"-odataloader.{split}.loader.max_pixels=100" for split in ("train", "val")]
    arguments = {
        "train": ["--output-dir", str(tmp_path / "run")],
        "eval": ["--weights", str(network)],
        "predict": ["--weights", str(network), str(photos / "val")],
        "pack": ["--output", str(tmp_path / "packed")],
    }[command]
    code = importlib.import_module(f"passl.cli.{command}").main(
        ["-c", str(config), *more, *arguments]
    )
    said = capsys.readouterr()
    assert code == (0 if command == "pack" else 2)
    assert "too large" in said.out + said.err and "loader.max_pixels" in said.out + said.err
    assert command != "pack" or "60 left out" in said.out
