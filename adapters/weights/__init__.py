"""Checkpoint files: from a name to tensors that are known to belong to a backbone, without running anything."""
