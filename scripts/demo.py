"""The whole main job on the embedded domain, without network, GPU or data: python scripts/demo.py."""

from hyperinverter.config import DemoConfig
from hyperinverter.config.cli import run

if __name__ == "__main__":
    run(
        DemoConfig,
        "hyperinverter.evaluation.demo:run_demo",
        default_config="configs/demo/demo.yaml",
        description="Train both phases for a short while from the shipped generator, then evaluate, edit and "
        "interpolate with the shipped weights, on samples of the generator and on one real photo; ends in one page, "
        "index.html. The output folder is replaced on every run. --config configs/demo/short.yaml is over sooner.",
    )
