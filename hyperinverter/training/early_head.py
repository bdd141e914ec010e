"""Train a generator's early head, which draws its images reduced from the layer of their size, without those behind it.

Data are the generator's own images, sampled once at full size (`data.kind=generated`, `data.store`); the head learns
to draw their box means from that layer's features. Nothing else of the generator changes.
Letters: N images.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperinverter.config.schema import EarlyHeadConfig
from hyperinverter.data import Batches
from hyperinverter.data.generated import GeneratedSource
from hyperinverter.extractors.resize import at_most
from hyperinverter.losses import build_losses
from hyperinverter.models.mobile_stylegan import EarlyHead
from hyperinverter.pretrained.load import hash_of, load_generator
from hyperinverter.releases.obtain import obtain_weights
from hyperinverter.training.common import set_up
from hyperinverter.training.export import copy_parts, save_early_head
from hyperinverter.training.guard import guarded
from hyperinverter.training.optim import build_optimizer, set_rates, step_over_parts
from hyperinverter.training.progress import due_at, open_run
from hyperinverter.training.resume import Parts, find_state, restore, save_state
from hyperinverter.training.validation import side_by_side, validate
from hyperinverter.utils.distributed import in_all_processes, is_main, place_of
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.text import counted


@in_all_processes
@guarded
def train(config: EarlyHeadConfig) -> dict[str, float]:
    """Train until `schedule.max_steps`; the best head goes to `<output>/model`, beside the generator.

    At the end it is measured on all validation images; a finished run that is called again does that alone.

    Returns:
        The last logged losses ("train/..."), the last validation losses ("validation/..."), "best/loss", "best/step".
    Raises:
        UserError: the generator can have no early head, or the losses are no longer finite.
        FileNotFoundError: a network is not there.
    """
    # -- set up
    device = set_up(config)
    domain, schedule, output = config.domain, config.schedule, Path(config.output)
    generator = load_generator(obtain_weights(domain, "generator"), domain).to(device).requires_grad_(False)
    mobile: Any = generator  # the kind that has one
    if not hasattr(generator, "start_early_head"):
        raise UserError(f"domain.generator: {domain.name}'s has no early head; mobile_stylegan has one")
    size = config.px or generator.resolution // 4
    frozen = {"generator": hash_of(generator)}
    resumed = find_state(config, trainer="early_head", networks=["generator"], frozen=frozen)
    head: EarlyHead = mobile.start_early_head(config.channels, size).to(device)
    stored = max(size, generator.resolution // 4)  # one store serves smaller heads too
    train_source, validation_source = (
        GeneratedSource.of(config.data, generator, stream, stored) for stream in ("train", "validation")
    )
    for source in (train_source, validation_source):
        source.fill_store()
    data = [
        Batches(source, stored, seed=config.seed, cache_mib=config.data.cache_mib, device=device)
        for source in (train_source, validation_source)
    ]
    losses = build_losses(config.loss_weights, loss_resolution=domain.loss_resolution).to(device).eval()
    optimizer = build_optimizer(head.parameters(), config.optimizer)
    state: Parts = {"early_head": head, "optimizer": optimizer}
    progress = restore(resumed, state, {optimizer: config.optimizer}, data=(data[0], data[1]))

    layer = f"layers.{mobile.synthesis.layers_up_to(size) - 1}"

    def draw(source: GeneratedSource, names: list[str]) -> Tensor:
        w = source.w(names)
        with torch.no_grad():
            x = mobile.synthesis.features(w[:, None].expand(-1, generator.num_ws, -1), layer)
        return head(x, w, {})

    def measure(part: tuple[Tensor, list[str]]) -> dict[str, Tensor]:
        total, parts = losses(draw(train_source, part[1]), part[0])
        return {"loss": total, **parts}

    def validation_losses(images: Tensor, names: list[str]) -> dict[str, Tensor]:
        drawn = draw(validation_source, names)
        total, parts = losses(drawn, images)
        errors = ((drawn - at_most(images, size)) / 2).square().mean(dim=(1, 2, 3))  # of images in [0, 1]
        return {"loss": total, **parts, "psnr": (-10 * errors.log10()).mean()}

    with open_run(config, progress) as (run, bar):
        run.log(f"early head at {size} px on {place_of(device)}: {len(train_source)} generated images", *resumed.notes)
        while progress.step < schedule.max_steps:
            # -- one step
            due = due_at(progress.step + 1, schedule)
            images, names = data[0].get(progress.position, schedule.batch_size)
            set_rates(progress.step, schedule, {optimizer: config.optimizer})
            parts = [(images[i : i + 1], names[i : i + 1]) for i in range(len(images))]  # one image's maps at a time
            values = step_over_parts(optimizer, measure, parts, clip=config.gradient_clip, measure=due.look)
            due = progress.step_done(due, schedule, values, images=schedule.batch_size)
            bar.update()
            if not due.look:
                continue

            # -- log, pictures, validation, best head
            progress.history.stop_if_not_finite(config, run.checkpoints)
            if due.log:
                bar.set_postfix(loss=f"{progress.log_losses(run):.4f}")
            if due.images and is_main():
                _, images, names = next(iter(data[1].own_in_order(4, 4)))
                with torch.no_grad():
                    run.images(progress.step, "reduced_early", side_by_side(images, draw(validation_source, names)))
            if due.validation:
                result = validate(validation_losses, data[1], schedule, device)
                if progress.log_validation(run, result) and is_main():
                    copy_parts(output / "model", domain, ["generator"])
                    info = {"trainer": "train_early_head", "step": progress.step, "validation": result}
                    info["images_seen"] = progress.position
                    save_early_head(output / "model", head, config.channels, size, domain, frozen=frozen, info=info)

            # -- save
            if due.save:
                save_state(run, config, trainer="early_head", frozen=frozen, progress=progress, parts=state)
            if due.stop:
                run.stop(progress.step)
        whole = validate(validation_losses, data[1], replace(schedule, validation_images=None), device)
        message = ", ".join(f"{name} {value:.4f}" for name, value in whole.items())
        run.log(f"on {counted(len(validation_source), 'validation image')}: {message}", progress.conclusion(output))
    return progress.summary()
