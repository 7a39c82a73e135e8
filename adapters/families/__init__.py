"""One file per family of models, and nothing else; registering happens on import, from ``adapters/__init__.py``."""
