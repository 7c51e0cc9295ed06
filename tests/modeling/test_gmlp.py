import math

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.modeling.architectures import build_architecture
from passl.modeling.backbones import build_backbone
from passl.solver.groups import undecayed_names
from passl.utils.errors import PasslError
from passl.utils.zoo import releases
from passl.weights import load_weights
from passl.weights.formats import safetensors

SMALL = {
    "name": "Gmlp",
    "img_size": [8, 12],
    "patch_size": [4, 2],
    "embed_dim": 10,
    "num_blocks": 3,
    "channels_mlp_dim": 14,
}


# Counted on timm 1.0.31's networks.
@pytest.mark.parametrize(
    "name, count",
    [("gmlp_ti16_224", 5867328), ("gmlp_s16_224", 19422656), ("gmlp_b16_224", 73075392)],
)
def test_parameter_counts(monkeypatch, name, count):
    # Paddle's initialisers would draw, and thereby allocate, every number.
    monkeypatch.setattr(nn.initializer.Initializer, "__call__", lambda *_args, **_kwargs: None)
    monkeypatch.setattr("passl.modeling.backbones.gmlp.lecun_normal_", lambda *_, **__: None)
    network = build_architecture(
        {"architecture": {"name": name}, "head": {"name": "ClassificationHead"}}
    )
    assert sum(math.prod(p.shape) for p in network.parameters()) == count
    assert all(r.parameters == count for key, r in releases().items() if key.startswith(name))


def test_shapes_of_the_features():
    network = build_backbone(SMALL)
    image = paddle.zeros([2, 3, 8, 12])
    assert network.num_features == 10
    assert list(network.forward_features(image).shape) == [2, 12, 10]
    assert list(network(image).shape) == [2, 10]
    np.testing.assert_allclose(
        network(image).numpy(), network.forward_features(image).mean(axis=1).numpy()
    )


def random_gate():
    gate = build_backbone(SMALL).blocks[0].mlp_channels.gate
    rng = np.random.default_rng(0)
    for parameter in gate.parameters():
        parameter.set_value(rng.normal(0.2, 0.5, parameter.shape).astype(np.float32))
    return gate


@pytest.mark.smoke
def test_the_gate_is_that_of_the_paper():
    """Section 2.1, written out token by token: u · (W norm(v) + b), W from tokens to tokens."""
    gate = random_gate()
    x = np.random.default_rng(1).normal(size=(2, 12, 14))
    u, v = x[..., :7], x[..., 7:]
    centred = v - v.mean(axis=-1, keepdims=True)
    v = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    v = v * gate.norm.weight.numpy() + gate.norm.bias.numpy()
    weight, bias = gate.proj.weight.numpy(), gate.proj.bias.numpy()
    expected = np.zeros((2, 12, 7))
    for to in range(12):
        mixed = sum(weight[start, to] * v[:, start] for start in range(12))
        expected[:, to] = u[:, to] * (mixed + bias[to])
    found = gate(paddle.to_tensor(x.astype(np.float32))).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    gate.proj.weight.set_value(weight.T.copy())
    other = gate(paddle.to_tensor(x.astype(np.float32))).numpy()
    assert np.abs(other - expected).max() > 0.1, "the square matrix has a direction"


@pytest.mark.smoke
def test_a_file_stores_the_matrix_the_other_way_round(tmp_path):
    """torch's linear layers are [out, in]; shapes cannot tell."""
    network = build_backbone(SMALL)
    matrix = np.random.default_rng(0).normal(size=(12, 12)).astype(np.float32)
    path = tmp_path / "weights.safetensors"
    name = "blocks.1.mlp_channels.gate.proj.weight"
    safetensors.write(str(path), {name: matrix}, {"format": "pt"})
    report = load_weights(network, path, allow_partial=True)
    assert report.publisher == "timm" and report.loaded == [name]
    loaded = network.blocks[1].mlp_channels.gate.proj.weight.numpy()
    np.testing.assert_array_equal(loaded, matrix.T)


def test_weights_for_another_number_of_tokens_are_refused_with_the_reason(tmp_path):
    path = tmp_path / "weights.safetensors"
    arrays = {"blocks.0.mlp_channels.gate.proj.weight": np.zeros((16, 16), np.float32)}
    safetensors.write(str(path), arrays, {"format": "pt"})
    with pytest.raises(PasslError, match=r"is for 16 tokens .* has 2×6 = 12; .* with the img_size"):
        load_weights(build_backbone(SMALL), path)


def test_an_image_of_another_size_is_told_which_size_was_expected():
    with pytest.raises(PasslError, match=r"8×12 \(height×width\) but got 12×8"):
        build_backbone(SMALL)(paddle.zeros([1, 3, 12, 8]))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"patch_size": 5}, "must divide"),
        ({"img_size": 0}, "img_size"),
        ({"drop_path_mode": "cosine"}, "drop_path_mode"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"drop_rate": -0.5}, "drop_rate"),
        ({"in_channels": 0}, "in_channels"),
        ({"embed_dim": 0}, "embed_dim"),
        ({"num_blocks": -1}, "num_blocks"),
        ({"channels_mlp_dim": 0}, "channels_mlp_dim"),
        ({"channels_mlp_dim": 13}, "must be even"),
        ({"mlp_ratio": 6}, "unknown argument 'mlp_ratio'"),
    ],
)
def test_impossible_arguments_are_named(changes, words):
    with pytest.raises(PasslError, match=words):
        build_backbone({**SMALL, **changes})


def test_stochastic_depth_drops_whole_blocks():
    network = build_backbone({**SMALL, "drop_path_rate": 0.2})
    assert [block.drop_path.rate for block in network.blocks] == [0.2] * 3
    network = build_backbone({**SMALL, "drop_path_rate": 0.5, "drop_path_mode": "linear"})
    assert [block.drop_path.rate for block in network.blocks] == [0, 0.25, 0.5]
    block = network.blocks[2]
    block.mlp_channels.forward = lambda x: paddle.full_like(x, 1.0)
    paddle.seed(0)
    network.train()
    out = block(paddle.zeros([4000, 12, 10])).numpy()
    assert (out == out[:, :1, :1]).all() and set(out[:, 0, 0]) == {0.0, 2.0}
    assert abs((out[:, 0, 0] == 0).mean() - 0.5) < 0.04


@pytest.mark.smoke
def test_the_first_weights_let_everything_through():
    """Section 2.1 for the gates, timm for the rest."""
    paddle.seed(0)
    network = build_backbone({**SMALL, "embed_dim": 96, "channels_mlp_dim": 200})
    proj = network.stem.proj
    assert proj.weight.numpy().var() == pytest.approx(1 / (3 * 4 * 2), rel=0.12)
    assert (proj.bias.numpy() == 0).all()
    for block in network.blocks:
        mlp = block.mlp_channels
        for linear, fans in ((mlp.fc1, 96 + 200), (mlp.fc2, 100 + 96)):
            values = linear.weight.numpy()
            assert 0.99 * math.sqrt(6 / fans) < np.abs(values).max() <= math.sqrt(6 / fans)
            assert values.var() == pytest.approx(2 / fans, rel=0.05)
            assert 0 < np.abs(linear.bias.numpy()).max() < 1e-5
        assert mlp.gate.proj.weight.numpy().std() == pytest.approx(1e-6, rel=0.3)
        assert (mlp.gate.proj.bias.numpy() == 1).all()
        x = paddle.randn([2, 12, 200])
        np.testing.assert_allclose(mlp.gate(x).numpy(), x.numpy()[..., :100], atol=1e-3)


def test_biases_and_norms_do_not_decay():
    network = build_backbone(SMALL)
    decayed = {name for name, _ in network.named_parameters()} - undecayed_names(network)
    assert len(decayed) == 1 + 3 * 3
    assert not any("norm" in name or name.endswith("bias") for name in decayed)


def test_depths_of_the_parameters_are_timms():
    network = build_backbone(SMALL)
    depths = network.parameter_depths
    assert set(depths) == {name for name, _ in network.named_parameters()}
    for name, depth in depths.items():
        expected = {"stem": 0, "norm": 3}.get(name.partition(".")[0])
        assert depth == (int(name.split(".")[1]) + 1 if expected is None else expected), name


def test_a_picture_shows_what_a_gate_takes():
    network = build_backbone(SMALL)
    weight = np.zeros((12, 12), np.float32)
    weight[8, 5] = 1.0  # to token 5 from token 8: row 1, column 2 of the grid
    network.blocks[2].mlp_channels.gate.proj.weight.set_value(weight)
    pictured = network.pictured_weights()
    assert set(pictured) == {"stem", *(f"token_mixing_{i:02d}" for i in range(3))}
    kind, kernels = pictured["token_mixing_02"]
    assert kind == "token_mixing" and kernels.shape == (12, 2, 6)
    assert kernels[5, 1, 2] == 1.0 and kernels.sum() == 1.0
