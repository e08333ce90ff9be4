"""Networks that find nuclei in a patch: StarDist, Cellpose, or a user's own; set up once a process, on a GPU where there is one.

A finder takes a patch, float32 (z, y, x) or (y, x), 0 at the volume's 1st and 1 at its 99.9th percentile, and returns its labels
(integers of that shape, 0 is background), alone or with a score for each label in ascending order.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndbatch.errors import ConfigError, StepError, missing_extra
from ndbatch.remotes.base import Array
from ndbatch.steps.function.loading import beside, load_changed, source_hash
from ndbatch.steps.function.models import content_hash, files_of, once, set_up

NETWORKS = ("stardist", "cellpose")


@dataclass(frozen=True)
class Network:
    """A way of finding nuclei as it travels: a name or a user's `module:class`, and where its weights are."""

    method: str
    model: str | None
    device: str
    source: str
    """Hash of the source file of a user's own class; empty for the others."""

    @staticmethod
    def of(method: str, model: str | None, device: str) -> Network:
        """Return the network. ConfigError for an unknown method or a model that is not there, MissingExtra for a package."""
        if ":" in method:
            load_changed(method)
            return Network(method, model, device, source_hash(method))
        if importlib.util.find_spec(method) is None:
            raise missing_extra(method, method, f"nuclei with method: {method}")
        if model is None:
            raise ConfigError(
                f"nuclei: method {method} needs model, the path of its weights or the name of a published one"
            )
        looks = "/" in model or model.startswith(".")
        if looks and beside(model) is None:
            raise ConfigError(f"nuclei: model {model} does not exist; give the path from the configuration's folder")
        return Network(method, model, device, "")

    def identity(self) -> dict[str, Any]:
        """Return what decides the result beside the parameters: the user's source, the content of the weights."""
        return {"source": self.source, "files": files_of({"model": self.model or ""})}

    def find(self, patch: Array, diameter: Sequence[float]) -> tuple[Array, Array]:
        """Return the labels of `patch`, int64 from 1, and a score for each, float32. `diameter` is in voxels along each axis.

        Raises StepError where the network fails or returns something else.
        """
        finder = self._finder()
        try:
            made = finder(patch, tuple(diameter))
        except (MemoryError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise StepError(f"{self.method} raised {type(error).__name__}: {error}") from error
        labels, scores = made if isinstance(made, tuple) else (made, None)
        if not isinstance(labels, np.ndarray) or labels.shape != patch.shape or labels.dtype.kind not in "uib":
            told = (
                f"{labels.dtype} of {labels.shape}" if isinstance(labels, np.ndarray) else f"a {type(labels).__name__}"
            )
            raise StepError(f"{self.method} returned {told} where labels (integers) of {patch.shape} are due")
        ids, dense = np.unique(labels, return_inverse=True)
        first = int(len(ids) > 0 and ids[0] == 0)
        count = len(ids) - first
        known = np.ones(count, np.float32) if scores is None else np.asarray(scores, np.float32).reshape(-1)
        if len(known) != count:
            raise StepError(f"{self.method} returned {len(known)} scores for {count} labels")
        return dense.reshape(labels.shape).astype(np.int64) + (1 - first), known

    def _finder(self) -> Callable[..., Any]:
        path = beside(self.model) if self.model else None
        place = str(path) if path is not None else self.model
        if self.method not in NETWORKS:
            given = {name: value for name, value in (("model", place), ("device", self.device)) if value is not None}
            found: Callable[..., Any] = set_up(load_changed(self.method), self.method, self.source, given)
            return found
        key = json.dumps([self.method, place, self.device, "" if path is None else content_hash(path)])
        make = _stardist if self.method == "stardist" else _cellpose
        made: Callable[..., Any] = once(key, lambda: make(str(place), path is not None, self.device))
        return made


def _stardist(model: str, local: bool, device: str) -> Callable[..., Any]:
    """Return the finder of a StarDist model (Weigert et al. 2020): a folder with config.json and weights, or a published name."""
    import tensorflow as tf
    from stardist.models import StarDist2D, StarDist3D

    gpus = tf.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        raise StepError("nuclei: device: gpu, but TensorFlow sees none on this machine; use device: auto")
    if device == "cpu" and gpus:
        tf.config.set_visible_devices([], "GPU")
    for gpu in gpus if device != "cpu" else []:
        tf.config.experimental.set_memory_growth(gpu, True)  # several workers may share it
    networks: dict[int, Any] = {}

    def find(patch: Array, diameter: Sequence[float]) -> tuple[Array, Array]:
        del diameter
        kind = StarDist3D if patch.ndim == 3 else StarDist2D
        if patch.ndim not in networks:
            folder, _, name = model.rstrip("/").rpartition("/")
            networks[patch.ndim] = (
                kind(None, name=name, basedir=folder or ".") if local else kind.from_pretrained(model)
            )
        labels, told = networks[patch.ndim].predict_instances(patch, axes="ZYX"[-patch.ndim :], verbose=False)
        # Labels count from 1 in the order of `prob`; one that others cover wholly is in none of the voxels.
        ids = np.unique(labels[labels > 0])
        return labels, np.asarray(told["prob"])[ids - 1]

    return find


def _cellpose(model: str, local: bool, device: str) -> Callable[..., Any]:
    """Return the finder of a Cellpose model (Stringer et al. 2021): a file of weights, or a published name."""
    import torch
    from cellpose import models

    if not local and model not in models.MODEL_NAMES:
        # Cellpose itself would take its default model in silence.
        raise StepError(
            f"nuclei: cellpose knows no model {model!r}; give a file, or one of {', '.join(models.MODEL_NAMES)}"
        )
    if device == "gpu" and not torch.cuda.is_available():
        raise StepError("nuclei: device: gpu, but PyTorch sees none on this machine; use device: auto")
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    cuda = chosen.type == "cuda"
    # Half precision is what its weights are made for, but many times slower where a processor has to emulate it.
    network = models.CellposeModel(gpu=cuda, pretrained_model=model, device=chosen, use_bfloat16=cuda)

    def find(patch: Array, diameter: Sequence[float]) -> Array:
        depth: Mapping[str, Any] = {}
        if patch.ndim == 3:
            depth = {"do_3D": True, "z_axis": 0, "anisotropy": diameter[-1] / diameter[0]}
        labels: Array = network.eval(patch, normalize=False, diameter=float(diameter[-1]), **depth)[0]
        return labels.astype(np.int64)

    return find
