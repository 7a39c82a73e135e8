"""What low-rank tuning costs and gives: over all of timm's families, in memory, and in a transfer."""
