"""Parts of one's own: from a file beside the config to a run that opens again from anywhere."""

import importlib
import json
import logging
import os
import re
import sys
import textwrap

import pytest
import yaml
from helpers import records, run_here, small_config

from passl.building import create_model
from passl.modeling.architectures import build_architecture
from passl.modeling.backbones import BACKBONES
from passl.utils import plugins
from passl.utils.config import get_config
from passl.utils.errors import PasslError
from passl.utils.plugins import import_parts, resolved_import, with_imports
from passl.weights import WeightFile, write_tensor_file

BACKBONE = """
    from paddle import nn
    from passl.modeling.backbones.registry import BACKBONES

    @BACKBONES.register
    class {name}(nn.Layer):
        '''The mean colour.'''

        num_features = 3

        def forward(self, x):
            return x.mean(axis=[2, 3])
"""


@pytest.fixture(autouse=True)
def leaves_nothing_behind(monkeypatch):
    """Modules, paths and entries that a test brought in are gone after it."""
    modules, path, entries = set(sys.modules), list(sys.path), dict(BACKBONES._factories)
    yield
    for name in set(sys.modules) - modules:
        if not name.startswith(("passl", "paddle", "numpy")):
            del sys.modules[name]
    sys.path[:] = path
    BACKBONES._factories.clear()
    BACKBONES._factories.update(entries)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def backbone(path, name):
    return write(path, BACKBONE.format(name=name))


def config(path, **values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"model": {"name": "x"}, **values}), encoding="utf-8")
    return path


def forget(part, *modules):
    """Makes this process one that has not imported the modules of a part."""
    BACKBONES._factories.pop(part, None)
    for module in modules:
        sys.modules.pop(module, None)


# ---------------------------------------------------------------- what is imported


def test_a_file_a_module_and_a_package_beside_the_config(tmp_path, monkeypatch):
    backbone(tmp_path / "one_file.py", "OneFile")
    backbone(tmp_path / "by_name.py", "ByName")
    write(tmp_path / "parts_folder" / "__init__.py", "from parts_folder.deep import Deep")
    backbone(tmp_path / "parts_folder" / "deep.py", "Deep")
    backbone(tmp_path / "其他" / "inner_part.py", "Inner")
    names = ["./one_file.py", "by_name", "parts_folder", "其他/inner_part.py"]
    file = config(tmp_path / "a.yaml", imports=names)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    cfg = get_config(file)
    for name in ("OneFile", "ByName", "Deep", "Inner"):
        assert name in BACKBONES
    assert cfg.imports == [
        str(tmp_path / path)
        for path in ("one_file.py", "by_name.py", "parts_folder", "其他/inner_part.py")
    ]
    assert get_config(file).imports == cfg.imports, "a second time is harmless"
    assert sys.path.index(str(tmp_path)) > len(sys.path) - 4, (
        "last, so that nothing of Python's is hidden"
    )
    copy = elsewhere / "copy.yaml"
    copy.write_text(cfg.to_yaml(), encoding="utf-8")
    assert get_config(copy).imports == cfg.imports


def test_a_module_of_a_package_is_that_packages(tmp_path):
    write(tmp_path / "whole" / "__init__.py", "")
    backbone(tmp_path / "whole" / "of_whole.py", "OfWhole")
    get_config(config(tmp_path / "a.yaml", imports=["whole.of_whole"]))
    assert BACKBONES.get("OfWhole").__module__ == "whole.of_whole"


def test_a_module_on_pythons_path_keeps_its_name(tmp_path, monkeypatch):
    backbone(tmp_path / "site" / "installed_part.py", "Installed")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    cfg = get_config(config(tmp_path / "configs" / "a.yaml", imports=["installed_part"]))
    assert cfg.imports == ["installed_part"] and "Installed" in BACKBONES


def test_imports_of_bases_are_added_each_from_its_own_folder(tmp_path):
    backbone(tmp_path / "base" / "of_base.py", "OfBase")
    backbone(tmp_path / "mine" / "of_mine.py", "OfMine")
    config(tmp_path / "base" / "base.yaml", imports=["of_base.py"])
    mine = config(tmp_path / "mine" / "mine.yaml", _base_="../base/base.yaml", imports=["of_mine"])
    cfg = get_config(mine)
    assert cfg.imports == [
        str(tmp_path / "base" / "of_base.py"), str(tmp_path / "mine" / "of_mine.py")
    ]  # fmt: skip
    assert "OfBase" in BACKBONES and "OfMine" in BACKBONES


def test_the_command_line_adds_and_says_where_a_module_is_now(tmp_path, monkeypatch):
    old = backbone(tmp_path / "old" / "moving.py", "Moving")
    file = config(tmp_path / "a.yaml", imports=[str(old)])
    new = tmp_path / "new" / "moving.py"
    new.parent.mkdir()
    old.rename(new)
    with pytest.raises(PasslError, match=r"moving\.py: there is no such file.*--import PATH"):
        get_config(file)
    monkeypatch.chdir(tmp_path)
    backbone(tmp_path / "another.py", "Another")
    assert get_config(file, imports=["new/moving.py", "another"]).imports == [
        str(new), str(tmp_path / "another.py")
    ]  # fmt: skip


def test_the_command_line_counts_more_than_what_is_stored():
    stored = {"a": "1: ", "/x/b.py": "2: ", "/x/c.py": "3: "}
    united = with_imports(stored, {"/y/b.py": "4: ", "a": "5: ", "d": "6: "})
    assert united == {"/x/c.py": "3: ", "/y/b.py": "4: ", "a": "5: ", "d": "6: "}


def test_a_module_of_a_package_that_has_moved(tmp_path):
    write(tmp_path / "old" / "moved_parts" / "__init__.py", "")
    backbone(tmp_path / "old" / "moved_parts" / "deep.py", "MovedDeep")
    stored = get_config(config(tmp_path / "old" / "a.yaml", imports=["moved_parts.deep"])).to_yaml()
    run = write(tmp_path / "run" / "config.yaml", stored)
    (tmp_path / "old").rename(tmp_path / "new")
    forget("MovedDeep", "moved_parts.deep", "moved_parts")
    new = str(tmp_path / "new" / "moved_parts" / "deep.py")
    with pytest.raises(PasslError, match=r"config.yaml:\d+: .*/old/.*deep\.py: .*--import PATH"):
        get_config(run)
    assert get_config(run, imports=[new]).imports == [new]
    assert BACKBONES.get("MovedDeep").__module__ == "moved_parts.deep"


def test_what_a_file_names_is_not_looked_for_in_the_current_folder(tmp_path, monkeypatch):
    backbone(tmp_path / "site" / "of_site.py", "OfSite")
    write(tmp_path / "here" / "of_site.py", "1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    file = config(tmp_path / "configs" / "a.yaml", imports=["of_site"])
    monkeypatch.chdir(tmp_path / "here")
    assert get_config(file).imports == ["of_site"]
    assert get_config(file, ["epochs=3"]).imports == ["of_site"]
    forget("OfSite", "of_site")
    with pytest.raises(PasslError, match="here/of_site.py: Python has another .*site/of_site.py"):
        get_config(config(tmp_path / "b.yaml"), ["imports=[of_site]"])


def test_two_files_of_one_name_are_told_rather_than_one_of_them_left_out(tmp_path):
    backbone(tmp_path / "base" / "same_name.py", "SameOfBase")
    backbone(tmp_path / "mine" / "same_name.py", "SameOfMine")
    config(tmp_path / "base" / "base.yaml", imports=["same_name"])
    mine = config(tmp_path / "mine" / "a.yaml", _base_="../base/base.yaml", imports=["same_name"])
    with pytest.raises(PasslError, match="a.yaml:.*Python has another module .*base/same_name.py"):
        get_config(mine)


def test_the_home_folder_is_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolved_import("~/mine.py", tmp_path / "x") == str(tmp_path / "mine.py")


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    "text, said",
    [
        ("import paddle\nimport nothing_of_the_kind\n", "bad.py:2: .*No module named 'nothing_of"),
        ("x = 1\ny = (\n", "bad.py:2: importing bad failed: '\\(' was never closed"),
        ("def f():\n    return 1 / 0\nf()\n", "bad.py:2: .*ZeroDivisionError: division by zero"),
        ("from paddle import nn\n\nnn.Linear('a', 3)\n", "bad.py:3: .*TypeError"),
        ("import json\njson.loads('{')\n", "bad.py:2: .*JSONDecodeError"),
        ("import sys\nsys.exit()\n", "bad.py:2: .*SystemExit"),
    ],
)
def test_a_mistake_in_the_users_module_is_shown_by_its_line(tmp_path, text, said):
    write(tmp_path / "bad.py", text)
    for _ in range(2):  # and again where it is read again
        with pytest.raises(PasslError) as caught:
            get_config(config(tmp_path / "a.yaml", imports=["bad"]))
        assert re.search(said, f"{caught.value.place}{caught.value}")


def test_a_module_by_name_that_lacks_another(tmp_path, monkeypatch):
    """What is missing is what the module imports, not the module."""
    path = write(tmp_path / "site" / "lacking.py", "\nimport lacking_this\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(PasslError) as caught:
        get_config(config(tmp_path / "configs" / "a.yaml", imports=["lacking"]))
    said = f"{path}:2: importing lacking failed: No module named 'lacking_this'"
    assert str(caught.value) == said


def test_a_module_that_is_newer_than_pythons_look_at_its_folder(tmp_path):
    write(tmp_path / "early.py", "")
    file = config(tmp_path / "a.yaml", imports=["early"])
    get_config(file)
    looked = tmp_path.stat()
    backbone(tmp_path / "late.py", "Late")
    os.utime(tmp_path, ns=(looked.st_atime_ns, looked.st_mtime_ns))  # as on a coarse clock
    get_config(file, imports=[str(tmp_path / "late.py")])
    assert "Late" in BACKBONES


def test_modules_that_are_not_there(tmp_path):
    for entry, said in (
        ("nowhere", "a.yaml:2: there is no module 'nowhere', neither beside the file"),
        ("nowhere.deep", "there is no module 'nowhere.deep'"),
        ("lost.py", "lost.py: there is no such file"),
        ("empty/", "empty: has no __init__.py"),
        ("bare", "bare: has no __init__.py; add one"),
        ("dot.ted.py", "dot.ted.py: has a dot in its name"),
        ("", "a.yaml:2: '' is neither the name of a module"),
        (".", "a.yaml:2: '.' is neither the name of a module"),
        (".a", "a.yaml:2: '.a' is neither the name of a module"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        write(tmp_path / "bare" / "part.py", "")
        write(tmp_path / "dot.ted.py", "")
        with pytest.raises(PasslError) as caught:
            get_config(config(tmp_path / "a.yaml", imports=[entry]))
        text = f"{caught.value.place}{caught.value}"
        assert re.search(said, text), text
    for entry in ("x", [1], {"a": 1}):
        with pytest.raises(PasslError, match="'imports' is a list of modules"):
            get_config(config(tmp_path / "a.yaml", imports=entry))


def test_a_mistake_is_placed_where_the_module_is_named(tmp_path, monkeypatch):
    write(tmp_path / "of_mine.py", "")
    base = write(tmp_path / "base.yaml", "model: {name: x}\nimports:\n\n- nowhere\n")
    mine = write(tmp_path / "mine.yaml", "_base_: base.yaml\nimports: [of_mine]\n")
    with pytest.raises(PasslError) as caught:
        get_config(mine)
    assert str(caught.value).startswith(f"{base}:4: there is no module 'nowhere'")
    write(base, "model: {name: x}\n")
    monkeypatch.chdir(tmp_path)
    for options, place in (
        ({"imports": ["nowhere"]}, "--import nowhere: "),
        ({"overrides": ["imports=[of_mine, nowhere]"]}, "-o imports=[of_mine, nowhere]: "),
    ):
        with pytest.raises(PasslError) as caught:
            get_config(mine, **options)
        assert str(caught.value).startswith(f"{place}there is no module 'nowhere'")


def test_a_module_that_is_called_like_another(tmp_path):
    write(tmp_path / "json.py", "")
    with pytest.raises(PasslError, match=r"Python has another module that is called json \("):
        get_config(config(tmp_path / "a.yaml", imports=["json.py"]))


def test_a_part_that_is_called_like_another(tmp_path):
    backbone(tmp_path / "clash.py", "MlpMixer")
    with pytest.raises(PasslError) as caught:
        get_config(config(tmp_path / "a.yaml", imports=["clash"]))
    text = str(caught.value)
    assert "two backbones are called 'MlpMixer'" in text
    assert "mlp_mixer.py" in text and str(tmp_path / "clash.py") in text
    assert "clash.py:5" in str(caught.value.place)


def test_two_parts_of_one_name_in_one_file(tmp_path):
    path = backbone(tmp_path / "twice.py", "Twice")
    path.write_text(path.read_text() + path.read_text())
    with pytest.raises(PasslError) as caught:
        get_config(config(tmp_path / "a.yaml", imports=["twice"]))
    text = f"two backbones are called 'Twice', both in {path}"
    assert text in str(caught.value) and re.search(r"twice\.py:1\d: $", caught.value.place)


def test_one_file_under_two_names(tmp_path):
    write(tmp_path / "as_package" / "__init__.py", "")
    path = backbone(tmp_path / "as_package" / "named_twice.py", "NamedTwice")
    write(tmp_path / "first.py", "import as_package.named_twice\n")
    write(tmp_path / "as_package" / "second.py", "import named_twice\n")
    sys.path.append(str(path.parent))
    with pytest.raises(PasslError) as caught:
        get_config(config(tmp_path / "a.yaml", imports=["first", "as_package.second"]))
    said = f"{path}: is imported twice, as as_package.named_twice and as named_twice"
    assert said in str(caught.value)


def test_a_module_that_has_moved_while_its_process_goes_on(tmp_path):
    old = write(tmp_path / "a" / "wandering.py", "")
    get_config(config(tmp_path / "a" / "a.yaml", imports=["wandering"]))
    new = write(tmp_path / "b" / "wandering.py", "")
    old.unlink()
    with pytest.raises(PasslError, match=f"{new}: Python has another module .*{old}"):
        get_config(tmp_path / "a" / "a.yaml", imports=[str(new)])


def test_a_module_that_failed_half_way_can_be_mended(tmp_path):
    path = backbone(tmp_path / "half.py", "Half")
    good = path.read_text()
    path.write_text(good + "\n1 / 0\n")
    file = config(tmp_path / "a.yaml", imports=["half"])
    with pytest.raises(PasslError, match="ZeroDivisionError"):
        get_config(file)
    assert "Half" in BACKBONES
    path.write_text(good + "\n\n")
    get_config(file)


# ---------------------------------------------------------------- plug-ins


class Point:
    group, value = plugins.GROUP, "some_plugin:register"

    def __init__(self, name, load):
        self.name, self.load = name, load


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.INFO)
    logging.getLogger("passl").propagate = True
    return lambda: caplog.text


def test_installed_plug_ins_are_loaded_once_and_a_broken_one_is_left_out(
    tmp_path, monkeypatch, told
):
    calls = []

    def broken():
        raise ImportError("no module named yesterday")

    def leaves():
        raise SystemExit

    points = [Point("broken", broken), Point("left", leaves)]
    points.append(Point("good", lambda: calls.append("good")))
    monkeypatch.setattr(plugins, "_entry_points", lambda: points)
    plugins.import_plugins.cache_clear()
    for _ in range(2):
        get_config("mlp-mixer_b16_224")
    plugins.import_plugins.cache_clear()
    assert calls == ["good"]
    assert told().count("the plug-in broken (some_plugin:register) is left out: no module") == 1


def test_they_are_found_by_the_group_of_their_entry_points(tmp_path, monkeypatch):
    backbone(tmp_path / "plugged_in.py", "PluggedIn")
    info = tmp_path / "plugged_in-1.0.dist-info"
    write(info / "METADATA", "Metadata-Version: 2.1\nName: plugged-in\nVersion: 1.0\n")
    write(info / "entry_points.txt", "[passl.plugins]\nplugged = plugged_in\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    plugins.import_plugins.cache_clear()
    get_config("mlp-mixer_b16_224")
    plugins.import_plugins.cache_clear()
    assert "PluggedIn" in BACKBONES


@pytest.mark.parametrize("command", ["create_model", "models", "convert"])
def test_they_are_there_without_a_config(command, tmp_path, monkeypatch):
    backbone(tmp_path / f"for_{command}.py", "ForAnyone")
    monkeypatch.syspath_prepend(str(tmp_path))
    point = Point("mine", lambda: importlib.import_module(f"for_{command}"))
    monkeypatch.setattr(plugins, "_entry_points", lambda: [point])
    plugins.import_plugins.cache_clear()
    if command == "create_model":
        assert create_model("ForAnyone", num_classes=0).num_features == 3
    else:
        run_here(command, *(["x.npz", tmp_path / "y.npz"] if command == "convert" else []))
    plugins.import_plugins.cache_clear()
    assert "ForAnyone" in BACKBONES


# ---------------------------------------------------------------- a whole run


def test_a_run_with_parts_of_its_own_opens_again_from_anywhere(photos, tmp_path, monkeypatch):
    project, run = tmp_path / "my project", tmp_path / "run"
    backbone(project / "my_backbone.py", "MyBackbone")
    cfg = small_config(photos, epochs=1, imports=["my_backbone.py"])
    cfg["model"]["architecture"] = {"name": "MyBackbone"}
    for section in cfg["dataloader"].values():
        section["loader"]["num_workers"] = 0
    file = project / "mine.yaml"
    file.write_text(yaml.safe_dump(cfg))
    code, out, err = run_here("train", "-c", file, "--output-dir", run)
    assert code == 0, err
    with WeightFile(run / "checkpoints" / "latest.safetensors") as weights:
        assert weights.metadata["config"]["imports"] == [str(project / "my_backbone.py")]

    BACKBONES._factories.pop("MyBackbone")
    sys.modules.pop("my_backbone")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    own = run / "config.yaml"
    code, out, err = run_here("eval", "-c", own, "--json", tmp_path / "eval.json")
    assert code == 0, err
    assert json.loads((tmp_path / "eval.json").read_text())["samples"] == 13
    code, out, err = run_here("predict", "-c", own, next((photos / "val").rglob("*.jpg")))
    assert code == 0, err
    before = records(run)
    code, out, err = run_here("train", "-c", own, "--resume", "auto")
    assert code == 0 and records(run) == before, err

    moved = tmp_path / "moved"
    project.rename(moved)
    BACKBONES._factories.pop("MyBackbone")
    sys.modules.pop("my_backbone")
    code, out, err = run_here("eval", "-c", own)
    assert code == 2 and "my_backbone.py: there is no such file" in err
    assert err.count("\n") == 1 and "--import PATH" in err
    again = ("-c", own, "--import", moved / "my_backbone.py")
    code, out, err = run_here("eval", *again)
    assert code == 0, err
    code, out, err = run_here("train", *again, "--resume", "auto")
    assert code == 0 and records(run) == before, err
    with WeightFile(run / "checkpoints" / "latest.safetensors") as weights:
        assert weights.metadata["config"]["imports"] == [str(project / "my_backbone.py")]
    assert get_config(own).imports == [str(moved / "my_backbone.py")], "the config is written anew"


def test_weights_name_no_code(photos, tmp_path):
    """What a checkpoint says of imports is read by nobody."""
    ran = tmp_path / "ran"
    evil = write(tmp_path / "evil.py", f"open({str(ran)!r}, 'w')")
    cfg = small_config(photos, epochs=1, output_dir=str(tmp_path / "run"))
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(cfg))
    path = tmp_path / "theirs.safetensors"
    network = build_architecture(get_config(file).model)
    tensors = {f"model/{name}": tensor.numpy() for name, tensor in network.state_dict().items()}
    metadata = {
        "kind": "training",
        "imports": [str(evil)],
        "config": {**cfg, "imports": [str(evil)]},
    }
    write_tensor_file(path, tensors, metadata)
    image = next((photos / "val").rglob("*.jpg"))
    for command, *arguments in (
        ("convert", path, tmp_path / "other.safetensors"),
        ("eval", "-c", file, "--weights", path),
        ("predict", "-c", file, "--weights", path, image),
        ("train", "-c", file, "--dry-run", "--pretrained", path),
    ):
        code, _, err = run_here(command, *arguments)
        assert code == 0 and not ran.exists(), (command, err)
    code, _, err = run_here("train", "-c", file, "--resume", path)
    assert code == 2 and "its record of the run is incomplete" in err and not ran.exists()


def test_pack_imports_as_well(photos, tmp_path):
    backbone(tmp_path / "for_pack.py", "ForPack")
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(small_config(photos)))
    run_here("pack", "-c", file, "--output", tmp_path / "x", "--import", tmp_path / "for_pack.py")
    assert "ForPack" in BACKBONES


@pytest.mark.parametrize("command", ["models", "convert"])
def test_commands_without_a_config_import_as_well(command, tmp_path):
    backbone(tmp_path / f"for_{command}.py", "ForCommand")
    arguments = ["x.npz", tmp_path / "y.npz"] if command == "convert" else []
    run_here(command, *arguments, "--import", tmp_path / f"for_{command}.py")
    assert "ForCommand" in BACKBONES


def test_modules_are_not_imported_anew(tmp_path):
    write(tmp_path / "counted.py", "import sys\nsys.counted = getattr(sys, 'counted', 0) + 1\n")
    for _ in range(3):
        import_parts({str(tmp_path / "counted.py"): ""})
    assert sys.counted == 1
    del sys.counted
