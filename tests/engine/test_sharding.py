"""State that is shared out: what is accepted, and what a checkpoint of it takes."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle.base import core

from passl.distributed.processes import Processes
from passl.engine.checkpoint import training_state
from passl.engine.sharding import check_sharding
from passl.solver import OPTIMIZERS, WeightAverage
from passl.utils.errors import PasslError

LAYERS, WIDTH = 20, 100


def lay_into_one_storage(tensors):
    """Makes slices of one storage of tensors, as Paddle's group-sharded training does."""
    storage = paddle.concat([tensor.detach().flatten() for tensor in tensors])
    begin = 0
    for tensor in tensors:
        shape, end = tensor.shape, begin + tensor.size
        storage._slice(begin, end)._share_buffer_to(tensor)
        tensor.get_tensor()._set_dims(shape)
        begin = end


def allocated():
    """Bytes that Paddle and Python hold, by their own counts."""
    return core.host_memory_stat_current_value("Allocated", 0) + tracemalloc.get_traced_memory()[0]


def test_a_checkpoint_of_slices_of_one_storage_takes_the_memory_of_one_copy():
    network = paddle.nn.Sequential(*(paddle.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    optimizer = OPTIMIZERS.get("AdamW")(network)
    average = WeightAverage(network)
    network(paddle.ones([1, WIDTH])).sum().backward()
    optimizer.step(0.1)
    average.update(1, optimizer.weights())
    moments = [t for name, t in optimizer.paddle.state_dict().items() if "moment" in name]
    expected = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    for tensors in (network.parameters(), list(average.tensors().values()), moments):
        lay_into_one_storage(tensors)
    tracemalloc.start()
    before = allocated()
    state = training_state(network, optimizer, average)
    grown = allocated() - before
    tracemalloc.stop()
    one_copy = sum(array.nbytes for array in state.values())
    assert one_copy > 4 * LAYERS * WIDTH**2 * 4, "weights, two moments, averages"
    assert grown < 1.1 * one_copy
    for name, array in expected.items():
        np.testing.assert_array_equal(state[f"model/{name}"], array)


def checked(stage, device="gpu", size=2, **changes):
    cfg = SimpleNamespace(
        parallel=SimpleNamespace(sharding=stage), amp=None, to_static=False, **changes
    )
    check_sharding(cfg, device, Processes(0, size))


def test_the_stage_1_of_earlier_configs_says_that_it_is_2(caplog):
    with caplog.at_level("INFO"):
        for stage in (0, 2):
            checked(stage)
        assert not caplog.records
        checked(1)
    assert [record.message for record in caplog.records] == [
        "parallel.sharding: 1 is the same as 2: PaddlePaddle has one way for both"
    ]
    with pytest.raises(PasslError, match="is 0 or 2, not 3"):
        checked(3)
