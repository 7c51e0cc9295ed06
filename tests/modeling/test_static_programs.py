"""Networks as static programs: what they compute, and what the viewers are shown of it."""

import numpy as np
import paddle
import pytest

from passl.modeling.architectures import build_architecture
from passl.modeling.graph import as_model_file, trace

SMALL = {
    "CycleMlp": {"embed_dims": [8, 12], "depths": [1, 1], "mlp_ratios": [2, 2]},
    "VisionPermutator": {
        "img_size": 32,
        "patch_size": 4,
        "embed_dims": [8, 16],
        "depths": [1, 1],
        "halved": [True],
    },
    "ConvMlp": {
        "stem_channels": 8,
        "conv_depth": 1,
        "embed_dims": [8, 12],
        "depths": [1, 1],
        "mlp_ratios": [2, 2],
    },
    "DistilledVisionTransformer": {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 8,
        "num_blocks": 1,
        "num_heads": 2,
    },
    "ResNet": {"blocks": [1, 1], "width": 4, "padding": "same", "pool_padding": "torch"},
    "SwinTransformer": {
        "img_size": 32,
        "embed_dim": 8,
        "depths": [2],
        "num_heads": [2],
        "window_size": 4,
    },
}


def config(name):
    head = {"name": "ClassificationHead", "num_classes": 3, "init": "lecun_normal"}
    return {"architecture": {"name": name, **SMALL[name]}, "head": head}


@pytest.mark.smoke
@pytest.mark.parametrize("name", SMALL)
def test_a_static_program_learns_the_same(name):
    image = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    batch = {"image": paddle.to_tensor(image), "label": paddle.to_tensor([0, 1, 2, 0])}
    found = []
    for static in (False, True):
        paddle.seed(0)
        model = build_architecture(config(name))
        forward = paddle.jit.to_static(model.forward, full_graph=True) if static else model.forward
        loss = forward(batch)["loss"]
        loss.backward()
        gradients = {n: p.grad.numpy() for n, p in model.named_parameters()}
        state = {n: tensor.numpy() for n, tensor in model.state_dict().items()}
        found.append((float(loss), gradients, state))
    (loss, gradients, state), (other_loss, other_gradients, other_state) = found
    assert other_loss == pytest.approx(loss, rel=1e-5)
    for key, gradient in gradients.items():
        np.testing.assert_allclose(other_gradients[key], gradient, rtol=1e-3, atol=1e-6)
    assert state.keys() == other_state.keys()
    for key, tensor in state.items():  # running statistics too
        np.testing.assert_allclose(other_state[key], tensor, rtol=1e-4, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("name", SMALL)
def test_the_graph_can_be_drawn(name):
    graph = trace(config(name), [3, 32, 32])
    known = set(graph.shapes)
    assert all(set(operation.inputs) <= known for operation in graph.operations)
    parameters = {n for n, _ in build_architecture(config(name)).named_parameters()}
    assert parameters <= set(graph.weights)
    assert as_model_file(graph)
