"""Pictures of weights: kernels that are known, and the command line."""

import numpy as np
import paddle
import pytest
from PIL import Image

from passl.cli import visualize as command
from passl.inspection.attention import lit, mean_distances, of_the_class_token
from passl.inspection.visualization import (
    draw_relative_positions,
    draw_similarity,
    draw_stem,
    draw_token_mixing,
    frequency,
    opposite_pairs,
    visualize,
)
from passl.modeling.architectures import build_architecture
from passl.modeling.backbones import build_backbone
from passl.modeling.layers.attention import watched_attention
from passl.utils.config import get_config
from passl.utils.errors import PasslError
from passl.weights import write_tensor_file


def wave(cycles_x, cycles_y, phase=0.3, side=14):
    y, x = np.mgrid[0:side, 0:side] / side
    return np.cos(2 * np.pi * (cycles_x * x + cycles_y * y) + phase)


def test_the_frequency_of_a_wave_is_its_own():
    kernels = np.stack([5 + 3 * wave(2, 0), wave(0, 3), wave(3, 4), np.ones((14, 14))])
    np.testing.assert_allclose(frequency(kernels), [2 / 14, 3 / 14, 5 / 14, 0], atol=1e-9)


def test_units_are_paired_with_their_opposites_by_rising_frequency():
    rng = np.random.default_rng(0)
    waves = [wave(1, 0), wave(0, 2), wave(2, 2), wave(3, 2), wave(5, 0)]
    kernels = np.stack([k for w in waves for k in (w, -0.5 * w + 0.2)])
    kernels += rng.normal(0, 0.01, kernels.shape)
    order = rng.permutation(10)
    pairs = opposite_pairs(kernels[order])
    found = [sorted(order[pair].tolist()) for pair in pairs]
    assert found == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert opposite_pairs(kernels[:7]).shape == (3, 2), "an odd one is left out"
    assert opposite_pairs(kernels[:1]).shape == (0, 2)


def test_tiles_show_signs_and_strength():
    kernel = np.zeros((2, 2, 2))
    kernel[0, 0] = [4.0, -2.0]
    kernel[1, 0] = [-4.0, 2.0]
    sheet = np.asarray(draw_token_mixing(kernel))
    scale = 28
    assert sheet.shape == (2 * scale + 4, 2 * (2 * scale + 2) + 2, 3)
    tiles = [sheet[2 + scale // 2, 2 + i * (2 * scale + 2) + scale // 2] for i in range(2)]
    # The largest weight of a tile is all red or all blue, half of it half as much; zero is white.
    assert sorted(map(tuple, tiles)) == [(0, 0, 255), (255, 0, 0)]
    halves = [sheet[2 + scale // 2, 2 + i * (2 * scale + 2) + scale * 3 // 2] for i in range(2)]
    assert sorted(map(tuple, halves)) == [(128, 128, 255), (255, 128, 128)]
    assert (sheet[2 + scale * 3 // 2, 2 + scale // 2] == 255).all()


def test_a_stem_is_drawn_in_its_colours():
    kernels = np.zeros((1, 3, 2, 2))
    kernels[0, 0, 0, 0], kernels[0, 2, 1, 1] = 2.0, -2.0
    sheet = np.asarray(draw_stem(kernels))
    assert tuple(sheet[10, 10]) == (255, 128, 128) and tuple(sheet[40, 40]) == (128, 128, 0)
    with pytest.raises(PasslError, match="4 channels cannot be drawn"):
        draw_stem(np.zeros((1, 4, 2, 2)))


def test_a_mixer_says_what_is_drawn_of_it():
    """Unit 1 sees the patch of row 0, column 2 alone."""
    sizes = {"img_size": [32, 48], "patch_size": 16, "embed_dim": 8, "num_blocks": 2}
    mixer = build_backbone({"name": "MlpMixer", **sizes, "tokens_mlp_dim": 4})
    weight = np.zeros((6, 4), np.float32)
    weight[2, 1] = 1.0
    mixer.blocks[1].mlp_tokens.fc1.weight.set_value(paddle.to_tensor(weight))
    pictured = mixer.pictured_weights()
    assert list(pictured) == ["stem", "token_mixing_00", "token_mixing_01"]
    assert pictured["stem"][1].shape == (8, 3, 16, 16)
    kind, kernels = pictured["token_mixing_01"]
    assert kind == "token_mixing" and kernels.shape == (4, 2, 3)
    assert kernels[1, 0, 2] == 1 and kernels.sum() == 1
    # It acts so: with one patch that is not zero, that unit alone answers.
    tokens = paddle.zeros([1, 8, 6])
    tokens[:, :, 2] = 1.0
    answer = paddle.matmul(tokens, mixer.blocks[1].mlp_tokens.fc1.weight)[0, 0].numpy()
    assert answer.tolist() == [0, 1, 0, 0]


def test_the_command(config_file, tmp_path, capsys):
    path = config_file()
    cfg = get_config(path)
    network = build_architecture(cfg.model)
    tensors = {f"model/{n}": p.numpy() for n, p in network.named_parameters()}
    write_tensor_file(tmp_path / "weights.safetensors", tensors, {"kind": "training"})
    given = ["-c", path, "--weights", str(tmp_path / "weights.safetensors")]
    assert command.main([*given, "--output", str(tmp_path / "pictures")]) == 0
    written = sorted(file.name for file in (tmp_path / "pictures").iterdir())
    assert written == ["stem.png", "token_mixing_00.png", "token_mixing_01.png"]
    assert "token_mixing_01.png" in capsys.readouterr().out
    with Image.open(tmp_path / "pictures" / "stem.png") as image:
        assert len(image.getcolors(10**6)) > 100
    (tmp_path / "file").write_text("")
    assert command.main([*given, "--output", str(tmp_path / "file")]) == 2
    assert "file: is a file, and a folder is needed" in capsys.readouterr().err
    with pytest.raises(PasslError, match="Linear does not say which of its weights"):
        visualize(paddle.nn.Linear(2, 2), tmp_path)


def test_relative_positions_are_a_tile_for_each_head():
    """The distance zero in the middle; every tile by a scale of its own."""
    maps = np.zeros((2, 3, 5))
    maps[0, 1, 2], maps[1, 0, 4] = 0.1, -7.0
    sheet = np.asarray(draw_relative_positions(maps))
    scale = 96 // 5
    assert sheet.shape == (2 * (3 * scale + 2) + 2, 5 * scale + 4, 3)
    centre = sheet[2 + scale + scale // 2, 2 + 2 * scale + scale // 2]
    corner = sheet[4 + 3 * scale + scale // 2, 2 + 4 * scale + scale // 2]
    assert tuple(centre) == (255, 0, 0) and tuple(corner) == (0, 0, 255)


def vit(**changes):
    sizes = {"img_size": [32, 48], "patch_size": 16, "embed_dim": 8, "num_blocks": 5}
    return build_backbone({"name": "VisionTransformer", **sizes, "num_heads": 2, **changes})


def test_a_vit_says_how_alike_its_positions_are():
    network = vit()
    positions = np.zeros((1, 7, 8), np.float32)
    positions[0, 1:, 0] = [1, 1, -2, 0, 1, 1]
    positions[0, 1:, 1] = [0, 0, 0, 3, 0, 1]
    network.pos_embed.set_value(positions)
    kind, cosines = network.pictured_weights()["positions"]
    assert kind == "similarity" and cosines.shape == (2, 3, 2, 3)
    np.testing.assert_allclose(cosines[0, 0], [[1, 1, -1], [0, 1, 0.5**0.5]], atol=1e-6)
    sheet = np.asarray(draw_similarity(cosines))
    scale = 42 // 3
    tile = sheet[2 : 2 + 2 * scale, 2 : 2 + 3 * scale]
    assert tuple(tile[1, 1]) == (255, 0, 0) and tuple(tile[1, 2 * scale + 1]) == (0, 0, 255)
    assert tuple(tile[scale + 1, 1]) == (255, 255, 255)


def test_distances_are_means_by_the_weights_among_patches():
    """One head looks at the patch itself, one everywhere alike; the token is left out."""
    weights = np.zeros((1, 2, 7, 7))
    weights[:, 0] = 0.5 * np.eye(7)
    weights[:, 0, :, 0] += 0.5
    weights[:, 1] = 1 / 7
    places = [(y, x) for y in range(2) for x in range(3)]
    mean = np.mean([np.hypot(a - c, b - d) for a, b in places for c, d in places])
    np.testing.assert_allclose(mean_distances(weights, 1, (2, 3)), [0, mean], atol=1e-12)


def test_what_the_class_token_takes():
    weights = np.zeros((1, 2, 3, 3))
    weights[0, :, 0] = [[0.2, 0.8, 0.0], [0.0, 0.4, 0.6]]
    np.testing.assert_allclose(of_the_class_token(weights, 1, (1, 2)), [[[0.6, 0.3]]])
    weights[0, :, 1:] = [0.25, 0.5, 0.25]
    without = of_the_class_token(weights[:, :, 1:, 1:], 0, (1, 2))
    np.testing.assert_allclose(without, [[[0.5, 0.25]]])
    white = np.full((4, 8, 3), 255, np.uint8)
    picture = lit(white, np.array([[1.0, 0.0]]))
    assert (picture[:, 0] == 255).all() and (picture[:, -1] == 38).all()


def test_attention_is_kept_only_where_it_is_asked_for():
    network = vit()
    kept = []
    with watched_attention(lambda _, weights: kept.append(weights)):
        network(paddle.randn([2, 3, 32, 48]))
    assert len(kept) == 5 and all(weights.shape == [2, 2, 7, 7] for weights in kept)
    np.testing.assert_allclose(sum(kept).sum(-1), 5 * np.ones((2, 2, 7)), rtol=1e-5)
    network(paddle.randn([2, 3, 32, 48]))
    assert len(kept) == 5


@pytest.mark.parametrize("name", ["VisionTransformer", "Beit"])
def test_the_command_draws_attention(config_file, tmp_path, capsys, name):
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "num_blocks": 2, "num_heads": 2}
    path = config_file(model={"architecture": {"name": name, **sizes}})
    network = build_architecture(get_config(path).model)
    tensors = {n: p.numpy() for n, p in network.named_parameters()}
    write_tensor_file(tmp_path / "weights.safetensors", tensors, {"kind": "weights"})
    folder = tmp_path / "照片"
    folder.mkdir()
    Image.new("RGB", (60, 50), (200, 10, 30)).save(folder / "红.png")
    given = ["-c", path, "--weights", str(tmp_path / "weights.safetensors")]
    given += ["--output", str(tmp_path / "pictures"), "--images", str(folder)]
    assert command.main(given) == 0
    written = sorted(file.name for file in (tmp_path / "pictures").iterdir())
    assert {"attention.png", "attention_distance.png", "stem.png"} < set(written)
    assert ("positions.png" in written) == (name == "VisionTransformer")
    capsys.readouterr()
    mixer = config_file()
    network = build_architecture(get_config(mixer).model)
    tensors = {n: p.numpy() for n, p in network.named_parameters()}
    write_tensor_file(tmp_path / "weights.safetensors", tensors, {"kind": "weights"})
    given[1] = mixer
    assert command.main(given) == 2
    assert "MlpMixer has no attention from patch to patch" in capsys.readouterr().err
