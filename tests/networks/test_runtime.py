"""Networks on images: any size, the same bits every time, on every library that is installed."""

from __future__ import annotations

import importlib.util
import sys
import threading
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from controller.core.errors import ConfigurationError
from controller.networks.engines import ran_out_of_memory
from controller.networks.runtime import Runtime, RuntimeOptions
from controller.networks.small_unet import SmallUNet, SmallUNetOptions
from controller.networks.torch_engine import has_fast_bfloat16

Array = NDArray[np.float32]
CONDITIONS = 2


def network(seed: int = 0, conditions: int = CONDITIONS, inputs: int = 3) -> SmallUNet:
    """Return a small network with random numbers."""
    built = SmallUNet(SmallUNetOptions(inputs=inputs, outputs=2, conditions=conditions, width=16, deep=16))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return built


def images(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).random(shape, np.float32)


def plainly(net: nn.Module, *arguments: Array) -> Array:
    """Return what the network itself answers."""
    with torch.inference_mode():
        answer: Array = net(*(torch.from_numpy(np.array(argument)) for argument in arguments)).numpy()
    return answer


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def on(backend: str, precision: str, threads: int = 1) -> Any:
    """Return a case for one library, skipped by name where it cannot run."""
    reasons = []
    if not installed({"openvino": "openvino", "onnxruntime": "onnxruntime"}.get(backend, "torch")):
        reasons.append(f"{backend} is not installed")
    if precision == "bfloat16" and backend == "openvino" and not has_fast_bfloat16():
        reasons.append("this processor does not multiply bfloat16")
    options = RuntimeOptions.model_validate(
        {"backend": backend, "device": "cpu", "precision": precision, "threads": threads}
    )
    marks = [pytest.mark.skip(reason=reason) for reason in reasons]
    return pytest.param(options, id=f"{backend}-{precision}-{threads}", marks=marks)


EVERY = [
    on("torch", "float32"),
    on("torch", "bfloat16"),
    on("openvino", "float32"),
    on("openvino", "bfloat16"),
    on("onnxruntime", "float32"),
]
EXACT = RuntimeOptions(backend="torch", device="cpu", precision="float32")


@pytest.mark.parametrize("options", EVERY)
def test_a_runtime_answers_what_the_network_answers(options: RuntimeOptions) -> None:
    net, frames, conditions = network(), images(2, 3, 32, 48), images(2, CONDITIONS)
    expected = plainly(net, frames, conditions)
    answer = Runtime(net, options).run(frames, conditions)
    assert answer.dtype == np.float32
    error = np.abs(answer - expected).max() / np.ptp(expected)
    assert error < (0.03 if options.precision == "bfloat16" else 1e-5)


@pytest.mark.parametrize("options", [*EVERY, on("openvino", "float32", 2)])
def test_the_same_frame_has_the_same_bits_alone_in_a_batch_and_again(options: RuntimeOptions) -> None:
    net, frames, conditions = network(), images(3, 3, 31, 18), images(3, CONDITIONS)
    runtime = Runtime(net, options)
    batch = runtime.run(frames, conditions)
    runtime.run(images(1, 3, 9, 50), images(1, CONDITIONS))
    for index in (2, 0, 1):
        one = slice(index, index + 1)
        assert np.array_equal(runtime.run(frames[one], conditions[one])[0], batch[index])
    assert np.array_equal(Runtime(net, options).run(frames, conditions), batch)


def test_several_threads_of_torch_give_the_same_bits_again() -> None:
    runtime, frame = Runtime(network(conditions=0), EXACT.replace(threads=2)), images(1, 3, 64, 64)
    assert np.array_equal(runtime.run(frame), runtime.run(frame))


@pytest.mark.parametrize("options", EVERY)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 2), (4, 4), (13, 27)])
def test_images_of_any_size_are_mirrored_at_the_far_edges_and_cropped(
    options: RuntimeOptions, size: tuple[int, int]
) -> None:
    net, frames = network(conditions=0), images(1, 3, *size)
    height, width = size
    padding = [(0, 0), (0, 0), (0, -height % 4), (0, -width % 4)]
    # One pixel has no mirror image of three: it is repeated, as numpy does.
    expected = plainly(net, np.pad(frames, padding, mode="symmetric" if min(size) > 2 else "edge"))
    answer = Runtime(net, options).run(frames)
    assert answer.shape == (1, 2, height, width)
    if min(size) != 2:  # two pixels are mirrored, then repeated: neither of numpy's modes
        tolerance = 0.03 if options.precision == "bfloat16" else 1e-5
        assert np.abs(answer - expected[:, :, :height, :width]).max() < tolerance * np.ptp(expected)


@pytest.mark.parametrize("options", EVERY)
def test_a_nan_stays_near_where_it_is_and_is_gone_in_the_next_frame(options: RuntimeOptions) -> None:
    runtime, frame = Runtime(network(conditions=0), options), images(1, 3, 64, 64)
    clean = runtime.run(frame)
    spoilt = frame.copy()
    spoilt[0, 1, 5, 5] = np.nan
    answer = runtime.run(spoilt)
    assert np.isnan(answer[0, :, 5, 5]).all()
    assert np.array_equal(answer[..., 32:, 32:], clean[..., 32:, 32:])
    assert np.array_equal(runtime.run(frame), clean)


@pytest.mark.parametrize("options", EVERY)
def test_answers_belong_to_the_caller(options: RuntimeOptions) -> None:
    runtime, frame = Runtime(network(conditions=0), options), images(1, 3, 16, 16)
    first = runtime.run(frame)
    kept = first.copy()
    runtime.run(frame + 1)
    assert np.array_equal(first, kept)
    first[:] = 0
    assert np.array_equal(runtime.run(frame), kept)


def test_any_array_of_numbers_will_do() -> None:
    runtime, frame = Runtime(network(conditions=0), EXACT), images(1, 3, 16, 24)
    expected = runtime.run(frame)
    frozen = frame.copy()
    frozen.setflags(write=False)
    turned = np.asfortranarray(frame)
    same: Any
    for same in (frozen, turned, frame.astype(np.float64)):
        assert np.array_equal(runtime.run(same), expected)


def test_a_frame_needs_no_new_memory_but_its_answer() -> None:
    runtime, frame = Runtime(network(conditions=0), EXACT), images(1, 3, 126, 126)
    answer = runtime.run(frame)
    tracemalloc.start()
    try:
        runtime.run(frame)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1.2 * answer.nbytes + 10_000  # arrays of numpy; torch reuses what it freed


def test_sizes_of_long_ago_are_forgotten() -> None:
    runtime = Runtime(network(conditions=0), EXACT)
    for size in range(4, 44, 4):
        runtime.run(images(1, 3, size, 4))
    assert len(runtime._ready) <= 4
    assert ((3, 40, 4), None) in runtime._ready


def test_training_goes_on_without_a_word_to_the_runtime() -> None:
    net, frame = network(conditions=0), images(1, 3, 16, 16)
    runtime = Runtime(net, EXACT)
    before = runtime.run(frame)
    with torch.no_grad():
        net.leave.bias.add_(1)
    assert np.array_equal(runtime.run(frame), before)
    assert isinstance(net, SmallUNet)
    assert net.training
    runtime.replace(net)
    assert np.allclose(runtime.run(frame), before + 1, atol=1e-5)


@pytest.mark.parametrize("options", EVERY)
def test_a_network_is_replaced_between_two_calls_never_within_one(options: RuntimeOptions) -> None:
    old, new = network(0, conditions=0), network(1, conditions=0)
    frames = images(2, 3, 16, 16)
    answers = [Runtime(net, options).run(frames) for net in (old, new)]
    runtime, seen, failed = Runtime(old, options), set(), []
    runtime.run(frames)
    replaced = threading.Event()

    def run_until_replaced() -> None:
        last = False
        while not last:
            last = replaced.is_set()
            answer = runtime.run(frames)
            matches = [index for index, known in enumerate(answers) if np.array_equal(answer, known)]
            failed.append(answer) if not matches else seen.add(matches[0])

    thread = threading.Thread(target=run_until_replaced)
    thread.start()
    for net in (new, old, new):
        runtime.replace(net)
    replaced.set()
    thread.join()
    assert not failed
    assert 1 in seen


def test_a_network_that_takes_something_else_does_not_replace_the_one_there_is() -> None:
    runtime, frame = Runtime(network(conditions=0), EXACT), images(1, 3, 16, 16)
    before = runtime.run(frame)
    with pytest.raises(ValueError, match="does not run on images of 3 channels with no conditions"):
        runtime.replace(network(conditions=0, inputs=4))
    assert np.array_equal(runtime.run(frame), before)


@pytest.mark.parametrize("fails", [False, True])
def test_the_threads_of_others_are_left_alone(fails: bool) -> None:
    before = torch.get_num_threads()
    other = before + 1
    runtime = Runtime(network(conditions=0), EXACT.replace(threads=other))
    counted = []
    hook = nn.modules.module.register_module_forward_pre_hook(
        lambda *_: counted.append(torch.get_num_threads())
    )
    try:
        if fails:
            with pytest.raises(ValueError, match="does not run"):
                runtime.run(images(1, 5, 16, 16))
        else:
            runtime.run(images(1, 3, 16, 16))
    finally:
        hook.remove()
    assert set(counted) == {other}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("shape", "conditions", "problem"),
    [
        ((3, 16, 16), None, r"must have a shape \(n, channels, y, x\)"),
        ((1, 3, 0, 16), None, "without zeros"),
        ((0, 3, 16, 16), None, "without zeros"),
        ((2, 3, 16, 16), (1, 2), r"conditions of 2 images must have shape \(2, k\), got \(1, 2\)"),
        ((1, 3, 16, 16), (2,), r"conditions of 1 images must have shape \(1, k\)"),
        ((1, 3, 16, 16), None, "does not run on images of 3 channels with no conditions"),
        ((1, 3, 16, 16), (1, 5), "does not run on images of 3 channels with 5 conditions"),
        ((1, 4, 16, 16), (1, 2), "does not run on images of 4 channels with 2 conditions"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    shape: tuple[int, ...], conditions: tuple[int, ...] | None, problem: str
) -> None:
    runtime = Runtime(network(), EXACT)
    with pytest.raises(ValueError, match=problem):
        runtime.run(images(*shape), None if conditions is None else images(*conditions))


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 1, 3), nn.Flatten()])
def test_a_network_that_answers_another_size_is_refused(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match="must answer \\(n, outputs, y, x\\) of the same y and x"):
        Runtime(layer, EXACT).run(images(1, 3, 16, 16))


def test_images_beyond_all_memory_are_refused_and_the_next_frame_runs() -> None:
    runtime, frame = Runtime(network(conditions=0), EXACT), images(1, 3, 16, 16)
    before = runtime.run(frame)
    huge = np.broadcast_to(np.float32(0), (1, 3, 2**22, 2**22))
    with pytest.raises(MemoryError, match=r"images of 4194304 x 4194304 pixels .*; scan fewer pixels"):
        runtime.run(huge)
    assert not runtime._ready, "what is tried next has the memory of all sizes"
    assert np.array_equal(runtime.run(frame), before)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("Exception from src/inference: std::bad_alloc"), True),
        (RuntimeError("expected input to have 20 channels"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_libraries_have_their_own_words_for_no_memory(error: Exception, is_memory: bool) -> None:
    assert ran_out_of_memory(error) is is_memory


def test_torch_itself_running_out_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert ran_out_of_memory(raised.value)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_library_that_is_missing_is_named_with_its_extra(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, backend, None)
    extra = {"openvino": "fast", "onnxruntime": "onnx"}[backend]
    with pytest.raises(ConfigurationError, match=rf"pip install 'stedfast\[{extra}\]', or set backend"):
        Runtime(network(), RuntimeOptions.model_validate({"backend": backend}))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"backend": "openvino", "device": "cuda"}, "runs on the processor"),
        ({"backend": "onnxruntime", "device": "cuda"}, "runs on the processor"),
        ({"backend": "onnxruntime", "precision": "bfloat16"}, "bfloat16' is not offered"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        Runtime(network(), RuntimeOptions.model_validate(options))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_no_surprise() -> None:
    with pytest.raises(ConfigurationError, match="device = 'cuda' needs a GPU"):
        Runtime(network(), RuntimeOptions(device="cuda"))
    assert "cpu" in Runtime(network(), RuntimeOptions()).name


def test_the_name_tells_library_device_and_precision() -> None:
    assert Runtime(network(), EXACT).name == "torch, cpu, float32, threads=1"
    best = Runtime(network(), RuntimeOptions(device="cpu")).name
    assert best == f"torch, cpu, {'bfloat16' if has_fast_bfloat16() else 'float32'}, threads=1"


@pytest.mark.skipif(not installed("openvino"), reason="openvino is not installed")
def test_several_cores_are_left_to_openvino_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    options = RuntimeOptions(device="cpu", precision="float32", threads=2)
    assert Runtime(network(), options).name == "openvino, cpu, float32, threads=2"
    assert Runtime(network(), options.replace(backend="torch")).name == "torch, cpu, float32, threads=2"
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert Runtime(network(), options).name == "torch, cpu, float32, threads=2"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_answers_the_same_every_time(precision: str) -> None:
    options = RuntimeOptions.model_validate({"device": "cuda", "precision": precision})
    net, frames, conditions = network(), images(3, 3, 50, 70), images(3, CONDITIONS)
    expected = Runtime(net, EXACT).run(frames, conditions)
    runtime = Runtime(net, options)
    batch = runtime.run(frames, conditions)
    tolerance = 0.03 if precision == "bfloat16" else 1e-4
    assert np.abs(batch - expected).max() < tolerance * np.ptp(expected)
    runtime.run(images(1, 3, 9, 50), images(1, CONDITIONS))
    assert np.array_equal(runtime.run(frames[1:2], conditions[1:2])[0], batch[1])
    other = network(1)
    runtime.replace(other)
    expected = Runtime(other, EXACT).run(frames, conditions)
    assert np.abs(runtime.run(frames, conditions) - expected).max() < tolerance * np.ptp(expected)
