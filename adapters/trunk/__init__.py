"""Changes to timm's models that are the same for every family."""
