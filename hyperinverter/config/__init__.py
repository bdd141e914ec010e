"""Settings: typed dataclasses (`schema`), strict loading of YAML plus `key=value` (`load`), command line (`cli`)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hyperinverter.config.faults import ConfigError
from hyperinverter.config.schema import (
    TARGET_SETS,
    TRUNKS,
    AdversarialConfig,
    AlignConfig,
    CommandConfig,
    DataConfig,
    DiscriminatorConfig,
    DomainConfig,
    EarlyHeadConfig,
    EditConfig,
    EncoderConfig,
    EvaluateConfig,
    GeneratorConfig,
    HypernetworkConfig,
    ImagesConfig,
    InterpolateConfig,
    InvertConfig,
    LayerwiseEncoderConfig,
    OptimizerConfig,
    Phase1Config,
    Phase2Config,
    PhaseConfig,
    PhotosConfig,
    ProjectionConfig,
    RunConfig,
    ScheduleConfig,
    StyleGAN2Config,
    TrainConfig,
    WeightsConfig,
)

if TYPE_CHECKING:
    from hyperinverter.config.ablate_schema import AblateConfig
    from hyperinverter.config.analyze_schema import AnalyzeConfig
    from hyperinverter.config.benchmark_schema import BenchmarkConfig
    from hyperinverter.config.demo_schema import DemoConfig
    from hyperinverter.config.ganspace_schema import GanspaceConfig
    from hyperinverter.config.load import list_domains, load_config, load_domain, to_yaml
    from hyperinverter.config.model_schema import DirectionConfig, ExportConfig
    from hyperinverter.config.reproduce_schema import ReproduceConfig

# fetched on first use: a model is loaded without the settings of reports and the reading of YAML
_LATER = ("load", "ablate_schema", "analyze_schema", "benchmark_schema", "demo_schema", "ganspace_schema",
          "model_schema", "reproduce_schema")  # fmt: skip

__all__ = [
    "TARGET_SETS",
    "TRUNKS",
    "AblateConfig",
    "AdversarialConfig",
    "AlignConfig",
    "AnalyzeConfig",
    "BenchmarkConfig",
    "CommandConfig",
    "ConfigError",
    "DataConfig",
    "DemoConfig",
    "DirectionConfig",
    "DiscriminatorConfig",
    "DomainConfig",
    "EarlyHeadConfig",
    "EditConfig",
    "EncoderConfig",
    "EvaluateConfig",
    "ExportConfig",
    "GanspaceConfig",
    "GeneratorConfig",
    "HypernetworkConfig",
    "ImagesConfig",
    "InterpolateConfig",
    "InvertConfig",
    "LayerwiseEncoderConfig",
    "OptimizerConfig",
    "Phase1Config",
    "Phase2Config",
    "PhaseConfig",
    "PhotosConfig",
    "ProjectionConfig",
    "ReproduceConfig",
    "RunConfig",
    "ScheduleConfig",
    "StyleGAN2Config",
    "TrainConfig",
    "WeightsConfig",
    "list_domains",
    "load_config",
    "load_domain",
    "to_yaml",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _LATER:
            if hasattr(found := import_module(f"{__name__}.{module}"), name):
                return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
