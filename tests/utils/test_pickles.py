"""Pickles are read without being run; arrays stay in their file until they are asked for."""

import argparse
import collections
import copyreg
import datetime
import io
import pickle
import sys

import numpy as np
import pytest
from hostile_pickles import PRIME, PROTOCOL_2, calls, doubled, evaluations, integer, name, text

from passl.utils import pickles
from passl.utils.pickles import LongString, Placeholder, Unpickler
from passl.utils.stored_array import DamagedFile, StoredArray, Window, checked_shape

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def window(data):
    return Window(io.BytesIO(data), 0, len(data))


def load(data, **options):
    return Unpickler(window(data), **options).load()


def program(instructions):
    return PROTOCOL_2 + instructions + b"."


# ---------------------------------------------------------------- what is rebuilt


@pytest.mark.smoke
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values(protocol):
    shared = ["shared"]
    value = {
        "numbers": [0, 1, -1, 255, 256, 65536, -(2**31), 2**31, 2**70, -(2**70), 2.5, -0.0, 1e300],
        "constants": (None, True, False),
        "texts": ["", "ä€😀", "a\nb", "\ud800", "x" * 300],
        "bytes": [b"", b"\x00\xff\n'", b"y" * 300],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((),)],
        "sets": [set(), {1, "a", None}, frozenset(), frozenset({1, 2.5, b"c"})],
        "containers": [[], {}, [[]], {"a": {}}, shared, shared],
        1: 2,
        None: 3,
        2.5: 4,
        b"bytes": 5,
    }
    found = load(pickle.dumps(value, protocol))
    assert found == value
    assert found["containers"][4] is found["containers"][5]
    assert [type(item) for item in found["sets"]] == [set, set, frozenset, frozenset]
    assert load(pickle.dumps(bytearray(b"ab\xff"), protocol)) == b"ab\xff"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_containers_of_the_standard_library_become_plain(protocol):
    ordered = collections.OrderedDict([("b", 1), ("a", [2])])
    with_default = collections.defaultdict(list, {"a": [1]})
    found = load(pickle.dumps((ordered, with_default), protocol))
    assert found == ({"b": 1, "a": [2]}, {"a": [1]})
    assert list(found[0]) == ["b", "a"] and {type(item) for item in found} == {dict}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_containers_in_themselves(protocol):
    values, mapping = [1], {}
    values.append(values)
    mapping["a"] = (mapping, values)
    found = load(pickle.dumps(mapping, protocol))
    assert found["a"][0] is found and found["a"][1][1] is found["a"][1]


def test_python_2_pickles():
    # pickle.dumps({'a': 'b' * 300, u'c': {1L}}, 2) of Python 2.7, with a shorter text
    data = b"\x80\x02}q\x01(U\x01aT\x03\x00\x00\x00\xe4bbX\x01\x00\x00\x00cc__builtin__\nset\n"
    data += b"]\x8a\x01\x01a\x85Ru."
    assert load(data) == {"a": "äbb", "c": {1}}


def test_pickles_one_behind_the_other():
    data = pickle.dumps([1], 4) + pickle.dumps("two", 2) + b"rest"
    there = window(data)
    assert [Unpickler(there).load(), Unpickler(there).load()] == [[1], "two"]
    assert there.position == len(data) - 4 and there.read(4) == b"rest"


@pytest.mark.parametrize("length", [0, 3, 1 << 40, (1 << 64) - 1])
def test_what_a_frame_says_of_its_length_does_not_matter(length):
    assert load(b"\x80\x04\x95" + length.to_bytes(8, "little") + b"K\x07.") == 7


# ---------------------------------------------------------------- arrays


def array(shape, dtype="f4", order="C"):
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    return np.asarray(values.astype(dtype), order=order)


@pytest.mark.smoke
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (5,), (2, 3, 4), (30, 35)])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "f2", "f8", "i1", "u1", ">i8", "u2", "?", "c8"])
def test_arrays(dtype, shape, order, protocol):
    value = array(shape, dtype, order)
    stored = load(pickle.dumps({"a": value}, protocol))["a"].stored
    assert stored.shape == shape and stored.dtype == value.dtype.newbyteorder("=")
    assert stored.nbytes == value.nbytes
    read = stored.read()
    assert read.dtype == stored.dtype
    np.testing.assert_array_equal(read, value)


@pytest.mark.parametrize("core", ["core", "_core"])
def test_arrays_of_numpy_1_and_2(core):
    data = pickle.dumps(array((3,)), 2).replace(b"numpy._core.", b"numpy.core.")
    data = data.replace(b"numpy.core.", f"numpy.{core}.".encode())
    np.testing.assert_array_equal(load(data).stored.read(), [0, 1, 2])


class CountingFile(io.BytesIO):
    taken = 0

    def read(self, count=-1):
        data = super().read(count)
        self.taken += len(data)
        return data


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_large_arrays_stay_in_the_file(protocol, monkeypatch):
    monkeypatch.setattr(pickles, "_BUDGET", 1 << 16)  # they do not count as memory taken
    value = array((500, 300))
    file = CountingFile(pickle.dumps({"a": value, "b": value + 1}, protocol))
    found = Unpickler(Window(file, 0, len(file.getvalue()))).load()
    assert file.taken < 2000
    for _ in range(2):  # in any order, and again
        np.testing.assert_array_equal(found["b"].stored.read(), value + 1)
        np.testing.assert_array_equal(found["a"].stored.read(), value)


@pytest.mark.parametrize(
    "value, kind",
    [
        (np.array([{}, None], object), "'O8'"),
        (np.array(["text"]), "'U4'"),
        (np.array([b"text"]), "'S4'"),
        (np.array(["2020-01-01"], "M8[D]"), "'M8'"),
        (np.array([1], "m8[s]"), "'m8'"),
        (np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")]), "records"),
        (np.array([b"ab"], "V2"), "'V2'"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_of_anything_but_numbers_are_refused(value, kind, protocol):
    with pytest.raises(DamagedFile, match=f"array of (NumPy type )?{kind}"):
        load(pickle.dumps(value, protocol))


@pytest.mark.parametrize("change", [b"(K\x04t", b"(K\x02t"])
def test_an_array_of_another_size_than_its_numbers(change):
    data = pickle.dumps(array((3,)), 2).replace(b"K\x03\x85", change)
    with pytest.raises(DamagedFile, match="more or fewer numbers"):
        load(data).stored.read()


@pytest.mark.parametrize("shape", [b"(K\x03K\xfft", b"]", b"K\x03", b"(J\xff\xff\xff\xfft", b"N"])
def test_an_array_with_a_shape_of_its_own(shape):
    data = pickle.dumps(array((3,)), 2).replace(b"K\x03\x85", shape)
    with pytest.raises(DamagedFile, match="more or fewer numbers|shape that no array has"):
        load(data).stored.read()


# ---------------------------------------------------------------- what is not rebuilt

RAN = []


class Loud:
    """An object that notes everything that unpickling it would call."""

    def __init__(self):
        self.value = 3

    def __reduce__(self):
        return (Loud.make, (1,), {"value": 4}, iter([1]), iter([("key", 1)]))

    @classmethod
    def make(cls, *arguments):
        RAN.append("make")
        return cls()

    def __setstate__(self, state):
        RAN.append("state")

    def __setitem__(self, key, value):
        RAN.append("item")

    def append(self, value):
        RAN.append("append")

    def extend(self, values):
        RAN.append("extend")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_objects_are_not_rebuilt(protocol):
    value = {"loud": Loud(), "when": datetime.datetime(2020, 1, 1), "after": [5]}
    data = pickle.dumps(value, protocol)
    RAN.clear()
    pickle.loads(data)
    assert {"make", "item", "state"} <= set(RAN)
    RAN.clear()
    found = load(data)
    assert RAN == []
    assert isinstance(found["loud"], Placeholder)
    assert found["when"].name == "datetime.datetime" and found["after"] == [5]


@pytest.mark.smoke
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_authors_arguments(protocol):
    value = {"args": argparse.Namespace(lr=0.1, more=argparse.Namespace()), "epoch": 3}
    found = load(pickle.dumps(value, protocol))
    assert found["epoch"] == 3 and found["args"].name == "argparse.Namespace"
    assert not hasattr(found["args"], "lr")
    assert repr(found["args"]) == "<argparse.Namespace, not rebuilt>"


HOW = {**calls("trap", "spring", text("now")), **evaluations("__import__('trap')")}


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module that is noticed when it is imported, and more so when it is used."""
    (tmp_path / "trap.py").write_text(
        "from pathlib import Path\n"
        "spring = (Path(__file__).parent / 'sprung').write_text\n"
        "spring('on import')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "sprung"
    sys.modules.pop("trap", None)


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("how", HOW)
def test_nothing_is_imported_or_called(how, loaded, trap):
    if loaded:
        import trap as _  # noqa: F401

        trap.unlink()
    before = set(sys.modules)
    try:
        load(program(HOW[how]))
    except Exception:  # what is said of it is the business of the file's reader
        pass
    assert not trap.exists() and set(sys.modules) == before


def test_the_trap_works(trap):
    pickle.loads(program(HOW["REDUCE"]))
    assert trap.read_text() == "now"


@pytest.mark.parametrize("how", ["REDUCE", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"])
def test_what_would_have_been_called_is_named(how):
    found = load(program(calls("os", "system", text("true"))[how]))
    assert type(found) is Placeholder and found.name == "os.system"


def test_a_registered_extension_is_refused():
    copyreg.add_extension("os", "system", 1)
    try:
        for code in (b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"):
            with pytest.raises(DamagedFile, match="extension"):
                load(program(code))
    finally:
        copyreg.remove_extension("os", "system", 1)
        copyreg.clear_extension_cache()


def test_a_reader_may_know_more_names():
    data = program(name("some", "thing") + integer(2) + integer(3) + b"\x86R")
    assert load(data, known={"some.thing": lambda a, b: a * b}) == 6
    assert load(data).name == "some.thing"


def test_persistent_ids():
    data = program(text("id") + b"Q")
    assert load(data, persistent=lambda pid: [pid]) == ["id"]
    with pytest.raises(DamagedFile, match="outside of itself"):
        load(data)
    with pytest.raises(DamagedFile, match="outside of itself"):
        load(program(b"Pid\n"))


@pytest.mark.parametrize("bad", ["a\nb", "a\x1b[2J", "x" * 600, "\ud800"])
def test_names_that_no_module_can_have(bad):
    data = bad.encode("utf-8", "surrogatepass")
    instructions = b"X" + len(data).to_bytes(4, "little") + data + text("b") + b"\x93"
    with pytest.raises(DamagedFile, match="what no module can hold"):
        load(program(instructions))


@pytest.mark.parametrize(
    "instructions, why",
    [
        (text("a") + b")R", "not a name"),
        (b"])R", "not a name"),
        (name("os", "system") + b"]R", "not a name"),
        (b"})\x81", "not a name"),
        (b"}Na", "not a list"),
        (b")Na", "not a list"),
        (b"]NNs", "not a mapping"),
        (name("builtins", "list") + text("abc") + b"\x85R", "list of what is none"),
        (name("_codecs", "encode") + text("a") + text("zip") + b"\x86R", "unknown encoding"),
        (name("numpy", "dtype") + name("ml_dtypes", "bfloat16") + b"\x85R(K\x01t\x86b", None),
        (b"\x97", None),
    ],
)
def test_nonsense(instructions, why):
    with pytest.raises(Exception, match=why):
        load(program(instructions))


# ---------------------------------------------------------------- memory and time


@pytest.mark.parametrize(
    "key",
    [
        (integer(PRIME)),
        (integer(-PRIME)),
        (b"G\x7f\xf8\0\0\0\0\0\0"),  # not a number
        (b"G\x7f\xf0\0\0\0\0\0\0"),  # infinity
        (text("a") + b"\x85"),
        (doubled(60)),
        (name("some", "thing") + b")R"),
        (b"B" + (5000).to_bytes(4, "little") + bytes(5000)),
    ],
)
def test_keys_that_could_share_a_hash_are_left_out(key):
    pair = text("b") + b"K\x07"
    assert load(program(b"}" + key + b"Ns" + pair + b"s")) == {"b": 7}
    assert load(program(b"}(" + key + b"N" + pair + b"u")) == {"b": 7}
    assert load(program(b"(" + key + b"N" + pair + b"d")) == {"b": 7}
    assert load(program(b"\x8f(" + key + b"K\x07\x90")) == {7}
    assert load(program(b"(" + key + b"K\x07\x91")) == frozenset({7})
    listed = b"](" + key + b"K\x07e\x85R"
    assert load(program(name("builtins", "set") + listed)) == {7}
    pairs = b"](" + key + b"N\x86" + pair + b"\x86e\x85R"
    assert load(program(name("collections", "OrderedDict") + pairs)) == {"b": 7}


@pytest.mark.parametrize("place", [b"-1", b"%d" % (1 << 32), b"%d" % PRIME])
def test_places_that_could_share_a_hash_are_refused(place):
    with pytest.raises(DamagedFile, match="remembers more"):
        load(program(b"Np" + place + b"\n"))
    assert load(program(b"K\x07p" + b"%d" % ((1 << 32) - 1) + b"\n0g4294967295\n")) == 7


@pytest.mark.parametrize(
    "instructions",
    [
        b"N0" * 2000,
        b"]" * 2000,
        b"(" * 2000,
        b"\x8f" * 2000,
        text("x" * 4000) * 40,
        (b"V" + b"x" * 60000 + b"\n") * 2,
        integer(1 << 600000),
        b"](" + b"N" * 300 + b"eq\x000" + (name("builtins", "list") + b"h\x00\x85R") * 10,
        b"("
        + b"".join(map(integer, range(300)))
        + b"\x91q\x000"
        + (name("builtins", "list") + b"h\x00\x85R") * 10,
        b"(" + b"N" * 300 + b"tq\x000" + (name("collections", "defaultdict") + b"h\x00R") * 10,
    ],
)
def test_a_program_may_take_so_much_and_no_more(instructions, monkeypatch):
    load(program(instructions + b"N"))
    monkeypatch.setattr(pickles, "_BUDGET", 1 << 18)
    with pytest.raises(DamagedFile, match="too large"):
        load(program(instructions + b"N"))


@pytest.mark.parametrize(
    "begin",
    [
        b"\x8b\xff\xff\xff\x7f",
        b"X\xff\xff\xff\x7f",
        b"B\xff\xff\xff\xff",
        b"T\xff\xff\xff\x7f",
        b"T\xff\xff\xff\xff",
        b"\x8d" + b"\xff" * 8,
        b"\x8e" + b"\xff" * 8,
        b"\x96" + b"\xff" * 8,
        b"\x8c\xff",
        b"C\xff",
        b"\x8a\xff",
        b"U\xff",
        b"cos",
    ],
)
def test_what_is_not_there_is_not_waited_for(begin):
    with pytest.raises((DamagedFile, EOFError)):
        load(PROTOCOL_2 + begin + b"abc")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pickles_cut_short(protocol):
    data = pickle.dumps({"a": array((2, 3)), "b": ["text", 2.5, {1}], "c": 2**70}, protocol)
    for end in range(len(data)):
        with pytest.raises(Exception) as caught:
            load(data[:end])
        assert not isinstance(caught.value, MemoryError)


# ---------------------------------------------------------------- windows and stored arrays


def test_long_texts_stay_in_the_file():
    found = load(program(text("ä" * 3000) + b"B" + (5000).to_bytes(4, "little") + b"\xff" * 5000
                         + b"\x86"))  # fmt: skip
    assert [type(item) for item in found] == [LongString, LongString]
    assert found[0].read() == b"\xe4" * 3000 and found[1].read() == b"\xff" * 5000


def test_a_window_ends_where_it_ends():
    there = Window(io.BytesIO(b"__line\nrest__"), 2, 9)
    assert there.readline() == b"line\n" and there.position == 5
    assert there.skip(1) == 5 and there.read(3) == b"est"
    assert there.read(0) == b""
    for count in (1, -1, 1 << 70):
        with pytest.raises(DamagedFile, match="ends too early"):
            there.read(count)
        with pytest.raises(DamagedFile, match="ends too early"):
            there.skip(count)
    assert there.read_at(0, 9) == b"line\nrest"
    for begin, count in ((0, 10), (9, 1), (-1, 2), (4, -1), (1 << 70, 0)):
        with pytest.raises(DamagedFile, match="ends too early"):
            there.read_at(begin, count)


def test_a_window_larger_than_its_file():
    with pytest.raises(DamagedFile, match="ends too early"):
        Window(io.BytesIO(b"abc"), 0, 10).read(4)
    with pytest.raises(DamagedFile, match="ends too early"):
        Window(io.BytesIO(b"abc"), 0, 10).read_at(2, 2)


def test_a_line_has_an_end():
    longest = b"x" * ((1 << 16) - 1) + b"\n"
    assert window(longest + b"y").readline() == longest
    for data in (b"x" + longest, b"x", b""):
        with pytest.raises(DamagedFile, match="line without an end"):
            window(data).readline()


@pytest.mark.parametrize(
    "shape",
    [(-1,), (1 << 41,), (1 << 20, 1 << 21), (1,) * 17, (True,), (2.0,), ("2",), "2", None, {1: 2}],
)
def test_shapes_that_no_array_has(shape):
    with pytest.raises(DamagedFile, match="shape that no array has"):
        StoredArray(shape, np.dtype("f4"), lambda: None)


@pytest.mark.parametrize("shape", [(), (0,), (1 << 40,), (1,) * 16, [2, 3]])
def test_shapes_that_arrays_have(shape):
    assert checked_shape(shape) == tuple(shape)


def test_a_transposed_array_is_still_unread():
    reads = []
    value = array((2, 3, 4))
    stored = StoredArray((2, 3, 4), value.dtype, lambda: reads.append(1) or value)
    turned = stored.transposed((2, 0, 1))
    assert turned.shape == (4, 2, 3) and turned.nbytes == value.nbytes and not reads
    np.testing.assert_array_equal(turned.read(), value.transpose(2, 0, 1))
