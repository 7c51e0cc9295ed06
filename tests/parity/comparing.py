"""What the comparisons with others' code share."""

import numpy as np
import paddle

# The largest difference allowed, relative to the largest value.
TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3


def answers(network, pixels):
    """Returns the logits of a Network, and what every block gives, as NumPy arrays."""
    found, hooks = {}, []
    for i, block in enumerate(network.backbone.blocks):

        def keep(layer, inputs, output, name=f"block_{i}"):
            found[name] = output.numpy()

        hooks.append(block.register_forward_post_hook(keep))
    with paddle.no_grad():
        found["logits"] = network(paddle.to_tensor(pixels)).numpy()
    for hook in hooks:
        hook.remove()
    return found


def difference(ours, theirs):
    """Returns the largest difference between two arrays, relative to the largest of theirs."""
    assert ours.shape == theirs.shape
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def check_answers(ours, theirs, what):
    """Compares the outputs of ``answers``, and prints the largest differences."""
    assert ours.keys() == theirs.keys()
    found = {name: difference(ours[name], array) for name, array in theirs.items()}
    blocks = max(value for name, value in found.items() if name != "logits")
    print(f"{what}: logits {found['logits']:.1e}, {len(found) - 1} blocks at most {blocks:.1e}")
    assert all(value < TOLERANCE for value in found.values()), found


def input_gradient(network, pixels, direction):
    """Returns the gradient of the logits along ``direction`` with respect to the pixels."""
    images = paddle.to_tensor(pixels, stop_gradient=False)
    (network(images) * paddle.to_tensor(direction)).sum().backward()
    return images.grad.numpy()


def check_input_gradient(network, pixels, theirs, what):
    """Compares with ``direction`` and ``gradient`` of the reference, and prints the difference."""
    ours = input_gradient(network, pixels, theirs["direction"])
    found = difference(ours, theirs["gradient"])
    print(f"{what}: input gradient {found:.1e}")
    assert found < GRADIENT_TOLERANCE
