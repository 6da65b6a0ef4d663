"""Let torchvision import beside a torch build its compiled ops were not made for.

The package index's torchvision is a CUDA build. Beside a CPU torch its compiled ops do not load, and
`import torchvision` then fails with `operator torchvision::nms does not exist`; timm, open_clip and most of
transformers fail with it. Only nms and roi_align are compiled, and nothing here calls them, so it is enough
that their schemas exist.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class _BeforeTorchvision(MetaPathFinder):
    """Runs once, when torchvision is first looked for, and then steps aside."""

    library: object | None = None  # a torch.library.Library: its schemas vanish when it is collected

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            self._define_missing_schemas()
        return None

    def _define_missing_schemas(self) -> None:
        import torch

        if _compiled_ops_load():
            return
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            library.define(schema)
        type(self).library = library


def _compiled_ops_load() -> bool:
    """Whether torchvision's own shared library loads beside this torch."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return True
    shared = sorted(Path(spec.submodule_search_locations[0]).glob("_C*.so"))
    if not shared:
        return False
    try:
        torch.ops.load_library(str(shared[0]))
    except OSError:
        return False
    return True


def install() -> None:
    """Watch for the first import of torchvision in this process; does nothing if it is imported already."""
    if "torchvision" not in sys.modules and not any(isinstance(f, _BeforeTorchvision) for f in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTorchvision())
