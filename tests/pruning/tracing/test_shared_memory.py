"""Tensors that share memory are found, and their elements told apart."""

import torch

from mmkdprune.pruning.tracing.shared_memory import ElementMap, SharedMemory, geometry, same_place


def test_views_are_found_however_they_were_made():
    memory = SharedMemory()
    tensor = torch.zeros(2, 4, 3, 3)
    views = [tensor[:, :2], tensor.data, tensor.detach().flatten(1), torch.from_numpy(tensor.numpy())]
    assert memory.note(tensor)
    assert all(memory.note(view) for view in views)
    assert not memory.note(tensor)
    assert {id(other) for other in memory.others(tensor)} == {id(view) for view in views}
    assert memory.others(tensor.clone()) == []


def test_freed_tensors_are_forgotten():
    memory = SharedMemory()
    tensor = torch.zeros(4)
    view = tensor[:2]
    memory.note(tensor)
    memory.note(view)
    del view
    assert memory.others(tensor) == []


def test_tensors_without_memory_of_their_own_are_left_out():
    memory = SharedMemory()
    sparse = torch.eye(3).to_sparse()
    assert not memory.note(sparse)
    assert memory.others(sparse) == []


def test_same_place():
    tensor = torch.zeros(2, 4, 3, 3)
    assert same_place(tensor, tensor.data)
    assert not same_place(tensor, tensor[:, :2])
    assert not same_place(tensor[:, :2], tensor[:, 2:])
    assert geometry(tensor.half()) != geometry(tensor)


def test_what_is_written_through_one_view_is_read_through_another():
    tensor = torch.zeros(2, 4, 3)
    elements = ElementMap(tensor)
    elements.write(tensor[:, :2], torch.tensor([7, 8]).view(1, 2, 1).expand(2, 2, 3), True)
    labels, zero = elements.read(tensor)
    assert labels[:, :, 0].tolist() == [[7, 8, ElementMap.CONSTANT, ElementMap.CONSTANT]] * 2
    assert zero[0, :, 0].tolist() == [True, True, False, False]
    elements.write(tensor[:, 1:3], ElementMap.LOST, False)
    labels, zero = elements.read(tensor.transpose(1, 2))
    assert labels[0, 0].tolist() == [7, ElementMap.LOST, ElementMap.LOST, ElementMap.CONSTANT]
    assert zero[0, 0].tolist() == [True, False, False, False]
