"""A trained run whose every number is known, for volumes."""

import jax
import jax.numpy as jnp
import numpy as np

from configs import ipa_medgan as mr_config
from configs import unet as unet_config
from jaxinpaint import cli, systems
from jaxinpaint.core.checkpoint import Checkpoints
from jaxinpaint.core.checks import MaskCoverageError, ShapeMismatchError
from jaxinpaint.core.system import Derived, System, TrainState
from jaxinpaint.training import workdir as workdirs

STEP = 4 / 255  # two levels of 255


class Toy:
    """Restores from neighbours, without a network.

    kind "between": by the place between previous and following, which it derives.
    kind "one": the neighbour, two levels brighter.
    kind "alone": a level everywhere, and the damage has to be told.
    kind "blind": half of what it sees and a level, of MR slices; no mask is needed.
    """

    def __init__(self, folder, patch, kind="between", whole=True, weight=0.2):
        self.kind, self.whole, self.weight = kind, whole, weight
        self.calls = 0
        config = (mr_config if kind == "blind" else unet_config).get_config("smoke")
        self.config = config
        self.names = {"between": ("previous", "following"), "one": ("neighbor",)}
        self.names = self.names.get(kind, ())
        folder.mkdir(parents=True)
        workdirs.open_workdir(folder, config)
        (folder / "metrics.jsonl").write_text("")
        patch.setattr(systems, "build", self.build)
        patch.setattr(systems, "validate_inputs", self.validate)
        patch.setattr(systems, "derived", self.derive)
        with Checkpoints(
            folder / "checkpoints",
            save_every=1,
            keep_latest=2,
            keep_best=0,
            best=("eval/psnr", "max"),
        ) as checkpoints:
            checkpoints.save(20, self.build(config).init(jax.random.key(0)), {}, {})

    def build(self, config):
        shape = (2, config.image_size, config.image_size, 1)
        image = jax.ShapeDtypeStruct(shape, "float32")
        spec = {"image": image, **dict.fromkeys(self.names, image), "mask": image}
        if self.kind == "between":
            spec["intermediate"] = image

        def init(key):
            level = jnp.full((1,), self.weight)
            variables = {"generator": {"params": {"level": level}}}
            return TrainState(jnp.int32(0), variables, {})

        def predict(variables, frozen, batch, key):
            level = variables["generator"]["params"]["level"][0]
            made = {
                "between": lambda: batch["intermediate"],
                "one": lambda: batch["neighbor"] + STEP,
                "alone": lambda: jnp.full_like(batch["image"], 0.0) + level,
                "blind": lambda: batch["image"] * 0.5 + level,
            }[self.kind]()
            return {"completed": made}

        return System(spec, init, lambda: {}, lambda *a: None, predict)

    def validate(self, name, where, batch):
        self.calls += 1
        mask = batch.get("mask")
        if mask is None and self.kind != "blind":
            raise ShapeMismatchError(f"{where}: mask is missing.")
        if mask is not None and mask.all() and not self.whole:
            raise MaskCoverageError(f"{where}: sample 0 of mask is all hole.")

    def derive(self, config):
        def between(previous, following, alpha):
            mixed = previous * (1 - alpha) + following * alpha
            return np.floor(mixed + 0.5).astype(previous.dtype)

        if self.kind != "between":
            return {}
        return {"intermediate": Derived("between", between, "1")}


def steps(count=10, shape=(40, 52), dtype="uint8"):
    """Sections of one level each, 10 times their position (times 257 of 16 bits)."""
    scale = 1 if dtype == "uint8" else 257
    levels = np.arange(count)[:, None, None] * 10 * scale
    return np.broadcast_to(levels, (count, *shape)).astype(dtype)


def fill_volume(folder, volume, *words, output="out"):
    """The command, with the run in `folder/run`."""
    given = [f"--workdir={folder / 'run'}", f"--volume={volume}"]
    return cli.main(["fill-volume", *given, f"--output={folder / output}", *words])


def files(folder):
    """Content of every file below a folder."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
