"""Write a trained model folder as it is shipped: python scripts/export_model.py model=outputs/phase2_faces64/model."""

from hyperinverter.config import ExportConfig
from hyperinverter.config.cli import run

if __name__ == "__main__":
    run(
        ExportConfig,
        "hyperinverter.evaluation.export_model:export_model",
        default_config="configs/export/faces64.yaml",
        description="Copy a trained model folder with E2 and hypernetworks in half precision, and measure what that "
        "changes in its images.",
    )
