"""Adapters in the heads of other frameworks; each file needs its own framework, and is imported by name alone."""
