"""The command line: one clear message per mistake, the stages of the graph, exported files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import hoser_kd
from hoser_kd.cli import main, stage_commands
from hoser_kd.cli.command import trainings_of
from hoser_kd.cli.main import _parser
from hoser_kd.common.errors import ProcessError
from hoser_kd.pipeline.plan import plan

ROOT = Path(__file__).resolve().parents[1]
TOWN = """\
source: {kind: synthetic, synthetic: {blocks: [6, 6], num_trips: 150}}
zones: {count: 6}
grid: {bounds: roads, cell_size_m: 80}
student: {hidden_dim: 16, road_id_dim: 8, attribute_dim: 2, max_epochs: 6, batch_size: 16,
          learning_rate: 0.01}
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("HOSER_KD_STORE", str(tmp_path / "store"))
    path = tmp_path / "town.yaml"
    path.write_text(TOWN)
    return path


def test_train_trains_and_export_writes_the_published_layout(config, tmp_path, capsys):
    import torch

    arguments = ["--dataset", "town", "--config", str(config), "--seed", "3", "--vanilla", "--cuda", "-1"]
    assert main(["train", *arguments]) == 0
    assert "vanilla_student/seed-3 of town" in capsys.readouterr().out
    folder = next((tmp_path / "store" / "town" / "vanilla_student" / "seed-3").iterdir())
    assert main(["export-student", str(folder), str(tmp_path / "student.pth")]) == 0
    state = torch.load(tmp_path / "student.pth", weights_only=True)
    assert "navigator.time_estimator.0.weight" in state


def test_train_respects_disabled_distillation(config, capsys):
    config.write_text(TOWN + "distill: {enabled: false}\n")
    assert main(["train", "--config", str(config)]) == 0
    assert "vanilla_student/seed-0 of town" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "no city given"),
        (["train", "--config", "CONFIG", "--dataset", "village"], "--dataset village is not the city of"),
        (["train", "--dataset", "nowhere"], "no such file"),
        (
            ["train", "--dataset", "../config/demo"],
            "Use --dataset demo, or --config ../config/demo.yaml.",
        ),
        (["report", "--config", "CONFIG", "--seed", "1", "--seeds", "0", "2"], "--seed 1 and --seeds 0 2 contradict"),
        (["report", "--config", "CONFIG", "--seed", "0", "--seeds", "0"], "--seed 0 and --seeds 0 contradict"),
        (["train", "--config", "CONFIG", "--cuda", "7", "--vanilla"], "cuda:7"),
        (["import-teacher", "nowhere.pt"], "no such file"),
        (["verify", "nowhere"], "no such folder"),
        (["lineage", "."], "not an artifact"),
        (["lineage", "0bc872ec6f825b8c"], "no such folder or file"),
        (["export-student", "nowhere", "out.pth"], "no such file"),
        (["export-student", "CONFIG", "out.pth"], "a file, not the folder of a student"),
        (["renumber-roads", "nowhere", "--out", "new"], "no such file"),
        (["generate", "--config", "CONFIG", "--decoder", "bean"], "beam"),
        (["evaluate", "--config", "CONFIG", "--trips", "nowhere.csv"], "no such file"),
        (["evaluate", "--config", "CONFIG", "--name", "mine"], "--name: only valid with --trips"),
    ],
)
def test_an_error_of_the_user_is_one_message_and_status_2(config, capsys, arguments, message):
    assert main([str(config) if part == "CONFIG" else part for part in arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("hoser-kd: ")
    assert message in error


def test_an_unknown_city_names_the_folder_its_cities_and_the_variable(config, capsys, monkeypatch):
    monkeypatch.setenv("HOSER_KD_CONFIG", str(config.parent))
    assert main(["train", "--dataset", "twon"]) == 2
    assert capsys.readouterr().err == (
        f"hoser-kd: {config.parent}/twon.yaml: no such file. Did you mean `town`? Cities in {config.parent}: town. "
        "Set HOSER_KD_CONFIG to read another folder.\n"
    )


def test_a_killed_process_has_a_status_of_its_own(config, monkeypatch, capsys):
    def killed(*_):
        raise ProcessError("the process of teacher ended with status -9.")

    monkeypatch.setattr(stage_commands, "materialize", killed)
    assert main(["make", "teacher", "road_zones", "--config", str(config)]) == 75
    assert capsys.readouterr().err == "hoser-kd: the process of teacher ended with status -9.\n"


def test_make_takes_several_stages(config, capsys):
    assert main(["make", "road_network", "source_files", "road_network", "--config", str(config)]) == 0
    output = capsys.readouterr().out
    assert output.count("road_network of town") == output.count("source_files of town") == 1


def test_an_unknown_decoder_ends_with_one_mark(config, capsys):
    assert main(["generate", "--config", str(config), "--decoder", "bean"]) == 2
    assert capsys.readouterr().err.endswith("Did you mean 'beam'?\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "COMMAND: invalid choice: 'trian'. Did you mean `train`? Known: train, label, "),
        (
            ["make", "vanila_student"],
            "STAGE: invalid choice: 'vanila_student'. Did you mean `vanilla_student`? Known: s",
        ),
        (["train", "--datset", "demo"], "unknown argument: --datset. Did you mean `--dataset`?"),
        (["lineage", "x", "--sed=3"], "unknown argument: --sed=3. Known: --help."),
        (["make", "xyz"], "STAGE: invalid choice: 'xyz'. Known: source_files, "),
    ],
)
def test_an_unknown_command_or_stage_suggests_the_closest(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"hoser-kd {hoser_kd.__version__}\n")


def test_a_seed_is_a_whole_number_from_0(config, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--config", str(config), "--seed", "-1"])
    assert "is not a whole number from 0" in capsys.readouterr().err


def test_show_config_prints_every_setting(config, capsys):
    assert main(["show-config", "--config", str(config)]) == 0
    settings = capsys.readouterr().out
    assert "lambda_kl: 0.1" in settings
    assert "warmup_ratio: 0.1" in settings


def test_the_environment_names_the_config_folder(config, capsys, monkeypatch):
    monkeypatch.setenv("HOSER_KD_CONFIG", str(config.parent))
    assert main(["show-config", "--dataset", "town"]) == 0
    assert "city: town" in capsys.readouterr().out


def test_an_imported_teacher_can_be_read_by_others_and_is_no_student(golden, tmp_path, capsys):
    out = tmp_path / "teacher"
    assert main(["import-teacher", str(golden / "lmtad_ckpt.pt"), "--out", str(out)]) == 0
    (tmp_path / "other").touch()
    modes = {path.stat().st_mode for path in (tmp_path / "other", *out.iterdir())}
    assert len(modes) == 1
    capsys.readouterr()
    assert main(["export-student", str(out), str(tmp_path / "x.pth")]) == 2
    assert "It looks like a teacher" in capsys.readouterr().err


def test_a_failed_check_that_does_not_stop_is_printed(cases, tmp_path, capsys):
    config = tmp_path / "town.yaml"
    config.write_text(f"source: {{path: {cases / '08b-duplicate-trips-across-splits' / 'city'}}}\n")
    assert main(["make", "trajectories", "--config", str(config), "--store", str(tmp_path / "store")]) == 0
    assert "warning: trajectories of town: check splits_disjoint failed: 10 of 18 test trips" in capsys.readouterr().err
    config.write_text(f"source: {{path: {cases / '10-lat-lon-swapped' / 'city'}}}\n")
    assert main(["make", "trajectories", "--config", str(config), "--store", str(tmp_path / "store")]) == 2
    assert "check lengths_match_lines failed" in capsys.readouterr().err


def test_evaluate_says_which_models_it_trains(capsys):
    steps = plan(["trajectory_metrics", "baseline_trips"], 2)
    [line] = trainings_of(steps, ["trajectory_metrics", "baseline_trips"])
    assert line == (
        "vanilla_student (seed 2), teacher, distilled_student (seed 2): needed for trajectory_metrics, baseline_trips, "
        "and trained now where the store lacks them"
    )
    assert trainings_of(plan(["road_network"]), ["road_network"]) == []
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    assert "the vanilla and the distilled student first where the store lacks" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_report_takes_several_seeds_after_one_option():
    options = _parser().parse_args(["report", "--dataset", "town", "--seeds", "0", "2"])
    assert options.seeds == [0, 2]


def test_the_commands_load_without_heavy_libraries():
    code = (
        "import sys\n"
        "from hoser_kd.cli.main import _parser\n"
        "_parser()\n"
        "heavy = {'torch', 'numba', 'matplotlib', 'geopandas', 'pandas', 'scipy', 'tensorboard', 'dagster', 'bokeh'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
