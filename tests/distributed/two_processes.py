"""What two processes do together. usage: two_processes.py CASE,CASE,… SECONDS."""

import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import passl  # noqa: F401  before paddle

# isort: split
import paddle
from helpers import NETWORK
from paddle import distributed
from paddle.base import core

from passl.distributed.peers import Peers
from passl.distributed.processes import Processes, join_processes
from passl.engine.training_run import TrainingRun
from passl.modeling.architectures import build_architecture
from passl.utils.errors import PasslError
from passl.utils.run_folder import BEST, checkpoint_folder
from passl.weights import write_tensor_file


def busy(processes: Processes, seconds: float) -> None:
    """The first process works alone; the other waits, signals notwithstanding, and then both go on.

    Afterwards the training thread uses Paddle's own connection to the store, beside the beats.
    """
    signals = []
    signal.signal(signal.SIGUSR1, lambda *_: signals.append(1))
    ended = threading.Event()

    def disturb():
        while not ended.wait(0.01):
            os.kill(os.getpid(), signal.SIGUSR1)

    with Peers(processes, 20.0):
        disturbing = threading.Thread(target=disturb)
        disturbing.start()
        begun = time.monotonic()
        with processes.one_by_host():
            print(f"process {processes.rank} after {time.monotonic() - begun:.2f} s", flush=True)
            if processes.is_first:
                time.sleep(seconds)
        ended.set()
        disturbing.join()
        paddles = core.create_or_get_global_tcp_store()
        answers = [paddles.add(f"answers of {processes.rank}", 1) for _ in range(40)]
        assert answers == list(range(1, 41)), answers
        total = processes.sum([processes.rank + 1.0])
    assert signals, "no signal has come"
    print(f"process {processes.rank}: sum {total}", flush=True)


def silent(processes: Processes, seconds: float) -> None:
    """The second process is not heard of; the first waits for it."""
    with Peers(processes, 2.0) as peers:
        if processes.is_first:
            processes.wait()
            print("met", flush=True)
        peers._closed.set()
        time.sleep(15)
        os._exit(0)


def failing(processes: Processes, seconds: float) -> None:
    """The second process fails and lives on for a while; the first waits for it."""
    begun = time.monotonic()
    try:
        with Peers(processes, 20.0):
            if not processes.is_first:
                raise PasslError("a mistake")
            processes.wait()
    except PasslError as error:
        print(f"{type(error).__name__}: {error} ({time.monotonic() - begun:.1f} s)", flush=True)
    time.sleep(1)


def best(processes: Processes, seconds: float) -> None:
    """The first process sees the file of the best weights, and the other one none yet."""
    architecture = build_architecture(
        {
            "architecture": {"name": "MlpMixer", **NETWORK},
            "head": {"name": "ClassificationHead", "num_classes": 3},
        }
    )
    folder = Path(tempfile.mkdtemp())
    weights = {}
    for name, tensor in architecture.state_dict().items():
        tensor.set_value(paddle.full(tensor.shape, 10.0, tensor.dtype))
        weights[f"model/{name}"] = tensor.numpy()
        tensor.set_value(paddle.zeros_like(tensor))
    path = checkpoint_folder(folder) / BEST
    path.parent.mkdir()
    if processes.is_first:
        write_tensor_file(path, weights, {"kind": "training"})
    run = SimpleNamespace(
        architecture=architecture, folder=folder, processes=processes, is_first=processes.is_first
    )
    TrainingRun._load_best(run)
    found = {number for t in architecture.state_dict().values() for number in t.numpy().flat}
    print(f"process {processes.rank} has {sorted(map(float, found))}", flush=True)


def default(processes: Processes, seconds: float) -> None:
    """Says after how long a process counts as lost by default, with each of Paddle's backends."""
    for name in ("NCCL", "GLOO"):
        distributed.get_backend = lambda name=name: name
        with Peers(processes, None) as peers:
            print(name, peers._lost_after, flush=True)


if __name__ == "__main__":
    known = {part.__name__: part for part in (busy, silent, failing, best, default)}
    joined = join_processes()
    for case in sys.argv[1].split(","):
        known[case](joined, float(sys.argv[2]))
