"""Layers computed on a CPU in a faster form than torch's."""
