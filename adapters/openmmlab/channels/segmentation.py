"""mmseg's data preprocessor for images of any number of channels."""

from mmseg.models import SegDataPreProcessor

from adapters.openmmlab.channels.normalise import NormaliseAnyChannels


class SegDataPreprocessorOfAnyChannels(NormaliseAnyChannels, SegDataPreProcessor):
    """mmseg's ``SegDataPreProcessor`` with a mean and a standard deviation for each of any number of channels."""
