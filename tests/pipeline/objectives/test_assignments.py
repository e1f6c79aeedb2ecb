"""Options of objectives from a command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.objectives.assignments import assigned

NAMES = ("drpo", "tapered", "bc-tilt", "drpo-tilt", "conditioned", "awr", "bc")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("drpo.kappa=0.2", {"drpo": {"kappa": 0.2}}),
        ("drpo.kappa=none", {"drpo": {"kappa": None}}),
        ("drpo.kappa_bounds=0.1,0.9", {"drpo": {"kappa_bounds": (0.1, 0.9)}}),
        ("drpo.weighting=uniform", {"drpo": {"weighting": "uniform"}}),
        ("drpo.normalize=false", {"drpo": {"normalize": False}}),
        ("awr.baseline=min", {"awr": {"baseline": "min"}}),
        ("awr.baseline=-.5", {"awr": {"baseline": -0.5}}),
        ("tapered.taper_strength=2", {"tapered": {"taper_strength": 2.0}}),
        ("tilt.tau=1e-1", {"bc-tilt": {"tau": 0.1}, "drpo-tilt": {"tau": 0.1}}),
        ("drpo-tilt.kappa = .3", {"drpo-tilt": {"kappa": 0.3}}),
        ("condition.guidance=2", {"conditioned": {"guidance": 2.0}}),
    ],
)
def test_values_are_read_by_the_options_types(text: str, wanted: dict) -> None:
    assert assigned([text], NAMES) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kappa=0.2", "takes NAME.OPTION=VALUE"),
        ("drpo.kappa", "takes NAME.OPTION=VALUE"),
        ("drpo.kapa=1", "no option 'kapa' .did you mean 'kappa'"),
        ("drpo.kappa=much", "expected a number or none, got 'much'"),
        ("drpo.weighting=square", "expected linear, uniform, exponential, kl"),
        ("drpo.normalize=1", "expected true or false"),
        ("drpo.kappa_bounds=0.1", "expected a number,a number"),
        ("crr.mode=binary", "'crr' is none of the objectives that are trained"),
        ("bc.kappa=1", "no option 'kappa'"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        assigned([text], NAMES)


def test_settings_of_the_command_are_the_runs_options() -> None:
    config = TrainConfig(
        logs="log.parquet",
        schema=Path("s.json"),
        objectives=("drpo", "bc"),
        set=("drpo.kappa=0.2",),
    )
    assert config.options == {"drpo": {"kappa": 0.2}}
    assert config.objective("drpo").options.kappa == 0.2
    # They are a part of that objective's runs alone.
    assert config.settings() == replace(config, set=(), options={}).settings()
    assert replace(config, set=("drpo.kappa=0.3",)).options == {"drpo": {"kappa": 0.3}}
