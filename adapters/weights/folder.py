"""Folders that are checkpoints: of Hugging Face, DeepSpeed, ``torch.distributed.checkpoint``, or around one file."""

import json
import struct
import zipfile
import zlib
from pathlib import Path

from adapters.weights.contents import Contents
from adapters.weights.distributed_folder import METADATA, read_distributed
from adapters.weights.file import first_line, read_file
from adapters.weights.pickle_records import InertPickleError
from adapters.weights.report import some

#: Names of the weights in a folder of Hugging Face's, the one to prefer first; ``.index.json`` lists shards.
HUB_NAMES = tuple(
    f"{name}{ending}"
    for ending in ("", ".index.json")
    for name in (
        "model.safetensors",
        "pytorch_model.bin",
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.safetensors",
        "open_clip_pytorch_model.bin",
    )
)

#: Endings of the names of checkpoints, and beginnings of the names of what training programs save beside them.
_ENDINGS = (".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".tar", ".pkl")
_BESIDE = (
    "optimizer",
    "scheduler",
    "random_states",
    "rng_state",
    "scaler",
    "training_args",
    "sampler",
    "dl_state_dict",
)

_STATES = "*_model_states.pt"


def read_folder(folder: Path) -> Contents:
    """Return the contents of the one checkpoint that a folder holds, and note which file that is.

    Raises:
        ValueError: the folder holds no checkpoint or several, or parts of it are missing.
    """
    if (folder / METADATA).is_file():
        try:
            return read_distributed(folder)
        except (
            InertPickleError,
            zipfile.BadZipFile,
            zlib.error,
            struct.error,
            OSError,
            EOFError,
            RuntimeError,
        ) as error:
            raise ValueError(
                f"{folder} cannot be read as a folder of torch.distributed.checkpoint: {first_line(error)}; copy it "
                "again, or write one file with `python -m torch.distributed.checkpoint.format_utils dcp_to_torch`."
            ) from error
    if states := _deepspeed_states(folder):
        return _read_deepspeed(states)
    files = sorted(
        path.name
        for path in folder.iterdir()
        if path.is_file() and path.name.endswith(_ENDINGS) and not path.name.startswith(_BESIDE)
    )
    known = [name for name in HUB_NAMES if (folder / name).is_file()]
    if known:
        contents = read_shards(folder / known[0]) if known[0].endswith(".json") else read_file(folder / known[0])
        contents.notes.insert(0, f"its {known[0]}" + (f", not {some(known[1:])}" if known[1:] else ""))
        return contents
    if len(files) == 1:
        contents = read_file(folder / files[0])
        contents.notes.insert(0, f"its {files[0]}")
        return contents
    if files:
        raise ValueError(f"{folder} is a folder with {len(files)} checkpoints; name one of them: {some(files, 8)}.")
    inner = sorted(path.name for path in folder.iterdir() if path.is_dir())
    raise ValueError(
        f"{folder} is a folder without a checkpoint ({', '.join(_ENDINGS)}, or {METADATA}); "
        + (f"it has the folders {some(inner, 8)}." if inner else "name another one.")
    )


def shards_of(index: Path) -> list[str]:
    """Return the names of the files that an index of Hugging Face's lists.

    Raises:
        ValueError: it is no such index.
    """
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is no index of shards, {{'weight_map': {{tensor: file}}}}.") from error
    if not shards or not all(isinstance(shard, str) and Path(shard).name == shard for shard in shards):
        raise ValueError(f"{index} lists files outside of its folder, or none.")
    return shards


def read_shards(index: Path) -> Contents:
    """Return the tensors of all the files that an index lists.

    Raises:
        ValueError: a file or a tensor is missing.
    """
    shards = shards_of(index)
    if missing := [shard for shard in shards if not (index.parent / shard).is_file()]:
        raise ValueError(
            f"{index.parent} lacks {len(missing)} of the {len(shards)} files that {index.name} lists: "
            f"{some(missing)}; download or copy them, too."
        )
    contents = Contents({})
    for shard in shards:
        part = read_file(index.parent / shard)
        contents.update(part)
        contents.notes += part.notes
    names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    if absent := [name for name in names if name not in contents]:
        raise ValueError(
            f"{index.parent} lacks {len(absent)} of the tensors that {index.name} lists: {some(absent)}; its files "
            "are of another version; download them again."
        )
    return contents


def _deepspeed_states(folder: Path) -> list[Path]:
    """Return DeepSpeed's files of a model, which lie in the folder or in one that ``latest`` names."""
    if own := sorted(folder.glob(_STATES)):
        return own
    below = sorted({path.parent for path in folder.glob(f"*/{_STATES}")})
    if not below:
        return []
    latest = folder / "latest"
    tag = latest.read_text(encoding="utf-8", errors="replace").strip() if latest.is_file() else ""
    chosen = [path for path in below if path.name == tag] if tag else below
    if len(chosen) != 1:
        named = (
            f"its file latest names {tag!r}, which is not there" if tag else "no file named latest says which is meant"
        )
        raise ValueError(f"{folder} holds {some([path.name for path in below], 8)}, and {named}; name one of them.")
    return sorted(chosen[0].glob(_STATES))


def _read_deepspeed(states: list[Path]) -> Contents:
    """Read the file in which DeepSpeed keeps a model that is not cut into pieces."""
    folder = states[0].parent
    remedy = f"write one file with DeepSpeed's script in {folder.parent}: python zero_to_fp32.py . weights"
    if states[0].name.startswith(("zero_pp_rank_", "bf16_zero_pp_rank_")):
        raise ValueError(
            f"{folder} is of DeepSpeed's ZeRO stage 3, where each process keeps a piece of each tensor; {remedy}."
        )
    if len(states) > 1:
        raise ValueError(
            f"{folder} holds a model that DeepSpeed has cut into {len(states)} files, by layers or tensors; {remedy}."
        )
    contents = read_file(states[0])
    module = contents.get("module")
    if not isinstance(module, dict) or not module:
        raise ValueError(f"{states[0]} holds no 'module' with the whole model; {remedy}.")
    contents.notes.insert(0, f"its {states[0].name}")
    if any(folder.glob("*_optim_states.pt")) and any(getattr(tensor, "itemsize", 4) == 2 for tensor in module.values()):
        contents.notes.insert(1, "16-bit copies of the weights that zero_to_fp32.py would write")
    return contents
