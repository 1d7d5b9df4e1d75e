"""Version 6: shares of every size, callers side by side, and threads that come and go with their object."""

import gc
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codegen_support import V5, V6, V7, check_network, poison, random_image
from tests.codegen_support import own_cache as own_cache

THREADS = [1, 2, 3, 5, 7, 33]  # 33 is more than most layers have panels of channels
linux = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux: /proc, sched_setaffinity")


@pytest.mark.parametrize("version", [V6, V7], ids=["v6", "v7"])
def test_any_number_of_threads_gives_the_same_numbers(version, small_weights_file, rng):
    """Every sum is made by one thread, in one order: the results are equal to the last bit."""
    image, logits = random_image(rng, 97), []
    for threads in THREADS:
        model = version.resnet50.ResNet50(small_weights_file, 97, threads=threads)
        assert model.threads == threads
        poison(model)
        logits.append(model.forward(image))
        np.testing.assert_array_equal(logits[-1], logits[0])
    check_network(model, small_weights_file, rng)
    if version is V6:
        np.testing.assert_array_equal(V5.resnet50.ResNet50(small_weights_file, 97).forward(image), logits[0])


@given(count=st.integers(0, 60), parts=st.integers(1, 70), start=st.integers(0, 9), step=st.integers(1, 14))
def test_parts_cover_the_loop_once(count, parts, start, step):
    bounds = [text.replace("/", "//").replace("from", "one") for text in V6.ops.part(start, start + count * step, step)]
    covered = []
    for one in range(parts):
        first, end = (eval(text, {"one": one, "to": one + 1, "parts": parts}) for text in bounds)
        covered += range(first, end, step)
        assert (end - first) // step <= -(-count // parts)
    assert covered == list(range(start, start + count * step, step))


SLOW = """
#include <time.h>
static void slow(const float *weights, float *memory, long from, long to, long parts) {
    volatile float *done = memory;
    for (long part = from; part < to; part += 1) {
        done[part] += 1;
    }
    time_t until = time(NULL) + 20;
    for (long part = 0; from == 8 && part < parts && time(NULL) < until; part += done[part] > 0) {
    }
    done[parts] += to - from == 8 || time(NULL) >= until;
}
static void (*const steps[])(const float *, float *, long, long, long) = {slow};
"""


def test_what_a_slow_thread_has_not_begun_is_taken_over():
    """The call that begins the second share ends when all other parts are done, or else in 20 seconds."""
    compiler = V6.compiler.Compiler()
    library = compiler.load(SLOW + V6.threads.POOL, compiler.isa(None), False)
    memory = np.zeros(17, np.float32)
    pool = V6.threads.Pool(library, memory, memory, 2)
    for run in (1, 2, 3):
        pool.run(0, 1)
        assert memory.tolist() == [run] * 16 + [0]


@linux
def test_threads_end_with_their_object(small_weights_file, rng):
    counts = [len(os.listdir("/proc/self/task"))]
    model = V6.resnet50.ResNet50(small_weights_file, 32, threads=4)
    model.forward(random_image(rng, 32))
    counts.append(len(os.listdir("/proc/self/task")))
    del model
    gc.collect()
    counts.append(len(os.listdir("/proc/self/task")))
    assert counts == [counts[0], counts[0] + 3, counts[0]]


def assert_idle():
    """No thread of this process spins: one alone would use 0.5 s."""
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


def test_idle_threads_sleep_after_a_picture_and_after_an_exception_in_a_probe(small_weights_file, rng):
    model, image = V6.resnet50.ResNet50(small_weights_file, 32, threads=4), random_image(rng, 32)
    expected = model.forward(image)
    assert_idle()

    def probe(name, activation):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.forward(image, probe)
    assert_idle()
    np.testing.assert_array_equal(model.forward(image), expected)  # nor locked


@pytest.mark.parametrize("objects", [1, 2])
def test_callers_side_by_side(objects, small_weights_file, rng):
    """Two objects, and one object, called from several Python threads at once."""
    models = [V6.resnet50.ResNet50(small_weights_file, 32, threads=2 + n) for n in range(objects)]
    images = [random_image(rng, 32) for _ in range(4)]
    expected = [models[0].forward(image) for image in images]

    def call(number):
        found = [models[number % objects].forward(images[number]) for _ in range(40)]
        return all(np.array_equal(logits, expected[number]) for logits in found)

    with ThreadPoolExecutor(4) as callers:
        assert list(callers.map(call, range(4))) == [True] * 4


RUN = """
import os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
import numpy as np
from resnet50 import ResNet50
model = ResNet50(sys.argv[2], 32, threads=4)
image = np.ones((32, 32, 3), dtype=np.float32)
logits = model.forward(image)
"""
FORK = """
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(model.forward(image), logits) else 1)
_, status = os.waitpid(child, 0)
sys.exit(0 if status == 0 and np.array_equal(model.forward(image), logits) else 1)
"""
NO_STEPS = """
other = model.forward(-image)
for _ in range(100):
    model.run(0, 0)
    assert np.array_equal(model.forward(image), logits)
    model.run(0, 0)
    assert np.array_equal(model.forward(-image), other)
"""
DAEMON = """
threading.Thread(target=lambda: [model.forward(image) for _ in range(10**6)], daemon=True).start()
time.sleep(0.1)
"""


def run_python(code, weights_file):
    quiet = "ignore:This process:DeprecationWarning"  # Python 3.12 warns of any fork beside threads
    command = [sys.executable, "-W", quiet, "-c", RUN + code, V6.directory, weights_file]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_ends_the_process(small_weights_file):
    process = run_python("print('ready', flush=True)\nwhile True: model.forward(image)", small_weights_file)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT and "KeyboardInterrupt" in said


@pytest.mark.parametrize(
    "code", ["", "sys.exit(0)", NO_STEPS, DAEMON, FORK], ids=["end", "exit", "no steps", "daemon", "fork"]
)
def test_the_process_ends_by_itself(code, small_weights_file):
    """After runs of no steps, with a caller still at work, and with a forked child, which makes threads of its own."""
    process = run_python(code, small_weights_file)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")


SMALL_STACKS = """
import resource, sys
sys.path.insert(0, sys.argv[1])
resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))  # of the main thread
import numpy as np
from resnet50 import ResNet50
ResNet50(sys.argv[2], 224, threads=2).forward(np.ones((224, 224, 3), dtype=np.float32))
"""


@linux
def test_threads_have_room_for_a_tiles_products(small_weights_file):
    """Where the system gives threads less than version 7 needs with AVX-512, up to 496 KiB, as musl does."""

    def limit():  # from which glibc takes the size of a thread's stack, when the process starts
        resource.setrlimit(resource.RLIMIT_STACK, (192 * 1024, resource.getrlimit(resource.RLIMIT_STACK)[1]))

    command = [sys.executable, "-c", SMALL_STACKS, V7.directory, small_weights_file]
    assert subprocess.run(command, preexec_fn=limit).returncode == 0


@pytest.mark.parametrize("threads", ["3000", "4000000000000"])
def test_too_many_threads_is_one_error(threads, small_weights_file):
    def limit():  # too little for the stacks of 3000 threads
        resource.setrlimit(resource.RLIMIT_AS, (2 * 10**9, 2 * 10**9))

    command = [sys.executable, V6.directory / "infer.py", "none", "--threads", threads, "--weights", small_weights_file]
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode and done.stderr.count("\n") == 1 and threads in done.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, 8), ("max 100000\n", 8), ("200000 100000\n", 2), ("50000 100000\n", 1), ("9900000 100000\n", 8), ("?", 8)],
)
def test_available_cores_of_a_container(text, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(V6.threads.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    if text is not None:
        (tmp_path / "cpu.max").write_text(text)
    assert V6.threads.available_cores(tmp_path / "cpu.max") == expected


@linux
def test_the_default_is_the_cores_of_this_process(small_weights_file):
    code = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nprint(ResNet50(sys.argv[2], 32).threads)"
    process = run_python(code, small_weights_file)
    assert process.communicate(timeout=60)[0] == "1\n"
    assert V6.resnet50.ResNet50(small_weights_file, 32).threads == V6.threads.available_cores()
