"""Steps of training on made-up batches, as a run makes them, in one process or several."""

import types

import numpy as np
import paddle

from passl.distributed import collectives
from passl.distributed.processes import Processes
from passl.engine.execution import Execution
from passl.engine.precision import Precision
from passl.engine.running_statistics import share_running_statistics
from passl.engine.step import TrainingStep
from passl.solver import build_optimizer

SECTIONS = types.SimpleNamespace(
    recompute=False, to_static=False, parallel=types.SimpleNamespace(sharding=0, fusion_mb=25.0)
)


def stepping(network, images, rate=0.0, total=100, processes=None, parts=1, **optimizer):
    """Returns what makes the steps of a run, ``step(number, batch)``, and the optimizer.

    Args:
        images: of a step, in this process.
        parts: into which a step's batch is cut.
        **optimizer: its config; SGD with momentum where it has no name.
    """
    processes = processes or Processes()
    if "name" not in optimizer:
        optimizer = {"name": "SGD", "momentum": 0.875, **optimizer}
    solver = build_optimizer(optimizer, network)
    execution = Execution(SECTIONS, network, solver, Precision(None, "cpu"), processes)
    network.train()
    step = TrainingStep(
        network, solver, execution, None, images, parts, total, seed=0, rank=processes.rank
    )

    def make(number, batch):
        size = images // parts
        cuts = [slice(begin, begin + size) for begin in range(0, images, size)]
        return step(number, iter([{key: x[c] for key, x in batch.items()} for c in cuts]), rate)

    return make, solver


def trained(network, images, batches, processes, **settings):
    """Returns, by name, state and gradients at the end, and the mean loss of each step.

    The gradients are those of the first step; running statistics are those of all processes.

    Args:
        images: of a step, over all processes.
        batches: one for each step, of which each process takes its part.
        settings: of ``stepping``.
    """
    share = images // processes.size
    step, optimizer = stepping(network, share, total=len(batches), processes=processes, **settings)
    found, losses, make = {}, [], optimizer.step

    def recording(rate):
        if not losses:
            for key, parameter in network.named_parameters():
                if parameter.grad is not None:
                    found[f"gradient/{key}"] = parameter.grad.numpy()
        return make(rate)

    optimizer.step = recording
    mine = slice(processes.rank * share, (processes.rank + 1) * share)
    for number, batch in enumerate(batches):
        result = step(number, {key: x[mine] for key, x in batch.items()})
        assert bool(result.finite)
        losses.append(processes.mean(result.losses[0].reshape([1])).item())
        for key, value in result.scalars[0].items():
            if key.endswith("_top1"):  # others are those of a process
                shares = found.setdefault(f"scalars/{key}", [])
                shares.append(processes.mean(value.reshape([1])).item())
    share_running_statistics(network, processes)
    state = {key: tensor.numpy() for key, tensor in network.state_dict().items()}
    found = {key: np.array(value) for key, value in found.items()}
    return {**state, **found, "loss": np.array(losses)}


def assert_same_in_all_processes(arrays):
    """Compares arrays to the last bit."""
    for name, array in arrays.items():
        theirs = collectives.all_gather(paddle.to_tensor(array.reshape(1, -1))).numpy()
        for other in theirs[1:]:
            np.testing.assert_array_equal(theirs[0], other, name)


def assert_close(found, expected, dtype):
    """Compares what ``trained`` returned: of one step in float32, of ten in float64."""
    assert set(found) == set(expected)
    for key, array in expected.items():
        tolerance = 1e-9
        if dtype == "float32":
            tolerance = 1e-6 if key == "loss" else 1e-5
        scale = max(1.0, np.abs(array).max())
        error = np.abs(found[key].astype("float64") - array).max() / scale
        assert error < tolerance, (key, error)
