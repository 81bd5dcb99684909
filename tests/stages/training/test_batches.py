"""Batches against crops and flips cut out with plain numpy. A label is its image's number, so each crop is known."""

import numpy as np
import pytest
import torch

from stages.config import InputError
from stages.data.images import ImageSet
from stages.stage import Worker
from stages.training.batches import Batches, pixels, to_tensor
from stages.training.config import Augmentation

CPU = torch.device("cpu")


def numbered_images(count, height=5, width=6, channels=3):
    images = np.random.default_rng(count).integers(1, 256, (count, height, width, channels), dtype=np.uint8)
    return ImageSet(images, np.arange(count), np.arange(count) + 100)


def epoch(images, batch_size, augmentation, seed=0):
    batches = Batches(images, batch_size, augmentation, CPU).epoch(np.random.default_rng(seed))
    parts = [(pixels(batch.images), batch.labels) for batch in batches]
    return torch.cat([inputs for inputs, _ in parts]), torch.cat([labels for _, labels in parts])


def all_crops(image, pad, flip):
    """{bytes of a crop: (top, left, flipped)} of one image [H, W, C], by slicing."""
    height, width, _ = image.shape
    black = np.zeros((height + 2 * pad, width + 2 * pad, image.shape[2]), np.uint8)
    black[pad : pad + height, pad : pad + width] = image
    crops = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            crop = black[top : top + height, left : left + width]
            crops[crop.tobytes()] = (top, left, False)
            if flip:
                crops[crop[:, ::-1].tobytes()] = (top, left, True)
    return crops


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(8, 4, [4, 4]), (10, 4, [4, 4, 2]), (9, 4, [4, 5]), (3, 4, [3]), (5, 4, [5]), (1, 4, [1])],
)
def test_an_epoch_is_every_image_once_and_a_last_batch_of_one_joins(count, batch_size, sizes):
    batches = Batches(numbered_images(count), batch_size, Augmentation(), CPU)
    for seed in range(3):
        labels = [batch.labels.numpy() for batch in batches.epoch(np.random.default_rng(seed))]
        assert [len(part) for part in labels] == sizes and len(batches) == len(sizes)
        assert sorted(np.concatenate(labels)) == list(range(count))


@pytest.mark.parametrize(("pad", "flip"), [(0, False), (0, True), (2, False), (2, True)])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_is_one_of_its_crops_and_every_crop_occurs(pad, flip, channels):
    images = numbered_images(40, channels=channels)
    crops = [all_crops(image, pad, flip) for image in images.images]
    seen = []
    for seed in range(20):
        inputs, labels = epoch(images, 16, Augmentation(flip=flip, pad=pad), seed)
        assert inputs.dtype == torch.float32 and inputs.shape == (40, channels, 5, 6)
        whole = (inputs * 255).round().byte().permute(0, 2, 3, 1).numpy()
        assert torch.equal(inputs, torch.from_numpy(whole).permute(0, 3, 1, 2) / 255)
        for crop, label in zip(whole, labels, strict=True):
            seen.append(crops[label][crop.tobytes()])  # KeyError: no crop of this image
    occurs = {draw: seen.count(draw) for draw in sorted(set(seen))}
    expected = (2 * pad + 1) ** 2 * (2 if flip else 1)
    assert len(occurs) == expected
    # 800 draws: at most 5 standard deviations from uniform
    mean = 800 / expected
    assert all(abs(times - mean) <= 5 * np.sqrt(mean) for times in occurs.values())


def test_an_epoch_is_a_function_of_its_seed():
    images = numbered_images(30)
    first, again, other = (epoch(images, 8, Augmentation(pad=1), seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_the_batch_size_does_not_change_an_epochs_draws():
    images = numbered_images(31)
    for small, large in zip(epoch(images, 4, Augmentation(pad=1)), epoch(images, 31, Augmentation(pad=1)), strict=True):
        assert torch.equal(small, large)


@pytest.mark.parametrize("pad", [0, 2])
def test_read_only_images_are_taken_and_left_as_they_are(pad):
    images = numbered_images(6)
    before = images.images.copy()
    images.images.setflags(write=False)
    images.labels.setflags(write=False)
    inputs, _ = epoch(images, 4, Augmentation(flip=True, pad=pad))
    inputs.zero_()
    assert np.array_equal(images.images, before)


@pytest.mark.parametrize("workers", [2, 3, 4])
@pytest.mark.parametrize("count", [24, 25, 31])
def test_workers_share_the_batches_of_one(workers, count):
    images, augmentation = numbered_images(count), Augmentation(pad=1)

    def batches(rank, of):
        loader = Batches(images, 8, augmentation, CPU, worker=Worker(rank, of), threads=2)
        return [
            dict(zip(b.ids.tolist(), pixels(b.images), strict=True)) for b in loader.epoch(np.random.default_rng(5))
        ]

    alone = batches(0, 1)
    shares = [batches(rank, workers) for rank in range(workers)]
    assert len({len(share) for share in shares}) == 1, "every worker takes the same number of steps"
    seen = [identifier for share in shares for part in share for identifier in part]
    assert sorted(seen) == (np.arange(count) + 100).tolist(), "no image lost, none seen twice"
    assert [sum(len(share[number]) for share in shares) for number in range(len(alone))] == [len(b) for b in alone]
    sizes = [[len(share[number]) for share in shares] for number in range(len(alone))]
    assert all(max(parts) - min(parts) <= 1 for parts in sizes)
    crops = {identifier: crop for part in alone for identifier, crop in part.items()}
    assert all(torch.equal(crop, crops[i]) for share in shares for part in share for i, crop in part.items())


@pytest.mark.parametrize(("count", "batch_size", "workers"), [(40, 2, 4), (40, 4, 4), (5, 64, 4)])
def test_a_worker_without_two_images_of_a_batch_is_refused(count, batch_size, workers):
    with pytest.raises(ValueError, match="each needs two"):
        Batches(numbered_images(count), batch_size, Augmentation(), CPU, worker=Worker(0, workers))


def test_a_worker_may_get_no_image_of_the_last_batch():
    loader = Batches(numbered_images(18), 8, Augmentation(), CPU, worker=Worker(3, 4))
    found = [(len(batch.images), len(batch.labels), batch.total) for batch in loader.epoch(np.random.default_rng(0))]
    assert found == [(2, 2, 8), (2, 2, 8), (0, 0, 2)]


@pytest.mark.parametrize(("count", "groups", "sizes"), [(20, 2, [8, 8, 4]), (19, 2, [8, 11]), (27, 4, [8, 8, 11])])
def test_every_batch_has_two_images_for_each_group(count, groups, sizes):
    loader = Batches(numbered_images(count), 8, Augmentation(), CPU, groups=groups)
    assert [batch.total for batch in loader.epoch(np.random.default_rng(0))] == sizes


def test_too_few_images_for_the_groups_are_refused():
    with pytest.raises(InputError, match=r"batch_norm_groups is 4, and the batches have 7 images"):
        Batches(numbered_images(7), 8, Augmentation(), CPU, groups=4)


@pytest.mark.parametrize("first", [1, 2, 3])
def test_an_epoch_may_begin_at_any_batch(first):
    images = numbered_images(30)

    def batches(begin):
        loader = Batches(images, 8, Augmentation(pad=1), CPU).epoch(np.random.default_rng(4), begin)
        return [(batch.images.clone(), batch.ids) for batch in loader]

    whole, rest = batches(0), batches(first)
    assert len(rest) == len(whole) - first > 0
    for ours, theirs in zip(rest, whole[first:], strict=True):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


def test_what_threads_read_is_what_one_reads():
    images = numbered_images(40)
    one, three = (
        [
            batch.images.clone()
            for batch in Batches(images, 7, Augmentation(), CPU, threads=threads).epoch(np.random.default_rng(0))
        ]
        for threads in (1, 3)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


def test_a_tensor_of_images_is_channels_last():
    images = numbered_images(3).images
    tensor = to_tensor(images)
    assert torch.equal(tensor, torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    assert tensor.is_contiguous(memory_format=torch.channels_last)
