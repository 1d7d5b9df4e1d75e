"""The other engines: each runs torchvision's network with our weights and returns its forward.

Install them with `make bench-peers`. Their libraries are imported only when they are built, each in a process of its
own; the memory of those in float32 includes PyTorch's, which describes the network. A forward takes our (size, size, 3)
float32 picture and returns (num_classes,) float32 logits, as ours do; turning the picture to their channels-first
layout is part of what is timed (0.1 ms at 224).
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from bench.quantize import quantised
from common.torchvision_import import import_torchvision

Array = NDArray[np.float32]
Forward = Callable[[Array], Array]


def torch_eager(weights: Path, image_size: int, threads: int) -> Forward:
    """PyTorch, as a user writes it: a module in eval mode under `torch.inference_mode`."""
    return _torch_forward(_torch_model(weights, threads))


def torch_frozen(weights: Path, image_size: int, threads: int) -> Forward:
    """PyTorch, traced, frozen and optimised for inference (TorchScript): batch norms folded, layers fused."""
    import torch

    model, example = _torch_model(weights, threads), torch.zeros(1, 3, image_size, image_size)
    with torch.inference_mode():
        return _torch_forward(torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(model, example))))


def torch_compiled(weights: Path, image_size: int, threads: int) -> Forward:
    """PyTorch, `torch.compile` with weights frozen. Needs a C++ compiler; compiles for half a minute."""
    import torch
    import torch._inductor.config

    torch._inductor.config.freezing = True
    torch._inductor.config.compile_threads = 1  # no helper processes that outlive this one
    return _torch_forward(torch.compile(_torch_model(weights, threads)))


def onnxruntime(weights: Path, image_size: int, threads: int) -> Forward:
    """ONNX Runtime with every graph optimisation, on the graph that PyTorch exports."""
    with tempfile.TemporaryDirectory() as directory:
        return _one(infer_onnxruntime(export_onnx(weights, image_size, directory), threads))


def onnxruntime_int8(weights: Path, image_size: int, threads: int) -> Forward:
    """The same on the quantised graph."""
    return _one(infer_onnxruntime(str(quantised(weights, image_size)), threads))


def infer_onnxruntime(graph: str, threads: int) -> Callable[[Array], Array]:
    """Pictures (count, 3, height, width) to logits (count, classes)."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda pictures: session.run(None, {"image": pictures})[0]


def openvino(weights: Path, image_size: int, threads: int) -> Forward:
    """OpenVINO's CPU device, tuned for latency, in float32 (it would choose bfloat16 where the CPU has it)."""
    import openvino as ov
    import torch

    example = torch.zeros(1, 3, image_size, image_size)
    model = ov.convert_model(_torch_model(weights, threads), example_input=example, input=list(example.shape))
    return _one(infer_openvino(model, threads))


def openvino_int8(weights: Path, image_size: int, threads: int) -> Forward:
    """The same on the quantised graph; what is not quantised in it stays float32."""
    return _one(infer_openvino(quantised(weights, image_size), threads))


def infer_openvino(model: object, threads: int) -> Callable[[Array], Array]:
    """Pictures (count, 3, height, width) to logits (count, classes). model: OpenVINO's own, or a graph's file."""
    import openvino as ov

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = ov.compile_model(model, "CPU", settings).create_infer_request()
    return lambda pictures: request.infer([pictures])[0].copy()


def mnn(weights: Path, image_size: int, threads: int) -> Forward:
    """MNN's CPU backend. "high" precision is float32; its Winograd convolutions cost it a digit of it."""
    import _tools  # MNN's own; the command `mnnconvert` also installs a package and reports to its makers
    import MNN.expr
    import MNN.nn

    settings = {"backend": MNN.expr.Backend.CPU, "numThread": threads, "precision": "high", "power": "high"}
    with tempfile.TemporaryDirectory() as directory:
        graph, converted = export_onnx(weights, image_size, directory), f"{directory}/network.mnn"
        _tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", graph, "--MNNModel", converted])
        runtime = MNN.nn.create_runtime_manager((settings,))
        network = MNN.nn.load_module_from_file(converted, ["image"], ["logits"], runtime_manager=runtime)

    def forward(image: Array) -> Array:
        shape = [1, 3, image_size, image_size]
        return network.forward([MNN.expr.const(channels_first(image), shape, MNN.expr.NCHW)])[0].read()[0].copy()

    return forward


def ncnn(weights: Path, image_size: int, threads: int) -> Forward:
    """ncnn on the graph that its converter pnnx makes of TorchScript: its defaults, but no 16-bit numbers."""
    import ncnn
    import torch

    network = ncnn.Net()
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
        setattr(network.opt, f"use_{option}", False)
    for option in ("winograd_convolution", "sgemm_convolution", "packing_layout"):
        setattr(network.opt, f"use_{option}", True)
    network.opt.num_threads = threads
    example = torch.zeros(1, 3, image_size, image_size)
    with tempfile.TemporaryDirectory() as directory:
        torch.jit.trace(_torch_model(weights, threads), example).save(f"{directory}/network.pt")
        pnnx = shutil.which("pnnx", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        shape = "inputshape=" + str(list(example.shape)).replace(" ", "")
        subprocess.run([pnnx, "network.pt", shape, "fp16=0"], cwd=directory, check=True, stdout=subprocess.DEVNULL)
        if network.load_param(f"{directory}/network.ncnn.param") or network.load_model(f"{directory}/network.ncnn.bin"):
            raise RuntimeError("ncnn cannot load what pnnx wrote")

    def forward(image: Array) -> Array:
        extractor, image = network.create_extractor(), channels_first(image)[0]  # a Mat refers to it
        extractor.input("in0", ncnn.Mat(image))
        return np.array(extractor.extract("out0")[1])

    return forward


PEERS = {
    "torch-eager": torch_eager,
    "torch-frozen": torch_frozen,
    "torch-compiled": torch_compiled,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "mnn": mnn,
    "ncnn": ncnn,
    "onnxruntime-int8": onnxruntime_int8,
    "openvino-int8": openvino_int8,
}


def precision(name: str) -> str:
    """What numbers a version or engine computes with."""
    return "int8" if name.endswith("int8") else "float32"


def installed() -> list[str]:
    """The engines that can run here: all if `make bench-peers` installed them, else none."""
    if not all(
        find_spec(module) for module in ("torchvision", "onnx", "onnxruntime", "openvino", "MNN", "ncnn", "pnnx")
    ):
        return []
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    return [name for name in PEERS if name != "torch-compiled" or compiler]


def export_onnx(weights: Path, image_size: int, directory: str, **options) -> str:
    """Write the network as PyTorch exports it, from "image" to "logits"; return the file's path. options: PyTorch's."""
    import torch

    path, example = f"{directory}/network.onnx", torch.zeros(1, 3, image_size, image_size)
    names = {"input_names": ["image"], "output_names": ["logits"]}
    torch.onnx.export(_torch_model(weights, 1), (example,), path, dynamo=False, **names, **options)
    return path


def channels_first(image: Array) -> Array:
    return np.ascontiguousarray(image.transpose(2, 0, 1))[None]


def _one(infer: Callable[[Array], Array]) -> Forward:
    return lambda image: infer(channels_first(image))[0]


def _torch_forward(model: Callable) -> Forward:
    import torch

    def forward(image: Array) -> Array:
        with torch.inference_mode():
            return model(torch.from_numpy(channels_first(image)))[0].numpy()

    return forward


def _torch_model(weights: Path, threads: int):
    torchvision = import_torchvision()
    import torch

    torch.set_num_threads(threads)
    state = load_file(weights)  # convolutions (out, kh, kw, in), and no num_batches_tracked
    model = torchvision.models.resnet50(weights=None, num_classes=len(state["fc.bias"]))
    tensors = {name: torch.from_numpy(t.transpose(0, 3, 1, 2) if t.ndim == 4 else t) for name, t in state.items()}
    model.load_state_dict(tensors, strict=False)
    return model.eval()
