"""The benchmark's cases: a model at a size, the peer that it is compared with, and the ratios to reach."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

MODES = ("forward", "train")

#: The side that is measured, a key of ``peers.PEERS``.
ADAPTER = "adapter"

#: The right maps are those of the peer itself.
SAME_AS_PEER = "same as peer"


@dataclass(frozen=True)
class Target:
    """A ratio to reach and one to aim at: times faster (at least) or share of the peer's memory (at most)."""

    must: float | None = None
    aim: float | None = None


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: identifies the case for ``--cases``.
        model_name: timm's.
        size: ``(H, W)`` of the images.
        peer: what the adapter is compared with, a key of ``peers.PEERS``.
        batch: images at once.
        mode: ``'forward'`` (no gradients, eval mode) or ``'train'`` (forward and backward in train mode).
        options: keyword arguments of the adapter.
        peer_options: those that another adapter has as the peer, where the peer is an adapter, too.
        peer_size: the size that the peer gets, where it is another one.
        reference: whose maps are the right ones, a key of ``peers.PEERS``; None where nothing computes the same.
        timed: False where only memory is of interest.
        speed: the peer's time over the adapter's.
        memory: the adapter's peak over the peer's.
    """

    name: str
    model_name: str
    size: tuple[int, int]
    peer: str = "timm"
    batch: int = 1
    mode: str = "forward"
    options: Mapping[str, Any] = field(default_factory=dict)
    peer_options: Mapping[str, Any] = field(default_factory=dict)
    peer_size: tuple[int, int] | None = None
    reference: str | None = SAME_AS_PEER
    timed: bool = True
    speed: Target = Target()
    memory: Target = Target()

    def for_peer(self) -> "Case":
        """Return the case as the peer gets it."""
        options = self.peer_options if self.peer == ADAPTER else self.options
        return replace(self, size=self.peer_size or self.size, options=options)

    def in_mode(self, mode: str) -> "Case":
        """Return the same comparison in a mode; in another than its own it has no targets."""
        return self if mode == self.mode else replace(self, mode=mode, speed=Target(), memory=Target())


DETECTION = (800, 1344)
CONVIT, SWIN, SVT, PCPVT = "convit_base", "swinv2_cr_tiny_ns_224", "twins_svt_small", "twins_pcpvt_small"
ROPE = "vit_betwixt_patch16_rope_reg4_gap_256"
# What mmseg's configs train: its SVT norms every stage, its PCPVT does not.
DENSE_SVT = {"stage_norm": True, "window_padding": "mmseg"}

CASES: tuple[Case, ...] = (
    Case("convit-1024", CONVIT, (1024, 1024), speed=Target(7, 10), memory=Target(1 / 15)),
    Case("convit-512", CONVIT, (512, 512), speed=Target(3.3, 4.5)),
    Case("convit-800x1344", CONVIT, DETECTION, "dense", speed=Target(7, 10)),
    # timm attends pads and misplaces its mask at this size; its numbers are compared where it is right.
    Case("swinv2_cr-800x1344", SWIN, DETECTION, "timm", reference="masked", speed=Target(1.3, 1.6)),
    Case("swinv2_cr-896x1344", SWIN, (896, 1344), "timm"),
    Case("swinv2_cr-800x1344-img_size", SWIN, DETECTION, "timm img_size", reference="masked", speed=Target(20)),
    Case("twins_svt-800x1344", SVT, DETECTION, speed=Target(1.2, 1.5)),
    Case("twins_svt-800x1344-mmseg", SVT, DETECTION, "mmseg", options=DENSE_SVT, speed=Target(2.8)),
    Case("twins_pcpvt-800x1344", PCPVT, DETECTION, speed=Target(1.1, 1.4)),
    Case("twins_pcpvt-800x1344-mmseg", PCPVT, DETECTION, "mmseg", speed=Target(2.3)),
    Case("vit_rope-800x1344", ROPE, DETECTION, speed=Target(1.0, 1.15)),
    Case("convit-train", CONVIT, (512, 512), batch=2, mode="train", speed=Target(3)),
    Case("swinv2_cr-train", SWIN, (512, 512), batch=2, mode="train", reference="masked", speed=Target(1)),
    Case("twins_svt-train", SVT, (512, 512), batch=2, mode="train", speed=Target(1)),
    Case("twins_pcpvt-train", PCPVT, (512, 512), batch=2, mode="train", speed=Target(1)),
    Case("vit_rope-train", ROPE, (512, 512), batch=2, mode="train", speed=Target(1)),
    Case(
        "convit-memory-growth",
        CONVIT,
        (1024, 1024),
        ADAPTER,
        peer_size=(256, 256),
        reference=None,
        timed=False,
        memory=Target(20, 16),
    ),
    *(
        Case(
            f"{name}-with_cp",
            model_name,
            (512, 512),
            ADAPTER,
            batch=2,
            mode="train",
            options={"with_cp": True},
            timed=False,
            memory=Target(0.6),
        )
        for name, model_name in (("convit", CONVIT), ("twins_svt", "twins_svt_base"))
    ),
)


def parse_size(text: str) -> tuple[int, int]:
    """Read a size: ``'512'`` -> ``(512, 512)``, ``'800x1344'`` -> ``(800, 1344)``.

    Raises:
        ValueError: neither form.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if match is None or not int(match[1]) or not int(match[2] or 1):
        raise ValueError(f"{text!r} is no image size; write one side, such as 512, or HxW, such as 800x1344.")
    return int(match[1]), int(match[2] or match[1])


def find_cases(names: Sequence[str]) -> list[Case]:
    """Find cases by name: built-in ones, ``all`` of them, or ``MODEL@HxW`` for any timm model against timm itself.

    Raises:
        ValueError: a name that is neither; what there is, is listed.
    """
    known = {case.name: case for case in CASES}
    found: dict[str, Case] = {}
    for name in names:
        model_name, at, size = name.rpartition("@")
        if name == "all":
            found.update(known)
        elif name in known:
            found[name] = known[name]
        elif at:
            found[name] = Case(name, model_name, parse_size(size))
        else:
            raise ValueError(
                f"--cases {name}: no such case; there are all, {', '.join(known)}, "
                "and MODEL@HxW for any timm model, such as twins_svt_base@640x640."
            )
    return list(found.values())
