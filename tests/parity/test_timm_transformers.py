"""ViT, DeiT and Swin beside timm's, of random weights, on twenty photographs."""

import json
import math

import numpy as np
import paddle
import pytest
from comparing import difference

from passl.modeling.architectures.classifier import Network
from passl.weights import load_weights

# timm's name and arguments, ours, and the size of the images that the file is for, where it is
# another.
CASES = {
    "vit_ti16": ("vit_tiny_patch16_224", {}, {"name": "vit_ti16_224"}, None),
    "vit_s16": ("vit_small_patch16_224", {}, {"name": "vit_s16_224"}, None),
    "vit_s16_384": (
        "vit_small_patch16_224",
        {"img_size": 384, "depth": 4},
        {"name": "vit_s16_384", "num_blocks": 4},
        224,
    ),
    "vit_wide": (
        "vit_tiny_patch16_224",
        {"img_size": [96, 160], "depth": 4},
        {"name": "vit_ti16_224", "img_size": [96, 160], "num_blocks": 4},
        None,
    ),
    "deit_distilled": (
        "deit_tiny_distilled_patch16_224",
        {},
        {"name": "deit_ti16_distilled_224"},
        None,
    ),
    "swin_t": ("swin_tiny_patch4_window7_224", {}, {"name": "swin_t_224"}, None),
    "swin_b_384": (
        "swin_base_patch4_window12_384",
        {"depths": [2, 2, 2, 2], "embed_dim": 64, "num_heads": [2, 4, 8, 16]},
        {"name": "swin_b_384", "depths": [2, 2, 2, 2], "embed_dim": 64, "num_heads": [2, 4, 8, 16]},
        None,
    ),
    "swin_wide": (
        "swin_tiny_patch4_window7_224",
        # Maps no side of which is a window: there timm shifts along the other side, and the
        # authors do not.
        {"img_size": [256, 384], "window_size": 4, "depths": [2, 2, 2, 2]},
        {
            "name": "swin_t_224",
            "img_size": [256, 384],
            "window_size": 4,
            "depths": [2, 2, 2, 2],
        },
        None,
    ),
}


# Seen with torch 2.13.0, timm 1.0.31 and Paddle 3.3.1: logits within 6e-7, maps within 9e-7,
# gradients within 3e-6.


@pytest.mark.reference
@pytest.mark.parametrize("case", CASES)
def test_the_network_answers_as_timms_does(reference, photographs, tmp_path, case):
    name, there, here, file_size = CASES[case]
    count = 20 if case in ("vit_ti16", "vit_s16", "swin_t", "deit_distilled") else 2
    reference(
        "timm_transformers.py", name, tmp_path, "--arguments", json.dumps(there),
        *(["--file-size", file_size] if file_size else []),
        "--photographs", *photographs[:count],
    )  # fmt: skip
    with np.load(tmp_path / "answers.npz") as arrays:
        theirs = dict(arrays)
    head = "DistilledHead" if "distilled" in case else "ClassificationHead"
    network = Network(here, {"name": head, "num_classes": 1000})
    report = load_weights(network, tmp_path / "weights.safetensors")
    assert report.publisher == "timm" and not report.kept and not report.left_out
    network.eval()
    assert sum(math.prod(p.shape) for p in network.parameters()) == theirs["parameters"]
    image = paddle.to_tensor(theirs["pixels"][:2], stop_gradient=False)
    loss = paddle.nn.functional.cross_entropy(network(image), paddle.to_tensor(theirs["labels"]))
    loss.backward()
    with paddle.no_grad():
        stages = network.backbone.forward_stages(image)
        logits = network(paddle.to_tensor(theirs["pixels"]))
    assert len(stages) == 4 and logits.shape == [count, 1000]
    ours = {"logits": logits, "gradient": image.grad}
    ours.update({f"stage_{i}": stage for i, stage in enumerate(stages)})
    found = {key: difference(value.numpy(), theirs[key]) for key, value in ours.items()}
    print(case, {key: f"{value:.1e}" for key, value in found.items()})
    assert found.pop("gradient") < 1e-4
    assert max(found.values()) < 1e-5, found
