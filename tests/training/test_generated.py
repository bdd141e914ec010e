"""Images that are sampled once from a generator into a store."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperinverter.config.schema import (
    DomainConfig,
)
from hyperinverter.data.generated import CHUNK, GeneratedSource
from hyperinverter.models.build import build_generator
from hyperinverter.pretrained.load import load_generator
from hyperinverter.utils.errors import UserError


@pytest.fixture(scope="module")
def domain(mobile_domain: DomainConfig) -> DomainConfig:
    return mobile_domain


def test_the_code_of_a_sample_draws_it_again(domain):
    generator = load_generator(Path(domain.weights.folder))
    source = GeneratedSource(generator, 20, truncation_psi=0.9, truncation_psi_from=0.3, resolution=16)
    names = [source.names[i] for i in (3, 17)]
    w = source.w(names)
    with torch.no_grad():
        drawn = generator.synthesis(w[:, None].expand(-1, generator.num_ws, -1), resolution=16)
    for image, index in zip(drawn, (3, 17), strict=True):
        ((_, pixels),) = source.pixels(index, whole_chunk=False)
        assert np.abs(pixels / 127.5 - 1 - image.clamp(-1, 1).numpy()).max() < 2 / 255
    spread = (source.w(source.names) - generator.mapping.w_avg).norm(dim=1)
    full = (GeneratedSource(generator, 20).w(source.names) - generator.mapping.w_avg).norm(dim=1)
    assert ((spread / full > 0.29) & (spread / full < 0.91)).all() and (spread / full).std() > 0.05


def test_a_full_disk_names_the_file_of_samples_that_did_not_fit(domain, tmp_path, largest_file):
    """numpy told how many bytes it had written, and neither the file nor the reason: a traceback."""
    source = GeneratedSource(load_generator(Path(domain.weights.folder)), 4, resolution=16, store=tmp_path / "store")
    largest_file(2000)
    with pytest.raises(OSError) as caught:
        source.fill_store()
    assert caught.value.errno == errno.EFBIG and Path(caught.value.filename).parent == tmp_path / "store"
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["store.json"]


def test_truncation_is_the_mapping_networks_own(domain):
    """To the last bit, and refused where there is no mean."""
    generator = load_generator(Path(domain.weights.folder))
    for psi in (1.0, 0.7):
        source = GeneratedSource(generator, 5, truncation_psi=psi)
        z = torch.stack([source._latent(i)[0] for i in range(5)])
        with torch.no_grad():
            assert torch.equal(source.w(source.names), generator.mapping(z, truncation_psi=psi)[:, 0])
    generator.mapping.w_avg = None
    with pytest.raises(UserError, match="needs the generator's mean of w"):
        source.w(source.names)


def test_a_store_is_sampled_once_and_never_of_another_generator(domain, tmp_path, monkeypatch):
    generator = load_generator(Path(domain.weights.folder))
    settings = {"truncation_psi": 0.8, "resolution": 16}
    plain = GeneratedSource(generator, CHUNK + 3, **settings)
    source = GeneratedSource(generator, CHUNK + 3, store=tmp_path / "store", **settings)
    source.fill_store()
    assert len(list((tmp_path / "store").glob("*.npy"))) == 2
    monkeypatch.setattr(generator.synthesis, "forward", None)  # nothing is drawn any more
    again = GeneratedSource(generator, CHUNK + 3, store=tmp_path / "store", **settings)
    again.fill_store()
    stored = {i: image for start in (0, CHUNK) for i, image in again.pixels(start, whole_chunk=True)}
    monkeypatch.undo()
    assert sorted(stored) == list(range(CHUNK + 3))
    for i, image in plain.pixels(CHUNK, whole_chunk=True):
        assert np.array_equal(image, stored[i])
    with pytest.raises(UserError, match=r"truncation_psi 0.8 instead of 0.7; name another data.store"):
        GeneratedSource(generator, 4, store=tmp_path / "store", **{**settings, "truncation_psi": 0.7})
    with pytest.raises(UserError, match="images there are of generator"):
        GeneratedSource(build_generator(domain), 4, store=tmp_path / "store", **settings)
    file = tmp_path / "store" / "train_000000.npy"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="delete this file"):
        list(again.pixels(0, whole_chunk=True))
    about = tmp_path / "store" / "store.json"
    assert json.loads(about.read_text())["resolution"] == 16
    for damaged in ("{", "[]", "[" * 100_000):
        about.write_text(damaged)
        with pytest.raises(UserError, match="is damaged"):
            GeneratedSource(generator, 4, store=tmp_path / "store", **settings)
