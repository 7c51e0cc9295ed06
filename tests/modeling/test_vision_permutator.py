import math

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.modeling.architectures import build_architecture
from passl.modeling.backbones import build_backbone
from passl.modeling.backbones.vision_permutator import PermuteMlp
from passl.utils.errors import PasslError

SMALL = {
    "name": "VisionPermutator",
    "img_size": 32,
    "patch_size": 4,
    "embed_dims": [8, 12, 16],
    "depths": [1, 2, 2],
    "halved": [True, False],
    "mlp_ratio": 2,
}


# The authors' code, run on a CPU, gives these (tests/reference/authors_network.py all).
@pytest.mark.parametrize(
    "name, count", [("vip_s7", 25114984), ("vip_m7", 55272488), ("vip_l7", 87784936)]
)
def test_parameter_counts(monkeypatch, name, count):
    # Initialisers would draw, and thereby allocate, every number.
    monkeypatch.setattr(nn.initializer.Initializer, "__call__", lambda *_args, **_kwargs: None)
    network = build_architecture(
        {"architecture": {"name": name}, "head": {"name": "ClassificationHead"}}
    )
    assert sum(math.prod(p.shape) for p in network.parameters()) == count


@pytest.mark.smoke
def test_the_maps_along_height_and_width_are_the_papers():
    """Written out: a map of what is in one segment of a column, or of a row."""
    rng = np.random.default_rng(0)
    side, channels, size = 4, 12, 3
    layer = PermuteMlp(channels, side)
    x = rng.normal(size=(2, side, side, channels))
    weights = {}
    for name in ("height", "width", "channel"):
        weights[name] = rng.normal(size=(channels, channels))
        getattr(layer, name).weight.set_value(weights[name].astype(np.float32))
    expected = {"height": np.zeros_like(x), "width": np.zeros_like(x)}
    for n, at, g in np.ndindex(2, side, side):
        segment = slice(g * size, (g + 1) * size)
        for name, axis in (("height", 1), ("width", 2)):
            place = [n, slice(None), slice(None), segment]
            place[3 - axis] = at  # a column for the height, a row for the width
            tokens = x[tuple(place)]  # [side, size]
            mixed = tokens.reshape(-1) @ weights[name]
            expected[name][tuple(place)] = mixed.reshape(side, size)
    expected["channel"] = x @ weights["channel"]

    seen = []
    layer.weighting.forward = lambda branches: seen.extend(branches) or branches[0]
    layer(paddle.to_tensor(x.astype(np.float32)))
    for name, branch in zip(("height", "width", "channel"), seen):
        np.testing.assert_allclose(branch.numpy(), expected[name], atol=1e-4, err_msg=name)


@pytest.mark.smoke
def test_shapes_and_the_size_of_images():
    network = build_backbone(SMALL)
    network.eval()
    image = paddle.randn([2, 3, 32, 32])
    assert list(network.forward_features(image).shape) == [2, 16, 16]
    assert list(network(image).shape) == [2, 16] and network.num_features == 16
    # A Transition stands where the grid is halved, or other channels begin.
    assert [type(part).__name__ for part in network.network] == [
        "LayerList", "Transition", "LayerList", "Transition", "LayerList",
    ]  # fmt: skip
    assert list(network.network[1].proj.weight.shape) == [12, 8, 2, 2]
    assert list(network.network[3].proj.weight.shape) == [16, 12, 1, 1]
    with pytest.raises(PasslError, match=r"images of 32×32 \(height×width\) but got 32×40"):
        network(paddle.zeros([1, 3, 32, 40]))
    # Another size that the channels can be cut for: 4×4 tokens, then 2×2.
    other = build_backbone({**SMALL, "img_size": 16})
    assert list(other.forward_features(paddle.zeros([1, 3, 16, 16])).shape) == [1, 4, 16]
    assert other.network[0][0].mixing.segments == 4


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"img_size": [32, 16]}, r"img_size is one number, .*not \[32, 16\]"),
        ({"img_size": 30}, "must divide"),
        ({"img_size": 24}, "8 channels of stage 1 do not divide .* side, 6; choose another img_"),
        ({"img_size": 20, "embed_dims": [10, 10, 10]}, "5×5 tokens cannot be halved before stage"),
        ({"halved": [True]}, "halved one less, not 3, 3 and 1"),
        ({"depths": [1, 2]}, "embed_dims and depths"),
        ({"depths": [1, 2, 0]}, "depths must be at least 1, not 0"),
        ({"embed_dims": [8, 12, 2]}, "embed_dims must be at least 4, not 2"),
        ({"mlp_ratio": 0}, "mlp_ratio"),
        ({"in_channels": -3}, "in_channels"),
        ({"drop_path_rate": -0.1}, "drop_path_rate"),
    ],
)
def test_impossible_arguments_are_named(changes, words):
    with pytest.raises(PasslError, match=words):
        build_backbone({**SMALL, **changes})


def test_stochastic_depth_rises_over_all_stages():
    network = build_backbone({**SMALL, "drop_path_rate": 0.4})
    blocks = [block for i in (0, 2, 4) for block in network.network[i]]
    np.testing.assert_allclose([b.drop_path.rate for b in blocks], [0, 0.1, 0.2, 0.3, 0.4])
    assert all(type(block).recompute for block in blocks)


def test_depths_of_the_parameters():
    network = build_backbone(SMALL)
    depths = network.parameter_depths
    assert list(depths) == [name for name, _ in network.named_parameters()]
    expected = {
        "patch_embed.proj.weight": 0,
        "network.0.0.norm1.weight": 1,
        "network.1.proj.bias": 2,
        "network.2.1.mixing.height.weight": 3,
        "network.4.1.mlp.fc2.weight": 5,
        "norm.weight": 5,
    }
    assert {name: depths[name] for name in expected} == expected
    assert network.no_weight_decay == frozenset()


@pytest.mark.smoke
def test_the_backbone_starts_as_the_authors_does():
    paddle.seed(0)
    network = build_backbone({**SMALL, "embed_dims": [64, 96, 96]})
    bounds = {"patch_embed.proj": (3 * 16) ** -0.5, "network.1.proj": (64 * 4) ** -0.5}
    for name, parameter in network.named_parameters():
        values = parameter.numpy()
        layer = name.rpartition(".")[0]
        if layer in bounds:  # uniform, as torch has convolutions
            bound = bounds[layer]
            assert 0.8 * bound < np.abs(values).max() <= bound, name
            assert values.std() == pytest.approx(bound / 3**0.5, rel=0.25), name
        elif "norm" in layer:
            assert (values == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith("bias"):
            assert (values == 0).all(), name
        else:
            assert values.std() == pytest.approx(0.02, rel=0.1), name
    maps = [name for name, _ in network.network[0][0].mixing.named_parameters()]
    assert "height.weight" in maps and "height.bias" not in maps and "proj.bias" in maps


def test_every_stage_gives_its_map():
    network = build_backbone(SMALL)
    network.eval()
    image = paddle.randn([2, 3, 32, 32])
    with paddle.no_grad():
        stages = network.forward_stages(image)
        features = network.forward_features(image)
    assert network.stage_channels == [8, 12, 16] and network.stage_strides == [4, 8, 8]
    for stage, channels, stride in zip(stages, network.stage_channels, network.stage_strides):
        assert stage.shape == [2, channels, 32 // stride, 32 // stride]
    last = network.norm(stages[-1].transpose([0, 2, 3, 1])).flatten(1, 2)
    np.testing.assert_array_equal(last.numpy(), features.numpy())
    # A map is what the blocks before it give, and nothing of those after it.
    with paddle.no_grad():
        x = network.patch_embed(image).reshape([2, 8, 8, 8])
        x = network.network[0][0](x)
    np.testing.assert_array_equal(stages[0].numpy(), x.numpy().transpose(0, 3, 1, 2))
