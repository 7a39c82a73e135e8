"""The heads of torchvision, transformers and smp, as small as they come, and the loss of training images in each."""

from collections.abc import Callable, Mapping

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PreTrainedConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

CLASSES = 3
#: Channels of FPNs; FCOS normalises groups of two, which must not hold a single value.
WIDTH = 64

Loss = Callable[[nn.Module, Tensor], Tensor]


def detector(kind: type[nn.Module], backbone: nn.Module) -> nn.Module:
    """Build one of torchvision's detectors; in training it keeps the size of its images, as torchvision's own do."""
    few = {} if kind in (RetinaNet, FCOS) else {"rpn_post_nms_top_n_train": 8, "box_batch_size_per_image": 8}
    return kind(backbone, num_classes=CLASSES, _skip_resize=True, **few)


TORCHVISION = (FasterRCNN, MaskRCNN, RetinaNet, FCOS)


def detection_loss(model: nn.Module, images: Tensor) -> Tensor:
    """Sum the losses of torchvision's detector for images ``(B, 3, H, W)`` with one object each."""
    height, width = images.shape[-2:]
    mask = torch.zeros(1, height, width, dtype=torch.uint8)
    mask[:, height // 8 : height // 2, width // 8 : width // 2] = 1
    box = torch.tensor([[width / 8, height / 8, width / 2, height / 2]])
    losses = model(list(images), [{"boxes": box, "labels": torch.tensor([1]), "masks": mask} for _ in images])
    return torch.stack(list(losses.values())).sum()


def detr(backbone: PreTrainedConfig) -> nn.Module:
    """Build transformers' DETR."""
    small = {"layers": 1, "attention_heads": 2, "ffn_dim": 16}
    sides = {f"{side}_{what}": value for side in ("encoder", "decoder") for what, value in small.items()}
    config = DetrConfig(backbone_config=backbone, d_model=16, num_queries=4, num_labels=CLASSES, **sides)
    return DetrForObjectDetection(config)


def detr_loss(model: nn.Module, images: Tensor) -> Tensor:
    """Return DETR's loss for images ``(B, 3, H, W)`` with one object each."""
    label = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.3, 0.3]])}
    return model(images, labels=[label for _ in images]).loss


def mask2former(backbone: PreTrainedConfig) -> nn.Module:
    """Build transformers' Mask2Former."""
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=16,
        hidden_dim=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        num_queries=4,
        num_labels=CLASSES,
        train_num_points=64,
    )
    return Mask2FormerForUniversalSegmentation(config)


def mask2former_loss(model: nn.Module, images: Tensor) -> Tensor:
    """Return Mask2Former's loss for images ``(B, 3, H, W)`` with one object each."""
    mask = torch.zeros(1, *images.shape[-2:])
    mask[..., : images.shape[-2] // 2, :] = 1
    return model(images, mask_labels=[mask for _ in images], class_labels=[torch.tensor([1]) for _ in images]).loss


def upernet(backbone: PreTrainedConfig) -> nn.Module:
    """Build transformers' UPerNet; no pooling ends in a single cell, so that one image does for its batch norms."""
    widths = {"hidden_size": 16, "auxiliary_channels": 16}
    config = UperNetConfig(backbone_config=backbone, pool_scales=[2, 3], num_labels=CLASSES, **widths)
    return UperNetForSemanticSegmentation(config)


def upernet_loss(model: nn.Module, images: Tensor) -> Tensor:
    """Return UPerNet's loss for images ``(B, 3, H, W)`` of one class."""
    return model(images, labels=_one_class(images)).loss


#: Builds of transformers' heads from the config of a backbone, and their losses.
TRANSFORMERS: Mapping[str, tuple[Callable[[PreTrainedConfig], nn.Module], Loss]] = {
    "Mask2Former": (mask2former, mask2former_loss),
    "DETR": (detr, detr_loss),
    "UPerNet": (upernet, upernet_loss),
}

#: smp's models by the name of an encoder, and what makes them small.
SMP: Mapping[str, tuple[type[nn.Module], Mapping[str, object]]] = {
    "Unet": (smp.Unet, {"decoder_channels": (16, 8, 8, 8, 8)}),
    "FPN": (smp.FPN, {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32}),
    "UPerNet": (smp.UPerNet, {"decoder_channels": 16, "decoder_use_norm": "identity"}),
}
#: DPT's arguments, which are the same for an adapter.
DPT: Mapping[str, object] = {
    "classes": CLASSES,
    "decoder_intermediate_channels": (8, 8, 8, 8),
    "decoder_fusion_channels": 16,
}


def smp_model(name: str, encoder: str) -> nn.Module:
    """Build one of smp's models over an encoder of this name, at random."""
    kind, arguments = SMP[name]
    return kind(encoder_name=encoder, encoder_weights=None, classes=CLASSES, **arguments)


def segmentation_loss(model: nn.Module, images: Tensor) -> Tensor:
    """Return the cross entropy of smp's model for images ``(B, 3, H, W)`` of one class."""
    return F.cross_entropy(model(images), _one_class(images))


def _one_class(images: Tensor) -> Tensor:
    return torch.ones(len(images), *images.shape[-2:], dtype=torch.long)
