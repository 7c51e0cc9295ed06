import copy
import os
import shlex

import pytest
import yaml

from passl.utils.config import get_config, origin_of, plain, quoted
from passl.utils.errors import PasslError

MINIMAL = """\
model:
  architecture: {name: MlpMixer, img_size: 32, patch_size: 4}
  head: {name: ClassificationHead, num_classes: 10}
epochs: 5
dataloader:
  train:
    dataset:
      name: ImageFolder
      dataroot: somewhere
      transforms:
        - {name: RandomCrop, size: 32, padding: 4}
        - {name: RandomHorizontalFlip}
    sampler: {batch_size: 8}
lr_scheduler: {name: Linear, learning_rate: 1e-3}
"""

V1 = """\
epochs: 300
output_dir: output_dir
model:
  name: MlpMixerWrapper
  architecture:
    name: mlp_mixer_b16_224
  head:
    name: MlpMixerClsHead
    num_classes: 1000
    in_channels: 768
dataloader:
  train:
    loader: {num_workers: 8, use_shared_memory: True}
    sampler:
      batch_size: 128
      shuffle: true
      drop_last: true
    dataset:
      name: ImageNet
      dataroot: data/ILSVRC2012/train/
      return_label: True
      transforms:
        - name: ToRGB
        - name: RandomResizedCrop
          size: 224
        - name: Transpose
        - name: NormalizeImage
          scale: 1.0/255.0
          mean: [0.485, 0.456, 0.406]
          std: [0.229, 0.224, 0.225]
lr_scheduler:
  name: CosineWarmup
  learning_rate: 0.001
  T_max: 300
  warmup_steps: 10000
optimizer:
  name: AdamW
  weight_decay: 0.1
  grad_clip: {name: global_norm, value: 1.0}
log_config:
  name: LogHook
  interval: 50
"""


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="config.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def message(path, overrides=None):
    with pytest.raises(PasslError) as caught:
        get_config(path, overrides)
    return str(caught.value)


# ---------------------------------------------------------------- values


@pytest.mark.smoke
def test_attributes_and_items_are_the_same_and_defaults_are_filled_in(write):
    cfg = get_config(write(MINIMAL))
    assert cfg.model.head.num_classes == cfg["model"]["head"]["num_classes"] == 10
    assert cfg.dataloader.train.dataset.transforms[0].padding == 4
    assert cfg.dataloader.train.loader.num_workers == 2
    assert cfg.dataloader.val is None
    assert cfg.seed == 0 and cfg.device == "auto"
    assert cfg.output_dir.replace("\\", "/") == "output/config"


def test_a_missing_attribute_names_the_full_key_and_the_nearest(write):
    cfg = get_config(write(MINIMAL))
    with pytest.raises(AttributeError, match=r"model\.head\.num_clases.*'num_classes'"):
        _ = cfg.model.head.num_clases
    assert not hasattr(cfg, "nothing_like_it")


def test_a_loaded_config_refuses_assignment(write):
    cfg = get_config(write(MINIMAL))
    with pytest.raises(AttributeError, match="overrides"):
        cfg.model.head.num_classes = 3
    assert cfg.model.head.num_classes == 10


def test_a_copy_is_equal_and_still_knows_its_lines(write):
    path = write(MINIMAL)
    cfg = copy.deepcopy(get_config(path))
    assert cfg == get_config(path)
    assert origin_of(cfg.model.head, "num_classes") == f"{path}:3: "


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("-2.5e+4", -25000.0),
        ("+1.e2", 100.0),
        (".5e1", 5.0),
        ("0.1", 0.1),
    ],
)
def test_exponents_are_floats(write, text, value):
    read = get_config(write(MINIMAL), [f"lr_scheduler.learning_rate={text}"])
    assert type(read.lr_scheduler.learning_rate) is float
    assert read.lr_scheduler.learning_rate == value
    in_file = get_config(write(MINIMAL.replace("1e-3", text)))
    assert in_file.lr_scheduler.learning_rate == value


@pytest.mark.parametrize("text", ["1e", "e3", "1e-3x", "v1e3", "'1e-3'", "1.0/255.0"])
def test_what_only_looks_like_a_number_stays_text(write, text):
    cfg = get_config(write(MINIMAL), [f"lr_scheduler.x={text}"])
    assert cfg.lr_scheduler.x == text.strip("'")


@pytest.mark.smoke
def test_to_yaml_is_read_back_unchanged(write):
    text = MINIMAL + "hooks: [{name: Größe, text: '1e-3', flag: 'yes', none: null, empty: []}]\n"
    cfg = get_config(write(text))
    again = get_config(write(cfg.to_yaml(), "again.yaml"))
    assert again == cfg
    assert again.hooks[0].text == "1e-3" and again.hooks[0].flag == "yes"
    # Any other YAML reader understands it too.
    assert yaml.safe_load(cfg.to_yaml()) == plain(cfg)
    assert type(plain(cfg)["model"]) is dict


def test_the_shipped_configs_are_found_by_name():
    cfg = get_config("mlp-mixer_l16_224")
    assert cfg.model.architecture.name == "mlp_mixer_l16_224"
    assert cfg.model.head.num_classes == 1000  # from mlp-mixer_b16_224
    assert cfg.optimizer.weight_decay == 0.1


# ---------------------------------------------------------------- inheritance


def test_a_base_is_merged_mappings_by_key_lists_and_scalars_replaced(write):
    write(MINIMAL, "base.yaml")
    cfg = get_config(
        write(
            "_base_: base.yaml\n"
            "epochs: 7\n"
            "model: {head: {num_classes: 3}}\n"
            "dataloader: {train: {dataset: {transforms: [{name: RandomVerticalFlip}]}}}\n"
        )
    )
    assert cfg.epochs == 7
    assert cfg.model.head == {"name": "ClassificationHead", "num_classes": 3}
    assert cfg.dataloader.train.dataset.dataroot == "somewhere"
    assert cfg.dataloader.train.dataset.transforms == [{"name": "RandomVerticalFlip"}]
    assert "_base_" not in cfg


def test_another_name_replaces_the_mapping_and_the_same_name_does_not(write):
    write(MINIMAL, "base.yaml")
    other = "_base_: base.yaml\nmodel: {architecture: {name: Other, depth: 2}}\n"
    assert get_config(write(other)).model.architecture == {"name": "Other", "depth": 2}
    same = "_base_: base.yaml\nmodel: {architecture: {name: MlpMixer, img_size: 64}}\n"
    expected = {"name": "MlpMixer", "img_size": 64, "patch_size": 4}
    assert get_config(write(same)).model.architecture == expected


def test_bases_are_relative_to_their_file_and_the_later_one_wins(write):
    write(MINIMAL + "seed: 1\n", "common/one.yaml")
    write("seed: 2\nepochs: 9\n", "common/two.yaml")
    write("_base_: [../common/one.yaml, ../common/two.yaml]\n", "deep/middle.yaml")
    cfg = get_config(write("_base_: deep/middle.yaml\n"))
    assert (cfg.seed, cfg.epochs) == (2, 9)


def test_two_files_may_share_one_base(write):
    write(MINIMAL, "base.yaml")
    write("_base_: base.yaml\nseed: 1\n", "a.yaml")
    write("_base_: base.yaml\nepochs: 2\n", "b.yaml")
    cfg = get_config(write("_base_: [a.yaml, b.yaml]\n"))
    assert cfg.epochs == 2


def test_a_recursive_base_is_named(write):
    write("_base_: b.yaml\n", "a.yaml")
    path = write("_base_: a.yaml\n", "b.yaml")
    assert "b.yaml: is its own _base_" in message(path)


def test_a_missing_base_names_both_files(write):
    text = message(write("_base_: absent.yaml\n" + MINIMAL))
    assert "absent.yaml" in text and "config.yaml" in text


@pytest.mark.parametrize("base", ["3", "{a: 1}", "[1]", "null"])
def test_a_base_that_is_no_file_name_is_an_error(write, base):
    assert "_base_" in message(write(f"_base_: {base}\n" + MINIMAL))


def test_a_mistake_in_a_base_is_placed_in_the_base(write):
    base = write(MINIMAL + "sede: 1\n", "base.yaml")
    line = MINIMAL.count("\n") + 1
    assert f"{base}:{line}: unknown key 'sede'" in message(write("_base_: base.yaml\n"))


# ---------------------------------------------------------------- overrides


def test_overrides_reach_into_mappings_and_lists_in_order(write):
    cfg = get_config(
        write(MINIMAL),
        [
            "epochs=2",
            "epochs=3",
            "dataloader.train.dataset.transforms.0.size=16",
            "dataloader.train.sampler.batch_size=4",
            "lr_scheduler={name: Cosine, learning_rate: 1e-2}",
            "optimizer.weight_decay=0.05",
            "model.head.note=a=b",
        ],
    )
    assert cfg.epochs == 3
    expected = {"name": "RandomCrop", "size": 16, "padding": 4}
    assert cfg.dataloader.train.dataset.transforms[0] == expected
    assert len(cfg.dataloader.train.dataset.transforms) == 2
    assert cfg.dataloader.train.sampler.batch_size == 4
    assert cfg.lr_scheduler == {"name": "Cosine", "learning_rate": 0.01}
    assert cfg.optimizer == {"weight_decay": 0.05}
    assert cfg.model.head.note == "a=b"


@pytest.mark.parametrize(
    "override, parts",
    [
        ("epochs", ["key=value"]),
        ("=3", ["key=value"]),
        ("dataloader.train.dataset.transforms.2.size=1", ["list of 2", "'2'", "0 to 1"]),
        ("dataloader.train.dataset.transforms.x.size=1", ["list of 2", "'x'"]),
        ("dataloader.train.dataset.transforms[9].size=1", ["transforms"]),
        ("hooks.0=1", ["hooks"]),
        ("epochs.x=1", ["epochs", "5"]),
        ("epoch=1", ["unknown key 'epoch'", "'epochs'"]),
        ("model.head=[1", ["not valid YAML"]),
        ("model.head.x=${", ["model.head.x"]),
        ("epochs=many", ["epochs", "many"]),
    ],
)
def test_a_bad_override_is_named_in_its_message(write, override, parts):
    text = message(write(MINIMAL), [override])
    assert f"-o {override}" in text
    for part in parts:
        assert part in text


@pytest.mark.parametrize("subset", ["[:90%]", "[90%:]", "[12.5%:90%]", " [:90%] "])
def test_a_part_of_a_set_needs_no_quotes_in_an_override(write, subset):
    for given in (subset, f"'{subset.strip()}'"):
        cfg = get_config(write(MINIMAL), [f"dataloader.train.dataset.subset={given}"])
        assert cfg.dataloader.train.dataset.subset == subset.strip()
        assert get_config(write(cfg.to_yaml())) == cfg


@pytest.mark.parametrize("subset", ["[:90%]", "[90%:]", "[10%:90%]"])
def test_a_part_of_a_set_without_quotes_in_yaml_says_what_to_write(write, subset):
    line = MINIMAL.splitlines().index("      dataroot: somewhere") + 2
    block = MINIMAL.replace("somewhere\n", f"somewhere\n      subset: {subset}  # a part\n")
    text = message(path := write(block))
    assert f"{path}:{line}: {subset} " in text and f'in quotes: "{subset}"' in text
    flow = "dataloader.train.dataset={name: ImageFolder, dataroot: 'a', subset: %s}"
    assert f'in quotes: "{subset}"' in message(write(MINIMAL), [flow % subset])
    for good in (f'"{subset}"', f"'{subset}'"):
        cfg = get_config(write(MINIMAL), [flow % good])
        assert cfg.dataloader.train.dataset.subset == subset
        block = MINIMAL.replace("somewhere\n", f"somewhere\n      subset: {good}\n")
        assert get_config(write(block + f"# {subset}\n")).dataloader.train.dataset.subset == subset


@pytest.mark.parametrize(
    "value", ["*.tar", "@x", "%x", "`x`", "'open", "my #1", "a: b: c", "&", "!x y: ["]
)
def test_text_that_yaml_takes_for_something_else_gets_a_line_to_paste(write, value):
    """And what is to be pasted gives that text."""
    text = message(write(MINIMAL), [f"model.head.note={value}"])
    command = text[text.index("if it is text: ") + len("if it is text: ") :]
    option, override = shlex.split(command)
    assert option == "-o"
    assert get_config(write(MINIMAL), [override]).model.head.note == value


def test_such_words_in_quotes_or_comments_are_only_text(write):
    for text in ("take subset: [:90%]", "a # and - [:90%]"):
        cfg = get_config(write(MINIMAL + f"# subset: [:90%]\nhooks: ['{text}']\n"))
        assert cfg.hooks == [text]


def test_a_comment_behind_a_value_that_is_no_text(write):
    assert get_config(write(MINIMAL), ["epochs=3 # few"]).epochs == 3
    assert get_config(write(MINIMAL), ["model.head.note='a' # b"]).model.head.note == "a"


@pytest.mark.parametrize("name", ["007", "1e5", "2024", "yes", "0x1f", "1_000"])
def test_a_folder_whose_name_looks_like_a_number(write, name):
    assert get_config(write(MINIMAL), [f"output_dir={name}"]).output_dir == name
    assert get_config(write(MINIMAL), ["output_dir=null"]).output_dir == "output/config"


@pytest.mark.parametrize(
    "name", ["😀/é", 'a "b" \\ #1', "\u2028 \x85 \x7f", os.fsdecode(b"\xca\xfd"), "007", "null"]
)
def test_quotes_keep_every_name(write, name):
    assert get_config(write(MINIMAL), [f"output_dir={quoted(name)}"]).output_dir == name


@pytest.mark.parametrize("value", ["{[a]: b}", "{? {a: 1} : b}"])
def test_a_key_that_is_no_text_is_not_valid(write, value):
    with pytest.raises(PasslError, match="unhashable key"):
        get_config(write(MINIMAL), [f"model={value}"])


def test_names_that_are_not_utf8_on_the_command_line(write, tmp_path):
    name = os.fsdecode(b"\xca\xfd\xbe\xdd")
    cfg = get_config(write(MINIMAL), [f"dataloader.train.dataset.dataroot={name}"])
    assert cfg.dataloader.train.dataset.dataroot == name
    text = cfg.to_yaml()
    text.encode("utf-8")  # escapes, which are read back
    assert get_config(write(text)) == cfg


def test_an_overridden_value_remembers_its_override(write):
    cfg = get_config(write(MINIMAL), ["model.head={name: X, depth: 1}"])
    assert origin_of(cfg.model.head, "depth").startswith("-o model.head=")


# ---------------------------------------------------------------- mistakes


@pytest.mark.smoke
@pytest.mark.parametrize(
    "line, expected",
    [
        ("epoch: 3", "unknown key 'epoch' at the top level (did you mean 'epochs'?)"),
        ("log_config: {intervall: 3}", "unknown key 'intervall' of 'log_config' (did you mean"),
        ("seed: many", "'seed'"),
        ("seed: 1.5", "'seed'"),
        ("seed: true", "'seed'"),
        ("seed: -1", "'seed'"),
        ("log_config: 3", "'log_config'"),
        ("log_config: {interval: x}", "'log_config.interval'"),
        ("log_config: {interval: 0}", "'log_config.interval'"),
        ("device: cuda", "'device'"),
        ("hooks: 3", "'hooks'"),
        ("optimizer: [1]", "'optimizer'"),
        ("seed: 2020-01-01", "'seed'"),
        ("optimizer: {since: 2020-01-01}", "optimizer.since"),
        ("optimizer: {name: !!set {x}}", "optimizer.name"),
        ("optimizer: {~: 1}", "optimizer"),
        ("optimizer: {name: '${'}", "optimizer.name"),
        ("optimizer: {name: '${nowhere}'}", "optimizer.name"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_key(write, line, expected):
    path = write(MINIMAL + line + "\n")
    number = MINIMAL.count("\n") + 1
    text = message(path)
    assert text.startswith(f"{path}:{number}: "), text
    assert expected in text


def test_an_unknown_key_lists_the_known_ones(write):
    text = message(write(MINIMAL + "checkpoint: {every: 3}\n"))
    for known in ("interval_steps", "interval_epochs", "keep"):
        assert known in text


@pytest.mark.parametrize(
    "removed, key",
    [
        ("    sampler: {batch_size: 8}\n", "dataloader.train.sampler.batch_size"),
        (MINIMAL[: MINIMAL.index("epochs")], "model"),
    ],
)
def test_a_missing_key_is_named_with_the_file(write, removed, key):
    assert removed in MINIMAL
    path = write(MINIMAL.replace(removed, ""))
    text = message(path)
    assert text.startswith(str(path)) and f"'{key}' is missing" in text


def test_a_duplicate_key_is_an_error_at_any_depth(write):
    path = write(MINIMAL + "optimizer:\n  name: AdamW\n  name: SGD\n")
    first = MINIMAL.count("\n") + 2
    text = message(path)
    assert "'name' stands twice" in text
    assert text.startswith((f"{path}:{first}: ", f"{path}:{first + 1}: "))


def test_a_missing_file_suggests_the_nearest_shipped_config():
    text = message("mlp-mixer_b16_244")
    assert "mlp-mixer_b16_244" in text and "did you mean 'mlp-mixer_b16_224'" in text


def test_a_folder_is_not_a_config(tmp_path):
    assert "is a folder" in message(tmp_path)


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "just words\n", "3\n"])
def test_a_file_without_a_mapping_is_an_error(write, text):
    path = write(text)
    assert message(path).startswith(f"{path}: a config is a mapping")


def test_bad_yaml_names_the_line(write):
    path = write("model: {}\nepochs: [1\nseed: 0\n")
    text = message(path)
    assert "not valid YAML" in text
    assert text.startswith((f"{path}:2: ", f"{path}:3: "))


def test_a_binary_file_is_an_error(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    assert message(path).startswith(str(path))


def test_an_alias_to_itself_is_an_error(write):
    assert "model" in message(write("model: &m {inner: *m}\n"))


# ---------------------------------------------------------------- nothing is evaluated


@pytest.mark.smoke
@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch {}']",
        "!!python/object/apply:subprocess.call [['touch', '{}']]",
        "!!python/object/new:os.system ['touch {}']",
        "!!python/name:os.system",
        "!!python/module:os",
    ],
)
def test_python_tags_are_refused_and_run_nothing(write, tmp_path, value):
    evil = tmp_path / "evil"
    value = value.replace("{}", str(evil))
    path = write(MINIMAL + f"optimizer: {{name: {value}}}\n")
    assert f"{path}:{MINIMAL.count(chr(10)) + 1}: " in message(path)
    assert "not valid YAML" in message(write(MINIMAL), [f"optimizer.name={value}"])
    assert not evil.exists()


@pytest.mark.parametrize("text", ["__import__('os').getcwd()", "eval(1+1)", "1+1", "$HOME", "`ls`"])
def test_code_is_only_text(write, text):
    path = write(MINIMAL + f'optimizer: {{name: "{text}"}}\n')
    assert get_config(path).optimizer.name == text


def test_the_environment_does_not_leak_into_a_config(write, monkeypatch):
    monkeypatch.setenv("PASSL_TEST_SECRET", "very secret")
    path = write(MINIMAL + "optimizer: {name: '${oc.env:PASSL_TEST_SECRET}'}\n")
    try:
        cfg = get_config(path)
    except PasslError:
        return
    assert cfg.optimizer.name != "very secret"


# ---------------------------------------------------------------- PASSL v1


@pytest.mark.smoke
def test_a_v1_config_gets_one_list_of_changes(write):
    path = write(V1)
    text = message(path)
    lines = text.splitlines()
    assert lines[0].startswith(str(path)) and "v1" in lines[0]
    train = "dataloader.train."
    for old, new in [
        ("model.name: MlpMixerWrapper", "Classifier"),
        ("model.head.name: MlpMixerClsHead", "ClassificationHead"),
        (train + "sampler.shuffle", "leave it out"),
        (train + "sampler.drop_last", "leave it out"),
        (train + "dataset.return_label", "split: train"),
        (train + "dataset.transforms.0.name: ToRGB", "leave it out"),
        (train + "dataset.transforms.2.name: Transpose", "leave it out"),
        (train + "dataset.transforms.3.name: NormalizeImage", "Normalize"),
        ("lr_scheduler.name: CosineWarmup", "Cosine"),
        ("lr_scheduler.T_max", "leave it out"),
        ("optimizer.grad_clip.name", "grad_clip: 1.0"),
        ("log_config.name", "leave it out"),
    ]:
        (line,) = [line for line in lines if f" {old}  →" in line]
        assert new in line.split("→")[1]
        key = old.split(":")[0].rsplit(".", 1)[1]
        # Each line is placed where the key stands.
        number = int(line.split(f"{path}:")[1].split(":")[0])
        assert f"{key}:" in V1.splitlines()[number - 1]
    assert len(lines) == 1 + 12


def test_each_v1_key_alone_is_recognised(write):
    changed = MINIMAL + "optimizer: {name: AdamW, grad_clip: {name: global_norm, value: 1.0}}\n"
    lines = message(write(changed)).splitlines()
    assert len(lines) == 2 and "optimizer.grad_clip.name" in lines[1]


def test_a_new_config_is_not_taken_for_v1(write):
    get_config(write(MINIMAL + "optimizer: {name: AdamW, grad_clip: 1.0}\n"))


def test_a_dataset_that_an_override_puts_in_gets_the_view_of_the_release():
    whole = get_config("mlp-mixer_b16_224")
    put = "dataloader.val.dataset={name: ImageFolder, dataroot: mine}"
    section = get_config("mlp-mixer_b16_224", [put]).dataloader.val
    assert section.dataset.name == "ImageFolder"
    assert section.dataset.transforms == whole.dataloader.val.dataset.transforms
    given = "dataloader.val.dataset={name: ImageFolder, dataroot: mine, transforms: []}"
    assert get_config("mlp-mixer_b16_224", [given]).dataloader.val.dataset.transforms == []
