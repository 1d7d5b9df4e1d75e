"""torchvision's ResNet-50 in float64: what every version is compared with."""

import numpy as np
import torch

from common.torchvision_import import import_torchvision

torch.set_num_threads(1)
PROBES = ("stem", "layer1", "layer2", "layer3", "layer4", "avgpool")


def torch_model(state):
    """Return torchvision's ResNet-50 in float64, in inference mode, with the arrays of a state dict."""
    model = import_torchvision().models.resnet50(weights=None, num_classes=len(state["fc.bias"]))
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    return model.double().eval()


def torch_activations(model, image):
    """Return {name: float64 array} for the probes and "logits"; pictures are channels last."""
    found = {}

    def keep(name):
        def hook(module, inputs, output):
            array = output[0].numpy()
            found[name] = array.transpose(1, 2, 0) if name != "avgpool" else array.ravel()

        return hook

    modules = {name: getattr(model, "maxpool" if name == "stem" else name) for name in PROBES}
    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    with torch.inference_mode():
        logits = model(torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float64)))
    for hook in hooks:
        hook.remove()
    return found | {"logits": logits[0].numpy()}


def assert_close(found, expected, name, tolerance=1e-4):
    """Compare with an error bound relative to the largest expected value; NaN and infinities fail."""
    assert found.shape == expected.shape, f"{name}: shape {found.shape}, expected {expected.shape}"
    assert np.isfinite(found).all(), f"{name}: not finite"
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error <= tolerance, f"{name}: error {error:.1e} of the largest value"
