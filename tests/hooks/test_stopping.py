"""Runs that a hook ends before their last step: for a reason of its own, or as EarlyStopping."""

import math
import shutil

import pytest
import yaml
from helpers import Stop, records, run_here, small_config

from passl.engine import train, trainer
from passl.engine.training_run import TrainingRun
from passl.hooks import build_hooks
from passl.hooks.base import HOOKS, Hook
from passl.hooks.early_stopping import EarlyStopping
from passl.utils.config import get_config
from passl.utils.errors import PasslError
from passl.weights import WeightFile

PER_EPOCH = 7


@pytest.fixture
def run(photos, tmp_path):
    """Trains a small config without workers in a folder, perhaps to a crash after a step."""

    def start(name="run", crash_after=None, resume="auto", **changes):
        cfg = small_config(photos, **{"log_config": {"interval": 3}, **changes})
        for section in filter(None, cfg["dataloader"].values()):
            section["loader"]["num_workers"] = 0
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(cfg))
        folder = tmp_path / name
        with pytest.MonkeyPatch.context() as patch:
            if crash_after is not None:
                build = trainer.build_hooks
                hook = Stop(crash_after)
                patch.setattr(trainer, "build_hooks", lambda *a: [*build(*a), hook])
            with pytest.raises(KeyboardInterrupt) if crash_after else no_error():
                train(get_config(path, [f"output_dir={folder}"]), resume=resume)
        return folder

    return start


def no_error():
    import contextlib

    return contextlib.nullcontext()


@pytest.fixture
def scripted(monkeypatch):
    """Lets the evaluations of validation have the figures that a test gives, one an epoch."""

    def script(top1, loss=1.0):
        def evaluate(self, split, name):
            tested.append((split, self.progress.step))
            value = top1[self.epoch - 1] if split == "val" else 50.0
            mean = loss[self.epoch - 1] if isinstance(loss, list) else loss
            record = {"step": self.progress.step, "epoch": self.epoch, "split": split}
            figures = {"top1": value, "top5": 100.0, "loss": mean, "samples": 13}
            return {**record, **figures, "seconds": 1.0, "images_per_second": 13.0}

        tested = []
        monkeypatch.setattr(TrainingRun, "_evaluate", evaluate)
        return tested

    return script


def early(**arguments):
    return [{"name": "EarlyStopping", **arguments}]


def stopped_at(folder):
    """Returns the step that the last record says a hook has stopped the run at, and its reason."""
    last = records(folder)[-1]
    return last["step"], last.get("stopped")


def latest_step(folder):
    with WeightFile(folder / "checkpoints" / "latest.safetensors") as file:
        return file.metadata["progress"]["step"]


# ---------------------------------------------------------------- of a user's own


class AtStep(Hook):
    """Stops a run after a step, at a moment of one's choice."""

    def __init__(self, step: int, moment: str = "on_step", reason: str = "AtStep: enough"):
        self.step, self.reason = step, reason
        setattr(self, moment, self._look)

    def _look(self, run, record=None):
        if run.progress.step >= self.step:
            run.stop(self.reason)


@pytest.fixture
def at_step(monkeypatch):
    monkeypatch.setitem(HOOKS._factories, "AtStep", AtStep)
    return lambda *arguments: [
        {"name": "AtStep", **dict(zip(("step", "moment", "reason"), arguments))}
    ]


def test_a_hook_ends_a_run_after_the_step_that_it_is_at(run, at_step, messages):
    """One that nothing is due after: neither a record nor a checkpoint."""
    folder = run(hooks=at_step(4))
    assert latest_step(folder) == 4
    assert [r["step"] for r in records(folder)] == [3, 4, 4]  # a record, the test, the reason
    assert records(folder)[1]["split"] == "test"
    assert records(folder)[2] == {"step": 4, "epoch": 1, "stopped": "AtStep: enough"}
    assert "stopped after step 4 of 21: AtStep: enough" in messages()
    assert not [text for text in messages() if "continue with --resume" in text]


@pytest.mark.parametrize("moment, step, at", [("on_record", 4, 6), ("on_evaluation", 5, 7)])
def test_what_the_step_makes_due_happens_first(run, at_step, moment, step, at):
    folder = run(hooks=at_step(step, moment))
    assert stopped_at(folder) == (at, "AtStep: enough") and latest_step(folder) == at
    with WeightFile(folder / "checkpoints" / "latest.safetensors") as file:
        assert file.metadata["progress"]["evaluated_step"] == (7 if at == 7 else -1)


def test_a_run_that_a_hook_has_stopped_goes_on_without_it_to_the_very_same_end(run, at_step):
    whole = run("whole")
    folder = run(hooks=at_step(10))
    assert stopped_at(folder)[0] == 10
    run()
    assert [r for r in records(folder) if r["step"] != 10] == records(whole)
    assert not [r for r in records(folder) if "stopped" in r]


def test_the_first_reason_counts(run, at_step):
    """Of two hooks in one step: records come before the step's own moment."""
    folder = run(hooks=at_step(3, "on_step", "the second") + at_step(3, "on_record", "the first"))
    assert stopped_at(folder) == (3, "the first")


def test_at_its_last_step_a_run_ends_as_ever(run, at_step):
    folder = run(hooks=at_step(21))
    assert records(folder)[-1]["split"] == "test"


def test_the_command_ends_well(photos, tmp_path, at_step, config_file):
    code, out, err = run_here(
        "train", "-c", config_file(hooks=at_step(2)), "--output-dir", tmp_path / "run"
    )
    assert code == 0 and not err
    assert "stopped after step 2 of 21" in out and "next: " in out


# ---------------------------------------------------------------- EarlyStopping


RISING_THEN_FLAT = [10.0, 30.0, 30.0, 20.0, 25.0, 90.0, 91.0, 92.0]


@pytest.mark.parametrize("patience, epoch", [(1, 3), (2, 4), (3, 5)])
def test_it_waits_for_so_many_evaluations(run, scripted, messages, patience, epoch):
    evaluated = scripted(RISING_THEN_FLAT)
    folder = run(epochs=8, hooks=early(patience=patience))
    step = epoch * PER_EPOCH
    assert latest_step(folder) == step and stopped_at(folder)[0] == step
    assert evaluated == [("val", PER_EPOCH * e) for e in range(1, epoch + 1)] + [("test", step)]
    (said,) = [text for text in messages() if "EarlyStopping" in text]
    assert said.startswith(
        f"stopped after step {step} of 56: EarlyStopping: {patience} evaluations in a row without "
        "a better Top-1; the best was 30.00 % after epoch 2; "
    )
    assert "raise its patience" in said and "\n" not in said
    with WeightFile(folder / "checkpoints" / "best.safetensors") as file:
        assert file.metadata["progress"]["best"]["epoch"] == 2


def test_it_lets_a_run_be_that_gets_better(run, scripted):
    scripted([10.0, 9.0, 11.0, 11.0, 12.0])
    assert records(run(epochs=5, hooks=early(patience=2)))[-1]["step"] == 35


def counted(values, evaluator=None, name="top1", **arguments):
    """Returns after how many evaluations of so many it stops; None where it does not."""
    from types import SimpleNamespace

    from passl.evaluation.classification import Classification

    said = []
    hook = EarlyStopping(**arguments)
    run = SimpleNamespace(evaluator=evaluator or Classification(), stop=said.append)
    for number, value in enumerate(values, start=1):
        figures = value if isinstance(value, dict) else {name: value}
        hook.on_evaluation(run, {"split": "val", "epoch": number, **figures})
        if said:
            return number
    return None


def test_better_is_by_more_than_min_delta_over_the_best():
    slowly = [10.0, 10.5, 11.0, 11.5, 12.0]
    assert counted(slowly, patience=2) is None
    assert counted(slowly, patience=2, min_delta=0.4) is None
    assert counted([10.0, 10.5, 11.0, 11.0], patience=2, min_delta=0.5) is None  # 11 over 10
    assert counted([10.0, 10.5, 10.25], patience=2, min_delta=0.5) == 3  # 0.5 is not more than it
    assert counted([10.0, 9.0, 8.0], patience=2, min_delta=0.5) == 3


def test_of_a_loss_less_is_better_and_of_other_figures_as_the_evaluator_says():
    falling = [3.0, 2.0, 1.0, 0.5]
    assert counted(falling, name="loss", figure="loss", patience=1) is None
    assert counted(falling[::-1], name="loss", figure="loss", patience=1) == 2
    assert counted(falling, name="loss", figure="loss", patience=1, min_delta=0.75) == 4
    assert counted(falling, patience=1) == 2
    assert counted(falling, patience=1, more_is_better=False) is None

    from passl.evaluation.classification import Classification

    class Errors(Classification):
        more_is_better = False

    assert counted(falling, Errors(), patience=1) is None
    assert counted(falling[::-1], Errors(), patience=1) == 2
    for more in ({"min_delta": 0.1}, {"figure": "top1"}):
        assert counted(falling, Errors(), patience=1, **more) is None
        assert counted(falling[::-1], Errors(), patience=1, **more) == 2


def test_what_is_not_finite_is_never_better():
    nan = math.nan
    assert counted([nan, nan], patience=2) == 2
    assert counted([nan, 1.0, 2.0, nan, 3.0], patience=2) is None
    assert counted([1.0, nan, math.inf], patience=2) == 3
    assert counted([1.0, None, 2.0, 3.0], patience=2) is None  # as a file has it


def test_of_equal_ones_the_lower_loss_is_better_by_default_as_for_the_best_checkpoint():
    def losses(*values):
        return [{"top1": 50.0, "loss": value} for value in values]

    assert counted(losses(3.0, 2.0, 1.0, 0.5), patience=1) is None
    assert counted(losses(3.0, 3.0), patience=1) == 2
    assert counted(losses(3.0, 2.0), patience=1, figure="top1") == 2
    assert counted(losses(3.0, 2.0), patience=1, min_delta=0.1) == 2
    assert counted(losses(3.0, None, math.nan, 2.0), patience=3) is None
    assert counted(losses(3.0, None, math.inf), patience=2) == 3
    assert counted([{"top1": 60.0, "loss": None}, *losses(1.0)], patience=2) is None
    assert counted([{"top1": 50.0, "loss": 1.0}, {"top1": 60.0, "loss": 9.0}], patience=1) is None


def test_only_the_validation_counts():
    from types import SimpleNamespace

    said = []
    hook = EarlyStopping(patience=1)
    hook.on_evaluation(SimpleNamespace(stop=said.append), {"split": "test", "top1": 0.0})
    assert not said and hook._waited == 0


@pytest.mark.parametrize("crash", [3, 14, 17, 21, 24, 28])
def test_killed_and_resumed_it_stops_at_the_same_step(run, scripted, tmp_path, crash):
    """At an epoch's end the crash comes after the evaluation, and elsewhere between two."""
    scripted(RISING_THEN_FLAT)
    settings = {"epochs": 8, "hooks": early(patience=2)}
    whole = run("whole", **settings)
    assert stopped_at(whole)[0] == 28
    run("cut", crash_after=crash, **settings)
    assert records(run("cut", **settings)) == records(whole)


def test_killed_in_the_evaluation_that_ends_it(run, scripted, monkeypatch):
    scripted(RISING_THEN_FLAT)
    settings = {"epochs": 8, "hooks": early(patience=2)}
    whole = run("whole", **settings)

    def die(self, run, record):
        if run.progress.step == 28:
            raise PasslError("a power cut")

    with monkeypatch.context() as patch:
        patch.setattr("passl.hooks.console.Console.on_evaluation", die)
        with pytest.raises(PasslError, match="a power cut"):
            run("cut", **settings)
    folder = run("cut", **settings)
    assert records(folder) == records(whole)


def test_resumed_it_says_so_and_does_nothing_until_patience_is_raised(run, scripted, messages):
    evaluated = scripted(RISING_THEN_FLAT)
    settings = {"epochs": 8}
    folder = run(hooks=early(patience=2), **settings)
    before, done = (folder / "metrics.jsonl").read_text(), len(evaluated)
    said = len(messages())
    run(hooks=early(patience=2), **settings)
    assert (folder / "metrics.jsonl").read_text() == before and len(evaluated) == done
    told = [text for text in messages()[said:] if "stopped after step 28 of 56" in text]
    assert len(told) == 1 and "raise its patience" in told[0]

    shutil.copytree(folder, folder.parent / "without")
    run(hooks=early(patience=4), **settings)  # the evaluation after epoch 6 is better
    assert records(folder)[-1]["step"] == 56 and stopped_at(folder)[1] is None
    run("without", **settings)
    assert [r for r in records(folder) if r["step"] != 28 or r.get("split") != "test"] == [
        r for r in records(folder.parent / "without") if r["step"] != 28 or r.get("split") != "test"
    ]


def test_going_back_to_an_older_checkpoint_forgets_what_came_after_it(run, scripted):
    scripted(RISING_THEN_FLAT)
    settings = {"epochs": 8, "hooks": early(patience=2), "checkpoint": {"keep": 99}}
    folder = run(**settings)
    before = records(folder)
    older = folder / "checkpoints" / "step-00000014.safetensors"
    run(resume=str(older), **settings)
    assert records(folder) == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"patience": 0}, "patience is at least 1, not 0"),
        ({"patience": 2, "min_delta": -1.0}, "min_delta is finite and at least 0, not -1.0"),
        ({"patience": 2, "figure": "top2"}, "figure 'top2' .* of EarlyStopping|did you mean 'top"),
        ({}, "needs the argument 'patience'"),
    ],
    ids=["patience", "min_delta", "figure", "nothing"],
)
def test_what_it_cannot_go_by_is_refused_before_anything_is_written(
    run, tmp_path, arguments, message
):
    with pytest.raises(PasslError, match=message) as caught:
        run(hooks=early(**arguments))
    assert caught.value.place and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("first", [True, False])
def test_without_a_validation_split_it_is_refused_in_every_process(config_file, first):
    cfg = get_config(config_file(hooks=early(patience=2)), ["dataloader.val=null"])
    with pytest.raises(PasslError, match="dataloader.val, which the config has not; add") as caught:
        build_hooks(cfg, None, first)
    assert caught.value.place


def test_a_dry_run_refuses_it_as_well(config_file, tmp_path):
    code, _, err = run_here(
        "train", "-c", config_file(hooks=early(patience=2)), "-o", "dataloader.val=null",
        "--output-dir", tmp_path / "run", "--dry-run",
    )  # fmt: skip
    assert code == 2 and err.count("\n") == 1 and "dataloader.val" in err
