"""Every problem of a configuration is named with file, line and key."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from controller.builder import Builder
from controller.config import load, shipped_hardware
from controller.core.errors import ConfigurationError, StedfastError

HARDWARE = shipped_hardware("sim_sted.toml").read_text()
EXPERIMENT = """schema = "stedfast-experiment/1"
name = "mine"
hardware = "scope.toml"

[budget]
cycles = 5

[policy]
name = "fixed"

[policy.options]
repeats = 3
"""


def problems(folder: Path, *, hardware: str = HARDWARE, experiment: str = EXPERIMENT) -> list[str]:
    (folder / "scope.toml").write_text(hardware)
    (folder / "experiment.toml").write_text(experiment)
    with pytest.raises(ConfigurationError) as error:
        load(folder)
    return [problem.removeprefix(f"{folder}/") for problem in error.value.problems]


def line_of(text: str, start: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), start=1) if line.startswith(start))


def test_the_shipped_configurations_are_valid_alone_and_through_an_experiment(tmp_path: Path) -> None:
    for path in shipped_hardware("x").parent.glob("*.toml"):
        if path.name != "experiment_template.toml":
            assert load(path).hardware.path == path
    (tmp_path / "experiment.toml").write_text(EXPERIMENT.replace("scope.toml", "sim_sted.toml"))
    experiment = load(tmp_path)
    assert experiment.hardware.path == shipped_hardware("sim_sted.toml")
    assert experiment.session.config.budget.cycles == 5


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ("sted_max_w = 0.25", 'sted_max_w = "0.25"', "limits.sted_max_w", "valid number (got '0.25')"),
        ("sted_max_w = 0.25", "sted_max_w = true", "limits.sted_max_w", "valid number (got True)"),
        ("sted_max_w = 0.25", "sted_max_w = nan", "limits.sted_max_w", "finite number"),
        ("sted_max_w = 0.25", "sted_max_w = inf", "limits.sted_max_w", "finite number"),
        (
            "sted_max_w = 0.25",
            "sted_max_w = -0.25",
            "limits.sted_max_w",
            "greater than or equal to 0 (got -0.25)",
        ),
        ("sted_max_w = 0.25", "sted_max_w = 1979-05-27", "limits.sted_max_w", "valid number"),
        ("sted_max_w = 0.25", "sted_max_mw = 250", "limits.sted_max_mw", "did you mean 'sted_max_w'?"),
        (
            "sted_max_w = 0.25",
            "sted_max_w = 0.25\nzzz = 1",
            "limits.zzz",
            "no such key; see hardware_configs/",
        ),
        ("fields_yx = ", "field_yx = ", "microscope.options.field_yx", "did you mean 'fields_yx'?"),
        ("dwell_min_s = 1e-6", "dwell_min_s = 1", "limits", "dwell: the smallest allowed value"),
        ("sted_w = 0.0", "sted_w = 0.5", "the file", "safe.sted_w=0.5 W is above limits.sted_max_w"),
        ('specimen = "synapses"', 'specimen = "cats"', "microscope.options.specimen", "'synapses'"),
        (
            'driver = "simulator"',
            'driver = "simulater"',
            "microscope.driver",
            "installed are imspector, mmcore, ",
        ),
        ('driver = "simulator"', 'driver = "os:system"', "microscope.driver", "is not a microscope"),
        ('driver = "simulator"', 'driver = "no.such:Thing"', "microscope.driver", "cannot be imported"),
        (
            "field_size_m = 10.24e-6",
            "field_size_m = 1e-9",
            "microscope.options",
            "not a multiple of the map pixel",
        ),
    ],
)
def test_a_problem_of_the_hardware_is_named_with_its_place(
    tmp_path: Path, old: str, new: str, key: str, words: str
) -> None:
    assert old in HARDWARE
    text = (
        HARDWARE.replace(old, new, 1)
        if key != "the file"
        else HARDWARE[::-1].replace(old[::-1], new[::-1], 1)[::-1]
    )
    found = problems(tmp_path, hardware=text)
    assert any(f": {key}: " in problem and words in problem for problem in found), found
    if key.rsplit(".", 1)[-1] == new.split(" ", maxsplit=1)[0]:
        assert any(problem.startswith(f"scope.toml:{line_of(text, new)}: ") for problem in found), found


def test_a_missing_key_is_named_at_the_table_where_it_belongs(tmp_path: Path) -> None:
    text = HARDWARE.replace("pixels_max = 262144\n", "")
    expected = f"scope.toml:{line_of(text, '[limits]')}: limits.pixels_max: this key is missing"
    assert expected in problems(tmp_path, hardware=text)


def test_all_problems_of_a_file_are_named_at_once(tmp_path: Path) -> None:
    text = HARDWARE.replace("dwell_max_s = 100e-6", 'dwell_max_s = "x"').replace("frame_max_s", "frame_max")
    found = problems(tmp_path, hardware=text)
    assert len(found) == 3
    assert {problem.split(": ", 2)[1] for problem in found} == {
        "limits.dwell_max_s",
        "limits.frame_max_s",
        "limits.frame_max",
    }


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("cycles = 5", "cycles = 0", "6: budget.cycles", "greater than or equal to 1 (got 0)"),
        ("cycles = 5", "cycles = 5.0", "6: budget.cycles", "valid integer"),
        ("repeats = 3", "repeats = -3", "12: policy.options.repeats", "got -3"),
        ("repeats = 3", "repeets = 3", "12: policy.options.repeets", "no such key"),
        ('name = "fixed"', 'name = "best"', "9: policy.name", "installed are asking, events, fixed, regions"),
        ("cycles = 5", "session_energy_j = 9.0", "6: budget.session_energy_j", "more than the microscope"),
        ('hardware = "scope.toml"', 'hardware = "scoop.toml"', "hardware", "is neither a file beside"),
        ('name = "mine"', 'name = "mine"\nname = "yours"', "is not TOML", "line 3"),
        ("[policy.options]", "[policy.options]\nsteps = [\n  { dwell_s = 1e-5 },\n  { dwel_s = 1e-5 },\n]",
         "12: policy.options.steps.1.dwel_s", "no such key"),
        ('schema = "stedfast-experiment/1"', 'schema = "stedfast-experiment/9"', "1: schema", "allowed are"),
    ],
)  # fmt: skip
def test_a_problem_of_the_experiment_is_named_with_its_place(
    tmp_path: Path, old: str, new: str, place: str, words: str
) -> None:
    assert old in EXPERIMENT
    found = problems(tmp_path, experiment=EXPERIMENT.replace(old, new))
    assert any(place in problem and words in problem for problem in found), found


def test_what_is_no_configuration_at_all_is_said_so(tmp_path: Path) -> None:
    for name, content in {"empty": b"", "binary": b"\xff\xfe\x00", "huge": b"#" * 2_000_000}.items():
        path = tmp_path / f"{name}.toml"
        path.write_bytes(content)
        with pytest.raises(ConfigurationError, match=name):
            load(path)
    with pytest.raises(ConfigurationError, match="No such file"):
        load(tmp_path / "absent.toml")


def test_the_command_line_replaces_values_and_drops_the_options_of_another_policy(tmp_path: Path) -> None:
    (tmp_path / "scope.toml").write_text(HARDWARE)
    (tmp_path / "experiment.toml").write_text(EXPERIMENT)
    config = load(tmp_path, {"seed": 9, "policy.name": "thompson", "budget.cycles": 2}).session.config
    assert (config.seed, config.policy.name, config.policy.options, config.budget.cycles) == (
        9,
        "thompson",
        {},
        2,
    )
    assert load(tmp_path, {"policy.name": "fixed"}).session.config.policy.options == {"repeats": 3}


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_mutated_file_gives_a_message_and_never_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("mutated")
    text = list(HARDWARE)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, max(0, len(text) - 1)))
        match data.draw(st.sampled_from(["drop", "change", "insert", "cut"])):
            case "drop":
                del text[position : position + 1]
            case "change":
                text[position : position + 1] = data.draw(st.sampled_from('0-9e."[]=#\nax\x00é'))
            case "insert":
                text.insert(
                    position, data.draw(st.sampled_from(["nan", "1e999", "true", "'", "[[", "{", "-"]))
                )
            case "cut":
                text = text[: position + 1]
    (folder / "scope.toml").write_text("".join(text))
    (folder / "experiment.toml").write_text(EXPERIMENT)
    error: StedfastError | None = None
    try:
        load(folder)
    except StedfastError as caught:
        error = caught
    assert error is None or str(folder) in str(error)
    assert error is not None or tomllib.loads("".join(text))


def test_paths_start_at_the_experiment_and_those_of_the_microscope_at_its_hardware(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "lab" / "scope.toml").write_text(shipped_hardware("sim_sted.toml").read_text())
    (tmp_path / "mine" / "experiment.toml").write_text(
        'schema = "stedfast-experiment/1"\nname = "here and there"\nhardware = "../lab/scope.toml"\n'
    )
    experiment = load(tmp_path / "mine")
    builder = Builder.fresh(experiment)
    for purpose in ("policy", "denoiser fallback", "segmenter"):
        assert builder.resources(purpose, None).folder == tmp_path / "mine"
    assert builder.resources("microscope", None).folder == tmp_path / "lab"
