"""docs/results.md and its pages are what their JSON files say, and the JSON files are what the shipped weights do."""

import os
from functools import cache

import pytest
import torch

import hyperinverter
from hyperinverter import metrics
from hyperinverter.checkpoint import read_model
from hyperinverter.data.generated import GeneratedSource
from hyperinverter.data.loader import Batches
from hyperinverter.evaluation.reconstructing import reconstruct, rounded
from hyperinverter.pretrained.files import MORE_PARTS, PARTS
from hyperinverter.pretrained.load import load_discriminator
from hyperinverter.reports.reproduce.publish import pages, read_published
from hyperinverter.utils.checkout import REPOSITORY

FOLDER = REPOSITORY / "docs" / "results"
SIBLING = REPOSITORY.parent / "shared" / "data" / "nets"
RESULTS = read_published(FOLDER)
AGAIN = "measure again: scripts/reproduce.py, see docs/results.md"
RECOMPUTED = ("l2", "psnr", "squeezenet_features", "discriminator_features", "mobilefacenet", "dlib_identity")


def test_the_pages_are_made_of_the_json():
    for path, text in pages(RESULTS, FOLDER).items():
        assert path.read_text() == text, "run: python scripts/reproduce.py 'parts=[]' publish=docs/results"


# curves and ablations are of other weights than those which are shipped
OF_SHIPPED = [
    (d, part) for d, parts in RESULTS.items() for part in parts if part not in ("learning_curve", "ablations")
]


@cache
def shipped_hashes(domain: str) -> dict[str, str]:
    """Part -> hash; of a generator that is fetched, and may not be here, as the encoder names it."""
    folder = REPOSITORY / "pretrained_models" / domain
    files = {part: path for part in (*PARTS, *MORE_PARTS) if (path := folder / f"{part}.safetensors").is_file()}
    fetched = {"generator": read_model(files["w_encoder"]).requires["generator"]}
    return fetched | {part: read_model(path).hash for part, path in files.items()}


@pytest.mark.parametrize(("domain", "part"), OF_SHIPPED)
def test_numbers_are_of_the_shipped_weights(domain: str, part: str):
    assert RESULTS[domain][part]["about"]["model"] == shipped_hashes(domain), AGAIN


def test_no_path_of_a_machine_is_published():
    for path in [*FOLDER.rglob("*.json"), *pages(RESULTS, FOLDER)]:
        text = path.read_text()
        assert "/work/" not in text and "/home/" not in text and str(REPOSITORY) not in text, path.name


@pytest.mark.parametrize("domain", [domain for domain, parts in RESULTS.items() if "generated" in parts])
def test_a_few_generated_images_give_the_recorded_numbers(domain: str, monkeypatch: pytest.MonkeyPatch):
    """Metrics whose network is absent here are left out; L2, PSNR and the discriminator's are always there."""
    folders = os.environ.get("HYPERINVERTER_MODELS", "")
    monkeypatch.setenv("HYPERINVERTER_MODELS", os.pathsep.join(filter(None, [folders, str(SIBLING)])))
    recorded, shipped = RESULTS[domain]["generated"]["first_images"], REPOSITORY / "pretrained_models" / domain
    methods = {name: hyperinverter.load(shipped, name) for name in ("w_encoder", "hyperinverter")}
    inverter = methods["hyperinverter"]
    built, missing = metrics.build(RECOMPUTED, inverter.domain, discriminator=load_discriminator(shipped))
    assert {"l2", "psnr", "discriminator_features"} & set(missing) == set()
    source = GeneratedSource(inverter.generator, len(recorded), stream="evaluation")
    images, names = next(Batches(source, inverter.resolution).in_order(len(recorded)))
    assert names == [record["name"] for record in recorded]
    for name, method in methods.items():
        fake = rounded(reconstruct(method, images))
        for metric in built:
            expected = torch.tensor([record[name][metric.name] for record in recorded], dtype=torch.float64)
            # another processor or batch rounds otherwise: one level of 8 bits in a few pixels
            atol = 2e-3 if metric.unit == "cosine" else 1e-4
            torch.testing.assert_close(metric.fresh().update(images, fake), expected, rtol=1e-3, atol=atol, msg=AGAIN)


def test_a_comparison_with_faces_is_with_their_present_numbers():
    faces = RESULTS["faces64"]["analysis"]["weight_changes"]["evenness"]["value"]
    for domain, parts in RESULTS.items():
        for one in parts.get("analysis", {"weight_changes": {"statements": ()}})["weight_changes"]["statements"]:
            assert one.get("of_faces", faces) == faces, f"{domain}: {AGAIN}"
