"""What the samples of a set consist of, learnt from one of them."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from typing import List, Optional, Sequence, Tuple

import numpy as np

from passl.datasets.dataset import ImageDataset, SampleKey
from passl.datasets.loading.watch import leave_with_parent

# Name, type as NumPy writes it, and shape of a field of a sample.
Field = Tuple[str, str, Tuple[int, ...]]


def learn_fields(
    dataset: ImageDataset, keys: Sequence[SampleKey], patience: float
) -> Optional[List[Field]]:
    """Returns the fields of the first sample that can be read; None where none can be.

    It is read by a process of its own, as the workers will read it: a file that crashes a decoder,
    or a drive that does not answer, must meet a worker, which is watched, and not this process.

    Args:
        dataset: where samples come from.
        keys: those to try, one after the other.
        patience: seconds after which that process is given up.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=_look, args=(dataset, keys, sender), daemon=True
    )
    collecting = gc.isenabled()
    gc.disable()  # as for workers: what is inherited must not be collected there
    try:
        process.start()
        sender.close()  # so that the end of the process is the end of the pipe
        return receiver.recv() if receiver.poll(patience) else None
    except (OSError, EOFError):  # it has died, or could not be started, as workers cannot be then
        return None
    finally:
        if collecting:
            gc.enable()
        receiver.close()
        sender.close()
        if process.pid is not None:
            process.kill()
            process.join(1.0)


def _look(dataset: ImageDataset, keys: Sequence[SampleKey], sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's
    # Where this crashes so does a worker, and that is reported.
    for number in (signal.SIGTERM, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
        signal.signal(number, signal.SIG_DFL)
    threading.Thread(target=leave_with_parent, args=(os.getppid(),), daemon=True).start()
    for key in keys:
        # Whatever is wrong with a sample, a worker will say so.
        with contextlib.suppress(BaseException):
            arrays = {name: np.asarray(value) for name, value in dataset[key].items()}
            sender.send([(name, a.dtype.str, a.shape) for name, a in arrays.items()])
            return
    sender.send(None)
