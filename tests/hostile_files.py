"""Weight files put together by hand, field by field: what they say of themselves may be untrue."""

import json
import pickle
import struct
import zlib

import numpy as np
from hostile_pickles import PROTOCOL_2, integer, items, name, text

# ---------------------------------------------------------------- zip files, field by field


def stored(filename, data, **changes):
    return {"filename": filename, "packed": data, "size": len(data), **changes}


def deflated(filename, data, **changes):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(data) + packer.flush()
    return stored(filename, packed, size=len(data), method=8, crc=zlib.crc32(data), **changes)


def zeros(filename, megabytes, before=b"", **changes):
    """Packs that many MiB of zeros, quickly: one block of them, repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(before) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = first + block * megabytes + packer.flush()
    size = len(before) + (megabytes << 20)
    return {"filename": filename, "packed": packed, "size": size, "method": 8, **changes}


def zipped(*members, entries=None):
    """A zip file that says of each member what the member says of itself."""
    parts, directory, at = [], [], 0
    for member in members:
        encoded = member["filename"].encode()
        common = struct.pack(
            "<HHHHHIIIHH",
            20,
            member.get("flags", 0x800),
            member.get("method", 0),
            0,
            33,
            member.get("crc", zlib.crc32(member["packed"])),
            member.get("packed_size", len(member["packed"])),
            member["size"],
            len(encoded),
            0,
        )
        inside = member.get("local_name", member["filename"]).encode()
        parts.append(b"PK\3\4" + common + inside + member["packed"])
        directory.append(
            b"PK\1\2" + struct.pack("<H", 20) + common
            + struct.pack("<HHHII", 0, 0, 0, 0, member.get("at", at)) + encoded
        )  # fmt: skip
        at += len(parts[-1])
    entries = b"".join(directory) if entries is None else entries
    end = struct.pack(
        "<4sHHHHIIH", b"PK\5\6", 0, 0, len(members), len(members), len(entries), at, 0
    )
    return b"".join(parts) + entries + end


# ---------------------------------------------------------------- the formats, by hand


def storage(key="0", count=4, kind="FloatStorage", *more):
    """A torch storage, as a persistent id."""
    key = text(key) if isinstance(key, str) else key
    count = integer(count) if isinstance(count, int) else count
    return (
        b"(" + text("storage") + name("torch", kind) + key + text("cpu") + count
        + b"".join(more) + b"tQ"
    )  # fmt: skip


def numbers(*values):
    return b"(" + b"".join(v if isinstance(v, bytes) else integer(v) for v in values) + b"t"


def tensor(source=None, offset=0, shape=(4,), steps=(1,)):
    source = storage() if source is None else source
    return (
        name("torch._utils", "_rebuild_tensor_v2") + b"(" + source
        + (offset if isinstance(offset, bytes) else integer(offset))
        + (shape if isinstance(shape, bytes) else numbers(*shape))
        + (steps if isinstance(steps, bytes) else numbers(*steps))
        + b"\x89}tR"
    )  # fmt: skip


FOUR = np.arange(4, dtype="<f4").tobytes()
WEIGHT = (text("weight"), tensor())


def torch_zip(tree, *members, root="archive/"):
    program = PROTOCOL_2 + tree + b"."
    members = members or (stored(root + "data/0", FOUR),)
    return zipped(stored(root + "data.pkl", program), *members)


def module(*pairs, kind="Net"):
    """An object of a TorchScript program, with these attributes."""
    return name(f"__torch__.nets.___torch_mangle_7.{kind}", "M") + b")\x81" + items(*pairs) + b"b"


def torch_script(tree, *members, root="archive/"):
    """A file of ``torch.jit.save``; its code and its constants would do harm if they were run."""
    harm = name("os", "system") + text("touch harm-was-done") + b"\x85R"
    program = b"import os\nos.system('touch harm-was-done')\n"
    members = members or (stored(root + "data/0", FOUR),)
    code = stored(root + "code/__torch__/nets.py", program)
    constants = stored(root + "constants.pkl", PROTOCOL_2 + harm + b".")
    return torch_zip(tree, code, constants, *members, root=root)


def torch_script_of(arrays):
    """A file of ``torch.jit.save`` whose modules have these arrays, by their dotted names."""
    kinds = {"f2": "HalfStorage", "f4": "FloatStorage", "i8": "LongStorage"}
    tree, members = {}, []
    for number, (path, array) in enumerate(arrays.items()):
        *outer, last = path.split(".")
        node = tree
        for part in outer:
            node = node.setdefault(part, {})
        source = storage(str(number), array.size, kinds[array.dtype.str[1:]])
        steps = [step // array.itemsize for step in np.zeros(array.shape, array.dtype).strides]
        node[last] = tensor(source, 0, array.shape, steps)
        members.append(stored(f"archive/data/{number}", array.tobytes()))

    def written(node):
        pairs = [(text(key), written(v) if isinstance(v, dict) else v) for key, v in node.items()]
        return module((text("training"), b"\x89"), *pairs)

    return torch_script(written(tree), *members)


def torch_legacy(tree, keys=None, count=4, data=FOUR, system=None):
    begin = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    system = pickle.dumps({"little_endian": True}, 2) if system is None else system
    keys = pickle.dumps(["0"], 2) if keys is None else keys
    return begin + system + PROTOCOL_2 + tree + b"." + keys + struct.pack("<q", count) + data


def pdparams(tree):
    return PROTOCOL_2 + tree + b"."


def instructions(value):
    """What pickles a value, without the protocol and the end."""
    return pickle.dumps(value, 2)[2:-1]


ARRAY = instructions(np.arange(4, dtype="f4"))


def npy(descr="'<f4'", shape="(4,)", fortran="False", data=FOUR, header=None, version=(1, 0)):
    header = header or f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"
    header = header.encode("latin-1")
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header + data


def npz(**changes):
    return zipped(stored("weight.npy", npy(**changes)))


def tensors(header, data=FOUR, length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(dtype="F32", shape=(4,), offsets=(0, 16)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}
