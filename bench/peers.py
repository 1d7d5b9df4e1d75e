"""The other engines: each builds the same network from the same weights, in float32, and returns its forward.

Install them with `make bench-peers`. Their libraries are imported only when they are built, each in a process of
its own. A forward takes our (size, size, 3) float32 picture and returns (num_classes,) float32 logits, as ours do;
turning the picture to their channels-first layout is part of what is timed (0.1 ms at 224).
"""

import json
from pathlib import Path

import numpy as np

BLOCKS = (3, 4, 6, 3)


def torch_eager(weights_dir, image_size, threads):
    """PyTorch, as a user writes it: a module in eval mode under `torch.inference_mode`."""
    import torch

    torch.set_num_threads(threads)
    model = _torch_model(weights_dir)
    return _torch_forward(model)


def torch_frozen(weights_dir, image_size, threads):
    """PyTorch, traced, frozen and optimised for inference (TorchScript): batch norms folded, layers fused."""
    import torch

    torch.set_num_threads(threads)
    model, example = _torch_model(weights_dir), torch.zeros(1, 3, image_size, image_size)
    with torch.inference_mode():
        model = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(model, example)))
    return _torch_forward(model)


def torch_compiled(weights_dir, image_size, threads):
    """PyTorch, `torch.compile` with weights frozen. Needs a C++ compiler; compiles for half a minute."""
    import torch
    import torch._inductor.config

    torch.set_num_threads(threads)
    torch._inductor.config.freezing = True
    torch._inductor.config.compile_threads = 1  # no helper processes that outlive this one
    return _torch_forward(torch.compile(_torch_model(weights_dir)))


def onnxruntime(weights_dir, image_size, threads):
    """ONNX Runtime with every graph optimisation, on a graph built node by node."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    model = _onnx_model(weights_dir, image_size).SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": _channels_first(image)})[0][0]


def openvino(weights_dir, image_size, threads):
    """OpenVINO's CPU device, tuned for latency, in float32 (it would choose bfloat16 where the CPU has it)."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(_onnx_model(weights_dir, image_size).SerializeToString())
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda image: request.infer([_channels_first(image)])[0][0].copy()


PEERS = {
    "torch-eager": torch_eager,
    "torch-frozen": torch_frozen,
    "torch-compiled": torch_compiled,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}
# What must be importable for each.
MODULES = {"torch-eager": ["torch"], "torch-frozen": ["torch"], "torch-compiled": ["torch"],
           "onnxruntime": ["onnx", "onnxruntime"], "openvino": ["onnx", "openvino"]}


def _channels_first(image):
    return np.ascontiguousarray(image.transpose(2, 0, 1))[None]


def _tensors(weights_dir):
    """{name: float32 array}, convolutions turned from (out, kh, kw, in) to (out, in, kh, kw)."""
    manifest = json.loads((Path(weights_dir) / "manifest.json").read_text())
    tensors = {name: np.load(Path(weights_dir) / f"{name}.npy", allow_pickle=False) for name in manifest["tensors"]}
    return {name: np.ascontiguousarray(t.transpose(0, 3, 1, 2)) if t.ndim == 4 else t for name, t in tensors.items()}


def _torch_forward(model):
    import torch

    def forward(image):
        with torch.inference_mode():
            return model(torch.from_numpy(_channels_first(image)))[0].numpy()

    return forward


def _torch_model(weights_dir):
    """torchvision's ResNet-50, written out so that torchvision need not be installed."""
    import torch
    from torch import nn

    class Bottleneck(nn.Module):
        def __init__(self, in_channels, width, stride):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(in_channels, width, 1, bias=False), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
            self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
            self.relu = nn.ReLU(inplace=True)
            self.downsample = None
            if in_channels != 4 * width:
                shortcut = nn.Conv2d(in_channels, 4 * width, 1, stride, bias=False)
                self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * width))

        def forward(self, x):
            identity = x if self.downsample is None else self.downsample(x)
            y = self.relu(self.bn1(self.conv1(x)))
            y = self.relu(self.bn2(self.conv2(y)))
            y = self.bn3(self.conv3(y))
            y += identity
            return self.relu(y)

    tensors = _tensors(weights_dir)
    stem = {"conv1": nn.Conv2d(3, 64, 7, 2, 3, bias=False), "bn1": nn.BatchNorm2d(64),
            "relu": nn.ReLU(inplace=True), "maxpool": nn.MaxPool2d(3, 2, 1)}
    stages, channels = {}, 64
    for stage, blocks in enumerate(BLOCKS):
        width, made = 64 << stage, []
        for block in range(blocks):
            made.append(Bottleneck(channels, width, 2 if stage and block == 0 else 1))
            channels = 4 * width
        stages[f"layer{stage + 1}"] = nn.Sequential(*made)
    head = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(2048, len(tensors["fc.bias"]))}
    model = nn.Sequential()
    for name, module in (stem | stages | head).items():
        model.add_module(name, module)
    model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, strict=False)
    return model.eval()


def _onnx_model(weights_dir, image_size):
    """The network as an ONNX graph: convolutions, batch norms and additions as they are, for the engine to fuse."""
    from onnx import TensorProto, helper, numpy_helper

    tensors, nodes = _tensors(weights_dir), []

    def node(operator, inputs, output, **attributes):
        nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def conv_bn(x, conv, bn, stride=1):
        kernel = tensors[f"{conv}.weight"].shape[2]
        x = node("Conv", [x, f"{conv}.weight"], conv, strides=[stride] * 2, pads=[kernel // 2] * 4)
        parameters = [f"{bn}.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
        return node("BatchNormalization", [x, *parameters], bn, epsilon=1e-5)

    x = node("Relu", [conv_bn("image", "conv1", "bn1", 2)], "relu")
    x = node("MaxPool", [x], "maxpool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage, blocks in enumerate(BLOCKS, start=1):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            identity = conv_bn(x, f"{name}.downsample.0", f"{name}.downsample.1", stride) if block == 0 else x
            y = node("Relu", [conv_bn(x, f"{name}.conv1", f"{name}.bn1")], f"{name}.relu1")
            y = node("Relu", [conv_bn(y, f"{name}.conv2", f"{name}.bn2", stride)], f"{name}.relu2")
            y = conv_bn(y, f"{name}.conv3", f"{name}.bn3")
            x = node("Relu", [node("Add", [y, identity], f"{name}.add")], f"{name}.relu3")
    x = node("Flatten", [node("GlobalAveragePool", [x], "avgpool")], "flatten")
    node("Gemm", [x, "fc.weight", "fc.bias"], "logits", transB=1)

    float32, classes = TensorProto.FLOAT, len(tensors["fc.bias"])
    inputs = [helper.make_tensor_value_info("image", float32, [1, 3, image_size, image_size])]
    outputs = [helper.make_tensor_value_info("logits", float32, [1, classes])]
    weights = [numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()]
    graph = helper.make_graph(nodes, "resnet50", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
