"""Feature maps of networks that have blocks and no stages."""

import numpy as np
import paddle
import pytest

from passl.modeling.backbones import build_backbone
from passl.modeling.layers import stage_ends

SIZES = {"img_size": [16, 24], "patch_size": 4, "embed_dim": 12, "num_blocks": 5}
NETWORKS = {
    "MlpMixer": {"tokens_mlp_dim": 6, "channels_mlp_dim": 20},
    "ResMlp": {"channels_mlp_dim": 20},
    "Gmlp": {"channels_mlp_dim": 20},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_maps_are_the_tokens_of_the_blocks_in_their_places(name):
    network = build_backbone({"name": name, **SIZES, **NETWORKS[name], "stage_blocks": [2, 5]})
    network.eval()
    images = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, 3, 16, 24)).astype("f4"))
    given = []
    for block in network.blocks:
        block.register_forward_post_hook(lambda layer, x, output: given.append(output.numpy()))
    maps = network.forward_stages(images)
    assert network.stage_channels == [12, 12] and network.stage_strides == [4, 4]
    assert [found.shape for found in maps] == [[2, 12, 4, 6]] * 2
    for found, tokens in zip(maps, (given[1], given[4])):
        for y in range(4):
            for x in range(6):
                np.testing.assert_array_equal(found[:, :, y, x], tokens[:, 6 * y + x])
    assert len(build_backbone({"name": name, **SIZES, **NETWORKS[name]}).stage_channels) == 4


def test_by_default_quarters_end_a_stage():
    assert stage_ends(None, 12) == (3, 6, 9, 12) and stage_ends(None, 24) == (6, 12, 18, 24)
    assert stage_ends(None, 5) == (1, 2, 3, 5) and stage_ends(None, 2) == (1, 2)
    assert stage_ends([1, 7], 12) == (1, 7)
