import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from mmkdprune.commands.command_line import readable_errors
from mmkdprune.compat.unreadable_images import UnreadableImageError

BROKEN = {
    "empty.png": b"",
    "text.png": b"this is not a picture",
    "cut.jpg": None,
}


def broken_file(folder, name):
    file = folder / name
    if BROKEN[name] is not None:
        file.write_bytes(BROKEN[name])
        return file
    Image.fromarray(np.full((40, 40, 3), 7, np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:100])
    return file


@pytest.mark.parametrize("name", list(BROKEN))
@pytest.mark.parametrize("backend", ["cv2", "pillow"])
def test_file_is_named(tmp_path, name, backend):
    file = broken_file(tmp_path, name)
    with pytest.raises(UnreadableImageError, match=f"{file} cannot be read as an image"):
        LoadImageFromFile(imdecode_backend=backend)({"img_path": str(file)})
    assert LoadImageFromFile(imdecode_backend=backend, ignore_empty=True)({"img_path": "/nowhere.png"}) is None


def test_missing_file_stays_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        LoadImageFromFile()({"img_path": str(tmp_path / "nowhere.png")})


class Listed(torch.utils.data.Dataset):
    def __init__(self, file):
        self.file = file

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return LoadImageFromFile()({"img_path": str(self.file)})


def test_message_of_a_worker_is_the_message_alone(tmp_path, capsys):
    loader = torch.utils.data.DataLoader(Listed(broken_file(tmp_path, "text.png")), num_workers=1)
    with pytest.raises(SystemExit), readable_errors():
        next(iter(loader))
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {tmp_path}/text.png cannot be read as an image")
    assert "Traceback" not in printed
    assert "Caught" not in printed
