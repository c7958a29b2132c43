"""What the scripts in ``tools/dataset_converters`` share: command line, checks, and the lists that they write."""

import argparse
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mmkdprune.checkpoint.atomic import atomic_write
from mmkdprune.config.data_sources import SOURCES, what_to_do
from mmkdprune.errors import UsageError

from .command_line import readable_errors

Sample = tuple[str, int]  # path relative to the root, label
SHOWN_CLASSES = 3


class ImageLists(NamedTuple):
    """The images of a data set by split, and the names of its classes.

    Args:
        splits (dict[str, list[tuple[str, int]]]): Path relative to the root and label of every image.
        classes (list[str]): Name of each label.
    """

    splits: dict[str, list[Sample]]
    classes: list[str]


def parser_for(name: str, description: str) -> argparse.ArgumentParser:
    """Make a converter's parser with the arguments that all converters have.

    Args:
        name (str): Key of ``SOURCES``.
        description (str): What is written.

    Returns:
        argparse.ArgumentParser: With ``root``, ``--overwrite`` and ``--debug``.
    """
    source = SOURCES[name]
    parser = argparse.ArgumentParser(
        description=f"{source.title}: {description}",
        epilog=source.download.format(root="ROOT") + ".",
        allow_abbrev=False,
    )
    parser.add_argument("root", nargs="?", default=source.root, help=f"folder of the data set (default: {source.root})")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier conversion wrote")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of every error")
    return parser


def convert_to_lists(name: str, read: Callable[[Path], ImageLists], expected: Mapping[str, int]) -> None:
    """Run a converter: read the official lists, check them, and write ``meta/*.txt`` in the data set's folder.

    Each file has one ``path label`` a line, as MMPretrain's ``CustomDataset`` reads it; ``classes.txt`` has one name a
    line. All files are written or none, and earlier ones are replaced only with ``--overwrite``. No image is touched.

    Args:
        name (str): Key of ``SOURCES``.
        read (Callable[[Path], ImageLists]): Reads the official files in a folder.
        expected (Mapping[str, int]): Number of images of each split of the official set.
    """
    parser = parser_for(name, "write lists of images and labels (meta/*.txt) from the official ones")
    parser.add_argument("--partial", action="store_true", help="accept a part of the set; absent images are left out")
    args = parser.parse_args()
    with readable_errors(args.debug):
        root = Path(args.root)
        if not root.is_dir():
            raise UsageError(f"{SOURCES[name].title}: there is no folder {root}. {what_to_do(name, root)}")
        lists = read(root)
        present = _present(name, root, lists, args.partial)
        _check_numbers(name, present, expected, args.partial)
        write_lists(root / "meta", ImageLists(present, lists.classes), args.overwrite)
        for split, samples in present.items():
            print(f"{root / 'meta' / split}.txt: {len(samples):,} images")
        shown = ", ".join(lists.classes[:SHOWN_CLASSES]) + (", ..." if len(lists.classes) > SHOWN_CLASSES else "")
        print(f"{root / 'meta' / 'classes.txt'}: {len(lists.classes)} classes ({shown})")


def write_lists(folder: Path, lists: ImageLists, overwrite: bool = False) -> None:
    """Write the lists, all or none.

    Args:
        folder (Path): Where; created if it is missing.
        lists (ImageLists): What.
        overwrite (bool): Replace files that are there. Defaults to False.

    Raises:
        UsageError: A file is there already.
    """
    texts: dict[str, Iterable[str]] = {
        split: (f"{path} {label}" for path, label in samples) for split, samples in lists.splits.items()
    }
    texts["classes"] = lists.classes
    paths = {stem: folder / f"{stem}.txt" for stem in texts}
    found = [str(path) for path in paths.values() if path.exists()]
    if found and not overwrite:
        raise UsageError(f"{found[0]} exists already: add --overwrite to replace it")
    with contextlib.ExitStack() as stack:  # they take their places when the last one is complete
        streams = {stem: stack.enter_context(atomic_write(path, "w", "utf-8")) for stem, path in paths.items()}
        for stem, lines in texts.items():
            streams[stem].writelines(f"{line}\n" for line in lines)


def official_file(name: str, root: Path, *candidates: str) -> Path:
    """Return the first of several places of an official file that exists.

    Args:
        name (str): Key of ``SOURCES``.
        root (Path): Folder of the data set.
        *candidates (str): Paths relative to it, files or folders.

    Returns:
        Path: The file or folder.

    Raises:
        UsageError: None exists; says what to download and where to put it.
    """
    for candidate in candidates:
        if (root / candidate).exists():
            return root / candidate
    places = " or ".join(str(root / candidate) for candidate in candidates)
    download = SOURCES[name].download.format(root=root)
    raise UsageError(f"{SOURCES[name].title}: there is no {places}. {download}; then repeat the command.")


def read_mat(name: str, path: Path, *fields: str) -> list[list]:
    """Read arrays of a MATLAB file; unlike a pickle it holds data only.

    Args:
        name (str): Key of ``SOURCES``.
        path (Path): The file.
        *fields (str): Names of the variables.

    Returns:
        list[list]: The elements of each variable: numbers, strings, or dicts for structs.

    Raises:
        UsageError: The file cannot be read or lacks a variable, or SciPy is missing.
    """
    try:
        from scipy.io import loadmat
    except ImportError:
        raise UsageError(f"{path} is a MATLAB file, which SciPy reads: pip install scipy") from None
    try:
        variables = loadmat(str(path), simplify_cells=True)
        # SciPy unpacks arrays of one element
        return [
            list(value) if hasattr(value, "__len__") and not isinstance(value, dict | str) else [value]
            for value in map(variables.__getitem__, fields)
        ]
    except OSError:
        raise
    except Exception as error:  # whatever SciPy stumbles over in a file that is none of MATLAB's
        raise UsageError(
            f"{SOURCES[name].title}: {path} is damaged or not the official file ({type(error).__name__}: {error}): "
            "download it again (a web page that was saved in its place looks like this)"
        ) from None


def _present(name: str, root: Path, lists: ImageLists, partial: bool) -> dict[str, list[Sample]]:
    """Leave images out that are not there, or refuse to."""
    present = {
        split: [sample for sample in samples if (root / sample[0]).is_file()] for split, samples in lists.splits.items()
    }
    listed = sum(map(len, lists.splits.values()))
    absent = listed - sum(map(len, present.values()))
    if absent and not partial:
        every = (path for samples in lists.splits.values() for path, _ in samples)
        first = next(path for path in every if not (root / path).is_file())
        raise UsageError(
            f"{SOURCES[name].title}: {absent:,} of the {listed:,} images that the lists name are not there, the first "
            f"is {root / first}: unpack the images again, or add --partial to leave them out"
        )
    return present


def _check_numbers(
    name: str, splits: Mapping[str, Sequence[Sample]], expected: Mapping[str, int], partial: bool
) -> None:
    for split, number in expected.items():
        if len(splits[split]) != number and not partial:
            raise UsageError(
                f"{SOURCES[name].title}: the official set has {number:,} images in split {split!r}, this one "
                f"{len(splits[split]):,}: download it again, or add --partial if it is meant to be a part"
            )
        if not splits[split]:
            raise UsageError(f"{SOURCES[name].title}: there is no image of split {split!r} at all")
