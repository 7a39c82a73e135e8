"""What a model or a config is made of, and what it costs: the parts of ``tools/describe.py``."""
