"""Low-rank tuning of a trunk by the library peft: which layers, which parameters train, and its files."""
