"""What a network costs, counted on the network as it is built."""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Dict, Iterator

import paddle
from paddle import nn


def count_macs(network: nn.Layer, run: Callable[[], Any]) -> int:
    """Returns the multiply-adds of all linear and convolution layers during ``run()``.

    What has no such layer (additions, norms, activations) is not counted, as is usual.

    Args:
        network: its layers are watched.
        run: a forward pass.
    """
    macs, hooks = [], []

    def count(layer, _, output):
        weight = layer.weight
        columns = weight.shape[-1] if isinstance(layer, nn.Linear) else weight.shape[0]
        macs.append(output.size * (weight.size // columns))

    for layer in network.sublayers(include_self=True):
        if isinstance(layer, (nn.Linear, nn.Conv2D)):
            hooks.append(layer.register_forward_post_hook(count))
    run()
    for hook in hooks:
        hook.remove()
    return sum(macs)


@contextlib.contextmanager
def kept_for_backward(network: nn.Layer) -> Iterator[Dict[int, int]]:
    """Notes the tensors that a forward pass keeps for the backward pass, besides parameters.

    Yields:
        a dict that fills with the bytes of each, by its address; on PaddlePaddle 2, whose hooks
        lose tensors of a convolution, it stays empty.
    """
    if paddle.__version__.startswith("2."):
        yield {}
        return
    parameters = {parameter.data_ptr() for parameter in network.parameters()}
    kept: Dict[int, int] = {}

    def keep(tensor):
        if tensor.data_ptr() not in parameters:
            kept[tensor.data_ptr()] = tensor.size * tensor.element_size()
        return tensor

    with paddle.autograd.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept
