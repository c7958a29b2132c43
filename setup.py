"""The build of mmkdprune. Its one peculiarity: configs, tools and model-index.yml become ``mmkdprune/.mim``.

That is where MIM and ``_base_ = ['mmkdprune::...']`` look for them.
"""

import os
import runpy
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM_ENTRIES = ("configs", "tools", "model-index.yml")


def read_requirements(name: str) -> list[str]:
    """Return the requirements of ``requirements/<name>.txt`` and of the files that it names, without comments."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    found: list[str] = []
    for line in filter(None, (line.partition("#")[0].strip() for line in lines)):
        if line.startswith("-r "):
            found += read_requirements(line[3:].strip().removesuffix(".txt"))
        else:
            found.append(line)
    return found


class BuildPyWithMim(build_py):
    """Puts ``mmkdprune/.mim`` into a wheel as files, and into the source tree as links for an editable install."""

    def run(self) -> None:
        """Build the package, then its ``.mim`` folder."""
        if self.editable_mode:
            super().run()
            self.link_mim(ROOT / "mmkdprune" / ".mim")
            return
        # setuptools keeps build/lib between builds: what was renamed or deleted since would reach the wheel.
        package = Path(self.build_lib) / "mmkdprune"
        shutil.rmtree(package, ignore_errors=True)
        super().run()
        for entry in MIM_ENTRIES:
            source, target = ROOT / entry, package / ".mim" / entry
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.py[cod]", ".*"))
            else:
                shutil.copy2(source, target)

    @staticmethod
    def link_mim(folder: Path) -> None:
        """Make ``folder`` a directory of relative links to the entries, so that a moved checkout stays whole."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for entry in MIM_ENTRIES:
            (folder / entry).symlink_to(os.path.relpath(ROOT / entry, folder))


EXTRAS = ("openmmlab", "det", "seg", "onedl", "prune", "onnx", "tensorboard", "dev")
extras = {name: read_requirements(name) for name in EXTRAS}

setup(
    name="mmkdprune",
    version=runpy.run_path(str(ROOT / "mmkdprune" / "version.py"))["__version__"],
    description="Knowledge distillation and filter pruning for OpenMMLab backbones",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="mmkdprune contributors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    # torch and the OpenMMLab packages are extras on purpose: a hard requirement would put upstream over a user's fork.
    # mmkdprune/compat/versions.py checks them at import instead.
    install_requires=["numpy", "wrapt"],
    extras_require=extras,
    packages=find_packages(include=["mmkdprune", "mmkdprune.*"]),
    package_data={"mmkdprune": ["py.typed"]},
    entry_points={"console_scripts": ["mmkdprune = mmkdprune.cli.main:main"]},
    include_package_data=False,
    zip_safe=False,
    cmdclass={"build_py": BuildPyWithMim},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
