"""Layers computed on a CPU in a faster form than torch's, each only as far as ``tools/measure_kernels.py`` pays for it.

A kernel asks :mod:`adapters.kernels.cpu` first, and steps aside for whatever someone has put on a layer.
"""
