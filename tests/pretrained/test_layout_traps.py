"""The two silent traps of released hypernetworks: shapes fit either way, so a wrong reading loads and blurs images.

What is expected here is computed number by number in plain Python from the published index formulas: the kernel of a
regressor is its matrix M [I, O*k*k] *reinterpreted* as [O, I, k, k], and conv0 and conv1 above 4 px read the features
of the style after their own.
"""

import math

import pytest
import torch

from hyperinverter.published import from_published

D, C, FUSED, INNER, PX = 2, 2, 3, 2, 8  # hidden size, feature, fusion and transformer channels, side of features
W_DIM = 3
SHAPES = {  # of an 8 px generator with 4 and 2 channels: I == O, torgb, I == 2 O, and the affines of their styles
    "b4.conv1": (4, 4, 3),
    "b4.torgb": (3, 4, 1),
    "b8.conv0": (2, 4, 3),
    "b8.conv1": (2, 2, 3),
    "b8.torgb": (3, 2, 1),
    **{f"b{block}.affine": (channels, W_DIM, 1) for block, channels in
       (("4.conv1", 4), ("4.torgb", 4), ("8.conv0", 4), ("8.conv1", 2), ("8.torgb", 2))},
}  # fmt: skip

# The published table (weight_shapes.py), written out: block -> style of conv0, conv1, torgb.
RELEASED = {4: (None, 0, 1), 8: (2, 3, 3), 16: (4, 5, 5), 32: (6, 7, 7), 64: (8, 9, 9), 128: (10, 11, 11),
            256: (12, 13, 13), 512: (14, 15, 15), 1024: (16, 17, 17)}  # fmt: skip
# The style that the generator really hands to each of them.
TRUE = {4: (None, 0, 1), 8: (1, 2, 3), 16: (3, 4, 5), 32: (5, 6, 7), 64: (7, 8, 9), 128: (9, 10, 11),
        256: (11, 12, 13), 512: (13, 14, 15), 1024: (15, 16, 17)}  # fmt: skip


def regressor_state(shape: tuple[int, int, int]) -> dict[str, torch.Tensor]:
    """Random weights of one regressor for (O, I, k), by the published names."""
    o, i, k = shape
    return {
        "w1": torch.randn(D, i * D),
        "b1": torch.randn(i * D),
        "w2": torch.randn(D, o * k * k),
        "b2": torch.randn(o * k * k),
        "fusion.0.weight": torch.randn(FUSED, 2 * C, 1, 1),
        "fusion.0.bias": torch.randn(FUSED),
        "feature_extractor.0.weight": 0.4 * torch.randn(INNER, FUSED, 3, 3),
        "feature_extractor.0.bias": torch.randn(INNER),
        "feature_extractor.2.weight": 0.4 * torch.randn(INNER, INNER, 4, 4),
        "feature_extractor.2.bias": torch.randn(INNER),
        "feature_extractor.4.weight": 0.4 * torch.randn(INNER, INNER, 4, 4),
        "feature_extractor.4.bias": torch.randn(INNER),
        "feature_extractor.6.weight": 0.4 * torch.randn(D, INNER, 4, 4),
        "feature_extractor.6.bias": torch.ones(D),  # tokens that are not cut off at 0
    }


def hypernetwork_state(shapes: dict[str, tuple[int, int, int]]) -> dict[str, torch.Tensor]:
    return {
        f"weight_regressors.{layer.replace('.', '_')}_weight.{key}": value
        for layer, shape in shapes.items()
        for key, value in regressor_state(shape).items()
    }


def all_layers(resolution: int, with_affines: bool) -> dict[str, tuple[int, int, int]]:
    """Every target layer of a generator with one channel, in the published names."""
    layers, blocks = {}, [2**level for level in range(2, int(math.log2(resolution)) + 1)]
    for block in blocks:
        for kind, k in (("conv0", 3), ("conv1", 3), ("torgb", 1)):
            if block > 4 or kind != "conv0":
                layers[f"b{block}.{kind}"] = (3 if kind == "torgb" else 1, 1, k)
    return layers | ({f"{layer}.affine": (1, W_DIM, 1) for layer in layers} if with_affines else {})


def mapped(state: dict[str, torch.Tensor], z: list[float], shape: tuple[int, int, int]) -> list[list[float]]:
    """M [I, O*k*k]: A = z w1 + b1 viewed as [I, D], M = A w2 + b2."""
    o, i, k = shape
    w1, b1, w2, b2 = (state[name].tolist() for name in ("w1", "b1", "w2", "b2"))
    a = [sum(z[d] * w1[d][e] for d in range(D)) + b1[e] for e in range(i * D)]
    return [
        [sum(a[row * D + d] * w2[d][column] for d in range(D)) + b2[column] for column in range(o * k * k)]
        for row in range(i)
    ]


def kernel_of(m: list[list[float]], shape: tuple[int, int, int], layout: str) -> list[list[list[list[float]]]]:
    """[O][I][k][k] by the index formulas."""
    o_channels, i_channels, k = shape

    def number(o: int, i: int, kh: int, kw: int) -> float:
        if layout == "paper":  # each row is one input channel
            return m[i][(o * k + kh) * k + kw]
        flat = ((o * i_channels + i) * k + kh) * k + kw
        return m[flat // (o_channels * k * k)][flat % (o_channels * k * k)]

    return [
        [[[number(o, i, kh, kw) for kw in range(k)] for kh in range(k)] for i in range(i_channels)]
        for o in range(o_channels)
    ]


@pytest.mark.parametrize("layout", ["released", "paper"])
@torch.no_grad()
def test_kernels_are_those_of_the_index_formula(layout):
    """I == O, I == 2 O, torgb and affine, each number."""
    torch.manual_seed(0)
    state = hypernetwork_state(SHAPES)
    options = {} if layout == "released" else {"weight_layout": layout}
    network = from_published(state, "hypernetwork", **options)
    assert (network.published.config["resolution"], network.hidden_size) == (8, D)
    tokens = {f"{layer}.weight": torch.rand(1, D) for layer in SHAPES}
    for name, residual in network.decode(tokens).items():
        layer = name.removesuffix(".weight")
        prefix = f"weight_regressors.{layer.replace('.', '_')}_weight."
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        o, i, k = SHAPES[layer]
        assert residual.shape == ((1, o, i) if layer.endswith("affine") else (1, o, i, k, k))
        expected = torch.tensor(kernel_of(mapped(own, tokens[name][0].tolist(), (o, i, k)), (o, i, k), layout))
        torch.testing.assert_close(residual.reshape(o, i, k, k), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("layer", "row_of"),
    [
        ("b4.conv1", lambda o, i: o),  # I == O: a row is an output channel
        ("b8.conv0", lambda o, i: 2 * o + (i >= 2)),  # I == 2 O: half an output channel
        ("b4.torgb", lambda o, i: (o * 4 + i) // 3),  # O == 3: interleaved
    ],
)
@torch.no_grad()
def test_a_row_of_the_mapper_lands_where_published(layer, row_of):
    """Moving row r of A moves exactly the numbers that the closed forms of the raw view name."""
    torch.manual_seed(0)
    o_channels, i_channels, _ = SHAPES[layer]
    state, z = regressor_state(SHAPES[layer]), torch.rand(1, D)
    before = from_published(state, "hypernetwork").decode(z)[0]
    for row in range(i_channels):
        moved = {key: value.clone() for key, value in state.items()}
        moved["b1"][row * D : (row + 1) * D] += 10
        difference = (from_published(moved, "hypernetwork").decode(z)[0] - before).abs().amax(dim=(2, 3))
        for o in range(o_channels):
            for i in range(i_channels):
                assert (difference[o, i] > 1e-3) == (row_of(o, i) == row), (row, o, i)


def convolved(x: list, weight: list, bias: list, stride: int, padding: int) -> list:
    """Cross-correlation of maps [C][H][H] with weight [O][C][k][k], zeros outside."""
    side, k = len(x[0]), len(weight[0][0])
    out = (side + 2 * padding - k) // stride + 1

    def at(channel: int, y: int, column: int) -> float:
        return x[channel][y][column] if 0 <= y < side and 0 <= column < side else 0.0

    return [
        [
            [
                bias[o] + sum(weight[o][c][dy][dx] * at(c, y * stride + dy - padding, z * stride + dx - padding)
                              for c in range(len(x)) for dy in range(k) for dx in range(k))
                for z in range(out)
            ]
            for y in range(out)
        ]
        for o in range(len(weight))
    ]  # fmt: skip


def rectified(x: list) -> list:
    return [[[max(value, 0.0) for value in row] for row in channel] for channel in x]


def normalised(x: list) -> list:
    """Instance norm: each channel of an image to mean 0 and variance 1 (biased), eps 1e-5."""
    result = []
    for channel in x:
        values = [value for row in channel for value in row]
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        result.append([[(value - mean) / math.sqrt(variance + 1e-5) for value in row] for row in channel])
    return result


@torch.no_grad()
def test_a_regressor_from_its_features_in_plain_python():
    """Fusion with the Phase I image's features first, instance norm, transformer, mapper, raw view."""
    torch.manual_seed(1)
    shape = SHAPES["b8.conv0"]
    state, h_w, h = regressor_state(shape), torch.randn(1, C, PX, PX), torch.randn(1, C, PX, PX)
    weights = {key: value.tolist() for key, value in state.items()}
    x = rectified(
        normalised(convolved(h_w[0].tolist() + h[0].tolist(), weights["fusion.0.weight"], [0.0] * FUSED, 1, 0))
    )  # the bias is left out: instance norm cancels it
    for number, (stride, padding) in {0: (1, 1), 2: (2, 1), 4: (2, 1), 6: (2, 1)}.items():
        layer = f"feature_extractor.{number}"
        x = rectified(convolved(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"], stride, padding))
    z = [channel[0][0] for channel in x]
    assert any(z)
    expected = torch.tensor(kernel_of(mapped(state, z, shape), shape, "released"))
    regressor = from_published(state, "hypernetwork")
    torch.testing.assert_close(regressor(h_w, h)[0], expected, rtol=1e-4, atol=1e-4)
    assert (regressor(h, h_w)[0] - expected).abs().max() > 1e-2  # the order matters


@torch.no_grad()
def test_the_fusion_bias_changes_nothing():
    torch.manual_seed(2)
    state, h_w, h = regressor_state((4, 4, 3)), torch.randn(1, C, PX, PX), torch.randn(1, C, PX, PX)
    before = from_published(state, "hypernetwork")(h_w, h)
    after = from_published({**state, "fusion.0.bias": 10 * torch.randn(FUSED)}, "hypernetwork")(h_w, h)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-3 * float(before.abs().max()))


@pytest.mark.parametrize("with_affines", [False, True])
@pytest.mark.parametrize("resolution", [64, 256, 1024])
def test_style_indices_are_the_published_table(resolution, with_affines):
    state = hypernetwork_state(all_layers(resolution, with_affines))
    for table, options in ((RELEASED, {}), (TRUE, {"style_index": "true"})):
        network = from_published(state, "hypernetwork", output_size=resolution, **options)
        expected = {}
        for suffix in ("", ".affine") if with_affines else ("",):
            for block, styles in table.items():
                for kind, style in zip(("conv0", "conv1", "torgb"), styles, strict=True):
                    if block <= resolution and style is not None:
                        expected[f"b{block}.{kind}{suffix}.weight"] = style
        assert network.style_indices == expected
        assert list(network.style_indices) == list(expected)  # the published order
        assert network.num_ws == {64: 10, 256: 14, 1024: 18}[resolution]


@pytest.mark.parametrize(("style_index", "table"), [("released", RELEASED), ("true", TRUE)])
@torch.no_grad()
def test_a_style_s_features_reach_the_layers_of_the_table_and_no_others(style_index, table):
    torch.manual_seed(3)
    network = from_published(hypernetwork_state(all_layers(32, False)), "hypernetwork", style_index=style_index)
    h, h_w = torch.randn(1, 8, C, PX, PX), torch.randn(1, 8, C, PX, PX)
    before = network(h, h_w)
    for style in range(8):
        other, other_w = h.clone(), h_w.clone()
        other[:, style], other_w[:, style] = torch.randn(2, 1, C, PX, PX)
        moved = {name for name, value in network(other, other_w).items() if not torch.equal(value, before[name])}
        expected = {
            f"b{block}.{kind}.weight"
            for block in (4, 8, 16, 32)
            for kind, index in zip(("conv0", "conv1", "torgb"), table[block], strict=True)
            if index == style
        }
        assert moved == expected, style
