"""What a network costs, counted on the network as it is built."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

import paddle
from paddle import nn

from passl.modeling.layers.attention import watched_attention


def count_macs(network: nn.Layer, run: Callable[[], Any]) -> int:
    """Returns the multiply-adds of linear layers, convolutions and attention during ``run()``.

    What is none of them (additions, norms, activations) is not counted, as is usual.

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
    # Queries with keys, and attention weights with values.
    with watched_attention(lambda q, weights: macs.append(2 * weights.size * q.shape[-1])):
        run()
    for hook in hooks:
        hook.remove()
    return sum(macs)


def kept_for_backward(network: nn.Layer, run: Callable[[], Any], recompute: bool = False) -> int:
    """Returns the bytes that a forward pass keeps for the backward pass, besides parameters.

    Args:
        network: as it is built: nothing in it is recomputed yet.
        run: a forward pass.
        recompute: whether its blocks are going to forget their activations. Then their inputs are
            kept, and while a block is computed again, what that one keeps; the largest counts.

    Returns:
        0 on PaddlePaddle 2, whose hooks lose tensors of a convolution.
    """
    if paddle.__version__.startswith("2."):
        return 0
    parameters = {parameter.data_ptr() for parameter in network.parameters()}
    kept: Dict[int, int] = {}  # bytes by address
    blocks: List[Dict[int, int]] = []
    inside: List[Dict[int, int]] = []  # the block that is being run, if one is

    def note(tensor: paddle.Tensor) -> paddle.Tensor:
        if tensor.data_ptr() not in parameters:
            place = inside[-1] if inside else kept
            place[tensor.data_ptr()] = tensor.size * tensor.element_size()
        return tensor

    def enter(_, inputs) -> None:
        for tensor in inputs:
            note(tensor)
        blocks.append({})
        inside.append(blocks[-1])

    def leave(*_) -> None:
        inside.pop()

    hooks = []
    if recompute:
        for layer in network.sublayers():
            if getattr(layer, "recompute", False):
                hooks.append(layer.register_forward_pre_hook(enter))
                hooks.append(layer.register_forward_post_hook(leave))
    with paddle.autograd.saved_tensors_hooks(note, lambda tensor: tensor):
        held = run()  # until it is counted no address is given out again
    for hook in hooks:
        hook.remove()
    del held
    largest = max((sum(block.values()) for block in blocks), default=0)
    return sum(kept.values()) + largest
