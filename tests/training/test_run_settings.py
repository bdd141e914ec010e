"""What whole runs make of their settings: weights, rates, clipping, sizes, who sees which images."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import softplus

from hyperinverter.checkpoint import load_training_state, read_model
from hyperinverter.config.schema import DataConfig, OptimizerConfig
from hyperinverter.models.stylegan2 import Discriminator, Generator
from hyperinverter.training import discriminator, phase2, stylegan2, validation
from hyperinverter.training.augment import Augmentation
from hyperinverter.training.progress import Progress, open_run

FALLING = {"lr_decay_steps": 4, "lr_decay_to": 0.2, "lr_decay_shape": "linear"}
FACTORS = [1, 1, 0.8, 0.6, 0.4, 0.2]  # of the rates in six steps


@pytest.fixture
def updates(monkeypatch):
    """(rate, second beta, clip) of every update of a run, and what its loss function gave."""
    found = []

    def note(trainer):
        step = trainer.step_over_parts

        def noting(optimizer, compute, parts, **settings):
            values = step(optimizer, compute, parts, **settings)
            group = optimizer.param_groups[0]
            found.append(((group["lr"], group["betas"][1], settings.get("clip")), dict(values)))
            return values

        for module in (trainer, discriminator):
            monkeypatch.setattr(module, "step_over_parts", noting)
        return found

    return note


def test_phase_2(make_config, photos, updates, monkeypatch):
    """Edits: weight 0.5 every 2 steps; D: weight 0.1 from step 3, R1 in step 4, in batches of 4 in 2 parts."""
    encoder_losses, discriminator_step = phase2.encoder_losses, phase2.discriminator_step
    groups, rests, made, shown = [], [], {}, []

    def noting(model, losses, images, D=None, weight=0.0, group=None, **settings):
        values, fakes = encoder_losses(model, losses, images, D, weight, group, **settings)
        rest = values["loss"] - values["l2"] - values.get("edit_consistency", 0) - 0.1 * values.get("adversarial", 0)
        rests.append(float(rest.detach()))
        made.update({image.numpy().tobytes(): fake.detach() for image, fake in zip(images, fakes, strict=True)})
        if not torch.is_grad_enabled() and D is not None:
            groups.append((len(images), group))
        return values, fakes

    def noting_D(D, optimizer, reals, fakes, **settings):
        shown.extend(torch.equal(made[real.numpy().tobytes()], fake) for real, fake in zip(reals, fakes, strict=True))
        return discriminator_step(D, optimizer, reals, fakes, **settings)

    monkeypatch.setattr(phase2, "encoder_losses", noting)
    monkeypatch.setattr(phase2, "discriminator_step", noting_D)
    config = make_config("phase2", schedule={"batch_size": 6, **FALLING}, gradient_clip=0.5, gradient_accumulation=2)
    config.data = DataConfig(root=str(photos), validation_fraction=0.5)  # 6 images, of which D takes 4 at a time
    adam_D = OptimizerConfig(lr=3e-4, betas=[0.5, 0.98])
    config.adversarial = replace(config.adversarial, batch_size=4, optimizer=adam_D)
    config.domain.discriminator = replace(config.domain.discriminator, mbstd_group_size=None)
    found = updates(phase2)
    phase2.train(config)
    assert rests == pytest.approx([0] * len(rests), abs=1e-5)
    assert shown == [True] * 12, "every real stands beside its own fake"
    assert groups == [(6, 4), (6, 4)], "validation at steps 4 and 6, after D has joined"
    networks = "E E E E D E D R E D"
    steps = [0, 1, 2, 3, 3, 4, 4, 4, 5, 5]
    rates = [{"E": 1e-3}.get(name, 3e-4) * FACTORS[step] for name, step in zip(networks.split(), steps, strict=True)]
    assert [rate for (rate, _, _), _ in found] == pytest.approx(rates)
    assert [beta for (_, beta, _), _ in found] == [{"E": 0.999}.get(name, 0.98) for name in networks.split()]
    assert {clip for (_, _, clip), _ in found} == {0.5}
    assert read_model(Path(config.output) / "model_last" / "hyperinverter.safetensors").info["images_seen"] == 30


def test_stylegan2(make_config, updates, monkeypatch):
    """Batches of 4 in 2 parts; R1 every 2 steps, path length every 3 on half of a part; D sees changed images alone."""
    seen, logits, lengths, mixing, adjusted, measured, drawn = [], [], [], [], [], [], []

    def note(where, name, what, result=None):
        function = getattr(where, name)

        def noting(*args, **kwargs):
            value = function(*args, **kwargs) if result is None else result(*args)
            what(value, args, kwargs)
            return value

        monkeypatch.setattr(where, name, noting)

    note(Augmentation, "__call__", lambda *_: None, lambda self, images: images + 100)
    note(Discriminator, "forward", lambda _, args, __: seen.append(float(args[1].detach().amin())))
    logits_of = discriminator.real_and_fake_logits
    told_apart = lambda *of: [sign * part.abs() for sign, part in zip((1, -1), logits_of(*of), strict=True)]  # noqa: E731
    note_logits = lambda value, *_: logits.append([x.detach() for x in value])  # noqa: E731
    note(discriminator, "real_and_fake_logits", note_logits, told_apart)
    note(stylegan2, "path_length_penalty", lambda _, args, kwargs: lengths.append((args[1], args[2], kwargs["decay"])))
    note(stylegan2, "draw", lambda _, args, __: mixing.append(args[1:]))
    note(Augmentation, "adjust", lambda _, args, __: adjusted.append((float(args[1]), args[2])))
    note(Generator, "forward", lambda _, args, kwargs: drawn.append((len(args[1]), kwargs.get("truncation_psi"))))
    monkeypatch.setattr(validation, "sample_features", lambda _: ("frechet_test", lambda x: x.flatten(1)[:, :4]))
    monkeypatch.setattr(
        validation.SampleDistance,
        "__call__",
        lambda self, G: measured.append(any(p.requires_grad for p in G.parameters())) or 1.0,
    )
    adam = OptimizerConfig(lr=2e-3, betas=[0.0, 0.99])
    schedule = {"max_steps": 4, "images_every": 4, "validate_every": 4, "save_every": 4}
    settings = {"gradient_clip": 0.5, "gradient_accumulation": 2, "augment": ["color"]}
    config = make_config("stylegan2", schedule=schedule, optimizer=adam, discriminator_optimizer=adam, **settings)
    config.domain.discriminator = replace(config.domain.discriminator, mbstd_group_size=2)
    found = updates(stylegan2)
    stylegan2.train(config)

    assert min(seen) > 50
    # steps 0 to 3: G, path length at 0 and 3, D, R1 at 0 and 2; rates and momenta of lazy regularisation
    G, D = (2e-3 * 3 / 4, 0.99 ** (3 / 4), 0.5), (2e-3 * 2 / 3, 0.99 ** (2 / 3), 0.5)
    expected = [G, G, D, D, G, D, G, D, D, G, G, D]
    assert [each for each, _ in found] == [pytest.approx(each) for each in expected]
    losses = [values["loss"] for _, values in found if "D_real" in values]
    both = [softplus(-real).mean() + softplus(fake).mean() for real, fake in logits]  # of every part
    torch.testing.assert_close(torch.stack(losses), torch.stack(both).view(4, 2).mean(1))
    assert lengths == [(1, "random", pytest.approx(0.00501256))] * 4  # two parts together move the mean by 0.01
    assert mixing == [(4, 0.9)] * 4
    assert adjusted == [(1.0, 4)] * 4  # the sign of photos' logits; images of a step
    assert measured == [False], "the average is measured"
    assert drawn == [(64, 0.7)]
    state = load_training_state(Path(config.output) / "checkpoints")["average"]
    assert state["mapping.w_avg"].abs().max() > 0
    last = read_model(Path(config.output) / "model_last" / "generator.safetensors").state
    assert all(torch.equal(state[name], tensor) for name, tensor in last.items())


def test_nothing_stands_behind_the_last_line_of_a_run(make_config, capsys):
    """The bar was drawn once more below `done at step ...`."""
    with open_run(make_config("phase1"), Progress()) as (run, bar):
        bar.update()
        run.log("done at step 1")
    behind = capsys.readouterr().err.rpartition("done at step 1\n")[2]
    assert "it/s" in behind and not behind.replace("\r", "\n").splitlines()[-1].strip()
