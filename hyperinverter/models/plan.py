"""What a configuration will build, as text: every network with its parameter count, and every target layer.

Networks are built on torch's meta device, which holds shapes and no numbers, so 1024 px takes no memory and no time.
"""

from collections import Counter

from torch import nn

from hyperinverter.config.schema import CommandConfig, DomainConfig
from hyperinverter.models.build import (
    build_discriminator,
    build_feature_residual,
    build_generator,
    build_hypernetwork,
    build_layerwise_encoder,
    build_w_encoder,
)
from hyperinverter.models.hypernetwork import Hypernetwork
from hyperinverter.utils.state_dicts import shapes_only


def dry_run(config: CommandConfig | DomainConfig) -> str:
    """The plan of a run's domain as plain text, for `--dry-run` and model cards.

    Raises ValueError: the domain's numbers do not make networks that fit; names the key.
    """
    domain = config if isinstance(config, DomainConfig) else config.domain
    with shapes_only():
        generator = build_generator(domain)
        hypernetwork = build_hypernetwork(domain, generator)
        networks: dict[str, nn.Module] = {
            "generator (G)": generator,
            "discriminator (D)": build_discriminator(domain),
            "w_encoder (E1)": build_w_encoder(domain),
            "layerwise_encoder (E2)": (e2 := build_layerwise_encoder(domain, hypernetwork)),
            "hypernetwork (H)": hypernetwork,
        }
        purposes = _purposes(domain, generator.num_ws)
        if domain.feature_residual.layer is not None:
            networks["feature_residual"] = residual = build_feature_residual(domain, generator, e2)
            numbers = ", ".join(map(str, residual.shape))
            purposes.append(
                f"Phase III: [{numbers}] at {residual.layer}, {residual.capacity:.3f} per number of an image"
            )
    return "\n".join(
        [
            f"domain {domain.name} ({domain.kind}): {domain.resolution} px, reconstruction losses at "
            f"{min(domain.resolution, domain.loss_resolution)} px",
            *_network_lines(networks, purposes),
            "",
            *_target_lines(hypernetwork, domain),
        ]
    )


def count_parameters(network: nn.Module) -> int:
    """Trainable and frozen parameters; buffers (running statistics, noise, w_avg) are not counted."""
    return sum(parameter.numel() for parameter in network.parameters())


def _purposes(domain: DomainConfig, num_ws: int) -> list[str]:
    e1, e2, h = domain.w_encoder, domain.layerwise_encoder, domain.hypernetwork
    published = f"D = {h.hidden_size}, {h.target_set}, layout {h.weight_layout}"
    mapper = f"scales of channels, {h.target_set}" if h.mapper == "channel_scales" else published
    return [
        f"ws [{num_ws}, {domain.generator.w_dim}] -> {domain.resolution} px",
        f"{domain.resolution} px -> logit",
        f"{e1.trunk}, {e1.input_size} px -> w [{domain.generator.w_dim}]",
        f"{e2.trunk}, {e2.input_size} px -> [{num_ws}, {e2.feature_channels}, {e2.feature_size}, {e2.feature_size}]",
        f"{mapper}, style index {h.style_index}"
        + ("" if h.use_w_image_features else ", without features of the Phase I image")
        + (", one shared code" if h.shared_code else "")
        + (", signed tokens" if h.token_range == "signed" else "")
        + (f", {h.passes} passes" if h.passes > 1 else ""),
    ]


def _network_lines(networks: dict[str, nn.Module], purposes: list[str]) -> list[str]:
    counts = [count_parameters(network) for network in networks.values()]
    rows = [*zip(networks, counts, purposes, strict=True), ("together", sum(counts), "")]
    return [f"  {name:<24}{count:>15,}  {purpose}".rstrip() for name, count, purpose in rows]


def _target_lines(hypernetwork: Hypernetwork, domain: DomainConfig) -> list[str]:
    targets = hypernetwork.targets.values()
    numbers = sum(target.size for target in targets)
    sizes = Counter(hypernetwork.token_sizes.values())
    token_numbers = sum(size * n for size, n in sizes.items())
    stored = 4 * (token_numbers + domain.generator.w_dim)
    return [
        f"target layers: {len(targets)} weights, {numbers:,} numbers, "
        f"{4 * numbers / 2**20:.1f} MiB of residuals per image",
        f"tokens: {' + '.join(f'{n} x {size}' for size, n in sizes.items())} = {token_numbers:,} numbers per image, "
        f"with w {stored / 2**10:.1f} KiB",
        f"  {'layer':<26}{'shape':<20}{'style':>6}{'features of':>13}",
        *(
            f"  {target.name:<26}{'x'.join(map(str, target.shape)):<20}{target.style_index_true:>6}"
            f"{hypernetwork.style_indices[target.name]:>13}"
            for target in targets
        ),
    ]
