import math

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.engine.execution import recompute_blocks
from passl.modeling.architectures import build_architecture
from passl.modeling.backbones import build_backbone
from passl.modeling.backbones.cycle_mlp import CycleFC
from passl.utils.errors import PasslError

SMALL = {
    "name": "CycleMlp",
    "embed_dims": [8, 10],
    "depths": [2, 3],
    "mlp_ratios": [2, 3],
}


# The authors' code, run on a CPU, gives these (tests/reference/authors_network.py all).
@pytest.mark.parametrize(
    "name, count",
    [
        ("cyclemlp_b1", 15155400),
        ("cyclemlp_b2", 26802504),
        ("cyclemlp_b3", 38385720),
        ("cyclemlp_b4", 51796552),
        ("cyclemlp_b5", 75747280),
    ],
)
def test_parameter_counts(monkeypatch, name, count):
    # Initialisers would draw, and thereby allocate, every number.
    monkeypatch.setattr(nn.initializer.Initializer, "__call__", lambda *_args, **_kwargs: None)
    network = build_architecture(
        {"architecture": {"name": name}, "head": {"name": "ClassificationHead"}}
    )
    assert sum(math.prod(p.shape) for p in network.parameters()) == count
    dims = [96, 192, 384, 768] if name.endswith("5") else [64, 128, 320, 512]
    assert network.backbone.stage_channels == dims
    assert network.backbone.stage_strides == [4, 8, 16, 32]


@pytest.mark.smoke
@pytest.mark.parametrize("axis, stepsize", [(1, 3), (2, 3), (2, 5), (1, 1)])
@pytest.mark.parametrize("channels", [7, 2])
def test_a_cycle_fc_is_what_the_paper_defines(axis, stepsize, channels):
    """Output = Σ_c weight[·, c] · input[position + offset(c), c], written out."""
    rng = np.random.default_rng(0)
    layer = CycleFC(channels, axis, stepsize)
    weight = rng.normal(size=(channels, channels))
    bias = rng.normal(size=channels)
    layer.weight.set_value(weight.reshape(channels, channels, 1, 1).astype(np.float32))
    layer.bias.set_value(bias.astype(np.float32))
    x = rng.normal(size=(2, 4, 6, channels))
    expected = np.zeros_like(x) + bias
    for n, h, w, c in np.ndindex(*x.shape):
        place = [n, h, w]
        place[axis] += (c + stepsize // 2) % stepsize - stepsize // 2
        if 0 <= place[axis] < x.shape[axis]:
            expected[n, h, w] += weight[:, c] * x[(*place, c)]
    found = layer(paddle.to_tensor(x.astype(np.float32))).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.smoke
def test_shapes_at_any_size():
    network = build_backbone(SMALL)
    network.eval()
    assert network.num_features == 10
    for height, width in ((32, 32), (45, 30), (3, 7)):
        image = paddle.randn([2, 3, height, width])
        stages = network.forward_stages(image)
        rows, columns = (height - 3) // 4 + 1, (width - 3) // 4 + 1
        assert list(stages[0].shape) == [2, 8, rows, columns]
        assert list(stages[1].shape) == [2, 10, math.ceil(rows / 2), math.ceil(columns / 2)]
        tokens = network.forward_features(image)
        assert list(tokens.shape) == [2, math.ceil(rows / 2) * math.ceil(columns / 2), 10]
        assert list(network(image).shape) == [2, 10]
        last = network.norm(stages[1].transpose([0, 2, 3, 1])).flatten(1, 2)
        np.testing.assert_allclose(tokens.numpy(), last.numpy(), atol=1e-6)
    with pytest.raises(PasslError, match="an image of 2×9 is smaller than a patch"):
        network(paddle.zeros([1, 3, 2, 9]))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"depths": [2]}, "as many as one another, not 2, 1 and 2"),
        ({"embed_dims": [], "depths": [], "mlp_ratios": []}, "for each stage"),
        ({"depths": [2, 0]}, "depths must be at least 1, not 0"),
        ({"embed_dims": [8, 3]}, "embed_dims must be at least 4, not 3"),
        ({"mlp_ratios": [2, -1]}, "mlp_ratios"),
        ({"in_channels": 0}, "in_channels"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"embed_dims": 8}, "embed_dims"),
        ({"img_size": 224}, "unknown argument 'img_size'"),
    ],
)
def test_impossible_arguments_are_named(changes, words):
    with pytest.raises(PasslError, match=words):
        build_backbone({**SMALL, **changes})


def test_stochastic_depth_rises_over_all_stages():
    network = build_backbone({**SMALL, "drop_path_rate": 0.4})
    blocks = [block for stage in (network.network[0], network.network[2]) for block in stage]
    np.testing.assert_allclose([b.drop_path.rate for b in blocks], [0, 0.1, 0.2, 0.3, 0.4])


def test_depths_of_the_parameters():
    network = build_backbone(SMALL)
    depths = network.parameter_depths
    assert list(depths) == [name for name, _ in network.named_parameters()]
    expected = {
        "patch_embed.weight": 0,
        "network.0.0.norm1.weight": 1,
        "network.0.1.mixing.height.weight": 2,
        "network.1.proj.bias": 3,
        "network.2.0.mlp.fc1.weight": 3,
        "network.2.2.mlp.fc2.weight": 5,
        "norm.weight": 5,
    }
    assert {name: depths[name] for name in expected} == expected
    assert network.no_weight_decay == frozenset()


@pytest.mark.smoke
def test_the_backbone_starts_as_the_authors_does():
    paddle.seed(0)
    network = build_backbone({**SMALL, "embed_dims": [64, 96]})
    for name, parameter in network.named_parameters():
        values = parameter.numpy()
        layer = name.rpartition(".")[0]
        if layer in ("patch_embed", "network.1.proj"):  # uniform, as torch has convolutions
            bound = {"patch_embed": 3 * 49, "network.1.proj": 64 * 9}[layer] ** -0.5
            assert 0.8 * bound < np.abs(values).max() <= bound, name
            assert values.std() == pytest.approx(bound / 3**0.5, rel=0.25), name
        elif "norm" in layer:
            assert (values == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith("bias"):
            assert (values == 0).all(), name
        else:
            assert values.std() == pytest.approx(0.02, rel=0.1), name
    assert "network.0.0.mixing.channel.bias" not in dict(network.named_parameters())


def test_blocks_can_be_computed_twice():
    paddle.seed(0)
    model = build_architecture(
        {"architecture": SMALL, "head": {"name": "ClassificationHead", "num_classes": 3}}
    )
    nn.initializer.Normal(0.0, 1.0)(model.head.fc.weight)
    batch = {"image": paddle.randn([2, 3, 16, 16]), "label": paddle.to_tensor([0, 2])}

    def gradient():
        model.clear_gradients()
        model(batch)["loss"].backward()
        return model.backbone.patch_embed.weight.grad.numpy()

    plain = gradient()
    if paddle.__version__.startswith("2."):
        pytest.skip("PaddlePaddle 2 recomputes on a GPU alone")
    recompute_blocks(model)
    np.testing.assert_allclose(gradient(), plain, rtol=1e-4, atol=1e-7)
