"""What chooses, shows and compares: an evaluator of one's own, in a run that knows none by name."""

import json
import logging
import math

import numpy as np
import paddle
import pytest
import yaml
from helpers import records, run_here, small_config

from passl.datasets import build_dataset
from passl.engine import train
from passl.evaluation import EVALUATORS, Evaluator, build_evaluator, evaluate, evaluation_loader
from passl.evaluation.base import Figure
from passl.evaluation.classification import Classification
from passl.modeling.architectures import ARCHITECTURES, Architecture
from passl.modeling.architectures.classifier import Classifier
from passl.utils.config import Config, get_config
from passl.utils.errors import PasslError
from passl.weights import WeightFile


class Answering(Architecture):
    """Gives the logits and losses that it is told, batch by batch."""

    def __init__(self, logits, losses=None):
        super().__init__()
        self._logits, self._losses, self._place, self._call = logits, losses, 0, 0

    def forward(self, batch):
        count = batch["label"].shape[0]
        rows = self._logits[self._place : self._place + count]
        self._place += count
        outputs = {"logits": paddle.to_tensor(rows, dtype="float32")}
        if self._losses is not None:
            outputs["loss"] = paddle.to_tensor(self._losses[self._call], dtype="float32")
            self._call += 1
        return outputs


def made_up(length, batch, classes=9):
    cfg = {"name": "Synthetic", "num_classes": classes, "length": length, "pictures": 4,
           "height": 8, "width": 8}  # fmt: skip
    dataset = build_dataset(cfg)
    section = {
        "sampler": {"batch_size": batch},
        "batch_transforms": [],
        "loader": {"num_workers": 0, "use_shared_memory": False, "timeout": 9},
    }
    return dataset, evaluation_loader(dataset, Config(section))


def test_top_1_and_top_5_of_nine_classes():
    dataset, loader = made_up(50, 8)
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (50, 9))
    logits[np.arange(50), dataset.labels] += 0.3
    result = evaluate(Answering(logits), loader)
    order = np.argsort(-logits, axis=1, kind="stable")
    places = np.array([list(row).index(label) for row, label in zip(order, dataset.labels)])
    assert 0 < (places == 4).sum() and 0 < (places == 5).sum()
    assert result["top1"] == 100 * (places < 1).mean()
    assert result["top5"] == 100 * (places < 5).mean()
    assert "loss" not in result and result["samples"] == 50


def test_the_loss_is_that_of_the_images_in_float64():
    """Batches of 7 and a last one of 1, losses that float32 can neither multiply nor add up."""
    _, loader = made_up(50, 7)
    losses = [1e8, *np.linspace(0.1, 0.7, 6), 0.3]
    result = evaluate(Answering(np.zeros((50, 9)), losses), loader)
    exact = [float(np.float32(loss)) for loss in losses]
    total = 0.0
    for loss, count in zip(exact, [7] * 7 + [1]):
        total += loss * count
    assert result["loss"] == total / 50


def test_what_decides():
    evaluator = Classification()
    better = evaluator.is_better
    assert better({"top1": 2.0, "loss": 9.0}, {"top1": 1.0, "loss": 1.0})
    assert not better({"top1": 1.0, "loss": 1.0}, {"top1": 2.0, "loss": 9.0})
    assert better({"top1": 1.0, "loss": 1.0}, {"top1": 1.0, "loss": 2.0})
    assert not better({"top1": 1.0, "loss": 1.0}, {"top1": 1.0, "loss": 1.0})
    record = {"top1": 12.345, "top5": 50.0, "loss": 1.23456, "samples": 3, "seconds": 1.0}
    assert evaluator.describe(record) == "Top-1 12.35 %  Top-5 50.00 %  loss 1.2346"
    assert evaluator.headline(record) == "Top-1 12.35 %, loss 1.2346"
    assert evaluator.not_finite({**record, "loss": math.nan}) == ["loss"]
    assert evaluator.not_finite(record) == []


class Distance(Evaluator):
    """How far the largest logits are from a target; less is better.

    Args:
        wanted: the target.
    """

    figures = {"distance": Figure("distance", "{:.3f} m"), "spread": Figure("spread", "{:.1f}")}
    more_is_better = False

    def __init__(self, wanted: float = 0.0):
        self.wanted = wanted

    def measure(self, evaluation, loader, also):
        total = count = 0
        for outputs, batch in evaluation.outputs(loader):
            total += float(outputs["logits"].max(axis=1).sum())
            count += batch["image"].shape[0]
        total, count = evaluation.sum([total, count])
        return {"spread": 1.0, "distance": abs(total / count - self.wanted), "extra": 7}


class Bespoke(Classifier):
    """A classifier with an evaluator of its own, whose logits grow by one an evaluation."""

    evaluator = "Distance"
    wave = (3.0, 1.0, 2.0, 5.0)

    def __init__(self, architecture: dict, head: dict):
        super().__init__(architecture, head)
        self.evaluations = 0

    def eval(self):
        self.evaluations += 1
        super().eval()

    def forward(self, batch):
        outputs = super().forward(batch)
        if not self.training:
            # Each evaluation of the validation split comes to another value of the wave.
            place = (self.evaluations - 1) % len(self.wave)
            outputs["logits"] = paddle.full_like(outputs["logits"], self.wave[place])
            del outputs["loss"]
        return outputs


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(EVALUATORS._factories, "Distance", Distance)
    monkeypatch.setitem(ARCHITECTURES._factories, "Bespoke", Bespoke)


@pytest.fixture
def bespoke(photos, tmp_path, monkeypatch):
    def write(**changes):
        cfg = small_config(photos, epochs=3, **changes)
        cfg["model"]["name"] = "Bespoke"
        for section in cfg["dataloader"].values():
            section["loader"]["num_workers"] = 0
        path = tmp_path / "bespoke.yaml"
        path.write_text(yaml.safe_dump(cfg))
        return path

    # The checks of the images are evaluations as well; they do not count here.
    monkeypatch.setattr("passl.engine.trainer.check_images", lambda *arguments: None)
    return write


def test_a_run_follows_an_evaluator_it_has_never_heard_of(bespoke, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    logging.getLogger("passl").propagate = True
    last = train(get_config(bespoke(), [f"output_dir={tmp_path / 'run'}"]))
    run = tmp_path / "run"
    rows = [r for r in records(run) if r.get("split") == "val"]
    assert [r["distance"] for r in rows] == [3.0, 1.0, 2.0]
    assert list(rows[0]) == ["step", "epoch", "split", "distance", "spread", "samples", "extra"]
    assert last["split"] == "test" and last["distance"] == 5.0
    with WeightFile(run / "checkpoints" / "best.safetensors") as file:
        assert file.metadata["progress"]["step"] == 14, "the nearest, not the last"
    with WeightFile(run / "checkpoints" / "latest.safetensors") as file:
        assert file.metadata["progress"]["best"]["distance"] == 1.0
    said = caplog.text
    assert "epoch 2  val: distance 1.000 m  spread 1.0  over 13 images  (best so far)" in said
    assert "epoch 3  val: distance 2.000 m  spread 1.0  over 13 images\n" in said
    assert "best: epoch 2, val distance 1.000 m, in" in said
    assert "Top-1" not in said


def test_the_board_shows_the_evaluators_figures(bespoke, tmp_path, monkeypatch):
    from visualdl.component import base_component

    seen = []
    hparam = base_component.hparam
    monkeypatch.setattr(
        base_component,
        "hparam",
        lambda name, settings, metrics, **more: (
            seen.append(metrics) or hparam(name, settings, metrics, **more)
        ),
    )
    train(get_config(bespoke(), [f"output_dir={tmp_path / 'run'}", "epochs=1"]))
    assert seen == [["val/distance", "val/spread", "train/loss"]]


def test_eval_takes_it_and_makes_no_report_of_it(bespoke, tmp_path):
    config, output = bespoke(), tmp_path / "eval.json"
    train(get_config(config, [f"output_dir={tmp_path / 'run'}", "epochs=1"]))
    arguments = ("-c", config, "--output-dir", tmp_path / "run")
    code, out, err = run_here("eval", *arguments, "--json", output)
    assert code == 0 and "distance 3.000 m  spread 1.0  over 13 images" in out, err
    assert json.loads(output.read_text())["distance"] == 3.0
    code, out, err = run_here("eval", *arguments, "--report", tmp_path / "report")
    assert code == 2 and "--report shows how images were classified, which Distance does not" in err
    override = "evaluate.evaluator={name: Distance, wanted: 2.5}"
    code, out, err = run_here("eval", *arguments, "-o", override)
    assert code == 0 and "distance 0.500 m" in out, err
    code, out, err = run_here("eval", *arguments, "-o", "evaluate.evaluator={name: Distanc}")
    assert code == 2 and "unknown evaluator 'Distanc' (did you mean 'Distance'?)" in err


def test_another_evaluator_is_refused_on_resume(bespoke, tmp_path):
    """Its best could not be compared with those that were chosen before."""
    train(get_config(bespoke(), [f"output_dir={tmp_path / 'run'}", "epochs=1"]))
    overrides = [f"output_dir={tmp_path / 'run'}", "evaluate.evaluator={name: Classification}"]
    with pytest.raises(PasslError, match="trained with evaluate.evaluator = None"):
        train(get_config(bespoke(), [*overrides, "epochs=1"]), resume="auto")


def test_a_config_may_choose_another_than_the_architecture(photos):
    assert type(build_evaluator(None, Answering([]))) is Classification
    chosen = build_evaluator({"name": "Distance", "wanted": 2}, Answering([]))
    assert type(chosen) is Distance and chosen.wanted == 2


def test_a_figure_that_is_not_finite_is_never_the_best(bespoke, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    logging.getLogger("passl").propagate = True
    monkeypatch.setattr(Bespoke, "wave", (-math.inf, 4.0, 3.0, 0.0))
    train(get_config(bespoke(), [f"output_dir={tmp_path / 'run'}"]))
    assert "step 7: the distance on the validation images is not finite" in caplog.text
    with WeightFile(tmp_path / "run" / "checkpoints" / "best.safetensors") as file:
        assert file.metadata["progress"]["best"]["distance"] == 3.0
