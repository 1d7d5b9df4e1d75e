"""Time one contender in the process that it lives in."""

import resource
import sys
import time


def timed_runs(forward, image, rounds, clock=time.perf_counter):
    """Run `forward(image)` `rounds` times. Return (seconds of each run, minor page faults of each, last output)."""
    seconds, faults, output = [], [], None
    for _ in range(rounds):
        faults_before = minor_faults()
        start = clock()
        output = forward(image)
        seconds.append(clock() - start)
        faults.append(minor_faults() - faults_before)
    return seconds, faults, output


def runs_for(forward, image, duration, clock=time.perf_counter):
    """Run `forward(image)` until `duration` seconds have passed. Return (runs, seconds that they took)."""
    runs, start = 0, clock()
    while (elapsed := clock() - start) < duration:
        forward(image)
        runs += 1
    return runs, elapsed


def minor_faults():
    """Page faults of this process so far that needed no disk, all threads together."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def peak_memory():
    """The most memory this process ever held, in bytes.

    Linux: VmHWM, which starts anew with each program. `ru_maxrss`, which macOS must do with (there in bytes), would
    on Linux carry over the size of the process that started this one.
    """
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
