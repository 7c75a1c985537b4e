"""Sclerosed glomeruli, run 3 of 3: finds normal and sclerosed glomeruli in tissue.

python train.py --config=configs/glomeruli_segment.py:demo --workdir=runs/segment
python eval.py --config=configs/glomeruli_segment.py:demo --workdir=runs/segment

paper   EfficientNetB3-Unet on tiles of 1024 x 1024, batch 8, 50,000 steps (200
        epochs of 2000 tiles), about 2.9e12 FLOP a step. Needs your own slides in config.data.source.
demo    a thin U-Net on phantom tissue at a quarter of the size; about two CPU minutes.
        Dice of sclerosed glomeruli 0.70 ± 0.16 over three seeds, 0.79 ± 0.05 with
        synthetic ones (docs/results.md).
smoke   seconds; for the contract tests.

What `jaxinpaint synthesize` made joins the training tiles with
--config.data.synthetic=FOLDER --config.data.synthetic_percent=100. The paper's other
segmenters: --config.segment.model=unet, unet++ or swin_unet.
"""

from ml_collections import ConfigDict

PRESETS = {
    "paper": {},
    "demo": {
        "batch_size": 8,
        "image_size": 128,
        "steps": 500,
        "segment.model": "unet",
        "segment.widths": (8, 16, 32, 64),
        "optimizer.epochs": 20,
        "optimizer.epoch_steps": 25,
        "data.tile": 128,
        "data.tile_step": 64,
        "data.min_area": 25,
        "data.phantom.slides": 10,
        "data.phantom.test_slides": 12,
        "data.phantom.height": 256,
        "data.phantom.width": 256,
        "data.phantom.scale": 0.25,
        "data.phantom.normal": 5,
        "data.phantom.sclerosed": 1,
        "data.validation_crops": 16,
        "train.log_every": 10,
        "train.panel_every": 100,
        "train.save_every": 50,
    },
    "smoke": {
        "batch_size": 2,
        "image_size": 64,
        "steps": 4,
        "segment.width": 0.1,
        "segment.depth": 0.1,
        "segment.decoder": (4, 4, 4, 4, 4),
        "optimizer.epochs": 2,
        "optimizer.epoch_steps": 2,
        "data.tile": 64,
        "data.tile_step": 32,
        "data.min_area": 25,
        "data.split_unit": "tile",
        "data.phantom.slides": 2,
        "data.phantom.test_slides": 1,
        "data.phantom.height": 160,
        "data.phantom.width": 160,
        "data.phantom.scale": 0.25,
        "data.phantom.normal": 1,
        "data.phantom.sclerosed": 2,
        "data.validation_crops": 2,
        "train.log_every": 1,
        "train.panel_every": 2,
        "train.save_every": 2,
        "eval.batch_size": 2,
    },
}


def get_config(preset: str = "paper") -> ConfigDict:
    """Builds the config of a preset."""
    config = ConfigDict()
    config.system, config.stage = "glomeruli", "segment"
    config.seed = 0
    config.batch_size = 8  # of each update, over all devices; section 4
    config.image_size = 1024  # of the tiles
    config.channels = 3
    # Assumption: 200 epochs of 2000 tiles; the paper does not say how many it has.
    config.steps = 50_000
    config.init_from = ""  # workdir of a run whose variables a new run begins with
    config.model = {"dtype": "float32"}  # or "bfloat16", of the convolutions
    config.segment = {
        "model": "effb3_unet",  # or "unet", "unet++", "swin_unet"
        "width": 1.2,  # of "effb3_unet": EfficientNet-B3's scale, section 2.6
        "depth": 1.4,
        "decoder": (256, 128, 64, 32, 16),
        "drop_connect": 0.2,
        "static_pad": 0,  # 300 for weights of PyTorch; 0: the image at hand
        "encoder_weights": "none",  # or "imported"; "random:SEED" for dry runs
        "widths": (32, 64, 128, 256, 512),  # of "unet" and "unet++"
        "swin": {
            "width": 96,
            "depths": (2, 2, 2, 2),
            "decoder_depths": (2, 2, 2),
            "heads": (3, 6, 12, 24),
            "window": 8,
            "drop_path": 0.2,
        },
        "trad_aug": True,  # random turns and flips
    }
    config.loss = {"bce": 0.5, "dice": 1.0, "form": "sample", "smooth": 1e-5}  # Eq. 14
    config.optimizer = {
        "learning_rate": 1e-3,
        "last_rate": 1e-5,
        "epochs": 200,  # the rate falls from one to the next
        "epoch_steps": 250,
        "weight_decay": 1e-4,  # added to the gradient
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
    }
    config.data = {
        "kind": "glomeruli_tiles",
        "source": "phantom",  # or a folder of slides, section 5.3
        "cache_dir": "",
        "max_pixels": 4_000_000_000,
        "working_mpp": 1.0,  # micrometres a pixel
        "downsample_all": 0.0,  # 0: by each slide's own resolution
        "mask_threshold": 0,  # 0: masks hold 0 and 255, or 0 and 1, alone
        "tile": 1024,
        "tile_step": 512,
        "min_tissue": 0.05,
        "tissue_chroma": 15,
        "tissue_block": 8,  # px that are averaged before colour is looked at
        "min_area": 400,  # px; smaller components are not counted as glomeruli
        "split_unit": "group",  # or "tile"
        "validation_fraction": 0.2,
        "synthetic": "",  # a folder that `jaxinpaint synthesize` wrote
        "synthetic_percent": 0.0,  # of the training tiles with a sclerosed pixel
        "validation_crops": 0,  # of the held-out tiles, which choose the checkpoint; 0: all
        "threads": 2,
        "flips": False,  # segment.trad_aug does it
        "phantom": {
            "slides": 8,
            "test_slides": 4,
            "height": 1024,
            "width": 1024,
            "scale": 1.0,
            "stain": "PAS",
            "test_stain": "PAS",
            "normal": 7,
            "sclerosed": 3,
            "seed": 7,
        },
    }
    config.train = {
        "log_every": 100,
        "panel_every": 5_000,
        "save_every": 250,  # the checkpoint with the highest validation Dice is kept
        "keep_latest": 2,
        "keep_best": 1,
    }
    config.eval = {
        "seed": 1,
        "batch_size": 4,
        "threshold": 0.5,
        "panels": 3,  # tiles of each test set
        "whole": (),
    }
    config.lock()
    if preset not in PRESETS:
        raise ValueError(f"the presets are {sorted(PRESETS)}, not {preset!r}.")
    config.update_from_flattened_dict(PRESETS[preset])
    return config
