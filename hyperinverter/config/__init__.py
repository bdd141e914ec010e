"""Settings: typed dataclasses (`schema`), strict loading of YAML plus `key=value` (`load`), command line (`cli`)."""

from hyperinverter.config.ablate_schema import AblateConfig
from hyperinverter.config.analyze_schema import AnalyzeConfig
from hyperinverter.config.benchmark_schema import BenchmarkConfig
from hyperinverter.config.demo_schema import DemoConfig
from hyperinverter.config.faults import ConfigError
from hyperinverter.config.ganspace_schema import GanspaceConfig
from hyperinverter.config.load import list_domains, load_config, load_domain, to_yaml
from hyperinverter.config.model_schema import DirectionConfig, ExportConfig
from hyperinverter.config.reproduce_schema import ReproduceConfig
from hyperinverter.config.schema import (
    TARGET_SETS,
    TRUNKS,
    AdversarialConfig,
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
    LayerwiseEncoderConfig,
    OptimizerConfig,
    Phase1Config,
    Phase2Config,
    PhaseConfig,
    ProjectionConfig,
    RunConfig,
    ScheduleConfig,
    StyleGAN2Config,
    TrainConfig,
    WeightsConfig,
)

__all__ = [
    "TARGET_SETS",
    "TRUNKS",
    "AblateConfig",
    "AdversarialConfig",
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
    "LayerwiseEncoderConfig",
    "OptimizerConfig",
    "Phase1Config",
    "Phase2Config",
    "PhaseConfig",
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
