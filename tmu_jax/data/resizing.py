"""Images of differing sizes and channels brought to one."""

import numpy as np

from tmu_jax.data.checks import check_memory, say_once


def fit(images: np.ndarray | list[np.ndarray], image_size: int) -> np.ndarray:
    """The central square of each image, resized by an antialiasing bilinear filter, as `from_image_folder` does.

    Args:
        images: uint8[n, height, width, channels], or a list of [height, width, channels] with as many channels each.
        image_size: height and width of the result.

    Returns:
        uint8[n, image_size, image_size, channels].
    """
    import PIL.Image
    import PIL.ImageOps

    check_memory("image_size", image_size, len(images) * images[0].shape[-1] * image_size**2)
    size = (image_size, image_size)
    resized = np.empty((len(images), *size, images[0].shape[-1]), np.uint8)
    for row, image in enumerate(images):
        for channel in range(image.shape[-1]):
            plane = PIL.Image.fromarray(np.ascontiguousarray(image[..., channel]))
            resized[row, ..., channel] = PIL.ImageOps.fit(plane, size, PIL.Image.Resampling.BILINEAR)
    return resized


def one_channel_count(name: str, images: list[np.ndarray], notes: list[str]) -> list[np.ndarray]:
    """Grey, colour and transparent images among one another become colour: [height, width, 3].

    Args:
        name: the argument's name, for the message.
        images: [height, width, channels] each.
        notes: a sentence is appended where anything was done.

    Raises:
        ValueError: differing numbers of channels that are not 1, 3 and 4.
    """
    counts = {image.shape[-1] for image in images}
    if len(counts) == 1:
        return images
    if not counts <= {1, 3, 4}:
        raise ValueError(f"{name} must have as many channels each, got {sorted(counts)}")
    say_once(notes, "Grey images among coloured ones got three channels; transparency was dropped.")
    return [np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3] for image in images]
