"""Keeping a part of a network as it is while the rest learns."""

from __future__ import annotations

from paddle import nn


def freeze(layer: nn.Layer) -> None:
    """Stops a layer's parameters from learning, and what is random in it from acting.

    Its dropout, stochastic depth and running statistics stay as in evaluation, also when the
    network around it is set to training through ``train()`` of an architecture or of a
    ``create_model`` network.
    """
    for parameter in layer.parameters():
        parameter.stop_gradient = True
    layer.eval()
    layer.frozen = True


def keep_frozen(network: nn.Layer) -> None:
    """Puts the frozen layers of a network back to evaluation, after its ``train()``."""
    for layer in network.sublayers():
        if getattr(layer, "frozen", False):
            layer.eval()
