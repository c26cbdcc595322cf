"""Let torchvision's transforms be imported beside a build of torch that its compiled operators don't fit.

Python imports this on its start where `PYTHONPATH` leads here. Where the operators can't be loaded, torchvision ends
its import, because what it registers for them is registered for nothing. They are declared, without an implementation:
whoever calls one gets torch's error, and the transforms call none.
"""

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

FORWARD = ("nms", "qnms", "roi_align", "qroi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d")
BACKWARD = ("_roi_align_backward", "_roi_pool_backward", "_ps_roi_align_backward", "_ps_roi_pool_backward")


class Declaring(MetaPathFinder):
    """Finds nothing; declares the operators when torchvision is about to be imported."""

    library: Any = None  # kept: its operators go with it

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name != "torchvision":
            return
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            return
        import torch

        try:
            for compiled in Path(spec.origin).parent.glob("_C*.so"):
                torch.ops.load_library(str(compiled))
        except OSError:
            Declaring.library = torch.library.Library("torchvision", "DEF")
            for operator in (*FORWARD, *BACKWARD, "_deform_conv2d_backward"):
                self.library.define(f"{operator}(Tensor x) -> Tensor")


sys.meta_path.insert(0, Declaring())
