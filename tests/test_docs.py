"""The documents: every command in them runs, every Python block too, every link leads somewhere.

A command that needs ImageNet or a GPU runs on made-up images, as one process on a processor, with
networks of one narrow block: what it says is tried, not how long it takes.
"""

import functools
import io
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from clip import open_clip_state
from helpers import ROOT, my_project
from PIL import Image

from passl.building import create_model
from passl.cli import main as passl
from passl.datasets import DATASETS
from passl.datasets.registry import TRANSFORMS
from passl.datasets.sources import synthetic
from passl.datasets.sources.files import ImageNet
from passl.evaluation import EVALUATORS
from passl.hooks import HOOKS
from passl.inspection import pictures
from passl.modeling.architectures import ARCHITECTURES, build_architecture
from passl.modeling.backbones import BACKBONES
from passl.modeling.heads import HEADS
from passl.modeling.texts import TEXTS
from passl.modeling.texts.text_transformer import TextTransformer
from passl.tokenization import TOKENIZERS
from passl.utils.config import get_config
from passl.utils.errors import PasslError
from passl.utils.records import read_metrics
from passl.utils.zoo import get_release
from passl.weights import write_tensor_file
from passl.weights.formats import torch

sys.path.insert(0, str(ROOT / "scripts"))
from generated_docs import FILES, with_generated

PAGES = [ROOT / "README.md", ROOT / "README_zh.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES.append(ROOT / "benchmarks" / "README.md")
VIT = "vit_s16_224.augreg_in21k"
EXTRAS = {  # of setup.py: the modules that they bring
    "onnx": ["paddle2onnx", "onnx", "onnxoptimizer", "onnxruntime", "openvino"],
    "photos": ["pyarrow"],
    "devkit": ["scipy"],
    "tensorboard": ["tensorboard"],
}


def blocks(page, language):
    """Yields (line number, text) of a page's code blocks."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.M | re.S):
        yield text[: match.start()].count("\n") + 2, match.group(1)


def words_of(page):
    """Yields (line number of its block, words) of each command of a page."""
    for line, text in blocks(page, "bash"):
        for command in text.replace("\\\n", " ").splitlines():
            words = shlex.split(command, comments=True)
            if words:
                yield line, words


def installed_by(words):
    """Returns the extras and packages that a command installs."""
    if words[:2] != ["pip", "install"]:
        return set()
    extras = re.findall(r"\[(.*)\]", " ".join(words))
    return set(",".join(extras).split(",")) | set(words[2:])


def commands():
    """Returns the commands of each page in their order, as a reader goes through them.

    Of each: its line, its words, what was installed until then. A command that has run on a page
    before with the same installed is left out.
    """
    found, pages = set(), []
    for page in PAGES:
        own = []
        installed = {"photos"} if page.parent == ROOT else set()  # the READMEs' quickstart has it
        for line, words in words_of(page):
            key = (tuple(words), frozenset(installed & EXTRAS.keys()))
            if key not in found:
                found.add(key)
                own.append((line, list(words), key[1]))
            installed |= installed_by(words)
        pages.append(pytest.param(own, id=str(page.relative_to(ROOT))))
    return pages


def hide_what_is_not(monkeypatch, installed):
    """Hides the modules that only extras bring which a reader has not installed."""
    there = {module for extra in installed for module in EXTRAS[extra]}
    for modules in EXTRAS.values():
        for module in set(modules) - there:
            monkeypatch.setitem(sys.modules, module, None)


def narrow(monkeypatch):
    """Gives the networks with a name one narrow block, and made-up sets few images."""
    narrower = (
        ("channels_mlp_dim", {"num_blocks": 1, "channels_mlp_dim": 32}),
        ("bottleneck", {"blocks": (1, 1), "width": 8}),
    )
    for name, factory in list(BACKBONES._factories.items()):
        for mark, sizes in narrower:
            if isinstance(factory, functools.partial) and mark in factory.keywords:
                small = functools.partial(factory.func, **{**factory.keywords, **sizes})
                monkeypatch.setitem(BACKBONES._factories, name, small)
    tower = {"num_blocks": 1, "embed_dim": 32, "num_heads": 2}
    # Google's files tell heads by the widths of the papers.
    small = functools.partial(
        BACKBONES._factories["vit_s16_224"], num_blocks=1, embed_dim=192, num_heads=3
    )
    monkeypatch.setitem(BACKBONES._factories, "vit_s16_224", small)
    small = functools.partial(BACKBONES._factories["clip_vit_b32_224"], **tower)
    monkeypatch.setitem(BACKBONES._factories, "clip_vit_b32_224", small)
    text = functools.partial(TextTransformer, **tower)
    monkeypatch.setitem(TEXTS._factories, "TextTransformer", text)
    monkeypatch.setattr(ImageNet, "published_sizes", {"train": 1281167, "val": 16})
    monkeypatch.setattr(synthetic, "_EVALUATION", 16)
    monkeypatch.setattr(pictures, "_IMAGES", 1)
    monkeypatch.setattr(pictures, "_DRAWS", 2)


def small_vit(folder):
    """Puts the release that the README fine-tunes into the cache, with the narrow network."""
    (file,) = [file for file in get_release(VIT).files if file.by == "google"]
    network = create_model("vit_s16_224", num_classes=21843)
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    write_tensor_file(folder / "vit.safetensors", tensors, {})
    path = folder / "cache" / "weights" / VIT / file.name
    path.parent.mkdir(parents=True)
    assert passl.main(["convert", str(folder / "vit.safetensors"), str(path)]) == 0


@pytest.fixture(scope="module")
def place(photos, tmp_path_factory):
    """A folder with what the documents speak of: photographs, a finished run, a released file."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("configs", "tools", "scripts", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "mine").symlink_to(photos)
    shutil.copytree(photos / "train", folder / "photos")
    Image.open(photos / "test" / "pear" / "002.jpg").save(folder / "cat.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PASSL_CACHE", str(folder / "cache"))
        patch.setenv("PASSL_OFFLINE", "1")
        narrow(patch)
        argv = ["train", "-c", "mlp-mixer_own_images", "--output-dir", "output/mine"]
        argv += ["-o", "model.head.num_classes=3", "-o", "epochs=1"]
        argv += ["-o", "lr_scheduler.warmup_epochs=0"]
        assert passl.main(argv) == 0
        network = create_model("mlp_mixer_b16_224")
        tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
        write_tensor_file(folder / "b16.safetensors", tensors, {})
        assert passl.main(["convert", "b16.safetensors", "Mixer-B_16.npz"]) == 0
        network = build_architecture(get_config("clip_vit_b32_224").model)
        torch.write("ViT-B-32.pt", open_clip_state(network))
        tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
        checkpoints = folder / "output" / "clip_own_pairs" / "checkpoints"
        checkpoints.mkdir(parents=True)
        write_tensor_file(checkpoints / "best.safetensors", tensors, {})
        argv = ["export", "-c", "clip_vit_b32_224", "--weights", "ViT-B-32.pt"]
        argv += ["--labels", "apple,kiwi,pear", "--format", "passl", "--output", "tuned"]
        assert passl.main(argv) == 0
        checkpoints = folder / "output" / "clip_own_images_finetune" / "checkpoints"
        checkpoints.mkdir(parents=True)
        (folder / "tuned" / "weights.safetensors").rename(checkpoints / "latest.safetensors")
        (folder / "FILE").symlink_to(folder / "Mixer-B_16.npz")
        release = folder / "cache" / "weights" / "mlp_mixer_b16_224.goog_in1k"
        release.mkdir(parents=True)
        (release / "Mixer-B_16.npz").symlink_to(folder / "Mixer-B_16.npz")
        small_vit(folder)
        argv = ["finetune", VIT, "mine", "--epochs", "1", "--output-dir", "output/photos"]
        assert passl.main(argv) == 0
        argv = ["train", "-c", "simclr_own_images", "--output-dir", "output/pretrained"]
        argv += ["-o", "epochs=1", "-o", "lr_scheduler.warmup_epochs=0"]
        assert passl.main(argv) == 0
        network = create_model("resnet50", num_classes=0)
        tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
        for method in ("moco_v2_r50_in1k_200ep", "simclr_r50_in1k_100ep"):
            checkpoints = folder / "output" / method / "checkpoints"
            checkpoints.mkdir(parents=True)
            write_tensor_file(checkpoints / "latest.safetensors", tensors, {})
        argv = ["export", "-c", "output/mine/config.yaml", "--output", "deploy"]
        assert passl.main(argv) == 0
    return folder


def needs_images(argv):
    """Whether the data of the config that a command names is not there."""
    overrides = [argv[i + 1] for i, word in enumerate(argv) if word == "-o"]
    cfg = get_config(argv[argv.index("-c") + 1], overrides)
    sections = [section for section in cfg.dataloader.values() if section is not None]
    return any(not os.path.exists(s.dataset.get("dataroot", ".")) for s in sections)


def run_tool(tool, argv):
    """Runs one of our command lines with what makes it quick."""
    quick = {
        "train": ["--dry-run"],
        "benchmark": ["--steps", "1", "--repeats", "1", "--images", "8"],
        "pack": ["--workers", "1"],
        "finetune": ["--epochs", "1"],
    }
    if "--resume" in argv and tool == "train":  # a dry run looks at a beginning
        at = argv.index("--resume")
        argv = argv[:at] + argv[at + 2 :]
    argv = [*argv, *([] if "--dry-run" in argv else quick.get(tool, []))]
    if tool == "benchmark" and "--synthetic" in argv:
        argv.insert(argv.index("--synthetic") + 1, "8")
    if "-c" in argv and tool in ("train", "eval", "benchmark") and "--synthetic" not in argv:
        count = [] if tool == "train" else ["40"]
        argv += ["--synthetic", *count] if needs_images(argv) else []
    argv = [w for w in argv if w not in ("gpu", "--device")]
    try:
        code = passl.main([tool, *argv])
    except SystemExit as ended:  # --help, --list
        code = ended.code or 0
    assert code == 0


def options_are_known(script, words):
    text = (ROOT / script).read_text(encoding="utf-8")
    for word in words:
        if re.fullmatch(r"--[a-z0-9-]+", word):
            assert word in text, f"{script} has no {word}"


@pytest.mark.parametrize("page", commands())
def test_the_commands_of_a_page_run_one_after_the_other(page, place):
    for line, words, installed in page:
        with pytest.MonkeyPatch.context() as monkeypatch:
            print(f"line {line}: {' '.join(words)}")  # is shown where it fails
            command_runs(words, installed, place, monkeypatch)


def command_runs(words, installed, place, monkeypatch):
    if re.search("output/(colours|teacher|words)", " ".join(words)):
        return  # test_a_project_with_a_part_of_every_kind makes the files, and runs these
    monkeypatch.chdir(place)
    monkeypatch.setenv("PASSL_CACHE", str(place / "cache"))
    monkeypatch.setenv("PASSL_OFFLINE", "1")
    monkeypatch.setattr(sys, "argv", ["passl"])
    narrow(monkeypatch)
    hide_what_is_not(monkeypatch, installed)
    if "|" in words:
        at = words.index("|")
        piped = subprocess.run(words[:at], capture_output=True, text=True, check=True)
        monkeypatch.setattr(sys, "stdin", io.StringIO(piped.stdout))
        words = words[at + 1 :]
    if "&&" in words:
        words = words[: words.index("&&")]
    launched = ("-m", "paddle.distributed.launch")
    if tuple(words[1:3]) == launched:
        words = words[:1] + words[next(i for i, w in enumerate(words) if w.startswith("tools/")) :]
    if words[0] == "python" and words[1].startswith("tools/"):
        run_tool(words[1][len("tools/") : -len(".py")], words[2:])
    elif words[0] == "passl":
        run_tool(words[1], words[2:]) if words[1] in passl.COMMANDS else run_tool("models", [])
    elif words[0] in ("bash", "sbatch"):
        options_are_known(words[1], words[2:])
        if "-c" in words:
            run_tool("train", words[words.index("-c") :])
    elif words[0].endswith("python") and words[1].endswith(".py"):
        options_are_known(words[1], words[2:])
    elif words[0] == "visualdl":
        assert list((place / words[2]).rglob("vdlrecords.*"))
    elif words[0] == "tensorboard":
        assert (place / words[2]).is_dir()
    elif words[0] == "eval":
        assert passl.main(["completion", "bash"]) == 0
    elif words[0] == "pip":
        extras = re.search(r"\[(.*)\]", " ".join(words))
        setup = (ROOT / "setup.py").read_text(encoding="utf-8")
        for extra in extras.group(1).split(",") if extras else ():
            assert f'"{extra}": [' in setup
    else:
        assert words[0] in ("git", "cd", ".") or words[:3] == ["python", "-m", "venv"], words


def run_blocks(page, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("PASSL_CACHE", str(place / "cache"))
    monkeypatch.setenv("PASSL_OFFLINE", "1")
    narrow(monkeypatch)
    installed = set().union(*(installed_by(words) for _, words in words_of(page)))
    hide_what_is_not(monkeypatch, installed & EXTRAS.keys())
    spaces = []
    for line, text in blocks(page, "python"):
        space = {"__name__": f"{page.name}_{line}"}
        exec(compile(text, f"{page.name}:{line}", "exec"), space)
        spaces.append(space)
    return spaces


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.name != "extending.md" and list(blocks(p, "python"))],
    ids=lambda page: page.name,
)  # fmt: skip
def test_a_python_block_runs(page, place, monkeypatch, capsys):
    spaces = run_blocks(page, place, monkeypatch)
    for space in spaces:
        if "logits" in space and page.name not in ("deployment.md", "api.md"):
            assert list(space["logits"].shape) == [2, 1000]
    if page.name == "api.md":
        printed = capsys.readouterr().out.splitlines()
        names = [line for line in printed if line in ("apple", "kiwi", "pear")]
        assert len(names) == 2 and names[0] == names[1]
        assert spaces[0]["features"].shape == [1, 768]
    if page.name == "deployment.md":
        assert capsys.readouterr().out.strip() in ("apple", "kiwi", "pear")
        paddles, openvinos = (space["logits"] for space in spaces[1:])
        assert paddles.shape == (1, 3)
        np.testing.assert_allclose(openvinos, paddles, atol=1e-4 * np.abs(paddles).max())


@pytest.fixture
def forgets_parts():
    registries = (BACKBONES, HEADS, DATASETS, TRANSFORMS, HOOKS, EVALUATORS, ARCHITECTURES)
    registries += (TEXTS, TOKENIZERS)
    before, path = [dict(registry._factories) for registry in registries], list(sys.path)
    yield
    for registry, factories in zip(registries, before):
        registry._factories.clear()
        registry._factories.update(factories)
    sys.path[:] = path
    for name in [name for name in sys.modules if name.split(".")[0] == "my_parts"]:
        del sys.modules[name]


def test_a_project_with_a_part_of_every_kind(place, tmp_path, monkeypatch, capsys, forgets_parts):
    """The folder as the page has it, and its commands."""
    monkeypatch.chdir(tmp_path)
    names = my_project(tmp_path)
    parts = (
        "architecture",
        "backbone",
        "dataset",
        "evaluator",
        "head",
        "hook",
        "transform",
        "words",
    )
    assert names == {"config.yaml", "mean_teacher.yaml", "words.yaml"} | {
        f"my_parts/{name}.py" for name in ("__init__", *parts)
    }
    (tmp_path / "photos").symlink_to(place / "photos")
    monkeypatch.setattr(sys, "argv", ["passl"])
    page = [words for _, words in words_of(ROOT / "docs" / "extending.md")]
    said = []
    for words in page:
        tool = words[1][len("tools/") : -len(".py")]
        assert passl.main([tool, *words[2:]]) == 0, words
        said.append(capsys.readouterr().out)
    train, evaluated, predicted, _, teacher, of_teacher, words, told = said
    assert "val: worst class" in train and "mean of classes" in train
    assert "after epoch" in (tmp_path / "output" / "colours" / "best.txt").read_text()
    assert "Top-1" in evaluated and any(name in predicted for name in ("red", "green", "blue"))
    assert "worst class" in of_teacher and "(val)" in of_teacher
    rows = read_metrics(tmp_path / "output" / "teacher" / "metrics.jsonl")
    assert all(0 <= r["disagreement"] < 2 for r in rows if "split" not in r)
    assert float(re.search(r"mean of classes (\S+) %", of_teacher)[1]) > 30, "it learns"
    assert all(colour in told for colour in ("红色", "绿色", "蓝色"))
    *_, last = read_metrics(tmp_path / "output" / "words" / "metrics.jsonl")
    assert last["top1"] > 40, "a name of each of seven colours: 14 by chance"

    short = ["-o", "hooks=[{name: TimeLimit, hours: 0}]", "--output-dir", "output/short"]
    assert passl.main(["train", "-c", "my_project/config.yaml", *short]) == 0
    last = list(read_metrics(tmp_path / "output" / "short" / "metrics.jsonl"))[-1]
    assert last == {"step": 1, "epoch": 1, "stopped": "TimeLimit: 0 hours have passed"}

    with pytest.raises(PasslError, match="embed_dim"):
        BACKBONES.build({"name": "PatchAverage", "embed_dim": "many"})
    assert BACKBONES.build({"name": "patch_average_s16_224"}).num_features == 128
    posterize = TRANSFORMS.build({"name": "RandomPosterize", "bits": 2, "p": 1.0})
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(3).reshape(16, 16, 3)
    image = posterize({"image": pixels}, np.random.default_rng(0))["image"]
    assert sorted(set(np.asarray(image).ravel().tolist())) == [0, 64, 128, 192]


@pytest.mark.parametrize("file", FILES)
def test_what_is_made_from_the_code_is_up_to_date(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    assert text == with_generated(text, FILES[file]), "run scripts/generated_docs.py"


def test_a_reader_has_an_environment_before_the_first_command_that_needs_one():
    for page in (ROOT / "README.md", ROOT / "README_zh.md", ROOT / "docs" / "getting_started.md"):
        commands = [" ".join(words) for _, words in words_of(page)]
        need_it = re.compile(r"python tools/|visualdl |passl ")
        first = next(i for i, command in enumerate(commands) if need_it.match(command))
        assert ". .venv/bin/activate" in " ".join(commands[:first]), page.name


def test_every_extra_that_a_reader_may_lack_is_hidden():
    """Those of setup.py but for Paddle's two builds and what only tests need."""
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    extras = set(re.findall(r'^        "(\w+)": \[', setup, re.M))
    others = {"cpu", "gpu", "reference", "dev", "console_scripts", "passl"}
    assert extras - others == EXTRAS.keys()


def test_links_lead_somewhere():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith(("http:", "https:")):
                continue
            path, _, anchor = target.partition("#")
            linked = (page.parent / path).resolve() if path else page
            assert linked.exists(), f"{page.name}: {target}"
            if anchor:
                heads = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.M)
                slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}
                assert anchor in slugs, f"{page.name}: {target}"


def test_the_chinese_readme_has_the_same_commands():
    one, other = ([w for _, w in words_of(ROOT / name)] for name in ("README_zh.md", "README.md"))
    assert one == other
