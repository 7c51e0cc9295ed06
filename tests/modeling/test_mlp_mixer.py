import math

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.modeling.architectures import build_architecture
from passl.modeling.backbones import build_backbone
from passl.modeling.backbones import mlp_mixer as mlp_mixer_module
from passl.modeling.heads import build_head
from passl.modeling.heads import classification as head_module
from passl.modeling.layers import DropPath, drop_path_rates, lecun_normal_
from passl.utils.errors import PasslError

SMALL = {
    "name": "MlpMixer",
    "img_size": [8, 12],
    "patch_size": [4, 2],
    "embed_dim": 10,
    "num_blocks": 3,
    "tokens_mlp_dim": 7,
    "channels_mlp_dim": 14,
}


def small_classifier(**changes):
    cfg = {
        "architecture": {**SMALL, **changes},
        "head": {"name": "ClassificationHead", "num_classes": 5},
    }
    network = build_architecture(cfg)
    # Every parameter random, so that no bias, scale or zero head can hide a mistake.
    rng = np.random.default_rng(0)
    for parameter in network.parameters():
        parameter.set_value(rng.normal(0.2, 0.5, parameter.shape).astype(np.float32))
    network.eval()
    return network


def weights64(network):
    return {name: p.numpy().astype(np.float64) for name, p in network.named_parameters()}


# ---------------------------------------------------------------- the paper, in NumPy


def gelu_exact(x):
    return x * 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def gelu_tanh(x):
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def layer_norm(x, w, name):
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + 1e-6) * w[name + ".weight"] + w[name + ".bias"]


def mixer_numpy(w, images, patch, num_blocks, gelu):
    """Equation 1 of arXiv 2105.01601, written out patch by patch."""
    n, _, height, width = images.shape
    patch_h, patch_w = patch
    kernel, tokens = w["backbone.stem.proj.weight"], []
    for top in range(0, height, patch_h):
        for left in range(0, width, patch_w):
            block = images[:, :, top : top + patch_h, left : left + patch_w]
            tokens.append(block.reshape(n, -1) @ kernel.reshape(len(kernel), -1).T)
    x = np.stack(tokens, axis=1) + w["backbone.stem.proj.bias"]

    def mlp(v, name):
        hidden = gelu(v @ w[name + ".fc1.weight"] + w[name + ".fc1.bias"])
        return hidden @ w[name + ".fc2.weight"] + w[name + ".fc2.bias"]

    for i in range(num_blocks):
        block = f"backbone.blocks.{i}"
        columns = layer_norm(x, w, block + ".norm1").swapaxes(1, 2)
        x = x + mlp(columns, block + ".mlp_tokens").swapaxes(1, 2)
        x = x + mlp(layer_norm(x, w, block + ".norm2"), block + ".mlp_channels")
    pooled = layer_norm(x, w, "backbone.norm").mean(axis=1)
    return pooled @ w["head.fc.weight"] + w["head.fc.bias"]


@pytest.mark.smoke
@pytest.mark.parametrize(
    "approximate, gelu, other", [(False, gelu_exact, gelu_tanh), (True, gelu_tanh, gelu_exact)]
)
def test_logits_are_those_of_the_paper(approximate, gelu, other):
    network = small_classifier(gelu_approximate=approximate)
    images = np.random.default_rng(1).normal(size=(3, 3, 8, 12))
    expected = mixer_numpy(weights64(network), images, (4, 2), 3, gelu)
    logits = network({"image": paddle.to_tensor(images.astype(np.float32))})["logits"].numpy()
    assert logits.shape == (3, 5)
    np.testing.assert_allclose(logits, expected, rtol=2e-5, atol=2e-5)
    # The tolerance is fine enough to tell the two forms apart.
    different = mixer_numpy(weights64(network), images, (4, 2), 3, other)
    assert not np.allclose(logits, different, rtol=2e-5, atol=2e-5)


def test_the_input_gradient_is_that_of_the_paper():
    network = small_classifier()
    images = np.random.default_rng(2).normal(size=(2, 3, 8, 12))
    direction = np.random.default_rng(3).normal(size=(2, 5))
    tensor = paddle.to_tensor(images.astype(np.float32), stop_gradient=False)
    logits = network({"image": tensor})["logits"]
    (logits * paddle.to_tensor(direction.astype(np.float32))).sum().backward()
    gradient = tensor.grad.numpy()

    weights, step = weights64(network), 1e-5
    points = np.random.default_rng(4).choice(images.size, 25, replace=False)
    for flat in points:
        values = []
        for sign in (1, -1):
            moved = images.copy()
            moved.reshape(-1)[flat] += sign * step
            values.append((mixer_numpy(weights, moved, (4, 2), 3, gelu_exact) * direction).sum())
        expected = (values[0] - values[1]) / (2 * step)
        assert gradient.reshape(-1)[flat] == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    "name, count",
    [
        ("mlp_mixer_s32_224", 19104624),
        ("mlp_mixer_s16_224", 18528264),
        ("mlp_mixer_b32_224", 60293428),
        ("mlp_mixer_b16_224", 59880472),
        ("mlp_mixer_l32_224", 206939264),
        ("mlp_mixer_l16_224", 208196168),
        ("mlp_mixer_h14_224", 432350952),
    ],
)
def test_parameter_counts(monkeypatch, name, count):
    monkeypatch.setattr(mlp_mixer_module, "lecun_normal_", lambda parameter, fan_in: None)
    for module in (mlp_mixer_module, head_module):
        monkeypatch.setattr(module, "zeros_", lambda parameter: None)
    # Paddle's own initialisers would draw, and thereby allocate, every number.
    monkeypatch.setattr(nn.initializer.Initializer, "__call__", lambda *_args, **_kwargs: None)
    network = build_architecture(
        {"architecture": {"name": name}, "head": {"name": "ClassificationHead"}}
    )
    counted = sum(math.prod(parameter.shape) for parameter in network.parameters())
    del network
    assert counted == count


def test_shapes_of_the_features():
    network = small_classifier().backbone
    image = paddle.zeros([2, 3, 8, 12])
    assert network.num_features == 10
    assert list(network.forward_features(image).shape) == [2, 12, 10]
    assert list(network(image).shape) == [2, 10]


# ---------------------------------------------------------------- sizes


@pytest.mark.smoke
def test_an_image_of_another_size_is_told_which_size_was_expected():
    network = small_classifier()
    with pytest.raises(PasslError, match=r"8×12 \(height×width\) but got 12×8"):
        network({"image": paddle.zeros([1, 3, 12, 8])})


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"patch_size": 5}, "must divide"),
        ({"img_size": [8, 12, 3]}, "img_size"),
        ({"img_size": 0}, "img_size"),
        ({"patch_size": [4, 0]}, "patch_size"),
        ({"drop_path_mode": "cosine"}, "drop_path_mode"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"drop_path_rate": -0.1}, "drop_path_rate"),
        ({"drop_path_rate": 2.0, "num_blocks": 1}, "drop_path_rate"),
        ({"drop_rate": 1.5}, "drop_rate"),
        ({"drop_rate": -0.5}, "drop_rate"),
        ({"embed_dim": 0}, "embed_dim"),
        ({"num_blocks": -1}, "num_blocks"),
        ({"tokens_mlp_dim": 0}, "tokens_mlp_dim"),
        ({"channels_mlp_dim": -4}, "channels_mlp_dim"),
    ],
)
def test_impossible_arguments_are_named(changes, words):
    with pytest.raises(PasslError, match=words):
        build_backbone({**SMALL, **changes})


def test_the_head_follows_the_backbone_or_says_why_not():
    head = {"name": "ClassificationHead", "num_classes": 5}
    network = build_architecture({"architecture": SMALL, "head": head})
    assert list(network.head.fc.weight.shape) == [10, 5] and network.num_classes == 5
    with pytest.raises(PasslError, match="in_channels is 11 but the backbone gives 10"):
        build_architecture({"architecture": SMALL, "head": {**head, "in_channels": 11}})


# ---------------------------------------------------------------- stochastic depth and dropout


def test_drop_path_rates_rise_linearly_or_are_constant():
    np.testing.assert_allclose(drop_path_rates(0.3, 4), [0.0, 0.1, 0.2, 0.3])
    assert drop_path_rates(0.3, 4, "constant") == [0.3] * 4
    network = build_backbone({**SMALL, "drop_path_rate": 0.2})
    np.testing.assert_allclose([block.drop_path.rate for block in network.blocks], [0, 0.1, 0.2])
    network = build_backbone({**SMALL, "drop_path_rate": 0.2, "drop_path_mode": "constant"})
    assert [block.drop_path.rate for block in network.blocks] == [0.2] * 3


@pytest.mark.smoke
def test_drop_path_drops_whole_samples_and_keeps_the_expectation():
    paddle.seed(0)
    samples, rate = 20000, 0.3
    out = DropPath(rate)(paddle.ones([samples, 2, 3])).numpy()
    assert (out == out[:, :1, :1]).all(), "a sample is dropped as a whole"
    values = out[:, 0, 0]
    kept = values > 0
    np.testing.assert_allclose(values[kept], 1 / (1 - rate), rtol=1e-6)
    # Five standard deviations of a binomial share.
    assert abs(kept.mean() - (1 - rate)) < 5 * math.sqrt(rate * (1 - rate) / samples)
    assert abs(values.mean() - 1) < 5 * math.sqrt(rate / (1 - rate) / samples)
    # Neighbouring samples are dropped independently.
    both = (kept[1:] & kept[:-1]).mean()
    assert abs(both - (1 - rate) ** 2) < 0.02


def test_drop_path_without_rescaling_leaves_what_it_keeps():
    paddle.seed(0)
    values = DropPath(0.3, rescale=False)(paddle.ones([4000, 2])).numpy()[:, 0]
    assert set(values) == {0.0, 1.0} and abs(values.mean() - 0.7) < 0.04
    network = build_backbone({**SMALL, "drop_path_rate": 0.2, "drop_path_rescale": False})
    assert not any(block.drop_path.rescale for block in network.blocks)


def test_depths_of_the_parameters_are_timms():
    """timm 1.0.31's param_groups_layer_decay: stem, blocks, and the norm with the last of them."""
    depths = build_backbone(SMALL).parameter_depths
    assert set(depths) == {name for name, _ in build_backbone(SMALL).named_parameters()}
    for name, depth in depths.items():
        expected = {"stem": 0, "norm": 3}.get(name.partition(".")[0])
        if expected is None:
            expected = int(name.split(".")[1]) + 1
        assert depth == expected, name


def test_drop_path_is_off_in_evaluation_and_at_rate_zero():
    x = paddle.randn([50, 2, 3])
    layer = DropPath(0.9)
    layer.eval()
    np.testing.assert_array_equal(layer(x).numpy(), x.numpy())
    np.testing.assert_array_equal(DropPath(0.0)(x).numpy(), x.numpy())


def test_drop_path_acts_on_each_branch_alone():
    network = build_backbone(
        {**SMALL, "num_blocks": 1, "drop_path_rate": 0.5, "drop_path_mode": "constant"}
    )
    block = network.blocks[0]
    block.mlp_tokens.forward = lambda x: paddle.full_like(x, 1.0)
    block.mlp_channels.forward = lambda x: paddle.full_like(x, 10.0)
    paddle.seed(0)
    network.train()
    out = block(paddle.zeros([4000, 12, 10])).numpy()[:, 0, 0]
    # The kept branches are doubled: nothing, tokens, channels, both, each a quarter of the time.
    shares = [(out == value).mean() for value in (0, 2, 20, 22)]
    assert sum(shares) == 1.0
    np.testing.assert_allclose(shares, 0.25, atol=0.04)


def test_dropout_is_a_function_of_the_seed():
    network = small_classifier(drop_rate=0.5, drop_path_rate=0.3)
    image = paddle.randn([8, 3, 8, 12])

    def logits(seed):
        paddle.seed(seed)
        return network({"image": image})["logits"].numpy()

    np.testing.assert_array_equal(logits(1), logits(2))  # evaluation
    network.train()
    np.testing.assert_array_equal(logits(1), logits(1))
    assert not np.array_equal(logits(1), logits(2))


def test_dropout_stands_after_every_linear_map():
    network = build_backbone({**SMALL, "drop_rate": 0.25})
    mlp = network.blocks[0].mlp_channels
    paddle.seed(0)
    mlp.fc1.weight.set_value(paddle.zeros_like(mlp.fc1.weight))
    mlp.fc1.bias.set_value(paddle.full_like(mlp.fc1.bias, 100.0))  # GELU(100) = 100
    mlp.fc2.weight.set_value(paddle.full_like(mlp.fc2.weight, 1.0 / 14))
    mlp.train()
    out = mlp(paddle.zeros([3000, 10])).numpy()
    dropped = out == 0
    assert abs(dropped.mean() - 0.25) < 0.02
    # Of the rest, the hidden units vary: a mean of 14 that are 0 or 4/3 of 100, times 4/3.
    kept = out[~dropped] * 0.75
    assert abs(kept.mean() - 100) < 1.5
    deviation = 100 * math.sqrt((1 / 0.75 - 1) / 14)
    assert kept.std() == pytest.approx(deviation, rel=0.1)


# ---------------------------------------------------------------- initial weights


def test_lecun_normal_is_a_truncated_normal_of_variance_one_over_fan_in():
    paddle.seed(0)
    fan_in, layer = 64, nn.Linear(64, 3000)
    lecun_normal_(layer.weight, fan_in=fan_in)
    values = layer.weight.numpy().astype(np.float64).reshape(-1)
    assert abs(values.mean()) < 5 / math.sqrt(fan_in * values.size)
    assert values.var() == pytest.approx(1 / fan_in, rel=0.01)
    # The bound: two standard deviations of the normal that was cut. Its density φ gives the
    # variance after the cut, 1 − 2·2·φ(2) / P(|z| < 2), which rescaling makes 1 / fan_in.
    inside = math.erf(math.sqrt(2))
    cut_variance = 1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / inside
    uncut = 1 / math.sqrt(fan_in * cut_variance)
    assert np.abs(values).max() <= 2 * uncut * (1 + 1e-4)
    assert np.abs(values).max() > 1.98 * uncut
    within_one = math.erf(1 / math.sqrt(2)) / inside
    assert (np.abs(values) < uncut).mean() == pytest.approx(within_one, abs=0.005)


@pytest.mark.smoke
def test_the_backbone_starts_lecun_normal_with_zero_biases():
    paddle.seed(0)
    network = build_backbone(
        {**SMALL, "embed_dim": 96, "channels_mlp_dim": 200, "tokens_mlp_dim": 150}
    )
    block = network.blocks[1]
    for weight, fan_in in [
        (network.stem.proj.weight, 3 * 4 * 2),
        (block.mlp_channels.fc1.weight, 96),
        (block.mlp_channels.fc2.weight, 200),
        (block.mlp_tokens.fc1.weight, 12),
        (block.mlp_tokens.fc2.weight, 150),
    ]:
        assert weight.numpy().var() == pytest.approx(1 / fan_in, rel=0.12)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert (parameter.numpy() == 0).all(), name
        elif "norm" in name:
            assert (parameter.numpy() == 1).all(), name


def test_the_same_seed_gives_the_same_network():
    def weights(seed):
        paddle.seed(seed)
        return np.concatenate([p.numpy().ravel() for p in build_backbone(SMALL).parameters()])

    np.testing.assert_array_equal(weights(3), weights(3))
    assert not np.array_equal(weights(3), weights(4))


def test_the_head_starts_at_zero_or_drawn():
    zero = build_head({"name": "ClassificationHead", "num_classes": 100}, in_channels=400)
    assert (zero.fc.weight.numpy() == 0).all() and (zero.fc.bias.numpy() == 0).all()
    paddle.seed(0)
    cfg = {"name": "ClassificationHead", "num_classes": 100, "init": "lecun_normal"}
    drawn = build_head(cfg, in_channels=400)
    assert drawn.fc.weight.numpy().var() == pytest.approx(1 / 400, rel=0.05)
    assert (drawn.fc.bias.numpy() == 0).all()
    drawn = build_head({**cfg, "init": "normal"}, in_channels=400)
    assert drawn.fc.weight.numpy().std() == pytest.approx(0.02, rel=0.05)


# ---------------------------------------------------------------- losses


LOGITS = np.random.default_rng(5).normal(0, 3, (6, 4))
LABELS = np.array([0, 3, 1, 1, 2, 3])
ONE_HOT = np.eye(4)[LABELS]


def head_loss(training=True, **arguments):
    cfg = {"name": "ClassificationHead", "num_classes": 4, **arguments}
    head = build_head(cfg, in_channels=2)
    head.train() if training else head.eval()
    logits = paddle.to_tensor(LOGITS.astype(np.float32))
    loss = head.loss({"logits": logits}, {"label": paddle.to_tensor(LABELS)})
    assert loss.size == 1
    return float(loss)


def log_softmax():
    return LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))


@pytest.mark.smoke
def test_softmax_loss():
    expected = -(ONE_HOT * log_softmax()).sum(axis=1).mean()
    assert head_loss() == pytest.approx(expected, rel=1e-5)
    assert head_loss(training=False) == pytest.approx(expected, rel=1e-5)


def test_label_smoothing_is_for_training_alone():
    target = 0.9 * ONE_HOT + 0.1 / 4
    smooth = -(target * log_softmax()).sum(axis=1).mean()
    plain = -(ONE_HOT * log_softmax()).sum(axis=1).mean()
    assert head_loss(label_smoothing=0.1) == pytest.approx(smooth, rel=1e-5)
    assert head_loss(label_smoothing=0.1, training=False) == pytest.approx(plain, rel=1e-5)
    assert abs(smooth - plain) > 1e-2


def test_sigmoid_loss_is_summed_over_the_classes():
    p = 1 / (1 + np.exp(-LOGITS))
    expected = -(ONE_HOT * np.log(p) + (1 - ONE_HOT) * np.log(1 - p)).sum(axis=1).mean()
    assert head_loss(loss="sigmoid") == pytest.approx(expected, rel=1e-5)
    assert head_loss(loss="sigmoid", training=False) == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_labels_has_no_loss():
    outputs = small_classifier()({"image": paddle.zeros([1, 3, 8, 12])})
    assert set(outputs) == {"features", "logits"}


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"loss": "hinge"}, "loss"),
        ({"init": "ones"}, "init"),
        ({"num_classes": 0}, "num_classes"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"label_smoothing": -0.1}, "label_smoothing"),
        ({"bias_init": float("inf")}, "bias_init"),
    ],
)
def test_impossible_head_arguments_are_named(arguments, words):
    with pytest.raises(PasslError, match=words):
        build_head({"name": "ClassificationHead", **arguments}, in_channels=2)
