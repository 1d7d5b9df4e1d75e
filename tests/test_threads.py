"""Version 6: shares of every size, callers side by side, and threads that come and go with their object."""

import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.versions import ROOT
from tests.codegen_support import COMPILERS, HERE, V5, V6, check_network, own_cache, poison, random_image
from tests.test_codegen import CONVOLUTION, check_convolutions

__all__ = ["own_cache"]
THREADS = [1, 2, 3, 5, 7, 16, 40]  # 40 is more than most layers have panels of channels


@pytest.mark.parametrize("isa", HERE)
@settings(max_examples=3)
@given(
    cases=st.lists(CONVOLUTION, min_size=6, max_size=9),
    threads=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_convolutions(isa, cases, threads, seed):
    check_convolutions(V6, isa, cases, seed, threads)


@pytest.mark.parametrize("size", [32, 97])
def test_any_number_of_threads_gives_the_same_numbers(size, small_weights_dir, rng):
    """Every sum is made by one thread, in one order: the results are equal to the last bit."""
    image = random_image(rng, size)
    logits = []
    for threads in THREADS:
        model = V6.resnet50.ResNet50(small_weights_dir, size, threads=threads)
        assert model.threads == threads
        poison(model)
        logits.append(model.forward(image))
        if threads in (1, 3):
            check_network(model, small_weights_dir, image)
    for other in logits[1:]:
        np.testing.assert_array_equal(other, logits[0])


@pytest.mark.parametrize(("size", "isa", "compiler", "threads"), [(224, 0, 0, 2), (33, 1, 1, 3), (225, 2, 0, 5)])
def test_network(size, isa, compiler, threads, weights_dir, rng, monkeypatch):
    monkeypatch.setenv("CC", COMPILERS[compiler % len(COMPILERS)])
    model = V6.resnet50.ResNet50(weights_dir, size, isa=HERE[isa % len(HERE)], threads=threads)
    check_network(model, weights_dir, random_image(rng, size))


@given(count=st.integers(0, 60), threads=st.integers(1, 70), start=st.integers(0, 9), step=st.integers(1, 14))
def test_parts_cover_the_loop_once(count, threads, start, step):
    bounds = V6.ops.part(start, start + count * step, step)
    covered = []
    for thread in range(threads):
        first, end = (eval(text.replace("/", "//"), {"thread": thread, "threads": threads}) for text in bounds)
        covered += range(first, end, step)
        assert (end - first) // step <= -(-count // threads)
    assert covered == list(range(start, start + count * step, step))


def threads_of_process(number=None):
    return len(os.listdir(f"/proc/{number or os.getpid()}/task"))


linux = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")


@linux
def test_threads_end_with_their_object(small_weights_dir, rng):
    before = threads_of_process()
    model = V6.resnet50.ResNet50(small_weights_dir, 32, threads=4)
    assert threads_of_process() == before + 3
    model.forward(random_image(rng, 32))
    assert threads_of_process() == before + 3
    steps = model.steps
    del model
    gc.collect()
    steps[0][1]()  # a step keeps what it needs
    assert threads_of_process() == before + 3
    del steps
    gc.collect()
    assert threads_of_process() == before


@linux
def test_idle_threads_sleep(small_weights_dir, rng):
    model = V6.resnet50.ResNet50(small_weights_dir, 32, threads=4)
    model.forward(random_image(rng, 32))
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1  # one spinning thread would use 0.5 s


@linux
def test_an_exception_in_a_probe_leaves_nothing_spinning(small_weights_dir, rng):
    model = V6.resnet50.ResNet50(small_weights_dir, 32, threads=3)
    image = random_image(rng, 32)
    expected = model.forward(image)

    def probe(name, activation):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.forward(image, probe)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1
    np.testing.assert_array_equal(model.forward(image), expected)  # nor locked


@pytest.mark.parametrize("objects", [1, 2])
def test_callers_side_by_side(objects, small_weights_dir, rng):
    """Two objects, and one object, called from several Python threads at once."""
    models = [V6.resnet50.ResNet50(small_weights_dir, 32, threads=2 + n) for n in range(objects)]
    images = [random_image(rng, 32) for _ in range(4)]
    expected = [models[0].forward(image) for image in images]
    wrong = []

    def call(number):
        for _ in range(40):
            logits = models[number % objects].forward(images[number])
            wrong.extend([] if np.array_equal(logits, expected[number]) else [number])

    callers = [threading.Thread(target=call, args=(number,)) for number in range(len(images))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


RUN = """
import os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
import numpy as np
from resnet50 import ResNet50
model = ResNet50(sys.argv[2], 32, threads=4)
image = np.ones((32, 32, 3), dtype=np.float32)
logits = model.forward(image)
"""


def run_python(code, weights_dir, **options):
    command = [sys.executable, "-c", RUN + code, ROOT / "v6_threads", weights_dir]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_ctrl_c_ends_the_process(small_weights_dir):
    process = run_python("print('ready', flush=True)\nwhile True: model.forward(image)", small_weights_dir)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT and "KeyboardInterrupt" in said


@pytest.mark.parametrize(
    "code",
    [
        "",
        "sys.exit(0)",
        "threading.Thread(target=lambda: [model.forward(image) for _ in range(10**6)], daemon=True).start()\n"
        "time.sleep(0.1)",
    ],
)
def test_the_process_ends_by_itself(code, small_weights_dir):
    process = run_python(code, small_weights_dir)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (0, "")


def test_a_forked_child_gets_threads_of_its_own(small_weights_dir):
    code = """
child = os.fork()
if child == 0:
    same = np.array_equal(model.forward(image), logits)
    os._exit(0 if same else 1)
_, status = os.waitpid(child, 0)
sys.exit(0 if status == 0 and np.array_equal(model.forward(image), logits) else 1)
"""
    process = run_python(code, small_weights_dir)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_refuses_other_thread_counts(threads, small_weights_dir):
    with pytest.raises(ValueError, match="threads"):
        V6.resnet50.ResNet50(small_weights_dir, 32, threads=threads)


@pytest.mark.parametrize("threads", ["3000", "4000000000000"])
def test_too_many_threads_is_one_error(threads, small_weights_dir):
    def limit():  # too little for the stacks of 3000 threads
        resource.setrlimit(resource.RLIMIT_AS, (2 * 10**9, 2 * 10**9))

    command = [sys.executable, ROOT / "v6_threads" / "infer.py", "none.png", "--threads", threads]
    command += ["--weights", small_weights_dir]
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode and done.stderr.count("\n") == 1 and threads in done.stderr


def write_limits(directory, files):
    for name, text in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 8),
        ({"cpu.max": "nonsense"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "350000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    ],
)
def test_available_cores(files, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(V6.threads.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    write_limits(tmp_path, files)
    assert V6.threads.available_cores(tmp_path) == expected


def test_the_default_is_the_cores_of_this_process(small_weights_dir):
    code = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nprint(ResNet50(sys.argv[2], 32).threads)"
    process = run_python(code, small_weights_dir)
    assert process.communicate(timeout=20)[0] == "1\n"
    assert V6.resnet50.ResNet50(small_weights_dir, 32).threads == V6.threads.available_cores()


def test_versions_5_and_6_compute_the_same(small_weights_dir, rng):
    image = random_image(rng, 97)
    models = [V5.resnet50.ResNet50(small_weights_dir, 97), V6.resnet50.ResNet50(small_weights_dir, 97, threads=2)]
    np.testing.assert_array_equal(*(model.forward(image) for model in models))


@pytest.mark.exhaustive
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("size", [32, 33, 64, 97, 224, 225, 320])
def test_every_network(size, isa, threads, weights_dir, rng):
    model = V6.resnet50.ResNet50(weights_dir, size, isa=isa, threads=threads)
    check_network(model, weights_dir, random_image(rng, size))
