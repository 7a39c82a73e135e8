"""Families of timm models: a file holds the adapter of one family, and ``generic`` serves all other models."""
