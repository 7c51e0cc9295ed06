"""What the blocks of all families share: residuals, stochastic depth, dropout, frozen parts."""

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.modeling.architectures import build_architecture
from passl.modeling.backbones import build_backbone
from passl.modeling.layers import DropPath
from passl.modeling.layers.weighted_branches import WeightedBranches

FAMILIES = {
    "MlpMixer": {
        "img_size": 16, "patch_size": 8, "embed_dim": 12, "num_blocks": 2, "tokens_mlp_dim": 6,
        "channels_mlp_dim": 20,
    },
    "Gmlp": {
        "img_size": 16, "patch_size": 8, "embed_dim": 12, "num_blocks": 2, "channels_mlp_dim": 20,
    },
    "ResMlp": {
        "img_size": 16, "patch_size": 8, "embed_dim": 12, "num_blocks": 2, "channels_mlp_dim": 20,
    },
    "ConvMlp": {
        "stem_channels": 8, "conv_depth": 1, "embed_dims": [8, 12], "depths": [2, 2],
        "mlp_ratios": [2, 2],
    },
    "CycleMlp": {"embed_dims": [8, 12], "depths": [2, 2], "mlp_ratios": [2, 2]},
    "VisionPermutator": {
        "img_size": 32, "patch_size": 4, "embed_dims": [8, 16], "depths": [2, 2], "halved": [True],
    },
}  # fmt: skip
# Residual branches of a block by its paper, and the layers between them that are no branches.
BRANCHES = {
    "MlpMixer": 2, "Gmlp": 1, "ResMlp": 2, "ConvMlp": 2, "CycleMlp": 2, "VisionPermutator": 2,
}  # fmt: skip
# Dropout after every linear map: 4 a Mixer block; in gMLP after the activation and at the end; in
# ResMLP in the channel MLP alone.
DROPOUTS = {"MlpMixer": 4, "Gmlp": 2, "ResMlp": 2}


def network(name, **more):
    """In training mode, with weights that no branch hides behind zeros."""
    paddle.seed(0)
    backbone = build_backbone({"name": name, **FAMILIES[name], **more})
    for parameter in backbone.parameters():
        parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape))
    backbone.train()
    return backbone


def blocks_of(backbone):
    """The blocks with stochastic depth, each with what it was given and gave in a forward pass."""
    seen, hooks = [], []
    for layer in backbone.sublayers():
        if any(isinstance(child, DropPath) for child in layer.children()):
            hooks.append(
                layer.register_forward_post_hook(
                    lambda layer, given, gave: seen.append((given[0], gave)) and None
                )
            )
    size = FAMILIES[type(backbone).__name__].get("img_size", 32)
    backbone(paddle.randn([2, 3, size, size]))
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("name", FAMILIES)
def test_without_its_branches_a_block_gives_what_it_gets(name, monkeypatch):
    calls = []

    def dropped(self, x):
        calls.append(self.rate)
        return paddle.zeros_like(x)

    monkeypatch.setattr(DropPath, "forward", dropped)
    backbone = network(name, drop_path_rate=0.5)
    blocks = blocks_of(backbone)
    conv_block = name == "ConvMlp"  # a depthwise convolution stands between its two branches
    assert len(calls) == BRANCHES[name] * len(blocks) and max(calls) == 0.5
    for given, gave in blocks:
        if not conv_block:
            np.testing.assert_array_equal(gave.numpy(), given.numpy())
    if conv_block:
        for layer in backbone.sublayers():
            if any(isinstance(child, DropPath) for child in layer.children()):
                x = paddle.randn([1, 4, 4, layer.mlp1.fc1.weight.shape[0]])
                between = layer.connect(layer.connect_norm(x))
                np.testing.assert_allclose(layer(x).numpy(), between.numpy(), rtol=1e-6)


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout_stands_after_every_linear_map_that_the_docstring_names(name, monkeypatch):
    calls = []
    forward = nn.Dropout.forward

    def counted(self, x):
        calls.append(self.p)
        return forward(self, x)

    monkeypatch.setattr(nn.Dropout, "forward", counted)
    blocks = blocks_of(network(name, drop_rate=0.3))
    assert calls == [0.3] * DROPOUTS[name] * len(blocks)


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_the_mlp_that_weighs_branches_is_as_narrow_as_it_is_told(reduction):
    assert WeightedBranches(32, 3, reduction).mlp.fc1.weight.shape == [32, 32 // reduction]


def test_a_frozen_part_stays_in_evaluation_mode():
    cfg = {
        "architecture": {"name": "ConvMlp", **FAMILIES["ConvMlp"], "drop_path_rate": 0.5},
        "head": {"name": "ClassificationHead", "num_classes": 9},
        "freeze": ["backbone"],
    }
    model = build_architecture(cfg)
    image = paddle.randn([4, 3, 32, 32])
    before = [buffer.numpy() for buffer in model.buffers()]
    for start in (lambda: None, model.train, lambda: (model.eval(), model.train())):
        start()
        assert not any(layer.training for layer in model.backbone.sublayers(include_self=True))
        model({"image": image})
    assert model.head.training
    for buffer, old in zip(model.buffers(), before):
        np.testing.assert_array_equal(buffer.numpy(), old)
