"""Measuring which of timm's families export, to files of any size and of one, beside the wrappers of others."""
