"""Looking at extracted features: maps as colours, sheets, a gallery."""
