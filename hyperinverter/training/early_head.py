"""Train a generator's early head, which draws its images reduced from the layer of their size, without those behind it.

The head learns to draw the box means of whole images from that layer's features. The images are the generator's own,
sampled once at full size (`data.kind=generated`, `data.store`), or what both phases make of photos (`model`): there,
away from the middle of W and with changed weights, a head that saw samples alone draws colours that are a little off.
Nothing else of the generator changes. Letters: N images, L styles.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.config.schema import EarlyHeadConfig
from hyperinverter.data.generated import GeneratedSource
from hyperinverter.data.loader import Batches, open_training_data
from hyperinverter.extractors.resize import at_most
from hyperinverter.losses import build_losses
from hyperinverter.models.hyperinverter import HyperInverterNetwork
from hyperinverter.models.mobile_stylegan import EarlyHead
from hyperinverter.models.residuals import Residuals, of_image
from hyperinverter.pretrained.load import hash_of, load_generator, load_model
from hyperinverter.releases.obtain import obtain_weights
from hyperinverter.training.common import set_up
from hyperinverter.training.export import copy_parts, save_early_head
from hyperinverter.training.guard import guarded
from hyperinverter.training.loop import Trainee, fit
from hyperinverter.training.optim import build_optimizer, step_over_parts
from hyperinverter.training.progress import Progress
from hyperinverter.training.resume import find_state
from hyperinverter.training.validation import validate
from hyperinverter.utils.distributed import in_all_processes, is_main
from hyperinverter.utils.errors import UserError
from hyperinverter.utils.state_dicts import misfits
from hyperinverter.utils.text import counted

# photos or samples [N, 3, r, r], names -> styles [N, L, w_dim], residuals, box means of whole images [N, 3, S, S]
Scenes = Callable[[Tensor, Sequence[str]], tuple[Tensor, Residuals, Tensor]]


def scenes_of_samples(source: GeneratedSource, num_ws: int) -> Scenes:
    """Samples as they were stored."""

    def scenes(images: Tensor, names: Sequence[str]) -> tuple[Tensor, Residuals, Tensor]:
        return source.w(names)[:, None].expand(-1, num_ws, -1), {}, images

    return scenes


def scenes_of_photos(model: HyperInverterNetwork, size: int, *, varied: bool) -> Scenes:
    """What both phases make of photos, whole and reduced to `size` px.

    Args:
        varied: half of the batches have the generator's own weights, as in Phase I, and every w goes up to half the way
            to that of the next photo, as an edit moves it.
    """

    @torch.no_grad()
    def scenes(images: Tensor, names: Sequence[str]) -> tuple[Tensor, Residuals, Tensor]:
        result = model.invert(images)
        ws, residuals = result.ws, model.hypernetwork.decode(result.tokens)
        if varied:
            ws = ws.lerp(ws.roll(1, 0), torch.rand(len(ws), 1, 1).to(ws.device) / 2)
            residuals = residuals if torch.rand([]) < 0.5 else {}
        whole = model.synthesise(ws, residuals)
        return ws, residuals, F.avg_pool2d(whole, whole.shape[-1] // size)

    return scenes


def open_scenes(
    config: EarlyHeadConfig, generator: Any, size: int, device: torch.device
) -> tuple[tuple[Batches, Batches], tuple[Scenes, Scenes], dict[str, str]]:
    """Training and validation data, what is drawn of each, and the hashes of the networks that this takes."""
    if config.model is not None:
        loaded = load_model(config.model)
        if loaded.hashes["generator"] != hash_of(generator):
            raise UserError(f"model: the networks in {config.model} are for another generator than domain.weights'")
        assert loaded.network is not None
        model = loaded.network.to(device).eval()
        px = max(model.w_encoder.input_size, model.layerwise_encoder.input_size)
        data = open_training_data(config.data, config.domain, config.seed, device=device, resolution=px)
        scenes = scenes_of_photos(model, size, varied=True), scenes_of_photos(model, size, varied=False)
        return data, scenes, {part: loaded.hashes[part] for part in ("w_encoder", "hyperinverter")}
    stored = max(size, generator.resolution // 4)  # one store serves smaller heads too
    given = replace(config.data, flip=False)  # a mirrored image has another w
    data = open_training_data(given, config.domain, config.seed, generator, device, stored)
    first, second = (scenes_of_samples(cast(GeneratedSource, one.source), generator.num_ws) for one in data)
    return data, (first, second), {}


def start_head(config: EarlyHeadConfig, generator: Any, size: int) -> EarlyHead:
    """A new head, or with the weights of `init_from`, a model folder, whichever generator they were for."""
    head: EarlyHead = generator.start_early_head(config.channels, size)
    if config.init_from is None:
        return head
    heads: dict[str, Any] = dict(getattr(load_generator(config.init_from).synthesis, "early", {}))
    if str(size) not in heads:
        raise UserError(f"init_from: {config.init_from} has no early head of {size} px; leave init_from out")
    trained = heads[str(size)].state_dict()
    if fault := misfits(head.state_dict(), trained):
        raise UserError(
            f"init_from: the early head in {config.init_from} has other sizes than one of channels={config.channels} "
            f"for this generator ({fault}); set channels to its own, or leave init_from out"
        )
    head.load_state_dict(trained)
    return head


def one_by_one(seen: tuple[Tensor, Residuals, Tensor]) -> list[tuple[Tensor, Residuals, Tensor]]:
    """On a CPU, one image's maps at a time; a GPU takes all at once."""
    ws, residuals, whole = seen
    if ws.device.type != "cpu":
        return [seen]
    return [(ws[i : i + 1], of_image(residuals, i), whole[i : i + 1]) for i in range(len(ws))]


@in_all_processes
@guarded
def train(config: EarlyHeadConfig) -> dict[str, float]:
    """Train until `schedule.max_steps`; the best head goes to `<output>/model`, beside the generator.

    At the end it is measured on all validation images; a finished run that is called again does that alone. Result and
    errors are those of Phase I's; and UserError: the generator can have no early head.
    """
    device, domain = set_up(config), config.domain
    generator = load_generator(obtain_weights(domain, "generator"), domain).to(device).requires_grad_(False)
    mobile: Any = generator  # the kind that has one
    if not hasattr(generator, "start_early_head"):
        raise UserError(f"domain.generator: {domain.name}'s has no early head; mobile_stylegan has one")
    size = config.px or generator.resolution // 4
    frozen = {"generator": hash_of(generator)}
    data, scenes, used = open_scenes(config, generator, size, device)
    fixed = {**frozen, **used}
    settings = ["channels", "px"]
    resumed = find_state(config, trainer="early_head", networks=["generator"], frozen=fixed, settings=settings)
    head: EarlyHead = start_head(config, mobile, size).to(device)
    losses = build_losses(config.loss_weights, loss_resolution=domain.loss_resolution).to(device).eval()
    optimizer = build_optimizer(head.parameters(), config.optimizer)
    count = mobile.synthesis.layers_up_to(size)

    def draw(ws: Tensor, residuals: Residuals) -> Tensor:
        with torch.no_grad():
            x = mobile.synthesis.features(ws, f"layers.{count - 1}", residuals)
        return head(x, ws[:, 3 * count], {})

    def loss_of(part: tuple[Tensor, Residuals, Tensor]) -> dict[str, Tensor]:
        ws, residuals, whole = part
        total, parts = losses(draw(ws, residuals), whole)
        return {"loss": total, **parts}

    def update(images: Tensor, names: Sequence[str], _: int, measure: bool) -> dict[str, Tensor | None]:
        parts = one_by_one(scenes[0](images, names))
        return step_over_parts(optimizer, loss_of, parts, clip=config.gradient_clip, measure=measure)

    def measure(images: Tensor, names: list[str]) -> dict[str, Tensor]:
        ws, residuals, whole = scenes[1](images, names)
        drawn = draw(ws, residuals)
        total, parts = losses(drawn, whole)
        errors = ((drawn - at_most(whole, size)) / 2).square().mean(dim=(1, 2, 3))  # of images in [0, 1]
        return {"loss": total, **parts, "psnr": (-10 * errors.log10()).mean()}

    @torch.no_grad()
    def pictures(images: Tensor, names: list[str]) -> list[Tensor]:
        ws, residuals, whole = scenes[1](images, names)
        return [whole, draw(ws, residuals)]

    def write(folder: Path, progress: Progress, measured: dict[str, float] | None) -> list[str]:
        if measured is None:
            measured = validate(measure, data[1], replace(config.schedule, validation_images=None), device)
            message = ", ".join(f"{name} {value:.4f}" for name, value in measured.items())
            return [f"on {counted(len(data[1]), 'validation image')}: {message}"] if measured else []
        if is_main():
            copy_parts(folder, domain, ["generator"])
            info = {"trainer": "train_early_head", "step": progress.step, "validation": measured}
            info["images_seen"] = progress.position
            save_early_head(folder, head, config.channels, size, domain, frozen=frozen, info=info)
        return []

    trainee = Trainee(
        trainer="early_head",
        title=f"early head at {size} px",
        network=head,
        parts={"early_head": head, "optimizer": optimizer},
        rates={optimizer: config.optimizer},
        frozen=fixed,
        origin=f"the head starts from {config.init_from or 'random weights'}",
        update=update,
        measure=measure,
        draw=pictures,
        pictures="reduced_early",
        write=write,
    )
    return fit(config, trainee, resumed, data, device)
