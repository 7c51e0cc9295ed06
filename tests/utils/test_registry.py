import copy
from typing import Any, Mapping, Optional, Sequence, Union

import pytest

from passl.utils.config import get_config
from passl.utils.errors import PasslError
from passl.utils.registry import Registry

PARTS = Registry("part")


@PARTS.register
class Wheel:
    def __init__(
        self,
        size: Union[int, Sequence[int]],
        weight: float = 1.0,
        teeth: int = 3,
        name_plate: Optional[str] = None,
        round: bool = True,
        bolts: Sequence[Mapping[str, Any]] = (),
        limit: Optional[float] = None,
    ):
        if weight < 0:
            raise PasslError("weight is at least 0")
        self.size, self.weight, self.teeth = size, weight, teeth
        self.bolts = [PARTS.build(bolt) for bolt in bolts]


@PARTS.register
class Bolt:
    def __init__(self, length: int, owner: str = "nobody"):
        self.length, self.owner = length, owner


PARTS.register_variant("big_wheel", Wheel, size=10, teeth=30)


def message(cfg, **context):
    with pytest.raises(PasslError) as caught:
        PARTS.build(cfg, **context)
    return str(caught.value)


@pytest.mark.smoke
def test_building_passes_the_arguments_and_leaves_the_config_alone():
    cfg = {"name": "Wheel", "size": [2, 3], "bolts": [{"name": "Bolt", "length": 4}]}
    before = copy.deepcopy(cfg)
    for _ in range(2):
        wheel = PARTS.build(cfg)
        assert type(wheel) is Wheel
        assert (wheel.size, wheel.weight, wheel.teeth) == ([2, 3], 1.0, 3)
        assert wheel.bolts[0].length == 4
    assert cfg == before


def test_variants_change_defaults_which_a_config_overrides():
    assert PARTS.build({"name": "big_wheel"}).teeth == 30
    assert PARTS.build({"name": "big_wheel", "teeth": 5}).teeth == 5
    assert PARTS.build({"name": "big_wheel", "teeth": 5}).size == 10
    assert PARTS.build({"name": "Wheel", "size": 1}).teeth == 3
    assert "'teeth'" in message({"name": "big_wheel", "teeth": "many"})


def test_names_are_sorted_and_the_registry_is_a_container():
    assert PARTS.names() == ["Bolt", "Wheel", "big_wheel"]
    assert "Wheel" in PARTS and "Axle" not in PARTS


@pytest.mark.smoke
def test_an_unknown_name_lists_the_known_and_suggests_the_nearest():
    text = message({"name": "Wheell"})
    assert "unknown part 'Wheell'" in text and "did you mean 'Wheel'" in text
    for name in PARTS.names():
        assert name in text


def test_a_name_like_nothing_gets_no_suggestion():
    assert "did you mean" not in message({"name": "zzzzzz"})


@pytest.mark.parametrize("name", [["Wheel"], {"a": 1}, 3, True])
def test_a_name_that_is_no_text_is_an_error(name):
    assert "part" in message({"name": name})


def test_an_unknown_argument_lists_the_known_and_suggests_the_nearest():
    text = message({"name": "Wheel", "size": 1, "tooth": 4})
    assert "unknown argument 'tooth' of part 'Wheel'" in text and "did you mean 'teeth'" in text
    for name in ("size", "weight", "teeth", "name_plate", "round"):
        assert name in text


def test_a_missing_argument_is_named():
    assert "part 'Wheel' needs the argument 'size'" in message({"name": "Wheel"})
    # A variant's default counts as given.
    PARTS.build({"name": "big_wheel"})


def test_a_missing_name_lists_the_known():
    text = message({"size": 1})
    assert "'name'" in text and "Bolt" in text
    assert PARTS.build({"length": 2}, default="Bolt").length == 2


@pytest.mark.parametrize("cfg", [None, 3, "Wheel", ["Wheel"]])
def test_what_is_no_mapping_is_an_error(cfg):
    assert "mapping" in message(cfg)


@pytest.mark.parametrize(
    "key, value",
    [
        ("size", "3"),
        ("size", 1.5),
        ("size", [1, "2"]),
        ("size", [1, 2.5]),
        ("size", None),
        ("size", True),
        ("size", [True, 2]),
        ("weight", "heavy"),
        ("weight", True),
        ("weight", None),
        ("weight", [1.0]),
        ("limit", True),
        ("teeth", 1.0),
        ("teeth", "3"),
        ("teeth", False),
        ("name_plate", 3),
        ("round", 1),
        ("round", "yes"),
        ("bolts", {"name": "Bolt", "length": 1}),
        ("bolts", ["Bolt"]),
    ],
)
def test_a_value_of_the_wrong_type_is_named(key, value):
    text = message({"name": "Wheel", "size": 1, key: value})
    assert f"'{key}' of part 'Wheel'" in text and repr(value) in text


@pytest.mark.parametrize(
    "key, value",
    [("size", (1, 2)), ("weight", 2), ("name_plate", None), ("round", False), ("limit", 1)],
)
def test_values_of_the_right_type_pass(key, value):
    PARTS.build({"name": "Wheel", "size": 1, key: value})


def test_context_fills_in_only_what_the_factory_takes_and_is_not_the_configs_to_set():
    bolt = {"name": "Bolt", "length": 2}
    assert PARTS.build(bolt, owner="me", colour="red").owner == "me"
    with pytest.raises(PasslError, match="unknown argument 'owner'.*it takes: length$"):
        PARTS.build({**bolt, "owner": "you"}, owner="me")
    assert bolt == {"name": "Bolt", "length": 2}


@pytest.mark.parametrize(
    "line, key",
    [
        ("    name: Wheeel", "Wheeel"),
        ("    sise: 3", "sise"),
        ("    teeth: many", "teeth"),
    ],
)
def test_an_error_names_the_line_of_its_key(tmp_path, line, key):
    lines = ["model:", "  part:", "    size: 3", line]
    if "name:" not in line:
        lines.append("    name: Wheel")
    path = tmp_path / "config.yaml"
    path.write_text("\n".join(lines) + "\n")
    text = message(get_config(path).model.part)
    assert text.startswith(f"{path}:4: ") and key in text


def test_an_error_inside_a_part_names_the_innermost_place(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "model:\n"
        "  part:\n"
        "    name: Wheel\n"
        "    size: 3\n"
        "    bolts:\n"
        "      - {name: Bolt, length: 1}\n"
        "      - {name: Bolt, length: long}\n"
        "  negative: {name: Wheel, size: 3, weight: -1}\n"
        "  missing:\n"
        "    name: Wheel\n"
    )
    model = get_config(path).model
    assert message(model.part).startswith(f"{path}:7: ")
    assert message(model.negative) == f"{path}:8: weight is at least 0"
    assert message(model.missing).startswith(f"{path}:9: ")
    # The same error without a config file has no place.
    assert message({"name": "Wheel", "size": 1, "weight": -1}) == "weight is at least 0"


def test_an_error_names_the_override_that_caused_it(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("model: {part: {name: Wheel, size: 3}}\n")
    cfg = get_config(path, ["model.part.teeth=few"])
    assert message(cfg.model.part).startswith("-o model.part.teeth=few: ")


def test_a_layer_without_a_constructor_of_its_own_can_be_built():
    """That of Paddle's layers has hints which name what only type checkers see."""
    from paddle import nn

    layers = Registry("layer")

    @layers.register
    class Plain(nn.Layer):
        pass

    assert isinstance(layers.build({"name": "Plain"}), Plain)
    assert "dtype" in layers.arguments("Plain")
