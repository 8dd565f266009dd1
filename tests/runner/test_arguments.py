"""Wrong input: exit 2 and one line that names the option or variable, the value and what is accepted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runner.__main__ import main
from runner.arguments import parse_arguments
from runner.otlp_settings import SettingsError, read_settings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--cudagraph-mode", "SOMETIMES"], ["--cudagraph-mode", "'SOMETIMES'", "FULL_AND_PIECEWISE"]),
        (["--capture-sizes", ""], ["--capture-sizes", "''", "1,2,4,8"]),
        (["--capture-sizes", "1,two"], ["--capture-sizes", "'1,two'", "whole numbers from 1"]),
        (["--capture-sizes", "4,0"], ["--capture-sizes", "'4,0'", "out of range", "whole numbers from 1"]),
        (["--capture-sizes", "9" * 20], ["--capture-sizes", "out of range", "to 1000000"]),
        (["--decode-steps", "9" * 12], ["--decode-steps", "to 100000"]),
        (["--capture-sizes=-4"], ["--capture-sizes", "'-4'", "whole numbers from 1"]),
        (["--num-layers", "0"], ["--num-layers", "'0'", "a whole number from 1"]),
        (["--num-layers", "-3"], ["--num-layers", "'-3'", "a whole number from 1"]),
        (["--decode-steps", "-1"], ["--decode-steps", "'-1'", "a whole number from 0"]),
        (["--decode-steps", "many"], ["--decode-steps", "'many'", "a whole number from 0"]),
        (["--model", "enormous"], ["--model", "'enormous'", "tiny", "small", "medium"]),
        (["--device", "tpu"], ["--device", "'tpu'", "auto", "cuda", "cpu"]),
        (
            ["--otlp-json", "/no/such/folder/file"],
            ["--otlp-json", "'/no/such/folder/file'", "existing folder"],
        ),
        (["--num-lay", "3"], ["--num-lay"]),
        (["stray"], ["stray"]),
    ],
)
def test_bad_arguments(arguments: list[str], named: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.count("\n") == 1
    assert all(word in error for word in named), error


def test_order_and_repetition_of_sizes_do_not_matter() -> None:
    assert parse_arguments(["--capture-sizes", "8,1, 4,8,2"]).config.capture_sizes == (1, 2, 4, 8)


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4317"},
            ["OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317"],
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://"}, ["OTEL_EXPORTER_OTLP_ENDPOINT", "'http://'"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://host:port"}, ["'http://host:port'"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://host:99999"}, ["'http://host:99999'"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://host:21"}, ["'ftp://host:21'"]),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "nonsense"},
            ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "'nonsense'"],
        ),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "carrier-pigeon"},
            ["OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"],
        ),
        (
            {"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/json"},
            ["OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "'http/json'"],
        ),
        ({"OTEL_TRACES_EXPORTER": "console"}, ["OTEL_TRACES_EXPORTER", "'console'", "otlp or none"]),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "inf"}, ["OTEL_EXPORTER_OTLP_TIMEOUT", "'inf'", "seconds"]),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, ["OTEL_EXPORTER_OTLP_TIMEOUT", "'soon'", "seconds"]),
        (
            {"OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/such.pem"},
            ["OTEL_EXPORTER_OTLP_CERTIFICATE", "'/no/such.pem'"],
        ),
    ],
)
def test_bad_variables(variables: dict[str, str], named: list[str], capsys, monkeypatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert main([]) == 2

    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(word in error for word in named), error


def test_a_signal_s_own_variable_comes_before_the_general_one() -> None:
    settings = read_settings(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://all:4317",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://metrics:4318/v1/metrics",
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "7.5",
        }
    )

    traces, metrics = settings.targets
    assert (traces.endpoint, traces.protocol, traces.timeout_s) == ("http://all:4317", "grpc", 7.5)
    assert (metrics.endpoint, metrics.protocol) == ("http://metrics:4318/v1/metrics", "http/protobuf")


def test_only_the_signal_that_has_an_endpoint_is_exported() -> None:
    settings = read_settings({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://traces:4317"})

    assert [target.signal for target in settings.targets] == ["traces"]
    assert not settings.uses_receiver


def test_a_signal_can_be_switched_off() -> None:
    settings = read_settings({"OTEL_METRICS_EXPORTER": "none"})

    assert [target.signal for target in settings.targets] == ["traces"]
    assert settings.uses_receiver


def test_an_empty_variable_is_an_unset_one() -> None:
    assert read_settings({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}).uses_receiver


def test_settings_are_checked_before_torch_is_imported() -> None:
    code = "import sys; from runner.__main__ import main; main([]); sys.exit('torch' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": "nonsense"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0
    assert "OTEL_EXPORTER_OTLP_ENDPOINT='nonsense'" in run.stderr


def test_cuda_without_a_gpu_says_why(capsys) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")

    assert main(["--device", "cuda"]) == 2

    error = capsys.readouterr().err
    assert error.startswith("runner: --device cuda: ")
    assert error.count("\n") == 1
    assert "driver" in error or "build without CUDA" in error


def test_help_reads_well(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])

    text = capsys.readouterr().out
    assert ended.value.code == 0
    for word in ("--capture-sizes", "OTEL_EXPORTER_OTLP_ENDPOINT", "exit codes", "took nothing"):
        assert word in text


def test_error_type_is_public() -> None:
    with pytest.raises(SettingsError):
        read_settings({"OTEL_EXPORTER_OTLP_PROTOCOL": "no"})
