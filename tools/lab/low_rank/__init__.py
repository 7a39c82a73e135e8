"""The cost and the gain of low-rank tuning: over all of timm's families, in memory, and in a transfer."""
