"""Time, memory and numbers of an adapter beside those of its peers, in one run (``tools/benchmark.py``)."""
