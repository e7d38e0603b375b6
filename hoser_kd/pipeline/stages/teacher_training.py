"""Training of the teacher of a stage, in one process or several; without plots, which worker processes do not need."""

from __future__ import annotations

from hoser_kd.common.device import check_room_for, pick_device
from hoser_kd.config.teacher import TeacherConfig
from hoser_kd.network.trajectories import SPLITS
from hoser_kd.pipeline.stage import StageRun
from hoser_kd.pipeline.stages.grid import describe_grid, load_grid
from hoser_kd.pipeline.workers.launcher import job_of, run_together
from hoser_kd.pipeline.workers.nodes import Nodes
from hoser_kd.teacher.corpus import Corpus
from hoser_kd.teacher.training import TeacherTraining, read_training, train


def load_corpus(run: StageRun, split: str) -> Corpus:
    """Return the corpus of a split."""
    return Corpus.load(run.path("teacher_corpus") / f"{split}.arrow")


def teacher_settings(run: StageRun) -> TeacherConfig:
    """Return the settings, with a context that has room for every trip."""
    settings = run.config.teacher
    if settings.block_size is None:
        # test trips are scored too, so none may be longer than the context
        longest = max(int(load_corpus(run, split).lengths.max()) for split in SPLITS)
        settings = settings.model_copy(update={"block_size": longest + settings.frame})
    return settings


def train_teacher(run: StageRun) -> TeacherTraining:
    """Train the teacher in this process, which may be one of several in a process group."""
    grid = load_grid(run)
    return train(
        load_corpus(run, "train"),
        load_corpus(run, "val"),
        grid.num_labels + 3,
        teacher_settings(run),
        run.folder,
        pick_device(run.device),
        run.progress,
        on_epoch=run.on_epoch,
        dataset_config={"grip_size": list(grid.shape), **describe_grid(grid)},
    )


def train_teacher_together(run: StageRun) -> TeacherTraining:
    """Train the teacher in as many processes and on as many machines as the settings say."""
    count, nodes = run.config.teacher.num_processes, Nodes.of(run.config.torchrun)
    if count == nodes.count == 1:
        return train_teacher(run)
    train_together(run, count, "teacher.num_processes", nodes)
    return read_training(run.folder, teacher_settings(run))


def train_together(run: StageRun, count: int, setting: str, nodes: Nodes) -> None:
    """Train the model of a stage in `count` processes per machine, which read the inputs from files.

    `setting` is the key of `count` that error messages name.
    """
    check_room_for(count, setting, run.device)

    def relay(message: dict[str, object]) -> None:
        if "epoch" in message:
            run.on_epoch(message["epoch"])  # type: ignore[arg-type]
        else:
            run.progress(*message["progress"])  # type: ignore[misc]

    run_together(job_of(run), count, relay, nodes=nodes)
