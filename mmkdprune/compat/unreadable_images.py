"""Name the file when an image or an annotation map cannot be read."""

from collections.abc import Callable
from typing import Any

from .patching import patch


class UnreadableImageError(ValueError):
    """A file is not an image, or a damaged one; the message names it."""


def name_file(field: str) -> Callable[[Callable], Callable]:
    """Make a wrapper for a transform that reads a file: what the decoder raises becomes an error that names the file.

    Args:
        field (str): Where the pipeline's results hold the path.
    """

    def wrap(original: Callable) -> Callable:
        def load(self: Any, results: dict, *args: Any, **kwargs: Any) -> Any:
            try:
                return original(self, results, *args, **kwargs)
            except MemoryError:
                raise
            except Exception as error:
                named = type(error).__module__.split(".")[0] == "mmkdprune" or getattr(error, "errno", None) is not None
                if named:  # by the system, or by a check of this package
                    raise
                path = results.get(field) if isinstance(results, dict) else None
                if path is None:
                    raise
                raise unreadable(path, error) from error

        return load

    return wrap


def unreadable(path: Any, error: Exception | None = None) -> UnreadableImageError:
    """Make the error of a file that cannot be read as an image.

    Args:
        path (Any): The file.
        error (Exception, optional): What the decoder said.
    """
    lines = str(error).strip().splitlines() if error is not None else []
    said = f" ({type(error).__name__}: {lines[0]})" if lines and str(path) not in lines[0] else ""
    return UnreadableImageError(
        f"{path} cannot be read as an image{said}: it is empty, damaged, or of another kind. Replace the file, or take "
        "it out of the data set's list"
    )


def patch_image_loading() -> None:
    """Lets MMCV's transforms name the file that they cannot decode."""
    from mmcv.transforms import LoadAnnotations, LoadImageFromFile

    patch(LoadImageFromFile, "transform", name_file("img_path"))
    patch(LoadAnnotations, "_load_seg_map", name_file("seg_map_path"))
