"""Where processes wait for the first one, told by a process that notes what it does."""

import yaml
from helpers import small_config

from passl.distributed.processes import Processes
from passl.engine import train, training_run
from passl.engine.step import TrainingStep
from passl.evaluation.base import Evaluation
from passl.hooks.base import HOOKS, Hook
from passl.utils.config import get_config

NOTES = []

# What the first process does alone, or does more of than others.
ALONE = (
    "on_start", "on_first_batch", "before_evaluation", "on_step at the end of an epoch", "a save",
    "a pass", "on_end",
)  # fmt: skip
# What no process begins before all have come, and what an exchange of tensors is in.
TOGETHER = ("a step", "a sum", "statistics", "the end")


class Waiting(Processes):
    def wait(self):
        NOTES.append("wait")


class Noting(Hook):
    def on_start(self, run):
        NOTES.append("on_start")

    def on_first_batch(self, run, batch):
        NOTES.append("on_first_batch")

    def before_evaluation(self, run):
        NOTES.append("before_evaluation")

    def on_end(self, run):
        NOTES.append("on_end")

    def on_step(self, run):
        if run.at_epoch_end:
            NOTES.append("on_step at the end of an epoch")


def noting(note, function):
    def noted(*arguments, **options):
        NOTES.append(note)
        return function(*arguments, **options)

    return noted


def test_all_wait_after_what_one_does_alone_and_before_the_next_exchange(
    photos, tmp_path, monkeypatch
):
    def evaluated(evaluation, *arguments):
        yield from outputs(evaluation, *arguments)
        NOTES.append("a pass")

    outputs = Evaluation.outputs
    monkeypatch.setitem(HOOKS._factories, "Noting", Noting)
    monkeypatch.setattr("passl.engine.trainer.join_processes", Waiting)
    monkeypatch.setattr(TrainingStep, "__call__", noting("a step", TrainingStep.__call__))
    monkeypatch.setattr(Evaluation, "outputs", evaluated)
    monkeypatch.setattr(Waiting, "sum", noting("a sum", Processes.sum))
    monkeypatch.setattr(
        training_run, "write_checkpoint", noting("a save", training_run.write_checkpoint)
    )
    monkeypatch.setattr(
        training_run,
        "share_running_statistics",
        noting("statistics", training_run.share_running_statistics),
    )
    # The first epoch ends with neither evaluation nor save, the second with no save before it.
    cfg = small_config(photos, epochs=3, hooks=[{"name": "Noting"}])
    cfg["evaluate"] = {"interval_epochs": 2}
    cfg["checkpoint"] = {"interval_steps": 5, "interval_epochs": None, "background": False}
    for section in cfg["dataloader"].values():
        section["loader"]["num_workers"] = 0
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(cfg))
    NOTES.clear()
    train(get_config(path, [f"output_dir={tmp_path / 'run'}"]))
    notes = [*NOTES, "the end"]
    assert set(ALONE) < set(notes) and notes.count("a step") == 21
    for i, note in enumerate(notes):
        if note in ALONE:
            after = notes[i + 1 :]
            together = next(n for n, other in enumerate(after) if other in TOGETHER)
            assert "wait" in after[:together], " · ".join(notes[: i + 2 + together])
