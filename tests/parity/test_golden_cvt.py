"""CvT-13 with numbers that follow from their names: what the authors' code answers.

microsoft/CvT's lib/models/cls_cvt.py in float64.
"""

import pytest
from golden_numbers import check_summary, golden_network, loss_and_gradients, scaled

SMALL = "backbone.stages.0.patch_embed.proj.bias"
PLAIN = (0.117583, -1.572999, 0.000579, 2.024437, -0.184236, 1954.4563)
SMALL_TOKENS = (-0.171814, -1.809831, -0.209432, 2.349647, -0.264150, 1941.4323)
LOSS = 6.618631
NORMS = {
    "backbone.stages.0.patch_embed.proj.weight": 3.58334,
    "backbone.stages.0.blocks.0.conv_q.conv.weight": 0.419051,
    "backbone.stages.0.blocks.0.conv_k.norm.weight": 0.199555,
    "backbone.stages.2.cls_token": 0.254783,
}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return golden_network("cvt_13", "microsoft", tmp_path_factory.mktemp("cvt"))


@pytest.mark.smoke
@pytest.mark.usefixtures("each_way")
def test_the_logits_are_the_authors(network):
    check_summary(network, PLAIN)


@pytest.mark.usefixtures("each_way")
def test_loss_and_gradients_are_the_authors(network):
    loss, norms = loss_and_gradients(network)
    assert loss == pytest.approx(LOSS, rel=1e-6)
    assert norms.keys() == {name for name, _ in network.named_parameters()}
    for name, norm in NORMS.items():
        assert norms[name] == pytest.approx(norm, rel=1e-4), name


@pytest.mark.smoke
def test_small_tokens_tell_the_epsilon(network):
    """With an epsilon of 1e-6 the logits would be off by 0.74."""
    parameter = dict(network.named_parameters())[SMALL]
    right = parameter.numpy()
    scaled(network, [SMALL])
    check_summary(network, SMALL_TOKENS, times=0.002)
    parameter.set_value(right)
