"""Changes to timm's models that are the same for every family.

A trunk is built (``build``), run without data (``probing``), rid of what its maps do not need (``pruning``), frozen in
part (``freezing``) and recomputed in backward passes (``recompute``). ``layers`` numbers its layers for layer decay.
"""
