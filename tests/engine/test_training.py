"""Training through the Python API: what a run computes and writes."""

import errno
import json
import logging
import os
import signal
import threading
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from helpers import CLOCK, records, run_here, small_config

from passl.datasets import TrainingBatches, build_dataset
from passl.distributed.interrupts import Interrupts
from passl.engine import train
from passl.engine.background import Background
from passl.engine.checkpoint import Checkpoint, write_checkpoint
from passl.engine.checks import check_images
from passl.evaluation import Evaluator
from passl.modeling.architectures import build_architecture
from passl.modeling.architectures.classifier import Classifier
from passl.solver import Optimizer
from passl.utils.config import Config, get_config
from passl.utils.errors import PasslError
from passl.utils.seeding import step_seed
from passl.weights import WeightFile, write_tensor_file


@pytest.fixture
def run(photos, tmp_path):
    """Trains a small config with changes and returns the run's folder."""

    def start(name="run", overrides=(), **changes):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(small_config(photos, **changes)))
        folder = tmp_path / name
        train(get_config(path, [f"output_dir={folder}", *overrides]))
        return folder

    return start


@pytest.mark.smoke
def test_learns_and_keeps_its_account(run):
    folder = run(epochs=4, checkpoint={"interval_steps": None, "keep": 2})
    steps = [r for r in records(folder) if "split" not in r]
    assert [r["step"] for r in steps] == list(range(1, 29))
    assert [r["epoch"] for r in steps] == [1 + i // 7 for i in range(28)]
    assert set(json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])) == {
        "step",
        "epoch",
        "loss",
        "lr",
        "grad_norm",
        *CLOCK,
        "top1",
    }
    assert steps[0]["loss"] == pytest.approx(np.log(3), abs=1e-6)  # the zero head knows nothing
    assert np.mean([r["loss"] for r in steps[-4:]]) < 0.9 * np.log(3)
    evaluations = [r for r in records(folder) if r.get("split") == "val"]
    assert [(r["step"], r["samples"]) for r in evaluations] == [(7 * i, 13) for i in range(1, 5)]
    test = [r for r in records(folder) if r.get("split") == "test"]
    assert len(test) == 1 and test[0]["samples"] == 11

    names = sorted(p.name for p in (folder / "checkpoints").iterdir())
    assert names == [
        "best.safetensors",
        "latest.safetensors",
        "step-00000021.safetensors",
        "step-00000028.safetensors",
    ]
    latest = WeightFile(folder / "checkpoints" / "latest.safetensors").metadata
    assert latest["class_names"] == ["apple", "kiwi", "pear"]
    assert latest["samples_seen"] == 28 * 8
    best = WeightFile(folder / "checkpoints" / "best.safetensors").metadata["progress"]["best"]
    assert best["top1"] == max(r["top1"] for r in evaluations)
    traced = json.loads((folder / "environment.jsonl").read_text())
    assert traced["commit"] and traced["paddle"] == paddle.__version__
    assert get_config(folder / "config.yaml").epochs == 4
    assert list((folder / "visualdl").glob("vdlrecords.*"))


def test_seed_0_is_a_seed_and_seeds_differ(run):
    first, again, other = (
        run(name, ["dataloader.train.loader.num_workers=0"], epochs=1, seed=seed)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert records(first) == records(again)
    assert records(first) != records(other)


def test_workers_do_not_change_the_numbers(run):
    assert records(run("two", epochs=1)) == records(
        run("none", ["dataloader.train.loader.num_workers=0"], epochs=1)
    )


def test_accumulated_gradients_are_those_of_the_whole_batch(run):
    plain = [
        "model.architecture.drop_rate=0",
        "model.architecture.drop_path_rate=0",
        # Each micro-batch is mixed by itself.
        "dataloader.train.batch_transforms.1.probability=0",
    ]
    whole = run("whole", plain, epochs=2)
    parts = run(
        "parts",
        [*plain, "global_batch_size=8", "dataloader.train.sampler.batch_size=2"],
        epochs=2,
    )
    for name in ("loss", "top1"):
        found = [[r[name] for r in records(f) if "split" not in r] for f in (whole, parts)]
        assert len(found[0]) == 14 and len(set(found[0])) > 3
        np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_the_recorded_loss_is_the_mean_since_the_last_record(run):
    each, grouped = (
        [r for r in records(run(name, epochs=1, log_config={"interval": n})) if "split" not in r]
        for name, n in (("single", 1), ("grouped", 3))
    )
    assert [r["step"] for r in grouped] == [3, 6, 7]
    for name in ("loss", "top1"):
        single = [r[name] for r in each]
        expected = [np.mean(single[:3]), np.mean(single[3:6]), single[6]]
        assert [r[name] for r in grouped] == pytest.approx(expected, rel=1e-6)


def test_pretrained_starts_from_the_weights(run, tmp_path, photos):
    folder = run("first", epochs=2)
    path = tmp_path / "second.yaml"
    path.write_text(yaml.safe_dump(small_config(photos, epochs=1)))
    best = folder / "checkpoints" / "best.safetensors"
    train(get_config(path, [f"output_dir={tmp_path / 'second'}"]), pretrained=str(best))
    assert records(tmp_path / "second")[0]["loss"] < np.log(3) - 0.01


def test_gradients_that_stay_not_finite_stop_the_run_and_save_nothing(run, tmp_path):
    with pytest.raises(PasslError, match=r"since step [2-9] \(3 steps, .*learning_rate"):
        run(
            "nan",
            ["optimizer.grad_clip=null", "lr_scheduler.learning_rate=1e30", "max_bad_steps=3"],
            optimizer={"name": "SGD"},
        )
    for path in (tmp_path / "nan" / "checkpoints").glob("*"):
        arrays = WeightFile(path).read_group("model")
        assert all(np.isfinite(array).all() for array in arrays.values())


def test_a_step_without_finite_gradients_is_skipped_and_counted(run, tmp_path, caplog, monkeypatch):
    """Step 5 of 21 has a loss that is no number: it changes no weight, and the run goes on."""
    logging.getLogger("passl").propagate = True
    forward, step, weights = Classifier.forward, Optimizer.step, []

    def poisoned(self, batch):
        outputs = forward(self, batch)
        if self.training and len(weights) == 4:
            outputs["loss"] = outputs["loss"] * float("nan")
        return outputs

    def noting(self, rate):
        finite = step(self, rate)
        weights.append([p.numpy().copy() for _, p in self._named])
        return finite

    monkeypatch.setattr(Classifier, "forward", poisoned)
    monkeypatch.setattr(Optimizer, "step", noting)
    folder = run("skipped", epochs=3)
    assert "step 5: 1 steps were skipped" in caplog.text
    for before, after in zip(weights[3], weights[4]):
        np.testing.assert_array_equal(before, after)
    assert any((a != b).any() for a, b in zip(weights[4], weights[5]))
    done = [r for r in records(folder) if "split" not in r]
    assert [r["step"] for r in done] == [s for s in range(1, 22) if s != 5]
    assert all(np.isfinite(r["loss"]) for r in done)
    file = WeightFile(folder / "checkpoints" / "latest.safetensors")
    assert file.metadata["progress"]["bad_steps"] == 1


def test_unreadable_training_images_are_reported_once_and_skipped(run, photos, caplog):
    caplog.set_level(logging.INFO)
    logging.getLogger("passl").propagate = True
    bad = photos / "train" / "kiwi" / "broken.jpg"
    bad.write_bytes(b"not an image")
    try:
        folder = run("skip", epochs=2)
        with pytest.raises(PasslError, match="broken.jpg"):
            run("limit", ["dataloader.train.loader.max_unreadable=0"], epochs=1)
    finally:
        bad.unlink()
    # One record may reach the capturing handler by two ways; it is the same object then.
    reports = [r for r in dict.fromkeys(caplog.records) if "broken.jpg" in r.getMessage()]
    assert len(reports) == 1
    assert records(folder)[-1]["split"] == "test"


def test_an_unreadable_image_stops_an_evaluation(run, photos):
    bad = photos / "val" / "kiwi" / "broken.jpg"
    bad.write_bytes(b"")
    try:
        with pytest.raises(PasslError, match="val/kiwi/broken.jpg"):
            run("stop", epochs=1)
    finally:
        bad.unlink()


@pytest.mark.parametrize(
    "metadata",
    [
        {"progress": {"step": 1, "nonsense": 2}, "config": {}, "samples": 3},
        {"progress": [1], "config": {}, "samples": 3},
        {"progress": {}, "samples": 3},
        {"config": {}},
    ],
)
def test_a_checkpoint_whose_record_makes_no_sense(metadata, tmp_path):
    path = tmp_path / "x.safetensors"
    arrays = {"model/a": np.zeros(2, np.float32)}
    write_tensor_file(path, arrays, {"kind": "training", **metadata})
    with pytest.raises(PasslError, match="cannot resume: .*x.safetensors: its record of the run"):
        Checkpoint.open(path)


def test_class_names_that_are_no_names(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensor_file(path, {"a": np.zeros(2, np.float32)}, {"class_names": [1, {}]})
    with pytest.raises(PasslError, match="its class names are no names"):
        WeightFile(path)


# ---------------------------------------------------------------- single parts of a run


def test_what_a_batch_is_mixed_with_differs_between_processes():
    batches = [TrainingBatches(64, 16, 8, 3, 5, 9, rank=rank, size=2) for rank in (0, 1)]
    drawn = [one.rng(position).random() for one in batches for position in range(4)]
    assert len(set(drawn)) == 8
    again = TrainingBatches(64, 16, 8, 3, 6, 9, rank=1, size=2)  # resumed a step later
    assert again.rng(0).random() == batches[1].rng(2).random()


def test_what_a_step_draws_is_a_function_of_seed_step_and_process():
    seeds = [step_seed(seed, step, rank) for seed in (0, 1) for step in (0, 1) for rank in (0, 1)]
    assert len(set(seeds)) == 8 and seeds == [
        step_seed(seed, step, rank) for seed in (0, 1) for step in (0, 1) for rank in (0, 1)
    ]


def test_work_beside_the_loop_waits_for_the_work_before_and_tells_its_errors():
    done, go_on = [], threading.Event()

    def slow():
        go_on.wait(30)
        done.append("slow")

    def broken():
        raise PasslError("the disk is full")

    with Background() as background:
        background.do(slow)
        threading.Timer(0.05, go_on.set).start()
        background.do(lambda: done.append("second"))
        assert done[0] == "slow"
        background.do(broken)
        with pytest.raises(PasslError, match="the disk is full"):
            background.do(lambda: done.append("never"))
    assert done == ["slow", "second"]


def test_a_checkpoint_needs_no_hard_links(tmp_path, monkeypatch):
    def refused(*paths):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refused)
    paths = [tmp_path / name for name in ("best.safetensors", "latest.safetensors")]
    tensors = {"model/w": np.arange(3, dtype=np.float32)}
    write_checkpoint(paths, tensors, {"progress": {}})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(p.name for p in paths)
    for path in paths:
        with WeightFile(path) as file:
            np.testing.assert_array_equal(file.read_group("model")["w"], tensors["model/w"])


def test_a_resumed_run_is_the_same_run(run):
    """What changes what is learned may not change; each key by itself."""
    folder = run(epochs=1)
    checkpoint = Checkpoint.open(folder / "checkpoints" / "latest.safetensors")
    config = folder / "config.yaml"
    checkpoint.check_config(get_config(config))
    changes = {
        "seed": "seed=1",
        "epochs": "epochs=2",
        "ema": "ema={}",
        "amp": "amp={}",
        "to_static": "to_static=true",
        "lr_scheduler.learning_rate": "lr_scheduler.learning_rate=0.5",
        "optimizer.weight_decay": "optimizer.weight_decay=0.5",
        "model.architecture.drop_rate": "model.architecture.drop_rate=0.5",
        "model.head.label_smoothing": "model.head.label_smoothing=0.1",
        "dataloader.train.sampler.repeats": "dataloader.train.sampler.repeats=2",
        "dataloader.train.dataset.transforms": "dataloader.train.dataset.transforms=[]",
        "evaluate.evaluator": "evaluate.evaluator={name: Neighbours}",
    }
    for key, override in changes.items():
        with pytest.raises(PasslError, match=f"was trained with {key}"):
            checkpoint.check_config(get_config(config, [override]))
    free = ["log_config.interval=7", "evaluate.interval_epochs=2", "checkpoint.keep=3",
            "max_bad_steps=3", "hooks=[]", "dataloader.train.loader.num_workers=0"]  # fmt: skip
    checkpoint.check_config(get_config(config, free))
    then = {"hooks": [{"name": "Noted", "path": "a"}], "imports": ["a"]}
    checkpoint.file.metadata["config"].update(then)
    for other in (["hooks=[{name: Noted, path: b}]", "imports=[json]"], ["hooks=[]", "imports=[]"]):
        checkpoint.check_config(get_config(config, other))  # items differ; so do lengths


def test_what_is_checked_beforehand_leaves_no_trace(photos):
    """One forward pass, in evaluation mode: no running statistic moves."""
    section = Config(small_config(photos)["dataloader"]["val"])
    network = build_architecture(
        {
            "architecture": {
                "name": "ConvMlp", "stem_channels": 8, "conv_depth": 1, "embed_dims": [8, 12],
                "depths": [1, 1], "mlp_ratios": [2, 2],
            },
            "head": {"name": "ClassificationHead", "num_classes": 3},
        }
    )  # fmt: skip
    network.train()
    before = {name: buffer.numpy() for name, buffer in network.named_buffers()}
    check_images(network, build_dataset(section.dataset), section, "val", seed=0)
    assert before and network.training
    for name, buffer in network.named_buffers():
        np.testing.assert_array_equal(buffer.numpy(), before[name], err_msg=name)


def test_a_launcher_may_repeat_its_signal():
    with Interrupts() as interrupts:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts() and interrupts.signum == signal.SIGTERM
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # of which it does not die afterwards either


def test_the_last_epoch_is_evaluated_whatever_the_interval(run):
    rows = records(run(epochs=3, evaluate={"interval_epochs": 2}))
    assert [r["epoch"] for r in rows if r.get("split") == "val"] == [2, 3]


def test_best_is_the_best_and_not_the_last(run, monkeypatch):
    monkeypatch.setattr(Evaluator, "is_better", lambda self, record, best: False)
    folder = run(epochs=3)
    steps = {}
    for name in ("best", "latest"):
        with WeightFile(folder / "checkpoints" / f"{name}.safetensors") as file:
            steps[name] = file.metadata["progress"]["step"]
    assert steps == {"best": 7, "latest": 21}
    # The test split is reported with the best weights, the last ones are others.
    test = [r for r in records(folder) if r.get("split") == "test"]
    losses = {}
    for name in steps:
        output = folder / f"{name}.json"
        path = folder / "checkpoints" / f"{name}.safetensors"
        arguments = ("-c", folder / "config.yaml", "--split", "test", "--weights", path)
        assert run_here("eval", *arguments, "--json", output)[0] == 0
        losses[name] = json.loads(output.read_text())["loss"]
    assert losses["best"] == test[0]["loss"] != losses["latest"]


def test_hooks_of_the_architecture_surround_every_step(run, monkeypatch):
    calls = []
    monkeypatch.setattr(Classifier, "before_step", lambda self, *a: calls.append(("before", *a)))
    monkeypatch.setattr(
        Classifier,
        "after_step",
        lambda self, step, total, weights, finite: calls.append(
            ("after", step, total, len(weights), bool(finite))
        ),
    )
    run(epochs=1)
    count = len([p for p in build_architecture(small_config(Path())["model"]).parameters()])
    assert calls == [
        call for i in range(7) for call in (("before", i, 7), ("after", i, 7, count, True))
    ]
