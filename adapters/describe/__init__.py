"""Levels, parameters and multiply-adds of a model, as ``dense-adapters describe`` prints them."""
