"""Data that the processes of a run exchange: sums, everybody's rows, one process's values.

This is the only place that does it. Alone, a process gets back what it came with, whether or not
Paddle's launcher has started it. Otherwise all processes must call the same functions in the same
order.

On a processor all processes get a PasslError where they come with different shapes; gloo alone
would abort them. The exchange of shapes takes as long as one of small tensors. On a GPU nobody
looks: it would have the host wait for the device in each step, and where the architecture says
``equal_batches`` the loader sees to equal shapes.

Inside ``to_static`` they are refused, except in a process alone.
"""

from __future__ import annotations

import math
from typing import Any, List

import numpy as np
import paddle
from paddle import distributed
from paddle.autograd import PyLayer

from passl.utils.errors import PasslError
from passl.utils.widened import widened

_PIECE = 2**26  # bytes of each process that ``gather_rows`` holds on a device at a time
_MOST_AXES = 8


def process_count() -> int:
    """Returns how many processes have joined; 1 where this one is alone."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def process_rank() -> int:
    """Returns the number of this process among those that have joined, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def all_reduce(tensor: paddle.Tensor) -> paddle.Tensor:
    """Returns the sum of a tensor over the processes, without gradient.

    Args:
        tensor: of any shape, the same in all processes.

    Returns:
        The same shape and dtype, and the same numbers in all processes.
    """
    if process_count() == 1:
        return tensor.detach()
    _check(tensor)
    return _sum(tensor.detach())


def all_gather(rows: paddle.Tensor) -> paddle.Tensor:
    """Returns the rows of all processes in the order of their numbers, without gradient.

    Args:
        rows: ``[n, …]``, the same shape in all processes.

    Returns:
        ``[processes · n, …]`` of the same dtype, the same in all processes.
    """
    if process_count() == 1:
        return rows.detach()
    _check(rows)
    return _gather(rows.detach())


def all_gather_with_gradient(rows: paddle.Tensor) -> paddle.Tensor:
    """Returns the rows of all processes in the order of their numbers, with their gradient.

    The gradient of a process's rows is the sum of what the losses of all processes contribute to
    them. DataParallel then takes the mean of the parameters' gradients over the processes, so that
    what is minimised is the **mean of the processes' losses**. For k processes with N/k samples
    each to train as one with N, that mean must be the loss of the N samples. It is, without any
    further factor, where each process returns

    - the mean over its own N/k rows, each compared with the N gathered ones (a k-th of the work),
    - or the same loss of all N gathered rows.

    The trainer's own factor, samples read / samples due, is 1 where all batches are full
    (``equal_batches``).

    Args:
        rows: ``[n, …]``, the same shape in all processes.

    Returns:
        ``[processes · n, …]`` of the same dtype. All processes must go backward through it. The
        gradient is summed in float32 at least.
    """
    if process_count() == 1:
        return rows
    _check(rows)
    return _AllGather.apply(rows)


def broadcast(tensor: paddle.Tensor, source: int = 0) -> None:
    """Gives a tensor the values that it has in process ``source``, in place.

    Args:
        tensor: of the same shape and dtype in all processes.
        source: whose values they become.
    """
    if process_count() > 1:
        _check(tensor)
        distributed.broadcast(tensor, src=source)


def gather_rows(rows: np.ndarray) -> np.ndarray:
    """Returns the rows of all processes in the order of their numbers, of however many each has.

    Args:
        rows: ``[n, …]`` of any dtype without objects; n may differ between processes, and be 0.

    Returns:
        ``[sum of all n, …]``, to the last bit, the same in all processes. A device holds at most 64
        MiB of each process at a time.

    Raises:
        PasslError: the rows of different processes have different sizes.
    """
    if process_count() == 1:
        return rows
    width = rows.dtype.itemsize * math.prod(rows.shape[1:])
    told = _gather(paddle.to_tensor([[len(rows), width]], dtype="int64")).numpy()
    counts, widths = told[:, 0].tolist(), told[:, 1].tolist()
    if len(set(widths)) > 1:
        raise PasslError(
            f"the processes gather rows of different sizes, {_listed(widths)} bytes; all must have "
            "the same dtype and shape, but for the first axis"
        )
    own = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), width)
    parts: List[List[np.ndarray]] = [[] for _ in counts]
    length = max(1, min(_PIECE // width, max(counts)))
    for begin in range(0, max(counts), length):
        piece = np.zeros((length, width), np.uint8)
        mine = own[begin : begin + length]
        piece[: len(mine)] = mine
        everybodys = _gather(paddle.to_tensor(piece)).numpy().reshape(-1, length, width)
        for part, theirs, count in zip(parts, everybodys, counts):
            part.append(theirs[: max(0, count - begin)])
    joined = np.concatenate([piece for part in parts for piece in part] or [own])
    return joined.reshape(-1).view(rows.dtype).reshape(sum(counts), *rows.shape[1:])


def all_gather_object(value: Any) -> List[Any]:
    """Returns what each process has come with, in the order of their numbers; any Python value."""
    if process_count() == 1:
        return [value]
    values: List[Any] = []
    distributed.all_gather_object(values, value)
    return values


# ------------------------------------------------ without any check


def _sum(tensor: paddle.Tensor) -> paddle.Tensor:
    total = tensor.clone()  # contiguous, whatever the tensor is
    distributed.all_reduce(total)
    return total


def _gather(rows: paddle.Tensor) -> paddle.Tensor:
    parts: List[paddle.Tensor] = []
    distributed.all_gather(parts, rows.contiguous())
    return paddle.concat(parts)


class _AllGather(PyLayer):
    @staticmethod
    def forward(ctx: Any, rows: paddle.Tensor) -> paddle.Tensor:
        ctx.count = rows.shape[0]
        return _gather(rows)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        begin = process_rank() * ctx.count
        return _sum(widened(gradient))[begin : begin + ctx.count].astype(gradient.dtype)


def _check(tensor: paddle.Tensor) -> None:
    """Makes sure that a tensor can be exchanged.

    Raises:
        PasslError: it is one of a static program, or, on a processor, has not the same shape and
            dtype in all processes; in all of them.
    """
    if not paddle.in_dynamic_mode():
        raise PasslError(
            "processes exchange tensors in the forward pass of this network, which a static "
            "program cannot do; set to_static=false, or train in one process"
        )
    if not tensor.place.is_cpu_place():
        return
    assert tensor.ndim <= _MOST_AXES
    shape = [int(tensor.dtype), tensor.ndim, *tensor.shape]
    told = np.zeros((1, 2 + _MOST_AXES), np.int64)
    told[0, : len(shape)] = shape
    everybodys = _gather(paddle.to_tensor(told)).numpy()
    if (everybodys != told).any():
        shapes = [row[2 : 2 + row[1]].tolist() for row in everybodys]
        raise PasslError(
            f"the processes exchange tensors of different shapes or types, {_listed(shapes)}; an "
            "architecture whose processes need equally many samples says equal_batches = True"
        )


def _listed(values: List[Any]) -> str:
    return ", ".join(f"{value} in process {rank}" for rank, value in enumerate(values[:8]))
