"""Small networks of the self-supervised methods, and batches of two views for them."""

import numpy as np
import paddle

from passl.modeling.architectures import build_architecture

METHODS = {
    # Not with the authors' weights of 0.01: batch norms after those make steps so large that
    # rounding grows a thousandfold in each.
    "SimCLR": {"projector": {"hidden": 12, "out": 6, "init": "torch"}, "T": 0.5},
    "MoCo": {"projector": {"hidden": 12, "out": 6}, "K": 32, "m": 0.875, "T": 0.25},
    "BYOL": {"projector": {"hidden": 12, "out": 6}, "tau": 0.75},
}
BACKBONES = {
    "ResNet": {"blocks": [1, 1], "bottleneck": False, "width": 4, "stem": "cifar"},
    "MlpMixer": {
        "img_size": 16,
        "patch_size": 8,
        "embed_dim": 16,
        "num_blocks": 2,
        "tokens_mlp_dim": 8,
        "channels_mlp_dim": 32,
    },
    "VisionTransformer": {
        "img_size": 16,
        "patch_size": 8,
        "embed_dim": 16,
        "num_blocks": 2,
        "num_heads": 2,
    },
    "SwinTransformer": {
        "img_size": 16,
        "patch_size": 2,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 4,
    },
}
SIZE = 16


def method(name, backbone="ResNet", seed=0, dtype="float32", **changes):
    """Returns a small network of a method, in training mode."""
    paddle.seed(seed)
    architecture = {"name": backbone, **BACKBONES[backbone]}
    network = build_architecture(
        {"name": name, "architecture": architecture, **METHODS[name], **changes}
    )
    if dtype != "float32":
        pointers = [(q, q.pointer) for q in network.sublayers() if hasattr(q, "pointer")]
        network.to(dtype=dtype)  # integers as well
        for queue, pointer in pointers:
            queue.pointer = pointer.astype("int64")
    network.train()
    return network


def views(count, seed=0, dtype="float32"):
    """Returns a batch of two views of each image: the second is the first with other noise."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(count, 3, SIZE, SIZE))
    noise = rng.normal(size=(2, *images.shape)) * 0.3
    names = ("image", "image_1")
    return {name: paddle.to_tensor((images + n).astype(dtype)) for name, n in zip(names, noise)}
