"""One optimizer step and what an architecture has to say in it, on networks of a few numbers."""

import logging
import math
import types

import paddle
import pytest
import yaml
from helpers import records, small_config
from paddle import nn

from passl.datasets import StandIn
from passl.distributed.processes import Processes
from passl.engine import train
from passl.engine.execution import Execution
from passl.engine.precision import Precision
from passl.engine.step import TrainingStep
from passl.engine.tally import Tally
from passl.evaluation.classification import Classification
from passl.hooks.base import HOOKS, Hook, Progress
from passl.hooks.console import Console
from passl.modeling.architectures import ARCHITECTURES, Architecture
from passl.modeling.architectures.classifier import Classifier
from passl.solver import WeightAverage, build_optimizer
from passl.utils.config import get_config
from passl.utils.errors import PasslError
from passl.weights import WeightFile

SECTIONS = types.SimpleNamespace(
    recompute=False, to_static=False, parallel=types.SimpleNamespace(sharding=0, fusion_mb=25.0)
)


class Mean(Architecture):
    """Learns the mean of its numbers: loss (x - w)²/2, whose gradient is w - mean(x)."""

    def __init__(self):
        super().__init__()
        self.w = self.create_parameter([1], default_initializer=nn.initializer.Constant(1.0))
        self.calls = []

    def forward(self, batch):
        x = batch["x"]
        self.calls.append("forward")
        return {"loss": ((x - self.w) ** 2).mean() / 2, "scalars": {"mean": x.mean()}}

    def before_step(self, step, total_steps):
        self.calls.append(("before", step, total_steps))

    def after_step(self, step, total_steps, weights, finite):
        values = {name: value.item() for name, value in weights.items()}
        self.calls.append(("after", step, total_steps, values, bool(finite)))


def step_of(network, images, accumulation=1, average=None, rank=0, **optimizer):
    solver = build_optimizer({"name": "SGD", "momentum": 0.0, **optimizer}, network)
    execution = Execution(SECTIONS, network, solver, Precision(None, "cpu"), Processes())
    network.train()
    return TrainingStep(
        network, solver, execution, average, images, accumulation, 9, seed=5, rank=rank
    )


def batches(*groups):
    return iter([{"x": paddle.to_tensor(group, dtype="float32")} for group in groups])


def test_a_step_is_one_over_all_its_micro_batches():
    """Of 2 and 1 images in a step of 4: one image could not be read and weighs nothing."""
    network = Mean()
    result = step_of(network, 4, accumulation=2)(3, batches([2.0, 4.0], [9.0]), 0.5, True)
    gradient = ((1 - 2) + (1 - 4) + (1 - 9)) / 4
    assert network.w.item() == 1 - 0.5 * gradient
    assert result.gradient_norm.item() == -gradient
    assert result.counts == [2, 1] and [loss.item() for loss in result.losses] == [2.5, 32.0]
    assert [one["mean"].item() for one in result.scalars] == [3.0, 9.0]
    assert network.calls == [
        ("before", 3, 9),
        "forward",
        "forward",
        ("after", 3, 9, {"w": network.w.item()}, True),
    ]


def test_no_norm_unless_asked_for_and_no_batch_too_many():
    stream = batches([1.0], [2.0], [3.0])
    assert step_of(Mean(), 2, accumulation=2)(0, stream, 0.1).gradient_norm is None
    assert next(stream)["x"].item() == 3.0


def test_a_skipped_step_is_told_and_changes_nothing():
    network = Mean()
    result = step_of(network, 1)(0, batches([math.inf]), 0.5)
    assert not bool(result.finite) and network.w.item() == 1.0
    assert network.calls[-1] == ("after", 0, 9, {"w": 1.0}, False)


def test_a_stand_in_counts_for_nothing():
    network = Mean()
    stand_in = StandIn({"x": paddle.to_tensor([100.0])})
    result = step_of(network, 2, accumulation=2)(0, iter([stand_in, *batches([3.0])]), 1.0)
    assert result.counts == [0, 1] and network.w.item() == 1 - (1 - 3) / 2


def test_the_average_follows_the_weights_of_the_same_step():
    network = Mean()
    average = WeightAverage(network, decay=0.75, warmup=False)
    step_of(network, 1, average=average)(0, batches([3.0]), 0.5)
    assert network.w.item() == 2.0
    assert average.tensors()["w"].item() == 0.75 * 1 + 0.25 * 2


def test_the_averages_length_is_that_of_the_steps_made():
    network = Mean()
    average = WeightAverage(network, decay=0.9999)
    step_of(network, 1, average=average)(4, batches([3.0]), 0.5)  # the fifth
    decay = (1 + 5) / (10 + 5)
    assert average.tensors()["w"].item() == pytest.approx(decay * 1 + (1 - decay) * 2, abs=1e-6)


class Drawn(Mean):
    def forward(self, batch):
        self.calls.append(paddle.rand([1]).item())
        return {"loss": (batch["x"] * self.w).mean()}


def drawn(step, rank):
    network = Drawn()
    step_of(network, 2, accumulation=2, rank=rank)(step, batches([1.0], [1.0]), 0.1)
    return [call for call in network.calls if isinstance(call, float)]


def test_what_is_drawn_is_a_function_of_step_and_process():
    assert drawn(3, 1) == drawn(3, 1)
    every = [number for step in (3, 4) for rank in (0, 1) for number in drawn(step, rank)]
    assert len(set(every)) == 8


# ---------------------------------------------------------------- what is recorded


def tallied(network, tally, *groups, first=0):
    step = step_of(network, 2)
    for number, group in enumerate(groups, start=first):
        tally.add(step(number, batches(group), 0.0))


def test_scalars_are_means_over_the_images_of_an_interval():
    tally = Tally(Progress())
    tallied(Mean(), tally, [1.0, 2.0], [6.0])
    means = tally.means(Processes())
    assert means == {"loss": pytest.approx((0 + 0.5 + 12.5) / 3), "mean": pytest.approx(9 / 3)}
    tallied(Mean(), tally, [5.0, 5.0], first=2)
    assert tally.means(Processes())["mean"] == 5.0  # nothing of the interval before


def test_what_is_not_finite_is_left_out_of_its_mean_alone():
    class Odd(Mean):
        def forward(self, batch):
            outputs = super().forward(batch)
            outputs["scalars"]["log"] = paddle.log(batch["x"].mean())
            return outputs

    tally = Tally(Progress())
    tallied(Odd(), tally, [0.0], [1.0])
    means = tally.means(Processes())
    assert means["log"] == 0.0 and means["mean"] == 0.5
    tallied(Odd(), tally, [math.nan])
    assert tally.means(Processes()) == {}


def test_scalars_that_come_and_go_are_refused():
    class Fickle(Mean):
        def forward(self, batch):
            outputs = super().forward(batch)
            if batch["x"].mean().item() > 3:
                outputs["scalars"] = {"other": outputs["loss"]}
            return outputs

    for groups in (([1.0], [5.0]), ([5.0], [1.0])):
        tally = Tally(Progress())
        with pytest.raises(PasslError, match="same scalars for every batch, not .* and then"):
            tallied(Fickle(), tally, *groups)
            tally.settle()
    tally = Tally(Progress(scalar_sums={"mean": [1.0, 2.0]}))
    with pytest.raises(PasslError, match="not mean and then none"):
        tallied(Drawn(), tally, [1.0])
        tally.settle()


class TellingClassifier(Classifier):
    """A classifier that also tells its accuracy and how bright its images are."""

    def forward(self, batch):
        outputs = super().forward(batch)
        if self.training:
            right = outputs["logits"].argmax(axis=1) == batch["label"]
            outputs["scalars"] = {
                "accuracy": right.astype("float32").mean(),
                "brightness": batch["image"].mean(),
            }
        return outputs


@pytest.fixture
def telling(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES._factories, "TellingClassifier", TellingClassifier)
    monkeypatch.setitem(HOOKS._factories, "InEveryProcess", InEveryProcess)

    def start(name, resume=None, **changes):
        cfg = small_config(photos, log_config={"interval": 4}, **changes)
        cfg["model"]["name"] = "TellingClassifier"
        for section in cfg["dataloader"].values():
            section["loader"]["num_workers"] = 0
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(cfg))
        train(get_config(path, [f"output_dir={tmp_path / name}"]), resume=resume)
        return tmp_path / name

    return start


def test_scalars_stand_in_the_records_and_survive_a_resume_within_an_interval(telling, tmp_path):
    """Step 5 is one after a record: its checkpoint holds a part of the next means."""
    whole = telling("whole", epochs=2, checkpoint={"interval_steps": 5, "keep": 9})
    rows = [r for r in records(whole) if "split" not in r]
    assert [r["step"] for r in rows] == [4, 8, 12, 14]
    assert all(0 <= r["accuracy"] <= 1 and -1 <= r["brightness"] <= 1 for r in rows)
    assert len({r["brightness"] for r in rows}) == 4
    assert all("brightness" not in r for r in records(whole) if "split" in r)
    middle = whole / "checkpoints" / "step-00000005.safetensors"
    with WeightFile(middle) as file:
        sums = file.metadata["progress"]["scalar_sums"]
        assert sums["brightness"][1] == 8 and sums["brightness"][0] != 0
    again = tmp_path / "again"
    (again / "checkpoints").mkdir(parents=True)
    (again / "checkpoints" / middle.name).write_bytes(middle.read_bytes())
    (again / "metrics.jsonl").write_bytes((whole / "metrics.jsonl").read_bytes())
    telling("again", str(again / "checkpoints" / middle.name), epochs=2)
    assert records(again) == records(whole)


class Two(Processes):
    """This process and one that has seen two images of loss 1.5 each, which is not there."""

    def sum(self, values):
        if len(values) % 2 == 0:  # pairs, of the loss first
            return [values[0] + 3.0, values[1] + 2.0, *values[2:]]
        return super().sum(values)


def test_processes_share_what_they_have_counted():
    progress = Progress(loss_sum=5.0, loss_images=4.0)
    Tally(progress).share(Two(rank=0, size=2))
    assert (progress.loss_sum, progress.loss_images) == (4.0, 3.0)


def test_a_checkpoint_holds_what_all_processes_have_counted(telling, monkeypatch, tmp_path):
    """After step 5, one after a record; what this process has is known from a run of its own."""
    monkeypatch.setattr(TellingClassifier, "forward", Classifier.forward)
    middle = "checkpoints/step-00000005.safetensors"

    def sums(folder):
        with WeightFile(folder / middle) as file:
            progress = file.metadata["progress"]
        return progress["loss_sum"], progress["loss_images"]

    own, images = sums(telling("one", checkpoint={"interval_steps": 5, "keep": 9}, epochs=1))
    assert images == 8
    monkeypatch.setattr("passl.engine.trainer.join_processes", Two)
    both = sums(telling("two", checkpoint={"interval_steps": 5, "keep": 9}, epochs=1))
    assert both == (own + 3.0, images + 2.0)


# ---------------------------------------------------------------- steps on trial


class Squares(nn.Layer):
    """Squares twice: keeps its input and the first square, of 4 bytes a number."""

    recompute = True

    def forward(self, x):
        return paddle.square(paddle.square(x))


def test_recomputed_blocks_keep_their_inputs_and_the_largest_one_both():
    from passl.inspection.costs import kept_for_backward

    if paddle.__version__.startswith("2."):
        pytest.skip("PaddlePaddle 2 loses tensors here")
    network = nn.Sequential(*[Squares() for _ in range(4)])
    x = paddle.ones([3, 10])
    x.stop_gradient = False
    bytes_of_one = 3 * 10 * 4
    assert kept_for_backward(network, lambda: network(x)) == 8 * bytes_of_one
    again = kept_for_backward(network, lambda: network(x), recompute=True)
    assert again == (4 + 2) * bytes_of_one
    assert not any(layer._forward_pre_hooks for layer in network)


@pytest.mark.parametrize("what", ["step", "train", "dry_run"])
def test_trials_make_the_steps_of_the_run(what, photos, tmp_path, monkeypatch):
    """Accumulated and averaged as the config says, by the way that training goes."""
    from passl.inspection import benchmarks
    from passl.inspection.dry_run import dry_run

    calls = []
    backward, update = Execution.backward, WeightAverage.update
    monkeypatch.setattr(
        Execution,
        "backward",
        lambda self, batch, weight, exchange: (
            calls.append((weight, exchange)) or backward(self, batch, weight, exchange)
        ),
    )
    monkeypatch.setattr(
        WeightAverage,
        "update",
        lambda self, steps, weights: calls.append("average") or update(self, steps, weights),
    )
    cfg = small_config(photos, ema={}, global_batch_size=16)
    for section in cfg["dataloader"].values():
        section["loader"]["num_workers"] = 0
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(cfg))
    cfg = get_config(path, [f"output_dir={tmp_path / 'run'}"])
    if what == "step":
        result = benchmarks.model_steps(cfg, "cpu", steps=5, repeats=1)
        assert result["accumulation"] == 2
    elif what == "train":
        result = benchmarks.training(cfg, "cpu", steps=5)
        assert (result["accumulation"], result["steps"]) == (2, 4)
    else:
        dry_run(cfg)
    step = [(0.5, False), (0.5, True), "average"]
    assert len(calls) >= 6 and calls == step * (len(calls) // 3)


def test_a_trial_meets_what_a_run_would_stop_at(photos, tmp_path):
    from passl.inspection import benchmarks
    from passl.inspection.dry_run import dry_run

    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small_config(photos, recompute=True, to_static=True)))
    cfg = get_config(path, [f"output_dir={tmp_path / 'run'}"])
    for trial in (dry_run, lambda cfg: benchmarks.model_steps(cfg, "cpu", 1, 1)):
        with pytest.raises(PasslError, match="exclude each other"):
            trial(cfg)


# ---------------------------------------------------------------- what is said of them


def test_skipped_steps_are_told_once(monkeypatch):
    told = []
    monkeypatch.setattr(
        "passl.engine.tally.logger.warning", lambda text, step, count: told.append(count)
    )
    progress = Progress(bad_steps=4)  # of before a resume, told then
    tally = Tally(progress)
    for groups in (([1.0], [math.inf], [math.nan]), ([1.0],), ([math.inf],)):
        tallied(Mean(), tally, *groups)
        tally.settle()
        tally.report_skipped(3)
    assert told == [2, 1]
    tallied(Mean(), tally, [math.inf], [math.inf])
    tally.settle()
    with pytest.raises(PasslError, match=r"no gradient has been finite .* \(3 steps, max_bad_"):
        tally.report_skipped(3)


def test_the_console_says_how_long_the_rest_takes(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    logging.getLogger("passl").propagate = True
    monkeypatch.setattr("passl.hooks.console.interactive", lambda: False)
    run = types.SimpleNamespace(
        total_steps=100,
        global_batch=30,
        cfg=types.SimpleNamespace(epochs=4),
        evaluator=Classification(),
    )
    record = {"epoch": 3, "step": 60, "loss": 1.5, "lr": 0.1, "images_per_second": 10.0}
    Console().on_record(run, record)
    assert "step 60/100" in caplog.text and "02:00 left" in caplog.text  # 40 steps of 30 at 10/s
    assert "Top-1" not in caplog.text and "data" not in caplog.text
    more = {"top1": 43.21, "step_seconds": 2.0, "data_seconds": 0.86, "memory_mb": 2048.0}
    Console().on_record(run, {**record, **more})
    assert "10.0 images/s  Top-1 43.21 %  data 43 %  2.0 GiB  02:00 left" in caplog.text
    caplog.clear()
    Console().on_record(run, {**record, **more, "data_seconds": 0.05})
    assert "Top-1 43.21 %  2.0 GiB" in caplog.text


def test_the_bar_says_the_same_in_short(monkeypatch):
    said = []
    hook = Console()
    hook._bar = types.SimpleNamespace(set_postfix_str=lambda text, refresh: said.append(text))
    record = {"loss": 1.5, "lr": 0.1, "images_per_second": 10.0, "top1": 43.21}
    more = {"step_seconds": 2.0, "data_seconds": 0.86, "memory_mb": 512.0}
    run = types.SimpleNamespace(evaluator=Classification())
    hook.on_record(run, {**record, **more})
    assert said == ["loss 1.5000, lr 1.00e-01, 10 images/s, Top-1 43.21 %, data 43 %, 0.5 GiB"]


class InEveryProcess(Hook):
    """Notes what it hears."""

    in_every_process = True
    heard = []

    def on_record(self, run, record):
        self.heard.append("record")

    on_evaluation = on_record


def test_hooks_of_every_process_hear_of_records(telling, monkeypatch, tmp_path):
    """A process that is not the first writes nothing, and tells its hooks all the same."""

    class NotFirst(Processes):
        is_first = False

    monkeypatch.setattr("passl.engine.trainer.join_processes", NotFirst)
    (tmp_path / "second").mkdir()
    InEveryProcess.heard.clear()
    telling("second", epochs=1, hooks=[{"name": "InEveryProcess"}])
    assert len(InEveryProcess.heard) == 2 + 2  # records at steps 4 and 7, val and test
    assert not (tmp_path / "second" / "metrics.jsonl").exists()
    assert not list((tmp_path / "second").rglob("*.safetensors"))
