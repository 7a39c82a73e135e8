"""Necks: pyramids over one stride, resampling, and a bridge to the channels and strides that a head wants."""
