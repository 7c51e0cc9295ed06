"""``passl finetune``: one line from released weights and a folder to a network and its report."""

import functools
import os
import shutil

import numpy as np
import paddle
import pytest
from helpers import photograph, records, run_here

from passl.building import create_model
from passl.datasets import build_dataset
from passl.datasets.sources.parts import find_parts
from passl.engine.finetuning import batches, find_release, finetuning_config
from passl.evaluation.zero_shot import zero_shot_classifier
from passl.inspection import fitting
from passl.inspection.costs import kept_for_backward
from passl.modeling.architectures import build_architecture
from passl.modeling.backbones import BACKBONES
from passl.modeling.texts import TEXTS
from passl.modeling.texts.text_transformer import TextTransformer
from passl.utils.arrays import own_array
from passl.utils.config import get_config, shipped_configs
from passl.utils.errors import PasslError
from passl.utils.zoo import get_release, releases
from passl.weights import WeightFile, write_tensor_file

NAME = "vit_ti16_224.augreg_in21k_ft_in1k"
NARROW = {"num_blocks": 1, "embed_dim": 16, "num_heads": 2}


@pytest.fixture(autouse=True)
def narrow(monkeypatch, tmp_path):
    monkeypatch.setenv("PASSL_CACHE", str(tmp_path / "cache"))
    for name in ("vit_ti16_224", "clip_vit_b32_224"):
        small = functools.partial(BACKBONES._factories[name], **NARROW)
        monkeypatch.setitem(BACKBONES._factories, name, small)
    text = functools.partial(TextTransformer, **NARROW)
    monkeypatch.setitem(TEXTS._factories, "TextTransformer", text)


@pytest.fixture
def released(tmp_path):
    """Returns a file of a network of the release."""
    network = create_model("vit_ti16_224")
    arrays = {name: own_array(tensor) for name, tensor in network.state_dict().items()}
    path = tmp_path / "released.safetensors"
    write_tensor_file(path, arrays, {"kind": "weights"})
    return path


def finetune(tmp_path, folder, released, *arguments, name=NAME):
    return run_here(
        "finetune", name, folder, "--weights", released, "--output-dir", tmp_path / "run",
        "--epochs", "1", *arguments,
    )  # fmt: skip


@pytest.mark.smoke
def test_one_line_gives_a_network_and_its_report(photos, released, tmp_path):
    """From class folders alone: a tenth of each class is held out."""
    folder = tmp_path / "照片"
    shutil.copytree(photos / "train", folder)
    code, out, err = finetune(tmp_path, folder, released)
    assert code == 0, err
    run = tmp_path / "run"
    assert "apple" in (run / "report" / "report.html").read_text(encoding="utf-8")
    cfg = get_config(run / "config.yaml")
    assert cfg.model.head.num_classes == 3 and cfg.preprocessing == NAME and cfg.epochs == 1
    assert cfg.dataloader.train.dataset.subset == "[:90%]"
    assert cfg.dataloader.val.dataset.subset == "[90%:]"
    assert cfg.dataloader.train.dataset.dataroot == cfg.dataloader.val.dataset.dataroot
    (of_val,) = [record for record in records(run) if "split" in record]
    images = sum(len(files) for _, _, files in os.walk(folder))
    assert of_val["samples"] == images - round(images * 0.9) == 6
    code, out, err = run_here("predict", "-c", run / "config.yaml", folder / "pear")
    assert code == 0 and "pear" in out, err
    # The same line once more has nothing to do but the report.
    before = records(run)
    code, out, err = finetune(tmp_path, folder, released)
    assert code == 0 and "nothing is left to train" in out + err and records(run) == before
    code, out, err = finetune(tmp_path, photos / "val", released)
    assert code == 2 and "holds a run from vit_ti16_224" in err and "照片" in err
    other = "vit_ti16_224.augreg_in21k"
    code, out, err = finetune(tmp_path, folder, released, name=other)
    assert code == 2 and "name another --output-dir" in err


def test_parts_of_a_set_are_used_as_such(photos, released, tmp_path):
    """And the last word is that of ``test``."""
    code, out, err = finetune(
        tmp_path, photos, released, "-o", "dataloader.val.sampler.batch_size=4"
    )
    assert code == 0, err
    cfg = get_config(tmp_path / "run" / "config.yaml")
    for part in ("train", "val", "test"):
        assert cfg.dataloader[part].dataset.dataroot == str(photos / part)
        assert cfg.dataloader[part].dataset.get("subset") is None
    assert cfg.dataloader.val.sampler.batch_size == 4, "what is said counts most"
    view = get_release(NAME).preprocessing
    assert cfg.dataloader.test.dataset.transforms == view.transforms()
    assert cfg.dataloader.test.batch_transforms == view.batch_transforms()
    assert records(tmp_path / "run")[-1]["split"] == "test"
    assert f"{photos / 'test'} (test)" in out


def test_a_small_memory_takes_a_batch_in_parts(photos, released, tmp_path, monkeypatch):
    monkeypatch.setattr("passl.cli.finetune.images_that_fit", lambda *arguments: 4)
    code, out, err = finetune(tmp_path, photos, released)
    assert code == 0 and "4 images at a time fit into memory" in out + err, err
    cfg = get_config(tmp_path / "run" / "config.yaml")
    assert cfg.dataloader.train.sampler.batch_size == 4 and cfg.global_batch_size == 16


def test_the_networks_of_a_release_are_those_of_its_config(photos, tmp_path):
    """With the recipe's regularisation, in the release's size; of every family, and odd ones."""
    seen = set()
    odd = ("mlp_mixer_s8_224.goog_gsam_in1k", "deit_b16_distilled_384.fb_in1k",
           "clip_vit_b16_plus_240.laion400m", "clip_resnet50_224.openai",
           "vit_b16_224.miil_in21k_ft_in1k", "swin_b_384.ms_in22k")  # fmt: skip
    for release in releases().values():
        family = shipped_configs()[release.config].parent.name
        if family in seen and release.name not in odd:
            continue
        seen.add(family)
        cfg = finetuning_config(release, str(photos), str(tmp_path))
        theirs = get_config(release.config, release.overrides).model.architecture
        mine = dict(cfg.model.architecture)
        for key, value in theirs.items():
            if not key.startswith("drop_path"):
                assert mine.pop(key) == value, (release.name, key)
        assert set(mine) <= {"drop_path_rate"}
        crop = cfg.dataloader.train.dataset.transforms[0]
        assert (crop.size, crop.interpolation) == (
            release.preprocessing.size, release.preprocessing.interpolation,
        )  # fmt: skip
        assert cfg.dataloader.val.dataset.transforms == release.preprocessing.transforms()
        assert cfg.model.head.num_classes is None
        heads = {"DistilledHead": "distilled", "CosineHead": "clip"}
        for head, mark in heads.items():
            if mark != "distilled" or family == "deit":
                assert (cfg.model.head.name == head) == (mark in release.name), release.name
    assert seen == {path.parent.name for path in shipped_configs().values()} - {
        "byol", "moco", "simclr",
    }  # fmt: skip


def test_weights_of_clip_begin_by_the_names_of_the_folders(photos, tmp_path):
    name = "clip_vit_b32_224.openai"
    release = get_release(name)
    model = get_config(release.config).model
    network = build_architecture(model)
    network.eval()
    arrays = {key: own_array(tensor) for key, tensor in network.state_dict().items()}
    weights = tmp_path / "clip.safetensors"
    write_tensor_file(weights, arrays, {"kind": "weights", "config": {"model": dict(model)}})
    folder = tmp_path / "photos"
    shutil.copytree(photos / "train", folder)
    (folder / "pear").rename(folder / "great_pear")
    code, out, err = finetune(
        tmp_path, folder, weights, "-o", "lr_scheduler.learning_rate=1.0e-12", name=name
    )
    assert code == 0 and "begins anew" not in out + err, err
    with WeightFile(tmp_path / "run" / "start.safetensors") as file:
        assert file.metadata["class_names"] == ["apple", "great_pear", "kiwi"]
        assert file.metadata["quick_gelu"] == {"backbone": True}
        found = file.groups[file.key]["head.fc.weight"].read()
    names = ["apple", "great pear", "kiwi"]
    rows = zero_shot_classifier(network, names, ["a photo of a {}."]).numpy()
    scale = np.exp(float(network.logit_scale))
    np.testing.assert_allclose(found, scale * rows.T, rtol=1e-4, atol=1e-5)
    with WeightFile(tmp_path / "run" / "checkpoints" / "latest.safetensors") as file:
        after = file.groups[file.key]["head.fc.weight"].read()
    np.testing.assert_allclose(after, found, atol=1e-6)


@pytest.mark.parametrize(
    "folders, parts",
    [
        (["train/a", "train/b"], {"train": "train"}),
        (["Training/a", "Training/b", "valid/a", "testing/a"],
         {"train": "Training", "val": "valid", "test": "testing"}),
        (["train/a", "train/b", "dev/a", "val/a"], {"train": "train", "val": "val"}),
        (["a", "b"], {"train": "."}),
        (["a", "test"], {"train": "."}),  # a class called test has no folders in it
        (["train/a", "train/b", "val"], {"train": "train"}),
    ],
)  # fmt: skip
def test_parts_by_their_names(folders, parts, tmp_path):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    found = find_parts(str(tmp_path))
    assert {name: os.path.normpath(path) for name, path in found.items()} == {
        name: os.path.normpath(tmp_path / path) for name, path in parts.items()
    }


@pytest.mark.parametrize(
    "folders, message",
    [
        (["val/a", "val/b"], "has val, but no folder called train"),
        (["train/a"], "one class folder, a"),
        (["a"], "one class folder, a"),
    ],
)
def test_folders_that_nothing_can_be_learned_from(folders, message, tmp_path):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(PasslError, match=message):
        find_parts(str(tmp_path))


def test_mistakes_are_one_line(photos, released, tmp_path):
    for arguments, message in (
        (["vit_ti61_224", photos], "did you mean 'vit_ti16_224'"),
        (["vit_ti16_224", tmp_path / "nothing"], "there is no such folder"),
        (["vit_ti16_224", released], "is a file, not a folder"),
        (["vit_ti16_224", tmp_path], "no class folders"),
        (["vit_ti16_224", photos, "--epochs", "0"], "--epochs is at least 1"),
        (["vit_ti16_224", photos, "-o", "epoch=3"], "unknown key 'epoch'"),
    ):
        code, out, err = run_here(
            "finetune", *arguments, "--weights", released, "--output-dir", tmp_path / "run"
        )
        assert code == 2 and message in err and err.count("error:") == 1, (arguments, err)
        assert not (tmp_path / "run").exists()


def test_a_network_without_a_tag_takes_its_first_release(messages):
    assert find_release("vit_ti16_224").name == NAME
    assert any("also released: vit_ti16_224.augreg_in21k" in m for m in messages())
    assert find_release("mlp-mixer_l16_224").name == "mlp_mixer_l16_224.goog_in1k"


def test_the_warm_up_goes_with_the_epochs(photos, tmp_path):
    release = get_release(NAME)
    own = finetuning_config(release, str(photos), "out")
    few = finetuning_config(release, str(photos), "out", epochs=5)
    assert few.epochs == 5 and own.epochs == 20
    assert few.lr_scheduler.warmup_epochs / own.lr_scheduler.warmup_epochs == 0.25


@pytest.mark.parametrize(
    "sizes, kept",
    [((40, 6), 90), ((40, 5), 89), ((3, 3), 82), ((2, 9), 74), ((1, 1), 50), ((1, 30), 90)],
)
def test_of_few_images_one_of_each_class_is_held_out(sizes, kept, tmp_path):
    for number, count in enumerate(sizes):
        (tmp_path / f"class{number}").mkdir()
        for i in range(count):
            photograph(i, (8, 8)).save(tmp_path / f"class{number}" / f"{i}.png")
    cfg = finetuning_config(get_release(NAME), str(tmp_path), "out")
    train, val = (cfg.dataloader[part].dataset for part in ("train", "val"))
    assert train.subset == f"[:{kept}%]" and val.subset == f"[{kept}%:]"
    if min(sizes) > 1:
        for part, section in (("train", train), ("val", val)):
            labels = build_dataset(section).labels
            assert set(labels.tolist()) == {0, 1}, part


@pytest.mark.parametrize(
    "fitting, samples, part, whole",
    [(16, 600, 16, 16), (4, 600, 4, 16), (1, 600, 1, 16), (16, 11, 8, 8), (2, 11, 2, 8),
     (16, 16, 16, 16), (16, 2, 2, 2)],
)  # fmt: skip
def test_batches_suit_memory_and_images(fitting, samples, part, whole, photos):
    cfg = finetuning_config(get_release(NAME), str(photos), "out")
    found = batches(cfg, fitting, samples)
    assert found == [
        f"dataloader.train.sampler.batch_size={part}",
        f"dataloader.val.sampler.batch_size={part}",
        f"global_batch_size={whole}",
    ]
    with pytest.raises(PasslError, match="two are the least"):
        batches(cfg, fitting, 1)


@pytest.mark.skipif(paddle.__version__.startswith("2."), reason="its hooks do not count")
def test_images_that_fit_into_memory(photos):
    cfg = finetuning_config(get_release(NAME), str(photos), "out", overrides=[
        "model.head.num_classes=3"
    ])  # fmt: skip
    network = build_architecture(cfg.model)
    network.train()
    batch = {"image": paddle.randn([2, 3, 224, 224]), "label": paddle.zeros([2], "int64")}
    each = kept_for_backward(network, lambda: network(batch)) / 2
    weights = 20 * sum(p.size for p in network.parameters())  # five times four bytes
    for images in (1, 2, 8, 16):
        enough = (weights + images * each) / 0.7
        find = functools.partial(fitting.images_that_fit, cfg, [3, 224, 224], 16)
        assert find(int(enough * 1.001)) == images
        assert find(int(enough * 0.999)) == max(1, images // 2)
    assert fitting.memory_of("cpu") > 1e8
