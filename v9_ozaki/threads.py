"""The worker threads: C code that is part of the generated program, and the object that owns them in Python.

Threads are started once. Between pictures they sleep. During a picture all of them, the caller's included, run through
the same steps, each computing its share and then parts of others', and wait for each other after every step.
"""

import ctypes
import os
import weakref
from pathlib import Path

from numpy.typing import NDArray

POOL = r"""
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { PARTS = 8, FIRST = 6 }; /* parts of a thread's share; the first call for it computes six, every other one */

struct worker {
    pthread_t thread;
    atomic_long calls; /* for its share of this step, and attempts at more */
    long rest[6];      /* so that no two `calls` are in one cache line */
};

struct pool {
    const float *weights;
    float *memory;
    long threads;
    long first, last;          /* the steps to run */
    pthread_mutex_t mutex;     /* guards first to closing */
    pthread_cond_t wake, next; /* there is a run to do; all threads have done a step */
    long started, runs, closing;
    atomic_long arrived, phase;
    struct worker workers[];
};

/* Wait until all threads are here: first spinning, since shares are nearly equal and waking a thread takes longer than
   they differ; then offering the core, which the thread that is missing may need; after some milliseconds asleep. */
static void barrier(struct pool *pool) {
    long phase = atomic_load(&pool->phase);
    if (atomic_fetch_add(&pool->arrived, 1) + 1 == pool->threads) {
        atomic_store(&pool->arrived, 0);
        for (long thread = 0; thread < pool->threads; thread += 1) {
            atomic_store(&pool->workers[thread].calls, 0);
        }
        pthread_mutex_lock(&pool->mutex);
        atomic_store(&pool->phase, phase + 1);
        pthread_cond_broadcast(&pool->next);
        pthread_mutex_unlock(&pool->mutex);
        return;
    }
    for (long spins = 0; spins < 20000; spins += 1) {
        if (atomic_load_explicit(&pool->phase, memory_order_acquire) != phase) {
            return;
        }
        if (spins > 10000) {
            sched_yield();
        }
    }
    pthread_mutex_lock(&pool->mutex);
    while (atomic_load(&pool->phase) == phase) {
        pthread_cond_wait(&pool->next, &pool->mutex);
    }
    pthread_mutex_unlock(&pool->mutex);
}

static void forward(struct pool *pool, long thread, long first, long last) {
    for (long step = first; step < last; step += 1) {
        for (long n = 0; n < pool->threads; n += 1) { /* its own share, then what a slower thread has not begun */
            long owner = (thread + n) % pool->threads, start = owner * PARTS, to;
            while ((to = FIRST + atomic_fetch_add(&pool->workers[owner].calls, 1)) <= PARTS) {
                long from = to == FIRST ? 0 : to - 1;
                steps[step](pool->weights, pool->memory, start + from, start + to, PARTS * pool->threads);
            }
        }
        barrier(pool);
    }
}

static void *worker(void *argument) {
    struct pool *pool = argument;
    long done = 0;
    pthread_mutex_lock(&pool->mutex);
    long thread = pool->started += 1;
    for (;;) {
        while (pool->runs == done && !pool->closing) {
            pthread_cond_wait(&pool->wake, &pool->mutex);
        }
        if (pool->closing) {
            pthread_mutex_unlock(&pool->mutex);
            return NULL;
        }
        done = pool->runs;
        long first = pool->first, last = pool->last; /* the next run may begin while this thread leaves the barrier */
        pthread_mutex_unlock(&pool->mutex);
        forward(pool, thread, first, last);
        pthread_mutex_lock(&pool->mutex);
    }
}

void pool_run(struct pool *pool, long first, long last) {
    pthread_mutex_lock(&pool->mutex);
    pool->first = first;
    pool->last = last;
    pool->runs += 1;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    forward(pool, 0, first, last);
}

void pool_close(struct pool *pool) {
    pthread_mutex_lock(&pool->mutex);
    pool->closing = 1;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (long thread = 1; thread < pool->threads; thread += 1) {
        pthread_join(pool->workers[thread].thread, NULL);
    }
    free(pool);
}

/* Return a pool of as many threads as asked for, the caller's included, or NULL if the system refuses one. */
struct pool *pool_open(const float *weights, float *memory, long threads) {
    struct pool *pool = calloc(1, sizeof *pool + threads * sizeof(struct worker));
    if (!pool) {
        return NULL;
    }
    pool->weights = weights;
    pool->memory = memory;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->next, NULL);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the threads of the Python interpreter */
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 1 << 20); /* some systems give 128 KiB, and version 7 needs 512 */
    pool->threads = 1;
    struct worker *next = pool->workers + 1;
    while (pool->threads < threads && !pthread_create(&next->thread, &attributes, worker, pool)) {
        pool->threads += 1;
        next += 1;
    }
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (pool->threads < threads) {
        pool_close(pool);
        return NULL;
    }
    return pool;
}
"""


class ThreadsError(Exception):
    """More threads than the system allows; the message is one line."""


class Pool:
    """The threads of one network, and the memory that they work on."""

    def __init__(self, library: ctypes.CDLL, weights: NDArray, memory: NDArray, threads: int):
        """Start the threads. Raises ThreadsError if the system does not allow so many."""
        library.pool_open.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
        library.pool_open.restype = ctypes.c_void_p
        library.pool_run.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_long]
        library.pool_close.argtypes = [ctypes.c_void_p]
        self.library, self.weights, self.memory, self.threads = library, weights, memory, threads
        self.open()

    def open(self):
        pool = self.library.pool_open(self.weights.ctypes.data, self.memory.ctypes.data, self.threads)
        if not pool:
            raise ThreadsError(f"threads: the system does not allow {self.threads}; ask for fewer")
        self.pool, self.process = pool, os.getpid()
        # At exit there is nothing to do: threads that sleep end with the process.
        weakref.finalize(self, close, self.library, pool, self.process).atexit = False

    def run(self, first: int, last: int) -> None:
        """Run the steps from `first` up to, but not including, `last`."""
        if self.process != os.getpid():  # after a fork, the threads are in the parent only
            self.open()
        self.library.pool_run(self.pool, first, last)


def close(library, pool, process):
    """End the threads, which sleep. In a forked process there are none."""
    if process == os.getpid():
        library.pool_close(pool)


def available_cores(limit: str | Path = "/sys/fs/cgroup/cpu.max") -> int:
    """Return how many cores this process may use: by its affinity, and by its control group's limit (containers)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path(limit).read_text().split()
        return min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no such limit; "max" means none
        return cores
