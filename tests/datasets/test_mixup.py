"""Mixup and CutMix against NumPy and the distributions they are to have."""

import numpy as np
import paddle
import pytest
from scipy import stats

from passl.datasets import BATCH_TRANSFORMS, Loader, TrainingBatches, build_dataset
from passl.modeling.heads import build_head
from passl.utils.errors import PasslError
from passl.utils.seeding import batch_rng

NEVER = 1e-3  # a right distribution fails so often


def batch(count=8, size=(6, 10), dtype="float32"):
    pixels = np.random.default_rng(0).normal(size=(count, 3, *size)).astype(dtype)
    return {"image": paddle.to_tensor(pixels), "label": paddle.arange(count), "extra": 1}


def mixed(cfg, rng=None, given=None):
    transform = BATCH_TRANSFORMS.build({"name": "Mixup", **cfg})
    given = given or batch()
    before = given["image"].numpy().copy()
    result = transform(given, rng or batch_rng(0, 0))
    assert (given["image"].numpy() == before).all() and result["extra"] == 1
    assert (result["label"].numpy() == given["label"].numpy()).all()
    return before, {key: result[key].numpy() for key in result if key != "extra"}


def shares(cfg, count, draws, size=(50, 70)):
    transform = BATCH_TRANSFORMS.build({"name": "Mixup", **cfg})
    rng = np.random.default_rng(3)
    return [transform.draw(count, *size, rng) for _ in range(draws)]


@pytest.mark.smoke
@pytest.mark.parametrize("mode", ["batch", "element"])
def test_mixup_is_a_weighted_sum(mode):
    before, after = mixed({"mixup_alpha": 0.5, "mode": mode})
    partner, weight = after["partner_label"], after["partner_weight"]
    assert sorted(partner) == list(range(8)) and (partner != np.arange(8)).all()
    assert (weight >= 0).all() and (weight <= 0.5).all()
    assert len(set(weight.tolist())) == (1 if mode == "batch" else 8)
    w = weight[:, None, None, None]
    np.testing.assert_allclose(after["image"], (1 - w) * before + w * before[partner], atol=1e-6)


@pytest.mark.smoke
@pytest.mark.parametrize("mode", ["batch", "element"])
def test_cutmix_puts_a_box_of_the_partner_in(mode):
    seen = set()
    for step in range(20):
        before, after = mixed(
            {"mixup_alpha": 0.0, "cutmix_alpha": 1.0, "mode": mode}, batch_rng(0, step)
        )
        partner = after["partner_label"]
        inside = (after["image"] == before[partner]).all(1)
        assert (inside | (after["image"] == before).all(1)).all()
        for i in range(8):
            share = inside[i].mean()
            assert share == pytest.approx(after["partner_weight"][i], abs=1e-6)
            rows, columns = np.flatnonzero(inside[i].any(1)), np.flatnonzero(inside[i].any(0))
            if len(rows):
                assert inside[i][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            seen.add(round(float(share), 4))
    assert len(seen) > 8


def test_partners_go_in_one_cycle_through_the_batch():
    for step in range(50):
        partner = mixed({}, batch_rng(0, step))[1]["partner_label"]
        at, visited = 0, []
        for _ in range(8):
            visited.append(at)
            at = partner[at]
        assert at == 0 and sorted(visited) == list(range(8))
    # Who is whose partner is drawn evenly: 7 others, 700 draws.
    partners = [mixed({}, batch_rng(1, step))[1]["partner_label"][3] for step in range(700)]
    counts = np.bincount(partners, minlength=8)
    assert counts[3] == 0 and stats.chisquare(np.delete(counts, 3)).pvalue > NEVER


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0])
def test_the_share_is_that_of_the_beta_distribution(alpha):
    """max(λ, 1 - λ) with λ from Beta(α, α) has the distribution 2 F(x) - 1 on [1/2, 1]."""
    found = [share[0] for share, _, _ in shares({"mixup_alpha": alpha}, 4, 3000)]
    law = stats.beta(alpha, alpha)
    assert stats.kstest(found, lambda x: 2 * law.cdf(x) - 1).pvalue > NEVER
    assert stats.kstest(found, lambda x: 2 * stats.beta(2 * alpha, alpha).cdf(x) - 1).pvalue < 1e-6


def test_the_box_has_the_share_of_the_area_before_the_border_cuts_it():
    drawn = shares({"mixup_alpha": 0.0, "cutmix_alpha": 1.0}, 1, 4000, size=(1000, 1500))
    boxes = np.array([box[0] for _, _, box in drawn])
    whole = (boxes[:, 0] > 0) & (boxes[:, 1] > 0) & (boxes[:, 2] < 1500) & (boxes[:, 3] < 1000)
    width, height = (boxes[whole, 2:] - boxes[whole, :2]).T
    np.testing.assert_allclose(width / height, 1.5, rtol=0.1, err_msg="the image's own shape")
    # A box of side r is whole where its centre is at least r / 2 from the border: with the
    # probability (1 - r)². With Beta(1, 1), r² is uniform, so r has the density 2 r (1 - r)² · 6.
    side = height / 1000
    law = stats.beta(2, 3)
    assert (
        stats.kstest(side + np.random.default_rng(0).uniform(0, 0.002, len(side)), law.cdf).pvalue
        > NEVER
    )
    share = np.array([share[0] for share, _, _ in drawn])
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 1.5e6
    np.testing.assert_allclose(share, 1 - area)


def test_how_often_and_which_is_as_asked():
    cfg = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "switch_probability": 0.3, "probability": 0.6}
    drawn = shares({**cfg, "mode": "element"}, 2000, 2)
    boxed = np.concatenate([boxed for _, boxed, _ in drawn])
    mixing = np.concatenate([share < 1 for share, _, _ in drawn])
    assert stats.binomtest(int(boxed.sum()), 4000, 0.6 * 0.3).pvalue > NEVER
    # A box may be empty; that is rare in an image of 50×70.
    assert abs(mixing.mean() - 0.6) < 0.03
    by_batch = shares(cfg, 3, 2000)
    assert all(len(set(boxed.tolist())) == 1 for _, boxed, _ in by_batch)
    assert stats.binomtest(sum(bool(b[0]) for _, b, _ in by_batch), 2000, 0.18).pvalue > NEVER
    before, after = mixed({"probability": 0.0})
    assert (after["image"] == before).all() and (after["partner_weight"] == 0).all()


def test_one_image_has_only_itself():
    before, after = mixed({}, given=batch(1))
    np.testing.assert_allclose(after["image"], before, atol=1e-6)
    assert after["partner_label"] == [0]


def test_what_is_drawn_is_a_function_of_seed_step_micro_batch_and_process():
    def weights(*place):
        return mixed({"mode": "element"}, batch_rng(*place))[1]["partner_weight"].tolist()

    places = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    assert all(weights(*place) == weights(*place) for place in places)
    assert len({tuple(weights(*place)) for place in places}) == len(places)


def test_a_resumed_stream_mixes_as_the_first_one_did(photos):
    dataset = build_dataset(
        {"name": "ImageFolder", "dataroot": str(photos / "train"),
         "transforms": [{"name": "RandomResizedCrop", "size": 8}]}
    )  # fmt: skip
    transforms = [
        {"name": "Normalize", "mean": [0.5] * 3, "std": [0.5] * 3},
        {"name": "Mixup", "cutmix_alpha": 1.0},
    ]

    def stream(start, rank=0, size=1):
        batches = TrainingBatches(60, 20, 10, 5, start, 4, rank=rank, size=size)
        return list(Loader(dataset, batches, transforms, batch_rng=batches.rng))

    whole, rest = stream(0), stream(3)
    assert len(whole) == 8 and len(rest) == 2
    for one, other in zip(whole[-2:], rest):
        for field in ("image", "label", "partner_label", "partner_weight"):
            assert (one[field].numpy() == other[field].numpy()).all(), field
    assert len({float(b["partner_weight"][0]) for b in whole}) > 5
    # In two processes each mixes its own half.
    for rank in (0, 1):
        for part, together in zip(stream(0, rank, 2), whole):
            mine = together["label"][rank * 5 : rank * 5 + 5].numpy()
            assert (part["label"].numpy() == mine).all()
            assert sorted(part["partner_label"].numpy()) == sorted(mine)


@pytest.mark.smoke
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_mixed_labels_against_numpy(loss, smoothing):
    head = build_head(
        {"name": "ClassificationHead", "in_channels": 4, "num_classes": 8, "loss": loss,
         "label_smoothing": smoothing, "init": "lecun_normal"}
    )  # fmt: skip
    features = np.random.default_rng(1).normal(size=(8, 4)).astype("float32")
    given = mixed({"mode": "element"})[1]
    logits = head(paddle.to_tensor(features))
    z = logits.numpy().astype(np.float64)
    w = given["partner_weight"][:, None].astype(np.float64)
    eye = np.eye(8)
    target = (1 - w) * eye[given["label"]] + w * eye[given["partner_label"]]
    target = (1 - smoothing) * target + smoothing / 8
    if loss == "softmax":
        log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
        expected = -(target * log_p).sum(1).mean()
    else:
        expected = (np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0) - z * target).sum(1).mean()
    tensors = {key: paddle.to_tensor(value) for key, value in given.items()}
    assert float(head.loss({"logits": logits}, tensors)) == pytest.approx(expected, rel=1e-5)


def test_the_head_bias_starts_where_it_is_told():
    head = build_head({"name": "ClassificationHead", "in_channels": 3, "bias_init": -6.9})
    assert (head.fc.bias.numpy() == np.float32(-6.9)).all() and (head.fc.weight.numpy() == 0).all()


@pytest.mark.parametrize(
    "cfg, message",
    [
        ({"mixup_alpha": 0.0}, "one of them above it"),
        ({"cutmix_alpha": -1.0}, "at least 0"),
        ({"switch_probability": 1.5}, "switch_probability lies in"),
        ({"probability": -0.5}, "probability lies in"),
        ({"mode": "pair"}, "mode is 'batch' or 'element'"),
    ],
)
def test_what_cannot_be_is_refused(cfg, message):
    with pytest.raises(PasslError, match=message):
        BATCH_TRANSFORMS.build({"name": "Mixup", **cfg})


def test_it_needs_floats_and_training(photos):
    with pytest.raises(PasslError, match="put it after Normalize"):
        mixed({}, given={**batch(), "image": paddle.zeros([8, 6, 10, 3], "uint8")})
    dataset = build_dataset({"name": "ImageFolder", "dataroot": str(photos / "val")})
    with pytest.raises(PasslError, match="Mixup is for training; leave it out"):
        Loader(dataset, [], [{"name": "Mixup"}])


@pytest.mark.parametrize("alpha", [float("inf"), float("nan")])
def test_an_alpha_that_is_no_number_is_refused(alpha):
    with pytest.raises(PasslError, match="mixup_alpha and cutmix_alpha are finite"):
        BATCH_TRANSFORMS.build({"name": "Mixup", "mixup_alpha": alpha})


def test_an_image_without_a_box_is_faded_everywhere_and_one_with_a_box_nowhere():
    """Both kinds in one batch, image by image against NumPy."""
    cfg = {"mixup_alpha": 1.0, "cutmix_alpha": 1.0, "mode": "element"}
    transform = BATCH_TRANSFORMS.build({"name": "Mixup", **cfg})
    share, boxed, boxes = transform.draw(8, 6, 10, batch_rng(0, 3))
    assert 2 < boxed.sum() < 6 and (boxes[~boxed][:, 2:] > boxes[~boxed][:, :2]).all(axis=1).any()
    before, after = mixed(cfg, batch_rng(0, 3))
    for i, (left, upper, right, lower) in enumerate(boxes):
        other = before[after["partner_label"][i]]
        if boxed[i]:
            expected = before[i].copy()
            expected[:, upper:lower, left:right] = other[:, upper:lower, left:right]
        else:
            expected = share[i] * before[i] + (1 - share[i]) * other
        np.testing.assert_allclose(after["image"][i], expected, atol=1e-5)
