"""Files that would run code, read or write files, or crash another reader: none does here, whatever it asks for."""

import copyreg
import io
import pickle
import struct
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.weights.file import read_file

#: Python's audit events that reading a checkpoint has no reason for.
FORBIDDEN = ("pickle.find_class", "exec", "compile", "os.", "subprocess.", "marshal.", "ctypes.", "import", "shutil.")

_events: list[str] | None = None


def _watch(event: str, _: tuple[Any, ...]) -> None:
    if _events is not None and event.startswith(FORBIDDEN):
        _events.append(event)


sys.addaudithook(_watch)


def string(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def call(name: str, arguments: bytes) -> bytes:
    """Opcodes that call a function with the values that other opcodes push."""
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode() + b"(" + arguments + b"tR"


def in_dictionary(opcodes: bytes) -> bytes:
    """A pickle of a dictionary, under whose key 'meta' lies what the opcodes make."""
    return b"\x80\x02}" + string("meta") + opcodes + b"s."


def archive(data: bytes, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        target.writestr("a/data.pkl", data)
        for name, content in members.items():
            target.writestr(f"a/data/{name}", content)
    return buffer.getvalue()


TOUCH = string("touch /tmp/dense_adapters_hostile_file_ran")
STORAGE = b"((" + string("storage") + b"ctorch\nFloatStorage\n" + string("0") + string("cpu") + b"K\x04tQ"


def tensor(size: bytes, stride: bytes, offset: bytes = b"K\x00") -> bytes:
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE[1:] + offset + size + stride + b"\x89)tR"


def getattr_of(what: bytes, name: str) -> bytes:
    return call("builtins.getattr", what + string(name))


IMPORT_OS = call("builtins.__import__", string("os"))
EVIL = b"cposix\nsystem\n(" + TOUCH + b"tR."

#: Opcodes that run a command in a reader that trusts them. Here they are refused, as what no checkpoint holds.
REFUSED = {
    "os.system": call("os.system", TOUCH),
    "posix.system": call("posix.system", TOUCH),
    "by the stack": string("posix") + string("system") + b"\x93(" + TOUCH + b"tR",
    "eval": call("builtins.eval", string("__import__('os').system('id')")),
    "eval of Python 2": call("__builtin__.eval", string("1")),
    "exec": call("builtins.exec", string("import os")),
    "import": IMPORT_OS,
    "chain": getattr_of(IMPORT_OS, "system") + b"(" + TOUCH + b"tR",
    "INST": b"(" + TOUCH + b"iposix\nsystem\n",
    "OBJ": b"(cposix\nsystem\n" + TOUCH + b"o",
    "NEWOBJ": b"csubprocess\nPopen\n(" + TOUCH + b"t\x81",
    "NEWOBJ_EX": b"csubprocess\nPopen\n)}" + string("args") + TOUCH + b"s\x92",
    "torch.hub": call("torch.hub.load", string("a/b") + string("c")),
    "torch.load": call("torch.load", string("other.pth")),
    "torch.jit": call("torch.jit.load", string("other.pt")),
    "pickle in a pickle": call("pickle.loads", b"U" + bytes([len(EVIL)]) + EVIL),
    "tensor by a function": call(
        "torch._tensor._rebuild_from_type_v2", b"cposix\nsystem\nctorch\nTensor\n(" + TOUCH + b"t}"
    ),
    "list of calls": b"]" + call("runpy.run_path", TOUCH) + b"a",
    "inside arguments": call("functools.partial", call("os.popen", TOUCH)),
}

#: Opcodes that are read past: what they would call is not even looked up.
READ_PAST = {
    "partial": call("functools.partial", b"cposix\nsystem\n" + TOUCH) + b")R",
    "map": call("builtins.list", call("builtins.map", b"cposix\nsystem\n(" + TOUCH + b"t")),
    "getattr chain": getattr_of(getattr_of(b"ctorch\nTensor\n", "__class__"), "mro") + b")R",
    "methodcaller": call("operator.methodcaller", string("system") + TOUCH) + b"(cos\npath\ntR",
    "codecs": call("codecs.decode", string("aW1wb3J0IG9z") + string("base64")),
    "reduce": call("functools.reduce", b"cbuiltins\ngetattr\n(" + string("os") + string("system") + b"t"),
    "unknown module": call("no_such_module.Thing", TOUCH) + b"}" + string("a") + b"K\x01sb",
    "state of an object": b"cargparse\nNamespace\n)\x81}" + string("__class__") + b"cposix\nsystem\nsb",
    "odd keys": b"}" + call("no_such.Key", b"") + b"K\x01s",
    "attributes of a dictionary": call("collections.OrderedDict", b"")
    + b"}"
    + string("__reduce__")
    + b"cos\nsystem\nsb",
    "wrapper of a class": call("torch._utils._rebuild_wrapper_subclass", b"cposix\nsystem\nNNNNNNN"),
}

#: Opcodes that are no checkpoint.
DAMAGED = {
    "attributes of a function": b"ctorch._utils\n_rebuild_tensor_v2\n}" + string("__code__") + b"Nsb",
    "slots of a class": b"ctorch\nTensor\n(N}" + string("__add__") + b"cos\nsystem\nstb",
    "call of a string": TOUCH + b"(tR",
    "call with a list": b"cargparse\nNamespace\n]R",
    "encoding": call("_codecs.encode", string("x") + string("rot13")),
    "extension": b"\x82\x01",
    "buffer from outside": b"\x97",
    "path as a storage": b"("
    + string("storage")
    + b"ctorch\nFloatStorage\n"
    + string("../../etc/passwd")
    + b"NK\x04tQ",
    "module with source": b"(" + string("module") + b"cos\nsystem\n" + TOUCH + b"tQ",
    "persistent string": TOUCH + b"Q",
    "kind of storage": b"(" + string("storage") + b"cposix\nsystem\n" + string("0") + b"NK\x04tQ",
    "negative storage": b"(" + string("storage") + b"ctorch\nFloatStorage\n" + string("0") + b"NJ\xff\xff\xff\xfftQ",
    "huge storage": b"(" + string("storage") + b"ctorch\nFloatStorage\n" + string("0") + b"NJ\xff\xff\xff\x7ftQ",
    "tensor beyond its storage": tensor(b"(K\x05t", b"(K\x01t"),
    "offset beyond its storage": tensor(b"(K\x01t", b"(K\x01t", b"K\x04"),
    "strides beyond its storage": tensor(b"(K\x02t", b"(K\x04t"),
    "negative stride": tensor(b"(K\x02t", b"(J\xff\xff\xff\xfft"),
    "negative size": tensor(b"(J\xff\xff\xff\xfft", b"(K\x01t"),
    "huge sizes": tensor(b"(J\xff\xff\xff\x7fJ\xff\xff\xff\x7fJ\xff\xff\xff\x7ft", b"(K\x01K\x01K\x01t"),
    "ranks that differ": tensor(b"(K\x02t", b"(K\x01K\x01t"),
    "tensor without a storage": call("torch._utils._rebuild_tensor_v2", TOUCH + b"K\x00))\x89)"),
    "empty stack": b"aaaa",
    "memo": b"h\x07",
}


@pytest.fixture(autouse=True)
def extension() -> Iterator[None]:
    """Register a function under a number, by which a pickle may ask for it."""
    "name".encode("cp437")  # Python's zipfile imports this encoding when it first needs it.
    copyreg.add_extension("posix", "system", 1)
    yield
    copyreg.remove_extension("posix", "system", 1)


@contextmanager
def watched() -> Iterator[list[str]]:
    """Record what is imported, looked up, compiled or started."""
    global _events
    _events = found = []
    try:
        yield found
    finally:
        _events = None


def read(path: Path, opcodes: bytes, kind: str) -> Any:
    """Write the opcodes as a file of one kind, and read it under watch."""
    data = in_dictionary(opcodes)
    if kind == "zip":
        data = archive(data, **{"0": bytes(16)})
    elif kind == "old":
        machine = {"little_endian": True}
        data = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, machine)) + data
        data += pickle.dumps(["0"], 2) + struct.pack("<q", 4) + bytes(16)
    path.write_bytes(data)
    with watched() as found:
        try:
            return read_file(path)
        finally:
            assert not found
            assert not Path("/tmp/dense_adapters_hostile_file_ran").exists()


def test_the_watch_sees(tmp_path: Path) -> None:
    (tmp_path / "evil.pkl").write_bytes(b"\x80\x02cbuiltins\neval\n(" + string("1") + b"tR.")
    with watched() as found:
        pickle.loads((tmp_path / "evil.pkl").read_bytes())
    assert "pickle.find_class" in found
    assert "exec" in found


@pytest.mark.parametrize("kind", ["zip", "old", "pickle"])
@pytest.mark.parametrize("name", REFUSED)
def test_calls_of_programs_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    with pytest.raises(ValueError, match="is refused, and nothing in it was run: it holds code or objects"):
        read(tmp_path / "evil.pth", REFUSED[name], kind)


@pytest.mark.parametrize("kind", ["zip", "pickle"])
@pytest.mark.parametrize("name", [name for name in READ_PAST if name != "wrapper of a class"])
def test_other_calls_are_read_past(tmp_path: Path, name: str, kind: str) -> None:
    contents = read(tmp_path / "odd.pth", READ_PAST[name], kind)
    assert not callable(contents["meta"])


@pytest.mark.parametrize("kind", ["zip", "old", "pickle"])
@pytest.mark.parametrize("name", DAMAGED)
def test_tricks_with_tensors_and_storages_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    with pytest.raises(ValueError, match=r"odd\.pth .*(damaged|is no checkpoint)") as caught:
        read(tmp_path / "odd.pth", DAMAGED[name], kind)
    assert "\n" not in str(caught.value)


def test_a_storage_in_a_pickle_of_its_own_is_read_as_inertly(tmp_path: Path) -> None:
    opcodes = call("torch.storage._load_from_bytes", b"T" + struct.pack("<I", len(EVIL)) + EVIL)
    with pytest.raises(ValueError, match="damaged"):
        read(tmp_path / "nested.pth", opcodes, "pickle")
    inner = b"\x80\x03" + EVIL
    opcodes = b"\x80\x03" + call("torch.storage._load_from_bytes", b"B" + struct.pack("<I", len(inner)) + inner)
    with pytest.raises(ValueError, match=r"is refused.*posix\.system"):
        read(tmp_path / "nested.pth", opcodes, "pickle")


def test_dictionaries_that_contain_themselves_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="contains itself"):
        read(tmp_path / "loop.pth", b"}q\x01" + string("a") + b"h\x01s", "zip")
    doubled = b"}q\x00" + b"".join(
        b"}q"
        + bytes([level])
        + string("a")
        + b"h"
        + bytes([level - 1])
        + b"s"
        + string("b")
        + b"h"
        + bytes([level - 1])
        + b"s"
        for level in range(1, 40)
    )
    with pytest.raises(ValueError, match="contains itself, or more dictionaries"):
        read(tmp_path / "bomb.pth", doubled, "zip")
