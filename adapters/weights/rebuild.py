"""The builders of what a checkpoint's pickle may hold: tensors on the CPU, and plain containers.

Each is called with whatever a file gives, and takes only plain values. A tensor whose numbers do not lie in one storage
(sparse, quantised, sharded) has no builder, and stays a record.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adapters.weights.inert_pickle import Builders, plain_key
from adapters.weights.pickle_records import AttackError, Global, InertPickleError, Record

#: torch's classes of storages by the beginning of their names, and the type of the numbers in them.
_STORAGE_TYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
    "QInt32": torch.qint32,
    "QInt8": torch.qint8,
    "QUInt8": torch.quint8,
    "Untyped": torch.uint8,
}


@dataclass(frozen=True, eq=False)
class Storage:
    """The numbers of one or more tensors.

    Attributes:
        data: their bytes.
        dtype: their type.
    """

    data: torch.UntypedStorage
    dtype: torch.dtype


def storage_type(kind: Any) -> torch.dtype:
    """Return the type of the numbers in a storage whose class a pickle names.

    Raises:
        InertPickleError: torch has no such class.
    """
    name = kind.path.rpartition(".")[2] if isinstance(kind, Global) else ""
    if not name.endswith("Storage") or name.removesuffix("Storage") not in _STORAGE_TYPES:
        raise InertPickleError(f"it holds a storage of an unknown kind, {kind!r}")
    return _STORAGE_TYPES[name.removesuffix("Storage")]


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype | None = None) -> Tensor:
    if not isinstance(storage, Storage):
        raise InertPickleError("it holds a tensor without numbers")
    numbers = [offset, *size, *stride]
    if len(size) != len(stride) or not all(type(number) is int and number >= 0 for number in numbers):
        raise InertPickleError("it holds a tensor of an impossible shape")
    # set_ refuses what does not lie within the storage.
    return torch.empty(0, dtype=dtype or storage.dtype).set_(storage.data, offset, tuple(size), tuple(stride))


def _tensor_v2(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, metadata: Any = None
) -> Tensor | Record:
    if metadata:  # Its numbers are to be read as conjugates or negatives.
        return Record("torch._utils._rebuild_tensor_v2", (storage, metadata))
    return _tensor(storage, offset, size, stride)


def _tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, metadata: Any = None
) -> Tensor | Record:
    if metadata:
        return Record("torch._utils._rebuild_tensor_v3", (storage, metadata))
    return _tensor(storage, offset, size, stride, _dtype(dtype))


def _meta_tensor(dtype: Any, size: Any, stride: Any, _grad: Any) -> Tensor:
    return torch.empty_strided(tuple(size), tuple(stride), dtype=_dtype(dtype), device="meta")


def _from_type(function: Any, kind: Any, arguments: Any, _state: Any) -> Any:
    """Build a tensor of a subclass of ``torch.Tensor`` as the plain one that holds its numbers, where one does."""
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise InertPickleError("it holds a tensor that is built by no function")
    if function.is_attack:
        raise AttackError(function.path)
    if function.path in _TENSORS and function.path != _FROM_TYPE:
        return _TENSORS[function.path](*arguments)
    return Record(function.path, (kind, *arguments))


def _device_tensor(data: Any, dtype: Any, _device: Any, _grad: Any) -> Any:
    same = isinstance(data, Tensor) and data.dtype == _dtype(dtype)
    return data if same else Record("torch._utils._rebuild_device_tensor_from_cpu_tensor", (data, dtype))


def _dtype(named: Any) -> torch.dtype:
    found = torch.__dict__.get(named.path.removeprefix("torch.")) if isinstance(named, Global) else None
    if not isinstance(found, torch.dtype):
        raise InertPickleError(f"it holds a tensor of an unknown type, {named!r}")
    return found


def _parameter(data: Any = None, *_: Any) -> Any:
    return data if isinstance(data, Tensor | Record) else Record("torch.nn.parameter.Parameter", (data,))


def _reconstructed(kind: Any, _base: Any = None, state: Any = None) -> Record:
    """Keep the name of an object's class, where the protocols 0 and 1 name only a function that makes one."""
    path = kind.path if isinstance(kind, Global) else "object"
    return Record(path, (state,), entries=dict(state) if isinstance(state, dict) else {})


def _ordered_dict(pairs: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict(pairs if isinstance(pairs, dict) else ((plain_key(key), value) for key, value in pairs))


def _set(values: Any = ()) -> set[Any]:
    return {plain_key(value) for value in values}


def _bytes(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise InertPickleError(f"it holds bytes in an unusual encoding, {encoding!r}")
    return text.encode("latin1")


_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"

_TENSORS: Builders = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _device_tensor,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.nn.Parameter": _parameter,
    _FROM_TYPE: _from_type,
}

#: All builders, for :func:`adapters.weights.inert_pickle.read_pickle`.
BUILDERS: Builders = {
    **_TENSORS,
    "collections.OrderedDict": _ordered_dict,
    "copyreg._reconstructor": _reconstructed,
    "builtins.set": _set,
    "builtins.frozenset": _set,
    "torch.Size": lambda size=(): tuple(size),
    "_codecs.encode": _bytes,
}

_DEVICE = ("a tensor of another device", "tensor.cpu()")
_VIEW = ("a conjugate or negative view", "tensor.resolve_conj().resolve_neg()")

#: Kinds of tensors that have no builder, by the function that torch builds them with: title and remedy.
UNREADABLE = {
    "torch._utils._rebuild_sparse_tensor": ("a sparse tensor", "tensor.to_dense()"),
    "torch._utils._rebuild_qtensor": ("a quantised tensor", "tensor.dequantize()"),
    "torch._utils._rebuild_nested_tensor": ("a nested tensor", "tensor.to_padded_tensor(0.0)"),
    "torch._utils._rebuild_wrapper_subclass": ("a shard or another wrapped tensor", "tensor.full_tensor()"),
    "torch._utils._rebuild_tensor_v2": _VIEW,
    "torch._utils._rebuild_tensor_v3": _VIEW,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _DEVICE,
    "torch._utils._rebuild_device_tensor_from_numpy": _DEVICE,
    "torch._utils._rebuild_xla_tensor": _DEVICE,
}
