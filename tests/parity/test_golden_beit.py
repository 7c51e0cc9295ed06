"""BEiT-B with numbers that follow from their names: what the authors' code answers, in float64."""

import pytest
from golden_numbers import check_summary, golden_network, loss_and_gradients, scaled

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
