"""The counts of operations and bytes that the roofline and article 16's prediction are made of."""

import numpy as np
import pytest

from bench import counts
from bench.allocations import counted_allocations
from common.architecture import layers
from common.versions import VERSIONS, load_version

SIZE = 64


def network(name, isa="avx2"):
    version = load_version(name)
    return version, version.resnet50.Network(SIZE, 1000, version.compiler.ISAS[isa])


@pytest.mark.parametrize("name", VERSIONS[1:4])
def test_numpys_versions_write_what_is_counted(name, small_weights_file):
    model, picture = (
        load_version(name).resnet50.ResNet50(small_weights_file, SIZE),
        np.zeros((SIZE, SIZE, 3), np.float32),
    )
    with counted_allocations() as allocated:
        model.forward(picture)
    counted = counts.work(name, SIZE, num_classes=model.num_classes)
    assert counted.written == pytest.approx(allocated.bytes, rel=0.002, abs=25_000)  # shapes, strides, np.mean's own


def test_version_4_moves_the_arrays_of_its_own_steps(small_weights_file):
    version = load_version("v4_no_alloc")
    model, element_wise, called = version.resnet50.ResNet50(small_weights_file, SIZE), 0, 0
    for operator, arguments in model.steps:
        called += 1
        if operator.__name__ in ("batch_norm", "relu", "add"):
            *inputs, out = (array for array in arguments if array.ndim == 3)
            assert any(array is out for array in inputs)  # in place
            element_wise += sum(array.nbytes for array in inputs) + out.nbytes
    outputs = layers(SIZE)[:-1]
    three = counts.work("v3_preload", SIZE).passes - counts.work("v4_no_alloc", SIZE).passes
    rewritten = sum(4 * np.prod(layer.out_shape) for layer in outputs)
    rewritten += sum(4 * np.prod(layer.out_shape) for layer in outputs if "downsample" not in layer.name)
    rewritten += sum(4 * np.prod(layer.out_shape) for layer in outputs if layer.name.endswith("conv3"))
    pooled = 9 * 4 * np.prod(outputs[1].in_shape)
    assert three == rewritten + pooled and called == counts.work("v4_no_alloc", SIZE).operators
    added = sum(4 * np.prod(layer.out_shape) for layer in outputs if layer.name.endswith("conv3"))
    assert element_wise == 2 * rewritten + added


def test_version_1_reads_every_tensor_and_does_the_definitions_multiply_adds():
    counted = counts.work("v1_loops", SIZE)
    assert counted.tensors == 267 and counted.read == 102_440_608
    assert counted.flops == sum(layer.flops for layer in layers(SIZE)) and counted.products == 56 * counted.flops


def test_version_5_reads_each_weight_once_and_version_6_the_same():
    _, made = network("v5_codegen")
    counted = counts.work("v5_codegen", SIZE)
    assert counted == counts.work("v6_threads", SIZE)
    weights = 4 * made.weight_size
    activations = sum(4 * (np.prod(step.x.shape) + 2 * np.prod(step.out.shape)) for step in made.steps)
    assert counted.bytes == weights + activations
    definition = sum(layer.flops for layer in layers(SIZE, made.logits.channels))
    assert definition < counted.flops < 1.02 * definition  # additions and ReLU


def test_winograd_does_fewer_operations_and_its_transforms_count():
    version, made = network("v7_winograd")
    at, _, bt = version.winograd.matrices(2)
    assert counts.both_sides(bt, bt) == 32 and counts.both_sides(at, at) == 24  # Lavin and Gray 2016, section 4.1
    saved = counts.work("v6_threads", SIZE).flops - counts.work("v7_winograd", SIZE).flops
    direct = winograd = 0
    flops = {step.name: counts.step_flops(version, step) for step in made.steps}
    for step in made.steps:
        if step.operator.__name__ == "winograd_conv2d":
            height, width, channels = step.out.shape
            direct += 18 * height * width * channels**2 + height * width * channels
            winograd += flops[step.name] + flops[f"{step.name}.transform"]
    assert 0 < saved == direct - winograd


def test_version_8_moves_about_a_quarter_of_version_6():
    share = counts.work("v8_int8", SIZE).bytes / counts.work("v6_threads", SIZE).bytes
    assert 0.25 < share < 0.29


def test_version_8_counts_the_zeros_that_fill_a_kernel_row_and_no_products_where_there_are_none():
    version, made = network("v8_int8")
    flops = {step.name: counts.step_flops(version, step) for step in made.steps}
    assert flops["quantize"] == 3 * SIZE**2 and flops["avgpool"] == 2048 * np.prod(made.steps[-2].x.shape[:2])
    assert flops["conv1"] == (2 * 168 + 1) * 64 * (SIZE // 2) ** 2  # 24 bytes for the 21 of each of seven rows


def test_version_9_with_tiles_multiplies_six_pairs_of_digits_and_moves_three_bytes_for_a_number():
    version, made = network("v9_ozaki", "amx")
    flops = {step.name: counts.step_flops(version, step) for step in made.steps}
    digits = next(step.out for step in made.steps if step.name == "layer1.0.conv2.digits")
    out = SIZE // 4  # height and width in the first stage
    assert flops["layer1.0.conv2.digits"] == 2 * 64 * out**2
    assert flops["layer1.0.conv2"] == (6 * 2 * 9 * 64 + 6 + 1) * 64 * out**2
    assert flops["layer1.0.conv3"] == (6 * 2 * 64 + 6 + 2) * 256 * out**2
    assert counts.size(digits) == 3 * 64 * out**2
    assert counts.work("v9_ozaki", SIZE) == counts.work("v6_threads", SIZE)
