"""Random changes of training images, a minibatch at a time, on the device.

order = drawn(permutation, "flip-crop", images.shape[1:3], seed=0, epoch=1)     # (n, 4)
part = order[first : first + batch_size]
changed(images.index_select(0, part[:, 0]), part[:, 1:])

All draws of an epoch derive from (seed, epoch), and each belongs to a place in the order of the images. They are the
same for every device, split into micro-batches, number of workers, and update at which a run is continued.
"""

import torch
from torch import Tensor
from torch.nn import functional

from batchscale.experiment import Augment
from batchscale.training import randomness

PADDING = 8  # a shift is at most the side of an image divided by this: the usual 4 pixels of 32


def drawn(order: Tensor, augment: Augment, size: tuple[int, int], seed: int, epoch: int) -> Tensor:
    """The images of an epoch in their order, each with its change.

    Args:
        order: indices of the images, int64 `(n,)`, on any device.
        augment: `flip` mirrors every second image on average. `flip-crop` also shifts it by −⌊h/8⌋ … ⌊h/8⌋ rows and
            −⌊w/8⌋ … ⌊w/8⌋ columns, each equally likely.
        size: height and width h, w of an image.
        epoch: 1-based.

    Returns:
        `order` itself for `none`. Otherwise int64 `(n, 4)` on its device: index, whether mirrored, and shifts.
    """
    if augment == "none":
        return order
    generator = torch.Generator().manual_seed(randomness.augmentation_seed(seed, epoch))
    mirrored = torch.randint(2, (len(order), 1), generator=generator)
    largest = [side // PADDING if augment == "flip-crop" else 0 for side in size]
    shifts = [torch.randint(-most, most + 1, (len(order), 1), generator=generator) for most in largest]
    return torch.cat([order[:, None], torch.cat([mirrored, *shifts], dim=1).to(order.device)], dim=1)


def changed(images: Tensor, changes: Tensor) -> Tensor:
    """Images `(b, h, w, c)` after their changes `(b, 3)`: padded with black, cropped, then mirrored.

    This is torchvision's RandomCrop(side, padding=side // 8) followed by its RandomHorizontalFlip, for given draws.
    """
    count, height, width, channels = images.shape
    down, right = height // PADDING, width // PADDING
    mirrored, rows, columns = changes.unbind(dim=1)
    padded = functional.pad(images, (0, 0, right, right, down, down))
    column = torch.arange(width, device=images.device)
    column = torch.where(mirrored[:, None] == 1, width - 1 - column, column) + (right + columns)[:, None]
    row = torch.arange(height, device=images.device) + (down + rows)[:, None]
    row += torch.arange(count, device=images.device)[:, None] * padded.shape[1]
    # One gather of whole pixels: half the time of indexing by image, row and column.
    pixels = (row[:, :, None] * padded.shape[2] + column[:, None, :]).flatten()
    return padded.view(-1, channels).index_select(0, pixels).view(images.shape)
