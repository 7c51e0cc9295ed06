"""Networks whose every number follows from its name: what others' code answers needs no file.

``u(name, shape)`` is a hash of a name and an index, evenly between -1 and 1. A parameter is filled
by what its layer's authors call it, in torch's layout; so names, layouts and the network itself are
all compared with the numbers that the authors' code gave for the same rule, in float64.
"""

import zlib

import numpy as np
import paddle
from paddle import nn

from passl.modeling.architectures.classifier import Network
from passl.weights import load_weights
from passl.weights.formats import safetensors
from passl.weights.naming import namings

LABELS = np.array([3, 7])


def u(name, shape):
    """Returns float64 numbers in [-1, 1), a function of the name and of the place in the array."""
    h = np.arange(int(np.prod(shape)), dtype=np.uint64)
    low = np.uint64(2**32 - 1)
    h = (h * np.uint64(2654435761) + np.uint64(zlib.crc32(name.encode()))) & low
    h ^= h >> np.uint64(16)
    h = (h * np.uint64(2246822519)) & low
    h ^= h >> np.uint64(13)
    h = (h * np.uint64(3266489917)) & low
    h ^= h >> np.uint64(16)
    return (h / 2.0**31 - 1.0).reshape(shape)


def images(times=1.0):
    """Returns two made-up images, float32 ``[2, 3, 224, 224]``."""
    b, c, h, w = np.ogrid[:2, :3, :224, :224]
    waves = 1.2 * np.sin((0.03 + 0.02 * b) * h + (0.05 + 0.01 * c) * w + c)
    return (times * (waves + u("image", (2, 3, 224, 224)))).astype(np.float32)


def filled(network, publisher, keep=()):
    """Returns what a publisher's file of the network would hold, by the rule.

    Args:
        network: a Network; what its parameters are called and shaped like.
        publisher: whose names, of ``released_names``.
        keep: parts of names of arrays that keep what they have, such as fixed positions.
    """
    naming = namings(network.backbone.released_names)[publisher]
    layers = dict(network.named_sublayers())
    arrays = {}
    for name, tensor in network.state_dict().items():
        parent, _, leaf = name.rpartition(".")
        layer, shape = layers[parent], tuple(tensor.shape)
        there = naming.to_there(name, len(shape))
        assert there, name
        linear = isinstance(layer, nn.Linear) and leaf == "weight"
        in_torch = shape[::-1] if linear else shape
        norm = isinstance(layer, (nn.LayerNorm, nn.BatchNorm1D, nn.BatchNorm2D))
        value = u(there, in_torch)
        if any(part in name for part in keep):
            value = tensor.numpy()
        elif norm:
            value = {"weight": 1 + 0.3 * value, "_variance": 1 + 0.4 * value}.get(leaf, 0.3 * value)
        elif isinstance(layer, (nn.Linear, nn.Conv2D)):
            fan_in = np.prod(in_torch[1:])
            value = 0.3 * value if leaf == "bias" else 2 * value / np.sqrt(fan_in)
        elif "gamma" in leaf:
            value = 0.5 + 0.5 * value
        arrays[there] = value.astype(np.float32)
    return arrays


def golden_network(name, publisher, folder, head="ClassificationHead", keep=(), **arguments):
    """Returns a network that has read a file of the rule's numbers under a publisher's names."""
    network = Network({"name": name, **arguments}, {"name": head, "num_classes": 1000})
    file = folder / f"{name}.safetensors"
    safetensors.write(str(file), filled(network, publisher, keep), {"format": "pt"})
    report = load_weights(network, file)
    assert report.publisher == publisher and not report.kept and not report.left_out
    file.unlink()
    network.eval()
    return network


def summary(network, times=1.0):
    """Returns the first four logits of the first image, the last of the second, and their sum."""
    with paddle.no_grad():
        return _in_short(network(paddle.to_tensor(images(times))))


def _in_short(logits):
    logits = logits.numpy().astype(np.float64)
    return np.array([*logits[0, :4], logits[1, 999], np.abs(logits).sum()])


def check_summary(network, expected, times=1.0):
    """Compares with the authors' code: 1e-5 of the logits' size, and of their sum."""
    _check(summary(network, times), np.array(expected))


def _check(found, expected):
    scale = np.array([*[np.abs(expected[:5]).max()] * 5, expected[5]])
    wrong = np.abs(found - expected) / scale
    assert wrong.max() < 1e-5, (found, wrong)


def scaled(network, names, factor=0.002):
    """Makes some parameters small: the tokens, so that the epsilon of the norms matters."""
    parameters = dict(network.named_parameters())
    for name in names:
        parameters[name].set_value(parameters[name] * factor)


def loss_and_gradients(network, expected=None):
    """Returns the mean cross-entropy of the two images and the norms of all gradients, by name.

    And compares the logits, as ``check_summary`` does, where they are given.
    """
    network.clear_gradients()
    dtype = next(iter(network.parameters())).dtype
    logits = network(paddle.to_tensor(images()).astype(dtype))
    if expected is not None:
        _check(_in_short(logits), np.array(expected))
    loss = nn.functional.cross_entropy(logits, paddle.to_tensor(LABELS))
    loss.backward()
    norms = {
        name: float(np.linalg.norm(parameter.grad.numpy().astype(np.float64)))
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }
    network.clear_gradients()
    return float(loss), norms
