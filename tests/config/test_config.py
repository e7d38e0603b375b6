"""Settings: accepted values, and error messages for mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from hoser_kd.common.errors import ConfigError
from hoser_kd.config.bounds import Bounds
from hoser_kd.config.distill import DistillConfig
from hoser_kd.config.grid import GridConfig
from hoser_kd.config.loading import dump_config, load_config, with_changes
from hoser_kd.config.schema import CityConfig
from hoser_kd.config.section import execution_only_fields
from hoser_kd.config.source import SyntheticConfig
from hoser_kd.config.student import StudentConfig

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "config"
SYNTHETIC = "source: {kind: synthetic}\n"


def write(folder, text):
    path = folder / "town.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(CONFIG_FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_survive_a_round_trip(path, tmp_path):
    config = load_config(path)
    copy = tmp_path / path.name
    copy.write_text(dump_config(config))
    assert load_config(copy) == config


def test_the_original_distill_section_is_accepted(tmp_path):
    config = load_config(
        write(
            tmp_path,
            SYNTHETIC
            + """
distill:
  enabled: true
  repo_path: /somewhere/LMTAD
  ckpt_path: weights.pt
  lambda_kl: 1e-2
  temperature: 2.0
  window: 64
  sample_steps_per_trace: 4
  teacher_fp16: true
""",
        )
    )
    assert (config.distill.window, config.distill.sample_steps_per_trace) == (64, 4)
    assert config.distill.lambda_kl == 0.01


def test_the_order_of_a_recipe_has_no_meaning():
    recipes = [DistillConfig(recipe=names).recipe for names in (("sequence", "kl"), ["kl", "sequence"])]
    assert recipes == [("kl", "sequence")] * 2
    assert DistillConfig().recipe == ("kl",)


@pytest.mark.parametrize(
    ("config", "uses_kl"), [({}, True), ({"lambda_kl": 0}, False), ({"recipe": ["sequence"]}, False)]
)
def test_the_recipe_switches_the_divergence(config, uses_kl):
    assert DistillConfig(**config).uses_kl == uses_kl


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (SYNTHETIC + "distill:\n  temprature: 2", ["town.yaml, line 3", "distill.temprature", "`temperature`"]),
        (SYNTHETIC + "student:\n  lambda_kl: 1", ["student.lambda_kl", "`distill.lambda_kl`"]),
        (SYNTHETIC + "student:\n  batch_size: many", ["student.batch_size", "'many'"]),
        (SYNTHETIC + "studnet: {}", ["`studnet` is not a known setting", "`student`"]),
        ("student: {}", ["`source` is missing"]),
        ("source: {kind: hoser}", ["`source`", "needs `path`"]),
        ("source: {kind: huggingface}", ["needs `repo_id`"]),
        (SYNTHETIC + "source: {kind: synthetic}", ["line 2", "`source` is given twice"]),
        ("source: {kind: hoser, path: '${NO_SUCH_VARIABLE}'}", ["NO_SUCH_VARIABLE is not set"]),
        (SYNTHETIC + "grid: {cell_lat: 1.0}", ["set both cell_lat and cell_lng"]),
        (SYNTHETIC + "distill: {window: 0}", ["`distill`", "window must be `full` or a whole number of at least 1"]),
        (
            SYNTHETIC + "distill:\n  lambda_kl: 0.1\n  temperature: true",
            ["line 4", "`distill.temperature`", "a number", "(given: True)"],
        ),
        (SYNTHETIC + "teacher: {n_layer: yes}", ["line 2", "`teacher.n_layer`", "must be a number, not true"]),
        (SYNTHETIC + "distill: {window: true}", ["`distill.window`", "must be a number"]),
        (SYNTHETIC + "distill: {recipe: []}", ["`distill.recipe`", "recipe is empty", "enabled: false"]),
        (SYNTHETIC + "distill: {recipe: [kl, kl]}", ["`distill.recipe`", "kl, kl", "at most once"]),
        (
            SYNTHETIC + "distill: {recipe: [sequnce]}",
            ["`distill.recipe", "'sequence'", "'sequnce'", "Did you mean `sequence`?"],
        ),
        (
            SYNTHETIC + "distill: {recipe: sequence}",
            ["`distill.recipe`: write a list, `[sequence]` (given: 'sequence')."],
        ),
        (
            SYNTHETIC + "student: {num_processes: 2}\ndistill: {recipe: [off_path]}",
            ["student.num_processes is 2", "off_path, which runs in one process: set it to 1, or remove off_path"],
        ),
        (SYNTHETIC + "zones:\n  seed: off", ["line 3", "`zones.seed`", "must be a number"]),
        ("source: {kind: synthetic, synthetic: {blocks: [8, true]}}", ["`source.synthetic.blocks`", "a number"]),
        (SYNTHETIC + "evaluation: {peak_hours: [[7, on]]}", ["`evaluation.peak_hours`", "a number"]),
        (SYNTHETIC + "city: village", ["`city: village` does not match the file's name"]),
        (
            SYNTHETIC + "generation:\n  decoder: serach",
            ["line 3", "`generation.decoder`", "unknown decoder 'serach'", "sampling", "Did you mean 'search'?"],
        ),
        (
            SYNTHETIC + "student: {select_by: arrival}",
            ["line 2", "`student.select_by`", "unknown selection rule 'arrival'", "Did you mean 'arrival_rate'?"],
        ),
        (SYNTHETIC + "generation: {decoder: 3}", ["`generation.decoder`", "valid string", "(given: 3)"]),
        ("", ["town.yaml: `source` is missing", "a section with the keys kind, path", "`source: {kind: hoser, path: "]),
        (SYNTHETIC + "zones: 60", ["line 2", "`zones` is 60. Give a section with the keys count, ", "{count: 300}`"]),
        (SYNTHETIC + "zones:", ["line 2: `zones` is empty. Give a section with the keys count, method", "or remove"]),
        (
            SYNTHETIC + "grid: {bounds: road}",
            ["`grid.bounds` is 'road'. Give a section with the keys min_lat", "'roads'"],
        ),
        (SYNTHETIC + "grid: {bounds: {min_lat: 1}}", ["line 2: `grid.bounds.max_lat` is missing"]),
        ("source: {kind: synthetic, synthetic: {blocks: [8]}}", ["`source.synthetic.blocks`: field required"]),
        ("- a\n- b", ["the top level must be sections"]),
        ("source: [", ["not readable as YAML"]),
    ],
)
def test_errors_name_file_key_and_fix(tmp_path, text, parts):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    for part in ("town.yaml", *parts):
        assert part in str(caught.value)


def test_a_missing_file_suggests_the_closest_name(tmp_path):
    write(tmp_path, SYNTHETIC)
    with pytest.raises(ConfigError, match=r"no such file\. Did you mean `town.yaml`"):
        load_config(tmp_path / "twon.yaml")


def test_a_folder_and_the_name_of_a_city_are_refused_with_the_file(tmp_path, monkeypatch):
    (tmp_path / "config").mkdir()
    file = write(tmp_path / "config", SYNTHETIC)
    with pytest.raises(ConfigError, match=rf"config: a folder, not a file\. Give a city's YAML file: {file}\."):
        load_config(tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    for name in ("town", "town.yaml"):
        with pytest.raises(ConfigError, match=rf"{name}: no such file\. Did you mean `config/town\.yaml`\?"):
            load_config(name)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (
            StudentConfig,
            {"max_epoch": 3},
            "StudentConfig: `max_epoch` is not a known setting. Did you mean `max_epochs`?",
        ),
        (DistillConfig, {"off_path": {"epoch": 1}}, "DistillConfig: `off_path.epoch` is not.* Did you mean `epochs`"),
        (DistillConfig, {"lambda_kl": -1}, r"DistillConfig: `lambda_kl`: .* \(given: -1\)"),
        (
            SyntheticConfig,
            {"num_trip": 30, "blocks": 3},
            r"`blocks`: .*\nSyntheticConfig: `num_trip` is not a known setting\. Did you mean `num_trips`\?",
        ),
        (StudentConfig, {"hidden_dim": 5}, r"StudentConfig: road_id_dim \+ 4 \* attribute_dim must equal hidden_dim"),
        (GridConfig, {"bounds": 5}, "GridConfig: `bounds` is 5. Give a section with the keys min_lat"),
    ],
)
def test_a_section_built_in_python_names_the_closest_key(section, values, message):
    with pytest.raises(ConfigError, match=message) as caught:
        section(**values)
    assert "pydantic" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_epochs: 1:30", "line 4: `1:30` is read as 90 by YAML. Write it in decimal digits, or quote it"),
        ("max_epochs: 0100", "`0100` is read as 64"),
        ("max_epochs: 0x16", "`0x16` is read as 22"),
        ("max_epochs: 0b11", "`0b11` is read as 3"),
        ("max_epochs: 1_000", "`1_000` is read as 1000"),
        ("learning_rate: 1_0.5", "`1_0.5` is read as 10.5"),
        ("learning_rate: 1:30.5", "`1:30.5` is read as 90.5"),
        (f"max_epochs: {'9' * 5000}", "has too many digits"),
        ("max_epochs: !!binary aGk=", "binary data is no setting"),
        ("max_norm: 1.0e+40", "`student.max_norm`: 1e.40 is too large to compute with"),
        ("max_norm: 1e-320", "`student.max_norm`: .* is too close to 0 to compute with"),
        ("batch_size: 2.7", "`student.batch_size`"),
    ],
)
def test_numbers_are_read_as_they_look(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, f"{SYNTHETIC}\nstudent:\n  {text}\n"))


def test_decimal_numbers_and_dates_are_read(tmp_path):
    text = f"{SYNTHETIC}\ndescription: 2013-07-01\nstudent: {{learning_rate: 1e-3, max_norm: +2., dropout_is: 0}}\n"
    config = load_config(write(tmp_path, text.replace(", dropout_is: 0", "")))
    assert (config.description, config.student.learning_rate, config.student.max_norm) == ("2013-07-01", 1e-3, 2.0)


@pytest.mark.parametrize("temperature", [1e-320, 1e-5, 1e5])
@pytest.mark.parametrize("section", ["distill", "synthetic_trips", "generation"])
def test_temperatures_keep_logits_finite(tmp_path, section, temperature):
    with pytest.raises(ConfigError, match=rf"`{section}\.temperature`: input should be"):
        load_config(write(tmp_path, f"{SYNTHETIC}\n{section}: {{temperature: {temperature}}}\n"))


def test_environment_variables_are_expanded(tmp_path, monkeypatch):
    path = write(tmp_path, "source: {kind: hoser, path: '${TOWN_DATA:-here}/x'}")
    assert load_config(path).source.path == "here/x"
    monkeypatch.setenv("TOWN_DATA", "/there")
    assert load_config(path).source.path == "/there/x"


def test_integers_numeric_strings_and_booleans_are_accepted_where_valid(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPERATURE", "3.5")
    config = load_config(
        write(
            tmp_path,
            SYNTHETIC
            + """
distill: {enabled: no, temperature: '${TEMPERATURE}', lambda_kl: 1, scale_by_temperature_squared: true}
""",
        )
    )
    assert (config.distill.enabled, config.distill.scale_by_temperature_squared) == (False, True)
    assert (config.distill.temperature, config.distill.lambda_kl) == (3.5, 1.0)


@pytest.mark.parametrize(
    "section",
    [
        SyntheticConfig,
        Bounds,
        *(
            field.annotation
            for name, field in CityConfig.model_fields.items()
            if name not in ("city", "description", "source")
        ),
    ],
    ids=lambda section: section.__name__,
)
def test_no_numeric_setting_accepts_true(section):
    annotations = {
        name: str(field.annotation) + getattr(field.annotation, "__name__", "")
        for name, field in section.model_fields.items()
    }
    numbers = [name for name, text in annotations.items() if "int" in text or "float" in text]
    assert numbers
    for name in numbers:
        with pytest.raises(ValidationError, match="must be a number"):
            section.model_validate({name: True})


def test_a_change_for_one_run_rejects_true_for_a_number():
    config = CityConfig.model_validate({"city": "town", "source": {"kind": "synthetic"}})
    with pytest.raises(ConfigError, match=r"`distill.temperature`: .*must be a number"):
        with_changes(config, {"distill.temperature": True})


def test_execution_settings_are_marked_and_excluded_from_versions():
    assert execution_only_fields(StudentConfig) == {"num_processes", "cuda_graphs"}
    assert execution_only_fields(DistillConfig) == {"label_processes", "repo_path"}
    assert execution_only_fields(GridConfig) == frozenset()
    assert StudentConfig(num_processes=4, cuda_graphs=False).of_the_result() == StudentConfig().of_the_result()
    assert StudentConfig(micro_batch_size=4).of_the_result() != StudentConfig().of_the_result()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("student: {num_heads: 7}", "2 \\* hidden_dim a multiple of num_heads \\(7\\)"),
        ("zones: {seed: 3000000000}", "`zones.seed`: input should be less than"),
        ("generation: {seed: -1}", "`generation.seed`: input should be greater than or equal to 0"),
    ],
)
def test_values_that_a_stage_cannot_use_are_refused_at_the_door(tmp_path, section, message):
    (tmp_path / "town.yaml").write_text(f"source: {{kind: synthetic}}\n{section}\n")
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "town.yaml")
