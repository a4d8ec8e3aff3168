"""The network: what it costs, what a fresh one answers, and that its fast form answers the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from controller.networks.fast_unet import FastSmallUNet, quicken
from controller.networks.modules import fill, tensors_of
from controller.networks.small_unet import SmallUNet, SmallUNetOptions, macs_per_pixel, parameter_count
from controller.networks.weights import WeightsError, pack


def scrambled(seed: int = 0, **options: int) -> SmallUNet:
    """Return a network with random numbers everywhere: a fresh one answers 0, whatever is wrong with it."""
    network = SmallUNet(SmallUNetOptions.model_validate({"inputs": 5, "outputs": 1, **options}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape, np.float32))


def test_the_network_of_the_denoiser_keeps_to_its_budget() -> None:
    network = SmallUNet(SmallUNetOptions(inputs=5, outputs=1, conditions=5))
    assert macs_per_pixel(network, 5, conditions=5) == 4752
    assert parameter_count(network) < 30_000


def test_the_cost_of_a_single_convolution_is_counted_by_hand() -> None:
    assert macs_per_pixel(nn.Conv2d(3, 8, 3, padding=1), 3) == 3 * 8 * 9
    assert macs_per_pixel(nn.Conv2d(3, 8, 2, stride=2), 3) == 3 * 8 * 4 / 4


def test_counting_leaves_no_hook_behind_even_when_the_network_fails() -> None:
    layer = nn.Conv2d(3, 8, 3)
    with pytest.raises(RuntimeError):
        macs_per_pixel(layer, 4)
    assert not layer._forward_hooks


@pytest.mark.parametrize("conditions", [0, 3])
def test_a_fresh_network_answers_0(conditions: int) -> None:
    network = SmallUNet(SmallUNetOptions(inputs=2, outputs=3, conditions=conditions))
    arguments = [noise(2, 2, 8, 12)] + ([noise(2, conditions)] if conditions else [])
    answer = network(*arguments)
    assert answer.shape == (2, 3, 8, 12)
    assert not answer.any()


def test_an_answer_depends_on_what_is_near_and_on_nothing_far() -> None:
    network, images = scrambled(), noise(1, 5, 64, 64)
    changed = images.clone()
    changed[0, 2, 32, 32] += 1
    with torch.no_grad():
        moved = (network(changed) - network(images))[0, 0].abs() > 0
    assert moved[32, 32]
    # 3x3 at half the resolution reaches 2 pixels, at a quarter 4; four of the one, two of the other.
    assert int((torch.nonzero(moved) - 32).abs().max()) <= 20


@pytest.mark.parametrize("built_for", [0, 3])
def test_conditions_that_the_network_was_not_built_for_are_refused(built_for: int) -> None:
    network = scrambled(conditions=built_for)
    given = noise(1, 2)
    for form in (network, FastSmallUNet(network)):
        with pytest.raises(ValueError, match=f"takes {built_for} conditions for each image, got 2"):
            form(noise(1, 5, 8, 8), given)
    if built_for:
        with pytest.raises(ValueError, match="got 0"):
            network(noise(1, 5, 8, 8))


@pytest.mark.parametrize("outputs", [1, 2, 4, 7])
@pytest.mark.parametrize("conditions", [0, 3])
@pytest.mark.parametrize("size", [(4, 4), (4, 20), (36, 24)])
def test_the_fast_form_answers_the_same(outputs: int, conditions: int, size: tuple[int, int]) -> None:
    network = scrambled(outputs=outputs, conditions=conditions)
    arguments = [noise(3, 5, *size)] + ([noise(3, conditions)] if conditions else [])
    fast = FastSmallUNet(network)
    with torch.inference_mode():
        expected, features = network(*arguments), network.features(*arguments)
        torch.testing.assert_close(fast(*arguments), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(fast.features(*arguments), features, atol=1e-5, rtol=1e-5)


def test_the_fast_form_does_not_care_how_a_convolution_lays_out_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, images = scrambled(conditions=2), noise(2, 5, 16, 24)
    convolve = torch.nn.functional.conv2d
    monkeypatch.setattr(
        torch.nn.functional,
        "conv2d",
        lambda *arguments, **options: convolve(*arguments, **options).contiguous(),
    )
    with torch.inference_mode():
        expected = network(images, noise(2, 2))
        torch.testing.assert_close(
            FastSmallUNet(network)(images, noise(2, 2)), expected, atol=1e-5, rtol=1e-5
        )


def test_the_fast_form_is_off_by_a_hundredth_of_the_largest_answer_with_bfloat16() -> None:
    network, images = scrambled(conditions=2), noise(1, 5, 64, 64)
    with torch.inference_mode():
        expected = network(images, noise(1, 2))
        answer = FastSmallUNet(network, torch.bfloat16)(images, noise(1, 2))
    assert answer.dtype == torch.float32
    error = (answer - expected).abs().max() / (expected - expected.mean()).abs().max()
    assert 1e-5 < float(error) < 0.03


def test_a_network_inside_another_is_quickened_and_the_rest_left_alone() -> None:
    network, images = nn.Sequential(scrambled(), nn.Conv2d(1, 2, 1)), noise(2, 5, 8, 8)
    with torch.inference_mode():
        expected = network(images)
        fast = quicken(network, torch.bfloat16)
        assert isinstance(fast[0], FastSmallUNet)
        assert fast[1].weight.dtype == torch.float32
        torch.testing.assert_close(fast(images), expected, atol=0.05, rtol=0.05)


def test_numbers_of_a_network_come_back_into_another() -> None:
    network, other = scrambled(0, conditions=2), scrambled(1, conditions=2)
    weights = pack(tensors_of(network), architecture="small_unet/1", options=dict(network.options))
    fill(other, weights)
    arguments = noise(1, 5, 8, 8), noise(1, 2)
    with torch.inference_mode():
        assert torch.equal(other(*arguments), network(*arguments))
        other.enter.bias.add_(1)
    assert not torch.equal(other.enter.bias, network.enter.bias), "they share no memory"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"width": 16}, "ascend.bias has shape \\(24,\\), \\(16,\\) is needed"),
        ({"conditions": 2}, "modulate.bias has shape none, \\(48,\\) is needed"),
        ({"inputs": 3}, "enter.weight has shape"),
    ],
)
def test_weights_of_another_network_are_refused_and_change_nothing(
    options: dict[str, int], problem: str
) -> None:
    weights = pack(tensors_of(scrambled()), architecture="small_unet/1", options={})
    network = scrambled(**options)
    before = tensors_of(network)
    with pytest.raises(WeightsError, match=f"are of another network: {problem}"):
        fill(network, weights)
    after = tensors_of(network)
    assert all(np.array_equal(after[name], before[name]) for name in before)
