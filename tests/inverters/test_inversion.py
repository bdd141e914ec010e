"""An Inversion's file: small, exact, and bound to its model; slices, joins and interpolation of Inversions."""

import pytest
import torch

from hyperinverter.inverters import Inversion
from hyperinverter.utils.errors import UserError


def synthetic(n=1, layers=26, size=256, styles=18, w_dim=512, seed=0):
    g = torch.Generator().manual_seed(seed)
    tokens = {f"b{2 ** (2 + i // 3)}.conv{i % 2}.weight.{i}": torch.randn(n, size, generator=g) for i in range(layers)}
    w = torch.randn(n, 1, w_dim, generator=g)
    return Inversion(w.repeat(1, styles, 1), tokens, None, "ffhq", "0123456789abcdef", "fedcba9876543210")


def assert_equal(a, b):
    assert torch.equal(a.ws, b.ws)
    for part in ("tokens", "residuals"):
        x, y = getattr(a, part), getattr(b, part)
        assert (x is None) == (y is None)
        assert x is None or (list(x) == list(y) and all(torch.equal(x[k], y[k]) for k in x))
    assert (a.model_name, a.model_hash, a.generator_hash) == (b.model_name, b.model_hash, b.generator_hash)


def test_an_image_at_1024_px_with_d_256_takes_less_than_32_kib(tmp_path):
    inversion = synthetic()
    inversion.save(tmp_path / "one.safetensors")
    assert (tmp_path / "one.safetensors").stat().st_size < 32 * 1024
    assert_equal(Inversion.load(tmp_path / "one.safetensors"), inversion)


def test_batches_varying_styles_and_dense_residuals_survive_the_file(tmp_path):
    batch = synthetic(n=3, layers=4, size=8, styles=6, w_dim=5)
    varied = batch.with_ws(batch.ws + torch.randn_like(batch.ws))
    dense = Inversion(varied.ws, residuals={"b8.conv0.weight": torch.randn(3, 2, 4, 3, 3)}, model_name="m")
    uneven = {name: torch.randn(3, size) for name, size in (("b8.conv0.weight", 4), ("b4.conv1.weight", 6))}
    several_sizes = Inversion(varied.ws, uneven, model_name="m")  # scales of layers that are not equally wide
    for inversion in (batch, varied, dense, several_sizes, batch.without_weights()):
        inversion.save(tmp_path / "x.safetensors")
        assert_equal(Inversion.load(tmp_path / "x.safetensors"), inversion)


def test_slices_and_joins_undo_each_other():
    batch = synthetic(n=3, layers=2, size=4, styles=6, w_dim=5)
    assert len(batch) == 3 and len(batch[1]) == 1 and len(batch[1:]) == 2
    assert_equal(Inversion.cat(list(batch)), batch)
    assert_equal(batch[-1], batch[2])
    with pytest.raises(IndexError):
        batch[3]


def test_interpolation_starts_at_the_first_and_ends_at_the_last():
    first, last = synthetic(layers=2, size=4), synthetic(layers=2, size=4, seed=1)
    assert_equal(first.interpolate(last, 0.0), first)
    assert_equal(first.interpolate(last, 1.0), last)
    middle = first.interpolate(last, 0.25)
    name = next(iter(first.tokens))
    torch.testing.assert_close(middle.tokens[name], 0.75 * first.tokens[name] + 0.25 * last.tokens[name])
    assert first.interpolate(last, 0.5, weights=False).tokens is None


def test_what_does_not_fit_together_is_refused():
    one = synthetic(layers=2, size=4)
    other = synthetic(layers=2, size=4, seed=1)
    other.model_hash = "ffffffffffffffff"
    with pytest.raises(UserError, match="0123456789abcdef and ffhq ffffffffffffffff"):
        one.interpolate(other, 0.5)
    with pytest.raises(UserError, match="different tokens"):
        Inversion.cat([one, one.without_weights()])
    with pytest.raises(ValueError, match="give equally many"):
        one.interpolate(synthetic(n=2, layers=2, size=4), 0.5)
    with pytest.raises(ValueError, match=r"expected \[N, L, w_dim\]"):
        Inversion(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="not both"):
        Inversion(one.ws, one.tokens, {})
    with pytest.raises(ValueError, match=r"tokens\['a'\] has shape \(2, 4\); expected \[1, ...\]"):
        Inversion(one.ws, {"a": torch.zeros(2, 4)})
    with pytest.raises(ValueError, match="as in this Inversion"):
        one.with_ws(one.ws[:, :1])


def test_files_that_are_no_inversions_are_refused(tmp_path, tiny_model):
    with pytest.raises(FileNotFoundError, match="no such Inversion file"):
        Inversion.load(tmp_path / "absent.safetensors")
    with pytest.raises(UserError, match="not an Inversion"):
        Inversion.load(tiny_model / "generator.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tiny_model / "generator.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"not a readable \.safetensors file"):
        Inversion.load(tmp_path / "cut.safetensors")
