"""Plain PyTorch implementation of every operator: readable, the ground truth of the tests, and the last resort."""
# TEMPORARY while the modules appear (the founder replaces this by explicit imports)
import importlib, pkgutil
from .._schema import SCHEMAS
for _m in pkgutil.iter_modules(__path__):
    _mod = importlib.import_module(f"{__name__}.{_m.name}")
    for _n in SCHEMAS:
        if hasattr(_mod, _n):
            globals()[_n] = getattr(_mod, _n)
