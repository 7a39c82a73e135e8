"""Whether every family trains, beside the native classes of mmseg and mmdet: ``tools/learning_check.py``."""
