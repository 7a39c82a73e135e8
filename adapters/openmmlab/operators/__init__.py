"""mmcv's compiled operators, served by torchvision's and torch's where mmcv was installed without them.

mmcv compiles its operators into the module ``mmcv._ext``. Where there is none, importing it gives a module whose
functions have the names, arguments and results of the compiled ones, on the CPU and on GPUs: all that the algorithms of
mmdet and mmseg call. Any other operator is there, too, and raises when it is called.
"""

from adapters.openmmlab.operators.finder import serve_operators

__all__ = ["serve_operators"]
