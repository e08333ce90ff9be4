"""ndbatch: parallel, resumable batch processing over chunked volumes.

`open` a volume, `run` a configuration, `map_blocks` a function. Everything else is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ndbatch.config.load import load
    from ndbatch.config.model import Config
    from ndbatch.copying import copy
    from ndbatch.downsampling import downsample
    from ndbatch.errors import NdbatchError
    from ndbatch.geometry import Box
    from ndbatch.mapping import map_blocks
    from ndbatch.plan.make import make_plan
    from ndbatch.remotes.api import create
    from ndbatch.remotes.base import Kind, Volume
    from ndbatch.remotes.connecting import connect, open
    from ndbatch.remotes.lazy import store
    from ndbatch.remotes.remote import Remote
    from ndbatch.runner import Result, run
    from ndbatch.trial import try_region
    from ndbatch.verify import check

__version__ = "0.1.0"

_HOMES = {
    "Box": "ndbatch.geometry",
    "Config": "ndbatch.config.model",
    "Kind": "ndbatch.remotes.base",
    "NdbatchError": "ndbatch.errors",
    "Remote": "ndbatch.remotes.remote",
    "Result": "ndbatch.runner",
    "Volume": "ndbatch.remotes.base",
    "check": "ndbatch.verify",
    "connect": "ndbatch.remotes.connecting",
    "copy": "ndbatch.copying",
    "create": "ndbatch.remotes.api",
    "downsample": "ndbatch.downsampling",
    "load": "ndbatch.config.load",
    "make_plan": "ndbatch.plan.make",
    "map_blocks": "ndbatch.mapping",
    "open": "ndbatch.remotes.connecting",
    "run": "ndbatch.runner",
    "store": "ndbatch.remotes.lazy",
    "try_region": "ndbatch.trial",
}

__all__ = [
    "Box",
    "Config",
    "Kind",
    "NdbatchError",
    "Remote",
    "Result",
    "Volume",
    "__version__",
    "check",
    "connect",
    "copy",
    "create",
    "downsample",
    "load",
    "make_plan",
    "map_blocks",
    "open",
    "run",
    "store",
    "try_region",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import ndbatch` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ndbatch' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
