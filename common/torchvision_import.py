"""torchvision for the tests, the benchmark's peers and the training; no version and no export needs it."""

from types import ModuleType

_declared = []  # keeps the declarations of operators alive


def import_torchvision() -> ModuleType:
    """Return the module torchvision, beside a CPU build of torch too.

    torchvision's wheels for Linux are linked against CUDA builds of torch. Beside another build their compiled
    operators do not load, and the import stops at the first one that it looks up, nms. ResNet-50 uses none of
    them, so their schemas are enough. A healthy installation declares its own.
    """
    import torch

    try:
        import torchvision.models
    except RuntimeError as error:
        if str(error) != "operator torchvision::nms does not exist":
            raise
        _declared.append(torch.library.Library("torchvision", "DEF"))
        for operator in ("nms", "qnms"):
            _declared[-1].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return import_torchvision()
    return torchvision
