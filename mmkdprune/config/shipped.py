"""The configs that come with this package."""

from pathlib import Path

from mmkdprune import version

LINEAR, FEW_SHOT = "linear", "few-shot"


def configs_folder() -> Path:
    """Where this package's configs are: in a checkout beside it, in an installed wheel inside of it."""
    package = Path(version.__file__).resolve().parent
    beside = package.parent / "configs"
    return beside if (beside / "_base_").is_dir() else package / ".mim" / "configs"


def config_name(config: str | Path) -> str:
    """How a user at this place names a config of this package: relative to the working directory, else ``package::``.

    Args:
        config (str | Path): Below ``configs``.
    """
    file, here = configs_folder() / config, Path.cwd()
    if file.is_relative_to(here):
        return str(file.relative_to(here))
    return f"mmkdprune::{config}"


def known_data(kind: str) -> dict[str, Path]:
    """Short names of data sets for an evaluation, and the configs they stand for.

    Those of linear evaluation are the last part of a config's name in ``configs/linear_eval``.

    Args:
        kind (str): ``'linear'`` or ``'few-shot'``.

    Returns:
        dict[str, Path]: Sorted by name.
    """
    if kind == LINEAR:
        files = sorted((configs_folder() / "linear_eval").glob("*.py"))
        return {file.stem.rpartition("_")[2]: file for file in files}
    files = sorted((configs_folder() / "_base_" / "datasets").glob(f"*_{kind}.py"))
    return {file.stem.removesuffix(f"_{kind}"): file for file in files}
