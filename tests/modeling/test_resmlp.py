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
    "name": "ResMlp",
    "img_size": [8, 12],
    "patch_size": [4, 2],
    "embed_dim": 10,
    "num_blocks": 3,
    "channels_mlp_dim": 14,
}


# Counted on timm 1.0.31's networks.
@pytest.mark.parametrize(
    "name, count",
    [
        ("resmlp_12_224", 15350872),
        ("resmlp_24_224", 30020680),
        ("resmlp_36_224", 44690488),
        ("resmlp_big_24_224", 129138280),
    ],
)
def test_parameter_counts(monkeypatch, name, count):
    # Paddle's initialisers would draw, and thereby allocate, every number.
    monkeypatch.setattr(nn.initializer.Initializer, "__call__", lambda *_args, **_kwargs: None)
    network = build_architecture(
        {"architecture": {"name": name}, "head": {"name": "ClassificationHead"}}
    )
    assert sum(math.prod(p.shape) for p in network.parameters()) == count
    released = [r.parameters for key, r in releases().items() if key.startswith(f"{name}.")]
    assert len(released) >= 2 and set(released) == {count}


def test_shapes_of_the_features():
    network = build_backbone(SMALL)
    image = paddle.zeros([2, 3, 8, 12])
    assert network.num_features == 10
    assert list(network.forward_features(image).shape) == [2, 12, 10]
    assert list(network(image).shape) == [2, 10]
    np.testing.assert_allclose(
        network(image).numpy(), network.forward_features(image).mean(axis=1).numpy()
    )


@pytest.mark.smoke
def test_a_token_takes_from_the_tokens_that_the_matrix_says():
    """Worked out by hand: the map across tokens is square, and would pass transposed."""
    block = build_backbone(SMALL).blocks[0]
    block.eval()
    weight = np.zeros((12, 12), np.float32)
    weight[3, 7] = 2.0  # to token 7 from token 3
    block.linear_tokens.weight.set_value(weight)
    block.linear_tokens.bias.set_value(np.zeros(12, np.float32))
    block.ls1.set_value(np.full(10, 0.5, np.float32))
    block.ls2.set_value(np.zeros(10, np.float32))
    tokens = np.random.default_rng(0).normal(size=(2, 12, 10)).astype(np.float32)
    expected = tokens.copy()
    expected[:, 7] += tokens[:, 3]
    np.testing.assert_allclose(block(paddle.to_tensor(tokens)).numpy(), expected, rtol=1e-6)


@pytest.mark.smoke
@pytest.mark.parametrize("axes", [[10], [1, 1, 10]], ids=str)
@pytest.mark.parametrize("publisher", ["timm", "facebook"])
def test_a_file_stores_the_matrix_the_other_way_round(tmp_path, publisher, axes):
    """torch's linear layers are [out, in]; shapes cannot tell. Scales come with any axes."""
    network = build_backbone(SMALL)
    tables = {"timm": ("linear_tokens", "ls1"), "facebook": ("attn", "gamma_1")}
    tokens, scale = tables[publisher]
    matrix = np.random.default_rng(0).normal(size=(12, 12)).astype(np.float32)
    vectors = np.random.default_rng(1).normal(size=(2, 10)).astype(np.float32)
    arrays = {
        f"blocks.1.{tokens}.weight": matrix,
        f"blocks.1.{scale}": vectors[0],
        "blocks.1.norm1.alpha": vectors[1].reshape(axes),
        "norm.beta": vectors[0].reshape(axes),
    }
    path = tmp_path / "weights.safetensors"
    safetensors.write(str(path), arrays, {"format": "pt"})
    report = load_weights(network, path, allow_partial=True)
    assert report.publisher == publisher and len(report.loaded) == 4
    block = network.blocks[1]
    np.testing.assert_array_equal(block.linear_tokens.weight.numpy(), matrix.T)
    np.testing.assert_array_equal(block.ls1.numpy(), vectors[0])
    np.testing.assert_array_equal(block.norm1.alpha.numpy(), vectors[1])
    np.testing.assert_array_equal(network.norm.beta.numpy(), vectors[0])


def test_weights_for_another_number_of_tokens_are_refused_with_the_reason(tmp_path):
    path = tmp_path / "weights.safetensors"
    arrays = {"blocks.0.linear_tokens.weight": np.zeros((16, 16), np.float32)}
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
        ({"layer_scale": 0.0}, "layer_scale"),
        ({"layer_scale": float("inf")}, "layer_scale"),
        ({"mlp_ratio": 4}, "unknown argument 'mlp_ratio'"),
    ],
)
def test_impossible_arguments_are_named(changes, words):
    with pytest.raises(PasslError, match=words):
        build_backbone({**SMALL, **changes})


def test_stochastic_depth_is_the_same_at_every_block():
    network = build_backbone({**SMALL, "drop_path_rate": 0.2})
    assert [block.drop_path.rate for block in network.blocks] == [0.2] * 3
    network = build_backbone({**SMALL, "drop_path_rate": 0.2, "drop_path_mode": "linear"})
    np.testing.assert_allclose([block.drop_path.rate for block in network.blocks], [0, 0.1, 0.2])


def test_drop_path_acts_on_each_branch_alone():
    network = build_backbone({**SMALL, "num_blocks": 1, "drop_path_rate": 0.5, "layer_scale": 1.0})
    block = network.blocks[0]
    block.linear_tokens.forward = lambda x: paddle.full_like(x, 1.0)
    block.mlp_channels.forward = lambda x: paddle.full_like(x, 10.0)
    paddle.seed(0)
    network.train()
    out = block(paddle.zeros([4000, 12, 10])).numpy()[:, 0, 0]
    # The kept branches are doubled: nothing, tokens, channels, both, each a quarter of the time.
    shares = [(out == value).mean() for value in (0, 2, 20, 22)]
    assert sum(shares) == 1.0
    np.testing.assert_allclose(shares, 0.25, atol=0.04)


@pytest.mark.smoke
def test_the_first_weights_are_the_authors():
    """facebookresearch/deit, resmlp_models.py; the convolution has PyTorch's default."""
    paddle.seed(0)
    network = build_backbone({**SMALL, "embed_dim": 96, "channels_mlp_dim": 200})
    bound = 1 / math.sqrt(3 * 4 * 2)
    for values in (network.stem.proj.weight.numpy(), network.stem.proj.bias.numpy()):
        assert 0.9 * bound < np.abs(values).max() <= bound
        assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.15)
    for block in network.blocks:
        linears = [block.linear_tokens, block.mlp_channels.fc1, block.mlp_channels.fc2]
        for linear in linears:
            assert linear.weight.numpy().std() == pytest.approx(0.02, rel=0.15)
            assert (linear.bias.numpy() == 0).all()
        np.testing.assert_allclose([block.ls1.numpy(), block.ls2.numpy()], 0.1, rtol=1e-6)
    for affine in (network.norm, network.blocks[1].norm1, network.blocks[2].norm2):
        assert (affine.alpha.numpy() == 1).all() and (affine.beta.numpy() == 0).all()


@pytest.mark.parametrize("name, start", [("12", 0.1), ("24", 1e-5), ("36", 1e-6), ("big_24", 1e-6)])
def test_the_deeper_the_network_the_smaller_its_branches_start(name, start):
    small = {"num_blocks": 1, "embed_dim": 4, "channels_mlp_dim": 4, "img_size": 16}
    network = build_backbone({"name": f"resmlp_{name}_224", **small})
    np.testing.assert_allclose(network.blocks[0].ls2.numpy(), start, rtol=1e-6)


def test_scales_and_shifts_do_not_decay():
    network = build_backbone(SMALL)
    decayed = {name for name, _ in network.named_parameters()} - undecayed_names(network)
    assert len(decayed) == 1 + 3 * 3 and all(name.endswith(".weight") for name in decayed)


def test_depths_of_the_parameters_are_timms():
    network = build_backbone(SMALL)
    depths = network.parameter_depths
    assert set(depths) == {name for name, _ in network.named_parameters()}
    for name, depth in depths.items():
        expected = {"stem": 0, "norm": 3}.get(name.partition(".")[0])
        assert depth == (int(name.split(".")[1]) + 1 if expected is None else expected), name


def test_a_picture_shows_what_a_token_takes():
    network = build_backbone(SMALL)
    weight = np.zeros((12, 12), np.float32)
    weight[8, 5] = 1.0  # to token 5 from token 8: row 1, column 2 of the grid
    network.blocks[2].linear_tokens.weight.set_value(weight)
    pictured = network.pictured_weights()
    assert set(pictured) == {"stem", *(f"token_mixing_{i:02d}" for i in range(3))}
    kind, kernels = pictured["token_mixing_02"]
    assert kind == "token_mixing" and kernels.shape == (12, 2, 6)
    assert kernels[5, 1, 2] == 1.0 and kernels.sum() == 1.0
