"""For subprocesses of the tests: `import torchvision` works where its wheel is of another build of torch.

As `vits.library` does: the operators that it asks for, and no model needs, are declared first.
"""

import importlib.abc
import sys


class _Declare(importlib.abc.MetaPathFinder):
    """Sees the first `import torchvision`, and finds nothing: the import goes on."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            for operator in ("nms", "qnms"):
                torch.library.define(
                    f"torchvision::{operator}", "(Tensor dets, Tensor scores, float threshold) -> Tensor"
                )


sys.meta_path.insert(0, _Declare())
