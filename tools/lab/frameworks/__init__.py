"""Measuring adapters in the heads of other frameworks, beside those frameworks' own wrappers of timm's models."""
