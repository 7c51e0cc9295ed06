"""Classes that are told apart by words, as a network of their own: exported, evaluated, tuned."""

import json

import numpy as np
import paddle
import pytest
import yaml
from helpers import records, run_here, small_config
from pair_files import clip_config
from PIL import Image
from safetensors.numpy import load_file

from passl.datasets.sources.class_names import imagenet_classes
from passl.deployment import runtimes
from passl.modeling.architectures import build_architecture
from passl.utils.arrays import own_array
from passl.weights import WeightFile, write_tensor_file

NAMES = ["apple", "kiwi", "pear"]  # as the folders of the photographs are called
TEMPLATES = ["a photo of {}", "art of the {}, and of no other {}"]
TOWERS = {
    "projected": {},
    "plain": {"architecture": {"name": "CLIPResNet", "img_size": 32, "blocks": [1, 1, 1, 1],
                               "width": 8, "embed_dim": 8}, "project_images": False},
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PASSL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=TOWERS)
def clip(request, photos, tmp_path):
    """Returns a config, its weights and the network."""
    cfg = clip_config(photos, tmp_path, TOWERS[request.param])
    cfg["dataloader"].pop("train")
    size = cfg["model"]["architecture"].get("img_size", 16)
    cfg["dataloader"]["val"]["dataset"] = {
        "name": "ImageFolder", "dataroot": str(photos / "val"),
        "transforms": [{"name": "Resize", "size": size}],
    }  # fmt: skip
    cfg["evaluate"] = {
        "evaluator": {"name": "ZeroShot", "templates": TEMPLATES}, "interval_epochs": 1
    }  # fmt: skip
    config, weights = tmp_path / "clip.yaml", tmp_path / "clip.safetensors"
    config.write_text(yaml.safe_dump(cfg))
    paddle.seed(3)
    network = build_architecture(cfg["model"])
    network.eval()
    # Networks as they begin give hardly different answers.
    for name, parameter in network.named_parameters():
        if name.endswith("weight") and len(parameter.shape) > 1:
            parameter.set_value(parameter * 2.0)
    arrays = {name: own_array(tensor) for name, tensor in network.state_dict().items()}
    write_tensor_file(weights, arrays, {"kind": "weights"})
    return config, weights, network


def answers_by_hand(network, images, names, templates):
    """Returns the logits by CLIP's figure 3, in float64."""

    def unit(rows):
        rows = rows.numpy().astype(np.float64)
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    with paddle.no_grad():
        classes = []
        for name in names:
            ids, _ = network.tokenizer([t.replace("{}", name) for t in templates], network.context)
            mean = unit(network.embed_texts(paddle.to_tensor(ids))).mean(axis=0)
            classes.append(mean / np.linalg.norm(mean))
        pictures = unit(network.embed_images(paddle.to_tensor(images)))
    return np.exp(float(network.logit_scale)) * pictures @ np.array(classes).T


def prepared(paths, size):
    images = []
    for path in paths:
        with Image.open(path) as image:
            image = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
            images.append(np.asarray(image))
    return ((np.stack(images) / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2).astype(np.float32)


def exported(clip, folder, *arguments, templates=TEMPLATES):
    config, weights, _ = clip
    return run_here(
        "export", "-c", config, "--weights", weights, "--output", folder,
        *(word for template in templates for word in ("--template", template)), *arguments,
    )  # fmt: skip


def test_an_exported_file_tells_words_apart(clip, photos, tmp_path):
    pytest.importorskip("onnxruntime")
    code, out, err = exported(clip, tmp_path / "deploy", "--labels", "a cat,一只狗,a pear")
    assert code == 0, err
    said = json.loads((tmp_path / "deploy" / "preprocessing.json").read_text(encoding="utf-8"))
    assert said["class_names"] == ["a cat", "一只狗", "a pear"]
    assert said["output"] == {"logits": 3} and said["templates"] == TEMPLATES
    images = prepared(sorted((photos / "val").rglob("*.jpg")), said["input"]["shape"][2])
    expected = answers_by_hand(clip[2], images, said["class_names"], TEMPLATES)
    assert expected.std() > 0.01
    for run in (
        runtimes.onnx_runtime(tmp_path / "deploy" / runtimes.ONNX),
        runtimes.paddle_inference(tmp_path / "deploy"),
    ):
        np.testing.assert_allclose(run(images), expected, rtol=0, atol=1e-4 * abs(expected).max())
    assert not (tmp_path / "deploy" / "weights.safetensors").exists()


def classifier_config(clip, folder, **changes):
    """Writes a config that tunes the classifier, and returns its path."""
    cfg = yaml.safe_load(clip[0].read_text())
    head = {"name": "CosineHead", "num_classes": 3}
    if cfg["model"].get("project_images", True):
        head["embed_dim"] = cfg["model"]["embed_dim"]
    cfg["model"] = {"architecture": cfg["model"]["architecture"], "head": head}
    cfg["evaluate"] = {"interval_epochs": 1}
    cfg["dataloader"]["train"] = {
        "dataset": {**cfg["dataloader"]["val"]["dataset"]},
        "batch_transforms": cfg["dataloader"]["val"]["batch_transforms"],
        "sampler": {"batch_size": 2},
    }
    cfg["dataloader"]["train"]["dataset"]["dataroot"] = cfg["dataloader"]["val"]["dataset"][
        "dataroot"
    ].replace("val", "train")
    cfg["dataloader"]["train"]["loader"] = {"num_workers": 0}
    cfg.update(epochs=1, **changes)
    path = folder / "classifier.yaml"
    path.write_text(yaml.safe_dump(cfg))
    return path


@pytest.mark.smoke
def test_tuning_begins_where_words_tell_apart(clip, photos, tmp_path):
    """As in WiSE-FT: what it begins with answers as ``ZeroShot`` does; and a mean is made."""
    config, weights, network = clip
    code, out, err = exported(
        clip, tmp_path / "start", "--labels", ",".join(NAMES), "--format", "passl"
    )
    assert code == 0, err
    start = tmp_path / "start" / "weights.safetensors"
    assert sorted(p.name for p in start.parent.iterdir()) == ["preprocessing.json", start.name]
    with WeightFile(start) as file:
        assert file.metadata["class_names"] == NAMES
        of_gelu = {"backbone": False} if hasattr(network.backbone, "quick_gelu") else None
        assert file.metadata.get("quick_gelu") == of_gelu
    own = classifier_config(clip, tmp_path)
    (kept,) = (tmp_path / "cache" / "zero_shot").iterdir()
    kept.unlink()
    found = {}
    for name, arguments in (
        ("words", ("-c", config, "--weights", weights)),
        ("head", ("-c", own, "--weights", start)),
    ):
        code, out, err = run_here("eval", *arguments, "--json", tmp_path / f"{name}.json")
        assert code == 0, err
        found[name] = json.loads((tmp_path / f"{name}.json").read_text())
    assert kept.exists()  # these are the very words
    paths = sorted((photos / "val").rglob("*.jpg"))
    labels = [NAMES.index(path.parent.name) for path in paths]
    size = yaml.safe_load(config.read_text())["model"]["architecture"]["img_size"]
    images = prepared(paths, size)
    logits = answers_by_hand(network, images, NAMES, TEMPLATES)
    right = logits.argmax(axis=1) == labels
    assert found["words"]["top1"] == found["head"]["top1"] == pytest.approx(100 * right.mean())
    sums = np.log(np.exp(logits).sum(axis=1))
    loss = (sums - logits[np.arange(len(labels)), labels]).mean()
    assert found["head"]["loss"] == pytest.approx(loss, rel=1e-5)
    run = tmp_path / "run"
    code, out, err = run_here(
        "train", "-c", own, "--output-dir", run, "--pretrained", start,
        "-o", "lr_scheduler.learning_rate=1.0e-8", "-o", "model.freeze=[backbone]",
    )  # fmt: skip
    assert code == 0 and "begins anew" not in out + err, err
    assert records(run)[-1]["loss"] == pytest.approx(found["head"]["loss"], rel=1e-4)
    tuned = run / "checkpoints" / "latest.safetensors"
    code, out, err = run_here(
        "convert", start, tmp_path / "mean.safetensors", "--mean", tuned, "--share", "0.25"
    )
    assert code == 0, err
    mean, before, after = map(load_file, (tmp_path / "mean.safetensors", start, tuned))
    for name in ("head.fc.weight", "head.fc.bias"):
        expected = 0.75 * before[name] + 0.25 * after[f"model/{name}"]
        np.testing.assert_allclose(mean[name], expected, rtol=1e-6)
    code, out, err = run_here("eval", "-c", own, "--weights", tmp_path / "mean.safetensors")
    assert code == 0, err


def test_classes_of_imagenet_are_recorded_by_their_identifiers(clip, tmp_path):
    """As the data set calls them, so that fine-tuning on it keeps the head."""
    code, out, err = exported(
        clip, tmp_path / "start", "--class-names", "imagenet", "--format", "passl",
        templates=["imagenet"],
    )  # fmt: skip
    assert code == 0, err
    with WeightFile(tmp_path / "start" / "weights.safetensors") as file:
        names = file.metadata["class_names"]
    assert names == [wnid for wnid, _ in imagenet_classes()] and names[657] == "n03773504"
    said = json.loads((tmp_path / "start" / "preprocessing.json").read_text(encoding="utf-8"))
    assert said["class_names"][657] == "missile" and len(said["templates"]) == 80


def test_what_cannot_be_told_apart(clip, trained, photos, tmp_path):
    deploy = tmp_path / "deploy"
    for arguments, message in (
        ([], "tells apart what it is told to: --labels"),
        (["--labels", "a"], "at least two different words"),
        (["--labels", "a,b", "--features"], "features have no classes"),
        (["--labels", "a,b", "--class-names", "imagenet"], "take one"),
    ):
        code, out, err = exported(clip, deploy, *arguments)
        assert code == 2 and message in err and not deploy.exists(), arguments
    config, weights = trained
    images = photos / "val"
    for tool in (["export", "--output", deploy], ["predict", images]):
        code, out, err = run_here(
            *tool, "-c", config, "--weights", weights, "--labels", "a cat,a dog"
        )
        assert code == 2 and "has classes of its own" in err


def test_a_method_without_classes_exports_features_alone(photos, tmp_path):
    cfg = small_config(photos)
    cfg["model"] = {"name": "SimCLR", "architecture": cfg["model"]["architecture"]}
    path = tmp_path / "simclr.yaml"
    path.write_text(yaml.safe_dump(cfg))
    code, out, err = run_here(
        "export", "-c", path, "--weights", "none.pth", "--output", tmp_path / "deploy"
    )
    assert code == 2 and "SimCLR tells no classes apart; --features" in err
