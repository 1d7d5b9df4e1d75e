"""Version 4: the buffer plan keeps live buffers apart, and inference allocates nothing but its result."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.versions import load_version

v4 = load_version("v4_no_alloc")


@pytest.fixture(scope="module")
def model(small_weights_dir):
    return v4.resnet50.ResNet50(small_weights_dir, image_size=96)


def test_inference_allocates_only_its_result(model, rng):
    image = rng.standard_normal((96, 96, 3)).astype(np.float32)
    model.forward(image)
    tracemalloc.start()
    model.forward(image)  # tracemalloc's own first use
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    model.forward(image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - before < 64 * 1024  # NumPy's own scratch space for broadcasting takes 34 KB of it


def test_version_3_fails_that_test(small_weights_dir, rng):
    """The measurement can tell the difference: the version before allocates megabytes."""
    model = load_version("v3_preload").resnet50.ResNet50(small_weights_dir, image_size=96)
    image = rng.standard_normal((96, 96, 3)).astype(np.float32)
    tracemalloc.start()
    model.forward(image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak > 1024 * 1024


def test_results_are_new_arrays(model, rng):
    images = [rng.standard_normal((96, 96, 3)).astype(np.float32) for _ in range(2)]
    seen = {}
    first = model.forward(images[0], probe=seen.__setitem__)
    kept, kept_seen = first.copy(), {name: array.copy() for name, array in seen.items()}
    model.forward(images[1])
    np.testing.assert_array_equal(first, kept)
    for name, array in kept_seen.items():
        np.testing.assert_array_equal(seen[name], array)


def test_the_plan_prints_itself(model):
    lines = str(model.plan).splitlines()
    assert len(lines) == 1 + len(model.plan.buffers) + 2
    assert lines[0].split() == ["buffer", "shape", "offset", "bytes"]
    assert "96x96x3" in lines[1] and f"{96 * 96 * 3 * 4:,}" in lines[1]
    assert lines[-2].split() == ["total", f"{4 * model.plan.size:,}"]


def test_sharing_saves_most_of_the_memory(model):
    assert model.plan.size < 0.2 * sum(buffer.size for buffer in model.plan.buffers)


@given(st.lists(st.one_of(st.integers(1, 5000), st.none()), min_size=1, max_size=60), st.randoms())
def test_live_buffers_never_overlap(actions, random):
    """A number takes a buffer of that size; None releases one that is live."""
    plan, live = v4.buffers.BufferPlan(), []
    for action in actions:
        if action is not None:
            live.append(plan.take("buffer", (action,)))
        elif live:
            plan.release(live.pop(random.randrange(len(live))))
        spans = sorted((buffer.offset, buffer.offset + buffer.size) for buffer in live)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert all(end <= plan.size for _, end in spans)
    plan.allocate()
    for buffer in plan.buffers:
        assert buffer.array.shape == buffer.shape and buffer.array.ctypes.data % 64 == 0
        assert np.shares_memory(buffer.array, plan.block)


def test_a_released_buffer_is_used_again():
    plan = v4.buffers.BufferPlan()
    first = plan.take("first", (10, 10))
    plan.take("second", (10, 10))
    plan.release(first)
    assert plan.take("third", (100,)).offset == first.offset
    assert plan.take("fourth", (10, 10)).offset > first.offset


def test_the_progress_report_knows_the_shares_of_work(small_weights_dir):
    model = v4.resnet50.ResNet50(small_weights_dir, image_size=224)
    done, shares = 0, {}
    for step, (operator, arguments) in enumerate(model.steps, start=1):
        if operator is v4.ops.conv2d:
            done += arguments[-1].size * arguments[1][0].size
        if step in model.probes:
            shares[model.probes[step][0]] = done
    for name, share in v4.infer.WORK_DONE.items():
        assert abs(share - shares[name] / done) < 0.001
