"""The processes that train together: which one this is, and what they work out in common.

Paddle's launcher starts them and says in the environment who each one is; Paddle's own collective
operations (NCCL on GPUs, gloo on processors) carry everything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import socket
from typing import Iterator, List, Optional, Sequence

import paddle
from paddle import distributed

from passl.distributed.collectives import all_reduce, process_rank
from passl.distributed.store import LostProcess, lost, meet
from passl.utils.device_errors import explain_device_error
from passl.utils.errors import PasslError
from passl.utils.logging import quiet_console


@dataclasses.dataclass(frozen=True)
class Processes:
    """This process among those of a run.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the one process that prints and writes files."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> List[float]:
        """Returns the sums of numbers that every process has, in float64; all must call it."""
        if self.size == 1:
            return [float(value) for value in values]
        mine = paddle.to_tensor([float(value) for value in values], dtype="float64")
        return all_reduce(mine).numpy().tolist()

    def mean(self, tensor: paddle.Tensor) -> paddle.Tensor:
        """Returns the mean of a tensor over the processes, the same in all; all must call it."""
        total = tensor.astype("float64")
        if self.size > 1:
            total = all_reduce(total)
        return (total / self.size).astype(tensor.dtype)

    def agree(self, what: str, value: float, remedy: str) -> None:
        """Raises PasslError in every process unless all come with the same number.

        Args:
            what: what the number is, for the message.
            value: this process's, a whole number below 2^53.
            remedy: what to do about it.
        """
        self.wait()
        mine = [0.0] * self.size
        mine[self.rank] = value
        values = self.sum(mine)
        if len(set(values)) > 1:
            raise PasslError(
                f"the processes differ in {what}: "
                + ", ".join(f"{v:.0f} in process {rank}" for rank, v in enumerate(values[:8]))
                + f"; {remedy}"
            )

    def wait(self) -> None:
        """Returns when every process has called it, however long that takes.

        To be called after work that one process does alone, before the next exchange of tensors:
        in one of those gloo waits for no process longer than 30 seconds.

        Raises:
            LostProcess: a process has failed.
        """
        if self.size > 1:
            meet(self.rank, self.size)

    @contextlib.contextmanager
    def one_by_host(self) -> Iterator[None]:
        """Lets the first process of each host go through a block before the others.

        For work that leaves behind what saves the others the same work, such as an index of files.
        """
        first = int(os.environ.get("PADDLE_LOCAL_RANK", "0")) == 0
        if not first:
            self.wait()
        try:
            yield
        finally:  # after an error as well: the others are about to meet the same one
            if first:
                self.wait()


# What gloo, NCCL (2: a system call failed, of a socket as a rule; 6: the remote end) and Paddle's
# store say when the other end of a connection is gone.
_OTHER_END_IS_GONE = re.compile(
    r"gloo/|gloo::|NCCL error\([26]\)|connection (reset|closed)", re.IGNORECASE
)


def lost_process(error: BaseException) -> Optional[LostProcess]:
    """Returns what to tell the user where an error means that another process is gone, or None.

    Errors of the device are none of these, though those that come up in the middle of an exchange
    name NCCL in Paddle's C++ trace: what counts is Paddle's summary of the error.
    """
    if isinstance(error, OSError) and error.errno is not None:  # the operating system's
        return None
    summary = _summary(error)
    return lost(process_rank(), summary) if _OTHER_END_IS_GONE.search(summary) else None


def _summary(error: BaseException) -> str:
    """Returns the line in which Paddle sums an error up, below its C++ trace."""
    text = str(error).rpartition("Error Message Summary:")[2]
    return next((line.strip() for line in text.splitlines() if line.strip("- ")), "")


def launched_size() -> int:
    """Returns the number of processes that Paddle's launcher says there are; 1 without it."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


def join_processes() -> Processes:
    """Connects to the other processes of the run; call it after the device has been selected.

    From here on only the first one speaks on the console, but for warnings.

    Raises:
        LostProcess: they cannot be reached.
    """
    if launched_size() == 1:
        return Processes()
    try:
        distributed.init_parallel_env()
    except (RuntimeError, ValueError, OSError) as error:
        if explain_device_error(error, memory="", again="") is not None:
            raise  # the command explains it
        raise LostProcess(
            f"{socket.gethostname()}: process {os.environ.get('PADDLE_TRAINER_ID', '?')} cannot "
            f"reach the others at {os.environ.get('PADDLE_MASTER', 'the first endpoint')} "
            f"({_summary(error)}); is --master right, and its port open?"
        ) from error
    processes = Processes(distributed.get_rank(), distributed.get_world_size())
    if not processes.is_first:
        quiet_console()
    return processes
