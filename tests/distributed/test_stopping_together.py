"""Two processes that a hook of one of them ends: both after the same step."""

import pytest
import yaml
from helpers import config_for_many, records, start_processes, write_images

from passl.weights import WeightFile

HOOKS = '''
"""Hooks of the test."""

from passl.hooks.base import HOOKS, Hook
from passl.distributed.collectives import process_rank


@HOOKS.register
class AtStep(Hook):
    """Stops the run after a step, in one process."""

    in_every_process = True

    def __init__(self, step: int, rank: int):
        self.step, self.rank = step, rank

    def on_step(self, run):
        if run.progress.step == self.step and process_rank() == self.rank:
            run.stop(f"AtStep: process {self.rank} has had enough")

    def on_end(self, run):
        print(f"ended after step {run.progress.step}, stopped: {run.stopped}", flush=True)
'''


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def launch(images, tmp_path):
    (tmp_path / "my_hooks.py").write_text(HOOKS)

    def run(*hooks, interval, rate=0.1):
        log = {"interval": interval}
        cfg = config_for_many(images, 32, imports=["my_hooks.py"], log_config=log)
        cfg["lr_scheduler"]["learning_rate"] = rate
        cfg["hooks"], cfg["evaluate"] = list(hooks), {"interval_epochs": 1}
        path, folder = tmp_path / "small.yaml", tmp_path / "run"
        path.write_text(yaml.safe_dump(cfg))
        logs = tmp_path / "logs"
        process = start_processes(2, logs, "train", "-c", path, "--output-dir", folder)
        process.communicate(timeout=120)
        said = [file.read_text() for file in sorted(logs.glob("workerlog.*"))]
        assert process.returncode == 0, "\n".join(said)
        return folder, said

    return run


def test_what_one_process_wants_all_do_after_the_next_record(launch):
    """Every fifth step makes a record, every third ends an epoch; the fourth does neither."""
    folder, said = launch({"name": "AtStep", "step": 4, "rank": 1}, interval=5)
    reason = "AtStep: process 1 has had enough"
    assert all(f"ended after step 5, stopped: {reason}" in text for text in said), said
    assert f"stopped after step 5 of 21: {reason}" in said[0]
    assert records(folder)[-1] == {"step": 5, "epoch": 2, "stopped": reason}
    with WeightFile(folder / "checkpoints" / "latest.safetensors") as file:
        assert file.metadata["progress"]["step"] == 5


def test_early_stopping_ends_both_after_the_same_evaluation(launch):
    """With a rate of nothing no evaluation is better than the first one, after step 3."""
    hooks = ({"name": "AtStep", "step": 99, "rank": 0}, {"name": "EarlyStopping", "patience": 2})
    folder, said = launch(*hooks, interval=100, rate=0.0)
    assert all(
        "ended after step 9, stopped: EarlyStopping: 2 evaluations" in text for text in said
    ), said
    told = records(folder)
    assert [r["step"] for r in told if r.get("split") == "val"] == [3, 6, 9]
    assert told[-2]["split"] == "test" and "stopped" in told[-1]
