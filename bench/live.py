"""What is on the screen while the versions are measured: the table so far, and how far the present one is."""

import time

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text


class Display:
    """Told of progress by latency.Experiment. A context manager.

    console: where to. shares: {stage: share of the work that is done when it ends}. table(benchmarks, failed): the
    table so far. On anything but a terminal each version is one line, printed when it is done. Nothing is drawn while
    rounds are timed: drawing ten times a second takes some per cent of a core.
    """

    def __init__(self, console, shares, table, clock=time.monotonic):
        self.console, self.shares, self.table, self.clock = console, shares, table, clock
        self.live = Live(console=console, transient=True, auto_refresh=False, redirect_stdout=False)
        self.rows = None
        self.start("", "")

    def __enter__(self):
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_):
        if self.console.is_terminal:
            self.live.stop()

    def start(self, name, doing):
        """A version begins something: to start up, or to run its first picture."""
        self.name, self.doing, self.share, self.rate = name, doing, 0.0, None
        self.started = self.since = self.clock()
        self.tick()

    def stage(self, stage):
        """A stage of the network is done. The rate is the last stage's own: the stages before may run otherwise."""
        now, share = self.clock(), self.shares.get(stage, self.share)
        if share > self.share:
            self.rate = (share - self.share) / (now - self.since)
            self.share, self.since = share, now
        self.tick()

    def time_left(self):
        """Seconds that the present picture still takes, or None before its first stage is done."""
        if not self.rate:
            return None
        return max(0.0, (1 - self.share) / self.rate - (self.clock() - self.since))

    def tick(self):
        """Time has passed."""
        if self.console.is_terminal:
            self.live.update(Group(*filter(None, (self.rows, self.progress()))), refresh=True)

    def finish(self, benchmarks, failed):
        """A version is done; these are all results so far."""
        self.rows = self.table(benchmarks, failed)
        if self.console.is_terminal:
            self.tick()
        else:
            print(f"measured {self.name}", file=self.console.file, flush=True)

    def progress(self):
        elapsed, left = self.clock() - self.started, self.time_left()
        line = Table.grid(padding=(0, 1))
        line.add_row(
            Text(f"{self.name} {self.doing}"),
            ProgressBar(total=1.0, completed=1.0 if left is None else elapsed / (elapsed + left), width=40,
                        pulse=left is None),
            Text(f"{elapsed:.0f} s" + ("" if left is None else f", about {left:.0f} s left")),
        )
        return line
