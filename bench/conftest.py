"""`pytest bench`: its options, and what it says besides pytest-benchmark's table."""

import argparse
from pathlib import Path

import pytest

from bench.__main__ import image_size, named, thread_count
from bench.inputs import InputError, Inputs, make_inputs
from bench.machine import machine_info
from bench.text import Table, digits
from common.machine import available_cores
from common.versions import VERSIONS


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ResNet-50")
    group.addoption("--only", type=versions, default=" ".join(VERSIONS), help='versions, such as "v5 v6"')
    group.addoption("--size", type=image_size, default=224, help="of the picture in pixels (default: 224)")
    group.addoption("--threads", type=thread_count, default=available_cores(), help="default: all cores")
    group.addoption("--weights", type=Path, help="default: the exported ones, else synthetic")


def versions(text: str) -> list[str]:
    """The fastest first: version 1 takes minutes."""
    if chosen := sorted((named(VERSIONS, name) for name in text.replace(",", " ").split()), reverse=True):
        return chosen
    raise argparse.ArgumentTypeError("no version is named")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "version" in metafunc.fixturenames:
        metafunc.parametrize("version", metafunc.config.option.only)


@pytest.fixture(scope="session")
def inputs(pytestconfig: pytest.Config) -> Inputs:
    try:
        return make_inputs(pytestconfig.option.size, pytestconfig.option.weights)
    except InputError as error:
        pytest.exit(f"error: {error}", returncode=1)


def pytest_benchmark_generate_machine_info() -> dict:
    return machine_info()


def pytest_benchmark_update_json(output_json: dict) -> None:
    """Leave out what was interrupted before its last output was checked."""
    checked = [run for run in output_json["benchmarks"] if run["group"] != "latency" or run["extra_info"]]
    output_json["benchmarks"] = checked


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What pytest-benchmark's table has no columns for, under the names that the stored file uses."""
    keys = ("threads", "p50", "p95", "p99", "gflops", "max_abs_error", "arrays", "peak_memory", "startup_seconds")
    reports = terminalreporter.getreports("passed")
    timed = [facts for report in reports for name, facts in report.user_properties if name == "extra_info"]
    if timed:
        rows = [[facts["version"], *(digits(facts.get(key)) for key in keys)] for facts in timed]
        terminalreporter.write_line(Table(["seconds and bytes", *keys], rows).text("simple"))
