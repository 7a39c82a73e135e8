"""mmdet's data preprocessor for images of any number of channels."""

from mmdet.models.data_preprocessors import DetDataPreprocessor

from adapters.openmmlab.channels.normalise import NormaliseAnyChannels


class DetDataPreprocessorOfAnyChannels(NormaliseAnyChannels, DetDataPreprocessor):
    """mmdet's ``DetDataPreprocessor`` with a mean and a standard deviation for each of any number of channels."""
