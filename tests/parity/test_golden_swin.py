"""Swin-T with numbers that follow from their names: what the authors' code answers, in float64."""

import numpy as np
import pytest
from golden_numbers import check_summary, golden_network, loss_and_gradients, scaled, u

from passl.modeling.backbones.swin_transformer import shifted_mask
from passl.modeling.layers.relative_positions import (
    class_token_index,
    resized_table,
    window_index,
)

A = (-0.730266, 0.046419, -2.331435, -0.909256, -0.002051, 1801.2137)
B = (-0.623272, 0.229782, -2.388113, -0.658708, 0.079902, 1818.3304)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return golden_network("swin_t_224", "microsoft", tmp_path_factory.mktemp("swin"))


@pytest.mark.smoke
@pytest.mark.usefixtures("each_way")
def test_the_logits_are_the_authors(network):
    check_summary(network, A)


def test_loss_and_gradients_are_the_authors(network):
    loss, norms = loss_and_gradients(network)
    assert loss == pytest.approx(7.417506, rel=1e-6)
    assert norms.keys() == {name for name, _ in network.named_parameters()}
    table = "attn.relative_position_bias_table"
    for name, norm in {
        "backbone.stem.proj.weight": 1.30419,
        f"backbone.stages.0.1.{table}": 0.00721606,
        "backbone.merging.0.reduction.weight": 7.47716,
        f"backbone.stages.3.1.{table}": 0.0032198,
    }.items():
        assert norms[name] == pytest.approx(norm, rel=1e-4), name


@pytest.mark.smoke
def test_small_tokens_tell_the_epsilon(network):
    """With an epsilon of 1e-6 the logits would be off by 0.55."""
    bias = network.backbone.stem.proj.bias
    right = bias.numpy()
    scaled(network, ["backbone.stem.proj.bias"])
    check_summary(network, B, times=0.002)
    bias.set_value(right)


@pytest.mark.smoke
def test_the_index_is_the_authors():
    seven, twelve = window_index(7, 7), window_index(12, 12)
    assert [seven[pair] for pair in ((0, 0), (0, 1), (0, 2), (0, 48), (48, 0))] == [
        84, 83, 82, 0, 168,
    ]  # fmt: skip
    assert (seven[3, 17], seven[17, 3], seven.sum()) == (58, 110, 201684)
    assert [twelve[0, i] for i in (0, 1, 12)] == [264, 263, 241] and twelve.sum() == 5474304
    wide = window_index(2, 3)  # 3 distances along the height, 5 along the width
    assert wide.shape == (6, 6) and wide.min() == 0 and wide.max() == 14
    assert len(np.unique(wide)) == 15


@pytest.mark.smoke
def test_the_index_with_a_class_token_is_beits():
    index = class_token_index(14, 14)
    assert index.shape == (197, 197) and index.sum() == 14270119
    assert index[0, 0] == 731 and set(index[0, 1:]) == {729} and set(index[1:, 0]) == {730}
    assert index[1, 1:4].tolist() == [364, 363, 362]
    assert (index[1, 15], index[15, 1], index[1, 196], index[196, 1]) == (337, 391, 0, 728)


@pytest.mark.parametrize("size, window, total, windows", [
    (56, 7, 18240, {0: 0, 7: 1176, 56: 1176, 63: 1776}),
    (14, 7, 4128, {0: 0, 1: 1176, 2: 1176, 3: 1776}),
    (96, 12, 160704, {}),
])  # fmt: skip
def test_the_mask_is_the_authors(size, window, total, windows):
    mask = shifted_mask(size, size, window, window // 2)
    assert mask.shape == ((size // window) ** 2, window**2, window**2)
    assert np.count_nonzero(mask) == total and set(np.unique(mask)) == {-100.0, 0.0}
    for place, count in windows.items():
        assert np.count_nonzero(mask[place]) == count


@pytest.mark.smoke
def test_a_mask_of_a_map_that_is_not_square_parts_what_was_apart():
    """Pixel by pixel: after the shift, tokens of a window that were no neighbours in the map."""
    height, width, window, shift = 8, 12, 4, 2
    mask = shifted_mask(height, width, window, shift)
    for number in range(6):
        top, left = window * (number // 3), window * (number % 3)
        for i in range(window**2):
            for j in range(window**2):
                at = [((top + t // window), (left + t % window)) for t in (i, j)]
                # Where they come from: shift further, around the border.
                around = [(y + shift >= height, x + shift >= width) for y, x in at]
                assert (mask[number, i, j] != 0) == (around[0] != around[1])


# For Swin 169 rows of 7×7 windows to 529 of 12×12; for BEiT 729 of 14×14 to 2209 of 24×24, and the
# three of the class token. First two of row 0, one in the middle, sum of sizes; from torch's and
# SciPy's functions, which the publishers call.
TABLES = [
    ("tab", 169, 12, 0, 234, "bicubic", (-0.351388, -0.618591, 0.237995, 620.9460)),
    ("tab", 169, 12, 0, 234, "geometric_linear", (-0.281932, -0.479811, 0.577468, 519.6654)),
    ("tab", 169, 12, 0, 234, "geometric_cubic", (-0.281950, -0.479785, 0.563456, 776.2482)),
    ("rel", 732, 24, 3, 1074, "bicubic", (0.439584, -0.607203, -0.079153, 2727.5967)),
    ("rel", 732, 24, 3, 1074, "geometric_linear", (0.309425, -0.492894, 0.178425, 2195.0649)),
    ("rel", 732, 24, 3, 1074, "geometric_cubic", (0.309425, -0.492894, 0.163272, 2950.3524)),
]


@pytest.mark.smoke
@pytest.mark.parametrize("name, rows, window, extra, row, way, wanted", TABLES)
def test_tables_are_resized_as_their_publishers_do(name, rows, window, extra, row, way, wanted):
    table = u(name, (rows, 3))
    new = resized_table(table, (window, window), way, extra)
    assert new.shape == ((2 * window - 1) ** 2 + extra, 3)
    if extra:
        np.testing.assert_array_equal(new[-extra:], table[-extra:])
        new = new[:-extra]
    found = (*new[0, :2], new[row, 1], np.abs(new).sum())
    np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=1e-6)
