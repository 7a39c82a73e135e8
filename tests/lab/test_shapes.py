"""The drawn dataset: the same at every drawing, true to its pixels, and readable by mmdet and mmseg."""

import json
from pathlib import Path

import numpy as np
import pytest
from lab.shapes import CLASSES, ShapesSettings, command, make_dataset, photographs, scene, writing
from lab.shapes.outlines import draw_outline
from lab.shapes.textures import TEXTURES
from matplotlib.path import Path as Polygon
from mmengine.config import Config
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from adapters.openmmlab.data_check import check_dataset

REPOSITORY = Path(__file__).parents[2]
SETTINGS = ShapesSettings(train=16, val=12, seed=1, size_range=(96, 160))
RECIPES = sorted(REPOSITORY.glob("configs/*/*_shapes.py"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "shapes"
    assert make_dataset(out, SETTINGS)
    return out


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def instances(root, split):
    """Each image's record, its label map, and its annotations with decoded masks."""
    coco = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
    for image in coco["images"]:
        labels = np.asarray(Image.open(root / "annotations" / split / image["file_name"].replace("jpg", "png")))
        found = [note for note in coco["annotations"] if note["image_id"] == image["id"]]
        yield image, labels, [(note, coco_mask.decode(note["segmentation"]).astype(bool)) for note in found]


# Drawing -------------------------------------------------------------------------------------------------


def star(points, inner):
    angles = np.arange(2 * points) * np.pi / points
    radii = np.where(np.arange(2 * points) % 2, inner, 1.0)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)


@pytest.mark.parametrize(("points", "inner"), [(5, 0.4), (3, 0.5), (4, 0.8)])
def test_a_radial_outline_is_its_polygon(points, inner):
    from lab.shapes.outlines import _radial

    x, y = np.meshgrid(np.linspace(-1.1, 1.1, 201), np.linspace(-1.1, 1.1, 201))
    reference = Polygon(star(points, inner)).contains_points(np.stack([x.ravel(), y.ravel()], 1))
    assert (_radial(points, inner)(x, y).ravel() != reference).mean() < 1e-3  # points on the edge may differ


@pytest.mark.parametrize("name", CLASSES)
def test_an_outline_touches_the_unit_circle_and_stays_inside(name):
    x, y = np.meshgrid(np.linspace(-1.2, 1.2, 241), np.linspace(-1.2, 1.2, 241))
    for seed in range(8):
        inside = draw_outline(name, np.random.default_rng(seed))(x, y)
        radius = np.hypot(x, y)[inside]
        assert 0.97 < radius.max() <= 1 + 1e-9
        assert 0.15 < inside.sum() * 0.01**2 < np.pi


def test_textures_fill_every_point_with_a_colour():
    x, y = np.meshgrid(np.linspace(-1, 1, 20), np.linspace(-1, 1, 30))
    first, second = np.array([10.0, 20, 30]), np.array([200.0, 100, 0])
    for make in TEXTURES:
        colours = make(first, second, np.random.default_rng(0))(x, y)
        assert colours.shape == (30, 20, 3)
        assert (colours >= np.minimum(first, second)).all()
        assert (colours <= np.maximum(first, second)).all()


# The files -----------------------------------------------------------------------------------------------


def test_the_same_settings_give_the_same_bytes(dataset, tmp_path):
    assert make_dataset(tmp_path / "again", SETTINGS)
    assert files(tmp_path / "again") == files(dataset)
    assert make_dataset(tmp_path / "other", ShapesSettings(16, 12, 2, (96, 160)))
    first, second = files(dataset), files(tmp_path / "other")
    assert all(first[name] != second[name] for name in first if name.endswith(".jpg"))


def test_more_images_keep_the_first_ones(dataset, tmp_path):
    make_dataset(tmp_path / "few", ShapesSettings(3, 2, 1, (96, 160)))
    few, many = files(tmp_path / "few"), files(dataset)
    pictures = [name for name in few if not name.endswith(".json")]
    assert len(pictures) == 10
    assert all(few[name] == many[name] for name in pictures)


def test_train_and_val_share_no_photograph_and_no_image(dataset):
    assert not set(photographs.PHOTOGRAPHS["train"]) & set(photographs.PHOTOGRAPHS["val"])
    train, val = ({path.read_bytes() for path in (dataset / "images" / split).iterdir()} for split in ("train", "val"))
    assert (len(train), len(val)) == (16, 12)
    assert not train & val


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_are_true_to_the_visible_pixels(dataset, split):
    sizes = set()
    for image, labels, notes in instances(dataset, split):
        with Image.open(dataset / "images" / split / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
        assert labels.shape == (image["height"], image["width"])
        assert 96 <= min(labels.shape) <= max(labels.shape) <= 160
        sizes.add(labels.shape)
        assert len(notes) >= 1
        expected, claimed = np.zeros_like(labels), np.zeros(labels.shape, int)
        for note, mask in notes:
            rows, columns = np.nonzero(mask)
            assert note["bbox"] == [
                columns.min(),
                rows.min(),
                columns.max() - columns.min() + 1,
                rows.max() - rows.min() + 1,
            ]
            assert note["area"] == mask.sum() >= scene.MIN_VISIBLE_PIXELS
            assert note["iscrowd"] == 0
            expected[mask] = note["category_id"]
            claimed += mask
        assert claimed.max() == 1
        np.testing.assert_array_equal(labels, expected)
    assert len(sizes) > 8


def test_hidden_parts_belong_to_the_shape_above():
    hidden = 0
    for seed in range(10):
        drawn = scene.draw_scene("train", (96, 160), np.random.default_rng(seed))
        for instance in drawn.instances:
            share = instance.mask.sum() / instance.outline_area
            assert scene.MIN_VISIBLE_SHARE <= share <= 1
            hidden += share < 0.95
    assert hidden > 3


def test_a_shape_is_painted_where_its_mask_says(monkeypatch):
    monkeypatch.setattr(scene, "draw_background", lambda _split, height, width, _rng: np.zeros((height, width, 3)))
    monkeypatch.setattr(scene, "draw_texture", lambda *_: (lambda x, _y: np.full((*x.shape, 3), 255.0), 1.0))
    drawn = scene.draw_scene("val", (96, 160), np.random.default_rng(3))
    bright, masked = drawn.image.mean(2) > 200, drawn.label_map() > 0
    assert masked.mean() > 0.05
    assert (bright & ~masked).sum() < 0.02 * masked.sum()  # the outlines' edges are soft
    assert (masked & (drawn.image.mean(2) < 80)).sum() == 0


def test_every_class_is_in_the_default_validation_split_often(tmp_path):
    make_dataset(tmp_path / "shapes", ShapesSettings(train=1, val=ShapesSettings().val))
    coco = COCO(tmp_path / "shapes/annotations/instances_val.json")
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert all(len(coco.getAnnIds(catIds=category)) >= 20 for category in coco.getCatIds())


def test_small_objects_have_the_sides_that_are_asked_for(tmp_path):
    make_dataset(tmp_path / "small", ShapesSettings(6, 4, 0, (96, 160), object_sides=(4, 12)))
    sides, counts = [], []
    for split in ("train", "val"):
        for _, labels, notes in instances(tmp_path / "small", split):
            counts.append(len(notes))
            sides += [side for note, _ in notes for side in note["bbox"][2:]]
            assert labels.astype(bool).sum() == sum(mask.sum() for _, mask in notes)  # none hides another
    assert 4 <= min(sides) <= 5
    assert 11 <= max(sides) <= 12
    assert min(counts) >= 1
    assert max(counts) > scene.MOST
    with pytest.raises(ValueError, match=r"object_sides \[4, 12\] instead of None"):
        make_dataset(tmp_path / "small", ShapesSettings(6, 4, 0, (96, 160)))


# A folder is complete or absent --------------------------------------------------------------------------


def test_a_complete_dataset_is_left_alone_and_others_are_not_overwritten(tmp_path):
    out = tmp_path / "deep" / "shapes"
    small = ShapesSettings(2, 1, 0, (64, 80))
    assert make_dataset(out, small)
    before = files(out)
    assert not make_dataset(out, small)
    other = ShapesSettings(2, 1, 5, (64, 80))
    with pytest.raises(ValueError, match=r"other settings \(seed 0 instead of 5\).*--overwrite"):
        make_dataset(out, other)
    assert files(out) == before
    assert make_dataset(out, other, overwrite=True)
    assert json.loads((out / "settings.json").read_text())["seed"] == 5
    assert [path.name for path in out.parent.iterdir()] == ["shapes"]


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is no dataset of shapes"):
        make_dataset(tmp_path, SETTINGS, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return scene.draw_scene(*args)

    monkeypatch.setattr(writing, "draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_dataset(tmp_path / "shapes", SETTINGS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": 0}, "train=0 images: at least 1"),
        ({"val": -3}, "val=-3 images: at least 1"),
        ({"seed": -1}, "seed=-1 must be 0 or more"),
        ({"size_range": (200, 100)}, r"size_range=200 100 .*the smaller one first, both within 64\.\.1024"),
        ({"object_sides": (4, 5)}, r"object_sides=4 5 must be two sides .*within 4\.\.32, the second at least twice"),
        ({"size_range": (16, 100)}, r"size_range=16 100 .*64\.\.1024"),
    ],
)
def test_bad_settings_say_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShapesSettings(**arguments)


def test_missing_photographs_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "photograph_folder", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no nowhere\.png .*constraints\.txt"):
        photographs.load_photograph("nowhere.png")


def test_a_missing_scikit_image_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(photographs.util, "find_spec", lambda _name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install scikit-image"):
        make_dataset(tmp_path / "shapes", SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path, capsys):
    def run(*options):
        assert command.main(["--out", str(tmp_path / "shapes"), *options]) == 0
        return capsys.readouterr()

    few = ["--train", "2", "--val", "1", "--size-range", "64", "96"]
    out, err = run(*few)
    assert "drawn, 2 images to train on and 1 to validate on" in out
    assert "3/3" in err
    assert "there already" in run(*few).out
    with pytest.raises(ValueError, match=r"seed 0 instead of 9.*--overwrite"):
        run(*few, "--seed", "9")
    assert "drawn, " in run(*few, "--seed", "9", "--overwrite").out


# Configs -------------------------------------------------------------------------------------------------


def config_at(path, root):
    """A recipe whose data is read from another place, without worker processes."""
    cfg = Config.fromfile(path)
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        cfg[loader].dataset.data_root = str(root)
        cfg[loader].num_workers = 0
        cfg[loader].persistent_workers = False
    if "ann_file" in cfg.val_evaluator:
        cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = str(root / "annotations/instances_val.json")
    return cfg


def test_recipes_are_found():
    assert len(RECIPES) >= 8


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_missing_data_is_named_with_the_command_that_makes_it(path, tmp_path, dataset):
    cfg = config_at(path, tmp_path / "absent")
    with pytest.raises(FileNotFoundError) as caught:
        check_dataset(cfg)
    assert f"{tmp_path}/absent does not exist" in str(caught.value)
    assert "train_dataloader.dataset.data_root" in str(caught.value)
    assert f"`python tools/make_shapes.py --out {tmp_path}/absent`" in str(caught.value)
    check_dataset(config_at(path, dataset))


def test_mmdet_reads_boxes_and_masks(dataset):
    from mmdet.registry import DATASETS
    from mmdet.utils import register_all_modules

    register_all_modules()
    cfg = config_at(REPOSITORY / "configs/detection/mask-rcnn_twins-svt-s_fpn_2k_shapes.py", dataset)
    cfg.train_dataloader.dataset.pipeline[2:4] = []  # neither resized nor flipped
    coco = DATASETS.build(cfg.train_dataloader.dataset)
    assert coco.metainfo["classes"] == CLASSES
    assert len(coco.metainfo["palette"]) == len(CLASSES)
    assert len(coco) == 16
    expected = list(instances(dataset, "train"))
    for sample, (image, _, notes) in zip(coco, expected, strict=True):
        assert sample["inputs"].shape == (3, image["height"], image["width"])
        truth = sample["data_samples"].gt_instances
        assert truth.labels.tolist() == [note["category_id"] - 1 for note, _ in notes]
        np.testing.assert_array_equal(truth.masks.masks.astype(bool), np.stack([mask for _, mask in notes]))
        left, top, right, bottom = truth.bboxes.tensor.T
        boxes = np.stack([left, top, right - left, bottom - top], 1)
        np.testing.assert_array_equal(boxes, [note["bbox"] for note, _ in notes])


def test_mmseg_reads_label_maps(dataset):
    from mmseg.registry import DATASETS
    from mmseg.utils import register_all_modules

    register_all_modules()
    cfg = config_at(REPOSITORY / "configs/segmentation/fpn_swinv2-cr-tiny_demo_shapes.py", dataset)
    semantic = DATASETS.build(cfg.val_dataloader.dataset)
    assert semantic.metainfo["classes"] == ("background", *CLASSES)
    assert len(semantic.metainfo["palette"]) == 1 + len(CLASSES)
    assert len(semantic) == 12
    for sample, (image, labels, _) in zip(semantic, instances(dataset, "val"), strict=True):
        assert sample["inputs"].shape == (3, image["height"], image["width"])
        np.testing.assert_array_equal(sample["data_samples"].gt_sem_seg.data[0], labels)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_channels_of_a_recipe_are_those_of_its_backbone(path):
    import torch

    import adapters

    cfg = Config.fromfile(path).model
    backbone = dict(cfg.backbone)
    assert backbone.pop("type") == "TimmAdapter"
    with torch.device("meta"):
        levels = adapters.TimmAdapter(**backbone).levels
    # RetinaNet's FPN begins at stride 8; a pyramid made for it makes no other map.
    expected = [8, 16, 32] if "pyramid" in backbone and cfg.type == "RetinaNet" else [4, 8, 16, 32]
    assert [level.stride for level in levels] == expected
    fed = cfg.neck if "neck" in cfg else cfg.decode_head
    assert list(fed.in_channels) == [level.channels for level in levels]
    if "auxiliary_head" in cfg:
        assert cfg.auxiliary_head.in_channels == levels[cfg.auxiliary_head.in_index].channels
    heads = (cfg.get("bbox_head"), cfg.get("decode_head"), cfg.get("roi_head", {}).get("bbox_head"))
    classes = [head.num_classes for head in heads if head]
    assert classes == [len(CLASSES) + ("decode_head" in cfg)]
