"""HyperInverter (Dinh et al., CVPR 2022): StyleGAN2 inversion in one forward pass.

    >>> import hyperinverter
    >>> model = hyperinverter.load("faces64")
    >>> inversion = model.invert("photo.jpg", align=True)
    >>> edited = model.edit(inversion, smile=2)  # two standard deviations; model.directions lists what there is
    >>> hyperinverter.save_image(edited.images, "smile.png")  # images are [N, 3, R, R] in [-1, 1]

The names below are fetched on first use, so that `import hyperinverter` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperinverter.inverters import HyperInverter, Inversion, Inverter, load
    from hyperinverter.utils.images import save_image

__version__ = "0.1.0"
__all__ = ["HyperInverter", "Inversion", "Inverter", "__version__", "load", "save_image"]
_PLACES = {
    "HyperInverter": "hyperinverter.inverters",
    "Inversion": "hyperinverter.inverters",
    "Inverter": "hyperinverter.inverters",
    "load": "hyperinverter.inverters",
    "save_image": "hyperinverter.utils.images",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'hyperinverter' has no attribute {name!r}")
    from hyperinverter.utils.waiting import shown_on_terminal

    with shown_on_terminal("loading PyTorch"):
        return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
