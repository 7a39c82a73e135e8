"""Everything that needs mmengine: running configs, config files, precision, checkpoints, layer decay."""
