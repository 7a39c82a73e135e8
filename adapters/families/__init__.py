"""One file per family of models, and nothing else.

A new family subclasses ``BackboneAdapter``, whose hooks :mod:`adapters.base` lists, names timm's classes in
``timm_modules`` and is listed in ``FAMILIES`` of :mod:`adapters.factory`: what is not, ``TimmAdapter`` takes for a
model without a family. Registering happens on import, from ``adapters/__init__.py``.
"""
