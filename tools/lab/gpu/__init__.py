"""Checks on a GPU: numbers, precision, host synchronisation, compiled models, speed, training steps and operators."""
