"""The command line: what may be asked, and one clear line for what may not."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from runner.config import PRESETS, CudaGraphMode, RunConfig
from runner.generation import LONGEST_PROMPT

if TYPE_CHECKING:
    from collections.abc import Callable

_DESCRIPTION = """\
Capture a small model's CUDA graphs, decode through them, and show the telemetry of it.

Without a GPU a CPU stand-in is captured instead, and labelled so. With
OTEL_EXPORTER_OTLP_ENDPOINT set, traces and metrics go there (gRPC, or http/protobuf
as OTEL_EXPORTER_OTLP_PROTOCOL says); without it they are shown at the end.
"""
_EPILOG = """\
exit codes:
  0  all as asked
  1  a capture or a check failed
  2  bad arguments
  3  the endpoint took nothing, or not all; the work itself was done
"""

_MAX_SIZE = 1_000_000
_MAX_LAYERS = 1_000
_MAX_STEPS = 100_000


@dataclasses.dataclass(frozen=True)
class Arguments:
    """A command line that makes sense."""

    device: str
    config: RunConfig
    otlp_json: Path | None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, f"runner: {message}\n")


def parse_arguments(argv: list[str] | None = None) -> Arguments:
    """Parse the command line.

    Raises:
        SystemExit: with 2 after one line that names the option, the value and what is
            accepted; with 0 after ``--help``.
    """
    options = _parser().parse_args(argv)
    longest = LONGEST_PROMPT + options.decode_steps + 1
    model = dataclasses.replace(PRESETS[options.model], num_layers=options.num_layers, max_model_len=longest)
    config = RunConfig(
        model=model,
        mode=CudaGraphMode(options.cudagraph_mode),
        capture_sizes=options.capture_sizes,
        decode_steps=options.decode_steps,
    )
    return Arguments(options.device, config, options.otlp_json)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m runner",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    defaults = RunConfig(PRESETS["tiny"])
    modes = [mode.value for mode in CudaGraphMode]
    parser.add_argument(
        "--device",
        choices=["auto", "cuda", "cpu"],
        default="auto",
        help="where to run (default: %(default)s)",
    )
    parser.add_argument(
        "--cudagraph-mode", choices=modes, default=defaults.mode.value, metavar="MODE",
        help=f"{', '.join(modes)} (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--capture-sizes", type=_sizes, default=defaults.capture_sizes, metavar="SIZES",
        help="batch sizes to capture, in tokens, comma-separated (default: "
        f"{','.join(map(str, defaults.capture_sizes))})",
    )  # fmt: skip
    parser.add_argument(
        "--num-layers", type=_whole_number(1, _MAX_LAYERS), default=defaults.model.num_layers, metavar="N",
        help="layers of the model (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--decode-steps", type=_whole_number(0, _MAX_STEPS), default=defaults.decode_steps, metavar="N",
        help="tokens to decode for each sequence after its first (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--model", choices=list(PRESETS), default="tiny", metavar="PRESET",
        help=f"shape of the model: {', '.join(PRESETS)} (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--otlp-json", type=_writable, metavar="FILE",
        help="also write what arrived at the embedded receiver, as OTLP/JSON lines",
    )  # fmt: skip
    return parser


def _sizes(text: str) -> tuple[int, ...]:
    """Parse sizes; order and repetitions do not matter."""
    accepted = f"use whole numbers from 1 to {_MAX_SIZE}, comma-separated, such as 1,2,4,8"
    try:
        sizes = {int(part) for part in text.split(",")}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of sizes; {accepted}") from None
    if not 1 <= min(sizes) <= max(sizes) <= _MAX_SIZE:
        raise argparse.ArgumentTypeError(f"{text!r} has a size out of range; {accepted}")
    return tuple(sorted(sizes))


def _whole_number(minimum: int, maximum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if not minimum <= value <= maximum:
            accepted = f"use a whole number from {minimum} to {maximum}"
            raise argparse.ArgumentTypeError(f"{text!r} is not accepted; {accepted}")
        return value

    return parse


def _writable(text: str) -> Path:
    path = Path(text)
    try:
        path.open("a").close()
    except OSError as error:
        said = f"{text!r} cannot be written ({error.strerror}); give a file in an existing folder"
        raise argparse.ArgumentTypeError(said) from None
    return path
