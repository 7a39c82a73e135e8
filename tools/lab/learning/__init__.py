"""The learning check: every family trained beside mmseg's and mmdet's native classes (``tools/learning_check.py``)."""
