"""What the engines run in int8: the same network and weights, quantised as ONNX Runtime's documentation advises.

Static, per channel, signed weights, unsigned activations (a graph with QuantizeLinear and DequantizeLinear), calibrated
on the pictures that version 8 calibrates itself on. `python -m bench.quantize WEIGHTS SIZE OUT` runs in a process of
its own: PyTorch and the tools would count as the engine's memory.
"""

import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

from common.versions import ROOT, load_version

KEPT = ROOT / "weights"  # one file a picture size, of the last weights


def quantised(weights: Path, image_size: int) -> Path:
    """Return the quantised graph's file, made now if it was not made before. Raises RuntimeError if that fails."""
    made_of = [(path.resolve(), path.stat().st_mtime_ns) for path in (weights, Path(__file__))], saturates()
    path = KEPT / f".int8-{image_size}-{zlib.crc32(repr(made_of).encode()):08x}.onnx"
    if not path.is_file():
        for stale in KEPT.glob(f".int8-{image_size}-*.onnx"):
            stale.unlink()
        command = [sys.executable, "-m", "bench.quantize", weights.resolve(), str(image_size), path]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    return path


def saturates() -> bool:
    """Whether this machine adds two products in 16 bits, where 8 bits of weight are too many: it has no VNNI."""
    import cpuinfo

    return not {"avx512_vnni", "avx_vnni", "asimddp"}.intersection(cpuinfo.get_cpu_info().get("flags", ()))


def quantise(weights: Path, image_size: int, out: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from bench.peers import channels_first, export_onnx

    v8 = load_version("v8_int8")
    preprocessing = v8.weights.read_manifest(weights)["preprocessing"]
    resize = round(preprocessing["resize"] * image_size / preprocessing["crop"])
    preprocessing |= {"resize": resize, "crop": image_size}
    pictures = v8.calibration.find_pictures(v8.calibration.PICTURES)

    class Pictures(CalibrationDataReader):
        feeds = ({"image": channels_first(v8.image.load_image(path, preprocessing))} for path in pictures)

        def get_next(self):
            return next(self.feeds, None)

    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "quant_format": QuantFormat.QDQ}
    with tempfile.TemporaryDirectory() as directory:
        prepared, result = f"{directory}/prepared.onnx", f"{directory}/int8.onnx"
        quant_pre_process(export_onnx(weights, image_size, directory), prepared, skip_symbolic_shape=True)
        quantize_static(prepared, result, Pictures(), per_channel=True, reduce_range=saturates(), **types)
        partial = out.with_suffix(f".{os.getpid()}")
        partial.write_bytes(Path(result).read_bytes())
        partial.replace(out)


if __name__ == "__main__":
    quantise(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
