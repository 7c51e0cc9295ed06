"""How fast a run is, what it waits for and what it holds: counted, recorded and said."""

import json
import re
import subprocess
import sys
import time

import paddle
import pytest
import yaml
from helpers import small_config

from passl.datasets import Loader
from passl.distributed.processes import Processes
from passl.engine import train
from passl.engine.pace import Pace
from passl.utils.config import get_config
from passl.utils.memory import peak_memory


def test_the_pace_is_that_of_the_time_that_was_trained(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("passl.engine.pace.time.perf_counter", lambda: now[0])
    pace = Pace("cpu")
    pace.add(30)
    now[0] += 2
    with pace.paused():
        now[0] += 50
    pace.add(10)
    now[0] += 3
    assert pace.figures(Processes())["images_per_second"] == 40 / 5
    pace.add(8)
    now[0] += 4
    assert pace.figures(Processes())["images_per_second"] == 2.0


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr("passl.engine.pace.time.perf_counter", lambda: self.now)

    def arriving(self, *seconds):
        """Yields a batch after each wait."""
        for wait in seconds:
            self.now += wait
            yield wait


def paced(pace, clock, batches, accumulation, seconds, steps):
    """Makes steps of two images a batch, whose own work takes so many seconds each."""
    for _ in range(steps):
        for _ in range(accumulation):
            next(batches)
        clock.now += seconds
        pace.add(2 * accumulation)


def test_a_step_and_its_wait_for_data_are_timed_apart(monkeypatch):
    """Two batches a step: 1 + 2, 3 + 4 and then 5 + 6 seconds of waiting, 10 s of work."""
    clock = Clock(monkeypatch)
    pace = Pace("cpu")
    batches = pace.watched(clock.arriving(1, 2, 3, 4, 5, 6))
    paced(pace, clock, batches, 2, 10.0, steps=2)
    with pace.paused():
        clock.now += 77
    found = pace.figures(Processes())
    assert (found["step_seconds"], found["data_seconds"]) == (15.0, 5.0)
    assert found["images_per_second"] == 8 / 30
    paced(pace, clock, batches, 2, 10.0, steps=1)
    found = pace.figures(Processes())
    assert (found["step_seconds"], found["data_seconds"]) == (21.0, 11.0)
    assert next(batches, None) is None


def test_the_process_that_waits_longest_and_the_one_that_holds_most_are_recorded(monkeypatch):
    clock = Clock(monkeypatch)
    monkeypatch.setattr("passl.engine.pace.peak_memory", lambda device: 300.0)

    class Three(Processes):
        def sum(self, values):
            assert values[3:5] == [4.0, 300.0] and sum(values) == 306.0
            return [6.0, 1.0, 500.0, *values[3:5], 7.0, 200.0]

    pace = Pace("cpu")
    paced(pace, clock, pace.watched(clock.arriving(4)), 1, 1.0, steps=1)
    found = pace.figures(Three(rank=1, size=3))
    assert (found["data_seconds"], found["memory_mb"]) == (7.0, 500.0)
    assert found["images_per_second"] == 6 / 5


def test_waiting_for_data_most_of_the_time_is_told_once_and_not_of_the_start(monkeypatch):
    clock = Clock(monkeypatch)
    pace = Pace("cpu")
    batches = pace.watched(clock.arriving(1000, *[6] * 40))
    told = []
    for _ in range(20):
        paced(pace, clock, batches, 1, 4.0, steps=2)
        pace.figures(Processes())
        told.append(pace.share_to_tell())
    # After the first record, 20 s in each: 60 % of them waiting, told when there are 30.
    assert told == [None, None, 0.6] + [None] * 17


@pytest.mark.parametrize("seconds, share", [(5.9, 6 / 11.9), (6.0, None), (20.0, None)])
def test_half_of_the_time_is_not_most_of_it(monkeypatch, seconds, share):
    clock = Clock(monkeypatch)
    pace = Pace("cpu")
    batches = pace.watched(clock.arriving(*[6] * 40))
    told = set()
    for _ in range(20):
        paced(pace, clock, batches, 1, seconds, steps=1)
        pace.figures(Processes())
        told.add(pace.share_to_tell())
    assert list(told - {None}) == ([] if share is None else [pytest.approx(share)])


def test_a_run_whose_images_come_slowly_says_what_to_raise(photos, tmp_path, monkeypatch, messages):
    """Each batch takes 50 ms to come, and a step of this network a few."""

    def slowly(loader):
        for batch in batches(loader):
            time.sleep(0.05)
            yield batch

    batches = Loader.__iter__
    monkeypatch.setattr(Loader, "__iter__", slowly)
    monkeypatch.setattr("passl.engine.pace._WORTH_SAYING", 0.3)
    cfg = small_config(photos, epochs=4, log_config={"interval": 4})
    for section in cfg["dataloader"].values():
        section["loader"]["num_workers"] = 0
    path, folder = tmp_path / "small.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(cfg))
    train(get_config(path, [f"output_dir={folder}"]))
    told = [r for r in map(json.loads, (folder / "metrics.jsonl").open()) if "split" not in r]
    assert all(r["data_seconds"] > 0.05 and r["step_seconds"] > r["data_seconds"] for r in told)
    said = [text for text in messages() if "waiting for data" in text]
    assert len(said) == 1 and "num_workers (it is 0; this machine has" in said[0]
    assert " pack, or take cheaper transforms" in said[0]
    assert re.search(r"  data [5-9]\d %  ", "\n".join(messages()))


def test_the_memory_is_the_most_that_was_held(monkeypatch):
    # In a process of its own, whose memory nobody else has used and given back.
    program = (
        "import numpy as np; from passl.utils.memory import peak_memory as peak;"
        "before = peak('cpu');"
        "numbers = np.ones(300 * 2**20, np.uint8); held = peak('cpu'); del numbers;"
        "print(before, held, peak('cpu'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    before, held, after = map(float, done.stdout.split())
    assert 10 < before < 5000 and held - before == pytest.approx(300, abs=30)
    assert after == held
    held = peak_memory("cpu")
    monkeypatch.setattr("builtins.open", lambda *a, **k: (_ for _ in ()).throw(OSError()))
    assert peak_memory("cpu") == pytest.approx(held, abs=30)  # as on a system without /proc
    monkeypatch.setattr(paddle.device.cuda, "max_memory_allocated", lambda: 3 * 2**20)
    assert peak_memory("gpu") == 3.0
