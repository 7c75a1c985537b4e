"""Published inpainting systems in JAX and Flax Linen.

`jaxinpaint.load` and `jaxinpaint.fill` open and run what `jaxinpaint export` wrote; they
need jax, numpy, safetensors and flatbuffers, and are imported when first named.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxinpaint.bundle.fill import fill as fill
    from jaxinpaint.bundle.load import load as load

__version__ = "0.1.0"
_LATER = {"fill": "jaxinpaint.bundle.fill", "load": "jaxinpaint.bundle.load"}


def __getattr__(name: str) -> Any:
    # A command that only parses its words must not wait for jax.
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LATER[name]), name)
