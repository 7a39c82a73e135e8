"""Registered types for any number of channels; they import mmdet or mmseg when one is built, not before."""

from typing import Any

from adapters.registry import register_model


@register_model
def MultiChannelDetDataPreprocessor(**options: Any) -> Any:  # noqa: N802, the name of a registered type
    """Build mmdet's ``DetDataPreprocessor`` for images of any number of channels.

    Args:
        options: those of mmdet's class; ``mean`` and ``std`` have a value for each channel, or one for all.

    Raises:
        ValueError: as :class:`adapters.openmmlab.channels.normalise.NormaliseAnyChannels`.
    """
    from adapters.openmmlab.channels.detection import DetDataPreprocessorOfAnyChannels

    return DetDataPreprocessorOfAnyChannels(**options)


@register_model
def MultiChannelSegDataPreprocessor(**options: Any) -> Any:  # noqa: N802, the name of a registered type
    """Build mmseg's ``SegDataPreProcessor`` for images of any number of channels.

    Args:
        options: those of mmseg's class; ``mean`` and ``std`` have a value for each channel, or one for all.

    Raises:
        ValueError: as :class:`adapters.openmmlab.channels.normalise.NormaliseAnyChannels`.
    """
    from adapters.openmmlab.channels.segmentation import SegDataPreprocessorOfAnyChannels

    return SegDataPreprocessorOfAnyChannels(**options)
