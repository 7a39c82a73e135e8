"""The settings of a config that hold the channels of its backbone's levels.

The same list serves both ways: ``fit_backbone`` writes the new channels there, ``check_fit`` compares.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from adapters.openmmlab.config_tree import Node, type_name

#: Necks whose channels are tied to other numbers in their code or config.
FIXED_NECKS = {"SSDNeck": "its first outputs are its inputs, and the head is built for them"}

#: Necks of ours with the strides of their levels in a setting, and its name.
STRIDE_KEYS = {"LevelBridge": "in_strides", "SimpleFeaturePyramid": "in_stride", "TapPyramid": "in_stride"}

#: Heads whose channels are tied to other numbers, and which read every map.
FIXED_HEADS = {
    "DDRHead": "its two branches take its channels and half of them",
    "PIDHead": "its three branches take its channels and half of them",
    "DPTHead": "it takes pairs of a map and a class token, of embed_dims channels",
}

#: Necks that take their list of channels from the deepest level to the finest.
DEEPEST_FIRST = ("YOLOV3Neck",)

#: Necks that drop the first levels when they get more than they have channels for.
LAST_LEVELS_ONLY = ("CLRFPN",)

#: Necks with the start_level of mmdet's FPN: levels below it are handed over and not read.
START_LEVEL_NECKS = ("FPN", "PAFPN", "NASFPN", "FPN_CARAFE", "NASFCOS_FPN", "FPG", "FPN_DropBlock")

#: start_level of those whose default is not 0.
START_LEVEL_DEFAULTS = {"NASFCOS_FPN": 1}

#: Heads of mmdet that take a list of the backbone's own channels.
QUERY_HEADS = ("panoptic_head", "track_head")

#: Heads of mmdet that read levels directly where there is no neck, with one number of channels for all.
PLAIN_HEADS = ("rpn_head", "bbox_head", "mask_head", "head")


@dataclass
class ChannelSetting:
    """A setting of a neck or head that holds the channels of some of a backbone's levels.

    Attributes:
        place: of the neck or head in the config, such as ``'model.neck'``.
        node: its config.
        key: its name, such as ``'in_channels'``.
        positions: the levels that its entries are for, in their order; one number stands for all of them.
        index_key: name of the node's setting that holds these positions themselves; None if there is none.
        stride_key: name of the node's setting that holds the strides of these levels; None if there is none.
        unread: how many of the first levels are handed over but not read.
        fixed: why it cannot be changed; None if it can.
        comparable: its entries are the channels of these levels; otherwise they only depend on them.
    """

    place: str
    node: Node
    key: str
    positions: tuple[int, ...]
    index_key: str | None = None
    stride_key: str | None = None
    unread: int = 0
    fixed: str | None = None
    comparable: bool = True

    @property
    def channels(self) -> tuple[int, ...]:
        """The config's present channels, one number per position; a single number stands for all positions."""
        value = self.node[self.key]
        return (value,) * len(self.positions) if isinstance(value, int) else tuple(value)

    @property
    def read(self) -> tuple[int, ...]:
        """The positions whose maps have an effect."""
        return tuple(sorted(self.positions)[self.unread :])

    def can_take(self, channels: Sequence[int]) -> bool:
        """Return whether these channels can be written: one number stands for equal channels only."""
        return self.fixed is None and (not isinstance(self.node[self.key], int) or len(set(channels)) == 1)


def find_channel_settings(
    owner: Node, place: str, count: int, necks: Sequence[tuple[str, Node]] | None = None
) -> list[ChannelSetting]:
    """Find every setting that holds channels of ``count`` levels.

    Args:
        owner: the model's config that holds the backbone, perhaps with a neck and heads.
        place: of ``owner`` in the config, for messages.
        count: number of levels.
        necks: the necks still ahead of the levels, with their places; default: those of ``owner``.

    Raises:
        ValueError: a head picks a map that does not exist.
    """
    if necks is None:
        necks = list_necks(owner, place)
    settings: list[ChannelSetting] = []
    passed: list[int | None] = list(range(count))
    if necks:
        where, neck = necks[0]
        settings += _neck_settings(neck, where, count)
        passed = _passed_through(neck, count) if len(necks) == 1 else []
    for key in ("decode_head", "auxiliary_head"):
        heads = owner.get(key) or []
        several = isinstance(heads, list | tuple)
        for index, head in enumerate(heads if several else [heads]):
            where = f"{place}.{key}[{index}]" if several else f"{place}.{key}"
            settings += _segmentation_settings(head, where, passed, behind_neck=bool(necks))
    if not necks:
        settings += _detection_settings(owner, place, count)
    return settings


def list_necks(owner: Node, place: str) -> list[tuple[str, Node]]:
    """List the necks of a model in the order in which they work, each with its place in the config."""
    neck = owner.get("neck") or []
    if isinstance(neck, list | tuple):
        return [(f"{place}.neck[{index}]", part) for index, part in enumerate(neck)]
    return [(f"{place}.neck", neck)]


def _neck_settings(neck: Node, place: str, count: int) -> list[ChannelSetting]:
    name = type_name(neck)
    every = tuple(range(count))
    if name == "Feature2Pyramid":
        return [ChannelSetting(place, neck, "embed_dim", every)]
    channels = neck.get("in_channels")
    if channels is None:
        return []
    if isinstance(channels, int):
        every = every if name == "TapPyramid" else every[-1:]
        return [ChannelSetting(place, neck, "in_channels", every, stride_key=STRIDE_KEYS.get(name))]
    if name in LAST_LEVELS_ONLY:
        every = every[-len(channels) :]
    if name in DEEPEST_FIRST:
        every = every[::-1]
    unread = neck.get("start_level", START_LEVEL_DEFAULTS.get(name, 0)) if name in START_LEVEL_NECKS else 0
    fixed, stride_key = FIXED_NECKS.get(name), STRIDE_KEYS.get(name)
    return [ChannelSetting(place, neck, "in_channels", every, stride_key=stride_key, unread=unread, fixed=fixed)]


def _passed_through(neck: Node, count: int) -> list[int | None]:
    """For each map that a neck gives, the level whose channels it has; None where the neck sets them itself."""
    name = type_name(neck)
    if name in ("Feature2Pyramid", "LevelBatchNorm", "LevelLayerNorm"):
        return list(range(count))
    if name == "JPU":
        return [*range(neck.get("start_level", 0), count - 1), None]
    return []


def _segmentation_settings(
    head: Node, place: str, passed: Sequence[int | None], behind_neck: bool
) -> list[ChannelSetting]:
    """Settings in a head of mmseg, which picks maps by ``in_index``."""
    if head.get("kernel_generate_head"):  # K-Net wraps the head that reads the maps
        return _segmentation_settings(
            head["kernel_generate_head"], f"{place}.kernel_generate_head", passed, behind_neck
        )
    if not passed or "in_channels" not in head:
        return []
    single = isinstance(head["in_channels"], int)
    indices = head.get("in_index", -1 if single else range(len(passed)))
    fixed = FIXED_HEADS.get(type_name(head))
    wanted = range(len(passed)) if fixed else [indices] if isinstance(indices, int) else list(indices)
    if any(not -len(passed) <= index < len(passed) for index in wanted):
        raise ValueError(f"{place}.in_index={indices} picks a map that does not exist: there are {len(passed)}.")
    positions = tuple(passed[index] for index in wanted)
    settings: list[ChannelSetting] = []
    if None not in positions:
        known = tuple(position % len(passed) for position in positions if position is not None)
        index_key = None if behind_neck or fixed or not (single or "in_index" in head) else "in_index"
        stride_key = "strides" if "strides" in head else None
        setting = ChannelSetting(
            place, head, "in_channels", known, index_key, stride_key, fixed=fixed, comparable=not fixed
        )
        settings.append(setting)
        if single and head.get("num_convs") == 0:  # an FCNHead that classifies the map as it is
            settings.append(ChannelSetting(place, head, "channels", known, fixed=fixed))
    if head.get("c1_in_channels") and passed[0] is not None:  # DeepLabV3+ reads its first map besides
        settings.append(ChannelSetting(place, head, "c1_in_channels", (passed[0],)))
    return settings


def _detection_settings(owner: Node, place: str, count: int) -> list[ChannelSetting]:
    """Settings in the heads of a detector without a neck."""
    every = tuple(range(count))
    settings: list[ChannelSetting] = []
    for key in QUERY_HEADS:
        head = owner.get(key)
        if head and not isinstance(head.get("in_channels", 0), int):
            stride_key = "strides" if "strides" in head else None
            settings.append(ChannelSetting(f"{place}.{key}", head, "in_channels", every, stride_key=stride_key))
    roi_head = owner.get("roi_head")
    fixed = None
    if roi_head:
        fixed = "the RoI head works on the same map" + (", with a shared_head" if roi_head.get("shared_head") else "")
    for key in PLAIN_HEADS:
        head = owner.get(key)
        if isinstance(head, dict) and isinstance(head.get("in_channels"), int):
            settings.append(ChannelSetting(f"{place}.{key}", head, "in_channels", every, fixed=fixed))
    if roi_head and not settings:  # Fast R-CNN without a neck
        extractor = roi_head.get("bbox_roi_extractor") or {}
        if "out_channels" in extractor:
            where = f"{place}.roi_head.bbox_roi_extractor"
            settings.append(ChannelSetting(where, extractor, "out_channels", every, fixed=fixed))
    return settings
