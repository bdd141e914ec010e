"""The loop of every trainer but StyleGAN2's: the three phases, pSp, e4e, ReStyle, HyperStyle, and early heads.

What differs between them is handed in: how an update is made, what validation measures, what is drawn and written.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hyperinverter.config.schema import OptimizerConfig, PhaseConfig, TrainConfig
from hyperinverter.data.loader import Batches, reports
from hyperinverter.ops.batch_norm import average_running_statistics
from hyperinverter.training.augment import RandomChanges
from hyperinverter.training.common import Run
from hyperinverter.training.optim import set_rates
from hyperinverter.training.progress import Progress, due_at, open_run
from hyperinverter.training.resume import Parts, Resumed, restore, save_state
from hyperinverter.training.start import notes_on_photos
from hyperinverter.training.validation import sample_images, side_by_side, validate
from hyperinverter.utils.distributed import is_main, place_of


@dataclass(frozen=True)
class Trainee:
    """What is trained.

    Attributes:
        trainer: name in training states.
        network: what the loop puts in train and eval mode.
        parts: name -> network, optimiser or buffers of the training state, as in `save_state`.
        rates: optimiser -> its settings.
        frozen: part -> weights hash of what is used but not trained.
        origin: a sentence on where a fresh run starts from.
        update: one step from photos [N,3,R,R], their names and the number of steps done; whether gradients are
            measured -> scalars for the log, "loss" among them.
        measure: photos and names -> mean losses; the best step is the one with the lowest "loss".
        draw: photos and names -> the columns of the grid of pictures, [N,3,R,R] each.
        write: a model folder, at a progress, with the validation losses of its best step; None: it is the last step.
            Returns what the log is to say of it, if anything.
        then: the command that goes on from the best model.
        notes: what the user is to know of the settings.
        begin: called before every step; returns how many images it takes. None: as the schedule says.
        may_be_missing: parts that an earlier state need not have, as in `restore`.
    """

    trainer: str
    title: str
    network: nn.Module
    parts: Parts
    rates: dict[torch.optim.Optimizer, OptimizerConfig]
    frozen: dict[str, str]
    origin: str
    update: Callable[[Tensor, Sequence[str], int, bool], dict[str, Tensor | None]]
    measure: Callable[[Tensor, list[str]], dict[str, Tensor]]
    draw: Callable[[Tensor, list[str]], Sequence[Tensor]]
    pictures: str
    write: Callable[[Path, Progress, dict[str, float] | None], Sequence[str] | None]
    then: str = ""
    notes: Sequence[str] = ()
    begin: Callable[[Progress, Run], int] | None = None
    may_be_missing: Sequence[str] = ()


def fit(
    config: TrainConfig, trainee: Trainee, resumed: Resumed, data: tuple[Batches, Batches], device: torch.device
) -> dict[str, float]:
    """Train until `schedule.max_steps`; the best goes to `<output>/model`, the last to `<output>/model_last`.

    Returns:
        The last logged losses ("train/..."), the last validation losses ("validation/..."), "best/loss", "best/step".
    """
    schedule, output, network = config.schedule, Path(config.output), trainee.network
    train_data, validation_data = data
    kinds, p = (config.augment, config.augment_p) if isinstance(config, PhaseConfig) else ([], 0.0)
    changes = RandomChanges(kinds, p, device)
    trainer, frozen, parts = trainee.trainer, trainee.frozen, trainee.parts
    progress = restore(resumed, parts, trainee.rates, data=data, may_be_missing=trainee.may_be_missing)
    origin = f"resumed at step {progress.step}" if progress.step else trainee.origin

    with open_run(config, progress) as (run, bar):
        run.log(f"{trainee.title} on {place_of(device)}: {progress.data()}", origin, *trainee.notes, *resumed.notes)
        run.log(*notes_on_photos(train_data, config.domain, progress.step))
        shown = sample_images(validation_data, train_data, 8, device)

        while progress.step < schedule.max_steps:
            # -- one step
            batch_size = schedule.batch_size if trainee.begin is None else trainee.begin(progress, run)
            due = due_at(progress.step + 1, schedule)
            images, names = train_data.get(progress.position, batch_size)
            set_rates(progress.step, schedule, trainee.rates)
            values = trainee.update(changes.photos(images.to(device)), names, progress.step, due.look)
            average_running_statistics(network)
            due = progress.step_done(due, schedule, values, images=batch_size)
            bar.update()
            if not due.look:
                continue

            # -- log
            progress.history.stop_if_not_finite(config, run.checkpoints)
            if due.log:
                bar.set_postfix(loss=f"{progress.log_losses(run):.4f}")

            # -- pictures, validation, best model
            network.eval()
            if due.images and is_main():
                columns = trainee.draw(*shown)
                run.images(progress.step, trainee.pictures, side_by_side(*columns), columns=2 * len(columns))
            if due.validation:
                measured = validate(trainee.measure, validation_data, schedule, device)
                if progress.log_validation(run, measured):
                    trainee.write(output / "model", progress, measured)
            network.train()

            # -- save
            if due.save:
                save_state(run, config, trainer=trainer, frozen=frozen, progress=progress, parts=parts)
            if due.stop:
                run.stop(progress.step)

        # -- stop
        lines = trainee.write(output / "model_last", progress, None) or ()
        run.log(*reports(train_data, validation_data), *lines, progress.conclusion(output, trainee.then))
    return progress.summary()
