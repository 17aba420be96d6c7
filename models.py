"""The network of the study ("model 3"): three convolutional blocks and three fully connected layers.

from models import CNN
CNN()                                          # 5 852 170 parameters, for 32x32 RGB images and 10 classes
CNN(width=0.25, in_channels=1, num_classes=7)  # a quarter of the channels and hidden units
"""

from torch import Tensor, nn


def _block(channels_in: int, channels_middle: int, channels_out: int) -> list[nn.Module]:
    """Two 3x3 convolutions, the first with batch norm, and 2x2 max-pooling: `(n, c, h, w)` -> `(n, c', h/2, w/2)`."""
    return [
        nn.Conv2d(channels_in, channels_middle, kernel_size=3, padding=1),
        nn.BatchNorm2d(channels_middle),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels_middle, channels_out, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=2),
    ]


class CNN(nn.Module):
    """Convolutional network for 32x32 images: float tensor `(n, in_channels, 32, 32)` -> logits `(n, num_classes)`.

    Args:
        width: factor on the number of channels (32 to 256) and hidden units (1024 and 512) of each layer, rounded.
        in_channels: channels per image.
        num_classes: number of logits.

    Raises:
        ValueError: `width` is so small that a layer would have no channel.
    """

    def __init__(self, width: float = 1.0, in_channels: int = 3, num_classes: int = 10):
        super().__init__()
        sizes = [round(width * size) for size in (32, 64, 128, 128, 256, 256, 1024, 512)]
        if min(sizes) < 1:
            raise ValueError(f"width is {width}, which leaves a layer without a channel; it must be above {0.5 / 32}")
        c1, c2, c3, c4, c5, c6, hidden1, hidden2 = sizes
        self.features = nn.Sequential(
            *_block(in_channels, c1, c2),
            *_block(c2, c3, c4),
            nn.Dropout2d(p=0.05),
            *_block(c4, c5, c6),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(p=0.1),
            nn.Linear(c6 * 4 * 4, hidden1),
            nn.ReLU(inplace=True),
            nn.Linear(hidden1, hidden2),
            nn.ReLU(inplace=True),
            nn.Dropout(p=0.1),
            nn.Linear(hidden2, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))
