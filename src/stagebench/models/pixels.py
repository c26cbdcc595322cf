"""Convert images to the pixels of a vision tower, with transformers' PIL processor or in plain torch.

The PIL processor is the reference, and holds the settings of both. The torch one equals transformers' torchvision
backend on a CPU, without torchvision: both call `interpolate` on uint8, bicubic and antialiased.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor
from torch.nn.functional import interpolate, pad
from transformers.image_transforms import get_resize_output_image_size

# With its backend in the name: the plain name is torchvision's where that is installed, and gives other pixels.
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from stagebench.core import meter
from stagebench.core.artifacts import Image
from stagebench.core.errors import ModelError
from stagebench.core.settings import ModelSettings

# uint8 (height, width, 3), RGB: arrays in host memory, of one or several sizes, or one tensor on the device.
Images = Sequence[Image] | Tensor


@dataclass(frozen=True, slots=True)
class ImageProcessor:
    """Resizes, crops and normalises with transformers' own processor, on the CPU, image by image."""

    reference: CLIPImageProcessorPil

    def resize(self, images: Sequence[Image], height: int, width: int) -> Tensor:
        """Scale by antialiased bicubic interpolation: uint8 (images, height, width, 3)."""
        bicubic = PILImage.Resampling.BICUBIC
        scaled = [np.asarray(PILImage.fromarray(image).resize((width, height), bicubic)) for image in images]
        return torch.from_numpy(np.stack(scaled))

    def __call__(self, images: Images) -> Tensor:
        """Resize, crop and normalise: float32 (images, 3, side, side)."""
        meter.add("images_processed", len(images))
        # Stated, because an image 3 pixels high looks like one with channels first.
        batch = self.reference(images=list(images), input_data_format="channels_last", return_tensors="pt")
        pixels: Tensor = batch["pixel_values"]
        return pixels


def processor_of(reference: CLIPImageProcessorPil, settings: ModelSettings) -> ImageProcessor:
    """Return the processor that the settings name; raise ModelError where it lacks one of the reference's settings."""
    if settings.preprocess == "torch":
        return TorchProcessor(reference, torch.device(settings.device))
    return ImageProcessor(reference)


@dataclass(frozen=True, slots=True)
class TorchProcessor(ImageProcessor):
    """The same in plain torch, on any device: images of one size in one batch, within 2/255 of PIL's pixels."""

    device: torch.device

    def __post_init__(self) -> None:
        got: Any = self.reference
        must, size = "preprocessing in torch must", dict(got.size or {})
        if got.do_resize and got.resample != PILImage.Resampling.BICUBIC:
            raise ModelError(f"{must} resize bicubically, got resample {got.resample!r}")
        if got.do_resize and set(size) not in ({"shortest_edge"}, {"height", "width"}):
            raise ModelError(f"{must} resize to a shortest_edge or to height and width, got {size}")
        if got.do_pad:
            raise ModelError(f"{must} pad by its crop only, got do_pad {got.do_pad!r}")

    def resize(self, images: Sequence[Image], height: int, width: int) -> Tensor:
        """Scale as `ImageProcessor.resize`, on the device."""
        return self._batched(images, lambda batch: resized(batch, height, width)).movedim(1, -1)

    def __call__(self, images: Images) -> Tensor:
        """Resize, crop and normalise as `ImageProcessor`, on the device."""
        meter.add("images_processed", len(images))
        return self._normalised(self._batched(images, self._cropped))

    def _batched(self, images: Images, transform: Callable[[Tensor], Tensor]) -> Tensor:
        """Transform images of each size as one batch, uint8 (images, 3, height, width); return results in order."""
        if isinstance(images, Tensor):
            return transform(images.to(self.device).movedim(-1, 1))
        results: dict[int, Tensor] = {}
        for size in {image.shape for image in images}:
            chosen = [i for i, image in enumerate(images) if image.shape == size]
            # Copied as uint8, a quarter of the bytes.
            batch = torch.from_numpy(np.stack([images[i] for i in chosen])).to(self.device)
            results |= zip(chosen, transform(batch.movedim(-1, 1)), strict=True)
        return torch.stack([results[i] for i in range(len(images))])

    def _cropped(self, batch: Tensor) -> Tensor:
        """Resize and crop images of one size where the reference does."""
        settings: Any = self.reference
        if settings.do_resize:
            size = dict(settings.size)
            wanted, first = size.get("shortest_edge") or (size["height"], size["width"]), "channels_first"
            # With transformers' own rule, and rounding, for the longer edge.
            output = get_resize_output_image_size(batch[0], wanted, default_to_square=False, input_data_format=first)
            batch = resized(batch, *output)
        if settings.do_center_crop:
            batch = center_cropped(batch, settings.crop_size["height"], settings.crop_size["width"])
        return batch

    def _normalised(self, batch: Tensor) -> Tensor:
        """Rescale and normalise in one step: (x * f - mean) / std is (x - mean / f) / (std / f)."""
        settings: Any = self.reference
        unit = 1.0 / settings.rescale_factor if settings.do_rescale else 1.0
        mean, std = (settings.image_mean, settings.image_std) if settings.do_normalize else (0.0, 1.0)
        shift, scale = (torch.as_tensor(t, device=self.device).reshape(-1, 1, 1) * unit for t in (mean, std))
        return batch.to(torch.float32, memory_format=torch.contiguous_format).sub_(shift).div_(scale)


def resized(batch: Tensor, height: int, width: int) -> Tensor:
    """Scale uint8 (images, 3, ...), antialiased and bicubic, with torch's uint8 operator on a CPU, else in float."""
    if batch.device.type == "cpu":
        return interpolate(batch, (height, width), mode="bicubic", antialias=True)
    return resized_in_float(batch, height, width)


def resized_in_float(batch: Tensor, height: int, width: int) -> Tensor:
    """Scale in float32, on any device: width first, then height, each rounded and clamped to 0 to 255.

    The uint8 operator and PIL do the same, but PIL since version 13 scales height first where that is less work.
    Scaling both at once, as torchvision does on a GPU, differs at hard edges by 10 of 255 and more.
    """
    for size in ((batch.shape[-2], width), (height, width)):
        scaled = interpolate(batch.to(torch.float32), size, mode="bicubic", antialias=True)
        batch = scaled.round_().clamp_(0, 255).to(torch.uint8)
    return batch


def center_cropped(batch: Tensor, height: int, width: int) -> Tensor:
    """Crop the centre, and pad smaller images with zeros, the odd row or column first, as in the reference."""
    rows, columns = height - batch.shape[-2], width - batch.shape[-1]  # negative: `pad` crops
    return pad(batch, ((columns + 1) // 2, columns // 2, (rows + 1) // 2, rows // 2))
