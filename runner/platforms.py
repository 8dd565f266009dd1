"""Where graphs are captured: CUDA, or the stand-in on a CPU. The runner treats both alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from otel_cudagraph import register_graph_family

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager


class DeviceUnavailableError(RuntimeError):
    """The device that was asked for cannot be used; the message says why."""


@dataclass(frozen=True)
class Platform:
    """What the runner needs of a device."""

    device: torch.device
    name: str
    simulated: bool
    new_graph: Callable[[], Any]
    capture: Callable[..., AbstractContextManager[None]]
    """``capture(graph, pool=...)``: the body is captured."""
    graph_pool: Callable[[], Any]
    synchronize: Callable[[], None]


def select_platform(device: str) -> Platform:
    """Return the platform for ``auto``, ``cuda`` or ``cpu``.

    Raises:
        DeviceUnavailableError: ``cuda`` was asked for and there is none.
    """
    if device == "cpu":
        return _stand_in()
    reason = cuda_unavailable_reason()
    if reason is None:
        return _cuda()
    if device == "auto":
        return _stand_in()
    raise DeviceUnavailableError(reason)


def cuda_unavailable_reason() -> str | None:
    """Return why CUDA cannot be used, None where it can."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA; install a CUDA build"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).split(". ", maxsplit=1)[0].strip().rstrip(".")
    return None


def _cuda() -> Platform:
    return Platform(
        device=torch.device("cuda", torch.cuda.current_device()),
        name=torch.cuda.get_device_name(),
        simulated=False,
        new_graph=torch.cuda.CUDAGraph,
        capture=torch.cuda.graph,
        graph_pool=torch.cuda.graph_pool_handle,
        synchronize=torch.cuda.synchronize,
    )


def _stand_in() -> Platform:
    # Not at the top: only a run without a GPU pays for it.
    from runner import stand_in  # noqa: PLC0415

    register_graph_family(stand_in.FAMILY)
    return Platform(
        device=torch.device("cpu"),
        name=stand_in.get_device_properties(0).name,
        simulated=True,
        new_graph=stand_in.StandInGraph,
        capture=stand_in.graph,
        graph_pool=stand_in.graph_pool_handle,
        synchronize=lambda: None,
    )
