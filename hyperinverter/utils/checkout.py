"""Where the checkout is: configs/ and pretrained_models/ lie beside the package there and are not installed with it."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def unless_checkout() -> str:
    """The end of a refusal where the package was installed without its checkout; in a checkout nothing."""
    if (REPOSITORY / "configs").is_dir():
        return ""
    return (
        f". This package lies in {REPOSITORY}, without the configs/ and pretrained_models/ of its repository: "
        "clone that and run `pip install -e .` in it"
    )
