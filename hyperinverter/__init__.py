"""HyperInverter (Dinh et al., CVPR 2022): StyleGAN2 inversion in one forward pass.

    >>> import hyperinverter
    >>> model = hyperinverter.load("faces64")
    >>> inversion = model.invert("photo.jpg")
    >>> image = model.render(inversion)  # [1, 3, R, R] in [-1, 1]

The two names below are fetched on first use, so that `import hyperinverter` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperinverter.inverters import Inversion, load

__version__ = "0.1.0"
__all__ = ["Inversion", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name in ("Inversion", "load"):
        from hyperinverter import inverters

        return getattr(inverters, name)
    raise AttributeError(f"module 'hyperinverter' has no attribute {name!r}")
