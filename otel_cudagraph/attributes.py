"""Attributes of spans and metrics, made of facts. Unknown values are left out, never invented."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_cudagraph import semconv
from otel_cudagraph.clock import seconds

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

    from otel_cudagraph.facts import Capture, Descriptor, Device, Failure, Trigger

    Value: TypeAlias = str | int | float | bool
    Attributes: TypeAlias = dict[str, Value]
    Series: TypeAlias = tuple[tuple[str, Value], ...]


def _known(pairs: Iterable[tuple[str, Value | None]]) -> Attributes:
    return {key: value for key, value in pairs if value is not None}


def _common(descriptor: Descriptor, *, simulated: bool) -> Attributes:
    """What both spans and all metrics carry; each has a handful of values at most."""
    return _known(
        (
            (semconv.ENGINE, descriptor.engine),
            (semconv.PURPOSE, descriptor.purpose and descriptor.purpose.value),
            (semconv.PHASE, descriptor.phase and descriptor.phase.value),
            (semconv.RUNTIME_MODE, descriptor.runtime_mode),
            (semconv.SIMULATED, simulated or None),
        )
    )


def capture_series(capture: Capture) -> Series:
    """Return the metric attributes of a capture, hashable."""
    common = _common(capture.descriptor, simulated=capture.simulated)
    if capture.device is not None:
        common[semconv.DEVICE_INDEX] = capture.device.index
    return tuple(common.items())


def trigger_series(trigger: Trigger) -> Series:
    """Return the metric attributes of a trigger: those known at its start, so that they stay."""
    return tuple(_common(trigger.descriptor, simulated=trigger.simulated).items())


def capture_attributes(capture: Capture) -> Attributes:
    """Return the span attributes of a finished capture."""
    descriptor = capture.descriptor
    return {
        **_common(descriptor, simulated=capture.simulated),
        **_device(capture.device),
        **_known(
            (
                (semconv.CODE_FUNCTION_NAME, capture.function),
                (semconv.KEY, descriptor.key),
                (semconv.BATCH_SIZE, descriptor.batch_size),
                (semconv.NUM_TOKENS, descriptor.num_tokens),
                (semconv.POOL_ID, capture.pool_id),
                (semconv.RANK, capture.rank),
                (semconv.PREPARE_TIME, seconds(capture.prepare_ns)),
                (semconv.RECORD_TIME, seconds(capture.record_ns)),
                (semconv.INSTANTIATE_TIME, seconds(capture.instantiate_ns)),
                (semconv.ERROR_TYPE, _error_type(capture.failure)),
            )
        ),
    }


def trigger_start_attributes(
    descriptor: Descriptor, function: str, rank: int | None, *, simulated: bool
) -> Attributes:
    """Return what is known of a trigger when it opens; samplers see these."""
    return {
        **_common(descriptor, simulated=simulated),
        **_known(((semconv.CODE_FUNCTION_NAME, function), (semconv.RANK, rank))),
    }


def trigger_end_attributes(trigger: Trigger) -> Attributes:
    """Return what is known of a trigger once it has ended."""
    captures = trigger.captures
    prepare = sum(capture.prepare_ns for capture in captures)
    record = sum(capture.record_ns for capture in captures)
    instantiate = sum(capture.instantiate_ns for capture in captures)
    # Captures of several threads may overlap: the rest is never negative.
    other = max(0, trigger.duration_ns - prepare - record - instantiate)
    devices = {capture.device for capture in captures}
    return {
        **_device(devices.pop() if len(devices) == 1 else None),
        **_known(
            (
                (semconv.CAPTURED, trigger.captured),
                (semconv.FAILED, trigger.failed),
                (semconv.PREPARE_TIME, seconds(prepare)),
                (semconv.RECORD_TIME, seconds(record)),
                (semconv.INSTANTIATE_TIME, seconds(instantiate)),
                (semconv.OTHER_TIME, seconds(other)),
                (semconv.SIMULATED, any(capture.simulated for capture in captures) or None),
                (semconv.ERROR_TYPE, _error_type(trigger.failure)),
            )
        ),
    }


def _error_type(failure: Failure | None) -> str | None:
    return None if failure is None else failure.type


def _device(device: Device | None) -> Attributes:
    if device is None:
        return {}
    return _known(
        (
            (semconv.DEVICE_INDEX, device.index),
            (semconv.HW_TYPE, device.hw_type),
            (semconv.HW_ID, device.hw_id),
            (semconv.HW_NAME, device.hw_name),
        )
    )
