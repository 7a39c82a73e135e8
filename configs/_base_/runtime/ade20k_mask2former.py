# Runs on ADE20K with a head whose parts are mmdet's.
_base_ = "./ade20k.py"

custom_imports = dict(imports=["adapters", "mmdet.models"])
