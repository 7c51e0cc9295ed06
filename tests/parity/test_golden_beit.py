"""BEiT-B with numbers that follow from their names: what the authors' code answers, in float64."""

import json
import math

import numpy as np
import paddle
import pytest
from comparing import difference
from golden_numbers import check_summary, golden_network, loss_and_gradients, scaled

from passl.modeling.architectures.classifier import Network
from passl.weights import load_weights

A = (-0.910800, -0.185257, 0.199996, 0.528856, 0.367024, 1888.8618)
B = (-0.429194, 0.612545, -0.863033, 1.037723, 0.309897, 1939.5084)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    # timm's names are the authors'; theirs are told apart by the key that their files have.
    return golden_network("beit_b16_224", "timm", tmp_path_factory.mktemp("beit"))


@pytest.mark.smoke
def test_logits_loss_and_gradients_are_the_authors(network):
    loss, norms = loss_and_gradients(network, A)
    assert loss == pytest.approx(6.315195, rel=1e-6)
    assert norms.keys() == {name for name, _ in network.named_parameters()}
    for name, norm in {
        "backbone.blocks.0.attn.relative_position_bias_table": 0.0123523,
        "backbone.blocks.0.attn.q_bias": 0.20347,
        "backbone.blocks.0.gamma_1": 0.674603,
        "backbone.cls_token": 0.0118615,
        "backbone.fc_norm.weight": 0.787153,
    }.items():
        assert norms[name] == pytest.approx(norm, rel=1e-4), name


def test_small_tokens_tell_the_epsilon(network):
    """With an epsilon of 1e-5 the logits would be off by 0.83."""
    scaled(network, ["backbone.stem.proj.bias", "backbone.cls_token"])
    check_summary(network, B, times=0.002)


# timm's arguments, ours, and the size of the images that the file is for, where it is another.
SMALL = {"embed_dim": 48, "num_heads": 3, "patch_size": 8, "mlp_ratio": 3.0}
LIVE = {
    "base": ({}, {"name": "beit_b16_224"}, None),
    **{
        f"{way}{positions}": (
            {"img_size": [48, 80], "depth": 5, **SMALL, **there},
            {"name": "Beit", "img_size": [48, 80], "num_blocks": 5, **SMALL, **here},
            file_size,
        )
        for way, file_size in (("", None), ("resized_", 64))
        for positions, there, here in (
            ("relative", {}, {}),
            (
                "absolute",
                {"use_abs_pos_emb": True, "use_rel_pos_bias": False, "init_values": 0},
                {"positions": "absolute", "layer_scale_init": 0.0},
            ),
        )
    },
}


# Seen with torch 2.13.0, timm 1.0.31 and Paddle 3.3.1: logits and maps within 5.5e-7, gradients
# within 1.3e-6.
@pytest.mark.reference
@pytest.mark.parametrize("name", LIVE)
def test_the_network_answers_as_timms_does(reference, tmp_path, name):
    there, here, file_size = LIVE[name]
    reference(
        "timm_beit.py", tmp_path, "--arguments", json.dumps(there),
        *(["--file-size", file_size] if file_size else []),
    )  # fmt: skip
    with np.load(tmp_path / "answers.npz") as arrays:
        theirs = dict(arrays)
    network = Network(here, {"name": "ClassificationHead", "num_classes": 1000})
    report = load_weights(network, tmp_path / "weights.pth")
    assert report.publisher == "timm" and not report.kept and not report.left_out
    network.eval()
    assert sum(math.prod(p.shape) for p in network.parameters()) == theirs["parameters"]
    image = paddle.to_tensor(theirs["pixels"], stop_gradient=False)
    logits = network(image)
    paddle.nn.functional.cross_entropy(logits, paddle.to_tensor(theirs["labels"])).backward()
    with paddle.no_grad():
        stages = network.backbone.forward_stages(image)
    assert len(stages) == 4
    ours = {"logits": logits.detach(), "gradient": image.grad}
    ours.update({f"stage_{i}": stage for i, stage in enumerate(stages)})
    found = {key: difference(value.numpy(), theirs[key]) for key, value in ours.items()}
    print(name, {key: f"{value:.1e}" for key, value in found.items()})
    assert found.pop("gradient") < 1e-4
    assert max(found.values()) < 1e-5, found
