"""Domains become networks: the published sizes at 1024 and 256 px, the small ones, and the plan that describes them."""

import subprocess
import sys
from dataclasses import replace

import pytest

from hyperinverter.config.schema import DomainConfig, EncoderConfig, LayerwiseEncoderConfig, RunConfig
from hyperinverter.models.build import build_discriminator, build_hyperinverter
from hyperinverter.models.plan import count_parameters, dry_run
from hyperinverter.utils.state_dicts import shapes_only

RESNET34 = {"trunk": "resnet", "depths": [3, 4, 6, 3], "strides": [1, 2, 2, 2], "stem_stride": 2}
CHURCH = DomainConfig(
    name="church",
    kind="scenes",
    resolution=256,
    w_encoder=EncoderConfig(**RESNET34),
    layerwise_encoder=LayerwiseEncoderConfig(**RESNET34),
)


@pytest.mark.parametrize(
    ("domain", "counts"),
    [
        (DomainConfig(), ("30,370,060", "29,012,513", "31,212,736", "134,979,264", "642,351,195")),
        (CHURCH, ("30,034,338", "28,864,129", "21,547,392", "96,996,224", "609,361,173")),
    ],
    ids=["ffhq", "church"],
)
def test_the_plan_shows_the_published_counts(domain, counts):
    plan = dry_run(RunConfig(domain=domain))
    for name, count in zip(("(G)", "(D)", "(E1)", "(E2)", "(H)"), counts, strict=True):
        assert count in next(line for line in plan.splitlines() if name in line)


def test_the_plan_names_targets_tokens_and_ablations():
    plan = dry_run(DomainConfig())
    assert "26 weights, 23,592,864 numbers, 90.0 MiB" in plan
    assert "26 x 256 = 6,656 numbers per image, with w 28.0 KiB" in plan
    line = next(line for line in plan.splitlines() if "b128.conv0.weight" in line)
    assert line.split() == ["b128.conv0.weight", "256x512x3x3", "9", "10"]
    ablated = replace(DomainConfig().hypernetwork, use_w_image_features=False, shared_code=True)
    plan = dry_run(replace(DomainConfig(), hypernetwork=ablated))
    assert "without features of the Phase I image, one shared code" in plan


@pytest.mark.slow
def test_the_plan_does_not_load_torchs_compiler():
    program = (
        "import sys; from hyperinverter.config.schema import DomainConfig;"
        "from hyperinverter.models.plan import dry_run;"
        "dry_run(DomainConfig()); assert 'torch._dynamo' not in sys.modules and 'sympy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_shapes_only_gives_the_real_shapes(tiny_domain):
    real = build_hyperinverter(tiny_domain), build_discriminator(tiny_domain)
    with shapes_only():
        planned = build_hyperinverter(tiny_domain), build_discriminator(tiny_domain)
    for one, other in zip(real, planned, strict=True):
        assert count_parameters(one) == count_parameters(other)
        assert {k: v.shape for k, v in one.state_dict().items()} == {k: v.shape for k, v in other.state_dict().items()}


def test_numbers_that_make_no_network_are_refused(tiny_domain):
    wrong = replace(tiny_domain, layerwise_encoder=replace(tiny_domain.layerwise_encoder, strides=[2, 2, 2, 2]))
    with pytest.raises(ValueError, match="cannot be halved to feature_size 8 px"):
        dry_run(wrong)
