"""How much memory a process has used."""

from __future__ import annotations

import contextlib
import resource
import sys

_MIB = 2**20


def peak_memory(device: str) -> float:
    """Returns the most memory that this process has held so far, in MiB.

    Args:
        device: ``gpu`` for what tensors have taken of the current GPU's, which Paddle may have set
            aside more of; ``cpu`` for all that the process has had in memory, without its workers.
    """
    if device == "gpu":
        import paddle

        return paddle.device.cuda.max_memory_allocated() / _MIB
    # Not by getrusage where it can be helped: it begins with what the starting process had.
    with contextlib.suppress(OSError):
        with open("/proc/self/status", encoding="utf-8") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 / _MIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB
