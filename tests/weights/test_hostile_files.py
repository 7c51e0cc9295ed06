"""Weight files written to do harm: none runs anything, none takes the machine's memory or time.

All are read in another process that notes what it does besides reading them, see
``watched_reading``.
"""

import bz2
import pickle
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from hostile_files import (
    ARRAY,
    FOUR,
    WEIGHT,
    deflated,
    entry,
    module,
    npy,
    npz,
    numbers,
    pdparams,
    storage,
    stored,
    tensor,
    tensors,
    torch_legacy,
    torch_script,
    torch_zip,
    zeros,
    zipped,
)
from hostile_pickles import (
    CALL,
    PRIME,
    PROTOCOL_2,
    calls,
    doubled,
    evaluations,
    integer,
    items,
    kept,
    many,
    mapping,
    name,
    nested,
    text,
)
from watched_reading import WatchedReader, problem

FILES = Path(__file__).parent / "files"
# How much more memory a reading may take than before, in MiB.
MEMORY = 300

# ---------------------------------------------------------------- what would run something

CONTAINERS = {
    "zip": lambda value: torch_zip(items(WEIGHT, (text("bias"), value))),
    "legacy": lambda value: torch_legacy(items(WEIGHT, (text("bias"), value))),
    "script": lambda value: torch_script(module(WEIGHT, (text("bias"), value))),
    "pdparams": lambda value: pdparams(items((text("weight"), ARRAY), (text("bias"), value))),
}
RUNNING = {
    **calls("os", "system", text("touch harm-was-done")),
    **evaluations("open('harm-was-done', 'w')"),
}
# What a file is refused for, where it is not read with a placeholder in this place.
UNREADABLE = {
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), "extension"),
    "a known name's own attributes": "not enough values",
    "map": "list of what is none",
}
NAMED = ("REDUCE", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "__setstate__", "append")

# ---------------------------------------------------------------- what would take memory or time

MANY = 1 << 20

# Some megabytes of program each, refused when they have taken their share.
ENDLESS = {
    "sets": lambda: many(b"\x8f", 8 * MANY),
    "mappings": lambda: many(b"}", 8 * MANY),
    "marks": lambda: b"(" * 12 * MANY,
    "nothing, often": lambda: many(b"N", 12 * MANY),
    "objects": lambda: kept(name("some", "thing")) + many(b"h\x00)\x81", 3 * MANY),
    "tensors of one storage": lambda: kept(name("torch._utils", "_rebuild_tensor_v2"))
    + kept(b"(" + storage() + integer(0) + numbers(4) + numbers(1) + b"t", 1)
    + many(CALL, 2 * MANY),
    "copies of a frozen set": lambda: kept(name("builtins", "frozenset"))
    + kept(b"(" + b"".join(map(integer, range(20000))) + b"\x91\x85", 1)
    + many(CALL, 20000),
    "copies of a mapping": lambda: kept(name("collections", "OrderedDict"))
    + kept(mapping(map(integer, range(20000))) + b"\x85", 1)
    + many(CALL, 20000),
    "a call with a million arguments, often": lambda: kept(name("collections", "defaultdict"))
    + kept(b"(" + b"N" * MANY + b"t", 1)
    + many(CALL, 100000),
    "a key of a million texts": lambda: kept(text("x" * 4000))
    + items((b"(" + b"h\x00" * MANY + b"t", ARRAY)),
    "a key of a million parts, often": lambda: kept(b"(" + b"N" * MANY + b"t")
    + many(b"}h\x00Ns", 100000),
    "many keys of one hash": lambda: mapping(integer(PRIME * n) for n in range(1, MANY // 2)),
    "one mapping under long names": lambda: kept(items((text("a"), ARRAY)))
    + items((text("x" * 4000), many(b"h\x00", 100000))),
    "lists under long names": lambda: items((text("x" * 4000), many(b"]", 100000))),
    "lists in lists": lambda: nested(2 * MANY),
    "tuples in tuples": lambda: b")" + b"\x85" * 4 * MANY,
    "mappings in mappings": lambda: nested(MANY, b"}" + text("a"), b"s"),
    "an integer that is not there": lambda: b"\x8b\xff\xff\xff\x7f",
}  # fmt: skip

# What looks as if it took for ever, and is read.
HARMLESS = {
    "a key without end": lambda: items((doubled(60), ARRAY)),
    "keys of one hash": lambda: mapping(integer(PRIME * n) for n in range(1, 100000)),
    "keys of one hash, as tuples": lambda: mapping(
        integer(PRIME * n) + b"\x85" for n in range(1, 100000)
    ),
    "members of one hash": lambda: b"\x8f("
    + b"".join(integer(PRIME * n) for n in range(1, 100000))
    + b"\x90",
    "keys that are no numbers": lambda: mapping([b"G\x7f\xf8\0\0\0\0\0\0"] * 100000),
    "copies by way of torch": lambda: kept(name("torch._tensor", "_rebuild_from_type_v2"))
    + kept(
        b"(" + name("builtins", "list") + name("torch", "Tensor") + many(b"N", 100000)
        + b"\x85Nt", 1
    )
    + many(CALL, 20000),
    "a list in itself": lambda: b"]q\x00h\x00a",
    "a mapping in itself": lambda: b"}q\x00" + text("a") + b"h\x00s",
    "a tuple in itself": lambda: b"]q\x00h\x00\x85a",
    "a list in itself as arguments": lambda: name("torch._tensor", "_rebuild_from_type_v2")
    + b"q\x01(h\x01" + name("torch", "Tensor") + b"]q\x00(h\x01" + name("torch", "Tensor")
    + b"h\x00NeNtR",
    "a tuple without end": lambda: many(doubled(60), 1),
    "lists in lists, not as many": lambda: nested(100000),
    "an integer of ten million digits": lambda: integer(1 << 40000000),
    "such an integer as a key": lambda: items((integer(1 << 40000000), ARRAY)),
    "a frame that is not there": lambda: b"\x95" + struct.pack("<Q", (1 << 64) - 1) + b"N",
}  # fmt: skip

NONSENSE = {
    "texts taken apart": (
        kept(name("builtins", "list")) + kept(text("\u0101" * 2000) + b"\x85", 1)
        + many(CALL, 100000), "list of what is none"),
    "text that is not there": (b"\x8d" + struct.pack("<Q", 1 << 62), "too early"),
    "bytes that are not there": (b"\x8e" + struct.pack("<Q", (1 << 64) - 1), "too early"),
    "a buffer that is not there": (b"\x96" + struct.pack("<Q", 1 << 40), "too early"),
    "a string of less than nothing": (b"T\xff\xff\xff\xff", "too early"),
    "a line without an end": (b"V" + b"x" * 100000, "line without an end"),
    "places of one hash": (
        b"N" + b"".join(b"p%d\n" % (PRIME * n) for n in range(1, 200000)), "remembers more"),
    "out-of-band buffers": (b"\x97\x98", "out-of-band"),
    "an encoding of its own": (
        name("_codecs", "encode") + text("a") + text("zip") + b"\x86R", "unknown encoding"),
}  # fmt: skip


def header_bomb(megabytes):
    """A member that begins as a .npy file whose header is that long."""
    begin = b"\x93NUMPY\2\0" + struct.pack("<I", megabytes << 20)
    return zipped(zeros("weight.npy", megabytes, begin))


def overlapping(count, megabytes):
    """Members that are all the same stretch of the file."""
    begin = npy(shape=f"({megabytes << 18},)", data=b"")
    first = zeros("0.npy", megabytes, begin)
    return zipped(
        first, *({**first, "packed": b"", "packed_size": len(first["packed"]), "at": 0}
                 for _ in range(count))
    )  # fmt: skip


def crowd(count):
    member = stored("0.npy", npy())
    entry = zipped(member)
    entry = entry[entry.index(b"PK\1\2") : entry.index(b"PK\5\6")]
    return zipped(member, entries=entry * count)


def crowded(count):
    entries = (b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(count))
    return tensors(b"{" + b",".join(entries) + b"}", b"")


# A few megabytes of file each; what their message says, or None where nothing is wrong with them.
BOMBS = {
    "packed program": (
        lambda: zipped(zeros("archive/data.pkl", 1000, PROTOCOL_2)), "unpack to"),
    "packed byte order": (
        lambda: torch_zip(items(WEIGHT), stored("archive/data/0", FOUR),
                          zeros("archive/byteorder", 1000)), "unpack to"),
    "packed byte order, smaller": (
        lambda: torch_zip(items(WEIGHT), stored("archive/data/0", FOUR),
                          zeros("archive/byteorder", 200)), "byte order"),
    "packed storage": (
        lambda: torch_zip(items((text("weight"), tensor(storage(count=250 << 20), 0, (2,),
                                                        ((250 << 20) - 1,)))),
                          zeros("archive/data/0", 1000)), "unpack to"),
    "packed array": (
        lambda: zipped(zeros("weight.npy", 1000, npy(shape=f"({250 << 20},)", data=b""))),
        "unpack to"),
    "packed header": (lambda: header_bomb(1000), "unpack to"),
    "packed header, smaller": (lambda: header_bomb(200), "whose header is not NumPy's"),
    "bzip2": (
        lambda: zipped({**stored("weight.npy", bz2.compress(npy()), method=12),
                        "size": len(npy())}), "packed by"),
    "overlapping members": (lambda: overlapping(1000, 1), ""),
    "a crowd of members": (lambda: crowd(300000), "members"),
    "many uses of one storage": (
        lambda: torch_zip(
            kept(storage(count=1 << 20))
            + items(*((text(f"{n}"), tensor(b"h\x00", 0, (1 << 20,))) for n in range(1000))),
            stored("archive/data/0", bytes(4 << 20))), "unpack to"),
    "a header of seven megabytes": (lambda: crowded(120000), None),
    "a header of nine megabytes": (lambda: crowded(160000), "header is too long"),
    "labels": (
        lambda: tensors({"__metadata__": {f"{n:x}": "" for n in range(600000)},
                         "weight": entry()}), None),
    "a record of brackets": (
        lambda: tensors({"__metadata__": {"passl": "[" + "{}," * 2700000 + "{}]"},
                         "weight": entry()}), "not a mapping"),
}  # fmt: skip


LEGACY = {
    "names of storages without end": (
        lambda: torch_legacy(items(WEIGHT), PROTOCOL_2 + many(doubled(60), 1) + b"."),
        "list of storages"),
    "more numbers than there are": (
        lambda: torch_legacy(items((text("weight"), tensor(storage(count=1 << 40), 0, (9,)))),
                             count=1 << 40), "too early"),
    "fewer numbers than none": (
        lambda: torch_legacy(items((text("weight"), tensor(storage(count=-4), 0, (0,)))),
                             count=-4), "damaged"),
    "another size than its tensors say": (
        lambda: torch_legacy(items(WEIGHT), count=3), "more or fewer numbers"),
    "two types for one storage": (
        lambda: torch_legacy(items(
            (text("a"), tensor(storage("0", 4, "ByteStorage"))),
            (text("b"), tensor(storage("0", 4, "DoubleStorage", numbers(text("v"), 0, 4)))))),
        "two types"),
    "a view beyond its storage": (
        lambda: torch_legacy(items(
            (text("a"), tensor(storage("0", 4, "FloatStorage", numbers(text("v"), 2, 3)), 0, (3,))),
        )), "reaches beyond"),
    "a view before its storage": (
        lambda: torch_legacy(items(
            (text("a"), tensor(storage("0", 4, "FloatStorage", numbers(text("v"), -2, 4)))),
        )), "reaches beyond"),
    "a view of half a number": (
        lambda: torch_legacy(items(
            (text("a"), tensor(storage("0", 4, "FloatStorage",
                                       numbers(text("v"), b"G?\xe0\0\0\0\0\0\0", 2)), 0, (2,))),
        )), "damaged"),
    "a storage twice in the list": (
        lambda: torch_legacy(items(WEIGHT), pickle.dumps(["0", "0"], 2)), "list of storages"),
    "no such storage": (
        lambda: torch_legacy(items(WEIGHT), pickle.dumps(["1"], 2)), "list of storages"),
    "another version": (
        lambda: pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1002, 2), "version"),
    "a big-endian machine": (
        lambda: torch_legacy(items(WEIGHT), system=pickle.dumps({"little_endian": False}, 2)),
        "big-endian"),
    "no mapping about the machine": (
        lambda: torch_legacy(items(WEIGHT), system=pickle.dumps([], 2)), "big-endian"),
    "complex numbers": (
        lambda: torch_legacy(items((text("a"), tensor(storage("0", 4, "ComplexFloatStorage"))))),
        "torch.ComplexFloatStorage"),
    "a persistent id of text": (
        lambda: torch_legacy(b"Pos.system\n"), "not a storage"),
}  # fmt: skip

TENSORS = {
    "beyond its storage": (tensor(offset=1), "reaches beyond"),
    "far beyond its storage": (tensor(offset=1 << 62), "reaches beyond"),
    "before its storage": (tensor(offset=-1), "reaches beyond"),
    "steps beyond its storage": (tensor(shape=(2, 2), steps=(3, 1)), "reaches beyond"),
    "steps of absurd size": (tensor(shape=(2,), steps=(1 << 62,)), "shape that no array has"),
    "steps backwards": (tensor(shape=(2,), steps=(-1,)), "shape that no array has"),
    "one number, repeated for ever": (
        tensor(shape=(1 << 20, 1 << 19), steps=(0, 0)),
        "reaches beyond",
    ),
    "one number, repeated": (tensor(shape=(5,), steps=(0,)), "reaches beyond"),
    "more axes than steps": (tensor(shape=(2, 2), steps=(1,)), "reaches beyond"),
    "a hundred axes": (tensor(shape=(1,) * 100, steps=(1,) * 100), "shape that no array has"),
    "an absurd shape": (tensor(shape=(1 << 41,)), "shape that no array has"),
    "an absurd product": (tensor(shape=(1 << 30, 1 << 30)), "shape that no array has"),
    "an absurd shape of nothing": (tensor(shape=(0, 1 << 40), steps=(1, 1)), "unpack to"),
    "a negative axis": (tensor(shape=(-4,)), "shape that no array has"),
    "an axis that is true": (tensor(shape=(b"\x88",)), "shape that no array has"),
    "an axis of text": (tensor(shape=(text("4"),)), "shape that no array has"),
    "a shape of text": (tensor(shape=text("4")), "shape that no array has"),
    "a place of text": (tensor(offset=text("0")), "reaches beyond"),
    "a storage that is not there": (tensor(storage("1")), "lacks the numbers of storage '1'"),
    "a storage elsewhere": (tensor(storage("../../../etc/passwd")), "lacks the numbers"),
    "a storage without a name": (tensor(storage(b"N")), "lacks the numbers"),
    "a storage's name for the screen": (
        tensor(storage("\x1b[2J\r\u2028")),
        r"lacks the numbers of storage '\?\[2J\?\?'",
    ),
    "a storage's name without end": (tensor(storage(doubled(60))), "lacks the numbers"),
    "a storage's name of many digits": (
        tensor(storage(integer(1 << 40000000))),
        "lacks the numbers",
    ),
    "a shape without end": (tensor(shape=doubled(60)), "shape that no array has"),
    "steps without end": (tensor(steps=doubled(60)), "shape that no array has"),
    "a place without end": (tensor(offset=doubled(60)), "reaches beyond"),
    "a storage of more numbers": (tensor(storage(count=5)), "more or fewer numbers"),
    "a storage of fewer numbers": (tensor(storage(count=3)), "more or fewer numbers"),
    "a storage of half a number": (tensor(storage(count=b"N")), "more or fewer numbers"),
    "a storage's size without end": (tensor(storage(count=doubled(60))), "more or fewer numbers"),
    "no storage": (b"(" + text("data") + text("0") + b"tQ", "not a storage"),
    "a persistent id of text": (b"Pos.system\n", "not a storage"),
}

NOT_A_HEADER = "whose header is not NumPy's"
ARRAYS = {
    "objects": ({"descr": "'|O'"}, "Python objects"),
    "records": ({"descr": "[('a', '<f4')]"}, "array of records"),
    "records with objects": ({"descr": "[('a', '|O')]"}, "array of records"),
    "text": ({"descr": "'<U1'"}, "type '<U1', not of numbers"),
    "dates": ({"descr": "'<M8[s]'"}, "not of numbers"),
    "complex numbers": ({"descr": "'<c8'", "shape": "(2,)"}, "not of numbers"),
    "types of absurd size": ({"descr": "'V2000000000'"}, "not of numbers"),
    "arrays of arrays": ({"descr": "'(2,)f4'", "shape": "(2,)"}, "not of numbers"),
    "arrays of bytes": ({"descr": "'(2,)i1'", "shape": "(8,)"}, "not of numbers"),
    "no type": ({"descr": "'nonsense'"}, "not of numbers"),
    "a type for the screen": ({"descr": "'\x1b[2J\r'"}, r"type '\?\[2J\?', not of numbers"),
    "a type that is code": ({"descr": "__import__('os')"}, NOT_A_HEADER),
    "a negative axis": ({"shape": "(-4,)"}, NOT_A_HEADER),
    "an axis that is true": ({"shape": "(True,)"}, NOT_A_HEADER),
    "an axis of half a number": ({"shape": "(4.0,)"}, NOT_A_HEADER),
    "two numbers for an axis": ({"shape": "(4 4,)"}, "damaged"),
    "an absurd axis": ({"shape": f"({1 << 62},)"}, "shape that no array has"),
    "an axis of many digits": ({"shape": f"({'9' * 3000},)"}, "shape that no array has"),
    "a hundred axes": ({"shape": "(" + "1," * 100 + ")"}, "shape that no array has"),
    "a shape that is no tuple": ({"shape": "[4]"}, NOT_A_HEADER),
    "more numbers": ({"shape": "(3,)"}, "more or fewer numbers"),
    "fewer numbers": ({"shape": "(5,)"}, "more or fewer numbers"),
    "an order that is no order": ({"fortran": "2"}, NOT_A_HEADER),
    "a header in itself": ({"header": "{" * 3000}, NOT_A_HEADER),
    "a header that is code": ({"header": "open('harm-was-done', 'w')"}, NOT_A_HEADER),
    "a header of nothing": ({"header": " "}, NOT_A_HEADER),
    "a longer header": ({"header": npy()[10:-16].decode() + " " * 5000}, NOT_A_HEADER),
    "a later version": ({"version": (3, 0)}, NOT_A_HEADER),
    "no such version": ({"version": (9, 9)}, NOT_A_HEADER),
    "a header beyond the end": (
        {"header": "{'descr'", "version": (2, 0), "data": b""},
        NOT_A_HEADER,
    ),
}

GOOD_ARRAYS = {
    "as NumPy writes it": {},
    "big-endian": {"descr": "'>f4'", "data": np.arange(4, dtype=">f4").tobytes()},
    "version 2": {"version": (2, 0)},
    "columns first": {"shape": "(2, 2)", "fortran": "True"},
    "bfloat16": {"descr": "'|V2'", "shape": "(8,)"},
    "bfloat16 with a byte order": {"descr": "'<V2'", "shape": "(8,)"},
    "booleans": {"descr": "'|b1'", "shape": "(16,)"},
    "by Python 2": {"shape": "(2L, 2L)"},
    "one number": {"shape": "()", "data": FOUR[:4]},
    "nothing": {"shape": "(0, 3)", "data": b""},
}

HEADERS = {
    "longer than the file": (
        lambda: tensors({"weight": entry()}, length=1 << 40), "no weight file"),
    "absurdly long": (lambda: tensors({"weight": entry()}, length=(1 << 64) - 1), "no weight file"),
    "longer than itself": (lambda: tensors({"weight": entry()}, length=70), "damaged"),
    "no mapping": (lambda: tensors(b"{]"), "damaged"),
    "cut short": (lambda: tensors(b'{"weight": {"dtype"'), "damaged"),
    "not text": (lambda: tensors(b'{"\xff\xfe": {}}'), "damaged"),
    "deep": (lambda: tensors(b'{"a":' * 100000), "damaged"),
    "deep metadata": (
        lambda: tensors({"__metadata__": {"passl": "[" * 100000}, "weight": entry()}), "damaged"),
    "metadata that is no mapping": (
        lambda: tensors({"__metadata__": [], "weight": entry()}), "damaged"),
    "metadata of numbers": (
        lambda: tensors({"__metadata__": {"passl": 1}, "weight": entry()}), "damaged"),
    "a record that is no mapping": (
        lambda: tensors({"__metadata__": {"passl": "[1]"}, "weight": entry()}), "not a mapping"),
    "a record that is no JSON": (
        lambda: tensors({"__metadata__": {"passl": "os.system"}, "weight": entry()}), "damaged"),
    "overlapping tensors": (
        lambda: tensors({"a": entry(), "b": entry(shape=(2,), offsets=(8, 16))}), "damaged"),
    "a hole": (
        lambda: tensors({"a": entry(shape=(1,), offsets=(0, 4)),
                         "b": entry(shape=(1,), offsets=(12, 16))}), "damaged"),
    "beyond the end": (lambda: tensors({"a": entry(shape=(5,), offsets=(0, 20))}), "damaged"),
    "backwards": (lambda: tensors({"a": entry(offsets=(16, 0))}), "damaged"),
    "negative": (lambda: tensors({"a": entry(offsets=(-16, 0))}), "damaged"),
    "another shape": (lambda: tensors({"a": entry(shape=(3,))}), "damaged"),
    "a negative shape": (lambda: tensors({"a": entry(shape=(-2, -2))}), "damaged"),
    "an absurd shape": (lambda: tensors({"a": entry(shape=(1 << 62, 4))}), "damaged"),
    "a shape that overflows to nothing": (
        lambda: tensors({"a": entry(shape=(1 << 32, 1 << 32), offsets=(0, 0))}, b""), "damaged"),
    "a shape of text": (lambda: tensors({"a": {**entry(), "shape": "4"}}), "damaged"),
    "no type": (lambda: tensors({"a": entry("nonsense")}), "damaged"),
    "a type that NumPy lacks": (
        lambda: tensors({"a": entry("F8_E4M3", (16,))}), "F8_E4M3"),
    "no place": (lambda: tensors({"a": {"dtype": "F32", "shape": [4]}}), "damaged"),
    "a checkpoint without a model": (
        lambda: tensors({"__metadata__": {"passl": '{"kind": "training"}'},
                         "optimizer/a": entry(shape=(2,), offsets=(0, 8)),
                         "other/a": entry(shape=(2,), offsets=(8, 16))}), "without a model"),
}  # fmt: skip

ZIPS = {
    "encrypted": (lambda: zipped(stored("weight.npy", npy(), flags=0x801)), "encrypted"),
    "cut in the directory": (lambda: npz()[:-30], "damaged"),
    "without a directory": (lambda: npz()[:60], "damaged"),
    "a wrong checksum": (lambda: zipped(stored("weight.npy", npy(), crc=1)), "weight.*CRC"),
    "a wrong checksum of a storage": (
        lambda: torch_zip(items(WEIGHT), stored("archive/data/0", FOUR, crc=1)), "weight.*CRC"),
    "two names": (
        lambda: zipped(stored("weight.npy", npy(), local_name="another.npy")), "differ"),
    "larger than it is": (
        lambda: zipped(stored("weight.npy", npy(shape="(1048576,)"), packed_size=1 << 22)
                       | {"size": len(npy(data=b"", shape="(1048576,)")) + (1 << 22)}), "damaged"),
    "a stored member of two sizes": (
        lambda: zipped(stored("weight.npy", npy(shape="(9,)")) | {
            "size": len(npy(data=b"", shape="(9,)")) + 36}), "damaged"),
    "an absurd member": (
        lambda: zipped(stored("weight.npy", npy(), packed_size=0xFFFFFFF0)
                       | {"size": 0xFFFFFFF0}), "unpack to"),
    "a member outside of the file": (
        lambda: zipped(stored("weight.npy", npy(), at=1 << 30)), "damaged"),
    "an unknown method": (lambda: zipped(stored("weight.npy", npy(), method=99)), "packed"),
    "nothing of use": (lambda: zipped(stored("readme.txt", b"")), "neither torch's nor NumPy's"),
    "names with line breaks": (
        lambda: zipped(stored("a\r\n\x1b[2Jb.txt", b"")), "neither torch's nor NumPy's"),
    "names without end": (
        lambda: zipped(stored("a" * 60000, b"")), "neither torch's nor NumPy's"),
    "no program": (lambda: zipped(stored("archive/data.pkl", b"")), "damaged"),
    "packed": (lambda: zipped(deflated("weight.npy", npy())), None),
    "packed, of torch": (
        lambda: torch_zip(items(WEIGHT), deflated("archive/data/0", FOUR)), None),
    "the other byte order": (
        lambda: torch_zip(items(WEIGHT), stored("archive/data/0", FOUR),
                          stored("archive/byteorder", b"big")), None),
    "no such byte order": (
        lambda: torch_zip(items(WEIGHT), stored("archive/data/0", FOUR),
                          stored("archive/byteorder", b"middle")), "byte order"),
    "a member twice": (
        lambda: zipped(stored("weight.npy", npy()), stored("weight.npy", npy())), None),
    "members elsewhere": (
        lambda: zipped(stored("../../weight.npy", npy()), stored("/etc/weight.npy", npy())), None),
    "a program elsewhere": (
        lambda: torch_zip(items(WEIGHT), stored("../../archive/data/0", FOUR),
                          root="../../archive/"), None),
}  # fmt: skip


def modules_in_modules(count, times=1):
    """Each stands in the next one under that many names; the innermost has a weight."""
    tree = module(WEIGHT)
    for _ in range(count):
        names = [text(f"{n}") + b"h\x05" for n in range(1, times)]
        tree = (
            name("__torch__.M", "M") + b")\x81}(" + text("0") + tree + b"q\x05"
            + b"".join(names) + b"ub"
        )  # fmt: skip
    return tree


SCRIPTS = {
    "plain": (lambda: torch_script(module(WEIGHT)), None),
    "no module": (lambda: torch_script(items(WEIGHT)), "without a module"),
    "a class of another program": (
        lambda: torch_script(name("nets", "Net") + b")\x81" + items(WEIGHT) + b"b"),
        "without a module"),
    "no constants": (
        lambda: torch_zip(module(WEIGHT)), "objects of other programs.*__torch__"),
    "no tensors": (lambda: torch_script(module((text("a"), b"K\1"))), "as numbered constants"),
    "no state": (
        lambda: torch_script(name("__torch__.M", "M") + b")\x81"), "as numbered constants"),
    "a state that is a list": (
        lambda: torch_script(name("__torch__.M", "M") + b")\x81](" + tensor() + b"eb"),
        "as numbered constants"),
    "a module in itself": (
        lambda: torch_script(
            name("__torch__.M", "M") + b")\x81q\x05}(" + text("a") + b"h\x05" + WEIGHT[0]
            + WEIGHT[1] + b"ub"), "stands in itself"),
    "modules as deep as no network": (
        lambda: torch_script(modules_in_modules(64)), "stands in itself"),
    "modules not as deep": (lambda: torch_script(modules_in_modules(63)), None),
    "modules without end": (
        lambda: torch_script(modules_in_modules(60, times=2)), "too large"),
    "modules, often": (
        lambda: torch_script(module(
            (text("a"), kept(name("__torch__.M", "M")) + kept(b"}", 1)
             + many(b"h\x00)\x81h\x01b", MANY)))), "too large"),
    "one module under long names": (
        lambda: torch_script(module(
            (text("a"), module(WEIGHT) + b"q\x05"),
            *((text("x" * 4000 + f"{n}"), b"h\x05") for n in range(9000)))), "too large"),
    "a long name": (
        lambda: torch_script(module((text("x" * 3000), module(WEIGHT)))), "name of a tensor"),
    "a tensor beyond its storage": (
        lambda: torch_script(module((text("weight"), tensor(shape=(5,))))), "reaches beyond"),
    "a storage that is not there": (
        lambda: torch_script(module(WEIGHT), stored("archive/data/1", FOUR)), "lacks the numbers"),
    "a checksum": (
        lambda: torch_script(module(WEIGHT), stored("archive/data/0", FOUR, crc=1)), "CRC"),
    "a file that it carries": (
        lambda: zipped(stored("archive/extra/other/data.pkl", b"nonsense"),
                       stored("archive/data.pkl", PROTOCOL_2 + module(WEIGHT) + b"."),
                       stored("archive/constants.pkl", b""), stored("archive/data/0", FOUR)), None),
}  # fmt: skip

BAD_NAMES = {"line break": "a\nb", "terminal": "a\x1b[2Jb", "half a character": "a\ud800",
             "long": "x" * 3000, "another line break": "a\u2028b"}  # fmt: skip
NAMES = {
    f"{where}, {label}": (lambda bad=bad, make=make: make(bad), "name")
    for label, bad in BAD_NAMES.items()
    for where, make in {
        "torch": lambda bad: torch_zip(items((text(bad), tensor()))),
        "torch's group": lambda bad: torch_zip(items((text(bad), items(WEIGHT)))),
        "torch's object": lambda bad: torch_zip(
            items((text("a"), text(bad) + text("b") + b"\x93)R"))
        ),
        "pdparams": lambda bad: pdparams(items((text(bad), ARRAY))),
        "npz": lambda bad: zipped(stored(bad + ".npy", npy())),
        "safetensors": lambda bad: tensors({bad: entry()}),
    }.items()
    # JSON and zip files have no half characters.
    if not (label == "half a character" and where in ("npz", "safetensors"))
}


# ---------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    warm, empty = tmp_path_factory.mktemp("warm"), tmp_path_factory.mktemp("empty")
    np.savez(warm / "weights.npz", weight=np.zeros(3))
    (warm / "weights.safetensors").write_bytes(tensors({"weight": entry()}))
    (warm / "weights.pdparams").write_bytes(pdparams(items((text("weight"), ARRAY))))
    process = WatchedReader(empty, [*warm.iterdir(), *sorted(FILES.glob("*.pt*"))])
    yield process
    process.close()


@pytest.fixture
def outcome(reader, tmp_path):
    """Reads content as a file; whatever it is, nothing but a clear error may come of it."""

    def read(content, said=None):
        path = tmp_path / "weights"
        path.write_bytes(content)
        result = reader.read(path)
        path.unlink()
        assert problem(str(path), result) is None, problem(str(path), result)
        assert not list(reader.folder.iterdir()) and not list(tmp_path.iterdir())
        assert result["growth"] < MEMORY
        if said is None:
            assert result["error"] is None and result["shapes"]
        else:
            assert re.search(said, str(result["error"])), result["error"]
        return result

    return read


def cases(table):
    return pytest.mark.parametrize("make, said", table.values(), ids=table)


@pytest.mark.smoke
@pytest.mark.parametrize("how", RUNNING)
@pytest.mark.parametrize("container", CONTAINERS)
def test_nothing_is_run(container, how, outcome):
    content = CONTAINERS[container](RUNNING[how])
    if how in UNREADABLE:
        outcome(content, UNREADABLE[how])
    elif "array" in how:  # NumPy's function makes an empty array, whatever its arguments are
        assert list(outcome(content)["shapes"]) == [":weight"]
    else:
        result = outcome(content)
        assert list(result["shapes"]) == [":weight"]
        if how in NAMED:
            assert result["refused"] == {"bias": "os.system"}


@pytest.mark.parametrize("make", ENDLESS.values(), ids=ENDLESS)
def test_programs_without_end(make, outcome):
    outcome(torch_zip(items(WEIGHT, (text("extra"), make()))), "too large")


@pytest.mark.parametrize("make", HARMLESS.values(), ids=HARMLESS)
def test_harmless_programs(make, outcome):
    result = outcome(torch_zip(items((text("extra"), make()), WEIGHT)))
    assert result["shapes"] == {":weight": [4]}


@pytest.mark.parametrize("program, said", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_programs(program, said, outcome):
    outcome(torch_zip(items(WEIGHT, (text("extra"), program))), said)


@pytest.mark.parametrize(
    "make, said", SCRIPTS.values(), ids=[name.replace(" ", "-") for name in SCRIPTS]
)
def test_torch_script(make, said, outcome):
    outcome(make(), said)


def test_what_a_module_is_given_is_never_set_on_anything(outcome):
    """Not its class, nor functions that Python would call of themselves."""
    system = name("os", "system")
    given = [(text(f"__{what}__"), system) for what in ("class", "reduce__", "setstate", "del")]
    given += [(text("attributes"), system), (text("name"), system)]
    again = items((text("__class__"), system)) + b"b"
    inner = module(WEIGHT, *given)
    result = outcome(torch_script(module((text("a"), inner), *given)))
    assert result["shapes"] == {":a.weight": [4]}
    assert set(result["refused"].values()) == {"os.system"}
    # Attributes have names.
    result = outcome(torch_script(module((b"K\1", tensor()), (b"N", tensor()), WEIGHT)))
    assert result["shapes"] == {":weight": [4]}
    # A second state takes the place of the first, and is no more than that.
    result = outcome(torch_script(module((text("a"), inner + again), WEIGHT)))
    assert result["shapes"] == {":weight": [4]}
    assert result["refused"] == {"a.__class__": "os.system"}


@pytest.mark.parametrize("value, said", TENSORS.values(), ids=TENSORS)
def test_tensors_of_torch(value, said, outcome):
    outcome(torch_zip(items((text("weight"), value))), said)


@cases(LEGACY)
def test_torch_before_1_6(make, said, outcome):
    outcome(make(), said)


@cases(BOMBS)
def test_bombs(make, said, outcome):
    outcome(make(), said)


@cases(ZIPS)
def test_zip_files(make, said, outcome):
    outcome(make(), said)


@pytest.mark.parametrize("changes, said", ARRAYS.values(), ids=ARRAYS)
def test_arrays_of_numpy(changes, said, outcome):
    outcome(npz(**changes), said)


@pytest.mark.parametrize("changes", GOOD_ARRAYS.values(), ids=GOOD_ARRAYS)
def test_good_arrays_of_numpy(changes, outcome):
    outcome(npz(**changes))


@cases(HEADERS)
def test_safetensors(make, said, outcome):
    outcome(make(), said)


@cases(NAMES)
def test_names(make, said, outcome):
    outcome(make(), said)


@pytest.mark.smoke
@pytest.mark.parametrize("path", sorted(FILES.glob("*.pt*")), ids=lambda path: path.stem)
def test_files_cut_short(path, outcome):
    content = path.read_bytes()
    assert outcome(content)["shapes"]
    for end in [*range(0, 64, 7), *range(64, len(content), len(content) // 40), len(content) - 1]:
        outcome(content[:end], "damaged|no weight file|is empty")
