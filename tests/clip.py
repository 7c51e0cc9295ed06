"""Small networks of CLIP, their state as open_clip calls it, and batches of pairs for them."""

import numpy as np
import paddle

from passl.modeling.architectures import build_architecture
from passl.tokenization import TOKENIZERS, CLIPTokenizer
from passl.utils.stored_array import StoredArray
from passl.weights.naming import namings

TEXT = {"embed_dim": 64, "num_blocks": 2, "num_heads": 2}
TOWERS = {
    "ViT": {
        "name": "CLIPVisionTransformer",
        "img_size": 32,
        "patch_size": 16,
        "embed_dim": 64,
        "num_blocks": 2,
        "num_heads": 2,
    },
    "ResNet": {
        "name": "CLIPResNet",
        "img_size": 64,
        "blocks": [1, 2, 1, 1],
        "width": 16,
        "embed_dim": 48,
    },
}
# A quicker one, for steps: texts of ten ids out of a hundred.
SMALL_TEXT = {"embed_dim": 16, "num_blocks": 2, "num_heads": 2, "context": 10, "vocabulary": 100}


@TOKENIZERS.register
class HundredIds(CLIPTokenizer):
    """Stands for a tokenizer of a small vocabulary."""

    size, start, end = 100, 98, 99


def clip(tower, quick_gelu=False, dtype="float32", seed=0, text=TEXT, **changes):
    """Returns a network of the golden numbers, in training mode."""
    paddle.seed(seed)
    architecture = dict(TOWERS[tower])
    if tower == "ViT":
        architecture["quick_gelu"] = quick_gelu
    network = build_architecture(
        {
            "name": "CLIP",
            "architecture": architecture,
            "text": {**text, "quick_gelu": quick_gelu},
            "embed_dim": 48,
            "project_images": tower == "ViT",
            **changes,
        }
    )
    if dtype != "float32":
        network.to(dtype=dtype)
    network.train()
    return network


def open_clip_state(network, arrays=None):
    """Returns the state, or arrays by the same names, as open_clip has it: name there -> array."""
    naming = namings(network.backbone.released_names)["openai"]
    if arrays is None:
        arrays = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    state = {}
    for name, array in arrays.items():
        stored = StoredArray(array.shape, array.dtype, lambda array=array: array)
        for there, part in naming.write(name, stored).items():
            state[there] = np.asarray(part.read(), order="C")
    return state


def take_open_clip_state(network, state):
    """Sets the network's state to that of open_clip, by the same names."""
    naming = namings(network.backbone.released_names)["openai"]
    own = network.state_dict()
    for there, array in state.items():
        stored = StoredArray(array.shape, array.dtype, lambda array=array: array)
        here = naming.read(there, stored, "torch").read()
        own[naming.to_here(there)].set_value(paddle.to_tensor(np.asarray(here, order="C")))


def pairs(count, size, seed=0, context=77, vocabulary=49_408, dtype="float32"):
    """Returns a batch of images and texts of different lengths."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, vocabulary - 2, (count, context))
    ids[:, 0] = vocabulary - 2
    for row, length in zip(ids, rng.integers(3, context + 1, count)):
        row[length - 1 :] = 0
        row[length - 1] = vocabulary - 1
    images = rng.normal(size=(count, 3, size, size)).astype(dtype)
    return {"image": paddle.to_tensor(images), "text": paddle.to_tensor(ids)}


def small_clip(tower, dtype="float32", quick_gelu=True, **changes):
    """Returns a network of ``SMALL_TEXT``, in training mode."""
    tokenizer = {"name": "HundredIds"}
    return clip(tower, quick_gelu, dtype, text=SMALL_TEXT, tokenizer=tokenizer, **changes)


def small_pairs(tower, count, seed=0, dtype="float32"):
    """Returns a batch for it."""
    return pairs(count, {"ViT": 32, "ResNet": 64}[tower], seed, 10, 100, dtype)
