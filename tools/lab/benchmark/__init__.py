"""The benchmark: time, memory and numbers of an adapter beside those of its peers (``tools/benchmark.py``)."""
