"""Runs of CLIP on shards of pairs: records, an interruption, two processes, bad files, refusals."""

import json
import random
import time

import numpy as np
import paddle
import pytest
import yaml
from clip import HundredIds  # noqa: F401  (registers it)
from helpers import (
    Stop,
    losses,
    records,
    run_here,
    start_processes,
    start_tool,
    weights,
)
from pair_files import clip_config, samples, shard

from passl.datasets import section_loader
from passl.datasets.loading.sampler import EvaluationBatches
from passl.datasets.sources.paths import ImagePaths
from passl.datasets.view import evaluation_view
from passl.engine import train, trainer
from passl.modeling.architectures import build_architecture
from passl.utils.config import get_config
from passl.utils.errors import PasslError
from passl.weights import load_weights

PAIRS, STEPS = 60, 14  # two epochs in batches of 8


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    for part, first, count in (("train", 0, PAIRS), ("val", 100, 13)):
        (root / part).mkdir()
        for number in range(0, count, 25):
            size = min(25, count - number)
            shard(root / part / f"{number // 25:05d}.tar", samples(first + number, size))
    return root


@pytest.fixture
def config(pairs, photos, tmp_path):
    """Writes a small config and returns its path."""

    def write(model=None, root=pairs, **changes):
        cfg = clip_config(photos, root, model, **changes)
        path = tmp_path / "clip.yaml"
        path.write_text(yaml.safe_dump(cfg))
        return path

    return write


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, array in one.items():
        np.testing.assert_array_equal(array, other[key], err_msg=key)


@pytest.mark.parametrize("parts", [1, 2])
def test_an_interrupted_run_is_the_same_run(parts, config, tmp_path, monkeypatch):
    """Bit for bit, in the middle of a shard; also where a batch is taken in two parts."""
    batches = {"global_batch_size": 8}
    path = config(**batches)
    half = [f"dataloader.train.sampler.batch_size={8 // parts}"]
    train(get_config(path, [f"output_dir={tmp_path / 'whole'}", *half]))
    build = trainer.build_hooks
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "build_hooks", lambda *a: [*build(*a), Stop(9)])
        with pytest.raises(KeyboardInterrupt):
            train(get_config(path, [f"output_dir={tmp_path / 'cut'}", *half]))
    train(get_config(path, [f"output_dir={tmp_path / 'cut'}", *half]), resume="auto")
    assert_same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert records(tmp_path / "whole") == records(tmp_path / "cut")
    told = [record for record in records(tmp_path / "whole") if "split" not in record]
    assert len(told) == STEPS
    assert {"scale", "chance", "image_top1", "text_top1"} <= set(told[0])
    assert told[0]["chance"] == pytest.approx(np.log(8), rel=1e-6)
    last = records(tmp_path / "whole")[-1]
    assert {"mean_r1", "image_to_text_r5", "text_to_image_r10"} <= set(last)
    assert last["samples"] == 13


@pytest.mark.full
def test_a_killed_run_is_the_same_run(config, tmp_path):
    """SIGKILL at some moment, with data workers and perhaps a checkpoint being written."""
    path = config(epochs=3, checkpoint={"interval_steps": 2})
    folder = tmp_path / "killed"
    process = start_tool("train", "-c", path, "--output-dir", folder)
    moment = random.randint(4, 18)
    print(f"killed after step {moment}")  # is shown where it fails
    for line in process.stdout:
        if f"step {moment}/" in line:
            break
    time.sleep(random.uniform(0, 0.1))
    process.kill()
    process.communicate()
    code, out, err = run_here("train", "-c", path, "--output-dir", folder, "--resume", "auto")
    assert code == 0, err
    train(get_config(path, [f"output_dir={tmp_path / 'whole'}"]))
    assert_same(weights(folder), weights(tmp_path / "whole"))


def test_every_pair_is_seen_once_an_epoch(config, tmp_path, monkeypatch):
    """But for those that fill no batch, other ones in each epoch."""
    from passl.datasets.sources.pairs import ImageTextShards

    seen, read = [], ImageTextShards.untransformed

    def noting(self, index, image):
        if len(self) == PAIRS:
            seen.append(self.captions(index)[0])
        return read(self, index, image)

    monkeypatch.setattr(ImageTextShards, "untransformed", noting)
    path = config(evaluate={"interval_epochs": 9})
    train(
        get_config(
            path, [f"output_dir={tmp_path / 'run'}", "dataloader.train.loader.num_workers=0"]
        )
    )
    first, second = seen[-112:-56], seen[-56:]
    assert len(set(first)) == len(set(second)) == 56 and set(first) != set(second)


@pytest.mark.full
def test_a_broken_image_is_replaced_with_its_caption(config, pairs, tmp_path):
    """In two processes, which must have equally many pairs; nothing is lost but this one."""
    root = tmp_path / "broken"
    for part, first, count in (("train", 0, 20), ("val", 100, 5)):
        (root / part).mkdir(parents=True)
        content = samples(first, count)
        if part == "train":
            content[3][1]["png"] = content[3][1]["png"][:60]
            content[7][1]["txt"] = b"  "
        shard(root / part / "00000.tar", content)
    path = config(root=root, epochs=3)
    process = start_processes(
        2, tmp_path / "logs", "train", "-c", path, "--output-dir", tmp_path / "run",
        "-o", "dataloader.train.sampler.batch_size=4",
    )  # fmt: skip
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert len(losses(tmp_path / "run")) == 3 * (19 // 8)
    logs = "\n".join(p.read_text() for p in (tmp_path / "logs").glob("workerlog.*"))
    assert "000000003.png" in logs and "1 image with an empty caption" in logs


@pytest.mark.full
def test_a_run_of_two_processes_is_that_of_one(config, tmp_path):
    path = config(epochs=1, model={"architecture": {
        "name": "CLIPVisionTransformer", "img_size": 16, "patch_size": 8, "embed_dim": 16,
        "num_blocks": 1, "num_heads": 2,
    }})  # fmt: skip
    process = start_processes(
        2, tmp_path / "logs", "train", "-c", path, "--output-dir", tmp_path / "two",
        "-o", "dataloader.train.sampler.batch_size=4",
    )  # fmt: skip
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    train(get_config(path, [f"output_dir={tmp_path / 'one'}"]))
    one, two = (losses(tmp_path / folder) for folder in ("one", "two"))
    assert one.keys() == two.keys() == set(range(1, 8))
    for step, loss in one.items():
        assert two[step] == pytest.approx(loss, rel=1e-6 if step == 1 else 1e-4), step
    last = [records(tmp_path / folder)[-1] for folder in ("one", "two")]
    assert last[0]["samples"] == last[1]["samples"] == 13


def test_commands(config, pairs, tmp_path):
    path = config(epochs=1, log_config={"interval": 3})
    code, out, err = run_here("train", "-c", path, "--output-dir", tmp_path / "run")
    assert code == 0, err
    assert "a network that knows nothing has a loss of ln 8 = 2.0794" in out + err
    assert "60 images with 60 captions" in out + err
    assert "4 images fill no batch and are left out of an epoch, others each time" in out + err
    assert "--labels 'a cat,a dog'" in out + err
    own = tmp_path / "run" / "config.yaml"
    code, out, err = run_here("eval", "-c", own, "--json", tmp_path / "found.json")
    assert code == 0, err
    found = json.loads((tmp_path / "found.json").read_text())
    last = records(tmp_path / "run")[-1]
    assert found["mean_r1"] == last["mean_r1"]


def check_probabilities(config, answers, templates):
    """Compares answers with NumPy's, of embeddings one at a time."""
    cfg = get_config(config)
    network = build_architecture(cfg.model)
    load_weights(network, str(config.parent / "checkpoints" / "best.safetensors"))
    network.eval()

    def units(rows):
        rows = np.asarray(rows, np.float64)
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    def of_text(text):
        ids, _ = network.tokenizer([text], network.context)
        return units(network.embed_texts(paddle.to_tensor(ids)).numpy()[0])

    names = sorted(answers[0]["names"])
    sentences = [[of_text(t.replace("{}", name)) for t in templates] for name in names]
    classes = units(np.mean(sentences, axis=1))
    paths = [answer["path"] for answer in answers]
    section = evaluation_view(cfg)
    dataset = ImagePaths(paths, section.dataset.transforms)
    loader = section_loader(section, dataset, EvaluationBatches(len(paths), 4), num_workers=0)
    with paddle.no_grad():
        images = [network.embed_images(batch["image"]).numpy() for batch in loader]
    logits = np.exp(network.logit_scale.item()) * units(np.concatenate(images)) @ classes.T
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    for answer, expected in zip(answers, shares):
        found = dict(zip(answer["names"], answer["probabilities"]))
        np.testing.assert_allclose([found[name] for name in names], expected, rtol=1e-3)


def test_images_are_told_apart_by_words(config, photos, tmp_path, monkeypatch):
    """``predict`` and ``eval`` by names, with a report; and what is wrong with some commands."""
    monkeypatch.setenv("PASSL_CACHE", str(tmp_path / "cache"))
    path = config(epochs=1, log_config={"interval": 7})
    code, out, err = run_here("train", "-c", path, "--output-dir", tmp_path / "run")
    assert code == 0, err
    own, images = tmp_path / "run" / "config.yaml", photos / "val"
    answers = tmp_path / "answers.json"
    code, out, err = run_here(
        "predict", "-c", own, images, "--labels", "a cat, 一只狗,a pear", "--json", answers,
        "--template", "a photo of {}", "--template", "art of {}",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(answers.read_text())
    assert {name for one in found for name in one["names"]} == {"a cat", "一只狗", "a pear"}
    assert all(sum(one["probabilities"]) == pytest.approx(1.0, abs=1e-5) for one in found)
    check_probabilities(own, found, ["a photo of {}", "art of {}"])
    names = tmp_path / "names.txt"
    names.write_text("a cat\n一只狗\na pear\n", encoding="utf-8")
    code, out, err = run_here(
        "predict", "-c", own, images, "--class-names", names, "--json", answers,
        "--template", "a {}!",
    )  # fmt: skip
    assert code == 0, err
    check_probabilities(own, json.loads(answers.read_text()), ["a {}!"])
    by_names = (
        "evaluate.evaluator={name: ZeroShot}",
        f"dataloader.val.dataset={{name: ImageFolder, dataroot: {images}, transforms: "
        "[{name: ResizeCenterCrop, size: 16}]}",
    )
    overrides = [word for override in by_names for word in ("-o", override)]
    code, out, err = run_here("eval", "-c", own, *overrides, "--report", tmp_path / "report")
    assert code == 0, err
    assert "Top-1" in out and "apple" in (tmp_path / "report" / "report.html").read_text()
    kept = sorted((tmp_path / "cache" / "zero_shot").iterdir())
    train(get_config(path, [f"output_dir={tmp_path / 'other'}", *by_names]))
    assert "top1" in records(tmp_path / "other")[-1]
    assert sorted((tmp_path / "cache" / "zero_shot").iterdir()) == kept, "of a run nothing is"
    for arguments, message in (
        ([], "CLIP tells apart what it is told to: --labels"),
        (["--labels", "a cat"], "at least two different words"),
        (["--labels", "a cat,,a dog"], "none is empty"),
        (["--template", "a {}"], "CLIP tells apart what it is told to: --labels"),
        (["--labels", "a cat,a dog, a cat"], "at least two different words"),
        (["--labels", "a,b", "--template", "c"], "a template has {} where"),
        (["--labels", "a,b", "--class-names", str(path)], "both say what to tell apart"),
    ):
        code, out, err = run_here("predict", "-c", own, images, *arguments)
        assert code == 2 and message in err, arguments


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["to_static=true"], "CLIP cannot be trained with to_static"),
        (["dataloader.train.sampler.batch_size=1"], "the batch is one pair"),
        (["model.text.context=7"], "texts have 9 ids, the text tower takes 7"),
        (["dataloader.train.dataset.transforms.1.context=20"], "texts have 20 ids"),
        (["global_batch_size=12"], "not a whole multiple"),
        (
            ["dataloader.train.dataset.transforms.1.tokenizer.name=HundredIds"],
            "Tokenize makes .* with HundredIds, the network reads texts with CLIPTokenizer; give",
        ),
    ],
)
def test_what_is_refused(overrides, said, config, tmp_path):
    path = config(epochs=1)
    with pytest.raises(PasslError, match=said):
        train(get_config(path, [f"output_dir={tmp_path / 'run'}", *overrides]))


def test_sets_without_captions_are_refused(config, photos, tmp_path):
    path = config(epochs=1)
    train_root = f"dataroot: {photos / 'train'}"
    plain = f"dataloader.train.dataset={{name: ImageFolder, {train_root}, "
    plain += "transforms: [{name: Resize, size: 16}]}"
    with pytest.raises(PasslError, match="a batch has no text; put {name: Tokenize}"):
        train(get_config(path, [f"output_dir={tmp_path / 'run'}", plain]))
    val = f"dataloader.val.dataset={{name: ImageFolder, dataroot: {photos / 'val'}}}"
    with pytest.raises(PasslError, match="has no captions, which the evaluator Retrieval needs"):
        train(get_config(path, [f"output_dir={tmp_path / 'other'}", val]))
