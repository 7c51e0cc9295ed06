"""ViT and DeiT with numbers that follow from their names: what the authors' code answers.

timm's vision_transformer.py and facebookresearch/deit's models.py in float64.
"""

import numpy as np
import pytest
from golden_numbers import (
    check_summary,
    golden_network,
    loss_and_gradients,
    scaled,
    u,
)

from passl.modeling.layers import resized_grid
from passl.modeling.layers.sincos_positions import sincos_positions

SMALL = ("backbone.stem.proj.bias", "backbone.cls_token", "backbone.pos_embed")
# Network, head: case A, case B (small tokens), loss, norms of some gradients.
NETWORKS = {
    "vit_ti16_224": (
        "ClassificationHead",
        (-0.051327, -0.367850, 1.088629, -1.142885, -1.025505, 1937.4404),
        (0.663843, -0.318411, -0.108764, -0.955189, 0.163663, 1909.0961),
        7.657340,
        {
            "backbone.pos_embed": 0.619997,
            "backbone.cls_token": 0.596525,
            "backbone.stem.proj.weight": 11.289,
            "backbone.blocks.0.attn.qkv.weight": 6.73997,
            "backbone.blocks.11.mlp.fc2.weight": 3.45836,
        },
    ),
    "deit_ti16_distilled_224": (
        "DistilledHead",
        (1.177798, 0.445812, -0.178256, -1.136203, -0.246931, 1356.2618),
        (1.446616, -0.074600, -0.537651, -0.884412, 0.458451, 1316.3716),
        7.450826,
        {
            "backbone.dist_token": 0.312506,
            "backbone.pos_embed": 0.456292,
            "head.fc_dist.weight": 5.054,
            "backbone.blocks.0.attn.qkv.weight": 4.96816,
        },
    ),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request, tmp_path_factory):
    head = NETWORKS[request.param][0]
    return golden_network(request.param, "timm", tmp_path_factory.mktemp("vit"), head)


@pytest.fixture
def expected(request, network):
    return NETWORKS[request.node.callspec.params["network"]]


@pytest.mark.smoke
@pytest.mark.usefixtures("each_way")
def test_the_logits_are_the_authors(network, expected):
    check_summary(network, expected[1])


@pytest.mark.usefixtures("each_way")
def test_loss_and_gradients_are_the_authors(network, expected):
    loss, norms = loss_and_gradients(network)
    assert loss == pytest.approx(expected[3], rel=1e-6)
    assert norms.keys() == {name for name, _ in network.named_parameters()}
    for name, norm in expected[4].items():
        assert norms[name] == pytest.approx(norm, rel=1e-4), name


@pytest.mark.smoke
def test_small_tokens_tell_the_epsilon(network, expected):
    """With an epsilon of 1e-5 the logits would be off by 0.65 and more."""
    right = {name: p.numpy() for name, p in network.named_parameters() if name in SMALL}
    scaled(network, SMALL)
    check_summary(network, expected[2], times=0.002)
    for name, parameter in network.named_parameters():
        if name in right:
            parameter.set_value(right[name])


# What each way makes of 14×14 positions for 24×24: [0, 0, 1], [0, 1, 0], [12, 7, 3], sum of sizes;
# from SciPy's zoom and torch's interpolate.
WAYS = {
    "bilinear_aligned": (0.172924, 0.120406, 0.554557, 1513.7236),
    "bilinear": (0.172924, 0.174741, 0.568524, 1540.7426),
    "bicubic": (0.136313, 0.253201, 0.825256, 1937.7150),
    "bicubic_antialias": (0.145397, 0.249158, 0.769835, 1857.5205),
}


@pytest.mark.smoke
@pytest.mark.parametrize("way", WAYS)
def test_positions_are_resized_as_their_publishers_do(way):
    grid = u("pos", (1, 197, 8))[0, 1:].reshape(14, 14, 8)
    new = resized_grid(grid, (24, 24), way)
    found = (new[0, 0, 1], new[0, 1, 0], new[12, 7, 3], np.abs(new).sum())
    np.testing.assert_allclose(found, WAYS[way], atol=1e-6, rtol=1e-7)


@pytest.mark.parametrize("way", WAYS)
def test_the_same_size_changes_nothing_and_a_constant_stays_one(way):
    grid = u("pos", (5, 7, 3))
    np.testing.assert_allclose(resized_grid(grid, (5, 7), way), grid, atol=1e-12)
    for size in ((9, 4), (3, 12)):
        new = resized_grid(np.ones((5, 7, 3)), size, way)
        assert new.shape == (*size, 3)
        np.testing.assert_allclose(new, 1.0, atol=1e-12)


def test_rows_and_columns_of_a_grid_that_is_not_square_keep_their_places():
    rows = np.arange(4.0)[:, None, None] * np.ones((4, 6, 1))
    new = resized_grid(rows, (7, 3), "bilinear_aligned")
    np.testing.assert_allclose(new[:, :, 0], np.linspace(0, 3, 7)[:, None] * np.ones(3))


def test_fixed_positions_are_big_visions():
    """models/vit.py, posemb_sincos_2d, written out number by number."""
    found = sincos_positions((3, 5), 12)
    for y in range(3):
        for x in range(5):
            waves = [10000.0 ** -(k / 2) for k in range(3)]
            wanted = [f(at * w) for at in (x, y) for f in (np.sin, np.cos) for w in waves]
            np.testing.assert_allclose(found[5 * y + x], wanted)


def test_the_numbers_are_those_of_the_rule():
    np.testing.assert_allclose(
        u("image", (4,)), [0.64755857, -0.043475178, 0.752532885, -0.059137051], rtol=1e-7
    )
    np.testing.assert_allclose(
        u("head.bias", (3,)), [0.998825831, 0.264804938, -0.343154996], rtol=1e-7
    )
