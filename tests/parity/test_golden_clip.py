"""CLIP's networks and losses against numbers that open_clip 3.3.0 and NumPy gave in float64."""

import numpy as np
import paddle
import pytest
from clip import clip, open_clip_state, take_open_clip_state

from passl.modeling.architectures.clip import sigmoid_loss, softmax_loss
from passl.modeling.layers.embeddings import unit
from passl.tokenization import CLIPTokenizer

ROWS, COLUMNS = np.mgrid[:4, :5]
A = np.sin(1 + 7 * ROWS + 3 * COLUMNS)
B = np.cos(2 + 5 * ROWS + 2 * COLUMNS)
TEXTS = ["a photo of a cat", "a diagram"]


def units(array):
    return unit(paddle.to_tensor(array.astype("float64")))


@pytest.mark.smoke
@pytest.mark.parametrize(
    "scale, expected, slope",
    [
        (1.0, 1.256766397551817, -0.108165265732),
        (1 / 0.07, 1.631551434568880, 1.112116022640),
        (100.0, 9.612571088388078, 9.557370408795),
    ],
)
def test_the_loss_and_its_gradient_by_the_logarithm_of_the_scale(scale, expected, slope):
    logarithm = paddle.to_tensor(np.log(scale), stop_gradient=False)
    loss, _ = softmax_loss(units(A), units(B), logarithm.exp())
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    assert logarithm.grad.item() == pytest.approx(slope, rel=1e-11)


@pytest.mark.smoke
def test_the_sigmoid_loss():
    scale, bias = (paddle.to_tensor(value, "float64") for value in (10.0, -10.0))
    loss, _ = sigmoid_loss(units(A), units(B), scale, bias)
    assert loss.item() == pytest.approx(8.897828466397719, rel=1e-12)


def test_the_share_of_right_partners():
    other = B + A[::-1]
    similarity = units(A).numpy() @ units(other).numpy().T
    _, (image, text) = softmax_loss(units(A), units(other), paddle.to_tensor(5.0, "float64"))
    assert image.item() == (similarity.argmax(1) == np.arange(4)).mean()
    assert text.item() == (similarity.argmax(0) == np.arange(4)).mean()
    assert image.item() != text.item()


def fill_of_vit(k, array):
    return 0.05 * np.sin(1.7 * k + 0.9 * np.arange(array.size))


def fill_of_resnet(k, array):
    n = np.arange(array.size, dtype=np.int64)
    uniform = ((31 * n**2 + 7919 * n + 104729 * k) % 10007) / 10007 - 0.5
    return uniform * ((24 * len(array) / array.size) ** 0.5 if array.ndim == 4 else 0.2)


def filled(tower, quick_gelu):
    network = clip(tower, quick_gelu, dtype="float64")
    network.eval()
    fill, state = {"ViT": fill_of_vit, "ResNet": fill_of_resnet}[tower], open_clip_state(network)
    for k, name in enumerate(sorted(state)):
        if name == "logit_scale":
            state[name] = np.array(np.log(1 / 0.07))
            continue
        values = fill(k, state[name]).reshape(state[name].shape)
        layer, _, leaf = name.rpartition(".")
        norm = layer.rpartition(".")[2].startswith(("ln_", "bn")) or layer.endswith("downsample.1")
        state[name] = values + (norm and leaf == "weight" or leaf == "running_var")
    take_open_clip_state(network, state)
    return network, state


def answers(network, size):
    c, h, w = np.mgrid[:3, :size, :size]
    images = np.stack([np.cos(c + 0.1 * h + 0.3 * w), np.sin(2 * c + 0.2 * h - 0.1 * w)])
    ids, _ = CLIPTokenizer()(TEXTS)
    with paddle.no_grad():
        outputs = network({"image": paddle.to_tensor(images), "text": paddle.to_tensor(ids)})
        image, text = outputs["image_embedding"], outputs["text_embedding"]
        loss, _ = softmax_loss(unit(image), unit(text), network.logit_scale.exp())
        maps = [m.mean().item() for m in network.backbone.forward_stages(paddle.to_tensor(images))]
    image, text = image.numpy(), text.numpy()
    norms = np.linalg.norm(image, axis=1), np.linalg.norm(text, axis=1)
    return (
        image,
        text,
        norms,
        (image / norms[0][:, None]) @ (text / norms[1][:, None]).T,
        loss,
        maps,
    )


@pytest.mark.smoke
@pytest.mark.parametrize("quick_gelu", [True, False])
def test_vit(quick_gelu):
    network, state = filled("ViT", quick_gelu)
    assert len(state) == 62 and sum(array.size for array in state.values()) == 3_423_041
    image, text, norms, cosines, loss, _ = answers(network, 32)
    if quick_gelu:
        expected = [-0.3168154017, -0.1553440998, 0.1236885198, 1.5704867837]
        words = [0.1590141958, 0.0258474027, -0.1268801894, 0.8960198984]
        total = 1.7124023221
        np.testing.assert_allclose(
            cosines,
            [[-0.9331550882, -0.6552245145], [-0.8785293216, -0.7478365111]],
            atol=2e-10,
        )
    else:
        expected = [-0.3168726982, -0.1554047506, 0.1236704141, 1.5707409175]
        words = [0.1590464573, 0.0258462243, -0.1269139159, 0.8962214594]
        total = 1.7120325163
    np.testing.assert_allclose([*image[0, :3], norms[0][0]], expected, atol=2e-10)
    np.testing.assert_allclose([*text[0, :3], norms[1][0]], words, atol=2e-10)
    assert loss.item() == pytest.approx(total, abs=1e-9)


@pytest.mark.smoke
def test_resnet():
    network, state = filled("ResNet", True)
    assert len(state) == 149 and sum(array.size for array in state.values()) == 4_614_409
    image, text, norms, cosines, _, maps = answers(network, 64)
    np.testing.assert_allclose(
        [*image[0, :3], norms[0][0], *image[1, :3], norms[0][1]],
        [-1.2841688734, 2.1139858349, -0.0726393029, 8.0414389544]
        + [-0.9445360375, 2.2856438577, -0.4159073932, 8.3612196276],
        atol=2e-9,
    )
    np.testing.assert_allclose(
        [*text[0, :3], norms[1][0]],
        [-0.4212102481, 0.4086051947, 0.0915416208, 3.0711155452],
        atol=2e-9,
    )
    np.testing.assert_allclose(
        cosines, [[0.0603703965, -0.0395744487], [0.0483134813, -0.0848891076]], atol=2e-9
    )
    assert image[0] @ image[1] / norms[0].prod() == pytest.approx(0.9824146101, abs=2e-10)
    np.testing.assert_allclose([maps[0], maps[3]], [0.16653898, 0.38753441], atol=1e-8)
