"""Sigmas, strengths and timesteps against diffusers' scheduler and against each other."""

import math

import pytest

from benchmarks.tiny import ZERO_SNR, schedule
from engine.diffusion.schedule import FEW_STEPS, LCM, Schedule
from engine.requests import EngineError

OURS = Schedule(schedule(), "tiny")


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_sigmas_fall_to_zero_at_the_networks_own_spacing(spacing):
    scheduler = schedule(timestep_spacing=spacing)
    ours = Schedule(scheduler, "tiny")
    for steps in (1, 20, 1000):
        sigmas = ours.sigmas(steps)
        scheduler.set_timesteps(steps)
        times = scheduler.timesteps.clamp(max=999)
        abar = scheduler.alphas_cumprod[times].double()
        assert len(sigmas) == steps + 1 and sigmas[-1] == 0 and sigmas == sorted(sigmas, reverse=True)
        assert sigmas[:-1] == pytest.approx(((1 - abar) / abar).sqrt().tolist())
        assert [ours.timestep(s) for s in sigmas[:-1]] == times.tolist()


def test_between_two_timesteps_lies_their_geometric_mean():
    a, b = OURS.training[500:502].tolist()
    assert OURS.timestep((a * b) ** 0.5) == pytest.approx(500.5, abs=1e-6)
    assert OURS.timestep(0) == 0 and OURS.timestep(1e9) == 999


@pytest.mark.parametrize("steps", [1, 7, 50])
def test_a_strength_is_where_its_sigmas_begin(steps):
    assert OURS.sigma(0) == 0 and OURS.sigma(1) == float(OURS.training[-1])
    for strength in (0.1, 0.3, 0.55, 1.0):
        sigmas = OURS.sigmas_from_strength(strength, steps)
        assert sigmas[0] == OURS.sigma(strength) and sigmas[-1] == 0 and sigmas == sorted(sigmas, reverse=True)
        assert len(sigmas) == 1 + math.ceil(strength * steps - 1e-9)
        times = [OURS.timestep(s) for s in sigmas[:-1]]
        assert all(t == pytest.approx(strength * 999 * (1 - i / len(times)), abs=1) for i, t in enumerate(times))


def test_few_steps_jump_between_the_timesteps_they_were_distilled_at():
    def at(*times):
        return [*OURS.training[list(times)].tolist(), 0.0]

    assert OURS.few_step_sigmas(FEW_STEPS) == at(999, 749, 499, 249)
    assert OURS.few_step_sigmas(LCM) == at(999, 759, 499, 259)  # LCM's own grid
    assert OURS.few_step_sigmas(FEW_STEPS, steps=2) == at(999, 499)
    top = OURS.sigma(0.6)
    assert OURS.few_step_sigmas(FEW_STEPS, top) == [top, *at(499, 249)]
    assert OURS.few_step_sigmas(FEW_STEPS, at(749)[0]) == at(749, 499, 249)  # none twice


def test_a_schedule_that_ends_without_any_signal_has_finite_sigmas():
    ours = Schedule(schedule(**ZERO_SNR), "tiny")
    assert ours.zero_terminal_snr and not OURS.zero_terminal_snr
    sigmas = ours.sigmas(10)
    assert sigmas[0] == float(ours.training[-1]) == pytest.approx(4096, rel=1e-3) and ours.timestep(sigmas[0]) == 999
    assert ours.training.isfinite().all() and (ours.training.diff() > 0).all()


def test_other_predictions_are_refused():
    match = "model tiny must predict epsilon or v_prediction, got sample"
    with pytest.raises(EngineError, match=match):
        Schedule(schedule(prediction_type="sample"), "tiny")
