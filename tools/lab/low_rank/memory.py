"""Peak memory of training steps with full fine-tuning and with low-rank tuning, each in a process of its own."""

import multiprocessing
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import torch

from adapters import create_adapter
from lab.benchmark.measure import peak_resident_bytes

MODEL, SIZE, BATCH, STEPS = "vit_base_patch16_224", (512, 512), 2, 2
#: The sides by name: the option ``peft``.
SIDES: Mapping[str, dict[str, Any] | None] = {
    "full fine-tuning": None,
    "LoRA, r=8, attention": dict(type="LoRA", r=8, targets="attention"),
    "LoRA, r=8, all": dict(type="LoRA", r=8, targets="all"),
    "DoRA, r=8, attention": dict(type="DoRA", r=8, targets="attention"),
}


def measure_side(peft: Mapping[str, Any] | None, threads: int) -> int:
    """Return the bytes that a process takes more at its peak while it builds a model and trains it for two steps.

    Weights, gradients, AdamW's moments and what is kept for the backward pass are in it; Python and the libraries are
    not.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_serve, args=(sender, peft, threads))
    child.start()
    sender.close()
    try:
        peak: int = receiver.recv()
    except EOFError:
        child.join()
        raise ValueError(f"the process of peft={peft!r} died, exit code {child.exitcode}: out of memory?") from None
    child.join()
    return peak


def _serve(sender: Connection, peft: Mapping[str, Any] | None, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    # What torch takes once, whatever is computed: its threads and the code of its kernels.
    _train(dict(model_name="vit_tiny_patch16_224", trunk=dict(depth=1)), peft, (64, 64), 1)
    sender.send(peak_resident_bytes(lambda: _train(dict(model_name=MODEL), peft, SIZE, STEPS)))


def _train(options: Mapping[str, Any], peft: Mapping[str, Any] | None, size: tuple[int, int], steps: int) -> None:
    adapter = create_adapter(**options, peft=peft).train()
    learning = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=1e-4)
    for _ in range(steps):
        optimiser.zero_grad(set_to_none=True)
        maps = adapter(torch.randn(BATCH, 3, *size))
        torch.stack([feature_map.square().mean() for feature_map in maps]).sum().backward()
        optimiser.step()
