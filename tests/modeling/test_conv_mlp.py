import math

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.modeling.architectures import build_architecture
from passl.modeling.backbones import build_backbone
from passl.modeling.layers import BatchNorm2D
from passl.utils.errors import PasslError

SMALL = {
    "name": "ConvMlp",
    "stem_channels": 6,
    "conv_depth": 2,
    "embed_dims": [8, 10],
    "depths": [1, 3],
    "mlp_ratios": [2, 3],
}


# The authors' code, run on a CPU, gives these (tests/reference/authors_network.py all).
@pytest.mark.parametrize(
    "name, count", [("convmlp_s", 9022920), ("convmlp_m", 17410504), ("convmlp_l", 42728440)]
)
def test_parameter_counts(monkeypatch, name, count):
    # Initialisers would draw, and thereby allocate, every number.
    monkeypatch.setattr(nn.initializer.Initializer, "__call__", lambda *_args, **_kwargs: None)
    network = build_architecture(
        {"architecture": {"name": name}, "head": {"name": "ClassificationHead"}}
    )
    assert sum(math.prod(p.shape) for p in network.parameters()) == count
    channels = [96, 192, 384, 768] if name.endswith("l") else [64, 128, 256, 512]
    assert network.backbone.stage_channels == channels
    assert network.backbone.stage_strides == [4, 8, 16, 32]


@pytest.mark.smoke
def test_shapes_at_any_size():
    network = build_backbone(SMALL)
    network.eval()
    assert network.num_features == 10
    for height, width in ((32, 32), (45, 30), (1, 7)):
        image = paddle.randn([2, 3, height, width])
        sizes = [(math.ceil(height / stride), math.ceil(width / stride)) for stride in (4, 8, 16)]
        stages = network.forward_stages(image)
        for stage, size, channels in zip(stages, sizes, (6, 8, 10)):
            assert list(stage.shape) == [2, channels, *size]
        assert len(stages) == 3 and network.stage_strides == [4, 8, 16]
        tokens = network.forward_features(image)
        assert list(tokens.shape) == [2, sizes[-1][0] * sizes[-1][1], 10]
        np.testing.assert_allclose(
            network(image).numpy(), tokens.numpy().mean(axis=1), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"depths": [2]}, "as many as one another, not 2, 1 and 2"),
        ({"embed_dims": [], "depths": [], "mlp_ratios": []}, "for each stage"),
        ({"depths": [2, 0]}, "depths must be at least 1, not 0"),
        ({"embed_dims": [8, 0]}, "embed_dims must be at least 1, not 0"),
        ({"mlp_ratios": [2, -1]}, "mlp_ratios"),
        ({"stem_channels": 1}, "stem_channels must be at least 2, not 1"),
        ({"conv_depth": 0}, "conv_depth"),
        ({"in_channels": 0}, "in_channels"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"mlp_ratios": [1.5, 2]}, "mlp_ratios"),
    ],
)
def test_impossible_arguments_are_named(changes, words):
    with pytest.raises(PasslError, match=words):
        build_backbone({**SMALL, **changes})


def test_stochastic_depth_rises_within_each_stage():
    """As in the authors' BasicStage: from 0 in every stage."""
    network = build_backbone({**SMALL, "drop_path_rate": 0.4})
    rates = [[block.drop_path.rate for block in stage] for stage in network.stages]
    assert rates == [[0.0], [0.0, 0.2, 0.4]]


def test_the_convolution_between_the_mlps_has_no_residual():
    network = build_backbone(SMALL)
    block = network.stages[0][0]
    block.eval()
    block.connect.weight.set_value(paddle.zeros_like(block.connect.weight))
    block.mlp2.fc2.weight.set_value(paddle.zeros_like(block.mlp2.fc2.weight))
    assert (block(paddle.randn([1, 4, 4, 8])).numpy() == 0).all()


def test_depths_of_the_parameters():
    network = build_backbone(SMALL)
    depths = network.parameter_depths
    assert list(depths) == [name for name, _ in network.named_parameters()]
    expected = {
        "tokenizer.0.conv.weight": 0,
        "tokenizer.2.norm.bias": 0,
        "conv_blocks.0.0.conv.weight": 1,
        "conv_blocks.1.2.norm.weight": 2,
        "conv_downsample.weight": 3,
        "stages.0.0.mlp1.fc1.weight": 3,
        "downsamples.0.bias": 4,
        "stages.1.0.connect.weight": 4,
        "stages.1.2.mlp2.fc2.bias": 6,
        "norm.weight": 6,
    }
    assert {name: depths[name] for name in expected} == expected
    assert network.no_weight_decay == frozenset()


@pytest.mark.smoke
def test_the_backbone_starts_as_the_authors_does():
    paddle.seed(0)
    network = build_backbone({**SMALL, "stem_channels": 32, "embed_dims": [64, 96]})
    layers = dict(network.named_sublayers())
    for name, parameter in network.named_parameters():
        values = parameter.numpy()
        path, _, leaf = name.rpartition(".")
        if isinstance(layers[path], nn.Conv2D) and leaf == "weight":
            out, _, height, width = values.shape
            expected = math.sqrt(2 / (out * height * width))
            assert values.std() == pytest.approx(expected, rel=0.12), name
        elif isinstance(layers[path], nn.Conv2D):  # of the steps down
            bound = math.prod(layers[path].weight.shape[1:]) ** -0.5
            assert 0.8 * bound < np.abs(values).max() <= bound, name
        elif isinstance(layers[path], nn.Linear) and leaf == "weight":
            assert values.std() == pytest.approx(0.02, rel=0.1), name
        else:
            assert (values == float(leaf == "weight")).all(), name


@pytest.mark.smoke
def test_running_statistics_are_no_parameters_and_follow_the_batches():
    layer = BatchNorm2D(2)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert set(layer.state_dict()) == {"weight", "bias", "_mean", "_variance"}
    x = np.random.default_rng(0).normal(3.0, 2.0, (4, 2, 5, 5)).astype(np.float32)
    out = layer(paddle.to_tensor(x)).numpy()
    np.testing.assert_allclose(out.mean((0, 2, 3)), 0, atol=1e-5)
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    np.testing.assert_allclose(layer._mean.numpy(), 0.1 * mean, rtol=1e-4)
    # Either estimate of the variance: Paddle's kernels differ in it.
    np.testing.assert_allclose(layer._variance.numpy(), 0.9 + 0.1 * variance, rtol=2e-2)
    layer.eval()
    expected = (x - 0.1 * mean[:, None, None]) / np.sqrt(
        layer._variance.numpy()[:, None, None] + 1e-5
    )
    np.testing.assert_allclose(layer(paddle.to_tensor(x)).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_blocks_with_running_statistics_are_not_computed_twice():
    network = build_backbone(SMALL)
    twice = [layer for layer in network.sublayers() if getattr(layer, "recompute", False)]
    assert len(twice) == 4
    for layer in twice:
        assert not any(isinstance(inner, nn.BatchNorm2D) for inner in layer.sublayers())
