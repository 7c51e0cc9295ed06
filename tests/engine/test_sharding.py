"""State that is shared out: what a checkpoint of it takes."""

import tracemalloc

import numpy as np
import paddle
from paddle.base import core

from passl.engine.checkpoint import training_state
from passl.solver import OPTIMIZERS, WeightAverage

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
