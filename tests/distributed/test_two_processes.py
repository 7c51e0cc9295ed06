"""Two processes wait for each other through the store, and evaluate the same weights."""

import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from helpers import start_processes

from passl.distributed import store

PROGRAM = Path(__file__).with_name("two_processes.py")


def run(cases, folder, seconds=0.0):
    """Returns (exit code, what each process said)."""
    process = start_processes(2, folder, PROGRAM, cases, seconds)
    process.communicate(timeout=120)
    return process.returncode, [
        path.read_text() for path in sorted(folder.glob("workerlog.*"), key=lambda p: p.name)
    ]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What both processes say in the cases that end well; one after the other, to start once."""
    code, said = run("default,best,busy,failing", tmp_path_factory.mktemp("logs"), 2.0)
    assert code == 0, said
    return said


def check_busy(said, seconds):
    after = [float(re.search(r"process \d after ([\d.]+) s", text)[1]) for text in said]
    assert after[0] < 1 < seconds - 0.2 < after[1] < seconds + 2
    assert all(f"process {rank}: sum [3.0]" in text for rank, text in enumerate(said))


@pytest.mark.smoke
def test_the_others_wait_for_the_first(said):
    """Signals come all the time; Paddle's own connection stays in order."""
    check_busy(said, 2.0)


@pytest.mark.full
def test_they_wait_for_longer_than_gloo_does(tmp_path):
    """That is 30 s."""
    code, said = run("busy", tmp_path, 40.0)
    assert code == 0, said
    check_busy(said, 40.0)


@pytest.mark.full
def test_a_process_that_is_not_heard_of_is_named_by_one_that_waits_for_it(tmp_path):
    code, said = run("silent", tmp_path)
    assert code == 75, said
    assert re.search(r"error: process 0 on .*: process 1 on .* not been heard of for 2 s", said[0])
    assert "met" not in said[0]


@pytest.mark.smoke
def test_a_process_that_fails_ends_the_waiting_of_the_others(said):
    seconds = re.search(r"LostProcess: process 0 on .*it has failed\) \(([\d.]+) s\)", said[0])[1]
    assert float(seconds) < 5
    assert "PasslError: a mistake" in said[1]


def test_how_long_silence_may_last_by_default_is_a_matter_of_the_backend(said):
    assert "NCCL 900.0" in said[0] and "GLOO 28.0" in said[0]


def test_all_evaluate_the_best_weights_that_the_first_process_sees(said):
    """Another host may see a shared folder as it was before."""
    assert "process 0 has [10.0]" in said[0] and "process 1 has [10.0]" in said[1]


class Shelf:
    """A store in memory, which ends with the first process."""

    def __init__(self):
        self.open, self._numbers, self._lock = True, {}, threading.Lock()

    def add(self, key, number):
        with self._lock:
            if not self.open:
                raise RuntimeError("Connection reset by peer")
            self._numbers[key] = self._numbers.get(key, 0) + number
            return self._numbers[key]


def test_the_store_may_end_when_the_first_process_has_met_the_others(monkeypatch):
    shelf, ends = Shelf(), []
    monkeypatch.setattr(store, "_own", lambda: shelf)

    def come(rank):
        store._meet(1, rank, 3)
        shelf.open = shelf.open and rank > 0
        ends.append(rank)

    others = [threading.Thread(target=come, args=[rank]) for rank in (1, 2)]
    for other in others:
        other.start()
    time.sleep(0.3)  # they look for the first one in long intervals by now
    assert not ends
    come(0)
    for other in others:
        other.join(5)
    assert sorted(ends) == [0, 1, 2]


def test_no_signal_reaches_a_thread_in_the_store_and_its_errors_reach_the_caller():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    blocked = store.undisturbed(lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD} <= set(blocked)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    with pytest.raises(KeyError):
        store.undisturbed(lambda: {}["x"])


def test_connections_to_a_port_are_found_and_nothing_is_left_open(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server, open(tmp_path / "file", "w"):
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, socket.socket():
            before = sorted(os.listdir("/proc/self/fd"))
            assert list(store._sockets_to(port)) == [client.fileno()]
            assert sorted(os.listdir("/proc/self/fd")) == before
        assert not list(store._sockets_to(port))
