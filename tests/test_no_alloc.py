"""Version 4: the buffer plan keeps live buffers apart, and inference allocates nothing but its result."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.allocations import counted_allocations
from common.architecture import work_done
from common.versions import load_version

v1, v4 = load_version("v1_loops"), load_version("v4_no_alloc")
SIZE = 96


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).standard_normal((SIZE, SIZE, 3)).astype(np.float32)


def build(version, weights):
    return load_version(version).resnet50.ResNet50(weights, image_size=SIZE)


@pytest.mark.parametrize(("version", "arrays"), [("v3_preload", range(200, 250)), ("v4_no_alloc", range(2, 3))])
def test_arrays_of_a_picture(version, arrays, weights_file, image):
    """Version 4's two: the copy of the logits, and one that np.mean makes. Version 3 shows that arrays are seen."""
    model = build(version, weights_file)
    model.forward(image)
    with counted_allocations() as count:
        model.forward(image)
    assert count.arrays in arrays


def test_the_most_memory_that_a_picture_takes(small_weights_file, image):
    peaks = {}
    for version in ("v3_preload", "v4_no_alloc"):
        model = build(version, small_weights_file)
        tracemalloc.start()
        model.forward(image)  # tracemalloc's own first use
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        model.forward(image)
        peaks[version] = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
    assert peaks["v3_preload"] > 2**20
    assert peaks["v4_no_alloc"] < 2**16  # NumPy's own scratch space for broadcasting takes 34 KB of it


def test_sharing_saves_most_of_the_memory(small_weights_file):
    plan = build("v4_no_alloc", small_weights_file).plan
    assert plan.size < 0.2 * sum(buffer.size for buffer in plan.buffers)


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
        assert buffer.array.shape == buffer.shape and np.shares_memory(buffer.array, plan.memory)


def test_a_released_buffer_is_used_again():
    plan = v4.buffers.BufferPlan()
    first = plan.take("first", (10, 10))
    plan.take("second", (10, 10))
    plan.release(first)
    assert plan.take("third", (100,)).offset == first.offset
    assert plan.take("fourth", (10, 10)).offset > first.offset


def test_version_1_reports_the_share_of_work_that_is_done():
    shares = work_done()
    for stage, share in v1.infer.WORK_DONE.items():
        assert abs(share - shares.get(stage, 1)) < 0.001  # the average pool multiplies nothing
