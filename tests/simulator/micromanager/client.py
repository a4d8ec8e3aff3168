"""What a lab's script does with pycromanager, unmodified, in a process of its own.

Usage: ``python client.py PORT SCENARIO [ARGUMENT]``; the last line printed is the result.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pycromanager import Acquisition, Core, multi_d_acquisition_events
from pyjavaz import JavaObject

PORT = int(sys.argv[1])
# pycromanager 1.0.2 reads the images of an acquisition in memory on the default port, whatever port
# the acquisition was given: the default is moved, as a lab with the real port 4827 need not.
JavaObject.__new__.__defaults__ = (None, PORT, *JavaObject.__new__.__defaults__[2:])

# A failed acquisition is part of a reference cycle. When the garbage collector comes to it, pyjavaz
# 1.2.8 may hang for ever: it talks to a bridge that it has just closed, or waits for a lock that it
# holds. So nothing is collected here, and the process ends without clearing up.
KEPT: list[Any] = []


def acquisition(**options: Any) -> Any:
    made = Acquisition(port=PORT, show_display=False, **options)
    KEPT.append(made)
    return made


def failing_acquisition(**options: Any) -> Any:
    """Return an acquisition that ends after an error.

    pycromanager's own thread would wait for ever for the next event: an error clears the queue in
    which the end was announced, or an adaptive run has announced none.
    """

    def tell(notification: Any) -> None:
        if notification.milestone == "acq_events_finished":
            made.mark_finished()

    made = acquisition(notification_callback_fn=tell, **options)
    return made


def core() -> Any:
    """Return a core with a small ROI in the middle and some light."""
    made = Core(port=PORT)
    KEPT.append(made)
    made.set_property("Scanner", "PixelSize_nm", 20)
    made.clear_roi()
    shape = made.get_image_height(), made.get_image_width()
    made.set_roi(shape[1] // 2 - 16, shape[0] // 2 - 12, 32, 24)
    made.set_property("Excitation", "Power_uW", 10)
    return made


def refused(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:  # noqa: BLE001  # pycromanager raises nothing more precise
        return str(error)
    return "nothing was refused"


def strings(vector: Any) -> list[str]:
    return [vector.get(index) for index in range(vector.size())]


def devices() -> dict[str, Any]:
    scope = core()
    position_before = scope.get_x_position()
    scope.set_xy_position(1.5, -2.0)
    scope.set_relative_xy_position(0.25, 0.0)
    place, roi = scope.get_xy_stage_position(), scope.get_roi()
    scope.set_exposure(0.02)
    scope.set_config("Channel", "sted")
    scope.wait_for_config("Channel", "sted")
    scope.set_property("STED", "Power_mW", "150")
    scope.set_property("Core", "AutoShutter", False)
    scope.wait_for_system()
    return {
        "version": scope.get_version_info(),
        "devices": strings(scope.get_loaded_devices()),
        "properties": strings(scope.get_device_property_names("Scanner")),
        "modalities": strings(scope.get_allowed_property_values("Scanner", "Modality")),
        "presets": strings(scope.get_available_configs("Channel")),
        "modality": scope.get_current_config("Channel"),
        "limits": [
            scope.get_property_lower_limit("STED", "Power_mW"),
            scope.get_property_upper_limit("STED", "Power_mW"),
        ],
        "has": [
            scope.has_property("STED", "Power_mW"),
            scope.has_property("STED", "Colour"),
            scope.has_property_limits("Scanner", "Modality"),
            scope.is_property_read_only("STED", "Power_mW"),
        ],
        "power": scope.get_property("STED", "Power_mW"),
        "dwell": scope.get_property("Scanner", "DwellTime_us"),
        "auto_shutter": scope.get_auto_shutter(),
        "roles": [
            scope.get_camera_device(),
            scope.get_shutter_device(),
            scope.get_xy_stage_device(),
            scope.get_focus_device(),
        ],
        "position": [position_before, place.x, place.y, scope.get_position()],
        "roi": [roi.x, roi.y, roi.width, roi.height],
        "image": [
            scope.get_image_width(),
            scope.get_image_height(),
            scope.get_bytes_per_pixel(),
            scope.get_image_bit_depth(),
        ],
        "pixel_size": scope.get_pixel_size_um(),
        "round_trip_ms": round_trip_ms(scope),
    }


def refusals() -> dict[str, str]:
    scope = core()
    return {
        "power": refused(lambda: scope.set_property("STED", "Power_mW", 9999)),
        "nan": refused(lambda: scope.set_property("STED", "Power_mW", "nan")),
        "nan as a number": refused(lambda: scope.set_property("STED", "Power_mW", float("nan"))),
        "negative": refused(lambda: scope.set_property("Excitation", "Power_uW", -1)),
        "word": refused(lambda: scope.set_property("Scanner", "DwellTime_us", "slow")),
        "averages": refused(lambda: scope.set_property("Scanner", "LineAverages", 1.5)),
        "modality": refused(lambda: scope.set_property("Scanner", "Modality", "magic")),
        "device": refused(lambda: scope.set_property("Laser", "Power", 1)),
        "property": refused(lambda: scope.set_property("STED", "Powr", 1)),
        "exposure": refused(lambda: scope.set_exposure(100.0)),
        "stage": refused(lambda: scope.set_xy_position(1000.0, 0.0)),
        "focus": refused(lambda: scope.set_position(3.0)),
        "roi": refused(lambda: scope.set_roi(0, 0, 100000, 1)),
        "no image": refused(scope.get_image),
        "class": refused(lambda: JavaObject("java.lang.Runtime")),
        "unchanged": scope.get_property("STED", "Power_mW"),
        "too large": too_large(scope),
    }


def too_large(scope: Any) -> str:
    """Ask for the full field at the finest sampling: each value is allowed, the whole is not."""
    scope.clear_roi()
    scope.set_property("Scanner", "PixelSize_nm", 10)
    return refused(scope.snap_image)


def snap(modality: str = "confocal", sted_mw: str = "0") -> dict[str, Any]:
    scope = core()
    scope.set_config("Channel", modality)
    scope.set_property("STED", "Power_mW", float(sted_mw))
    scope.snap_image()
    flat, tagged = scope.get_image(), scope.get_tagged_image()
    shape = tagged.tags["Height"], tagged.tags["Width"]
    return {
        "pixels": flat.reshape(shape).tolist(),
        "dtype": str(flat.dtype),
        "same": bool(np.array_equal(flat, tagged.pix)),
        "tags": tagged.tags,
    }


def shutter() -> dict[str, Any]:
    """Snap with the shutter closed, then open."""
    scope = core()
    scope.set_auto_shutter(False)
    scope.snap_image()
    scope.set_shutter_open(True)
    scope.snap_image()
    return {"open": scope.get_shutter_open()}


def sequence() -> dict[str, Any]:
    scope = core()
    numbers = []
    scope.start_sequence_acquisition(5, 0.0, True)
    while scope.is_sequence_running() or scope.get_remaining_image_count() > 0:
        if scope.get_remaining_image_count() > 0:
            numbers.append(scope.pop_next_tagged_image().tags["ImageNumber"])
    empty = refused(scope.pop_next_image)
    scope.start_continuous_sequence_acquisition(1.0)
    while scope.get_remaining_image_count() < 3:
        time.sleep(0.01)
    busy = [refused(scope.snap_image), refused(lambda: scope.set_roi(0, 0, 8, 8))]
    scope.stop_sequence_acquisition()
    size = scope.get_last_image().size
    scope.set_circular_buffer_memory_footprint(1)
    scope.start_continuous_sequence_acquisition(0.0)
    while not scope.is_buffer_overflowed():
        time.sleep(0.01)
    kept = scope.get_remaining_image_count()
    scope.clear_circular_buffer()
    return {
        "numbers": numbers,
        "empty": empty,
        "busy": busy,
        "size": size,
        "kept": kept,
        "overflow": refused(scope.stop_sequence_acquisition),
    }


def round_trip_ms(scope: Any) -> float:
    times_s = []
    for _ in range(300):
        start_s = time.perf_counter()
        scope.get_exposure()
        times_s.append(time.perf_counter() - start_s)
    return 1e3 * float(np.median(times_s))


def hooks() -> dict[str, Any]:
    """All that an acquisition calls back; the hook before the hardware cancels the second event."""
    scope = core()
    calls: list[str] = []
    milestones: list[str] = []
    saved: list[int] = []

    def hook(name: str) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
        def called(event: dict[str, Any]) -> dict[str, Any] | None:
            calls.append(f"{name} {event['axes']['time']}")
            return None if name == "pre" and event["axes"]["time"] == 1 else event

        return called

    def two(event: dict[str, Any], queue: Any) -> dict[str, Any]:
        calls.append(f"post {event['axes']['time']}")
        return event

    def process(image: Any, tags: dict[str, Any]) -> Any:
        return image + 1000, tags

    events = multi_d_acquisition_events(
        num_time_points=3, channel_group="Channel", channels=["confocal"], channel_exposures_ms=[0.02]
    )
    for number, event in enumerate(events):
        event["properties"] = [["Excitation", "Power_uW", number + 1]]
        event["x"], event["y"] = 0.5 * number, 0.0
        event["tags"] = {"why": "test"}
    with acquisition(
        event_generation_hook_fn=hook("generation"),
        pre_hardware_hook_fn=hook("pre"),
        post_hardware_hook_fn=two,
        post_camera_hook_fn=hook("camera"),
        image_process_fn=process,
        notification_callback_fn=lambda notification: milestones.append(notification.milestone),
        image_saved_fn=lambda axes, dataset: saved.append(axes["time"]),
    ) as running:
        future = running.acquire(events)
        image, tags = future.await_image_saved(events[2]["axes"], return_metadata=True)
    dataset = running.get_dataset()
    return {
        "calls": calls,
        "milestones": milestones,
        "saved": saved,
        "least": int(image.min()),
        "power": tags["Excitation-Power_uW"],
        "dwell": tags["Scanner-DwellTime_us"],
        "x": tags["XPosition_um"],
        "tags": tags["tags"],
        "shape": list(np.asarray(dataset.as_array()).shape),
        "axes": sorted(axes["time"] for axes in dataset.get_image_coordinates_list()),
        "after": scope.get_x_position(),
    }


def adaptive() -> dict[str, Any]:
    """The next event is chosen from the last image, ten times."""
    core()
    powers, times_s = [], []

    def process(image: Any, tags: dict[str, Any], queue: Any) -> Any:
        powers.append(float(tags["Excitation-Power_uW"]))
        times_s.append(time.perf_counter())
        step = tags["Axes"]["time"] + 1
        power = ["Excitation", "Power_uW", float(image.max() + step)]
        queue.put({"axes": {"time": step}, "properties": [power]} if step < 10 else None)
        return image, tags

    running = acquisition(image_process_fn=process)
    running.acquire({"axes": {"time": 0}})
    running.await_completion()
    images = running.get_dataset().get_image_coordinates_list()
    return {
        "powers": powers,
        "images": len(images),
        "step_ms": 1e3 * float(np.median(np.diff(times_s))),
        "then": refused_while_adaptive(),
    }


def refused_while_adaptive() -> dict[str, Any]:
    """The third request is out of limits."""
    core()

    def process(image: Any, tags: dict[str, Any], queue: Any) -> Any:
        step = tags["Axes"]["time"] + 1
        queue.put({"axes": {"time": step}, "properties": [["Excitation", "Power_uW", 45.0 * step]]})
        return image, tags

    running = failing_acquisition(image_process_fn=process)
    running.acquire({"axes": {"time": 0}})
    return {
        "error": refused(running.await_completion),
        "images": len(running.get_dataset().get_image_coordinates_list()),
    }


def errors() -> dict[str, str]:
    core()

    def one(event: dict[str, Any], **options: Any) -> str:
        def run() -> None:
            with failing_acquisition(**options) as running:
                running.acquire(event)

        return refused(run)

    def fails(*_: object) -> None:
        raise RuntimeError("the script is wrong")

    axes = {"axes": {"time": 0}}
    start_s = time.perf_counter()
    with acquisition() as running:
        running.acquire([{"axes": {"time": index}, "min_start_time": 60.0 * index} for index in range(5)])
        time.sleep(0.2)
        running.abort()
    abort_s = time.perf_counter() - start_s
    return {
        "property": one(axes | {"properties": [["STED", "Power_mW", 9999]]}),
        "channel": one(axes | {"config_group": ["Channel", "magic"]}),
        "key": one(axes | {"exposure_ms": 3}),
        "hook": one(axes, pre_hardware_hook_fn=lambda event: fails()),
        "processor": one(axes, image_process_fn=lambda image, tags: fails()),
        "stage": one(axes | {"x": 500.0}),
        "at sign": one(axes | {"tags": {"by": "me@lab"}}, image_process_fn=lambda image, tags: (image, tags)),
        "directory": refused(lambda: acquisition(directory="/anywhere", name="x")),
        "abort_s": str(abort_s),
    }


def disk(folder: str) -> dict[str, Any]:
    core()
    means: list[float] = []

    def saved(axes: dict[str, Any], dataset: Any) -> None:
        means.append(float(dataset.read_image(**axes).mean()))

    with acquisition(directory=folder, name="demo", image_saved_fn=saved) as running:
        running.acquire([{"axes": {"time": index}} for index in range(3)])
    dataset = running.get_dataset()
    path = dataset.path
    power = dataset.read_metadata(time=2)["Excitation-Power_uW"]
    dataset.close()
    return {
        "path": path,
        "power": power,
        "means": means,
        "size": sum(f.stat().st_size for f in Path(path).iterdir()),
    }


def dies_in_sequence() -> None:
    core().start_continuous_sequence_acquisition(0.0)
    os.kill(os.getpid(), signal.SIGKILL)


def dies_in_snap() -> None:
    scope = core()
    scope.snap_image()


def dies_in_hook() -> None:
    core()
    with acquisition(post_hardware_hook_fn=lambda event: os.kill(os.getpid(), signal.SIGKILL)) as running:
        running.acquire({"axes": {"time": 0}})


def dies_in_acquisition() -> None:
    core()

    def tell(notification: Any) -> None:
        if notification.milestone == "post_snap":
            os.kill(os.getpid(), signal.SIGKILL)

    with acquisition(notification_callback_fn=tell) as running:
        running.acquire([{"axes": {"time": index}} for index in range(10_000)])


def long_acquisition() -> None:
    core()
    with acquisition() as running:
        running.acquire([{"axes": {"time": index}} for index in range(10_000)])


SCENARIOS: dict[str, Callable[..., object]] = {
    scenario.__name__: scenario
    for scenario in (
        devices, refusals, snap, shutter, sequence, hooks, adaptive, errors, disk,
        dies_in_sequence, dies_in_snap, dies_in_hook, dies_in_acquisition,
        long_acquisition,
    )
}  # fmt: skip

if __name__ == "__main__":
    faulthandler.dump_traceback_later(25, exit=True)
    sys.stdout.write(json.dumps(SCENARIOS[sys.argv[2]](*sys.argv[3:])) + "\n")
    sys.stdout.flush()
    os._exit(0)
